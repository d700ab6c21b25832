"""The result of :func:`rollforge.walk_forward.walk_forward`, with the index and the names of the user's table."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.dates import as_timestamp
from rollforge.errors import ConfigError, DataError, TrainingFailed, counted, first_few, shown
from rollforge.features.frame_folder import FrameFolder, FrameLoader
from rollforge.market.user_table import Keys
from rollforge.markup import Markup, tag
from rollforge.models.classes import are_text, class_numbers
from rollforge.notebook import html_repr, summary
from rollforge.record.scoring import (
    classification_metrics,
    multiclass_metrics,
    ranking_metrics,
    regression_metrics,
)
from rollforge.session import Session

if TYPE_CHECKING:
    from rollforge.collect.result import Collected
    from rollforge.plan import Plan
    from rollforge.plot import ResultPlots
    from rollforge.report.summary import Summary
    from rollforge.track.base import Experiment

__all__ = ["Target", "WalkForward"]


@dataclass(frozen=True, slots=True)
class Target:
    """Target of a model, and the metrics that score it."""

    labels: tuple[Any, ...]
    horizon: int
    classes: tuple[Any, ...] | None = None
    """The classes of a classifier, ascending; None if values are predicted."""
    ranks: bool = False
    """Whether the predictions only put rows in order, and have no unit."""
    dtype: Any = None
    """The dtype of the label's column, for a classifier."""

    @property
    def several_classes(self) -> bool:
        """Whether the prediction has one column for each class, after the score."""
        return self.classes is not None and len(self.classes) > 2

    def metrics(self, prediction: pd.DataFrame, label: pd.DataFrame, at: int = 0) -> dict[str, float]:
        """Return the metrics of the label in column `at`, on the rows that have both a prediction and a label."""
        scores, known = prediction.iloc[:, at], label.iloc[:, at]
        if self.classes is None:
            return ranking_metrics(scores, known) if self.ranks else regression_metrics(scores, known)
        numbers = class_numbers(self.classes)
        if self.several_classes:
            return multiclass_metrics(prediction.iloc[:, 1:].set_axis(numbers, axis=1), known)
        return classification_metrics(scores, known == numbers[1], known.notna())

    def probability(self, prediction: pd.DataFrame) -> pd.DataFrame:
        """Return the probability of each class."""
        assert self.classes is not None
        if self.several_classes:
            found = prediction.iloc[:, 1:]
        else:
            found = pd.concat([1 - prediction.iloc[:, 0], prediction.iloc[:, 0]], axis=1)
        own = self.dtype if pd.api.types.is_integer_dtype(self.dtype) else None
        return found.set_axis(pd.Index(self.classes, dtype=own, tupleize_cols=False), axis=1)

    def predicted_class(self, probability: pd.DataFrame) -> pd.Series:
        """Return the class with the highest probability, which :meth:`probability` returned, as in the user's table."""
        assert self.classes is not None
        best = class_numbers(self.classes)[np.argmax(probability.to_numpy(np.float64), axis=1)]
        return self.as_given(pd.Series(best, probability.index).where(probability.notna().all(axis=1)))

    def as_given(self, numbers: pd.Series) -> pd.Series:
        """Return classes that are stored as numbers as they are in the user's table."""
        if self.classes is None:
            return numbers
        order = np.argsort(class_numbers(self.classes), kind="stable")
        places = np.searchsorted(class_numbers(self.classes)[order], numbers.to_numpy(np.float64, na_value=np.nan))
        places = np.where(numbers.isna(), -1, order[np.minimum(places, len(order) - 1)])
        if isinstance(self.dtype, pd.CategoricalDtype):
            codes = np.append(self.dtype.categories.get_indexer(pd.Index(self.classes)), -1)[places]
            return pd.Series(pd.Categorical.from_codes(codes, dtype=self.dtype), numbers.index)
        classes: pd.Series = pd.Series(list(self.classes), dtype=self.dtype)
        return classes.reindex(places).set_axis(numbers.index)


@dataclass(frozen=True, slots=True)
class _Unit:
    """A label of a model, with its own metrics."""

    key: Any
    """The horizon or the label that distinguishes it from others."""
    result: WalkForward
    at: int
    """The column of the label."""

    @property
    def frames(self) -> tuple[pd.DataFrame, pd.DataFrame] | None:
        """The prediction and the label; None if no window is done."""
        found = self.result.collected
        return None if found.prediction is None or found.label is None else (found.prediction, found.label)

    @property
    def target(self) -> Target:
        return self.result.targets[0]


