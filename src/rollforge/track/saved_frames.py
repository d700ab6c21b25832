"""Frames that a run has saved, for the records that read them next."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rollforge.track import artifact
from rollforge.track.artifact_files import Files

__all__ = ["SavedFrames"]

_MOST = 4
_MAX_VALUES = 500_000
"""A larger frame, such as one of features, would need much memory and is rarely read again."""


class SavedFrames:
    """The frames and series that were saved last, each as it was saved, with the state of its file.

    A record reads the prediction that the one before it has saved. Reading the file takes as long as computing the record.

    Examples
    --------
    >>> import tempfile
    >>> import pandas as pd
    >>> from rollforge.track.artifact_files import LocalFiles
    >>> folder = tempfile.TemporaryDirectory()
    >>> files, frames = LocalFiles(Path(folder.name)), SavedFrames()
    >>> series = pd.Series([0.5])
    >>> artifact.save(files, "ic.pkl", series)
    >>> frames.keep(files, "ic.pkl", series)
    >>> series[0] = 2.0
    >>> float(frames.get(artifact.find(files, "ic.pkl"))[0])
    0.5
    >>> folder.cleanup()
    """

    def __init__(self) -> None:
        self._kept: dict[Path, tuple[tuple[int, ...], Any]] = {}

    def keep(self, files: Files, name: str, value: object) -> None:
        """Keep a copy of an object that was saved as the artifact `name`, if it is a frame that its file restores exactly."""
        pandas = sys.modules.get("pandas")
        if pandas is None or files.folder is None or not isinstance(value, (pandas.DataFrame, pandas.Series)):
            return
        file = files.get(artifact.frame_name(name))
        if file is None or value.size > _MAX_VALUES:
            return
        self._kept.pop(file, None)
        self._kept[file] = _state(file), value.copy()
        while len(self._kept) > _MOST:
            del self._kept[next(iter(self._kept))]

    def get(self, file: Path | None) -> Any:
        """Return a copy of the frame in a file; None if it is not kept, or if the file has been replaced since."""
        if file is None or file not in self._kept:
            return None
        state, value = self._kept[file]
        return value.copy() if _state(file) == state else None

    def clear(self) -> None:
        """Keep nothing any longer."""
        self._kept.clear()


def _state(file: Path) -> tuple[int, ...]:
    try:
        about = file.stat()
    except OSError:
        return ()
    return about.st_ino, about.st_size, about.st_mtime_ns
