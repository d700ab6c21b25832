"""Coverage: check whether windows form one complete out-of-sample result, and report the problems."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.dates import Days, has_times, show_time, times_of, unit_of
from rollforge.errors import CoverageError, counted, first_few

__all__ = ["Coverage", "ExpectedWindow", "check_coverage"]

_MAX_PAIRS = 20
_FEW_ROWS = 0.1
_MAX_NAMES = 3


@dataclass(frozen=True, slots=True)
class ExpectedWindow:
    """A window that the result should contain."""

    key: str
    """Readable title; unique for each window."""
    start: np.datetime64
    end: np.datetime64
    state: str
    """``done``, ``failed``, ``waiting`` or ``running``."""
    group: str = ""
    """Name of its model. Windows of different models are expected to test the same days."""


_NO_PREDICTION = " is done but has no prediction"


@dataclass(frozen=True, slots=True)
class Coverage:
    """The problems of a result."""

    notes: tuple[str, ...] = field(default=())
    """One sentence for each reason why the windows do not form one result; empty if they do."""
    remarks: tuple[str, ...] = field(default=())
    """One sentence for each warning about a result that is otherwise complete."""

    @property
    def complete(self) -> bool:
        """Whether the windows form one result."""
        return not self.notes

    def raise_if_incomplete(self) -> None:
        """Raise an error if the windows do not form one result.

        Raises
        ------
        CoverageError
            If there are `notes`; the message contains them all.
        """
        if self.notes:
            listed = "\n  ".join(self.notes)
            # A run trains only what is not done, so running the workflow again would end here again.
            again = (
                " A window that is done has no prediction if all of its scores are missing, if its records have no "
                "SignalRecord, or if the artifacts of its run were deleted; after the cause was mended, "
                "'rollforge pool -t POOL reset-status waiting' has its tasks trained again."
            )
            raise CoverageError(
                f"The windows do not form a complete out-of-sample result:\n  {listed}\nRun the missing ones, or "
                "accept the gaps with --allow-gaps or coverage='allow_gaps'."
                + (again if any(note.endswith(_NO_PREDICTION) for note in self.notes) else "")
            )


def check_coverage(
    windows: Sequence[ExpectedWindow],
    calendar: Days,
    found: Mapping[str, Days | pd.MultiIndex],
    available: Mapping[str, pd.MultiIndex] | None = None,
) -> Coverage:
    """Report windows that are missing, failed, overlapping, or only partly predicted.

    Windows of one model must not overlap and must cover every trading day. All models should test the same days and
    predict the same instruments on them: if a model lacks more than a tenth of the rows that others predict, the result
    is incomplete; otherwise there is a remark.

    Parameters
    ----------
    windows : sequence of ExpectedWindow
        The expected windows, in any order.
    calendar : array of datetime64
        The trading days, or the times of bars.
    found : mapping
        Key -> the prediction of a finished window: its days, or an index with the levels datetime and instrument.
    available : mapping, optional
        Key -> the rows of the window's data, as an index with these levels.
    """
    groups: dict[str, list[ExpectedWindow]] = {}
    for window in sorted(windows, key=lambda w: (w.start, w.end)):
        groups.setdefault(window.group, []).append(window)
    groups = {name: groups[name] for name in dict.fromkeys(w.group for w in windows)}
    done = [w for w in windows if w.state == "done"]
    days = {w.key: _days(found.get(w.key)) for w in done}
    notes = [f"{w.key} is {w.state}" for w in windows if w.state != "done"]
    for members in groups.values():
        notes += _overlaps(members, calendar)
    notes += _untested(groups, calendar)
    for window in done:
        notes += _holes(window, calendar, days[window.key])
        notes += _duplicates(window, found.get(window.key))
    notes += _fewer_models(groups, days)
    lacking, remarks = _instruments(groups, found)
    notes += lacking
    if not lacking and not remarks:
        remarks = _rows_left_out(groups, found, available or {})
    return Coverage(tuple(notes), tuple(remarks))


def _days(rows: Days | pd.MultiIndex | None) -> Days:
    if rows is None:
        return np.empty(0, "datetime64[D]")
    values = np.asarray(rows.unique("datetime") if isinstance(rows, pd.MultiIndex) else rows)
    return np.unique(times_of(values[~np.isnat(values)]))  # rows without a day belong to none


def _span(days: Days) -> str:
    return show_time(days[0]) if len(days) == 1 else f"{show_time(days[0])} to {show_time(days[-1])}"


def _unit(calendar: Days) -> str:
    return "bar" if has_times(calendar) else "trading day"


def _listed(names: Sequence[str]) -> str:
    shown = [name or "the model without a name" for name in names]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


# -- days --------------------------------------------------------------------------------------------------------------


def _within(calendar: Days, start: np.datetime64, end: np.datetime64) -> slice:
    return slice(int(np.searchsorted(calendar, start)), int(np.searchsorted(calendar, end, "right")))


def _overlaps(members: Sequence[ExpectedWindow], calendar: Days) -> list[str]:
    """Report each pair of windows of one model that share trading days; `members` are sorted by start."""
    notes: list[str] = []
    open_ones: list[ExpectedWindow] = []
    stops: list[int] = []
    pairs = 0
    for window in members:
        own = _within(calendar, window.start, window.end)
        if own.start < own.stop:
            pairs += len(stops) - bisect.bisect_right(stops, own.start)
        bisect.insort(stops, own.stop)
        if len(notes) == _MAX_PAIRS:  # further pairs are only counted
            continue
        open_ones = [w for w in open_ones if w.end >= window.start]
        for earlier in open_ones:
            shared = calendar[_within(calendar, window.start, min(earlier.end, window.end))]
            if len(shared) and len(notes) < _MAX_PAIRS:
                both = counted(len(shared), _unit(calendar))
                notes.append(f"{earlier.key} and {window.key} overlap: both test {_span(shared)} ({both})")
        open_ones.append(window)
    if pairs > len(notes):
        notes.append(f"{pairs - len(notes)} more pairs of windows overlap")
    return notes


def _untested(groups: Mapping[str, Sequence[ExpectedWindow]], calendar: Days) -> list[str]:
    """Report trading days within the experiment that no window of a model tests."""
    everything = [w for members in groups.values() for w in members]
    if not everything:
        return []
    whole = _within(calendar, min(w.start for w in everything), max(w.end for w in everything))
    tested = np.zeros((len(groups), len(calendar)), bool)
    for row, members in zip(tested, groups.values(), strict=True):
        for window in members:
            row[_within(calendar, window.start, window.end)] = True
    names, pattern = list(groups), _pattern(tested)
    by_start, by_end = (sorted(everything, key=attrgetter(name)) for name in ("start", "end"))
    notes: dict[str, None] = {}  # a gap that several models share is reported only once
    for row in tested:
        for run in _runs(pattern * ~row, whole):
            others = [name for name, other in zip(names, tested, strict=True) if other[run.start]]
            lacking = [name for name, other in zip(names, tested, strict=True) if not other[run.start]]
            text = _lacking_models(calendar[run], others, lacking) if others else _gap(by_start, by_end, calendar[run])
            notes[text] = None
    return list(notes)


def _pattern(tested: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return a positive number for each day; days that are tested by the same models have the same number."""
    _, numbers = np.unique(tested, axis=1, return_inverse=True)
    made: NDArray[np.int64] = np.asarray(numbers).reshape(-1).astype(np.int64) + 1
    return made