@dataclass(frozen=True)
class WalkForward:
    """The out-of-sample result of :func:`~rollforge.walk_forward.walk_forward`."""

    plan: Plan
    """The tasks."""
    collected: Collected
    """Their joined result, in the same form as for any experiment. With several horizons it is their average, which no figure
    of this class uses."""
    keys: Keys = field(repr=False)
    folder: FrameFolder = field(repr=False)
    targets: tuple[Target, ...] = field(repr=False)
    """What is predicted for each horizon."""
    row_values: pd.Series | None = field(repr=False, default=None)
    """The group of each row of the table, in its order."""
    parts: Mapping[int, Collected] = field(repr=False, default_factory=dict)
    """With several horizons, the joined result of each."""

    def __repr__(self) -> str:
        return f"<WalkForward {self.experiment_name!r}: {counted(len(self.plan.ids), 'window')}>"

    @html_repr
    def _repr_html_(self) -> Markup:
        metrics = self.metrics if isinstance(self.metrics, pd.DataFrame) else self.metrics.to_frame().T
        shown = [
            Markup(frame.to_html(max_rows=20, float_format="{:.4g}".format, na_rep=""))
            for frame in (metrics, self.windows)
        ]
        notes = [tag("div", "Warning: ", note) for note in self.warnings]
        return summary(self.experiment_name, {"windows": len(self.plan.ids)}, *shown, *notes)

    @functools.cached_property
    def by_horizon(self) -> Mapping[int, WalkForward]:
        """The result of each horizon, with its own metrics, report and figures."""
        if len(self.targets) == 1:
            return {self.targets[0].horizon: self}
        return {
            target.horizon: replace(self, collected=self.parts[target.horizon], targets=(target,), parts={})
            for target in self.targets
        }

    @property
    def prediction(self) -> pd.Series | pd.DataFrame:
        """The prediction of each row that belongs to a test segment, in the order and with the index of the table.

        A series called ``prediction``; with several labels or horizons a frame, one column for each label. A classifier of
        two classes predicts the probability of the larger one (:attr:`probability` has both); one of more classes predicts a
        frame, one column for each class.
        """
        return self._prediction.copy(deep=False)  # changes of it do not change the result

    @functools.cached_property
    def _prediction(self) -> pd.Series | pd.DataFrame:
        found: dict[Any, pd.DataFrame] = {}
        several = any(target.several_classes for target in self.targets)
        for part in self.by_horizon.values():
            target, frame = part.targets[0], part.collected.prediction
            if frame is not None and several:
                of_classes = target.probability(frame)
                found[target.labels[0]] = of_classes if target.several_classes else of_classes.iloc[:, 1:]
            elif frame is not None:
                found |= {label: frame.iloc[:, [at]].set_axis([0], axis=1) for at, label in enumerate(target.labels)}
        return self._columns(found, "prediction", classes=several)

    @property
    def classes(self) -> Mapping[Any, tuple[Any, ...]]:
        """The classes of each label of a classifier, ascending; those of an ordered categorical in its own order.

        Raises
        ------
        DataError
            If the estimator is not a classifier.
        """
        found = {target.labels[0]: target.classes for target in self.targets if target.classes is not None}
        if not found:
            raise DataError("The result has no classes: the estimator is not a classifier that predicts probabilities.")
        return found

    @property
    def probability(self) -> pd.DataFrame:
        """The probability of each class, a column for each, also for two classes; with several horizons, columns (label,
        class).

        Raises
        ------
        DataError
            If the estimator is not a classifier.
        """
        return self._probability.copy(deep=False)

    @functools.cached_property
    def _probability(self) -> pd.DataFrame:
        found = {label: one for label, _, one in self._of_classes()}
        made = self._columns(found, None, classes=True)
        assert isinstance(made, pd.DataFrame)
        return made

    @property
    def predicted_class(self) -> pd.Series | pd.DataFrame:
        """The class with the highest probability of each row of :attr:`prediction`, as in the table; with several horizons a
        frame with one column for each label.

        Raises
        ------
        DataError
            If the estimator is not a classifier.
        """
        found = {label: target.predicted_class(one).to_frame(0) for label, target, one in self._of_classes()}
        return self._columns(found, "predicted_class", classes=False)

    def _of_classes(self) -> Iterator[tuple[Any, Target, pd.DataFrame]]:
        """Yield the labels of a classifier with the probability of each class."""
        for label in self.classes:
            part = next(part for part in self.by_horizon.values() if part.targets[0].labels[0] == label)
            if part.collected.prediction is not None:
                yield label, part.targets[0], part.targets[0].probability(part.collected.prediction)

    @property
    def label(self) -> pd.Series | pd.DataFrame:
        """The label of each row of :attr:`prediction`: a series, or a frame with one column for each label."""
        return self._label.copy(deep=False)

    @functools.cached_property
    def _label(self) -> pd.Series | pd.DataFrame:
        found: dict[Any, pd.DataFrame] = {}
        for part in self.by_horizon.values():
            frame = part.collected.label
            if frame is not None:
                target = part.targets[0]
                found |= {
                    label: target.as_given(frame.iloc[:, at]).to_frame(0) for at, label in enumerate(target.labels)
                }
        return self._columns(found, self.targets[0].labels[0], classes=False)

    @property
    def groups(self) -> pd.Series | None:
        """The group of each row of :attr:`prediction`; None without groups."""
        if self.row_values is None:
            return None
        frames = [part.collected.prediction for part in self.by_horizon.values()]
        done = [frame for frame in frames if frame is not None]
        if not done:
            raise TrainingFailed("No window is done, so there is no prediction.")
        index: pd.Index = functools.reduce(pd.Index.union, [frame.index for frame in done])
        rows = np.sort(self._rows(index))
        return self.row_values.iloc[rows].set_axis(self.keys.index(rows))

    @functools.cached_property
    def windows(self) -> pd.DataFrame:
        """One row for each window: first and last day of its segments, its status, the number of predicted rows, and its
        metrics, see :attr:`metrics`. With several horizons (or labels), one for each of them and each window.
        """
        found = {unit.key: pd.DataFrame(self._window_rows(unit)) for unit in self._units()}
        for frame in found.values():
            frame.index = pd.RangeIndex(1, len(frame) + 1, name="window")
        return self._by_unit(found)

    @functools.cached_property
    def metrics(self) -> pd.Series | pd.DataFrame:
        """The metrics of the whole out-of-sample prediction; with several horizons (or labels) a frame, one row for each.

        ``ic`` and ``rank_ic`` are means over the days of the correlation between the entities' predictions and labels, and
        NaN with one entity; ``correlation`` is over all rows. For a regression also ``rmse``, ``mae`` and ``r2``; for a
        classifier ``log_loss`` (natural logarithm), ``auc`` and ``brier``, and only these for more than two classes; for a
        ranker ``ic`` and ``rank_ic`` only.
        """
        found = {
            unit.key: pd.Series({} if unit.frames is None else unit.target.metrics(*unit.frames, unit.at), dtype=float)
            for unit in self._units()
        }
        if len(found) == 1:
            return next(iter(found.values()))
        units = pd.Index(list(found), name=self._unit_name, tupleize_cols=False)
        return pd.DataFrame(list(found.values()), index=units)

    @functools.cached_property
    def group_metrics(self) -> pd.DataFrame:
        """The metrics of each group's rows, and their number; with several horizons (or labels), of each of them.

        Raises
        ------
        DataError
            If the result has no groups.
        """
        if self.row_values is None:
            raise DataError("The result has no groups. Name their column: walk_forward(…, groups=…).")
        found = {}
        for unit in self._units():
            rows, names = [], []
            for name, prediction, label in self._by_group(unit):
                names.append(name)
                rows.append({"rows": len(prediction), **unit.target.metrics(prediction, label, unit.at)})
            found[unit.key] = pd.DataFrame(rows, index=pd.Index(names, name=self.row_values.name))
        return self._by_unit(found)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the windows and about the result."""
        found = self.collected
        return (*found.plan_warnings, *found.coverage.notes, *found.warnings, *self._class_notes)

    @functools.cached_property
    def _class_notes(self) -> tuple[str, ...]:
        """Warnings about classes that train segments lack, and about classes that are text without an order."""
        notes = []
        for part in self.by_horizon.values():
            target = part.targets[0]
            if target.classes is None:
                continue
            name = repr(str(target.labels[0]))
            for one, windows in part._lacking().items():
                verb = "segment of window" if len(windows) == 1 else "segments of windows"
                notes.append(
                    f"The train {verb} {first_few(windows)} {'has' if len(windows) == 1 else 'have'} no row of the class "
                    f"{shown(one)} of {name}, so it is predicted with probability 0."
                )
            if target.several_classes and are_text(target.classes) and not getattr(target.dtype, "ordered", False):
                notes.append(
                    f"The classes of {name} are text. Reports and figures number them in alphabetical order "
                    f"({first_few(target.classes)}), so their IC means something only if this is the order of the classes."
                )
        return tuple(notes)

    def read_class_notes(self) -> None:
        """Read what the warnings about classes need, so that the result does not depend on the folder of the table later."""
        for part in {id(part): part for part in (self, *self.by_horizon.values())}.values():
            _ = part._class_notes

    def _lacking(self) -> dict[Any, list[int]]:
        """Return the windows whose train segment lacks a class, by class."""
        target = self.targets[0]
        panel = FrameLoader(self.folder.mark).in_folder(self.folder.path)
        column = panel.groups["label"].names.index(str(target.labels[0]))
        found: dict[Any, list[int]] = {}
        for number, window in enumerate(self.collected.schedule.windows, 1):
            parts = [panel.rows(start, end) for start, end in window.segments["train"].parts]
            present = np.unique(np.concatenate([panel.groups["label"].values[rows, column] for rows in parts]))
            for value, one in zip(class_numbers(target.classes or ()), target.classes or (), strict=True):
                if value not in present:
                    found.setdefault(one, []).append(number)
        return found

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
        """The figures of the report.

        Raises
        ------
        ConfigError
            If there are several horizons.
        """
        if len(self.targets) > 1:
            listed = ", ".join(str(target.horizon) for target in self.targets)
            raise ConfigError(
                f"the result has several horizons ({listed}). Choose one: result.by_horizon[{self.targets[0].horizon}].summary."
            )
        return self._summary(None)

    def _summary(self, groups: pd.Series | None) -> Summary:
        from rollforge.report.inputs import report_inputs
        from rollforge.report.summary import summarise

        noted = replace(self.collected, warnings=(*self.collected.warnings, *self._class_notes))
        inputs = report_inputs(
            noted, name=self.experiment_name, session=self.session, config=self.plan.workflow.public_text,
            groups=self.row_groups(groups),
        )  # fmt: skip
        return summarise(inputs)

    def report(self, file: str | Path, *, groups: pd.Series | None = None) -> Path:
        """Write the report as one HTML file, and return its path. With several horizons, it has a part for each.

        Parameters
        ----------
        file : path
            The file.
        groups : Series, optional
            Group of each entity, or of each row of :attr:`prediction`, for the IC within groups; by default the column that
            ``walk_forward(…, groups=…)`` names.
        """
        from rollforge.report.html import write_report

        if len(self.targets) == 1:
            return write_report(self.summary if groups is None else self._summary(groups), file)
        parts = {
            f"Horizon {horizon}": part.summary if groups is None else part._summary(groups)
            for horizon, part in self.by_horizon.items()
        }
        return write_report(replace(next(iter(parts.values())), parts=parts), file)

    @property
    def plot(self) -> ResultPlots:
        """The figures of :mod:`rollforge.plot`, such as ``plot.ic()`` and ``plot.quantiles()``, of the first label. With several
        horizons, those of ``by_horizon``."""
        from rollforge.plot import ResultPlots

        return ResultPlots(self)

    def row_groups(self, groups: pd.Series | None = None) -> pd.Series | None:
        """Return the group of each row of the collected prediction.

        Parameters
        ----------
        groups : Series, optional
            Group of each entity, or of each row of :attr:`prediction`, with its index; by default the column that
            ``walk_forward(…, groups=…)`` names.
        """
        prediction = self.collected.prediction
        if prediction is None or (groups is None and self.row_values is None):
            return None
        if groups is None:
            assert self.row_values is not None
            rows = self.row_values.iloc[self._rows(prediction.index)]
            return pd.Series(rows.to_numpy(), prediction.index, name=rows.name)
        if not groups.index.is_unique:
            raise DataError(f"groups has two rows for {shown(groups.index[groups.index.duplicated()][0])}.")
        if groups.index.nlevels == 1 and len(self.keys.names) == 2:
            return pd.Series(groups.reindex(self.keys.entities).to_numpy(), list(self.folder.codes), name=groups.name)
        given = groups.reindex(self.keys.index(self._rows(prediction.index)))
        return pd.Series(given.to_numpy(object), prediction.index, name=groups.name)

    def _units(self) -> Iterator[_Unit]:
        """Yield what has metrics of its own."""
        for horizon, part in self.by_horizon.items():
            labels = part.targets[0].labels
            for at, label in enumerate(labels):
                yield _Unit(label if len(labels) > 1 else horizon, part, at)

    @property
    def _unit_name(self) -> str:
        return "horizon" if len(self.targets) > 1 else "label"

    def _by_unit(self, found: Mapping[Any, pd.DataFrame]) -> pd.DataFrame:
        if len(found) == 1:
            return next(iter(found.values()))
        made: pd.DataFrame = pd.concat(dict(enumerate(found.values())), names=[self._unit_name])
        assert isinstance(made.index, pd.MultiIndex)
        units = pd.Index(list(found), tupleize_cols=False)  # a label may be a tuple
        made.index = made.index.set_levels([units], level=[0])
        return made

    def _window_rows(self, unit: _Unit) -> Iterator[dict[str, Any]]:
        collected, frames = unit.result.collected, unit.frames
        for window, outcome in zip(collected.schedule.windows, collected.outcomes, strict=True):
            row: dict[str, Any] = {}
            for name, segment in window.segments.items():
                parts = segment.parts
                row[f"{name}_start"] = as_timestamp(parts[0][0])
                row[f"{name}_end"] = as_timestamp(parts[-1][1])
            row["status"] = outcome.task.status.value
            if frames is not None:
                days = slice(row["test_start"], row["test_end"])
                prediction, label = frames[0].loc[days], frames[1].loc[days]
                row["rows"] = len(prediction)
                row |= unit.target.metrics(prediction, label, unit.at)
            yield row

    def _by_group(self, unit: _Unit) -> Iterator[tuple[Hashable, pd.DataFrame, pd.DataFrame]]:
        """Yield the groups with their rows of the prediction and the label; rows without a group belong to none."""
        if unit.frames is None:
            return
        prediction, label = unit.frames
        label = label.reindex(prediction.index)
        for name, rows in prediction.groupby(unit.result.row_groups(), sort=True).indices.items():
            yield name, prediction.iloc[rows], label.iloc[rows]

    def _columns(self, found: Mapping[Any, pd.DataFrame], name: Any, *, classes: bool) -> pd.Series | pd.DataFrame:
        """Return the columns of the labels side by side, as rows of the table."""
        labels = [label for target in self.targets for label in target.labels]
        if not found:
            raise TrainingFailed("No window is done, so there is no prediction.")
        if len(labels) == 1:
            (frame,) = found.values()
            made = self._in_order(frame)
            return made if classes else made.iloc[:, 0].rename(name)
        frame = pd.concat(found.values(), axis=1).sort_index() if len(found) > 1 else next(iter(found.values()))
        if classes:
            keys = [(label, column) for label, one in found.items() for column in one]
            return self._in_order(frame.set_axis(pd.MultiIndex.from_tuples(keys, names=["label", "class"]), axis=1))
        made = self._in_order(frame.set_axis(list(range(len(found))), axis=1))
        made.columns = pd.Index(list(found), tupleize_cols=False)
        return made

    def _in_order(self, found: pd.DataFrame) -> pd.DataFrame:
        """Return rows of the panel as rows of the table, in its order."""
        rows = self._rows(found.index)
        if (np.diff(rows) > 0).all():
            return found.set_axis(self.keys.index(rows), axis=0)
        back = np.argsort(rows, kind="stable")
        return found.iloc[back].set_axis(self.keys.index(rows[back]), axis=0)

    def _rows(self, index: pd.Index) -> NDArray[np.int64]:
        """Return the positions in the table of rows of the panel."""
        codes = {code: i for i, code in enumerate(self.folder.codes)}
        times = index.get_level_values("datetime").to_numpy().astype(self.keys.days.dtype)
        day = np.searchsorted(self.keys.days, times)
        assert isinstance(index, pd.MultiIndex)
        level = index.names.index("instrument")
        entity = index.levels[level].map(codes).to_numpy()[index.codes[level]]
        found: NDArray[np.int64] = np.searchsorted(self._places, day * len(codes) + entity)
        return found if self.keys.order is None else self.keys.order[found]

    @functools.cached_property
    def _places(self) -> NDArray[np.int64]:
        """(rows,): a number for the time and entity of each row, ascending."""
        found = self.keys.time.astype(np.int64) * len(self.folder.codes) + self.keys.entity
        return found if self.keys.order is None else found[self.keys.order]


def model_name(horizon: int) -> str:
    """Return the name of the model of a horizon, if there are several."""
    return f"horizon {horizon}"
