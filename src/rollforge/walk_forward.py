"""Walk-forward evaluation of an estimator on a table: ``rollforge.walk_forward``."""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import sys
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import yaml

from rollforge.dates import DayLike, Times, as_timestamp, has_times, show_time, start_position, stop_position
from rollforge.errors import ConfigError, DataError, SegmentError, TrainingFailed, counted, nearest, shown
from rollforge.features.frame_folder import FrameFolder, frame_session, write_frame_folder
from rollforge.generate.offsets import read_length, read_offset
from rollforge.market.user_table import Keys, Table, check_columns, open_table, read_keys
from rollforge.models.base import Model
from rollforge.models.sklearn import NotInModule, describe_estimator, is_classifier, keep_estimator
from rollforge.record.scoring import classification_metrics, regression_metrics
from rollforge.session import Session, current_session, home
from rollforge.task import Document, digest, to_plain
from rollforge.workflow import load_workflow

if TYPE_CHECKING:
    from rollforge.collect.result import Collected
    from rollforge.plan import Plan
    from rollforge.plot import ResultPlots
    from rollforge.report.summary import Summary
    from rollforge.track.base import Experiment

__all__ = ["WalkForward", "walk_forward"]

log = logging.getLogger(__name__)

_SMALL = 2 * 10**7
"""Number of training values below which starting worker processes takes longer than training in this one."""


@dataclass(frozen=True, slots=True)
class Target:
    """What :func:`walk_forward` predicts, and how it is scored."""

    labels: tuple[Any, ...]
    classes: tuple[Any, Any] | None
    """The two classes of a classifier; None for a regression."""

    def metrics(self, prediction: pd.DataFrame, label: pd.DataFrame) -> dict[str, float]:
        """Return the metrics of the first label, on the rows that have both a prediction and a label."""
        scores, known = prediction.iloc[:, 0], label.iloc[:, 0]
        if self.classes is None:
            return regression_metrics(scores, known)
        return classification_metrics(scores, known == self.classes[1], known.notna())


