"""A user's table as a data folder: its days and entities, and its columns as one panel that all windows share.

The folder holds ``calendars/day.txt`` and ``instruments/all.txt`` like any data folder, so windows, checks and reports
work on it, and ``panel/``, from which :class:`FrameLoader` loads. Its name is a hash of its contents, so the same table
is written only once, and a task that refers to it always means the same data.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.dates import DayLike
from rollforge.errors import DataError, DataNotFound, counted
from rollforge.features.loader import DataLoader
from rollforge.features.panel import Group, Panel
from rollforge.features.row_file import group_file
from rollforge.market.folder_writer import write_folder
from rollforge.market.universe import session_provider
from rollforge.market.user_table import Keys, Table, batches, common_dtype
from rollforge.session import Session, available_cores, current_session

__all__ = ["FrameFolder", "FrameLoader", "write_frame_folder"]

_PANEL, _ABOUT = "panel", "frame.json"
_ROWS = 4096
_ROWS_OF_A_CLASS = 20
"""Number of rows for each value of a label from which on it is taken for classes."""
_VALUES_OF_A_LINE, _ROWS_OF_A_LINE = 10, 100
"""Number of values of a label that a feature has to be a function of; number of rows that are enough to tell that it is none."""
_PIECE = 2**24  # bytes hashed at a time, in parallel
_MAPPED_AT_ONCE = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)  # which macOS does not have
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class FrameFolder:
    """Location and description of a stored table."""

    path: Path
    mark: str
    """The hash of its contents."""
    codes: tuple[str, ...]
    """(entities,): the names of the entities in the panel, in the order of the keys' entities."""
    source_rows: NDArray[np.int64] | None
    """(rows of the panel,): their positions in the table; None if they are the same."""


def write_frame_folder(
    table: Table,
    keys: Keys,
    groups: Mapping[str, Sequence[Any]],
    place: Path,
    static: pd.DataFrame | None = None,
) -> FrameFolder:
    """Store a table as a data folder inside `place`, unless it already exists.

    Parameters
    ----------
    table : Table
        The table.
    keys : Keys
        Its keys.
    groups : mapping
        Group of columns of the panel ("feature", "label", …) -> columns of the table.
    place : path
        The parent of all such folders; it is created if it does not exist.
    static : DataFrame, optional
        (entities, columns): further features, which do not change over time.

    Raises
    ------
    DataError
        If a column has infinite values, a label has no values, a weight is missing or negative where there is a label, or a
        feature is a copy of a label.
    """
    place.mkdir(parents=True, exist_ok=True)
    draft = place / f".{uuid.uuid4().hex}"
    panel_folder = draft / _PANEL
    panel_folder.mkdir(parents=True)
    try:
        order = keys.order
        labels = _labels(table, groups.get("label", ()))
        made = {}
        for number, (name, columns) in enumerate(groups.items()):
            given = static if name == "feature" else None
            values = _write_group(table, keys, columns, given, group_file(panel_folder, number), name, labels)
            extra = [] if given is None else list(map(str, given.columns))
            made[name] = Group((*map(str, columns), *extra), values)
        codes = _codes(keys.entities)
        entity = keys.entity if order is None else keys.entity[order]
        counts = np.bincount(keys.time, minlength=len(keys.days))
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        panel = Panel(keys.days, offsets, codes, entity.astype(np.int32), made)
        panel.save(panel_folder)
        mark = _mark(panel_folder, codes, made)
        _write_days(draft, keys, codes)
        (draft / _ABOUT).write_text(json.dumps({"format": 1, "mark": mark}), encoding="utf-8")
        target = place / mark
        if not (target / _ABOUT).is_file():
            try:
                os.replace(draft, target)
            except OSError:
                if not (target / _ABOUT).is_file():  # otherwise another process has just written the same folder
                    raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return FrameFolder(target, mark, codes, order)


@dataclass(frozen=True, slots=True)
class _Label:
    """A label, with which each feature is compared."""

    values: NDArray[Any]
    distinct: int
    """Number of distinct finite values."""


def _labels(table: Table, names: Sequence[Any]) -> dict[Any, _Label]:
    found = {}
    for name in names:
        (values,) = table.numbers([name], common_dtype(table, [name]))
        found[name] = _Label(values, len(np.unique(values[np.isfinite(values)])))
    return found


