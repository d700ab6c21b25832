"""Checks of the scores of a day: equal scores, drift since training, and the IC of earlier days as labels become known."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rollforge.dates import Days, read_timestamp
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.ledger.entry import CheckResult, Outcome, Signal
from rollforge.ledger.state import ServiceState
from rollforge.online import signal_files
from rollforge.online.check_rules import Rules
from rollforge.online.update import RMDLoader
from rollforge.record.analysis import calc_ic, evaluated_column, newey_west_t, recorded_labels
from rollforge.record.drift import REFERENCE, feature_names, read_bins, score_values
from rollforge.track.base import Recorder

__all__ = [
    "DAILY_IC",
    "constant_share",
    "daily_ics",
    "drift_and_ic",
    "equal_scores",
    "known_ics",
    "labels_of",
    "mean_ic",
]

_LISTED = 5
"""Number of features that a message lists."""
_MIN_DAYS = 20
"""Minimum number of days for judging the mean IC."""
_MIN_ROWS = 100
"""Minimum number of values to compare with those of the training. Without drift, the index of n values in ten bins is about
9 / n."""
_QUANTILE = 1.96
"""Of the normal distribution, for an interval of 95 %."""
DAILY_IC = "daily_ic"


def constant_share(scores: pd.Series | pd.DataFrame) -> float | None:
    """Return the share of instruments that have the most frequent score of a day; None for fewer than two instruments.

    Missing scores count as equal.

    Examples
    --------
    >>> constant_share(pd.Series([1.0, 1.0, 2.0, np.nan])), constant_share(pd.Series([1.0]))
    (0.5, None)
    """
    values = pd.Series(score_values(scores))
    if len(values) < 2:
        return None
    return float(values.value_counts(dropna=False).iloc[0]) / len(values)


def equal_scores(rules: Rules, day: str, scores: pd.Series | pd.DataFrame) -> list[CheckResult]:
    """Return the result of the check ``constant``."""
    share = constant_share(scores) if "constant" in rules.checks else None
    if share is None:
        return []
    text = f"{round(share * len(scores))} of {len(scores)} instruments have the same score"
    return [rules.result("constant", day, share, text)]


def drift_and_ic(
    rules: Rules, day: str, recorders: Sequence[Recorder], state: ServiceState, folder: Path, calendar: Days
) -> list[CheckResult]:
    """Return the results of the checks of drift, and of the IC of days whose labels have become known.

    A check that cannot be computed is unknown, with the reason; the others do not depend on it.

    Parameters
    ----------
    rules : Rules
        The checks and their limits.
    day : str
        The day; it is the last one with data.
    recorders : sequence of Recorder
        The recorders of the champions of the day.
    state : ServiceState
        The state, which contains the results for earlier days.
    folder : Path
        Folder of the service's files, with the published signals.
    calendar : array
        The trading days up to the day.
    """
    measured: dict[str, list[tuple[float, str, dict[str, object]]]] = {"score_psi": [], "feature_psi": []}
    drift, failures = [name for name in measured if name in rules.checks], dict[str, str]()
    labels = _Labels(rules, state, calendar)
    results: list[CheckResult] = []
    window = max((rules.checks[name].days for name in drift), default=1)
    for place, recorder in enumerate(recorders):
        pending, reference = place == 0 and bool(labels.pending), None
        with _noted(failures, drift, recorder):
            reference = _reference(recorder, rules)
        if reference is None and not pending:
            continue
        segments: dict[str, object] = {"test": (_shifted(calendar, window - 1), day)}
        first = segments["test"]
        if pending:
            segments["labels"] = first = (labels.first, day)
        start = min(str(first[0]), _shifted(calendar, window - 1))  # type: ignore[index]
        with _noted(failures, [*(drift if reference is not None else []), *(["ic"] if pending else [])], recorder):
            loader = RMDLoader(recorder)
            dataset = loader.get_dataset(start, day, segments)
            if reference is not None:
                with _noted(failures, drift, recorder):
                    _add_drift(measured, rules, recorder, reference, dataset, loader)
            if pending:
                with _noted(failures, ["ic"], recorder):
                    results += labels.results(dataset, recorder, folder, rules)
    for name, values in measured.items():
        if values:
            value, text, _ = max(values, key=lambda v: v[0])
            models = {data.pop("recorder"): {"psi": psi, **data} for psi, _, data in values}
            result = rules.result(name, day, value, text, models=models)
            # If one of several models could not be checked, the others may only have found a failure.
            if name not in failures or result.outcome is not Outcome.OK:
                results.append(result)
                failures.pop(name, None)
    return [*results, *(rules.result(name, day, math.nan, text) for name, text in failures.items())]


@contextlib.contextmanager
def _noted(failures: dict[str, str], names: Iterable[str], recorder: Recorder) -> Iterator[None]:
    """Note the first reason why checks could not be computed, instead of raising an exception in a ``with`` block."""
    try:
        yield
    except Exception as exc:  # noqa: BLE001 - the user's own classes, or a damaged recorder; the result says so
        for name in names:
            failures.setdefault(name, f"model {recorder.id}: {type(exc).__name__}: {exc}")


def _shifted(calendar: Days, days: int) -> str:
    """Return the day a number of trading days before the last one, or the first day."""
    return str(calendar[max(len(calendar) - 1 - days, 0)])


def _reference(recorder: Recorder, rules: Rules) -> Mapping[str, object] | None:
    """Return the distribution of a model's training data; None if there is none, or it is not needed."""
    if not {"score_psi", "feature_psi"} & rules.checks.keys() or REFERENCE not in recorder.list_artifacts():
        return None
    reference: Mapping[str, object] = recorder.load_object(REFERENCE)
    return reference


