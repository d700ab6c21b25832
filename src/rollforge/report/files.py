"""Files of a report, which are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from rollforge.errors import DataError

__all__ = ["write_text"]


def write_text(text: str, file: str | os.PathLike[str]) -> Path:
    """Write a report atomically, and return its path.

    Raises
    ------
    DataError
        If the file cannot be written; an existing file is unchanged.
    """
    target = Path(file)
    draft = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(draft, 0o644)
        os.replace(draft, target)
    except OSError as exc:
        if draft is not None:
            Path(draft).unlink(missing_ok=True)
        raise DataError(f"The report {target} cannot be written: {exc.strerror}.") from exc
    return target
