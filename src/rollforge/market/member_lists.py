"""Extend the lists of members of a data folder when days are added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rollforge.market.folder_files import Span, folder_name, read_lines, read_member

__all__ = ["extended_list"]


def extended_list(
    file: Path, before: Mapping[str, Span], after: Mapping[str, Span], last: Span, listed: Sequence[str]
) -> tuple[str | None, int]:
    """Return the new text of a universe, and the number of memberships that were extended.

    A membership that spans exactly the days of an instrument's data continues to do so. Any other is extended if it
    ends on the last day of the calendar. All other lines are kept.

    Parameters
    ----------
    file : path
        The list of members.
    before, after : mapping
        Folder of an instrument -> first and last day of its data, without and with the new rows.
    last : tuple
        Last day of the calendar, without and with the new days.
    listed : sequence of str
        Codes of new instruments that become members.

    Returns
    -------
    text : str or None
        None if nothing changes.
    extended : int
        Memberships that were extended although they differ from the days of the data.
    """
    lines: list[tuple[str, str]] = []
    changed, extended = bool(listed), 0
    for number, line in read_lines(file):
        code, span, rest = read_member(file, number, line)
        new = _goes_on(span, folder_name(code), before, after, last)
        if new != span:
            changed = True
            extended += before.get(folder_name(code)) != span
            line = "\t".join([code, str(new[0]), str(new[1]), *rest])
        lines.append((code.upper(), line))
    if not changed:
        return None, 0
    ascending = lines == sorted(lines, key=lambda pair: pair[0])
    lines += [(code, "\t".join([code, *map(str, after[folder_name(code)])])) for code in listed]
    if ascending:
        lines.sort(key=lambda pair: pair[0])
    return "".join(f"{line}\n" for _, line in lines), extended


def _goes_on(
    span: Span,
    name: str,
    before: Mapping[str, Span],
    after: Mapping[str, Span],
    last: tuple[np.datetime64, np.datetime64],
) -> Span:
    if before.get(name) == span:
        return after[name]
    return (span[0], last[1]) if span[1] == last[0] else span
