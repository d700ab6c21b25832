"""Temporary copies of a data folder in which the market data after a day are replaced.

What is computed for a day must not change when only later data change. A single kind of replacement could miss a change: a
maximum hides values that fall, and a condition hides those that stay on one side of it. There are therefore three kinds,
and the instruments of a copy take turns:

* ``up``: each value is multiplied by its own random factor between 2 and 4; missing values and zeros become values
* ``down``: each value is multiplied by its own random factor between 0.25 and 0.5
* ``missing``: the values of every second instrument are missing; the series of the others end

Members of universes change as well: those of the kind ``down`` leave on the day, and those that join later do not.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rollforge.dates import read_day, stop_position
from rollforge.errors import DataError, DateError
from rollforge.market.folder_files import folder_name, is_text, read_lines
from rollforge.market.provider import Provider

__all__ = ["TURNS", "Change", "choose_instruments", "write_copy"]

_KINDS = ("up", "down", "missing")
TURNS = len(_KINDS)
"""Number of turns after which each instrument has had each kind of replacement."""
_CANDIDATES = 400  # members of a universe from which the instruments are chosen
_GAPS = 4  # every fourth chosen instrument has missing days, if there are such instruments


@dataclass(frozen=True, slots=True)
class Change:
    """Values of a copy that are replaced."""

    after: np.datetime64
    """The last day whose values are kept."""
    turn: int = 0
    """Which instruments get which kind of replacement, from 0 to :data:`TURNS` - 1."""
    removes: bool = True
    """Whether values may become missing and series may end; False replaces them by other values only."""

    def kind(self, place: int) -> str:
        """Return the kind of replacement of an instrument."""
        kinds = _KINDS if self.removes else _KINDS[:2]
        return kinds[(place + self.turn) % len(kinds)]


def write_copy(
    source: Provider,
    target: Path,
    change: Change | None,
    members: Collection[str] | None = None,
    codes: Collection[str] | None = None,
) -> bool:
    """Write a copy of a data folder with some instruments. The original is only read; its other files are linked.

    Parameters
    ----------
    source : Provider
        The data folder.
    target : path
        A new folder.
    change : Change, optional
        The values to replace; None replaces none.
    members : collection of str, optional
        The instruments to which universes are restricted; a universe that has none of them is copied unchanged.
    codes : collection of str, optional
        The instruments whose data are copied. For both, None means all.

    Returns
    -------
    bool
        Whether the members of a universe were changed.
    """
    for name in ("calendars", "instruments", "features"):
        (target / name).mkdir(parents=True)
    _link_others(source.path, target)
    for file in sorted((source.path / "calendars").glob("*.txt")):
        (target / "calendars" / file.name).write_bytes(file.read_bytes())
    folders = None if codes is None else {folder_name(code) for code in codes}
    copied = [
        folder
        for folder in sorted(os.listdir(source.path / "features"))
        if (folders is None or folder in folders) and is_text(folder) and (source.path / "features" / folder).is_dir()
    ]
    leaving = {
        folder
        for place, folder in enumerate(copied)
        if change is not None and change.removes and change.kind(place) == "down"
    }
    upper, left = None if members is None else {code.upper() for code in members}, False
    for file in sorted((source.path / "instruments").glob("*.txt")):
        lines = [line for _, line in read_lines(file)]
        kept = (lines if upper is None else [line for line in lines if _code(line) in upper]) or lines
        if change is not None:
            new = [end for line in kept for end in _until(line, change.after, folder_name(_code(line)) in leaving)]
            left |= bool(new) and new != kept
            kept = new or kept
        (target / "instruments" / file.name).write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    stops = {freq: _stop(source, freq, change.after) for freq in _frequencies(source)} if change is not None else {}
    for place, folder in enumerate(copied):
        (target / "features" / folder).mkdir()
        _link_others(source.path / "features" / folder, target / "features" / folder)
        for file in sorted((source.path / "features" / folder).glob("*.bin")):
            if not is_text(file.name):
                continue
            block = np.fromfile(file, "<f4")
            stop = stops.get(file.name.split(".")[-2])
            if change is not None and stop is not None and len(block):
                block = _replaced(block, stop, change.kind(place), folder, file.name, change.turn)
            block.tofile(target / "features" / folder / file.name)
    return left


def _link_others(source: Path, target: Path) -> None:
    """Link the files that are not market data in Qlib's format.

    They are not changed, so the check cannot find out whether results depend on them.
    """
    for entry in source.iterdir():
        if entry.suffix != ".bin" and not (target / entry.name).exists():
            (target / entry.name).symlink_to(entry.absolute())


def _code(line: str) -> str:
    return line.split(_separator(line))[0].strip().upper()


def _separator(line: str) -> str | None:
    return "\t" if "\t" in line else "," if "," in line else None


def _until(line: str, day: np.datetime64, leaves: bool) -> list[str]:
    """Return a line of a universe, which ends on the day if the member leaves then; nothing if all of its days are later.

    A line without days is returned unchanged.
    """
    parts = line.split(_separator(line))
    try:
        start, end = (read_day(part.strip()) for part in parts[1:3])
    except (DateError, ValueError):
        return [line]
    if not leaves or end <= day:
        return [line]
    return (
        [(_separator(line) or "\t").join([*parts[:2], str(day.astype("datetime64[D]")), *parts[3:]])]
        if start <= day
        else []
    )


def _frequencies(source: Provider) -> list[str]:
    """Return the names of the calendars."""
    return [name.stem for name in (source.path / "calendars").glob("*.txt") if not name.stem.endswith("_future")]


def _stop(source: Provider, freq: str, after: np.datetime64) -> int | None:
    try:
        return stop_position(source.calendar(freq), after)
    except DataError:
        return None


def _replaced(
    block: NDArray[np.float32], stop: int, kind: str, folder: str, name: str, turn: int
) -> NDArray[np.float32]:
    """Return a series (its first day, then its values) with the values from position `stop` of the calendar replaced."""
    kept = min(max(stop - int(block[0]), 0), len(block) - 1)
    if kept == len(block) - 1:
        return block
    later = block[1 + kept :]
    random = np.random.default_rng([zlib.crc32(f"{folder}/{name}".encode()), turn])
    if kind == "missing":
        ends = zlib.crc32(folder.encode()) % 2 == 0
        return block[: 1 + kept] if ends else np.concatenate([block[: 1 + kept], np.full_like(later, np.nan)])
    finite = block[1:][np.isfinite(block[1:]) & (block[1:] != 0)]
    level = np.float32(np.median(np.abs(finite)) if len(finite) else 1)
    if kind == "up":
        usual = np.where(np.isfinite(later) & (later != 0), later, level)
        new = usual * random.uniform(2, 4, len(later)).astype(np.float32)
    else:
        new = later * random.uniform(0.25, 0.5, len(later)).astype(np.float32)
    return np.concatenate([block[: 1 + kept], new.astype(np.float32)])


def choose_instruments(
    source: Provider,
    members: Sequence[str],
    spans: Sequence[tuple[np.datetime64, np.datetime64]],
    count: int,
) -> list[str]:
    """Return instruments that have data in all spans, among them some with missing days; the same for the same data.

    Parameters
    ----------
    source : Provider
        The data folder.
    members : sequence of str
        The instruments to choose from.
    spans : sequence of (first day, last day)
        The days on which data are needed.
    count : int
        Number of instruments; fewer if there are fewer members.
    """
    there = [code for code in sorted(members) if source.has(code)]
    if len(there) <= count:
        return there
    candidates = [there[i] for i in np.unique(np.linspace(0, len(there) - 1, min(len(there), _CANDIDATES)).astype(int))]
    calendar, known = source.calendar(), source.fields()
    name = next((n for n in ("close", "open", "vwap") if n in known), known[0] if known else "")
    days = np.isfinite(source.read(name, candidates, 0, len(calendar)).values)
    inside = [slice(np.searchsorted(calendar, a), np.searchsorted(calendar, b, "right")) for a, b in spans]
    least = np.min([days[:, part].mean(axis=1) for part in inside if part.stop > part.start], axis=0)
    whole = slice(min(part.start for part in inside), max(part.stop for part in inside))
    gaps = (~days[:, whole]).sum(axis=1)
    ranked = np.argsort(-least, kind="stable")
    with_gaps = [i for i in ranked if least[i] > 0 and gaps[i]]
    chosen = with_gaps[: count // _GAPS]
    chosen += [i for i in ranked if i not in set(chosen)][: count - len(chosen)]
    return sorted(candidates[i] for i in chosen)
