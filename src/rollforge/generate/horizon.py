"""Horizons: one task per prediction horizon."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence

from numpy.typing import ArrayLike

from rollforge.errors import ConfigError, SegmentError
from rollforge.generate.base import TaskGen, copy_task
from rollforge.generate.calendar import OutsideCalendar, SessionCalendar, TimeAdjuster
from rollforge.generate.rolling import trunc_segments
from rollforge.generate.segments import PATH
from rollforge.generate.task_view import TaskView
from rollforge.limits import LIMITS
from rollforge.task import Definition

__all__ = ["MultiHorizonGenBase"]


class MultiHorizonGenBase(TaskGen):
    """Generates one task per horizon, with segments truncated so that no label reaches into the test segment.

    Parameters
    ----------
    horizon : sequence of int, or int
        Horizons in days; at least one.
    label_leak_n : int
        Days from the prediction until the label of horizon 0 is known: 2 if the instrument is bought on the next day
        and sold the day after.
    calendar : array of dates, optional
        By default the current session's.
    """

    ta = SessionCalendar()

    def __init__(
        self, horizon: Sequence[int] | int = (5,), label_leak_n: int = 2, *, calendar: ArrayLike | None = None
    ) -> None:
        if not isinstance(horizon, int):
            LIMITS["tasks"].check(len(horizon), "there are", path="horizon")
        self.horizon = [horizon] if isinstance(horizon, int) else list(horizon)
        if not self.horizon:
            raise ConfigError("the list of horizons is empty.", path="horizon")
        self.label_leak_n = label_leak_n
        self.ta = None if calendar is None else TimeAdjuster(calendar=calendar)
        self.test_key = "test"

    def count(self, task: Mapping[str, object]) -> int:
        """Return the number of horizons."""
        return len(self.horizon)

    @abc.abstractmethod
    def set_horizon(self, task: Definition, hr: int) -> None:
        """Set the horizon `hr` in `task`, in place; usually in its label."""

    def generate(self, task: Definition) -> list[Definition]:
        """Return one task per horizon.

        Raises
        ------
        SegmentError
            If nothing is left of a segment.
        """
        tasks = []
        for hr in self.horizon:
            new = copy_task(task)
            self.set_horizon(new, hr)
            self.ta.check_days(TaskView(new).segments)
            segments = self.ta.align_seg(dict(TaskView(new).segments))
            try:
                trunc_segments(
                    self.ta,
                    segments,
                    self.ta.steps_of(hr + self.label_leak_n, TaskView(new).freq or "day"),
                    self.test_key,
                )
            except OutsideCalendar as exc:
                raise SegmentError(f"horizon {hr}: {exc}", path=PATH) from exc
            tasks.append(TaskView(new).with_segments({n: self.ta.written(s) for n, s in segments.items()}))
        return tasks