@dataclass(frozen=True)
class WalkForward:
    """The out-of-sample result of :func:`walk_forward`."""

    plan: Plan
    """The tasks."""
    collected: Collected
    """Their joined result, in the same form as for any experiment."""
    keys: Keys = field(repr=False)
    folder: FrameFolder = field(repr=False)
    target: Target = field(repr=False)

    @property
    def prediction(self) -> pd.Series | pd.DataFrame:
        """The prediction of each row that belongs to a test segment, in the order and with the index of the table.

        A series called ``prediction``; with several labels a frame, one column for each. A classifier predicts the
        probability of the larger class.
        """
        found = self._in_order(self.collected.prediction)
        if len(self.target.labels) == 1:
            return found.iloc[:, 0].rename("prediction")
        return found.set_axis(list(self.target.labels), axis=1)

    @property
    def label(self) -> pd.Series | pd.DataFrame:
        """The label of each row of :attr:`prediction`, in the same form."""
        found = self._in_order(self.collected.label)
        if len(self.target.labels) == 1:
            return found.iloc[:, 0].rename(self.target.labels[0])
        return found.set_axis(list(self.target.labels), axis=1)

    @functools.cached_property
    def windows(self) -> pd.DataFrame:
        """One row for each window: first and last day of its segments, its status, the number of predicted rows, and its
        metrics, see :attr:`metrics`.
        """
        prediction, label = self.collected.prediction, self.collected.label
        rows = []
        for window, outcome in zip(self.plan.windows, self.collected.outcomes, strict=True):
            row: dict[str, Any] = {}
            for name, segment in window.segments.items():
                parts = segment.parts
                row[f"{name}_start"] = as_timestamp(parts[0][0])
                row[f"{name}_end"] = as_timestamp(parts[-1][1])
            row["status"] = outcome.task.status.value
            if prediction is not None and label is not None:
                days = slice(row["test_start"], row["test_end"])
                part = prediction.loc[days]
                row["rows"] = len(part)
                row |= self.target.metrics(part, label.loc[days])
            rows.append(row)
        return pd.DataFrame(rows, index=pd.RangeIndex(1, len(rows) + 1, name="window"))

    @functools.cached_property
    def metrics(self) -> pd.Series:
        """The metrics of the whole out-of-sample prediction, for the first label.

        ``ic`` and ``rank_ic`` are means over the days of the correlation between the entities' predictions and labels, and
        NaN with one entity; ``correlation`` is over all rows. For a regression also ``rmse``, ``mae`` and ``r2``, for a
        classifier ``log_loss`` (natural logarithm), ``auc`` and ``brier``.
        """
        if self.collected.prediction is None or self.collected.label is None:
            return pd.Series(dtype=float)
        return pd.Series(self.target.metrics(self.collected.prediction, self.collected.label))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the windows and about the result."""
        return (*self.plan.warnings, *self.collected.coverage.notes, *self.collected.warnings)

    @property
    def session(self) -> Session:
        """The session, with the stores in which the tasks and the runs are."""
        return self.plan.workflow.session

    @property
    def experiment(self) -> Experiment:
        """The experiment with the run of each window."""
        from rollforge.track.base import get_experiment, open_tracker

        return get_experiment(open_tracker(self.session.tracking_uri), experiment_name=self.experiment_name)

    @property
    def experiment_name(self) -> str:
        """The name of the experiment and of the pool of tasks."""
        return self.plan.workflow.experiment_name

    @functools.cached_property
    def summary(self) -> Summary:
        """The figures of the report."""
        return self._summary(None)

    def _summary(self, groups: pd.Series | None) -> Summary:
        from rollforge.report.inputs import report_inputs
        from rollforge.report.summary import summarise

        inputs = report_inputs(
            self.collected, name=self.experiment_name, session=self.session, config=self.plan.workflow.public_text,
            groups=self.row_groups(groups),
        )  # fmt: skip
        return summarise(inputs)

    def report(self, file: str | Path, *, groups: pd.Series | None = None) -> Path:
        """Write the report as one HTML file, and return its path.

        Parameters
        ----------
        file : path
            The file.
        groups : Series, optional
            Group of each entity, or of each row of :attr:`prediction`, for the IC within groups.
        """
        from rollforge.report.html import write_report

        return write_report(self.summary if groups is None else self._summary(groups), file)

    @property
    def plot(self) -> ResultPlots:
        """The figures of :mod:`rollforge.plot`, such as ``plot.ic()`` and ``plot.quantiles()``, of the first label."""
        from rollforge.plot import ResultPlots

        return ResultPlots(self)

    def row_groups(self, groups: pd.Series | None) -> pd.Series | None:
        """Return the group of each row of the collected prediction.

        Parameters
        ----------
        groups : Series, optional
            Group of each entity, or of each row of :attr:`prediction`, with its index.
        """
        found = self.collected.prediction
        if groups is None or found is None:
            return None
        if not groups.index.is_unique:
            raise DataError(f"groups has two rows for {shown(groups.index[groups.index.duplicated()][0])}.")
        if groups.index.nlevels == 1 and len(self.keys.names) == 2:
            return pd.Series(groups.reindex(self.keys.entities).to_numpy(), list(self.folder.codes), name=groups.name)
        rows = self._in_order(pd.DataFrame({"row": np.arange(len(found))}, found.index))["row"]
        made = np.empty(len(found), object)
        made[rows] = groups.reindex(rows.index)
        return pd.Series(made, found.index, name=groups.name)

    def _in_order(self, found: pd.DataFrame | None) -> pd.DataFrame:
        """Return rows of the panel as rows of the table, in its order."""
        if found is None:
            raise TrainingFailed("No window is done, so there is no prediction.")
        codes = {code: i for i, code in enumerate(self.folder.codes)}
        times = found.index.get_level_values("datetime").to_numpy().astype(self.keys.days.dtype)
        day = np.searchsorted(self.keys.days, times)
        entity = found.index.get_level_values("instrument").map(codes).to_numpy()
        place = self.keys.time.astype(np.int64) * len(codes) + self.keys.entity
        order = np.argsort(place)
        rows = order[np.searchsorted(place, day * len(codes) + entity, sorter=order)]
        back = np.argsort(rows, kind="stable")
        made = found.iloc[back]
        made.index = self.keys.index(rows[back])
        return made


def walk_forward(
    estimator: object,
    frame: object,
    *,
    label: Hashable | Sequence[Hashable],
    train: int | str,
    valid: int | str | None = None,
    step: int | str = "month",
    horizon: int = 1,
    label_periods: int | None = None,
    features: Sequence[Hashable] | None = None,
    time: Hashable | None = None,
    entity: Hashable | None = None,
    weight: Hashable | None = None,
    static: pd.DataFrame | None = None,
    start: DayLike | None = None,
    end: DayLike | None = None,
    rtype: Literal["sliding", "expanding"] = "sliding",
    jobs: int | None = None,
    experiment_name: str | None = None,
    session: Session | None = None,
    allow_gaps: bool = False,
) -> WalkForward:
    """Train an estimator on every window of a table, and join the predictions into one out-of-sample result.

    The model of each window is fitted on the rows of its training segment and predicts the days after it, until the next
    model is trained. Labels of the last training days that look into the following segment are left out. The tasks, runs and
    results are those of a workflow, so every command and class works with them; windows that are already trained are not
    trained again.

    Parameters
    ----------
    estimator : estimator or description
        A regressor, classifier or pipeline with scikit-learn's interface, or the description of a model:
        ``{"class": "LGBModel", "module_path": "rollforge.models", "kwargs": {…}}``.
    frame : DataFrame, Table or path
        Rows of entities (stocks, stores, sensors) over time: a pandas frame whose index or columns contain the times and
        the entities, a Polars or Arrow table, or the path of a Parquet file. A single entity needs no column. The rows of
        an entity must be in chronological order.
    label : name or sequence of names
        The column to predict, or several. A missing label excludes the row from training. The metrics are those of the
        first one.
    train : int or str
        Length of the training segment: a number of periods of the table, or a duration such as ``"2y"``, ``"18 months"``
        or ``"90D"``. With ``rtype="expanding"``, that of the first window.
    valid : int or str, optional
        Length of the validation segment between training and test, for estimators that stop early
        (``early_stopping_rounds``); by default there is none.
    step : int or str
        How often a model is trained: after each ``"week"``, ``"month"`` (``"1M"``), ``"quarter"`` or ``"year"``, or a number of
        periods of the table.
    horizon : int
        Number of periods that the label of a row looks ahead of the row. As many are left out before the next segment.
    label_periods : int, optional
        Number of periods that the label's return spans, for figures that need independent labels; by default `horizon`.
    features : sequence of names, optional
        The columns from which the estimator predicts; by default all numeric ones that have no other role.
    time, entity, weight : name, optional
        The column or index level of times, that of entities, and the column with the weights of the rows. Times and
        entities are found automatically if they are unambiguous.
    static : DataFrame, optional
        Further features of the entities, which do not change over time; its index contains the entities.
    start, end : date, optional
        First and last day to predict; by default as early as the training segment allows, and the last day.
    rtype : {"sliding", "expanding"}
        Whether the training segment keeps its length or its first day.
    jobs : int, optional
        Number of worker processes; 0 trains in this process. By default one per core, or 0 if there is little to train.
    experiment_name : str, optional
        Name of the experiment; by default one made of the estimator's name and a hash of the definition.
    session : Session, optional
        Task store, tracking store, threads; by default the current session's.
    allow_gaps : bool
        If True, a result is returned even if some windows failed.

    Returns
    -------
    WalkForward
        ``prediction``, ``windows``, ``metrics``, ``report()``, ``plot`` and ``experiment``.

    Raises
    ------
    ConfigError
        If an argument is invalid.
    DataError
        If the table is not suitable, with the column and the row.
    TrainingFailed
        If a window failed, unless `allow_gaps`.

    Examples
    --------
    >>> import rollforge
    >>> from lightgbm import LGBMRegressor
    >>> result = rollforge.walk_forward(LGBMRegressor(), "prices.parquet", label="y", train="2y")  # doctest: +SKIP
    >>> result.metrics  # doctest: +SKIP
    """
    _check_numbers(horizon=horizon, label_periods=label_periods, jobs=jobs)
    session = current_session() if session is None else session
    table = open_table(frame)
    keys = read_keys(table, time, entity)
    labels = _labels(label)
    columns = _features(table, keys, labels, features, weight)
    groups: dict[str, Sequence[Any]] = {"feature": columns, "label": labels}
    if weight is not None:
        groups["weight"] = [weight]
    check_columns(
        table, {"features": columns, "label": labels, **({"weight": [weight]} if weight is not None else {})}, keys
    )
    model, name, classifier = _describe(estimator, weight)
    segments = _segments(keys.days, train, valid, start, end, horizon)
    further = None if static is None else _static(static, keys, columns)
    folder = write_frame_folder(table, keys, groups, home() / "frames", further)
    target = Target(tuple(labels), _classes(table, labels[0]) if classifier else None)
    template = _template(model, folder, segments, horizon, label_periods)
    windows = _windows(segments, keys, train, valid, step, rtype)
    plan = _plan(template, windows, segments, frame_session(folder, session), experiment_name, name)
    from rollforge import pipeline

    pipeline.submit(plan)
    with _without_main():
        pipeline.train(plan, jobs=_jobs(jobs, plan, session, len(table) * len(columns)))
    failed = pipeline.failures(plan)
    if failed and not allow_gaps:
        listed = "; ".join(f"{counted(len(group.tasks), 'window')}: {group.reason}" for group in failed)
        raise TrainingFailed(
            f"{sum(len(group.tasks) for group in failed)} of {counted(len(plan.ids), 'window')} failed. {listed} With "
            "allow_gaps=True, the result of the others is returned."
        )
    collected = pipeline.collect(
        plan.workflow.session, plan.workflow.experiment_name, plan.ids, allow_gaps=allow_gaps, plan=plan
    )
    return WalkForward(plan, collected, keys, folder, target)


def _check_numbers(**given: int | None) -> None:
    for name, value in given.items():
        least = 1 if name == "label_periods" else 0
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ConfigError(f"must be a number, at least {least}; found {shown(value)}.", path=name)


def _labels(label: object) -> list[Any]:
    several = isinstance(label, (list, tuple, pd.Index, np.ndarray))
    found = list(label) if several else [label]  # type: ignore[call-overload]
    if not found:
        raise ConfigError("must name at least one column.", path="label")
    return found


def _features(
    table: Table, keys: Keys, labels: Sequence[Any], given: Sequence[Hashable] | None, weight: object
) -> list[Any]:
    """Return the columns of features."""
    if isinstance(given, str):
        raise ConfigError(f"must be a list of columns, found {shown(given)}.", path="features")
    taken = {*labels, *keys.names, weight}
    if given is None:
        found = [n for n in table.names if n not in taken and n not in table.index]
        text = [n for n in found if table.dtype(n) is None]
        if text:
            check_columns(table, {"features": text[:1]}, keys)
    else:
        found = list(given)
        twice = [n for n in found if n in labels]
        if twice:
            raise ConfigError(
                f"contains the label {shown(twice[0])}, so a model would read the answer.", path="features"
            )
    if not found:
        raise DataError(
            f"The frame has no column of features: besides the times, entities and labels there is none ({table.names})."
        )
    return found


def _describe(estimator: object, weight: object) -> tuple[dict[str, Any], str, bool]:
    """Return the description of a task's model, its name, and whether it is a classifier."""
    if isinstance(estimator, Mapping):
        if "class" not in estimator:
            raise ConfigError(
                f"a description has the keys class, module_path and kwargs, found {shown(list(estimator))}.",
                path="estimator",
            )
        if weight is not None:
            raise ConfigError("is used with estimators of scikit-learn's interface only.", path="weight")
        return dict(estimator), str(estimator["class"]).rpartition(".")[2], False
    if isinstance(estimator, Model):
        raise ConfigError(
            f"must be a description of a {type(estimator).__name__}: {{'class': {type(estimator).__name__!r}, 'module_path': "
            f"{type(estimator).__module__!r}, 'kwargs': …}}.",
            path="estimator",
        )
    try:
        kwargs: dict[str, Any] = {"estimator": describe_estimator(estimator)}
    except NotInModule:  # a class of a notebook or script
        place = home() / "frames"
        place.mkdir(parents=True, exist_ok=True)
        kwargs = {"estimator": keep_estimator(estimator, place)}
    if weight is not None:
        kwargs["weight_group"] = "weight"
    model = {"class": "SklearnModel", "module_path": "rollforge.models", "kwargs": kwargs}
    return model, type(estimator).__name__, is_classifier(estimator)