def _runs(numbers: NDArray[np.int64], within: slice) -> Iterator[slice]:
    """Yield runs of equal nonzero numbers."""
    start = within.start
    while start < within.stop:
        stop = start + 1
        while stop < within.stop and numbers[stop] == numbers[start]:
            stop += 1
        if numbers[start]:
            yield slice(start, stop)
        start = stop


def _lacking_models(days: Days, others: Sequence[str], lacking: Sequence[str]) -> str:
    verb, them = ("has", "tests") if len(lacking) == 1 else ("have", "tests")
    them = them if len(others) == 1 else "test"
    count = counted(len(days), _unit(days))
    return f"{_listed(lacking)} {verb} no window for {_span(days)} ({count}), which {_listed(others)} {them}"


def _gap(by_start: Sequence[ExpectedWindow], by_end: Sequence[ExpectedWindow], days: Days) -> str:
    """Describe days that no model tests by the windows before and after them; each list is sorted by that time."""
    end = by_end[bisect.bisect_left(by_end, days[0], key=attrgetter("end")) - 1].end
    before = by_end[bisect.bisect_left(by_end, end, key=attrgetter("end"))]
    after = by_start[bisect.bisect_right(by_start, days[-1], key=attrgetter("start"))]
    lie = "lies" if len(days) == 1 else "lie"
    return f"{counted(len(days), _unit(days))} {lie} between {before.key} and {after.key}: {_span(days)}"


