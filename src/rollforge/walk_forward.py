"""Walk-forward evaluation of an estimator on a table: ``rollforge.walk_forward``."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import sys
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import yaml

from rollforge.arguments import check_flag, whole_number
from rollforge.dates import (
    ONE_DAY,
    DayLike,
    Times,
    as_timestamp,
    has_times,
    read_bound,
    show_time,
    start_position,
    stop_position,
)
from rollforge.errors import ConfigError, DataError, SegmentError, TrainingFailed, counted, nearest, shown
from rollforge.features.frame_folder import FrameFolder, frame_session, write_frame_folder
from rollforge.frame_result import Target, WalkForward, model_name
from rollforge.generate.calendar_windows import HOLIDAYS
from rollforge.generate.offsets import Duration, as_plain, period_starts, read_length, read_offset
from rollforge.market.frames import type_text
from rollforge.market.user_table import (
    EXACT,
    CodedTable,
    Keys,
    Table,
    check_columns,
    open_table,
    read_classes,
    read_column,
    read_keys,
    too_large_a_class,
)
from rollforge.models.base import Model
from rollforge.models.kept import keep_model
from rollforge.models.sklearn import (
    DefinedOnTheSpot,
    NotInModule,
    describe_estimator,
    describe_model,
    is_classifier,
    is_ranker,
    keep_estimator,
    lacks_probabilities,
    needs_valid,
    own_code,
)
from rollforge.session import Session, current_session, home
from rollforge.task import Document, digest, to_plain
from rollforge.track.artifact_files import probe_folder
from rollforge.workflow import load_workflow

if TYPE_CHECKING:
    from rollforge.collect.result import Collected
    from rollforge.plan import Plan
    from rollforge.run.executor import Executor
    from rollforge.run.progress import OnEvent

__all__ = ["WalkForward", "walk_forward"]

log = logging.getLogger(__name__)

_SMALL = 2 * 10**7
"""Number of training values below which starting worker processes takes longer than training in this one."""
_SOME_ROWS, _SOME_COLUMNS = 1000, 8
"""Number of rows and columns by which a repeated call is recognized."""
_CLASSES = 1000
"""Largest number of classes: a label with more is taken for a quantity."""


def walk_forward(
    estimator: object,
    frame: object,
    *,
    label: Hashable | Sequence[Hashable] | Mapping[Any, int],
    train: int | str | Duration,
    valid: int | str | Duration | None = None,
    step: int | str | Duration = "month",
    horizon: int | Sequence[int] = 1,
    label_periods: int | None = None,
    features: Sequence[Hashable] | None = None,
    time: Hashable | None = None,
    entity: Hashable | None = None,
    weight: Hashable | None = None,
    groups: Hashable | None = None,
    static: pd.DataFrame | None = None,
    start: DayLike | None = None,
    end: DayLike | None = None,
    rtype: Literal["sliding", "expanding"] = "sliding",
    jobs: int | None = None,
    executor: Executor | None = None,
    on_event: OnEvent | None = None,
    experiment_name: str | None = None,
    session: Session | None = None,
    allow_gaps: bool = False,
    drift: bool = False,
) -> WalkForward:
    """Train an estimator on every window of a table, and join the predictions into one out-of-sample result.

    The model of each window is fitted on the rows of its training segment and predicts the days after it, until the next
    model is trained. Labels of the last training days that look into the following segment are left out. The tasks, runs and
    results are those of a workflow, so every command and class works with them; windows that are already trained are not
    trained again.

    Parameters
    ----------
    estimator : estimator, Model or description
        A regressor, classifier, ranker or pipeline with scikit-learn's interface, a model of Rollforge such as ``LGBModel()``,
        or the description of one: ``{"class": "LGBModel", "module_path": "rollforge.models", "kwargs": {…}}``.
    frame : DataFrame, Table or path
        Rows of entities (stocks, stores, sensors) over time: a pandas frame whose index or columns contain the times and
        the entities, a Polars or Arrow table, or the path of a Parquet file. A single entity needs no column. The rows of
        an entity must be in chronological order.
    label : name, sequence of names, or mapping
        The column to predict, or several. A missing label excludes the row from training. A mapping has the horizon of each
        label: ``{"y1": 1, "y5": 5}``. The label of a classifier holds classes: text, booleans, whole numbers, or categories
        that are one of these.
    train : int, str or length of time
        Length of the training segment: a number of periods of the table, or a duration such as ``"2y"``, ``"18 months"``,
        ``"90D"`` or ``pd.Timedelta(days=90)``. With ``rtype="expanding"``, that of the first window.
    valid : int, str or length of time, optional
        Length of the validation segment between training and test, for estimators that stop early
        (``early_stopping_rounds``); by default there is none.
    step : int, str or length of time
        How often a model is trained: after each ``"week"``, ``"month"`` (``"1M"``), ``"quarter"`` or ``"year"``, or a number of
        periods of the table.
    horizon : int or sequence of int
        Number of periods that the label of a row looks ahead of the row. As many are left out before the next segment.
        With a sequence, a model is trained for each horizon, on the label in the same place of `label`.
    label_periods : int, optional
        Number of periods that the label's return spans, for figures that need independent labels; by default `horizon`.
    features : sequence of names, optional
        The columns from which the estimator predicts; by default all numeric ones that have no other role.
    time, entity, weight : name, optional
        The column or index level of times, that of entities, and the column with the weights of the rows. Times and
        entities are found automatically if they are unambiguous.
    groups : name, optional
        The column with the group of each row, such as a sector or region, of any type; a missing value is no group. It is
        no feature, unless `features` names it. See ``groups`` and ``group_metrics`` of the result.
    static : DataFrame, optional
        Further features of the entities, which do not change over time; its index contains the entities.
    start, end : date, optional
        First and last day to predict; by default as early as the training segment allows, and the last day.
    rtype : {"sliding", "expanding"}
        Whether the training segment keeps its length or its first day.
    jobs : int, optional
        Number of worker processes; 0 trains in this process. By default one per core, or 0 if there is little to train.
    executor : Executor, optional
        Where the models are trained, instead of `jobs`: on a cluster (``rollforge.Ray("head:6379")``,
        ``rollforge.Dask(jobs=8)``, ``rollforge.Slurm(jobs=50)``), or in processes of this machine
        (``LocalProcesses(4)``, :mod:`rollforge.run.executor`).
    on_event : callable, optional
        Called with each :class:`~rollforge.run.job.Event` of a window. By default, a notebook shows a progress bar.
    experiment_name : str, optional
        Name of the experiment; by default one made of the estimator's name and a hash of the definition.
    session : Session, optional
        Task store, tracking store, threads; by default the current session's.
    allow_gaps : bool
        If True, a result is returned even if some windows failed.
    drift : bool
        If True, each window also measures how far its features and predictions are from those of its training segment
        (:class:`~rollforge.record.DriftRecord`), for the report. Its model then predicts the training segment as well.

    Returns
    -------
    WalkForward
        ``prediction``, ``windows``, ``metrics``, ``by_horizon``, ``report()``, ``plot`` and ``experiment``.

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
    if label_periods is not None:
        label_periods = _periods(label_periods, "label_periods", least=1)
    train, step = as_plain(train, "train"), as_plain(step, "step", repeated=True)
    valid = None if valid is None else as_plain(valid, "valid")
    if jobs is not None:
        jobs = whole_number(jobs, "jobs", least=0)
    check_flag("allow_gaps", allow_gaps)
    check_flag("drift", drift)
    _check_names(experiment_name, features, {"time": time, "entity": entity, "weight": weight, "groups": groups})
    if executor is not None:
        from rollforge.run.executor import check_executor

        check_executor(executor, jobs=jobs is not None)
    session = current_session() if session is None else session
    if not isinstance(session, Session):
        raise ConfigError(f"must be a rollforge.Session, found {shown(session)}.", path="session")
    table = open_table(frame)
    one = isinstance(label, tuple) and label in table.names  # of columns with several levels
    labels, horizons = _labels_and_horizons([label] if one else label, horizon)
    others = [name for name in (weight, groups) if name is not None]
    if weight is not None and weight in labels:
        raise ConfigError(f"{shown(weight)} is a label.", path="weight")
    if not valid and needs_valid(estimator):
        raise ConfigError(
            f"{type(estimator).__name__} stops early (early_stopping_rounds), so it needs a valid segment: pass valid='1M', for "
            "example, or leave early_stopping_rounds out.",
            path="valid",
        )
    features = None if features is None else list(features)
    classifies = _classifies(estimator, table, labels)
    named = [*others, *labels, *(features or [])]
    keys = read_keys(table, time, entity, named, labels if classifies else ())
    table, text = _coded(table, labels, keys) if classifies else (table, {})
    columns = _features(table, keys, labels, features, others)
    parts: dict[str, Sequence[Any]] = {"feature": columns, "label": labels}
    if weight is not None:
        parts["weight"] = [weight]
    check_columns(
        table, {"features": columns, "label": labels, **({"weight": [weight]} if weight is not None else {})}, keys
    )
    row_values = None if groups is None else read_column(table, groups, "groups")
    described = _describe(estimator, weight)
    segments = _segments(keys, train, valid, start, end, max(horizons))
    further = None if static is None else _static(static, keys, [*columns, *labels, *others, *keys.names])
    targets = _targets(table, labels, horizons, described, text)
    windows = _windows(segments, keys, train, valid, step, rtype)
    from rollforge import pipeline

    values, expected = len(table) * len(columns), _expected_windows(segments, keys.days, step) * len(targets)
    finished = _file_of_call(
        {"model": described.model, "segments": segments, "windows": windows, "static": further is not None,
         "horizons": horizons, "label_periods": label_periods, "store": session.store_uri, "name": experiment_name,
         "drift": drift},
        table, [*labels, *columns],
    )  # fmt: skip
    early = 0 if executor is not None or finished.exists() else min(_jobs(jobs, expected, session, values), expected)
    with contextlib.ExitStack() as running:
        with _without_main():
            started = running.enter_context(pipeline.start_processes(session, early, described.model))
        folder = write_frame_folder(table, keys, parts, _frames(), further)
        templates = {
            model_name(target.horizon) if len(targets) > 1 else "": _template(
                described.of(target.classes),
                folder,
                segments,
                target,
                label_periods,
                alone=len(targets) == 1,
                drift=drift,
            )
            for target in targets
        }
        plan = _plan(templates, windows, frame_session(folder, session), experiment_name, described)
        pipeline.submit(plan)
        with _without_main():
            pipeline.train(
                plan, jobs=_jobs(jobs, len(plan.ids), session, values), started=started, executor=executor, on_event=on_event
            )  # fmt: skip
    failed = pipeline.failures(plan)
    if not failed:
        finished.touch()
    elif not allow_gaps:
        listed = "; ".join(f"{counted(len(group.tasks), 'window')}: {group.reason.rstrip('.,; ')}" for group in failed)
        raise TrainingFailed(
            f"{sum(len(group.tasks) for group in failed)} of {counted(len(plan.ids), 'window')} failed. {listed}. With "
            "allow_gaps=True, the result of the others is returned."
        )
    collected = pipeline.collect(
        plan.workflow.session, plan.workflow.experiment_name, plan.ids, allow_gaps=allow_gaps, plan=plan
    )
    by_horizon = _by_horizon(plan, collected, targets) if len(targets) > 1 else {}
    result = WalkForward(plan, replace(collected, loaded=None), keys, folder, targets, row_values, by_horizon)
    result.read_class_notes()
    return result