def _classes(table: Table, label: object) -> tuple[Any, Any]:
    """Return the two classes of a label."""
    (values,) = table.numbers([label], np.dtype(np.float64))
    found = np.unique(values[np.isfinite(values)])
    if len(found) != 2:
        raise DataError(
            f"A classifier needs a label with two classes, but {str(label)!r} has {len(found)}: {shown(found.tolist())}."
        )
    return found[0].item(), found[1].item()


def _static(static: pd.DataFrame, keys: Keys, columns: Sequence[Any]) -> pd.DataFrame:
    """Return the features of the entities, in their order."""
    if not isinstance(static, pd.DataFrame):
        raise ConfigError(f"must be a frame, found a {type(static).__name__}.", path="static")
    if not static.index.is_unique:
        raise DataError(f"static has two rows for {shown(static.index[static.index.duplicated()][0])}.")
    lacking = [e for e in keys.entities if e not in static.index]
    if lacking:
        raise DataError(
            f"static has no row for {len(lacking)} of the frame's {len(keys.entities)} entities, such as {shown(lacking[0])}."
        )
    for name in static.columns:
        if str(name) in set(map(str, columns)):
            raise DataError(f"The column {str(name)!r} is in the frame and in static. Rename one of them.")
        if not pd.api.types.is_numeric_dtype(static[name]):
            raise DataError(f"The column {str(name)!r} of static does not hold numbers. Convert it, or leave it out.")
    return static.loc[keys.entities].astype(np.float64)