def _write_group(
    table: Table,
    keys: Keys,
    columns: Sequence[Any],
    static: pd.DataFrame | None,
    file: Path,
    group: str,
    labels: Mapping[Any, _Label],
) -> NDArray[Any]:
    """Write columns side by side into a file, sorted by (time, entity), and return them memory-mapped."""
    dtype = common_dtype(table, columns)
    whole = all((kind := table.dtype(name)) is not None and kind.kind in "iub" for name in columns)
    if (
        group == "label"
        and whole
        and not any((np.isnan(v) | (v >= 2**63)).any() for v in (labels[name].values for name in columns))
    ):
        dtype = np.dtype(np.int64)  # classes
    if static is not None and len(static.columns):
        dtype = np.result_type(dtype, static.to_numpy().dtype)
    extra = 0 if static is None else len(static.columns)
    values = np.lib.format.open_memmap(file, "w+", dtype, (len(table), len(columns) + extra))
    at = 0
    for names in batches(columns):
        block = table.numbers(names, dtype)
        finite = _put(values, at, block, keys.order)
        for name, column in zip(names, block, strict=True):
            if not finite:
                _check_values(column, name, keys)
            if group == "feature":
                _check_copy(column, name, labels)
            elif group == "label":
                _check_label(column, name)
            elif group == "weight":
                _check_weights(column, name, labels, keys)
        at += len(names)
        del block, column  # before the next ones are read
    if extra and static is not None:
        entity = keys.entity if keys.order is None else keys.entity[keys.order]
        values[:, at:] = static.to_numpy(dtype)[entity]
    return values


def _put(values: NDArray[Any], at: int, block: Sequence[NDArray[Any]], order: NDArray[np.int64] | None) -> bool:
    """Write columns side by side, from column `at` on, in batches of rows that fit the CPU cache.

    Returns
    -------
    bool
        False if a value is infinite.
    """
    finite = True
    for start in range(0, len(values), _ROWS):
        rows = slice(start, start + _ROWS) if order is None else order[start : start + _ROWS]
        written = np.stack([column[rows] for column in block], axis=1)
        values[start : start + _ROWS, at : at + len(block)] = written
        finite = finite and (written.dtype.kind != "f" or not np.isinf(written).any())
    return finite


def _check_values(column: NDArray[Any], name: object, keys: Keys) -> None:
    if column.dtype.kind != "f":
        return
    bad = np.isinf(column)
    if bad.any():
        row = int(np.argmax(bad))
        number = counted(int(bad.sum()), "infinite value")
        raise DataError(
            f"The column {str(name)!r} has {number}, the first in {keys.describe(row)}. Correct them, or replace them with NaN: "
            "frame.replace([np.inf, -np.inf], np.nan)."
        )


def _check_label(column: NDArray[Any], name: object) -> None:
    if column.dtype.kind == "f" and np.isnan(column).all():
        raise DataError(
            f"The label {str(name)!r} has no value in any of the {counted(len(column), 'row')}, the first of which is row 0."
        )


def _check_weights(column: NDArray[Any], name: object, labels: Mapping[Any, _Label], keys: Keys) -> None:
    """Raise an error if a row that may be trained on has no weight, or a negative one; or if all are 0."""
    used = np.zeros(len(column), bool)
    for label in labels.values():
        used |= ~np.isnan(label.values)
    bad = used & ~(column >= 0)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            f"The column {str(name)!r} has missing or negative weights in {counted(int(bad.sum()), 'row')} with a label, the "
            f"first in {keys.describe(row)}: {column[row]:g}. "
            "Correct them, or replace them with 0 to leave their rows out of training."
        )
    if not column[used].any():
        raise DataError(f"All weights in the column {str(name)!r} are 0, from row 0 on, so a model cannot learn.")


def _check_copy(column: NDArray[Any], name: object, labels: Mapping[Any, _Label]) -> None:
    """Raise an error if a feature is a copy of a label: a model would learn to read the answer."""
    for label, one in labels.items():
        values = one.values
        if _names_classes(column, one):
            raise DataError(
                f"The feature {str(name)!r} has another value for each class of the label {str(label)!r}, so a model would read "
                "the answer. Leave it out: features=[…]."
            )
        if len(column) >= 2 and _may_equal(column, values):
            known = np.isfinite(column) & np.isfinite(values)
            if known.any() and _is_rounded(column[known], values[known]):
                raise DataError(
                    f"The feature {str(name)!r} has the values of the label {str(label)!r}, so a model would read the answer. "
                    "Leave it out: features=[…]."
                )
        line = _line(column, values)
        if line is not None:
            raise DataError(
                f"The feature {str(name)!r} is {line[0]:.6g} times the label {str(label)!r} {'-' if line[1] < 0 else '+'} "
                f"{abs(line[1]):.6g} in all rows, so a model would read the answer. Leave it out: features=[…]."
            )


