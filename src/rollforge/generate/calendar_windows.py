"""Windows by the calendar: a model is trained again at the end of each week, month, quarter or year."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from rollforge.dates import DayLike, as_timestamp, end_of, read_bound, read_timestamp, start_of
from rollforge.errors import ConfigError, SegmentError, nearest
from rollforge.frequency import frequency
from rollforge.generate.backtests import move_backtests
from rollforge.generate.base import TaskGen, copy_task
from rollforge.generate.calendar import SessionCalendar, TimeAdjuster
from rollforge.generate.fit_window import move_fit_window
from rollforge.generate.label_horizon import LabelHorizon
from rollforge.generate.offsets import Offset, period_starts, read_length, read_offset
from rollforge.generate.rolling import Segments, purge_horizon, truncated_segments, with_row_purge
from rollforge.generate.segments import PATH, bounds, has_intervals, validate_segments
from rollforge.generate.task_view import TaskView
from rollforge.limits import LIMITS
from rollforge.task import Definition

__all__ = ["CalendarGen"]

log = logging.getLogger(__name__)

Span = tuple[pd.Timestamp | None, pd.Timestamp | None]

_SEGMENTS = ("train", "valid", "test")
HOLIDAYS = np.timedelta64(10, "D")
"""A duration may begin this much before the data, whose first day may be the first trading day after holidays."""


class CalendarGen(TaskGen):
    """Generates one task per training, which takes place at the end of each week, month, quarter or year.

    A model is trained after the close of the last trading day of a period, and predicts every trading day until it is
    trained again. The test segments therefore have no gaps and do not overlap, and the last one ends where that of the
    template ends.

    Parameters
    ----------
    retrain : str or offset
        How often a model is trained: ``"week"`` (the same as ``"W"``), ``"month"``, ``"quarter"`` or ``"year"``, also
        with a number (``"2 months"``), or any pandas offset, such as ``"W-FRI"``, ``"QE-FEB"`` or ``"20B"``. After an
        offset to the beginning of a period (``"MS"``), a test segment begins on its date instead of the day after it.
        The first test segment begins where that of the template begins.
    train : int, str or offset, optional
        Length of the training segment: a number of trading days, or a duration such as ``"3 years"``, ``"18 months"``
        or ``"90D"``, counted back from the beginning of the validation segment. With ``rtype="expanding"``, that of the
        first window. By default the number of trading days in the template; with ``"expanding"``, its first day.
    valid : int, str or offset, optional
        Length of the validation segment, counted back from the test segment; 0 for none. By default the number of trading
        days in the template.
    predict : str or offset, optional
        Splits the test segment of each model into intervals, one for each of these periods, for models that predict
        several months before they are trained again (``retrain="quarter", predict="month"``). A model is still trained
        once, and every trading day is predicted. By default the test segment is one interval.
    rtype : str
        "sliding": the training segment keeps its length. "expanding": it keeps its first day.
    trunc_days : int, "auto" or None
        "auto": every segment ends as many days before the next as the label looks ahead, so no label reaches into a later
        segment. int: train and valid end this many trading days before the test starts. None: no truncation. The days
        left out are taken from the end of the segments.
    roll_fit_window : bool
        If True, ``fit_start_time`` and ``fit_end_time`` of the handler and its processors, where they are given, are those of
        the training segment.
    roll_backtest : bool
        If True, the days of backtest records are clipped to the test segment.
    calendar : array of dates, optional
        By default the current session's.
    freq : str, optional
        With intraday data, lengths are numbers of days, or of bars if this is the frequency of the data, such as ``60min``.

    Raises
    ------
    ConfigError
        If an argument is invalid.

    Examples
    --------
    Train at the end of each month on the last two months, for a label that looks two days ahead:

    >>> import pandas as pd
    >>> days = pd.bdate_range("2024-01-01", "2024-06-28")
    >>> template = {"dataset": {"kwargs": {"segments": {
    ...     "train": ("2024-01-01", "2024-02-29"), "test": ("2024-03-01", "2024-05-15")}}}}
    >>> from rollforge.generate.segments import days_text
    >>> def show(tasks):
    ...     for t in tasks:
    ...         print(*(f"{k} {days_text(s)}" for k, s in t["dataset"]["kwargs"]["segments"].items()), sep=" | ")
    >>> show(CalendarGen("month", train="2 months", trunc_days=3, calendar=days).generate(template))
    train 2024-01-01 to 2024-02-27 | test 2024-03-01 to 2024-03-29
    train 2024-02-01 to 2024-03-27 | test 2024-04-01 to 2024-04-30
    train 2024-03-01 to 2024-04-26 | test 2024-05-01 to 2024-05-15

    Train at the end of each quarter on all days before, and hold out the last 20 trading days:

    >>> show(CalendarGen("quarter", valid=20, rtype="expanding", trunc_days=None, calendar=days).generate(template))
    train 2024-01-01 to 2024-02-01 | valid 2024-02-02 to 2024-02-29 | test 2024-03-01 to 2024-03-29
    train 2024-01-01 to 2024-03-01 | valid 2024-03-04 to 2024-03-29 | test 2024-04-01 to 2024-05-15
    """

    only_windows = True
    test_key = "test"
    ta = SessionCalendar()
    _said = False  # that a model is trained only once

    def __init__(
        self,
        retrain: str | Offset = "month",
        train: int | str | Offset | None = None,
        valid: int | str | Offset | None = None,
        predict: str | Offset | None = None,
        rtype: str = TimeAdjuster.SHIFT_SD,
        trunc_days: int | Literal["auto"] | None = "auto",
        *,
        roll_fit_window: bool = True,
        roll_backtest: bool = True,
        calendar: ArrayLike | None = None,
        freq: str | None = None,
    ) -> None:
        self.retrain = read_offset(retrain, "retrain")
        self.train = None if train is None else read_length(train, "train")
        self.valid = None if valid is None else read_length(valid, "valid")
        self.predict = None if predict is None else read_offset(predict, "predict")
        if self.train == 0:
            raise ConfigError("must be at least one trading day.", path="train")
        kinds = (TimeAdjuster.SHIFT_SD, TimeAdjuster.SHIFT_EX)
        if rtype not in kinds:
            raise ConfigError(
                f"must be {' or '.join(map(repr, kinds))}, found {rtype!r}.{nearest(str(rtype), kinds)}", path="rtype"
            )
        whole = isinstance(trunc_days, int) and not isinstance(trunc_days, bool) and trunc_days >= 0
        if trunc_days is not None and trunc_days != "auto" and not whole:
            raise ConfigError(f"must be 'auto' or a number of days, found {trunc_days!r}.", path="trunc_days")
        self.rtype, self.trunc_days = rtype, trunc_days
        self.roll_fit_window, self.roll_backtest = roll_fit_window, roll_backtest
        self.freq = None if freq is None else frequency(freq)
        self.ta = None if calendar is None else TimeAdjuster(calendar=calendar, freq=freq)

    def count(self, task: Mapping[str, object]) -> int:
        """Return the number of windows.

        Raises
        ------
        SegmentError
            If the test segment is invalid.
        """
        return len(self._starts(task, self.retrain))

    def generate(self, task: Definition) -> list[Definition]:
        """Return one task per training.

        Parameters
        ----------
        task : dict
            The template. Its test segment is the whole out-of-sample period. Its other segments give the lengths that are
            not arguments.

        Raises
        ------
        SegmentError
            If the segments are invalid, a training segment would begin before the data, or nothing is left of a segment
            after truncation.
        TooLarge
            If there would be more windows than the limit allows.
        """
        self._check(task)
        starts = self._starts(task, self.retrain)
        LIMITS["tasks"].check(len(starts), "its windows are", path="retrain")
        if len(starts) == 1 and not self._said:
            self._said = True
            log.warning(
                "No period of %s ends between the first and the last test day, so each model is trained only once.",
                self.retrain.freqstr,
            )
        return list(self._windows(task, starts))

    def gen_following_tasks(self, task: Definition, test_end: DayLike | None) -> Iterator[Definition]:
        """Yield the tasks that follow a generated task, up to the window that contains `test_end`.

        Parameters
        ----------
        task : dict
            A task whose segments are those of one window; it is not yielded itself. Segments whose length is not an
            argument keep their number of trading days in it, including those left out before the next segment.
        test_end : date, optional
            The last day to test. With None, the last window is open.

        Raises
        ------
        SegmentError
            As for :meth:`generate`.
        """
        segments = TaskView(task).segments
        self._check(task, (name for name in segments if name != "test"))
        end = None
        if test_end is not None:
            end = end_of(test_end, "test_end") if self.ta.by_bars else read_timestamp(test_end, "test_end")
        spans = {name: bounds(name, segments[name]) for name in _SEGMENTS if name in segments}
        begins = {name: span.positions(self.ta.cals)[0] for name, span in spans.items()}
        if end is not None and end.to_datetime64() < self.ta.cals[min(begins["test"], len(self.ta.cals) - 1)]:
            return
        parts: dict[str, Any] = {"test": (spans["test"].start, end)}
        for (name, first), (later, stop) in pairwise(sorted(begins.items(), key=lambda pair: _SEGMENTS.index(pair[0]))):
            if stop <= first:
                raise SegmentError(f"does not begin before {later}.", path=f"{PATH}.{name}")
            parts[name] = (as_timestamp(self.ta.cals[first]), as_timestamp(self.ta.cals[stop - 1]))
        whole = TaskView(copy_task(task)).with_segments({name: parts[name] for name in _SEGMENTS if name in parts})
        fixed = spans["train"].start if self.rtype == TimeAdjuster.SHIFT_EX else None
        yield from self._windows(whole, self._starts(whole, self.retrain)[1:], fixed)

    def _check(self, task: Definition, names: Iterable[str] = _SEGMENTS) -> None:
        """Raise an error if a segment cannot be moved."""
        validate_segments(task, self.ta.cals, needed=("train", "test"))
        self.ta.check_days(TaskView(task).segments)
        single = set(names)
        for name, segment in TaskView(task).segments.items():
            if name not in _SEGMENTS:
                raise SegmentError(
                    "CalendarGen creates the segments train, valid and test, and cannot move others.",
                    path=f"{PATH}.{name}",
                )
            if name in single and has_intervals(segment):
                raise SegmentError("has several intervals, which CalendarGen cannot move.", path=f"{PATH}.{name}")

    def _windows(
        self, task: Definition, starts: Sequence[np.datetime64], fixed: np.datetime64 | None = None
    ) -> Iterator[Definition]:
        """Yield the windows whose test segments begin on dates.

        Parameters
        ----------
        task : dict
            The template.
        starts : sequence of datetime64[D]
            The dates.
        fixed : datetime64[D], optional
            First training day, if it is that of an earlier window.
        """
        test = bounds("test", TaskView(task).segments["test"])
        last = len(self.ta.cals) - 1 if test.end is None else test.positions(self.ta.cals)[1] - 1
        horizon = purge_horizon(task, self.trunc_days)
        template = with_row_purge(task, horizon)
        for start, following in zip(starts, [*starts[1:], None][: len(starts)], strict=True):
            stop = last + 1 if following is None else self._position(following)
            segments = self._segments(task, start, stop, fixed)
            if self.rtype == TimeAdjuster.SHIFT_EX:
                fixed = read_bound(segments["train"][0])
            segments = self._truncated(segments, horizon)
            if test.end is None and following is None:
                segments["test"] = (segments["test"][0], None)
            yield self._task(template, segments)

    def _starts(self, task: Mapping[str, object], offset: Offset) -> list[np.datetime64]:
        """Return the dates on which the periods of the test segment begin; each period has at least one trading day."""
        validate_segments(task, self.ta.cals, needed=("test",))
        test = bounds("test", TaskView(task).segments["test"])
        first, stop = test.positions(self.ta.cals)
        found = [self.ta.cals[first] if test.start is None else test.start]
        position: int | None = first
        while position is not None:
            # Counted from a trading day of the window, so that the next one does not depend on those before it.
            found_next = self._next_start(offset, position, stop)
            position = None if found_next is None else self._position(found_next)
            found += [] if found_next is None else [found_next]
        return found

    def _next_start(self, offset: Offset, position: int, stop: int) -> np.datetime64 | None:
        """Return the date on which the next period begins that has a trading day before `stop`; None if there is none."""
        for day in period_starts(offset, self.ta.cals[position], self.ta.cals[stop - 1]):
            if self._position(day) > position:  # else no trading day lies between
                return day
        return None

    def _position(self, day: np.datetime64) -> int:
        """Return the position of the first trading day on or after a date."""
        return int(np.searchsorted(self.ta.cals, day))

    def _segments(self, task: Definition, start: np.datetime64, stop: int, fixed: np.datetime64 | None) -> Segments:
        """Return the segments of the window whose test segment begins on a date, before truncation.

        Parameters
        ----------
        task : dict
            The template.
        start : datetime64[D]
            The date; the first trading day may be later.
        stop : int
            Position after the last day of the test segment.
        fixed : datetime64[D] or None
            First training day, if it is that of an earlier window.
        """
        segments: Segments = {"test": self._span(self._position(start), stop)}
        before = start
        length = self._days_in(task, "valid") if self.valid is None else self.valid
        if length != 0:
            before = self._back(task, start, length, "valid", start)
            segments = {"valid": self._span(self._position(before), self._position(start), "valid", start), **segments}
        if fixed is None and self.train is None and self.rtype == TimeAdjuster.SHIFT_EX:
            fixed = bounds("train", TaskView(task).segments["train"]).start or self.ta.cals[0]
        if fixed is None:
            fixed = self._back(task, before, self.train or self._days_in(task, "train"), "train", start)
        return {"train": self._span(self._position(fixed), self._position(before), "train", start), **segments}

    def _truncated(self, segments: Segments, horizon: LabelHorizon | None) -> Segments:
        if isinstance(self.trunc_days, int):
            limit = self._position(read_bound(segments["test"][0])) - self.trunc_days
            for name, (start, _) in segments.items():
                if name != "test" and self._position(read_bound(start)) > limit:  # Qlib's rule would begin it earlier
                    raise SegmentError(f"nothing is left after truncation by {self.trunc_days}.", path=f"{PATH}.{name}")
        return truncated_segments(self.ta, segments, self.trunc_days, horizon)

    def _days_in(self, task: Definition, name: str) -> int:
        """Return the number of trading days of a segment of the template."""
        if name not in TaskView(task).segments:
            return 0
        first, stop = bounds(name, TaskView(task).segments[name]).positions(self.ta.cals)
        return stop - first

    def _span(self, first: int, stop: int, name: str = "test", start: np.datetime64 | None = None) -> Span:
        if first >= stop:
            raise SegmentError(f"has no trading day in the window that tests from {start}.", path=name)
        return as_timestamp(self.ta.cals[first]), as_timestamp(self.ta.cals[stop - 1])

    def _back(
        self, task: Definition, day: np.datetime64, length: int | Offset, name: str, start: np.datetime64
    ) -> np.datetime64:
        """Return the date on which a segment of a length begins that ends before `day`."""
        earliest = _first_day(task, self.ta.cals[0])
        if isinstance(length, int):
            position = self._position(day) - length
            found = self.ta.cals[position] if position >= 0 else np.datetime64("NaT", "D")
            fits = bool(found >= earliest)
        else:
            found = np.datetime64(as_timestamp(day) - length, "D")
            fits = bool(found >= earliest - HOLIDAYS)
        if not fits:
            raise SegmentError(
                f"in the window that tests from {start}, the segment would begin before the data, which begin on "
                f"{earliest}. Shorten it, or begin the test segment later.",
                path=name,
            )
        return max(found, earliest)

    def _task(self, template: Definition, segments: Segments) -> Definition:
        """Return the task of a window, whose test segment is split into the periods of `predict`."""
        parts = {**segments, "test": self._intervals(segments["test"])}
        written = {name: self.ta.written(segment) for name, segment in parts.items()}
        end = self.ta.written_ends(segments["test"])[1]
        task = TaskView(copy_task(template)).with_segments(written)
        if self.roll_fit_window:
            move_fit_window(task, self.ta.written_ends(segments["train"]))
        kwargs = TaskView(task).handler_kwargs
        given = None if kwargs is None else kwargs.get("end_time")
        reference = isinstance(given, str) and given.startswith("<")
        later = given is not None and (end is None or (not reference and end_of(given) < start_of(end)))
        if kwargs is not None and later:
            kwargs["end_time"] = end  # an open test segment has the days that will be added to the data
        if self.roll_backtest and task.get("record"):
            task["record"] = move_backtests(task)
        return task

    def _intervals(self, test: Span) -> Any:
        """Return a test segment split into the periods of `predict`; a single interval as a pair."""
        if self.predict is None:
            return test
        first, stop = bounds("test", self.ta.exact(test)).positions(self.ta.cals)
        inside, following = [first], self._next_start(self.predict, first, stop)
        while following is not None:
            inside.append(self._position(following))
            following = self._next_start(self.predict, inside[-1], stop)
        inside.append(stop)
        days = [(as_timestamp(self.ta.cals[a]), as_timestamp(self.ta.cals[b - 1])) for a, b in pairwise(inside)]
        parts = [*days[:-1], (days[-1][0], test[1])]  # whose end may be open
        return parts if len(parts) > 1 else parts[0]


def _first_day(task: Definition, calendar_start: np.datetime64) -> np.datetime64:
    """Return the first day on which a task has data: the calendar's, or that of the handler."""
    given = (TaskView(task).handler_kwargs or {}).get("start_time")
    if given is None or (isinstance(given, str) and given.startswith("<")):
        return calendar_start
    return max(calendar_start, read_bound(given, "task.dataset.kwargs.handler.kwargs.start_time"))
