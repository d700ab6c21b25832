"""Purged cross-validation: tasks that test every part of a period, and train on the rest of it."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from rollforge.arguments import whole_number
from rollforge.dates import Days, as_timestamp
from rollforge.errors import ConfigError, SegmentError, counted
from rollforge.generate.backtests import move_backtests
from rollforge.generate.base import TaskGen, copy_task
from rollforge.generate.calendar import SessionCalendar, TimeAdjuster
from rollforge.generate.fit_window import move_fit_window
from rollforge.generate.folds import (
    Range,
    as_ranges,
    combined_tests,
    embargo_days,
    equal_groups,
    hold_out,
    training_days,
)
from rollforge.generate.label_horizon import LabelHorizon, known_horizon
from rollforge.generate.rolling import with_row_purge
from rollforge.generate.segments import PATH, pieces, validate_segments
from rollforge.generate.task_view import TaskView
from rollforge.limits import LIMITS
from rollforge.task import Definition

__all__ = ["CombinatorialPurgedGen", "PurgedKFoldGen"]


class _PurgedGen(TaskGen):
    """Base class of the generators of purged cross-validation."""

    only_windows = True

    ta = SessionCalendar(future=False)

    def __init__(
        self,
        purge: int | Literal["auto"],
        embargo: float,
        valid: float | None,
        roll_backtest: bool,
        calendar: ArrayLike | None,
    ) -> None:
        whole = isinstance(purge, int) and not isinstance(purge, bool) and purge >= 0
        if purge != "auto" and not whole:
            raise ConfigError(f"must be 'auto' or a number of trading days, found {purge!r}.", path="purge")
        embargo_days(embargo, 1)
        if valid is not None and (isinstance(valid, bool) or not isinstance(valid, (int, float)) or not valid >= 0):
            raise ConfigError(
                f"must be a share of the training days or a number of days, found {valid!r}.", path="valid"
            )
        if isinstance(valid, float) and valid >= 1:
            raise ConfigError(f"a share must be below 1, found {valid!r}. Write days as an int.", path="valid")
        self.purge, self.embargo, self.valid = purge, embargo, valid
        self.roll_backtest = roll_backtest
        self.ta = None if calendar is None else TimeAdjuster(calendar=calendar)

    @property
    @abc.abstractmethod
    def _groups(self) -> int:
        """Number of groups of days."""

    @abc.abstractmethod
    def _tests(self, groups: Sequence[Range]) -> Iterator[tuple[Range, ...]]:
        """Yield the tested groups of each task."""

    def generate(self, task: Definition) -> list[Definition]:
        """Return one task per split.

        Parameters
        ----------
        task : dict
            The template. Its segments together span the period, from the first day of the earliest one to the last day
            of the latest one; they are replaced by ``train``, ``valid`` (if there is one) and ``test``.

        Raises
        ------
        SegmentError
            If the period has too few days, or no training day is left in a split.
        ConfigError
            If `purge` is ``"auto"`` and the label's horizon is unknown.
        TooLarge
            If there would be more tasks than the limit allows.
        """
        validate_segments(task, self.ta.cals, needed=())
        self.ta.check_days(TaskView(task).segments)
        LIMITS["tasks"].check(self.count(task) or 0, f"{type(self).__name__} makes", path="generate")
        horizon = known_horizon(task, "purge") if self.purge == "auto" else None
        days, purge = self._period(task), self._purged_days(horizon)
        if len(days) < self._groups:
            raise SegmentError(
                f"{counted(self._groups, 'group')} of days cannot be formed from {counted(len(days), 'trading day')}.",
                path=PATH,
            )
        embargo = embargo_days(self.embargo, len(days))
        template = with_row_purge(task, horizon, "purge", embargo)
        share = self._valid_share(task)
        tasks = []
        for tests in self._tests(equal_groups(len(days), self._groups)):
            train, valid = training_days(len(days), tests, purge, embargo), np.zeros(len(days), bool)
            size = share if isinstance(share, int) else math.ceil(share * int(train.sum()))
            if size and train.any():
                train, valid = hold_out(train, tests, size, purge)
            if not train.any():
                first, stop = tests[0]
                raise SegmentError(
                    f"no training day is left for the test of {days[first]} to {days[stop - 1]} after leaving out "
                    f"{counted(purge, 'day')} on each side, an embargo of {counted(embargo, 'day')} and "
                    f"{counted(size, 'validation day')}. Use a longer period, or reduce these.",
                    path=f"{PATH}.train",
                )
            tasks.append(self._task(template, days, as_ranges(train), as_ranges(valid), tests))
        return tasks

    def _period(self, task: Definition) -> Days:
        spans = [interval.positions(self.ta.cals) for _, interval in pieces(TaskView(task).segments)]
        found: Days = self.ta.cals[min(first for first, _ in spans) : max(stop for _, stop in spans)]
        return found

    def _purged_days(self, horizon: LabelHorizon | None) -> int:
        if self.purge != "auto":
            return self.purge
        return 0 if horizon is None else self.ta.steps_of(horizon.days or 0, horizon.freq)

    def _valid_share(self, task: Definition) -> float | int:
        """Return the validation days as a share of the training days (float) or as a number (int)."""
        if self.valid is not None:
            return self.valid
        days = {"train": 0, "valid": 0}
        for name, interval in pieces(TaskView(task).segments):
            first, stop = interval.positions(self.ta.cals)
            if name in days:
                days[name] += stop - first
        return days["valid"] / (days["train"] + days["valid"]) if days["train"] else 0

    def _task(
        self, template: Definition, days: Days, train: Sequence[Range], valid: Sequence[Range], tests: Sequence[Range]
    ) -> Definition:
        parts = {"train": train, "valid": valid, "test": tests}
        segments = {
            name: self.ta.written(_segment([_interval(days, part) for part in ranges]))
            for name, ranges in parts.items()
            if ranges
        }
        task = TaskView(copy_task(template)).with_segments(segments)
        # A processor has one fit window, and the days between two training intervals are tested.
        longest = max(train, key=lambda part: part[1] - part[0])
        move_fit_window(task, self.ta.written_ends(_interval(days, longest)))
        if self.roll_backtest and task.get("record"):
            task["record"] = move_backtests(task)
        return task


def _interval(days: Days, part: Range) -> tuple[object, object]:
    return as_timestamp(days[part[0]]), as_timestamp(days[part[1] - 1])


def _segment(parts: list[tuple[object, object]]) -> Any:
    return parts[0] if len(parts) == 1 else parts


class PurgedKFoldGen(_PurgedGen):
    """Generates one task per fold of a period: each tests its fold and trains on the others, with purge and embargo.

    Unlike a rolling window, a fold is also predicted by models that were trained on later days. The result shows how well
    a model generalizes, but not what trading it would have earned.

    Parameters
    ----------
    n_folds : int
        Number of folds, at least 2: consecutive days, of which the first folds have one more if there is a remainder.
    purge : int or "auto"
        Trading days left out on both sides of a test fold, so that no label of the training days reaches a day that a
        label of the test reaches. ``"auto"`` is the label's horizon, see
        :func:`~rollforge.generate.label_horizon.known_horizon`.
    embargo : int or float
        Further trading days left out after a test fold, whose features depend on it; a float is a fraction of the days
        of the period.
    valid : float, int or None
        Validation days: a share of the training days, or a number of days; 0 for none. None takes the share that they
        have in the template. They are the last training days before the test fold, or the last of all if there are too
        few before it, purged on both sides.
    roll_backtest : bool
        If True, the days of backtest records are those of the test fold.
    calendar : array of dates, optional
        By default the current session's.

    Notes
    -----
    Processors are fitted on the longest interval of the training segment, if the template has a fit window.

    Examples
    --------
    Twelve trading days in three folds, for a label that looks one day ahead:

    >>> import pandas as pd
    >>> days = pd.bdate_range("2024-01-01", periods=12)
    >>> template = {"dataset": {"kwargs": {"segments": {
    ...     "train": ("2024-01-01", "2024-01-10"), "test": ("2024-01-11", "2024-01-16")}}}}
    >>> from rollforge.generate.segments import days_text
    >>> for task in PurgedKFoldGen(3, purge=1, embargo=1, calendar=days).generate(template):
    ...     segments = task["dataset"]["kwargs"]["segments"]
    ...     print("test", days_text(segments["test"]), "| train", days_text(segments["train"]))
    test 2024-01-01 to 2024-01-04 | train 2024-01-09 to 2024-01-16
    test 2024-01-05 to 2024-01-10 | train 2024-01-01 to 2024-01-03, 2024-01-15 to 2024-01-16
    test 2024-01-11 to 2024-01-16 | train 2024-01-01 to 2024-01-09
    """

    def __init__(
        self,
        n_folds: int = 5,
        purge: int | Literal["auto"] = "auto",
        embargo: float = 0,
        valid: float | None = None,
        *,
        roll_backtest: bool = True,
        calendar: ArrayLike | None = None,
    ) -> None:
        self.n_folds = whole_number(n_folds, "n_folds", least=2)
        super().__init__(purge, embargo, valid, roll_backtest, calendar)

    @property
    def _groups(self) -> int:
        return self.n_folds

    def count(self, task: Mapping[str, object]) -> int:
        """Return the number of folds."""
        return self.n_folds

    def _tests(self, groups: Sequence[Range]) -> Iterator[tuple[Range, ...]]:
        return combined_tests(groups, 1)


class CombinatorialPurgedGen(_PurgedGen):
    """Generates a task for every choice of `n_tested` out of `n_groups` groups of days, with purge and embargo.

    There are C(`n_groups`, `n_tested`) tasks. Each group is tested by several of them, so their predictions recombine into
    `n_tested` / `n_groups` x C(`n_groups`, `n_tested`) backtest paths, each of which predicts every day once; collecting
    the tasks gives the paths and the distribution of their metrics.

    Parameters
    ----------
    n_groups : int
        Number of groups of consecutive days, at least 2.
    n_tested : int
        Number of groups that a task tests, at least 1 and below `n_groups`.
    purge, embargo, valid, roll_backtest, calendar
        As in :class:`PurgedKFoldGen`, at each tested group.

    Examples
    --------
    >>> import pandas as pd
    >>> days = pd.bdate_range("2024-01-01", periods=12)
    >>> template = {"dataset": {"kwargs": {"segments": {
    ...     "train": ("2024-01-01", "2024-01-10"), "test": ("2024-01-11", "2024-01-16")}}}}
    >>> generator = CombinatorialPurgedGen(4, 2, purge=0, calendar=days)
    >>> generator.count(template), generator.paths
    (6, 3)
    >>> segments = generator.generate(template)[1]["dataset"]["kwargs"]["segments"]
    >>> for name in segments:
    ...     print(name, [f"{first:%d} to {last:%d}" for first, last in segments[name]])
    train ['04 to 08', '12 to 16']
    test ['01 to 03', '09 to 11']
    """

    def __init__(
        self,
        n_groups: int = 6,
        n_tested: int = 2,
        purge: int | Literal["auto"] = "auto",
        embargo: float = 0,
        valid: float | None = None,
        *,
        roll_backtest: bool = True,
        calendar: ArrayLike | None = None,
    ) -> None:
        self.n_groups = whole_number(n_groups, "n_groups", least=2)
        self.n_tested = whole_number(n_tested, "n_tested")
        if self.n_tested >= self.n_groups:
            raise ConfigError(
                f"must be below n_groups, so that a group is left to train on; found {n_tested} of {n_groups}.",
                path="n_tested",
            )
        super().__init__(purge, embargo, valid, roll_backtest, calendar)

    @property
    def _groups(self) -> int:
        return self.n_groups

    @property
    def paths(self) -> int:
        """The number of backtest paths."""
        return math.comb(self.n_groups - 1, self.n_tested - 1)

    def count(self, task: Mapping[str, object]) -> int:
        """Return the number of splits."""
        return math.comb(self.n_groups, self.n_tested)

    def _tests(self, groups: Sequence[Range]) -> Iterator[tuple[Range, ...]]:
        return combined_tests(groups, self.n_tested)