def _names_classes(column: NDArray[Any], label: _Label) -> bool:
    """Return whether a label has classes, and a feature has a value of its own for each of them in all rows."""
    values = label.values
    some = slice(None, None, max(1, len(column) // 1000))
    if not _are_paired(column[some], values[some]):  # most features of a label with classes, without reading all rows
        return False
    known = np.isfinite(column) & np.isfinite(values)
    rows = int(np.count_nonzero(known))
    # A row that is left out takes at most one value along: most quantities are recognized without sorting them again.
    if (label.distinct - (len(values) - rows)) * _ROWS_OF_A_CLASS > rows:
        return False
    classes = len(np.unique(values[known]))
    if classes < 2 or classes * _ROWS_OF_A_CLASS > rows:
        return False  # a quantity, or too few rows to tell
    return _are_paired(column, values)


def _are_paired(column: NDArray[Any], values: NDArray[Any]) -> bool:
    """Return whether each value of one column occurs with a single value of the other, in the rows that have both."""
    known = np.isfinite(column) & np.isfinite(values)
    one, first = np.unique(column[known], return_inverse=True)
    other, second = np.unique(values[known], return_inverse=True)
    if len(one) != len(other):
        return False
    return len(np.unique(first * len(other) + second)) == len(one)


def _line(column: NDArray[Any], values: NDArray[Any]) -> tuple[float, float] | None:
    """Return a and b if a feature is a * label + b in all rows that have both, in single precision; otherwise None."""
    some = slice(None, None, max(1, len(column) // 1000))
    found = _fitted_line(column[some], values[some])  # most features, without reading all rows
    many = np.isfinite(values[some]).sum() >= _ROWS_OF_A_LINE
    return None if found is None and many else _fitted_line(column, values)


def _fitted_line(column: NDArray[Any], values: NDArray[Any]) -> tuple[float, float] | None:
    known = np.isfinite(column) & np.isfinite(values)
    x, y = values[known].astype(np.float64), column[known].astype(np.float64)
    order = np.argsort(x, kind="stable")
    if (np.diff(x[order]) > 0).sum() < _VALUES_OF_A_LINE - 1:
        return None  # classes, or too few rows to tell
    one, other = order[len(x) // 4], order[-1 - len(x) // 4]  # not the extremes: they may be outliers
    if x[one] == x[other]:
        one, other = order[0], order[-1]
    with np.errstate(over="ignore", invalid="ignore"):
        slope = (y[other] - y[one]) / (x[other] - x[one])
        offset = y[one] - slope * x[one]
        rounding = 8 * np.finfo(np.float32).eps * (np.abs(y) + np.abs(slope * x) + np.abs(offset))
        if not np.abs(y[other] - y[one]) > 1000 * (rounding[one] + rounding[other]):
            return None  # nearly constant: what it varies by is rounding
        distance = np.abs((x - x[one]) / (x[other] - x[one]))
        tolerance = rounding + distance * (rounding[one] + rounding[other])
        fits = bool((np.abs(y - (slope * x + offset)) <= tolerance).all())
    return (float(slope), float(offset)) if fits else None


def _may_equal(column: NDArray[Any], values: NDArray[Any]) -> bool:
    some = slice(None, None, max(1, len(column) // 1000))
    one, other = column[some], values[some]
    return bool((_close(one, other) | ~np.isfinite(one) | ~np.isfinite(other)).all())


def _close(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
    """Return whether values are equal in single precision."""
    with np.errstate(over="ignore"):
        found: NDArray[np.bool_] = one.astype(np.float32) == other.astype(np.float32)
    return found


def _is_rounded(column: NDArray[Any], values: NDArray[Any]) -> bool:
    """Return whether a feature has the values of a label that is not constant, at least in single precision."""
    spread = np.ptp(values.astype(np.float64))
    if not spread > 0 or not _close(column, values).all():
        return False
    # Large numbers, such as times in seconds, can differ although they are equal in single precision.
    return bool(np.abs(column.astype(np.float64) - values.astype(np.float64)).max() <= 1e-5 * spread)


def _codes(entities: Sequence[Any]) -> tuple[str, ...]:
    """Return names for the entities that are valid codes of a data folder and sort like them: their own, or their
    numbers."""
    names = ["all" if entity is None else str(entity) for entity in entities]
    distinct = len({name.upper() for name in names}) == len(names)
    if distinct and names == sorted(names) and all(_PLAIN.fullmatch(name) for name in names):
        return tuple(names)
    width = len(str(len(names)))
    return tuple(f"{number:0{width}d}" for number in range(1, len(names) + 1))


def _write_days(folder: Path, keys: Keys, codes: Sequence[str]) -> None:
    first = np.full(len(codes), len(keys.days), np.int64)
    last = np.zeros(len(codes), np.int64)
    first[keys.entity[::-1]] = keys.time[::-1]  # the rows of an entity are in chronological order
    last[keys.entity] = keys.time
    spans = {
        code: [(keys.days[a], keys.days[b])]
        for code, a, b in zip(codes, first.tolist(), last.tolist(), strict=True)
        if a < len(keys.days)
    }
    write_folder(folder, keys.days, {}, {"all": spans}, keys.freq)


def _mark(folder: Path, codes: Sequence[str], groups: Mapping[str, Group]) -> str:
    """Return a hash of a panel: its rows, its columns and their names."""
    found = hashlib.blake2b(digest_size=12)
    found.update(json.dumps([list(codes), [[name, list(g.names)] for name, g in groups.items()]]).encode())
    for file in sorted(folder.glob("*.npy")):
        size = file.stat().st_size
        with ThreadPoolExecutor(min(4, available_cores())) as pool:
            for digest in pool.map(lambda at, file=file: _hash_of(file, at), range(0, size, _PIECE)):
                found.update(digest)
    return found.hexdigest()


def _hash_of(file: Path, start: int) -> bytes:
    with file.open("rb") as handle:
        length = min(_PIECE, os.fstat(handle.fileno()).st_size - start)
        # Mapped, because a copy would fill new memory, which costs as much as a fifth of the hash.
        with mmap.mmap(handle.fileno(), length, flags=_MAPPED_AT_ONCE, prot=mmap.PROT_READ, offset=start) as piece:
            return hashlib.blake2b(piece, digest_size=16).digest()


class FrameLoader(DataLoader):
    """Loads a table that :func:`write_frame_folder` has stored in the session's data folder.

    Parameters
    ----------
    frame : str
        The hash of its contents.
    label : str, optional
        The only label to load; by default all of them.
    """

    def __init__(self, frame: str, label: str | None = None) -> None:
        self.frame = frame
        self.label = label

    def stored_panel(self) -> Panel:
        """Return the stored panel, memory-mapped.

        Raises
        ------
        DataNotFound
            If the session's data folder does not contain this table.
        DataError
            If it is damaged.
        """
        return self.in_folder(Path(session_provider().path))

    def in_folder(self, folder: Path) -> Panel:
        """Return the panel that is stored in a folder; otherwise as :meth:`stored_panel`."""
        try:
            mark = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))["mark"]
        except (OSError, ValueError, KeyError, TypeError):
            mark = None
        if mark != self.frame:
            raise DataNotFound(
                f"The data folder {folder} does not contain the table {self.frame}, on which this task was defined. Use the "
                "folder that walk_forward() wrote."
            )
        panel = Panel.load(folder / _PANEL)
        if panel is None:
            raise DataError(f"The table in {folder} is damaged. Delete the folder and call walk_forward() again.")
        if self.label is None:
            return panel
        labels = panel.groups["label"]
        if self.label not in labels.names:
            raise DataError(f"The table {self.frame} has no label {self.label!r}: {', '.join(labels.names)}.")
        at = labels.names.index(self.label)
        one = Group((self.label,), labels.values[:, at : at + 1])
        return replace(panel, groups={**panel.groups, "label": one})

    def load(
        self, instruments: object = None, start_time: DayLike | None = None, end_time: DayLike | None = None
    ) -> pd.DataFrame:
        """Return all entities of the table between two days."""
        return self.stored_panel().frame(None, start_time, end_time)

    def definition(self) -> dict[str, object] | None:
        """Return the hash of the table, and the label."""
        return {"frame": self.frame} if self.label is None else {"frame": self.frame, "label": self.label}

    def column_groups(self) -> list[str] | None:
        """Return the groups of columns."""
        return list(self.stored_panel().groups)


def frame_session(folder: FrameFolder, session: Session | None = None) -> Session:
    """Return a session whose data folder is that of a table."""
    return (current_session() if session is None else session).with_(provider_uri=str(folder.path))
