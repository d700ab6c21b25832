"""The measured checks of one window: rows, features, labels, processors, models and predictions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from rollforge.build import describe, resolve_references
from rollforge.check.cases import Case, borders_of, days_of, last_read
from rollforge.check.columns import Columns, changed_labels, is_label
from rollforge.check.compare import Difference, compare, until
from rollforge.check.market_copy import TURNS, Change
from rollforge.check.measurement import Measurement, model_kind
from rollforge.check.rebuild import TaskData, fit_model, predict
from rollforge.dates import has_times, show_time, unit_of
from rollforge.errors import counted, first_few
from rollforge.generate.checks import CheckResult
from rollforge.generate.label_horizon import HorizonSource
from rollforge.generate.task_view import TaskView

__all__ = ["WindowCheck"]

_SHIFT = "Shift it so that it reads only the day itself and earlier days, or remove it."


class WindowCheck:
    """The checks of one case."""

    def __init__(self, measurement: Measurement, case: Case, data: TaskData, columns: Columns) -> None:
        self.measurement = measurement
        self.findings = measurement.findings
        self.calendar = measurement.calendar
        self.unit = "bar" if has_times(measurement.calendar) else "trading day"
        self.case = case
        self.data = data
        self.columns = columns
        self.last_read = last_read(case, measurement.calendar, columns)
        self._common = False
        """Whether only common rows are compared, because the other rows were reported already."""

    def fitted(self) -> list[FittedModel]:
        """Report what is already known about the columns, and return the fitted models."""
        self._about_columns()
        return list(self._models())

    def run(self, models: Sequence[FittedModel]) -> None:
        """Compare the data and models with those of changed copies of the market."""
        for day in days_of(self.case, self.calendar, self.columns):
            for _ in range(self.measurement.scope.turns):
                change = Change(day, self.measurement.turn % TURNS)
                self.measurement.turn += 1
                with self.measurement.changed(change, self.case) as other:
                    if other is not None:
                        self._compare(change, other, models)

    @cached_property
    def titles(self) -> tuple[str, ...]:
        return self.case.titles

    def _distance(self, day: np.datetime64, row: np.datetime64) -> int:
        return int(np.searchsorted(self.calendar, day, "right") - np.searchsorted(self.calendar, row))

    # -- columns -------------------------------------------------------------------------------------------------------

    def _about_columns(self) -> None:
        columns, titles = self.columns, self.titles
        if not self.data.stages:
            self.findings.add(
                "features", CheckResult.UNKNOWN, "no handler",
                f"{type(self.data.dataset).__name__} has no DataHandler, so only the model and its predictions are checked.",
                "", titles,
            )  # fmt: skip
            return
        if columns.fixed:
            self.findings.add(
                "features", CheckResult.UNKNOWN, f"fixed {columns.fixed}",
                f"{first_few(columns.fixed, 3)}: the same when all market data change, so these features come from another "
                "source, such as a file.",
                "Check how they were computed: whether they use only earlier days cannot be measured.", titles,
            )  # fmt: skip
        self._about_label()

    def _about_label(self) -> None:
        columns, titles = self.columns, self.titles
        if columns.fixed_labels:
            self.findings.add(
                "label", CheckResult.UNKNOWN, f"fixed {columns.fixed_labels}",
                f"{first_few(columns.fixed_labels, 3)}: the same when all market data change, so the label comes from another "
                "source, such as a file, and how far it looks ahead cannot be measured.",
                f"Set label_horizon, the number of {self.unit}s that the label looks ahead.", titles,
            )  # fmt: skip
            return
        horizon, measured = columns.horizon, columns.measured
        if not columns.has_label:
            if horizon.days != 0:
                text = "No column of the group 'label' was found whose horizon could be measured."
                self.findings.add("label", CheckResult.UNKNOWN, "none", text, "", titles)
            return
        rows = (
            f" ({counted(columns.measured_rows, 'row')} of the instrument)" if columns.measured_rows < measured else ""
        )
        days = f"{counted(measured, self.unit)}{rows}"
        if horizon.days is None:
            purged = "" if self.measurement.measured is None else " The windows of this check were purged by them."
            self.findings.add(
                "label", CheckResult.UNKNOWN, "horizon",
                f"The label looks at least {days} ahead, as measured. The number of days is unknown: {horizon.reason}{purged}",
                f"If it looks no further ahead, set label_horizon: {measured}, and label_days, the number of days that its "
                "return spans, in the workflow or among the handler's arguments.", titles,
            )  # fmt: skip
        elif columns.day is not None and columns.reach > horizon.days:
            source = "declared" if horizon.source is HorizonSource.DECLARED else "by its expression"
            self.findings.leak(
                "label", "horizon",
                f"The label looks at least {days} ahead, not {horizon.days} ({source}): {columns.example}, when only market "
                f"data after {show_time(columns.day)} change.",
                f"Set label_horizon: {columns.reach} or more, and correct the look-ahead of your own operators.",
                titles, columns.day,
            )  # fmt: skip
        else:
            exactly = columns.reach == horizon.days
            confirmed = "which confirms" if exactly else "which is within"
            self.findings.note(
                "label", titles, columns.day,
                f"The label looks at least {days} ahead, {confirmed} its horizon of {counted(horizon.days, self.unit)} "
                f"({horizon.source}).",
            )  # fmt: skip

    # -- one change ----------------------------------------------------------------------------------------------------

    def _compare(self, change: Change, other: TaskData, models: Sequence[FittedModel]) -> None:
        day, test = change.after, self.case.window.segments.get("test")
        same = True
        if self.data.stages:
            with self._failing_as("features", change):
                same = self._rows_and_features(day, other)
                self._segments(day, other)
            with self._failing_as("processors", change):
                if same:  # otherwise processed data change for that reason
                    self._processors(day, other)
        for fitted in models:
            if day == self.last_read:
                with self._failing_as("model", change):
                    self._refit(fitted, day, other)
            learned = self.last_read is not None and day >= self.last_read  # else processors may learn something else
            if learned and test is not None and test.start <= day < test.end:
                with self._failing_as("predictions", change):
                    self._predictions(fitted, day, other)

    @contextlib.contextmanager
    def _failing_as(self, subject: str, change: Change) -> Iterator[None]:
        try:
            yield
        except Exception as exc:  # noqa: BLE001 - user code on unusual values; the result is then not known
            self.measurement.failed(subject, self.case, change, exc)

    def _rows_and_features(self, day: np.datetime64, other: TaskData) -> bool:
        """Compare the raw data; return whether the rows that both have are the same."""
        a, b = (until(data.raw.loc[:, ~is_label(data.raw)], day) for data in (self.data, other))
        columns = a.shape[1] - len(self.columns.fixed)
        self.findings.note(
            "features", self.titles, day,
            f"{counted(columns, 'column')} of {counted(self.measurement.number, 'instrument')} "
            f"{'is' if columns == 1 else 'are'} the same up to each day when all later market data change.",
        )  # fmt: skip
        if self.measurement.members_left:
            self.findings.note(
                "universe",
                self.titles,
                day,
                "Up to each day, the rows are the same when members leave the universe later.",
            )
        difference = compare(a, b)
        self._common = difference is not None and not difference.column
        if difference is not None and not difference.column:
            self._row(day, difference)
            both = a.index.intersection(b.index)
            difference = compare(a.loc[both], b.loc[both])
        if difference is not None:
            more = f", and {difference.columns - 1} more" if difference.columns > 1 else ""
            ahead = counted(self._distance(day, difference.earliest), self.unit)
            self.findings.leak(
                "features", difference.column,
                f"{difference}{more}, when only market data after {show_time(day)} change: it looks at least {ahead} ahead.",
                _SHIFT, self.titles, day,
            )  # fmt: skip
        return difference is None

    def _row(self, day: np.datetime64, difference: Difference, who: str = "") -> bool:
        """Report a row that appears or disappears; return whether it only disappears with its label."""
        within = self._distance(day, difference.day) <= self.columns.ahead
        if difference.after is None and within:
            self.findings.add(
                "universe", CheckResult.UNKNOWN, f"rows {who}",
                f"{who or 'The loader'} leaves out days without a label: {difference}, when market data after "
                f"{show_time(day)} are missing. Whether there will be a label is not known on the day itself.",
                "Keep rows without a label for inference; DropnaLabel drops them for learning.", self.titles, day,
            )  # fmt: skip
            return True
        if not who:
            self.findings.leak(
                "universe", "rows",
                f"Members depend on later days: {difference}, when only market data and members after {show_time(day)} change.",
                "Check the filters of the universe, and what the loader drops.", self.titles, day,
            )  # fmt: skip
        return False

    def _segments(self, day: np.datetime64, other: TaskData) -> None:
        for border in borders_of(self.case, self.calendar):
            if border.day != day or self.columns.fixed_labels:
                continue
            name, later = border.name, border.later
            self.findings.note(
                "label and segments", self.titles, day,
                "The labels of a segment are the same when the market data from the next segment on change.",
            )  # fmt: skip
            learning = self.data.learning_rows(name)
            labels = self.data.raw if learning is None else self.data.raw.loc[self.data.raw.index.isin(learning)]
            found = changed_labels(until(labels, border.end), other.raw, day, border.start)
            if found is None:
                continue
            rows, difference = found
            last = counted(len(rows.get_level_values("datetime").unique()), unit_of(self.calendar))
            self.findings.leak(
                "label and segments", f"{name} {later}",
                f"The labels of the last {last} of {name!r} read market data of {later!r}: {difference}, when "
                f"only market data after {show_time(day)} change.",
                "trunc_days: auto leaves such days out.", self.titles, day,
            )  # fmt: skip

    # -- processors ----------------------------------------------------------------------------------------------------

    def _processors(self, day: np.datetime64, other: TaskData) -> None:
        """Compare the processed data: with the learned parameters held fixed, and learned again."""
        for stage, last in (("infer", day), ("learn", self._labelled(day, other))):
            if stage not in self.data.stages or last is None:
                continue
            fixed = self.data.chains.get(stage)
            learned = self.last_read is not None and day >= self.last_read
            if fixed or (learned and self.data.has_processors):
                self.findings.note(
                    "processors", self.titles, day,
                    "Processed data are the same up to each day when all later market data change, and so is what the "
                    "processors learn when only days after those of train and valid change.",
                )  # fmt: skip
            if fixed:
                found = self._first_step(stage, last, other, fixed, fixed)
                if found is not None and not found[1].column and self._row(day, found[1], found[0]):
                    self._common = True
                    found = self._first_step(stage, last, other, fixed, fixed)
                if found is not None:
                    name, difference = found
                    ahead = counted(self._distance(day, difference.earliest), self.unit)
                    self.findings.leak(
                        "processors", name,
                        f"{name} looks at least {ahead} ahead: {difference}, when only market data after "
                        f"{show_time(day)} change.",
                        "Let it compute each row from the row's day and earlier days.", self.titles, day,
                    )  # fmt: skip
                    continue
            if learned:
                self._learned(stage, last, day, other, fixed)

    def _labelled(self, day: np.datetime64, other: TaskData) -> np.datetime64 | None:
        """Return the last day up to which the labels are the same; None if there is none."""
        place = int(np.searchsorted(self.calendar, day)) - self.columns.ahead
        if is_label(self.data.raw).any():
            found = changed_labels(self.data.raw, other.raw, day)
            if found is None:
                return day
            first = found[0].get_level_values("datetime").min().to_datetime64()
            place = int(np.searchsorted(self.calendar, first)) - 1
        return self.calendar[place] if place >= 0 else None

    def _learned(
        self, stage: str, last: np.datetime64, day: np.datetime64, other: TaskData, fixed: Sequence[object] | None
    ) -> None:
        difference = self._differ(*(_part(data.frame(stage), stage, last) for data in (self.data, other)))
        if difference is None:
            return
        again = other.chains.get(stage)
        found = self._first_step(stage, last, other, fixed, again) if fixed and again else None
        name, difference = found if found is not None else (type(self.data.handler).__name__, difference)
        self.findings.leak(
            "processors", f"{name} learns",
            f"{name} learns from later days than those of train and valid: {difference}, when only market data after "
            f"{show_time(day)} change.",
            "End its fit window with the train segment: fit_end_time: <dataset.kwargs.segments.train.1>.", self.titles, day,
        )  # fmt: skip

    def _first_step(
        self, stage: str, last: np.datetime64, other: TaskData, own: Sequence[object], others: Sequence[object]
    ) -> tuple[str, Difference] | None:
        """Return the first processor after which the data differ up to day `last`; None if they are equal after the last one."""
        *_, (name, frame) = other.processed(others)
        difference = self._differ(_part(self.data.frame(stage), stage, last), _part(frame, stage, last))
        if difference is None:
            return None
        for (step, a), (_, b) in zip(self.data.processed(own), other.processed(others), strict=True):
            found = self._differ(_part(a, stage, last), _part(b, stage, last))
            if found is not None:
                return step, found
        return name, difference

    def _differ(self, a: pd.DataFrame, b: pd.DataFrame) -> Difference | None:
        if self._common:
            both = a.index.intersection(b.index)
            a, b = a.loc[both], b.loc[both]
        return compare(a, b)

    # -- models --------------------------------------------------------------------------------------------------------

    def _models(self) -> Iterator[FittedModel]:
        """Yield the fitted models that predict the same when they are fitted again on the same data."""
        for title, task in self.measurement.fitted(self.case):
            if self.columns.all_fixed:
                self._unknown_model(title, "No data of the model depend on the market data.")
                continue
            resolved = resolve_references(task)
            try:
                fitted = FittedModel(title, resolved, *self._fit(self.data, resolved))
                kind = model_kind(task)
                known = self.measurement.scope.quick and kind in self.measurement.repeatable
                again = fitted.prediction if known else self._fit(self.data, resolved)[1]
            except Exception as exc:  # noqa: BLE001 - few instruments may be too few for the model
                self._unknown_model(title, f"Fitting on {self.measurement.number} instruments failed: {describe(exc)}")
                continue
            if compare(fitted.prediction, again) is not None:
                self._unknown_model(
                    title,
                    f"Fitted twice on the same data, {TaskView(task).model_class} predicts differently.",
                    "Set its random seed.",
                )
                continue
            self.measurement.repeatable.add(kind)
            if not self.data.stages and self._fixed(fitted):
                self._unknown_model(title, "The predictions stay the same when all market data change.")
                continue
            if self.last_read is None:
                self.findings.add(
                    "model", CheckResult.UNKNOWN, "no later days",
                    "The labels of train and valid read the last days of the data, so there are no later days to "
                    "change.", "", [title],
                )  # fmt: skip
            yield fitted

    def _fixed(self, fitted: FittedModel) -> bool:
        """Return whether predictions do not depend on the market data."""
        before = self.calendar[0] - np.timedelta64(1, "D")
        with self.measurement.changed(Change(before, removes=False), self.case) as other:
            return other is not None and compare(fitted.prediction, predict(fitted.model, other)) is None

    def _fit(self, data: TaskData, task: Mapping[str, object]) -> tuple[object, pd.DataFrame]:
        """Return a model fitted on some data, and its prediction of the unchanged data."""
        model = fit_model(data, task, few_rounds=self.measurement.scope.quick)
        return model, predict(model, self.data)

    def _unknown_model(self, title: str, text: str, advice: str = "") -> None:
        for subject in ("model", "predictions"):
            self.findings.add(subject, CheckResult.UNKNOWN, text, text, advice, [title])

    def _refit(self, fitted: FittedModel, day: np.datetime64, other: TaskData) -> None:
        """Fit on data that change only after the last day that labels of train and valid read."""
        name = TaskView(fitted.task).model_class
        self.findings.note(
            "model", [fitted.title], day,
            "Fitted again, models predict the same when only market data after the last day that the labels of train and "
            "valid read change.",
        )  # fmt: skip
        difference = compare(fitted.prediction, self._fit(other, fitted.task)[1])
        if difference is not None:
            self.findings.leak(
                "model", name,
                f"{name} depends on days after those of train and valid: {difference}, when it is fitted on market data that "
                f"change only after {show_time(day)}.",
                "See the leaks above, if there are any; otherwise the model reads other segments.", [fitted.title], day,
            )  # fmt: skip

    def _predictions(self, fitted: FittedModel, day: np.datetime64, other: TaskData) -> None:
        name = TaskView(fitted.task).model_class
        self.findings.note(
            "predictions", [fitted.title], day,
            "With the models held fixed, predictions are the same up to each day when all later market data change.",
        )  # fmt: skip
        difference = self._differ(until(fitted.prediction, day), until(predict(fitted.model, other), day))
        if difference is not None:
            self.findings.leak(
                "predictions", name,
                f"With the fitted {name} held fixed, {difference}, when only market data after {show_time(day)} change.",
                "See the leaks above, if there are any; otherwise the model compares the days of the test segment.",
                [fitted.title], day,
            )  # fmt: skip


@dataclass(frozen=True, slots=True)
class FittedModel:
    """A model, fitted on the unchanged data."""

    title: str
    task: Mapping[str, object]
    """With references resolved."""
    model: object
    prediction: pd.DataFrame
    """Of the unchanged data."""


def _part(frame: pd.DataFrame, stage: str, last: np.datetime64) -> pd.DataFrame:
    """Return the rows up to a day; for inference without labels, which may read later days."""
    return until(frame if stage == "learn" else frame.loc[:, ~is_label(frame)], last)