def _holes(window: ExpectedWindow, calendar: Days, days: Days) -> list[str]:
    if not len(days):
        return [window.key + _NO_PREDICTION]
    wanted = calendar[_within(calendar, window.start, window.end)]
    missing = np.setdiff1d(wanted, days)
    notes = []
    if len(missing):
        notes.append(f"{window.key} has no prediction for {counted(len(missing), unit_of(calendar))}: {_span(missing)}")
    beyond = np.setdiff1d(days, wanted)
    if len(beyond):
        outside = counted(len(beyond), unit_of(calendar))
        notes.append(f"{window.key} predicts {outside} outside its test segment: {_span(beyond)}")
    return notes


def _duplicates(window: ExpectedWindow, rows: object) -> list[str]:
    if not isinstance(rows, pd.MultiIndex) or _is_unique(rows):
        return []
    twice = int(rows.duplicated().sum())
    return [f"{window.key} predicts {counted(twice, 'row')} more than once; the last of each is used"]


def _is_unique(rows: pd.MultiIndex) -> bool:
    """Return whether the rows are unique, without the hash table that pandas would build and keep."""
    if rows.nlevels != 2:
        return bool(rows.is_unique)
    first, second = (np.asarray(codes, np.int64) for codes in rows.codes)
    places = first * (len(rows.levels[1]) + 1) + second
    return bool((np.diff(places) > 0).all()) or len(_distinct(places)) == len(places)


def _fewer_models(groups: Mapping[str, Sequence[ExpectedWindow]], days: Mapping[str, Days]) -> list[str]:
    """Report days on which the average includes only some of the models."""
    if len(groups) < 2:
        return []
    empty = np.empty(0, "datetime64[D]")
    own = {
        name: np.unique(np.concatenate([empty, *(days.get(w.key, empty) for w in members)]))
        for name, members in groups.items()
    }
    every = np.unique(np.concatenate(list(own.values())))
    present = np.array([np.isin(every, theirs) for theirs in own.values()])
    notes = []
    for pattern in np.unique(present.T, axis=0)[::-1]:
        if pattern.all():
            continue
        these = every[(pattern == present.T).all(axis=1)]
        there = [name for name, is_there in zip(own, pattern, strict=True) if is_there]
        gone = [name for name, is_there in zip(own, pattern, strict=True) if not is_there]
        alone = " alone" if len(there) == 1 else ""
        verb = "has" if len(gone) == 1 else "have"
        notes.append(
            f"On {counted(len(these), unit_of(every))} ({_span(these)}) the average is of {_listed(there)}{alone}: "
            f"{_listed(gone)} {verb} no prediction"
        )
    return notes


