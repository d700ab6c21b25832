"""Rolling windows: one task per window."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import pandas as pd
from numpy.typing import ArrayLike

from rollforge.arguments import whole_number
from rollforge.build import locate
from rollforge.dates import DayLike, end_of, read_bound, read_timestamp, show_time, start_of
from rollforge.errors import RollforgeError, SegmentError, nearest, shown
from rollforge.features.dataset import DatasetH
from rollforge.frequency import frequency
from rollforge.generate.backtests import move_backtests
from rollforge.generate.base import TaskGen, copy_task
from rollforge.generate.calendar import OutsideCalendar, SessionCalendar, TimeAdjuster
from rollforge.generate.fit_window import move_fit_window
from rollforge.generate.label_horizon import LabelHorizon, known_horizon
from rollforge.generate.segments import PATH, has_intervals, neighbours, ordered, validate_segments
from rollforge.generate.task_view import TaskView
from rollforge.limits import LIMITS
from rollforge.task import Definition

__all__ = [
    "RollingGen", "handler_mod", "purge_horizon", "purge_segments", "trunc_segments", "truncated_segments",
    "with_row_purge",
]  # fmt: skip

Segments = dict[str, tuple[pd.Timestamp | None, pd.Timestamp | None]]


def handler_mod(task: Definition, rolling_gen: RollingGen) -> None:
    """Extend the handler's end, in place, to the end of the window's test segment.

    An open test end gives an open handler end (Qlib keeps the end of the first window, so the last window has no data).
    """
    kwargs = TaskView(task).handler_kwargs
    if kwargs is None or kwargs.get("end_time") is None:
        return
    end = TaskView(task).segments[rolling_gen.test_key][1]
    if end is None or rolling_gen.ta.cal_interval(kwargs["end_time"], end) < 0:
        kwargs["end_time"] = end


def trunc_segments(ta: TimeAdjuster, segments: Segments, days: int, test_key: str = "test") -> None:
    """Truncate every segment except the test segment, in place, to end `days` trading days before the test starts."""
    start = segments[test_key][0]
    for key in segments:
        if key != test_key:
            segments[key] = ta.truncate(segments[key], start, days)


def purge_segments(ta: TimeAdjuster, segments: Segments, days: int) -> None:
    """Truncate every segment, in place, so that labels that look `days` trading days ahead end before the next segment.

    A segment that already ends early enough is unchanged, so that purging twice changes nothing.

    Raises
    ------
    OutsideCalendar
        If nothing is left of a segment.
    """
    for name, later in neighbours(ordered({name: ta.exact(segment) for name, segment in segments.items()})):
        start, end = segments[name]
        limit = (ta.align_idx(segments[later][0]) or 0) - days - 1
        if limit < 0:
            raise OutsideCalendar(f"fewer than {days + 1} trading days lie before the {later} segment.")
        if end is not None and (ta.align_idx(end, "end") or 0) > limit:
            segments[name] = (start, ta.get(limit))


def purge_horizon(task: Mapping[str, object], trunc_days: int | Literal["auto"] | None) -> LabelHorizon | None:
    """Return the label horizon by which a task's segments are purged: None unless `trunc_days` is ``"auto"``.

    Raises
    ------
    SegmentError
        If the horizon is needed but unknown.
    """
    return known_horizon(task, "trunc_days") if trunc_days == "auto" else None


def truncated_segments(
    ta: TimeAdjuster,
    segments: Segments,
    trunc_days: int | Literal["auto"] | None,
    horizon: LabelHorizon | None,
    test_key: str = "test",
) -> Segments:
    """Return the segments of a window after truncation by `trunc_days`, see :class:`RollingGen`.

    Parameters
    ----------
    horizon : LabelHorizon, optional
        Result of :func:`purge_horizon`.

    Raises
    ------
    SegmentError
        If nothing is left of a segment.
    """
    if trunc_days is None:
        return segments
    cut = dict(segments)
    try:
        if horizon is not None:
            purge_segments(ta, cut, ta.steps_of(horizon.days or 0, horizon.freq))
        elif isinstance(trunc_days, int):
            trunc_segments(ta, cut, trunc_days, test_key)
    except OutsideCalendar as exc:
        raise SegmentError(f"trunc_days={trunc_days!r}: {exc}", path=PATH) from exc
    for name, (start, end) in cut.items():
        if start is not None and end is not None and start > end:
            first, last = (show_time(read_bound(day)) for day in (start, segments[name][1]))
            raise SegmentError(
                f"nothing is left after truncation by {trunc_days!r}: all days from {first} to {last} are too close to the next "
                "segment. Make the segment longer.",
                path=f"{PATH}.{name}",
            )
    return cut


def with_row_purge(
    task: Mapping[str, object], horizon: LabelHorizon | None, path: str = "trunc_days", embargo: int = 0
) -> Definition:
    """Return a task whose dataset leaves out training rows whose labels reach into the next segment.

    A task whose label counts trading days is returned unchanged: truncating its segments is enough.

    Parameters
    ----------
    task : mapping
        A task or template; it is not modified.
    horizon : LabelHorizon, optional
        Its known label horizon; None changes nothing.
    path : str
        The setting that requires the purge, for the error.
    embargo : int
        Number of further rows of each instrument to leave out after the test segment.

    Raises
    ------
    SegmentError
        If the dataset's class does not accept `purge_rows`, or `embargo_rows` if there is an embargo.
    """
    if horizon is None or not horizon.in_rows or not horizon.days:
        return dict(task)
    dataset: Any = task["dataset"]
    rows = {"purge_rows": horizon.days} | ({"embargo_rows": embargo} if embargo else {})
    refused = next((name for name in rows if not _accepts(dataset, name)), "")
    if refused:
        raise SegmentError(
            f"'auto' must leave out rows of each instrument, because {horizon.reason.rstrip('.')}; but the dataset "
            f"{dataset['class']} does not accept {refused}. Derive it from DatasetH and pass on its arguments, or write "
            "a number of days.",
            path=path,
        )
    return TaskView(task).with_dataset_kwargs(**rows)


def _accepts(dataset: Mapping[str, Any], name: str) -> bool:
    try:
        target = locate(dataset["class"], dataset.get("module_path")) if "class" in dataset else DatasetH
    except RollforgeError:
        return True  # the error is reported when the dataset is built
    if not isinstance(target, type) or not issubclass(target, DatasetH):
        return False
    parameters = inspect.signature(target).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


class RollingGen(TaskGen):
    """Generates one task per window: each tests the `step` trading days after the previous window.

    Parameters
    ----------
    step : int
        Length of a test window in trading days; with `freq`, in bars.
    rtype : str
        ``ROLL_SD`` ("sliding"): every segment moves and keeps its length. ``ROLL_EX`` ("expanding"): the train segment
        keeps its start and grows.
    ds_extra_mod_func : callable, optional
        ``(task, rolling_gen)``, modifies each new task in place; :func:`handler_mod` extends the handler's end.
    test_key, train_key : str
        Names of the segments.
    trunc_days : int, "auto" or None
        int: train and valid end this many trading days before the test starts, as in Qlib. "auto": every segment ends
        as many days before the next as the label looks ahead, so no label reaches into a later segment; if that number
        is unknown, an error says how to declare it. None: no truncation.
    task_copy_func : callable
        Copies the template for each window.
    clip_test_end : bool
        True clips the last test window at the end of the template's test segment; by default, as in Qlib, it has its
        full length.
    roll_fit_window : bool
        True moves the ``fit_start_time`` and ``fit_end_time`` of the handler and its processors with the train segment;
        Qlib does not.
    roll_backtest : bool
        True clips the days of backtest records to each window's test segment; Qlib does not, so that each window's
        backtest covers the days of all windows.
    calendar : array of dates, optional
        By default the current session's.
    freq : str, optional
        With intraday data, windows are made of whole days, or of bars if this is the frequency of the data, such as
        ``60min``. "auto" counts the bars of the label either way.

    Examples
    --------
    Ten trading days; train on four days, test on two, and move by two:

    >>> days = pd.bdate_range("2024-01-01", periods=10)
    >>> template = {"dataset": {"kwargs": {"segments": {
    ...     "train": ("2024-01-01", "2024-01-04"), "test": ("2024-01-05", "2024-01-12")}}}}
    >>> def show(tasks):
    ...     for t in tasks:
    ...         s = t["dataset"]["kwargs"]["segments"]
    ...         print(*(f"{k} {a:%d} to {b:%d}" for k, (a, b) in s.items()), sep=", ")
    >>> show(RollingGen(step=2, rtype=RollingGen.ROLL_SD, calendar=days).generate(template))
    train 01 to 04, test 05 to 08
    train 03 to 08, test 09 to 10
    train 05 to 10, test 11 to 12
    >>> show(RollingGen(step=2, rtype=RollingGen.ROLL_EX, calendar=days).generate(template))
    train 01 to 04, test 05 to 08
    train 01 to 08, test 09 to 10
    train 01 to 10, test 11 to 12

    Leave out three days before each test, for a label that looks two days ahead:

    >>> show(RollingGen(step=3, rtype="sliding", trunc_days=3, calendar=days).generate(template))
    train 01 to 02, test 05 to 09
    train 04 to 05, test 10 to 12
    """

    only_windows = True
    ROLL_EX = TimeAdjuster.SHIFT_EX
    ROLL_SD = TimeAdjuster.SHIFT_SD
    ta = SessionCalendar()

    def __init__(
        self,
        step: int = 40,
        rtype: str = ROLL_EX,
        ds_extra_mod_func: Callable[[Definition, RollingGen], None] | None = handler_mod,
        test_key: str = "test",
        train_key: str = "train",
        trunc_days: int | Literal["auto"] | None = None,
        task_copy_func: Callable[[object], Any] = copy_task,
        *,
        clip_test_end: bool = False,
        roll_fit_window: bool = False,
        roll_backtest: bool = False,
        calendar: ArrayLike | None = None,
        freq: str | None = None,
    ) -> None:
        self.step = whole_number(step, "step", of="trading days", error=SegmentError)
        if rtype not in (self.ROLL_EX, self.ROLL_SD):
            kinds = (self.ROLL_EX, self.ROLL_SD)
            raise SegmentError(
                f"must be {' or '.join(map(repr, kinds))}, found {rtype!r}.{nearest(str(rtype), kinds)}",
                path="rtype",
            )
        whole = isinstance(trunc_days, int) and not isinstance(trunc_days, bool) and trunc_days >= 0
        if trunc_days is not None and trunc_days != "auto" and not whole:
            raise SegmentError(f"must be 'auto' or a number of days, found {trunc_days!r}.", path="trunc_days")
        for name, func in (("ds_extra_mod_func", ds_extra_mod_func), ("task_copy_func", task_copy_func)):
            if not callable(func) and not (func is None and name == "ds_extra_mod_func"):
                raise SegmentError(f"must be a function, found {shown(func)}.", path=name)
        self.rtype = rtype
        self.ds_extra_mod_func = ds_extra_mod_func
        self.test_key = test_key
        self.train_key = train_key
        self.trunc_days = trunc_days
        self.task_copy_func = task_copy_func
        self.clip_test_end = clip_test_end
        self.roll_fit_window = roll_fit_window
        self.roll_backtest = roll_backtest
        self.freq = None if freq is None else frequency(freq)
        self.ta = None if calendar is None else TimeAdjuster(calendar=calendar, freq=freq)

    def count(self, task: Mapping[str, object]) -> int:
        """Return the maximum number of windows that :meth:`generate` returns.

        Raises
        ------
        SegmentError
            If the test segment is invalid.
        """
        validate_segments(task, self.ta.cals, needed=(self.test_key,))
        start, end = self._align(self.test_key, TaskView(task).segments[self.test_key])
        first = self.ta.align_idx(start) or 0
        last = len(self.ta.cals) - 1 if end is None else self.ta.align_idx(end, "end") or 0
        return max(1, -(-(last - first + 1) // self.step))

    def generate(self, task: Definition) -> list[Definition]:
        """Return one task per window.

        Parameters
        ----------
        task : dict
            The template. Its test segment is the whole out-of-sample period; its other segments are those of the first
            window.

        Raises
        ------
        SegmentError
            If the segments are invalid, or nothing is left of one after truncation.
        """
        validate_segments(task, self.ta.cals, needed=(self.train_key, self.test_key))
        self.ta.check_days(TaskView(task).segments)
        LIMITS["tasks"].check(self.count(task), f"test windows of {self.step} days are", path="step")
        template = TaskView(task).segments
        segments: Segments = {}
        for name, segment in template.items():
            segments[name] = self._align(name, segment)
        test_start, test_end = segments[self.test_key]
        last = test_end if test_end is not None else self.ta.max()
        first = self.ta.align_idx(test_start) or 0
        segments[self.test_key] = (self.ta.get(first), self.ta.get(first + self.step - 1))
        horizon = purge_horizon(task, self.trunc_days)
        segments = truncated_segments(self.ta, segments, self.trunc_days, horizon, self.test_key)
        template = with_row_purge(task, horizon)
        made = self._task(template, segments, last)
        return [made, *self._following(template, segments, last)]

    def _align(self, name: str, segment: Any) -> tuple[pd.Timestamp | None, pd.Timestamp | None]:
        if has_intervals(segment):
            raise SegmentError("has several intervals, which cannot roll; write one.", path=f"{PATH}.{name}")
        ends = segment if isinstance(segment, (list, tuple)) else (segment.start, segment.stop)
        # Given by the user, a Timestamp at midnight is a day; those of the calendar are bars.
        start, end = (None if one is None else read_bound(one) for one in ends) if self.ta.by_bars else ends
        # An end past the calendar becomes the calendar's last day: only a test end may be open.
        aligned: tuple[pd.Timestamp | None, pd.Timestamp | None] = self.ta.align_seg((start, end))
        if aligned[1] is None and name != self.test_key:
            raise SegmentError("has no end. Only the test segment may be open.", path=f"{PATH}.{name}")
        return aligned

    def _task(self, template: Definition, segments: Segments, last: pd.Timestamp) -> Definition:
        kept = dict(segments)
        start, end = kept[self.test_key]
        if self.clip_test_end and (end is None or end > last):
            kept[self.test_key] = (start, last)
        written = {name: self.ta.written(segment) for name, segment in kept.items()}
        task = TaskView(self.task_copy_func(template)).with_segments(written)
        if self.roll_fit_window:
            move_fit_window(task, self.ta.written_ends(kept[self.train_key]), add=True)
        if self.roll_backtest and task.get("record"):
            task["record"] = move_backtests(task, self.test_key)
        if self.ds_extra_mod_func is not None:
            self.ds_extra_mod_func(task, self)
        return task

    def gen_following_tasks(self, task: Definition, test_end: DayLike | None) -> Iterator[Definition]:
        """Yield the tasks that follow a generated task, up to the window that contains `test_end`.

        With ``trunc_days="auto"`` they are purged, whether `task` is or not.

        Parameters
        ----------
        task : dict
            A task whose segments are those of one window; it is not yielded itself.
        test_end : date, optional
            The last day to test. None is the last day of the calendar.

        Raises
        ------
        SegmentError
            With ``trunc_days="auto"``, if the label's horizon is unknown, or nothing is left of a segment.
        """
        segments = dict(TaskView(task).segments)
        test = segments[self.test_key]
        first_day = test.start if isinstance(test, slice) else test[0]
        if first_day is not None and start_of(first_day, f"{PATH}.{self.test_key}") > self.ta.max():
            return  # the data are bounded by a day before the task's test segment
        horizon = purge_horizon(task, self.trunc_days)
        if horizon is not None:
            aligned = {name: self._align(name, segment) for name, segment in segments.items()}
            segments = truncated_segments(self.ta, aligned, self.trunc_days, horizon, self.test_key)
            task = with_row_purge(task, horizon)
        start, end = self._align(self.test_key, segments[self.test_key])
        if end is None or self.clip_test_end:  # it had fewer days than the windows that follow it
            first = self.ta.align_idx(start) or 0
            segments[self.test_key] = (start, self.ta.get(first + self.step - 1))
        if test_end is None:
            last = self.ta.max()
        else:
            last = end_of(test_end, "test_end") if self.ta.by_bars else read_timestamp(test_end, "test_end")
        yield from self._following(task, segments, last)

    def _following(self, template: Definition, segments: Segments, last: pd.Timestamp) -> Iterator[Definition]:
        while True:
            try:
                segments = {
                    name: self.ta.shift(
                        segment,
                        self.step,
                        TimeAdjuster.SHIFT_EX
                        if name == self.train_key and self.rtype == self.ROLL_EX
                        else TimeAdjuster.SHIFT_SD,
                    )
                    for name, segment in segments.items()
                }
            except OutsideCalendar:
                return  # no window is left inside the calendar
            start = segments[self.test_key][0]
            if start is None or start > last:
                return
            yield self._task(template, segments, last)