def _segments(
    days: Times, train: object, valid: object, start: DayLike | None, end: DayLike | None, horizon: int
) -> dict[str, list[str]]:
    """Return the segments of the first window, whose test segment is the whole out-of-sample period."""
    lengths = [("train", read_length(train, "train"))]
    if valid is not None and valid != 0:
        lengths.append(("valid", read_length(valid, "valid")))
    if lengths[0][1] == 0:
        raise ConfigError("must be at least one period.", path="train")
    if start is None:
        first = 0
        for name, length in lengths:
            first = _after(days, first, length)
            if first >= len(days):
                said = " and ".join(f"{n}={shown(g)}" for n, g in (("train", train), ("valid", valid)) if g)
                raise SegmentError(
                    f"Nothing is left to predict: the frame has {counted(len(days), 'period')}, from {show_time(days[0])} to "
                    f"{show_time(days[-1])}, and {said} need all of them. Use a shorter {name}."
                )
    else:
        first = start_position(days, start, "start")
    last = len(days) if end is None else stop_position(days, end, "end")
    if first >= last:
        raise SegmentError(
            f"Nothing is left to predict: the test segment would begin on {show_time(days[min(first, len(days) - 1)])}, and "
            f"the frame ends on {show_time(days[last - 1] if last else days[0])}."
        )
    place, found = first, {"test": [_text(days[first]), _text(days[last - 1])]}
    for name, length in reversed(lengths):
        stop, place = place, _before(days, place, length)
        if place >= stop:
            raise SegmentError(f"No period is left in the {name} segment before {show_time(days[stop])}.")
        if stop - place <= horizon:
            raise SegmentError(
                f"horizon={horizon} leaves nothing of the {name} segment, which has {counted(stop - place, 'period')}: all its "
                "labels look into the next segment."
            )
        found[name] = [_text(days[place]), _text(days[stop - 1])]
    return {name: found[name] for name in ("train", "valid", "test") if name in found}


