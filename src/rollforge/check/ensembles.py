"""Measuring the user's own ensembles: whether a day's score depends on later predictions or market data."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.build import describe
from rollforge.check.compare import Difference, compare, until
from rollforge.check.market_copy import TURNS, Change
from rollforge.collect.combine import Ensembles, build_ensembles
from rollforge.dates import as_timestamp, show_time, times_of
from rollforge.generate.checks import Check, CheckMethod, CheckResult
from rollforge.generate.definition import own_classes
from rollforge.plan import Plan
from rollforge.session import Session, using

__all__ = ["ensemble_checks"]

_WINDOWS = 3  # windows in which the predictions are changed
_INSTRUMENTS = 6
_SUBJECT = "ensemble"

Predictions = dict[tuple[str, str], pd.DataFrame]
"""(model, window) -> prediction."""


def ensemble_checks(
    plan: Plan,
    calendar: NDArray[np.datetime64],
    codes: Sequence[str],
    copy: Callable[[Change | None], contextlib.AbstractContextManager[Session]],
) -> list[Check]:
    """Check whether scores up to a day change when only the predictions and market data after it change.

    The predictions are random numbers on the tested days of all windows, because an ensemble accepts any. Ensembles of
    this package are not measured.

    Parameters
    ----------
    plan : Plan
        The tasks, with the ensembles that combine their predictions.
    calendar : array of datetime64[D]
        The trading days.
    codes : sequence of str
        Instruments.
    copy : callable
        Provides the session of a copy of the market.
    """
    own = {part: names for part, one in plan.ensembles.config.items() if (names := own_classes(one))}
    predictions = _predictions(plan, calendar, codes[:_INSTRUMENTS])
    if not own or not predictions:
        return []
    name = " and ".join(dict.fromkeys(name for names in own.values() for name in names))
    days = _changed_days(predictions)
    try:
        with copy(None) as session, using(session):
            before, again = (_combined(plan.ensembles, predictions) for _ in range(2))
        if any(_difference(before, again).values()):
            return [_unknown(f"Called twice with the same predictions, {name} returns different scores.")]
        for turn, day in enumerate(days):
            change = Change(day, turn % TURNS)
            with copy(change) as session, using(session):
                after = _combined(plan.ensembles, _changed(predictions, change))
            for where, found in _difference(before, after, day).items():
                if found is not None:
                    only = f"only predictions and market data after {show_time(day)}"
                    text = f"{name} looks ahead: of {where}, {found}, when {only} change."
                    advice = "Compute a day's score from the predictions of that day and earlier days."
                    return [
                        Check(_SUBJECT, CheckResult.LEAK, CheckMethod.MEASURED, text, advice, days=(show_time(day),))
                    ]
    except Exception as exc:  # noqa: BLE001 - user code; the result is then not known
        return [_unknown(f"{name} failed on random predictions: {describe(exc)}")]
    text = f"The scores of {name} are the same up to each day when all later predictions and market data change."
    return [Check(_SUBJECT, CheckResult.CLEAN, CheckMethod.MEASURED, text, days=tuple(sorted(map(str, days))))]


def _unknown(text: str) -> Check:
    return Check(_SUBJECT, CheckResult.UNKNOWN, CheckMethod.MEASURED, text)


def _predictions(plan: Plan, calendar: NDArray[np.datetime64], codes: Sequence[str]) -> Predictions:
    random, made = np.random.default_rng(0), {}
    for window in plan.windows:
        test = window.segments.get("test")
        if test is None:
            continue
        inside = (calendar >= test.start) & (calendar <= test.end)
        index = pd.MultiIndex.from_product(
            [pd.DatetimeIndex(calendar[inside].astype("datetime64[ns]")), list(codes)], names=["datetime", "instrument"]
        )
        made[window.model, window.title] = pd.DataFrame({"score": random.normal(size=len(index))}, index)
    return made


def _changed_days(predictions: Predictions) -> list[np.datetime64]:
    """Return the middle of some windows, and the last day of the first one if others follow."""
    tested = [np.unique(times_of(frame.index.get_level_values("datetime"))) for frame in predictions.values()]
    spans = [times for _, times in sorted({(times[0], times[-1]): times for times in tested}.items())]
    chosen = [spans[i] for i in sorted({round(i) for i in np.linspace(0, len(spans) - 1, _WINDOWS)})]
    return [times[(len(times) - 1) // 2] for times in chosen] + ([spans[0][-1]] if len(spans) > 1 else [])


def _changed(predictions: Predictions, change: Change) -> Predictions:
    """Return the predictions with the scores after a day replaced, and those of some instruments removed."""
    made = {}
    for key, frame in predictions.items():
        later = frame.index.get_level_values("datetime") > as_timestamp(change.after)
        kinds = np.array([change.kind(i) for i in frame.index.get_level_values("instrument").factorize()[0]])
        factor = np.where(kinds == "up", 3.0, -2.0)
        new = frame.assign(score=np.where(later, frame["score"] * factor + 1, frame["score"]))
        made[key] = new[~(later & (kinds == "missing"))]
    return made


def _combined(ensembles: Ensembles, predictions: Predictions) -> dict[str, pd.DataFrame]:
    """Return the joined prediction of each model, and the combined one, from newly built ensembles."""
    models = dict.fromkeys(model for model, _ in predictions)
    most = max(sum(model == name for model, _ in predictions) for name in models)
    new = build_ensembles(ensembles.config, models=len(models), windows=most)
    joined = new.join({key: frame for key, frame in predictions.items() if len(frame)})
    combined = new.combine(joined, models=len(models))
    named = {f"the windows of {name}" if name else "the windows": frame for name, frame in joined.items()}
    return named if combined is None else {**named, "all models": combined}


def _difference(
    a: Mapping[str, pd.DataFrame], b: Mapping[str, pd.DataFrame], day: np.datetime64 | None = None
) -> dict[str, Difference | None]:
    """Return the first difference of each result up to a day."""
    none = next(iter(a.values())).iloc[:0]
    return {name: compare(until(frame, day), until(b.get(name, none), day)) for name, frame in a.items()}
