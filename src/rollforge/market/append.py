"""Add the rows of a table to a data folder: new days, new and ended instruments, corrections, new fields.

The folder is changed atomically (:mod:`rollforge.market.folder_change`). It then has the same files as if all rows had
been imported at once.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rollforge.dates import ONE_DAY, Days, has_times, is_weekend
from rollforge.errors import DataError, counted, first_few, nearest
from rollforge.market.append_summary import AppendSummary, Correction, NewDay
from rollforge.market.bars import FACTOR_SOURCES, PRICES, OrderedTable, complete, is_between
from rollforge.market.conversion import CONVERSION_FILE, Conversion, order_of_dates, read_conversion
from rollforge.market.existing import ExistingData, StoredSeries, read_existing
from rollforge.market.folder_change import change_files, folder_lock, restore
from rollforge.market.folder_files import check_folders, folder_name
from rollforge.market.importer import check_values, ordered, without_zeros
from rollforge.market.lost_zeros import lost_zeros_note, respelled
from rollforge.market.member_lists import extended_list
from rollforge.market.price_table import Table, read_table
from rollforge.market.provider import open_provider
from rollforge.paths import read_path

__all__ = ["append_table"]

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
_SHOWN = 5
_JUMP = math.log(1.8)
_OTHER_SCALE = {True: math.log(1.5), False: math.log(5)}  # by whether there are at least five instruments
_YEARS = 730


def append_table(
    source: object,
    folder: str | os.PathLike[str],
    *,
    columns: Mapping[str, str] | None = None,
    names: Sequence[str] | None = None,
    encoding: str = "utf-8",
    day_first: bool | None = None,
    rescale: bool | None = None,
    dry_run: bool = False,
    wait: float = 60.0,
) -> AppendSummary:
    """Add the rows of a table to a data folder, and return a summary.

    Days after the end of the calendar are added to it. A row of an existing day replaces the instrument's values of
    that day; fields for which the table has no column are kept. Instruments and fields may be new. The table is
    converted like the one from which the folder was imported. The folder changes atomically: readers, and anyone who
    comes after a killed process, find either the old folder or the new one.

    Parameters
    ----------
    source : path, DataFrame, or a table of Polars or Arrow
        As for :func:`~rollforge.market.importer.import_table`. A single file that is named by its instrument, as those of
        Yahoo are, has to be of an instrument of the folder: a file of new days is often named by something else, such as
        the day.
    folder : path
        The data folder.
    columns, names, encoding
        As for :func:`~rollforge.market.importer.import_table`.
    day_first : bool, optional
        As for :func:`~rollforge.market.importer.import_table`; by default as in the table from which the folder was imported.
    rescale : bool, optional
        What to do with instruments whose prices in the table are on a different scale from those in the folder, for
        example because the source adjusts past prices after each dividend. True multiplies their new rows so that they
        continue the folder's prices; this needs rows for a day that the folder has. False takes the values as they are.
        None rejects the table.
    dry_run : bool
        True returns the summary without changing anything.
    wait : float
        Seconds to wait for another process that is changing the folder.

    Raises
    ------
    DataNotFound
        If the table or the folder does not exist.
    FolderBusy
        If another process is still changing the folder after `wait` seconds.
    DataError
        If the table is invalid, has days between the folder's days or before them, has bars of another length, is on a
        different scale, or lacks the columns from which the folder's prices are computed; or if the folder is damaged
        or cannot be written. Nothing is written.
    """
    target = Path(os.path.realpath(read_path(folder, "data")))
    known = read_conversion(target)
    order = known.year_last if known is not None and day_first is None else order_of_dates(day_first)
    table = read_table(source, dict(columns or {}), names=names, encoding=encoding, year_last=order)
    rows = ordered(table)
    if has_times(rows.calendar):
        raise DataError(
            f"{table.source} has several rows a day of an instrument, such as {rows.cell(0)}. Rows can be added to daily data "
            "only."
        )
    check_values(table, rows)
    given = frozenset(rows.values)
    notes = [*table.notes, *without_zeros(rows)]
    with contextlib.nullcontext() if dry_run else folder_lock(_checked(target), wait=wait):
        restore(target)
        open_provider(target)
        old = read_existing(target)
        rows, more = _with_zeros(rows, old)
        notes += more
        _check_file_name(table, rows, old)
        change = _Change(old, table, rows, given, rescale)
        summary = change.summary(notes, dry_run=dry_run)
        if summary.changed and not dry_run:
            change_files(target, change.files)
    log.info("appended %s to %s: %s", table.source, target, summary)
    return summary


def _with_zeros(rows: OrderedTable, old: ExistingData) -> tuple[OrderedTable, list[str]]:
    """Return the table with the leading zeros that its codes have in the folder, and a note if there are such."""
    spelled = respelled(rows.codes, lambda code: folder_name(code) in old.heads)
    if not spelled:
        return rows, []
    first: dict[str, str] = {}
    for code, longer in spelled.items():
        if (other := first.setdefault(longer, code)) != code:
            raise DataError(
                f"The codes {other} and {code} are both {longer} in the folder. Give its rows the same code."
            )
    return replace(rows, codes=[spelled.get(code, code) for code in rows.codes]), [lost_zeros_note(spelled)]


def _check_file_name(table: Table, rows: OrderedTable, old: ExistingData) -> None:
    """Check that a file that is named by its instrument has the name of one in the folder."""
    (code, *_) = rows.codes
    if table.named_by_file and folder_name(code) not in old.heads:
        raise DataError(
            f"{table.source} has no column of instruments, and {old.path} has no instrument {code!r}, which is the name of "
            f"the file.{nearest(code, map(_code, old.heads))} Name the file by its instrument. To add a new instrument, give "
            "a folder with one file per instrument."
        )


def _checked(target: Path) -> Path:
    """Return a folder that can be changed: one that exists, so that no lock is left elsewhere."""
    restore(target)
    return open_provider(target).path


@dataclass(slots=True)
class _Change:
    """The changes that a table makes to a data folder."""

    old: ExistingData
    table: Table
    rows: OrderedTable
    given: frozenset[str]
    """Columns of the table."""
    rescale: bool | None
    calendar: Days = field(init=False)
    place: NDArray[np.int64] = field(init=False)
    """Position of each row's day in `calendar`."""
    files: dict[str, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    series: dict[str, dict[str, StoredSeries]] = field(default_factory=dict)
    """Series of the instruments in the table, without the new rows."""
    lives: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Folder of an instrument -> half-open range of days, with the new rows."""
    full: NDArray[np.bool_] = field(init=False)
    """Whether a row has any value."""
    used: Conversion = field(init=False)
    """How the table was converted."""
    fields: tuple[str, ...] = ()
    """New fields."""
    filled: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    """Field -> whether any instrument of the table has a value on a day from the former last day on."""
    corrections: int = 0
    shown: list[Correction] = field(default_factory=list)
    unchanged: int = 0

    def __post_init__(self) -> None:
        self.full = ~np.logical_and.reduce([np.isnan(values) for values in self.rows.values.values()])
        self._extend_calendar()
        self.place = np.searchsorted(self.calendar, self.rows.calendar)[self.rows.day]
        names = [folder_name(code) for code in self.rows.codes]
        new = [code for code, name in zip(self.rows.codes, names, strict=True) if name not in self.old.heads]
        check_folders([*map(_code, self.old.heads), *self.rows.codes])
        self.series = {name: self.old.series(name) for name in names}
        self.lives = {name: self.old.life(name) for name in self.old.heads}
        conversion = self._convert()
        scales = self._scales()
        for i, code in enumerate(self.rows.codes):
            self._merge(code, names[i], *self._range(i), scales.get(code, 1.0))
        self._fill_new_fields()
        if not self.files:
            return
        self._extend_universes(new, ("all",) if conversion is None else conversion.universes)
        if conversion is not None and conversion != self.old.conversion:
            self.files[CONVERSION_FILE] = conversion.to_text().encode()
        if len(self.calendar) > len(self.old.calendar):
            if self.old.future is not None:
                later = self.old.future[self.old.future > self.calendar[-1]]
                self.files["calendars/day_future.txt"] = _lines(np.concatenate([self.calendar, later]))
            self.files["calendars/day.txt"] = _lines(self.calendar)

    def _range(self, i: int) -> tuple[int, int]:
        """Return the half-open range of the rows of an instrument."""
        return int(np.searchsorted(self.rows.code, i, "left")), int(np.searchsorted(self.rows.code, i, "right"))

    # -- the calendar --------------------------------------------------------------------------------------------------

    def _extend_calendar(self) -> None:
        days, calendar, source = self.rows.calendar, self.old.calendar, self.table.source
        early = days[days < calendar[0]]
        if early.size:
            raise DataError(
                f"{source} has {counted(early.size, 'day')} before {calendar[0]}, the first day of {self.old.path}: "
                f"{first_few(early)}. Remove these rows, or import all rows as a new folder."
            )
        missing = np.setdiff1d(days[days <= calendar[-1]], calendar)
        if missing.size:
            raise DataError(
                f"{source} has {counted(missing.size, 'day')} that the calendar of {self.old.path} lacks, although it "
                f"ends on {calendar[-1]}: {first_few(missing)}. A day cannot be inserted, because all "
                "files refer to days by their position. Remove these rows, or import all rows as a new folder."
            )
        new = days[days > calendar[-1]]
        self.calendar = np.concatenate([calendar, new])
        if not new.size:
            return
        steps = np.diff(self.calendar[len(calendar) - 1 :]).astype(np.int64)
        before = np.diff(calendar).astype(np.int64)
        far = np.flatnonzero(steps > _YEARS)
        if far.size and (self.rows.calendar[self.rows.day] >= new[far[0]]).sum() <= 5:
            raise DataError(
                f"{source}: {new[far[0]]} is years after {self.calendar[len(calendar) - 1 + far[0]]}, the day before "
                "it. Correct the year, or remove the row."
            )
        # Once it is in the calendar, the days before it could never be added.
        today = np.datetime64(dt.datetime.now(dt.UTC).date())
        if calendar[-1] <= today + ONE_DAY < new[-1]:
            raise DataError(
                f"{source}: {new[-1]} is in the future; today is {today}. Correct the date, or remove the row."
            )
        if len(new) >= 3 and len(before) >= 3:
            usual, now = float(np.median(before)), float(np.median(steps))
            if now >= 4 * usual or usual >= 4 * now:
                raise DataError(
                    f"{source} has bars of another length: its days are {now:g} days apart, those of {self.old.path} "
                    f"{usual:g}."
                )

    def _gaps(self) -> tuple[np.datetime64, ...]:
        """Return the expected days since the end of the calendar that are not in the table."""
        last = self.old.calendar[-1]
        expected = np.arange(last + ONE_DAY, self.calendar[-1] + ONE_DAY)
        future = self.old.future
        if future is not None and future[-1] > last:
            known = expected[expected <= future[-1]]
            expected = np.concatenate([np.intersect1d(known, future), expected[expected > future[-1]]])
        usual = expected if self._trades_on_weekends() else expected[~is_weekend(expected)]
        return tuple(np.setdiff1d(usual, self.calendar))

    def _trades_on_weekends(self) -> bool:
        return bool(is_weekend(self.old.calendar).mean() > 0.05)

    def _weekends(self) -> tuple[np.datetime64, ...]:
        """Return the new days on a weekend, if these are rare in the calendar and were not announced in it."""
        new = self.calendar[len(self.old.calendar) :]
        found = new[:0] if self._trades_on_weekends() else new[is_weekend(new)]
        return tuple(found if self.old.future is None else np.setdiff1d(found, self.old.future))

    # -- values --------------------------------------------------------------------------------------------------------

    def _convert(self) -> Conversion | None:
        """Convert the values like the folder's values."""
        known = self.old.conversion
        self._check_sources(known)
        self.rows = replace(self.rows, carried=self._carried, earlier=self._earlier_closes())
        found, notes = complete(self.rows, known)
        self.used = found
        if known is not None:
            return replace(found, universes=known.universes, year_last=known.year_last or self.table.year_last)
        fields = self.old.fields()
        for name in ("vwap", "factor"):
            if name not in self.given and name not in fields:
                self.rows.values.pop(name, None)
        if found.factor == "none" and "factor" in fields:
            for row in range(len(self.rows.code)):
                self.rows.values["factor"][row] = self._last_factor(row)
            notes = [n for n in notes if not n.startswith("factor was set to 1")]
            notes.append("the table has no factor: each instrument keeps its last one; prices are taken as adjusted")
        self.notes += notes
        return None

    def _check_sources(self, known: Conversion | None) -> None:
        """Check that the table has the columns from which the folder's prices were computed."""
        if known is None or not self.given & {*PRICES, "volume", *FACTOR_SOURCES}:
            return
        sources = {"given": ["factor"], "product": ["factor"], "none": []}.get(known.factor, [known.factor_column])
        lacking = [name for name in sources if name not in self.given]
        if lacking:
            raise DataError(
                f"{self.table.source} has no column {lacking[0]!r}, from which the prices of {self.old.path} were "
                f"adjusted. It has: {', '.join(sorted(self.given))}. Specify it with --column 'NAME={lacking[0]}' (in "
                f"Python: columns={{'NAME': {lacking[0]!r}}})."
            )
        if known.factor == "ratio" and "close" not in self.given:
            raise DataError(
                f"{self.table.source} has a column {known.factor_column!r} but no close, and the prices of "
                f"{self.old.path} were adjusted by {known.factor_column} / close. Add close, or leave the column out with "
                f"--column '{known.factor_column}='."
            )
        more = [name for name in FACTOR_SOURCES if name in self.given and name not in known.columns]
        if more:
            how = f"adjusted by {sources[0]}" if sources else "taken as adjusted"
            raise DataError(
                f"{self.table.source} has a column {more[0]!r}, but the prices of {self.old.path} were imported "
                f"without it, and {how}. If those of the table are adjusted in the same way, leave it out with "
                f"--column '{more[0]}='; otherwise import all rows as a new folder."
            )

    def _absent(self, name: str) -> bool:
        """Return whether a field is neither a column of the table nor computed from its columns."""
        if name in self.given:
            return False
        if name == "vwap":
            computed = {"open", "high", "low", "close"} <= self.given or {"amount", "volume"} <= self.given
            return self.used.vwap == "given" or not computed
        if name == "close" and self.used.factor == "close":
            return self.used.factor_column not in self.given
        return name != "factor"

    def _carried(self, row: int, factor: Floats) -> float:
        """Return the latest factor of an instrument before the day of a row; NaN if there is none."""
        rows, at = self.rows, int(self.place[row])
        start, stop = self._range(int(rows.code[row]))
        mine = self.place[start:stop]
        known = np.flatnonzero(~np.isnan(factor[start:row]))
        of_table = int(mine[known[-1]]) if known.size else -1
        first, values = self.series[folder_name(rows.codes[rows.code[row]])].get("factor", (0, np.empty(0, np.float32)))
        past = values[: max(0, at - first)].astype(np.float64)
        replaced = mine[(mine >= first) & (mine < first + len(past))] - first
        if self.given.intersection(FACTOR_SOURCES):
            past[replaced] = np.nan
        there = np.flatnonzero(~np.isnan(past))
        if there.size and first + int(there[-1]) > of_table:
            return float(past[there[-1]])
        return float(factor[start + known[-1]]) if known.size else math.nan

    def _earlier_closes(self) -> tuple[Floats, ...]:
        """Return the close before the first row of each row's instrument, adjusted, and divided by its factor."""
        closes, factors = np.full((2, len(self.rows.codes)), np.nan)
        for i, code in enumerate(self.rows.codes):
            at, had = int(self.place[self._range(i)[0]]), self.series[folder_name(code)]
            for found, name in ((closes, "close"), (factors, "factor")):
                first, values = had.get(name, (0, np.empty(0, np.float32)))
                past = values[: max(0, at - first)]
                past = past[~np.isnan(past)]
                found[i] = past[-1] if past.size else np.nan
        factors[np.isnan(factors)] = 1.0
        return closes[self.rows.code], (closes / factors)[self.rows.code]

    def _last_factor(self, row: int) -> float:
        """Return the folder's factor of an instrument on the day of a row, or else the latest before it, or else 1."""
        name, at = folder_name(self.rows.codes[self.rows.code[row]]), int(self.place[row])
        first, values = self.series[name].get("factor", (0, np.empty(0, np.float32)))
        past = values[: max(0, at + 1 - first)]
        past = past[~np.isnan(past)]
        return float(past[-1]) if past.size else 1.0

    def _merge(self, code: str, name: str, start: int, stop: int, scale: float) -> None:
        """Add the rows of an instrument to its series."""
        at = self.place[start:stop]
        had = self.series[name]
        begin, end = self.lives.get(name, (int(at[0]), int(at[0])))
        lo, hi = min(begin, int(at[0])), max(end, int(at[-1]) + 1)
        self.lives[name] = (lo, hi)
        known, values = set(self.old.fields()), self.rows.values
        # In a rescaled instrument, rows of existing days differ by rounding only.
        past = (at < len(self.old.calendar)) & (scale == 1.0)
        changed = np.zeros(len(at), bool)
        for field_name in dict.fromkeys([*had, *values, *known]):
            block = np.full(hi - lo, np.nan, np.float32)
            if field_name in had:
                first, series = had[field_name]
                block[first - lo : first - lo + len(series)] = series
            before = block[at - lo].copy()
            if field_name in values and not self._absent(field_name):
                new = (values[field_name][start:stop] * _power(field_name, scale)).astype(np.float32)
                if scale != 1.0:
                    new = np.where(at < end, before, new)
                new = self._keep_computed(field_name, before, new, slice(start, stop))
                block[at - lo] = new
                differs = before.view(np.int32) != new.view(np.int32)
                differs &= ~(np.isnan(before) & np.isnan(new))
                changed |= differs
                if field_name == "factor":
                    self._check_factors(code, at, had, differs & past & ~np.isnan(before))
                if had and field_name in known:
                    self._note_corrections(code, field_name, at, before, new, differs & past)
            self._note_filled(field_name, lo, block)
            if field_name not in had and had and field_name in known and np.isnan(block).all():
                continue  # not all instruments of a folder by other tools have all fields
            content = _content(lo, block)
            if field_name not in had or content != _content(*had[field_name]):
                self.files[_file(name, field_name)] = content
        self.unchanged += int((~changed & (at >= begin) & (at < end)).sum())

    def _keep_computed(
        self, name: str, before: NDArray[np.float32], new: NDArray[np.float32], rows: slice
    ) -> NDArray[np.float32]:
        """Return the new values, but keep those of the folder that cannot be computed from this table."""
        if name == "vwap" and self.used.vwap == "amount" and not {"amount", "volume"} <= self.given:
            return np.where(self._between(before, rows), before, new)
        if name == "factor" and not self.given.intersection(FACTOR_SOURCES):
            return np.where(np.isnan(before), new, before)
        return new

    def _between(self, price: NDArray[np.float32], rows: slice) -> NDArray[np.bool_]:
        """Return where prices of the folder are between the low and the high of rows of the table."""
        low, high = (self.rows.values[name][rows].astype(np.float32) for name in ("low", "high"))
        with np.errstate(invalid="ignore"):
            return is_between(price, low, high)

    def _check_factors(
        self, code: str, at: NDArray[np.int64], had: Mapping[str, StoredSeries], differs: NDArray[np.bool_]
    ) -> None:
        """Check that the prices of rows whose factor changes are in the table, if they are multiplied by it."""
        if self.used.factor not in ("raw", "product", "ratio"):
            return
        for name in sorted({*PRICES, "volume"} & had.keys()):
            first, series = had[name]
            known = differs & (at >= first) & (at < first + len(series))
            known[known] = ~np.isnan(series[at[known] - first])
            if self._absent(name) and known.any():
                day = self.calendar[at[np.argmax(known)]]
                raise DataError(
                    f"{self.table.source} changes the factor of {code} on {day}, by which prices and volume are adjusted, "
                    f"but has no {name}. Add the prices and the volume of these rows, or leave out the factor."
                )

    def _note_corrections(
        self,
        code: str,
        name: str,
        at: NDArray[np.int64],
        old: NDArray[np.float32],
        new: NDArray[np.float32],
        differs: NDArray[np.bool_],
    ) -> None:
        self.corrections += int(differs.sum())
        for i in np.flatnonzero(differs)[: max(0, _SHOWN - len(self.shown))]:
            self.shown.append(Correction(code, self.calendar[at[i]], name, float(old[i]), float(new[i])))

    def _note_filled(self, name: str, lo: int, block: NDArray[np.float32]) -> None:
        former = len(self.old.calendar) - 1
        filled = self.filled.setdefault(name, np.zeros(len(self.calendar) - former, bool))
        there = ~np.isnan(block[max(0, former - lo) :])
        at = max(0, lo - former)
        filled[at : at + len(there)] |= there

    def _fill_new_fields(self) -> None:
        """Give all instruments the new fields, as an import does."""
        there = set(self.old.fields())
        new = {file.rpartition("/")[2].removesuffix(".day.bin") for file in self.files} - there
        self.fields = tuple(name for name in self.rows.values if name in new)
        if self.old.conversion is None:
            return
        for name in self.old.heads.keys() - self.series.keys():
            begin, end = self.lives[name]
            for field_name in self.fields:
                self.files[_file(name, field_name)] = _content(begin, np.full(end - begin, np.nan, np.float32))

    # -- scale ---------------------------------------------------------------------------------------------------------

    def _scales(self) -> dict[str, float]:
        """Return the factors by which the rows of instruments are to be multiplied.

        Raises
        ------
        DataError
            If there are such instruments, and the user has not specified what to do with them.
        """
        if self.rescale is False or len(self.calendar) == len(self.old.calendar):
            return {}
        scales: dict[str, float] = {}
        jumps: dict[str, float] = {}
        for i, code in enumerate(self.rows.codes):
            start, stop = self._range(i)
            if not self.series[folder_name(code)] or self.place[stop - 1] < len(self.old.calendar):
                continue
            common, scale = self._scale(code, start, stop)
            if scale is not None:
                scales[code] = scale
            elif not common:
                jumps[code] = self._jump(code, start, stop)
        jumps = {code: jump for code, jump in jumps.items() if np.isfinite(jump)}
        sizes = [abs(jump) for jump in jumps.values()]
        if sizes and float(np.median(sizes)) > _OTHER_SCALE[len(sizes) >= 5]:
            code = next(iter(jumps))
            raise DataError(
                f"The prices in {self.table.source} are on a different scale from those in {self.old.path}: {code} moves by a "
                f"factor of {math.exp(jumps[code]):.4g} since its last day there. Give a table with rows for a day that the "
                "folder has, and --rescale (in Python: rescale=True); or --no-rescale (rescale=False) if the values "
                "are right."
            )
        large = [f"{code} ({math.exp(jump):.3g} x)" for code, jump in jumps.items() if abs(jump) > _JUMP]
        if large:
            self.notes.append(f"close jumps since the folder's last day: {first_few(large)}. Check for missing splits")
        if scales and not self.rescale:
            code = next(iter(scales))
            raise DataError(
                f"The prices of {counted(len(scales), 'instrument')} in {self.table.source} ({first_few(list(scales))}) are on "
                f"a different scale from those in {self.old.path}: those of {code} there are {scales[code]:.6g} times as "
                "high on the same days. Sources that adjust past prices change all of them after a split or a dividend. Use "
                "--rescale (in Python: rescale=True) to continue the folder's prices, --no-rescale (rescale=False) "
                "to take the values as they are, or import all rows as a new folder."
            )
        if scales:
            self.notes.append(
                f"prices continue on the folder's scale: {first_few([f'{c} x {r:.6g}' for c, r in scales.items()])}"
            )
        return scales

    def _scale(self, code: str, start: int, stop: int) -> tuple[bool, float | None]:
        """Return whether the table has the instrument's last day, and the ratio of the folder's prices to the table's,
        if not 1. Rows of earlier days alone are corrections.
        """
        at, had = self.place[start:stop], self.series[folder_name(code)]
        ratios, full, common = [], False, False
        for name in PRICES & had.keys() & self.rows.values.keys():
            first, series = had[name]
            here = (at >= first) & (at < first + len(series))
            old, new = series[at[here] - first].astype(np.float64), self.rows.values[name][start:stop][here]
            with np.errstate(all="ignore"):
                ratio = old / new
            usable = np.isfinite(ratio) & (ratio > 0)
            ratios.append(ratio[usable])
            known = first + np.flatnonzero(~np.isnan(series))
            common |= bool(np.isin(known[-1:], at[here][usable]).any())
            full |= bool(usable.any()) and int(usable.sum()) >= known.size
        all_ratios = np.concatenate([np.empty(0), *ratios])
        if not common:
            return False, None
        scale = float(np.median(all_ratios))
        same = bool((np.abs(all_ratios / scale - 1) <= 0.2 * abs(scale - 1)).all())
        if full or all_ratios.size < 2 or abs(scale - 1) < 1e-4 or not same:
            return True, None
        return True, scale

    def _jump(self, code: str, start: int, stop: int) -> float:
        """Return the logarithm of an instrument's first new close over its last one in the folder; NaN if unknown."""
        _, series = self.series[folder_name(code)].get("close", (0, np.empty(0, np.float32)))
        old, new = series[~np.isnan(series)], self.rows.values.get("close", np.empty(0))[start:stop]
        new = new[~np.isnan(new)]
        if not old.size or not new.size or old[-1] <= 0:
            return math.nan
        return math.log(new[0] / float(old[-1]))

    # -- universes -----------------------------------------------------------------------------------------------------

    def _extend_universes(self, listed: Sequence[str], whole: Sequence[str]) -> None:
        lists = sorted((self.old.path / "instruments").glob("*.txt"))
        if listed and not {file.stem for file in lists} & set(whole):
            self.notes.append(
                "the new instruments are in no universe, because the folder has no universe of all instruments"
            )
        before = self.old.lives()
        after = {
            name: (self.calendar[begin], self.calendar[end - 1])
            for name, (begin, end) in self.lives.items()
            if end > begin
        }
        last = (self.old.calendar[-1], self.calendar[-1])
        for file in lists:
            text, extended = extended_list(file, before, after, last, listed if file.stem in whole else ())
            if text is not None:
                self.files[f"instruments/{file.name}"] = text.encode()
            if extended:
                self.notes.append(
                    f"universe {file.stem}: {counted(extended, 'membership')} that ended on {last[0]} "
                    f"{'is' if extended == 1 else 'are'} extended to {last[1]}"
                )

    # -- summary -------------------------------------------------------------------------------------------------------

    def summary(self, notes: Sequence[str], *, dry_run: bool) -> AppendSummary:
        """Return a summary of the changes."""
        if not self.files:
            return AppendSummary(
                path=self.old.path,
                dry_run=dry_run,
                changed=False,
                first=self.calendar[0],
                last=self.calendar[-1],
                unchanged_rows=self.unchanged,
                notes=(*notes, *self.notes),
            )
        former, now = len(self.old.calendar), len(self.calendar)
        new = [code for code in self.rows.codes if folder_name(code) not in self.old.heads]
        ended = [
            name
            for name in self.old.heads
            if now > former and self.old.life(name)[1] == former and self.lives[name][1] < now
        ]
        resumed = [
            code
            for code in self.rows.codes
            if folder_name(code) in self.old.heads
            and self.old.life(folder_name(code))[1] < former < self.lives[folder_name(code)][1]
        ]
        return AppendSummary(
            path=self.old.path,
            dry_run=dry_run,
            changed=True,
            first=self.calendar[0],
            last=self.calendar[-1],
            days=self._new_days(),
            listed=tuple(new),
            ended=tuple(map(_code, ended)),
            resumed=tuple(resumed),
            fields=self.fields,
            empty=self._empty(),
            gaps=self._gaps() if now > former else (),
            weekends=self._weekends(),
            corrections=self.corrections,
            first_corrections=tuple(self.shown),
            unchanged_rows=self.unchanged,
            written=sum(map(len, self.files.values())),
            notes=(*notes, *self.notes),
        )

    def _new_days(self) -> tuple[NewDay, ...]:
        former = len(self.old.calendar)
        live = {name for name in self.old.heads if self.old.life(name)[1] == former}
        found = []
        for at in range(former, len(self.calendar)):
            listed = sum(begin <= at for name, (begin, _) in self.lives.items() if name not in self.old.heads)
            have = int((self.full & (self.place == at)).sum())
            share = have / max(len(live) + listed, 1)
            found.append(NewDay(self.calendar[at], have, min(share, 1.0)))
        return tuple(found)

    def _empty(self) -> tuple[tuple[str, np.datetime64], ...]:
        former = len(self.old.calendar)
        there = set(self.place[self.full].tolist())
        return tuple(
            (name, self.calendar[former + i])
            for name, filled in self.filled.items()
            for i in np.flatnonzero(~filled[1:]).tolist()
            if filled[0] and former + i in there
        )


def _code(name: str) -> str:
    """Return the code of an instrument from the name of its folder."""
    plain = name.removeprefix("_qlib_")
    return (plain if folder_name(plain) == name else name).upper()


def _power(name: str, scale: float) -> float:
    """Return the factor for the values of a field if prices are multiplied by `scale`."""
    if name in PRICES or name == "factor":
        return scale
    return 1 / scale if name == "volume" else 1.0


def _content(first: int, values: NDArray[np.float32]) -> bytes:
    return np.concatenate([np.array([first], "<f4"), values.astype("<f4", copy=False)]).tobytes()


def _file(name: str, field_name: str) -> str:
    return f"features/{name}/{field_name}.day.bin"


def _lines(days: Days) -> bytes:
    return "".join(f"{day}\n" for day in days).encode()
