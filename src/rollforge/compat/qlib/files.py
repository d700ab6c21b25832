"""Paths, archives and open files, as in ``qlib.utils.file``."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rollforge.errors import ConfigError
from rollforge.paths import read_path

__all__ = [
    "get_io_object",
    "get_or_create_path",
    "get_tmp_file_with_buffer",
    "save_multiple_parts_file",
    "unpack_archive_with_buffer",
]


def get_or_create_path(path: str | None = None, return_dir: bool = False) -> str:
    """Return a path whose folder exists.

    Parameters
    ----------
    path : str, optional
        Path of a file, or of a folder, which is created; None creates a temporary one.
    return_dir : bool
        Whether it is a folder.
    """
    if path is None or path == "":
        if return_dir:
            return tempfile.mkdtemp()
        handle, name = tempfile.mkstemp()
        os.close(handle)
        return name
    (Path(path) if return_dir else Path(path).absolute().parent).mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def get_io_object(file: IO[Any] | str | Path, *args: Any, **kwargs: Any) -> Iterator[IO[Any]]:
    """Open a path for a ``with`` block; an open file is returned unchanged.

    Raises
    ------
    ConfigError
        If it is neither.
    """
    if isinstance(file, (str, Path)):
        with Path(file).open(*args, **kwargs) as stream:
            yield stream
    elif hasattr(file, "read") or hasattr(file, "write"):
        yield file
    else:
        raise ConfigError(f"expected a path or an open file, found a {type(file).__name__}.")


@contextmanager
def get_tmp_file_with_buffer(buffer: bytes) -> Iterator[str]:
    """Yield the path of a temporary file with the given bytes."""
    with tempfile.NamedTemporaryFile() as stream:
        stream.write(buffer)
        stream.flush()
        yield stream.name


@contextmanager
def save_multiple_parts_file(filename: str, format: str = "gztar") -> Iterator[str]:
    """Yield a folder for files, which are then packed into an archive called `filename`.

    Raises
    ------
    FileExistsError
        If the file already exists.
    """
    target = read_path(filename, "filename").absolute()
    if target.exists():
        raise FileExistsError(f"{target} already exists.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        parts = Path(folder) / "parts"
        parts.mkdir()
        yield str(parts)
        archive = shutil.make_archive(str(Path(folder) / "archive"), format=format, root_dir=parts)
        os.replace(archive, target)


@contextmanager
def unpack_archive_with_buffer(buffer: bytes, format: str = "gztar") -> Iterator[str]:
    """Yield a temporary folder with the contents of an archive."""
    with tempfile.TemporaryDirectory() as folder:
        archive, parts = Path(folder) / "archive", Path(folder) / "parts"
        archive.write_bytes(buffer)
        options: dict[str, Any] = {} if format == "zip" else {"filter": "data"}
        shutil.unpack_archive(archive, parts, format=format, **options)
        yield str(parts)
