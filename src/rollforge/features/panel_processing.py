"""Panels that processors compute from another panel: computing them, and growing them with it.

Fitted processors that need only some earlier days do not have to process all days again when the other panel grows: the
days from the first changed one on are processed with what the processors have learned, and the rest stays on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.dates import DayLike, as_timestamp
from rollforge.errors import DataError
from rollforge.features.panel import Group, Panel
from rollforge.features.panel_growth import GrownGroup, Index, commit, first_change, first_changed_day
from rollforge.features.processor_base import Processor, days_needed, learned_by, restore

__all__ = ["PanelProcessing", "fit_and_apply"]


def fit_and_apply(
    chain: Sequence[Processor], frame: pd.DataFrame, explain: Callable[[], str], *, fit: bool = True
) -> pd.DataFrame:
    """Return a frame after fitting and applying processors, one after another.

    Parameters
    ----------
    chain : sequence of Processor
        The processors.
    frame : DataFrame
        The frame that the first of them is fitted to.
    explain : callable
        Returns why no rows are left, for the error message.
    fit : bool
        False applies the processors with what they have learned before.

    Raises
    ------
    DataError
        If no rows are left.
    """
    for processor in chain:
        if fit:
            processor.fit(frame.copy(deep=False))
        frame = processor.apply(frame)
    if frame.empty:
        names = ", ".join(type(p).__name__ for p in chain)
        raise DataError(f"The processors leave no rows: {names}. {explain()}".rstrip())
    return frame


@dataclass(frozen=True, slots=True)
class PanelProcessing:
    """Processors, and the panel that they are applied to."""

    chain: Sequence[Processor]
    base: Panel
    grouped: bool
    """Whether the columns of the frames have group names; otherwise the panel has a single group."""
    explain: Callable[[], str]
    """Returns why the processors leave no rows."""

    def compute(self, start: DayLike | None, end: DayLike | None, folder: Path) -> Panel:
        """Return the processed panel; column groups that no processor changes are copied to a folder without loading.

        Parameters
        ----------
        start, end : date, optional
            First and last day to process; None means open-ended.
        folder : path
            Folder of the new panel.
        """
        touched = self._touched()
        frame = self._frame(touched, start, end)
        rows, index = self.base.rows(start, end), frame.index
        frame = fit_and_apply(self.chain, frame, self.explain)
        made = replace(Panel.from_frame(frame), learned=learned_by(self.chain))
        if len(touched) == len(self.base.groups):
            return made
        return made.with_groups(self.base, rows.start + _kept(index, frame.index), folder)

    def grow(self, old: Panel, state: str) -> bool:
        """Process the days that have changed since a stored panel was computed, and add them to it.

        Parameters
        ----------
        old : Panel
            The stored panel.
        state : str
            The data that it now belongs to; see :meth:`Panel.save`.

        Returns
        -------
        bool
            False if the panel has to be recomputed.
        """
        assert old.stored is not None
        if self.base.stored is None or old.learned is None:
            return False
        touched, version = self._touched(), old.stored.meta["base"]
        own = first_changed_day(self.base.stored, version, touched)
        cut = first_changed_day(self.base.stored, version, list(self.base.groups))
        if cut is False or own is False:
            return False  # another panel was built in the meantime, or this one is older
        back = days_needed(self.chain, own)
        if back is None:
            return False
        restore(self.chain, old.learned)
        if cut is True:
            index, groups = Index.of(old), _unchanged(old)
        else:
            try:
                part = self._process_from(touched, cut, back)
            except DataError:  # such as too few rows: if it really is an error, computing all days raises it
                return False
            changed = _changed_groups(old, part, cut)
            if changed is None:
                return False
            index, groups = _joined_index(old, part, cut), changed
        commit(old, index, groups, state, self.base.stored.version)
        return True

    def _process_from(self, touched: Sequence[str], cut: np.datetime64, back: int) -> Panel:
        """Return the rows of the days from `cut` on, processed by fitted processors that need `back` earlier days."""
        base = self.base
        at = int(np.searchsorted(base.dates, cut))
        if at == len(base.dates):
            none = {name: Group(g.names, g.values[:0]) for name, g in base.groups.items()}
            return Panel(base.dates[:0], np.zeros(1, np.int64), (), np.zeros(0, np.int32), none)
        start = base.dates[max(0, at - back)]
        frame = self._frame(touched, start)
        begin, index = base.rows(start).start, frame.index
        for processor in self.chain:
            frame = processor.apply(frame)
        frame = frame[frame.index.get_level_values("datetime") >= as_timestamp(cut)]
        if frame.empty:
            raise DataError("no rows")
        made = Panel.from_frame(frame)
        rows = begin + _kept(index, frame.index)
        others = {n: Group(g.names, g.values[rows]) for n, g in base.groups.items() if n not in made.groups}
        return replace(made, groups={**made.groups, **others})

    def _frame(self, groups: Sequence[str], start: DayLike | None = None, end: DayLike | None = None) -> pd.DataFrame:
        return self.base.frame(groups if self.grouped else groups[0], start, end)

    def _touched(self) -> list[str]:
        """Return the groups of columns that the processors read or change."""
        every = list(self.base.groups)
        named: set[str] = set()
        for processor in self.chain:
            groups = processor.groups()
            if groups is None:
                return every
            named.update(groups)
        return [name for name in every if name in named] if named <= set(every) else every


def _unchanged(old: Panel) -> dict[str, GrownGroup]:
    return {n: GrownGroup(len(old), np.empty((0, len(g.names)), np.float32)) for n, g in old.groups.items()}


def _changed_groups(old: Panel, part: Panel, cut: np.datetime64) -> dict[str, GrownGroup] | None:
    """Return the values from the first difference on; None if the columns of `part` differ from those of the panel."""
    first = int(old.offsets[int(np.searchsorted(old.dates, cut))])
    groups = {}
    for name, group in old.groups.items():
        made = part.groups.get(name)
        if made is None or made.names != group.names:
            return None
        same = first_change(group.values[first:], made.values)
        groups[name] = GrownGroup(first + same, made.values[same:])
    return groups


def _joined_index(old: Panel, part: Panel, cut: np.datetime64) -> Index:
    """Return the rows of a panel before the day `cut`, followed by all rows of `part`."""
    kept = int(np.searchsorted(old.dates, cut))
    first = int(old.offsets[kept])
    codes = tuple(sorted({old.codes[i] for i in np.unique(old.row_code[:first])} | set(part.codes)))
    place = {code: i for i, code in enumerate(codes)}
    row_code = [
        np.array([place.get(code, -1) for code in panel.codes], np.int32)[panel.row_code[rows]]
        for panel, rows in ((old, slice(first)), (part, slice(None)))
        if len(panel.codes)
    ]
    return Index(
        np.concatenate([old.dates[:kept], part.dates]),
        np.concatenate([old.offsets[: kept + 1], part.offsets[1:] + first]),
        codes,
        np.concatenate(row_code),
    )


def _kept(before: pd.Index, after: pd.Index) -> NDArray[np.int64]:
    """Return the positions in `before` of the remaining rows; both indexes are in the same order."""
    if len(after) == len(before):
        return np.arange(len(before))
    assert isinstance(before, pd.MultiIndex)
    return np.flatnonzero(before.isin(after))