def _add_drift(
    measured: Mapping[str, list[tuple[float, str, dict[str, object]]]],
    rules: Rules,
    recorder: Recorder,
    reference: Mapping[str, Any],
    dataset: DatasetH,
    loader: RMDLoader,
) -> None:
    """Add the population stability indices of a model: of its scores, and of the feature whose index is the largest."""
    who = {"recorder": recorder.id}
    if "score_psi" in rules.checks:
        scores = score_values(loader.get_model().predict(dataset))
        value = read_bins(reference["score"]).psi(scores)
        if len(scores) >= _MIN_ROWS:
            measured["score_psi"].append((value, "", {**who, "rows": len(scores)}))
    if "feature_psi" in rules.checks:
        features = dataset.prepare_rows("test", "feature", DataHandlerLP.DK_I)
        limit, values = rules.checks["feature_psi"].limit, features.to_numpy(np.float64)
        known = reference["features"]
        indices = {
            name: read_bins(known[name]).psi(values[:, place])
            for place, name in enumerate(feature_names(features))
            if name in known and len(values) >= _MIN_ROWS
        }
        if indices:
            worst = sorted(indices, key=lambda name: -indices[name])
            beyond = [name for name in worst if indices[name] > limit]
            share = f"{len(beyond)} of {len(indices)} features beyond the limit: " if beyond else ""
            text = share + ", ".join(f"{name} {indices[name]:.2f}" for name in (beyond or worst)[:_LISTED])
            measured["feature_psi"].append(
                (indices[worst[0]], text, {**who, "rows": len(values), "beyond": len(beyond)})
            )


def daily_ics(scores: pd.Series, label: pd.Series, days: Iterable[str]) -> list[CheckResult]:
    """Return the IC of the scores of days whose labels are known; days without one are left out."""
    normal, ranked = calc_ic(scores, label)
    return [
        CheckResult(DAILY_IC, day, float(value), Outcome.OK, data={"pearson": float(pearson)})
        for day in days
        if math.isfinite(value := ranked.get(read_timestamp(day), math.nan))
        and math.isfinite(pearson := normal.get(read_timestamp(day), math.nan))
    ]


def known_ics(state: ServiceState) -> dict[str, CheckResult]:
    """Return the daily ICs of the days whose signals were not withdrawn, by day."""
    signals = state.signals()
    known = {check.day: check for check in state.final_checks if check.name == DAILY_IC}
    return {day: check for day, check in known.items() if day in signals and signals[day].rows}