def _text(time: np.datetime64) -> str:
    """Return a bound of a segment: a day, or a moment with its seconds."""
    return str(time).replace("T", " ")


def _after(days: Times, place: int, length: Any) -> int:
    if isinstance(length, int):
        return place + length
    return int(np.searchsorted(days, (as_timestamp(days[place]) + length).to_datetime64().astype(days.dtype)))


def _before(days: Times, place: int, length: Any) -> int:
    if isinstance(length, int):
        return max(0, place - length)
    return int(np.searchsorted(days, (as_timestamp(days[place]) - length).to_datetime64().astype(days.dtype)))


def _template(
    model: Document,
    folder: FrameFolder,
    segments: Mapping[str, list[str]],
    horizon: int,
    label_periods: int | None,
) -> dict[str, Any]:
    """Return the task of the first window."""
    handler = {
        "class": "DataHandlerLP",
        "module_path": "rollforge.features.handler",
        "kwargs": {
            "instruments": "all",
            "data_loader": {
                "class": "FrameLoader",
                "module_path": "rollforge.features.frame_folder",
                "kwargs": {"frame": folder.mark},
            },
            "label_horizon": horizon,
            "label_days": label_periods or max(1, horizon),
        },
    }
    return {
        "model": model,
        "dataset": {
            "class": "DatasetH",
            "module_path": "rollforge.features.dataset",
            "kwargs": {"handler": handler, "segments": {name: list(ends) for name, ends in segments.items()}},
        },
        "record": [{"class": "SignalRecord", "module_path": "rollforge.record"}],
    }