def _file_of_call(arguments: Document, table: Table, columns: Sequence[Any]) -> Path:
    """Return the file that exists if a call like this one has trained all of its tasks.

    Worker processes start before the table is stored, when it is not known yet which tasks are done. With this file, those of
    a repeated call do. It depends on some of the table's rows, so that it can be found fast; whether there is something left
    to train is determined later, by the tasks themselves.
    """
    names = list(columns[:_SOME_COLUMNS])
    some = table.numbers(names, np.dtype(np.float64))
    step = max(1, len(table) // _SOME_ROWS)
    values = hashlib.sha256(b"".join(column[::step].tobytes() for column in some)).hexdigest()
    found = {**arguments, "rows": len(table), "columns": list(map(str, columns)), "values": values}
    return _frames() / f"{digest(found)[:24]}.finished"


def _by_horizon(plan: Plan, collected: Collected, targets: Sequence[Target]) -> dict[int, Collected]:
    """Return the joined result of each horizon, from what was read for all of them."""
    from rollforge import pipeline

    made = {}
    for target in targets:
        own = model_name(target.horizon)
        ids = [i for i, name in zip(plan.ids, plan.model_names, strict=True) if name == own]
        made[target.horizon] = pipeline.collect(
            plan.workflow.session, plan.workflow.experiment_name, ids, allow_gaps=True, ensembles=plan.ensembles,
            loaded=collected.loaded,
        )  # fmt: skip
    return made


def _labels(label: object) -> list[Any]:
    found = list(label) if isinstance(label, (list, tuple, pd.Index, np.ndarray)) else [label]
    if not found:
        raise ConfigError("must name at least one column.", path="label")
    for name in found:
        _check_name(name, "label")
    twice = [name for i, name in enumerate(found) if name in found[:i]]
    if twice:
        raise ConfigError(f"names {shown(twice[0])} twice.", path="label")
    return found


def _check_names(experiment_name: object, features: object, columns: Mapping[str, object]) -> None:
    """Raise an error if an argument is not a name, or not a list of names, of the kind that it has to be."""
    if experiment_name is not None and (not isinstance(experiment_name, str) or not experiment_name):
        raise ConfigError(f"must be text, found {shown(experiment_name)}.", path="experiment_name")
    if features is not None and (isinstance(features, str) or not isinstance(features, Iterable)):
        raise ConfigError(f"must be a list of columns, found {shown(features)}.", path="features")
    for argument, name in columns.items():
        _check_name(name, argument)


def _check_name(name: object, argument: str) -> None:
    """Raise an error if an argument has values, and not the name of a column."""
    try:
        hash(name)
    except TypeError as exc:
        found = type_text(name) if isinstance(name, (pd.Series, pd.DataFrame, np.ndarray)) else shown(name)
        raise ConfigError(
            f"must be the name of a column, found {found}. Put values into a column of the frame: frame.assign({argument}=…).",
            path=argument,
        ) from exc


def _periods(value: object, path: str, *, least: int) -> int:
    """Return a number of the table's periods."""
    if isinstance(value, Duration):
        raise ConfigError(f"counts periods of the frame, so it is a whole number; found {shown(value)}.", path=path)
    return whole_number(value, path, least=least)


def _labels_and_horizons(label: object, horizon: object) -> tuple[list[Any], list[int]]:
    """Return the labels, and their horizons: one for all of them, or one for each."""
    if isinstance(label, Mapping):
        if horizon != 1:
            raise ConfigError("is given by label, which maps names to horizons.", path="horizon")
        labels, several = _labels(list(label)), list(label.values())
    else:
        labels = _labels(label)
        if not isinstance(horizon, (list, tuple, range, np.ndarray)):
            return labels, [_periods(horizon, "horizon", least=0)]
        several = list(horizon)
    several = [_periods(one, f"horizon.{i}", least=0) for i, one in enumerate(several)]
    if len(several) != len(labels):
        raise ConfigError(
            f"has {counted(len(several), 'horizon')} for {counted(len(labels), 'label')}: each horizon needs a label that "
            "looks ahead as far.",
            path="horizon",
        )
    twice = [one for i, one in enumerate(several) if one in several[:i]]
    if twice:
        raise ConfigError(f"has {twice[0]} twice.", path="horizon")
    return labels, several


def _features(
    table: Table, keys: Keys, labels: Sequence[Any], given: Sequence[Hashable] | None, others: Sequence[object]
) -> list[Any]:
    """Return the columns of features."""
    taken = {*labels, *keys.names, *others}
    if given is None:
        columns = [n for n in table.names if n not in taken and n not in table.index]
        text = [n for n in columns if table.dtype(n) is None]
        if text:
            check_columns(table, {"features": text[:1]}, keys)
    else:
        columns = list(given)
        if not columns:
            raise ConfigError("must name at least one column.", path="features")
        twice = [n for n in columns if n in labels]
        if twice:
            raise ConfigError(
                f"contains the label {shown(twice[0])}, so a model would read the answer.", path="features"
            )
    if not columns:
        raise DataError(
            f"The frame has no column of features: besides the times, entities and labels there is none ({table.names})."
        )
    return columns


@dataclass(frozen=True, slots=True)
class _Described:
    """An estimator as the model of a task."""

    model: dict[str, Any]
    name: str
    classifies: bool = False
    ranks: bool = False
    code: str = ""
    """A hash of the code of the user's own classes and functions in it; empty if there are none."""

    def of(self, classes: Sequence[Any] | None) -> dict[str, Any]:
        """Return the description for a label with these classes."""
        if classes is None:
            return self.model
        plain = [int(one) if isinstance(one, bool) else one for one in classes]
        return {**self.model, "kwargs": {**self.model["kwargs"], "classes": plain}}


def _describe(estimator: object, weight: object) -> _Described:
    """Return the description of a task's model."""
    if isinstance(estimator, (Mapping, Model)) and weight is not None:
        raise ConfigError("is used with estimators of scikit-learn's interface only.", path="weight")
    if isinstance(estimator, Mapping):
        if "class" not in estimator:
            raise ConfigError(
                f"a description has the keys class, module_path and kwargs, found {shown(list(estimator))}.",
                path="estimator",
            )
        return _Described(dict(estimator), str(estimator["class"]).rpartition(".")[2])
    name = type(estimator).__name__
    if isinstance(estimator, Model):
        try:
            return _Described(describe_model(estimator), name, code=own_code(estimator))
        except DefinedOnTheSpot:  # a class of a notebook or script
            return _Described(keep_model(estimator, _frames()), name)
        except NotInModule as exc:
            raise ConfigError(
                f"the {name} has no description, because {exc.message.rstrip('.')}. Put its class into a module and keep "
                "its arguments as attributes of the same names, or give {'class': …, 'module_path': …, 'kwargs': …}.",
                path="estimator",
            ) from exc
    try:
        kwargs: dict[str, Any] = {"estimator": describe_estimator(estimator)}
        code = own_code(estimator)
    except NotInModule:  # a class of a notebook or script
        kwargs, code = {"estimator": _kept(estimator)}, ""
    if weight is not None:
        kwargs["weight_group"] = "weight"
    model = {"class": "SklearnModel", "module_path": "rollforge.models", "kwargs": kwargs}
    return _Described(model, name, is_classifier(estimator), is_ranker(estimator), code)


def _kept(estimator: object) -> dict[str, Any]:
    return keep_estimator(estimator, _frames())


def _frames() -> Path:
    """Return the folder of tables and estimators, which is created if it does not exist.

    Raises
    ------
    ConfigError
        If it cannot be created or written to.
    """
    place = home() / "frames"
    try:
        place.mkdir(parents=True, exist_ok=True)
        probe_folder(place)
    except OSError as exc:
        raise ConfigError(
            f"The folder {place}, in which walk_forward keeps tables, cannot be written: {exc.strerror or exc}. Set the "
            "environment variable ROLLFORGE_HOME to another folder."
        ) from exc
    return place


def _classifies(estimator: object, table: Table, labels: Sequence[Any]) -> bool:
    """Return whether an argument is a classifier of scikit-learn's interface, which predicts probabilities."""
    if isinstance(estimator, (Mapping, Model, type)) or not hasattr(estimator, "get_params"):
        return False
    text = [name for name in labels if name in table.names and table.dtype(name) is None]
    if text and lacks_probabilities(estimator):
        name = type(estimator).__name__
        raise ConfigError(
            f"{name} has no predict_proba, so it cannot predict {shown(text[0])}, which does not hold numbers. Wrap it: "
            f"CalibratedClassifierCV({name}(…)).",
            path="estimator",
        )
    return is_classifier(estimator)


def _coded(table: Table, labels: Sequence[Any], keys: Keys) -> tuple[Table, dict[Any, list[Any]]]:
    """Return a table whose labels are numbers, and the classes of those that were text or objects."""
    found = {name: both for name in labels if (both := read_classes(table, name, keys)) is not None}
    if not found:
        return table, {}
    coded = CodedTable(table, {name: numbers for name, (_, numbers) in found.items()})
    return coded, {name: classes for name, (classes, _) in found.items()}


def _classes(table: Table, label: object) -> tuple[Any, ...]:
    """Return the classes of a label that holds numbers, ascending."""
    (values,) = table.numbers([label], np.dtype(np.float64))
    classes = np.unique(values[np.isfinite(values)])
    if len(classes) > 2 and (len(classes) > _CLASSES or (classes % 1).any()):
        raise DataError(
            f"A classifier needs a label with classes, which are text or at most {_CLASSES} whole numbers, but {str(label)!r} "
            f"has {len(classes)} values, such as {shown(classes[:3].tolist())}. Use a regressor, or make classes of them."
        )
    large = classes[np.abs(classes) > EXACT]
    if len(large):
        raise DataError(too_large_a_class(label, int(large[0])))
    kind = table.dtype(label)
    return tuple(classes.astype(kind).tolist())


def _targets(
    table: Table,
    labels: Sequence[Any],
    horizons: Sequence[int],
    described: _Described,
    text: Mapping[Any, Sequence[Any]],
) -> tuple[Target, ...]:
    """Return what is predicted: by one model, or by one for each horizon."""
    own = (
        [(tuple(labels), horizons[0])]
        if len(horizons) == 1
        else [((n,), h) for n, h in zip(labels, horizons, strict=True)]
    )
    if not described.classifies:
        return tuple(Target(names, ahead, ranks=described.ranks) for names, ahead in own)
    if len(own[0][0]) > 1:
        raise ConfigError(
            f"a classifier predicts one label, found {len(labels)}. With horizon=[…], each label has a model of its own.",
            path="label",
        )
    made = []
    for (name,), ahead in own:
        classes = tuple(text[name]) if name in text else _classes(table, name)
        if len(classes) < 2:
            raise DataError(
                f"A classifier needs a label with two classes or more, but {str(name)!r} has {len(classes)}: "
                f"{shown(list(classes))}."
            )
        if len(classes) > _CLASSES:
            raise DataError(
                f"A classifier needs a label with at most {_CLASSES} classes, but {str(name)!r} has {len(classes)}, such as "
                f"{shown(list(classes[:3]))}."
            )
        made.append(Target((name,), ahead, classes, described.ranks, table.own_dtype(name)))
    return tuple(made)


def _static(static: pd.DataFrame, keys: Keys, columns: Sequence[Any]) -> pd.DataFrame:
    """Return the features of the entities, in their order."""
    if not isinstance(static, pd.DataFrame):
        raise ConfigError(
            f"must be a pandas frame whose index contains the entities, found {type_text(static)}.", path="static"
        )
    if keys.entities == [None]:
        raise ConfigError("is used with entities, but the frame is a single series.", path="static")
    if not static.index.is_unique:
        raise DataError(f"static has two rows for {shown(static.index[static.index.duplicated()][0])}.")
    lacking = [e for e in keys.entities if e not in static.index]
    if lacking:
        hint = " Its index must contain them: static.set_index(…)." if len(lacking) == len(keys.entities) else ""
        raise DataError(
            f"static has no row for {len(lacking)} of the frame's {len(keys.entities)} entities, such as {shown(lacking[0])}."
            + hint
        )
    for name in static.columns:
        if str(name) in set(map(str, columns)):
            raise DataError(f"The column {str(name)!r} is in the frame and in static. Rename one of them.")
        if (static.columns == name).sum() > 1:
            raise DataError(f"static has two columns {str(name)!r}. Rename one of them.")
        if not pd.api.types.is_numeric_dtype(static[name]) or pd.api.types.is_complex_dtype(static[name]):
            raise DataError(f"The column {str(name)!r} of static does not hold numbers. Convert it, or leave it out.")
    found = static.loc[keys.entities].astype(np.float64)
    rows, places = np.nonzero(np.isinf(found.to_numpy()))
    if len(rows):
        raise DataError(
            f"The column {str(found.columns[places[0]])!r} of static has an infinite value in the row of "
            f"{shown(keys.entities[rows[0]])}. Correct it, or replace it with NaN."
        )
    return found


def _segments(
    keys: Keys, train: object, valid: object, start: DayLike | None, end: DayLike | None, horizon: int
) -> dict[str, list[str]]:
    """Return the segments of the first window, whose test segment is the whole out-of-sample period."""
    days = keys.days
    lengths = [("train", read_length(train, "train"))]
    if valid:
        lengths.append(("valid", read_length(valid, "valid")))
    if lengths[0][1] == 0:
        raise ConfigError("must be at least one period.", path="train")
    first = _first_test(days, lengths, train, valid) if start is None else _start(keys, start)
    last = len(days) if end is None else _stop(keys, end)
    if first >= last:
        raise SegmentError(
            f"Nothing is left to predict: the test segment would begin on {show_time(days[min(first, len(days) - 1)])}, and "
            f"the frame ends on {show_time(days[last - 1] if last else days[0])}."
        )
    place, found = first, {"test": [_text(days[first]), _text(days[last - 1])]}
    for name, length in reversed(lengths):
        if start is not None and _begins_before(days, place, length):
            raise SegmentError(
                f"in the window that tests from {show_time(days[first])}, the segment would begin before the frame, which begins "
                f"on {show_time(days[0])}. Shorten it, or choose a later start.",
                path=name,
            )
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


def _start(keys: Keys, start: DayLike) -> int:
    """Return the position of the first time at or after a bound. An hour that occurs twice means its first occurrence."""
    if not keys.in_utc:
        return start_position(keys.days, start, "start")
    moment = as_timestamp(read_bound(start, "start"))
    return int(np.searchsorted(keys.days, _in_utc(moment, keys, ambiguous=True)))


def _stop(keys: Keys, end: DayLike) -> int:
    """Return one past the position of the last time that a bound includes. An hour that occurs twice is included as a whole."""
    if not keys.in_utc:
        return stop_position(keys.days, end, "end")
    bound = read_bound(end, "end")
    if np.datetime_data(bound.dtype)[0] == "D":  # its whole day
        return int(np.searchsorted(keys.days, _in_utc(as_timestamp(bound + ONE_DAY), keys, ambiguous=True)))
    return int(np.searchsorted(keys.days, _in_utc(as_timestamp(bound), keys, ambiguous=False), "right"))


def _in_utc(moment: pd.Timestamp, keys: Keys, *, ambiguous: bool) -> np.datetime64:
    """Return a local time of the table's time zone in UTC; if it does not exist there, the next that does."""
    assert isinstance(keys.times, pd.DatetimeIndex)
    local = moment.tz_localize(keys.times.tz, ambiguous=ambiguous, nonexistent="shift_forward")
    return local.tz_convert("UTC").tz_localize(None).to_datetime64()


def _first_test(days: Times, lengths: Sequence[tuple[str, Any]], train: object, valid: object) -> int:
    """Return the position of the first period to predict, if the other segments begin with the table."""
    first = 0
    for name, length in lengths:
        first = _after(days, first, length)
        if first >= len(days):
            given = [f"{n}={shown(g)}" for n, g in (("train", train), ("valid", valid)) if g]
            said, verb = " and ".join(given), "needs" if len(given) == 1 else "need"
            raise SegmentError(
                f"Nothing is left to predict: the frame has {counted(len(days), 'period')}, from {show_time(days[0])} to "
                f"{show_time(days[-1])}, and {said} {verb} all of them. Use a shorter {name}."
            )
    return first


def _text(time: np.datetime64) -> str:
    """Return a bound of a segment: a day, or a moment with its seconds."""
    return str(time).replace("T", " ")


def _moved(days: Times, place: int, length: Any, sign: int) -> np.datetime64 | None:
    """Return the time that is a duration after or before one of the table's; None if that is out of range."""
    try:
        moved: np.datetime64 = (as_timestamp(days[place]) + sign * length).to_datetime64().astype(days.dtype)
    except (OverflowError, ValueError):  # of pandas, dateutil and datetime
        return None
    return moved


def _after(days: Times, place: int, length: Any) -> int:
    if isinstance(length, int):
        return place + length
    moved = _moved(days, place, length, 1)
    return len(days) if moved is None else int(np.searchsorted(days, moved))


def _before(days: Times, place: int, length: Any) -> int:
    if isinstance(length, int):
        return max(0, place - length)
    moved = _moved(days, place, length, -1)
    return 0 if moved is None else int(np.searchsorted(days, moved))


def _begins_before(days: Times, place: int, length: Any) -> bool:
    """Return whether a segment of a length that ends before a place would begin before the table."""
    if isinstance(length, int):
        return place < length
    moved = _moved(days, place, length, -1)
    return moved is None or bool(moved < days[0] - HOLIDAYS)


def _template(
    model: Document,
    folder: FrameFolder,
    segments: Mapping[str, list[str]],
    target: Target,
    label_periods: int | None,
    *,
    alone: bool,
    drift: bool,
) -> dict[str, Any]:
    """Return the task of the first window."""
    loaded: dict[str, Any] = {"frame": folder.mark}
    if not alone:
        loaded["label"] = str(target.labels[0])
    handler = {
        "class": "DataHandlerLP",
        "module_path": "rollforge.features.handler",
        "kwargs": {
            "instruments": "all",
            "data_loader": {
                "class": "FrameLoader",
                "module_path": "rollforge.features.frame_folder",
                "kwargs": loaded,
            },
            "label_horizon": target.horizon,
            "label_days": label_periods or max(1, target.horizon),
        },
    }
    return {
        "model": model,
        "dataset": {
            "class": "DatasetH",
            "module_path": "rollforge.features.dataset",
            "kwargs": {"handler": handler, "segments": {name: list(ends) for name, ends in segments.items()}},
        },
        "record": [
            {"class": name, "module_path": "rollforge.record"}
            for name in ("SignalRecord", *(["DriftRecord"] if drift else []))
        ],
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
    templates: Mapping[str, dict[str, Any]],
    windows: Document,
    session: Session,
    experiment_name: str | None,
    described: _Described,
) -> Plan:
    """Return the plan of a workflow of these models' tasks, which is also written as a file."""
    from rollforge.plan import make_plan

    template = next(iter(templates.values()))
    # Tuples and other values that YAML lacks are in the template itself; the file is for people.
    document = {"rollforge": {"data": session.provider_uri}, "task": to_plain(template), **windows}
    if len(templates) > 1:
        document["models"] = {
            model: {part: to_plain(task[part]) for part in ("model", "dataset")} for model, task in templates.items()
        }
    if experiment_name is None:
        tasks = {"task": template} if len(templates) == 1 else {"models": dict(templates)}
        code = {"code": described.code} if described.code else {}  # the tasks do not change with the code of a module
        experiment_name = f"{described.name}-{digest({**tasks, 'windows': dict(windows), **code})[:8]}"
    file = _frames() / f"{digest({'document': document})[:24]}.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8")
    workflow = load_workflow(file, experiment_name=experiment_name)
    models = tuple(replace(one, task=templates[one.name]) for one in workflow.models)
    workflow = replace(
        workflow,
        template=template,
        models=models,
        session=session.with_(experiment_name=experiment_name, provider_uri=session.provider_uri),
    )
    try:
        return make_plan(workflow)
    except ConfigError as exc:  # the file is not the user's
        said = re.sub(r"^line \d+: ", "", str(exc).removeprefix(f"{file}, "))
        for part in ("generate.0.CalendarGen.", "task.dataset.kwargs.segments."):
            said = said.removeprefix(part)
        raise type(exc)(said) from exc


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Start worker processes that do not run the user's script again.

    What they need from it comes with the estimator, so a script needs no ``if __name__ == "__main__":``.
    """
    main = vars(sys.modules["__main__"])
    kept: dict[str, Any] = {name: main[name] for name in ("__file__", "__spec__") if name in main}
    try:
        main.pop("__file__", None)  # a module with a file that is None is an error for inspect, which PyTorch uses
        main["__spec__"] = None
        yield
    finally:
        del main["__spec__"]
        main.update(kept)


def _expected_windows(segments: Mapping[str, Sequence[str]], days: Times, step: int | str) -> int:
    """Return how many windows the tasks of one model will have."""
    first, stop = start_position(days, segments["test"][0]), stop_position(days, segments["test"][1])
    if isinstance(step, int):
        return -(-(stop - first) // step)
    offset, found, place = read_offset(step, "step"), 0, first
    while place < stop:  # each period is counted from the first one of the window before
        starts = (int(np.searchsorted(days, day)) for day in period_starts(offset, days[place], days[stop - 1]))
        found, place = found + 1, next((start for start in starts if start > place), stop)
    return found


def _jobs(given: int | None, windows: int, session: Session, values: int) -> int:
    """Return the number of worker processes."""
    if given is not None:
        return given
    return 0 if windows == 1 or session.threads == 1 or values * windows < _SMALL else session.threads
