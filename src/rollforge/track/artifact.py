"""How objects become files and come back.

====================== ============================ =======================================
object                 file                         read by
====================== ============================ =======================================
DataFrame, Series      ``NAME.parquet``             pandas
plain data             ``NAME.plain.json``          :func:`rollforge.task.decode`
anything else          ``NAME`` (cloudpickle)       the allow-list of :mod:`rollforge.trust`
====================== ============================ =======================================

Whatever the file, the object is saved and loaded under the one name that Qlib gives it: ``pred.pkl``.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rollforge import trust
from rollforge.errors import ArtifactUnreadable, ConfigError, TaskNotSerializable, UntrustedPickle
from rollforge.task import decode, encode

__all__ = ["SUFFIXES", "load_file", "plain_name", "save_file"]

_PARQUET = ".parquet"
_SERIES = ".series.parquet"
_PLAIN = ".plain.json"
SUFFIXES = ("", _PARQUET, _SERIES, _PLAIN)


def plain_name(file_name: str) -> str:
    """Return the name under which the object in a file was saved.

    Examples
    --------
    >>> plain_name("pred.pkl.parquet"), plain_name("task.plain.json"), plain_name("notes.txt")
    ('pred.pkl', 'task', 'notes.txt')
    """
    for suffix in (_SERIES, _PLAIN):
        if file_name.endswith(suffix):
            return file_name.removesuffix(suffix)
    return file_name.removesuffix(_PARQUET) if file_name.endswith(".pkl" + _PARQUET) else file_name


def save_file(folder: Path, name: str, value: Any) -> Path:
    """Write an object into `folder` under `name`, all of it or nothing, and return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(value, pandas.DataFrame) and _fits_parquet(value):
        return _write(folder / (name + _PARQUET), lambda f: value.to_parquet(f, compression="lz4"))
    if pandas is not None and isinstance(value, pandas.Series):
        frame = value.to_frame("value" if value.name is None else str(value.name))
        if _fits_parquet(frame) and (value.name is None or isinstance(value.name, str)):
            frame.attrs["unnamed"] = value.name is None
            return _write(folder / (name + _SERIES), lambda f: frame.to_parquet(f, compression="lz4"))
    try:
        text = encode(value)
    except TaskNotSerializable:
        import cloudpickle

        return _write(folder / name, lambda f: f.write_bytes(cloudpickle.dumps(value)))
    return _write(folder / (name + _PLAIN), lambda f: f.write_text(text, encoding="utf-8"))


def _fits_parquet(frame: Any) -> bool:
    """Whether a frame comes back from Parquet as it was: plain text columns, each of one simple type."""
    names = list(frame.columns)
    simple = all(dtype.kind in "biufM" for dtype in frame.dtypes)
    indexed = all(n is None or isinstance(n, str) for n in frame.index.names)
    return simple and indexed and all(isinstance(n, str) for n in names) and len(set(names)) == len(names)


def _write(file: Path, write: Callable[[Path], Any]) -> Path:
    handle, draft = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
    os.close(handle)
    try:
        write(Path(draft))
        os.replace(draft, file)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    return file


def load_file(file: Path, *, trusted: bool = False) -> Any:
    """Return the object in a file.

    Raises
    ------
    ArtifactUnreadable
        When it is truncated or of an unknown form.
    UntrustedPickle
        When it is a pickle of a type that is not allowed, and `trusted` is False; nothing of it has run.
    """
    try:
        if file.name.endswith(_PLAIN):
            return decode(file.read_text(encoding="utf-8"))
        if file.name.endswith(_PARQUET):
            return _read_parquet(file)
        return trust.load(file, trusted=trusted)
    except (OSError, ValueError, ConfigError) as exc:
        if isinstance(exc, (ArtifactUnreadable, UntrustedPickle)):
            raise
        raise ArtifactUnreadable(f"The artifact {file} cannot be read: {exc}") from exc


def _read_parquet(file: Path) -> Any:
    import pandas as pd

    frame = pd.read_parquet(file)
    if not file.name.endswith(_SERIES):
        return frame
    series = frame.iloc[:, 0]
    series.attrs = {}
    return series.rename(None) if frame.attrs.get("unnamed") else series
