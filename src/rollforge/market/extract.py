"""Extracts of a data folder: its calendars and universes without the values, for machines that are sent panels.

An extract has the identity and the fingerprint of the folder that it was made from, so that a panel computed there is
found under the same key. Reading values from it is an error.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollforge.errors import DataError

__all__ = ["EXTRACT", "ExtractOf", "read_extract", "write_extract"]

EXTRACT = "rollforge-extract.json"
"""File that marks a folder as an extract."""
_FORMAT = 1
_LEFT_OUT = "features"


@dataclass(frozen=True, slots=True)
class ExtractOf:
    """The folder that an extract was made from."""

    origin: str
    """Its path on its own machine."""
    fingerprint: str
    content: Any
    """Its content as plain data (:class:`~rollforge.market.content.DataContent`); None if it was not computed."""


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
        return ExtractOf(str(known["origin"]), str(known["fingerprint"]), known["content"])
    except (ValueError, KeyError, TypeError) as exc:
        raise DataError(f"{folder / EXTRACT} is damaged. Delete the folder {folder}.") from exc


def write_extract(source: Path, target: Path, extract: ExtractOf) -> None:
    """Copy a data folder without its values.

    Parameters
    ----------
    source : Path
        The data folder.
    target : Path
        The extract; it must not exist.
    extract : ExtractOf
        What the folder is.
    """
    shutil.copytree(source, target, ignore=lambda folder, names: [_LEFT_OUT] if Path(folder) == source else [])
    plain = {
        "format": _FORMAT, "origin": extract.origin, "fingerprint": extract.fingerprint, "content": extract.content
    }  # fmt: skip
    (target / EXTRACT).write_text(json.dumps(plain), encoding="utf-8")