def _windows(
    segments: Mapping[str, object],
    keys: Keys,
    train: object,
    valid: object,
    step: object,
    rtype: str,
) -> dict[str, Any]:
    """Return the part of a workflow that defines the windows."""
    if rtype not in ("sliding", "expanding"):
        raise ConfigError(
            f"must be 'sliding' or 'expanding', found {shown(rtype)}.{nearest(str(rtype), ('sliding', 'expanding'))}",
            path="rtype",
        )
    bars = {"freq": keys.freq} if has_times(keys.days) else {}
    if isinstance(step, int) and not isinstance(step, bool):
        if step < 1:
            raise ConfigError(f"must be at least 1 period, found {step}.", path="step")
        return {"rolling": {"step": step, "rtype": rtype, "trunc_days": "auto", "clip_test_end": True, **bars}}
    read_offset(step, "step")
    lengths: dict[str, object] = {"train": train}
    if "valid" in segments:
        lengths["valid"] = valid
    return {"generate": [{"CalendarGen": {"retrain": step, **lengths, "rtype": rtype, "trunc_days": "auto", **bars}}]}


def _plan(
    template: dict[str, Any],
    windows: Document,
    segments: Mapping[str, object],
    session: Session,
    experiment_name: str | None,
    name: str,
) -> Plan:
    """Return the plan of a workflow of these tasks, which is also written as a file."""
    from rollforge.plan import make_plan

    # Tuples and other values that YAML lacks are in the template itself; the file is for people.
    document = {"rollforge": {"data": session.provider_uri}, "task": to_plain(template), **windows}
    if experiment_name is None:
        experiment_name = f"{name}-{digest({'task': template, 'windows': dict(windows)})[:8]}"
    file = home() / "frames" / f"{digest({'document': document})[:24]}.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8")
    workflow = load_workflow(file, experiment_name=experiment_name)
    workflow = replace(
        workflow,
        template=template,
        session=session.with_(experiment_name=experiment_name, provider_uri=session.provider_uri),
    )
    try:
        return make_plan(workflow)
    except ConfigError as exc:  # the file is not the user's
        said = re.sub(r"^line \d+: ", "", str(exc).removeprefix(f"{file}, ")).removeprefix("generate.0.CalendarGen.")
        raise type(exc)(said) from exc


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Start worker processes that do not run the user's script again.

    What they need from it comes with the estimator, so a script needs no ``if __name__ == "__main__":``.
    """
    main = sys.modules["__main__"]
    kept = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    try:
        for name in kept:
            setattr(main, name, None)
        yield
    finally:
        for name, value in kept.items():
            setattr(main, name, value)


def _jobs(given: int | None, plan: Plan, session: Session, values: int) -> int:
    """Return the number of worker processes."""
    if given is not None:
        return given
    windows = len(plan.ids)
    return 0 if windows == 1 or session.threads == 1 or values * windows < _SMALL else session.threads
