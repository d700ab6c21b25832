"""Extracts of a data folder: its calendars and universes, and its values only if they are needed.

Machines that are sent panels are sent an extract too. It has the identity and the fingerprint of the folder that it was
made from, so that a panel computed there is found under the same key. Reading values from one that has none is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rollforge.errors import DataError

__all__ = ["EXTRACT", "ExtractOf", "content_name", "extract_files", "read_extract"]

EXTRACT = "rollforge-extract.json"
"""File that marks a folder as an extract."""
_FORMAT = 1
_VALUES = "features"


@dataclass(frozen=True, slots=True)
class ExtractOf:
    """The folder that an extract was made from."""

    origin: str
    """Its real path on its own machine."""
    folder: str
    """Its path as the session there names it."""
    fingerprint: str
    values: bool = False
    """Whether the extract has all values, too."""
    contents: Mapping[str, Any] = field(default_factory=dict)
    """What was computed of its content (:class:`~rollforge.market.content.DataContent`), as plain data: name, see
    :func:`content_name` -> content."""

    def to_text(self) -> str:
        """Return the text of the file that marks an extract of the folder."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, sort_keys=True)


def content_name(freq: str, until: object) -> str:
    """Return the name of the content of a frequency up to a bound.

    Examples
    --------
    >>> content_name("day", None)
    'day'
    """
    return freq if until is None else f"{freq} {until}"


def read_extract(folder: Path) -> ExtractOf | None:
    """Return what a folder is an extract of; None if it is an ordinary data folder.

    Raises
    ------
    DataError
        If the file is damaged, or of a newer version.
    """
    try:
        text = (folder / EXTRACT).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise DataError(f"{folder / EXTRACT} cannot be read: {exc.strerror or exc}.") from exc
    try:
        known = json.loads(text)
        if int(known["format"]) > _FORMAT:
            raise DataError(f"{folder} was written by a newer version of Rollforge. Update Rollforge on this machine.")
        return ExtractOf(
            str(known["origin"]), str(known["folder"]), str(known["fingerprint"]), bool(known["values"]),
            dict(known["contents"]),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError) as exc:
        raise DataError(f"{folder / EXTRACT} is damaged. Delete the folder {folder}.") from exc


def extract_files(source: Path, *, values: bool) -> Iterator[Path]:
    """Yield the files of a data folder that belong to an extract, in the order of their names.

    Parameters
    ----------
    source : Path
        The data folder.
    values : bool
        Whether the values belong to it.
    """
    for place in sorted(source.iterdir()):
        if place.name.startswith(".") or place.name == EXTRACT or (place.name == _VALUES and not values):
            continue
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if file.is_file():
                yield file