# -- instruments -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows encoded as numbers, day * number of instruments + instrument; sorted and distinct."""

    numbers: NDArray[np.int64]
    instruments: pd.Index

    def days(self, numbers: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Return the day of each row."""
        return (self.numbers if numbers is None else numbers) // max(1, len(self.instruments))

    def lacks(self, others: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows of `others` that are missing here, on days that exist here."""
        same_days = others[_among(self.days(others), _distinct(self.days()))]
        return same_days[~_among(same_days, self.numbers)]


def _distinct(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the sorted distinct numbers; for nearly sorted input, this is several times as fast as ``np.unique``."""
    ordered = np.sort(numbers, kind="stable")
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(ordered) else ordered


def _among(numbers: NDArray[np.int64], distinct: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return a mask of the numbers that are in `distinct`, which is sorted."""
    if not len(distinct):
        return np.zeros(len(numbers), bool)
    places = np.minimum(np.searchsorted(distinct, numbers), len(distinct) - 1)
    found: NDArray[np.bool_] = distinct[places] == numbers
    return found


def _as_rows(indexes: Mapping[str, Sequence[pd.MultiIndex]]) -> dict[str, _Rows]:
    """Encode the rows of each name, with the same numbering for all names."""
    levels = [i.levels[i.names.index("instrument")] for some in indexes.values() for i in some]
    instruments = pd.Index([]) if not levels else levels[0].append(list(levels[1:])).unique()
    made = {}
    for name, some in indexes.items():
        parts = [np.empty(0, np.int64)]
        for index in some:
            day_level, code_level = (index.names.index(name) for name in ("datetime", "instrument"))
            day = np.asarray(index.levels[day_level]).astype("datetime64[s]").astype(np.int64)
            code = instruments.get_indexer(index.levels[code_level])
            days, codes = (np.asarray(index.codes[level]) for level in (day_level, code_level))
            known = (days >= 0) & (codes >= 0)
            parts.append(day[days[known]] * len(instruments) + code[codes[known]])
        made[name] = _Rows(_distinct(np.concatenate(parts)), instruments)
    return made


def _instruments(
    groups: Mapping[str, Sequence[ExpectedWindow]], found: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """Report models that lack instruments predicted by others on the same days: those that lack many, and few."""
    predicted = {
        name: {(w.start, w.end): found[w.key] for w in members if isinstance(found.get(w.key), pd.MultiIndex)}
        for name, members in groups.items()
    }
    predicted = {name: windows for name, windows in predicted.items() if windows}
    alike = _alike(list(predicted.values()))
    if len(predicted) < 2 or all(set(windows) == alike for windows in predicted.values()):
        return [], []
    rows = _as_rows({name: [i for w, i in windows.items() if w not in alike] for name, windows in predicted.items()})
    equal = sum(len(index) for w, index in next(iter(predicted.values())).items() if w in alike)
    every = _distinct(np.concatenate([r.numbers for r in rows.values()]))
    many: list[str] = []
    few: list[str] = []
    for name, own in rows.items():
        lacking = own.lacks(every)
        if not len(lacking):
            continue
        share = len(lacking) / (len(lacking) + len(own.numbers) + equal)
        text = f"{_listed([name])} lacks {_percent(share)} of the rows that other models predict on the same days: "
        (many if share > _FEW_ROWS else few).append(text + _lacking(own, lacking, every))
    return many, few


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.0005 else "less than 0.1%"


def _alike(predicted: Sequence[Mapping[tuple[np.datetime64, np.datetime64], pd.MultiIndex]]) -> set[object]:
    """Return the windows in which all models predict the same rows: the common case, which needs no row comparison."""
    first, *others = predicted or [{}]
    return {w for w, index in first.items() if all(w in other and other[w].equals(index) for other in others)}


def _lacking(own: _Rows, lacking: NDArray[np.int64], every: NDArray[np.int64]) -> str:
    """Describe the missing instruments: which ones, out of how many, on which days."""
    size = len(own.instruments)
    codes = _distinct(lacking % size)
    total = len(_distinct(every[_among(own.days(every), _distinct(own.days()))] % size))
    days = times_of(_distinct(own.days(lacking)).astype("datetime64[s]"))
    names = first_few(own.instruments[codes], _MAX_NAMES)
    when = f"{counted(len(days), unit_of(days))} ({_span(days)})"
    return f"{len(codes)} of {counted(total, 'instrument')} ({names}) on {when}"


def _rows_left_out(
    groups: Mapping[str, Sequence[ExpectedWindow]], found: Mapping[str, object], available: Mapping[str, object]
) -> list[str]:
    """Report windows that predict far fewer rows than their data has on the predicted days."""
    remarks = []
    for members in groups.values():
        partial: list[tuple[str, float]] = []
        for window in members:
            own, data = found.get(window.key), available.get(window.key)
            if isinstance(own, pd.MultiIndex) and isinstance(data, pd.MultiIndex) and len(own) and not own.equals(data):
                rows = _as_rows({"own": [own], "data": [data]})
                left_out = len(rows["own"].lacks(rows["data"].numbers))
                share = left_out / (left_out + len(rows["own"].numbers))
                if share > _FEW_ROWS:
                    partial.append((window.key, share))
        if partial:
            keys = first_few([key for key, _ in partial], _MAX_NAMES)
            verb = "leaves" if len(partial) == 1 else "leave"
            worst = max(share for _, share in partial)
            remarks.append(f"{keys} {verb} out up to {worst:.0%} of the rows of the data")
    return remarks