def mean_ic(rules: Rules, values: Mapping[str, CheckResult], recorder: Recorder) -> list[CheckResult]:
    """Return the result of the check ``ic`` from the daily ICs by day; none for too few days.

    Parameters
    ----------
    rules : Rules
        The checks and their limits.
    values : mapping
        The daily ICs that are known, by day.
    recorder : Recorder
        The model whose labels they are computed with.
    """
    column, named = evaluated_column(recorder.load_object("task")), recorded_labels(recorder)
    span = (named[column].days if column < len(named) else None) or 1
    last = [v for day in sorted(values)[-rules.checks["ic"].days :] if (v := values[day].value) is not None]
    mean = mean_with_interval(last, span)
    if mean is None:
        return []
    value, low, high = mean
    text = f"mean of {len(last)} days, 95 % interval {low:.3f} to {high:.3f}"
    beyond = high < rules.checks["ic"].limit
    data = {"low": low, "high": high, "days": len(last), "label_days": span}
    return [rules.result("ic", max(values), value, text, beyond=beyond, **data)]


def labels_of(recorder: Recorder, first: str, last: str) -> pd.Series:
    """Return the labels with which the scores of a model are compared, for some days."""
    dataset = RMDLoader(recorder).get_dataset(first, last, {"labels": (first, last)})
    labels = dataset.prepare_rows("labels", "label", DataHandlerLP.DK_R)
    return labels.iloc[:, evaluated_column(recorder.load_object("task"))]


class _Labels:
    """The published days whose IC is not known yet, and the results for those whose labels are."""

    def __init__(self, rules: Rules, state: ServiceState, calendar: Days) -> None:
        self.pending: list[Signal] = []
        self.known = known_ics(state)
        if "ic" not in rules.checks:
            return
        self.first = _shifted(calendar, 2 * rules.checks["ic"].days)
        published = state.signals().values()
        self.pending = [s for s in published if s.rows > 1 and s.day >= self.first and s.day not in self.known]
        if self.pending:
            self.first = self.pending[0].day

    def results(self, dataset: DatasetH, recorder: Recorder, folder: Path, rules: Rules) -> list[CheckResult]:
        """Return the IC of each day whose labels have become known, and the mean over the last days."""
        column = evaluated_column(recorder.load_object("task"))
        labels = dataset.prepare_rows("labels", "label", DataHandlerLP.DK_R)
        label = labels.iloc[:, column]
        ready = [signal for signal in self.pending if _is_known(label, signal)]
        lost = signal_files.unreadable(folder, ready)
        unknown = [CheckResult(DAILY_IC, day, None, Outcome.UNKNOWN, text=text) for day, text in lost.items()]
        scores = signal_files.read(folder, [signal for signal in ready if signal.day not in lost])
        if scores is None:
            return unknown
        if isinstance(scores, pd.DataFrame):
            scores = scores.iloc[:, 0]
        found = daily_ics(scores, label, [signal.day for signal in ready])
        if not found:
            return unknown
        values = {**self.known, **{check.day: check for check in found}}
        return [*unknown, *found, *mean_ic(rules, values, recorder)]


def _is_known(label: pd.Series, signal: Signal) -> bool:
    """Return whether at least half of the instruments with a score have a label."""
    day = read_timestamp(signal.day)
    rows = label[label.index.get_level_values("datetime") == day]
    return 2 * int(np.isfinite(rows.to_numpy(np.float64)).sum()) >= signal.rows


def mean_with_interval(values: Sequence[float], span: int) -> tuple[float, float, float] | None:
    """Return the mean of daily values and the limits of its 95 % interval; None for fewer than 20 days.

    Parameters
    ----------
    values : sequence of float
        In the order of the days.
    span : int
        Number of days that a label spans. Values whose labels overlap are not independent: the standard error is that of
        :func:`~rollforge.record.analysis.newey_west_t`.
    """
    if len(values) < _MIN_DAYS:
        return None
    series = pd.Series(values, dtype=float)
    mean = float(series.mean())
    t = newey_west_t(series - mean + 1, span)  # the error of the mean is that of values with the mean 1
    if not math.isfinite(t) or t == 0:
        return None
    error = _QUANTILE / abs(t)
    return mean, mean - error, mean + error
