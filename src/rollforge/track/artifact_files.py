"""Artifacts of a run as files: written completely or not at all, and never outside the run's folder."""

from __future__ import annotations

import contextlib
import functools
import os
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol

from rollforge.errors import ConfigError, RecorderNotFound, TrackingUnavailable, shown

__all__ = ["Files", "LocalFiles", "inside", "probe_folder"]


_MAX_NAME_BYTES = 255


class Files(Protocol):
    """The artifacts of one run. Paths are relative, with slashes."""

    @property
    def uri(self) -> str:
        """URI of the artifacts."""

    @property
    def folder(self) -> Path | None:
        """Folder of the artifacts if it is on this machine's file system, else None."""

    def draft(self, path: str) -> contextlib.AbstractContextManager[Path]:
        """Return a context manager with a file to write, which becomes the artifact `path` if no error is raised."""

    def list(self, folder: str = "") -> list[str]:
        """Return the sorted names in a folder; names of subfolders end with a slash."""

    def get(self, path: str) -> Path | None:
        """Return a local file with the artifact `path` (the artifact itself, or a copy), or None."""

    def remove(self, path: str) -> None:
        """Remove an artifact if it exists."""


@functools.lru_cache(maxsize=512)  # each run has artifacts of the same names
def inside(path: str) -> str:
    """Return `path` in normal form, after checking that it stays inside the run's folder.

    Raises
    ------
    ConfigError
        If it is absolute, contains ``..``, is empty, names a hidden file, or is not a valid file name.

    Examples
    --------
    >>> inside("sig_analysis//ic.pkl")
    'sig_analysis/ic.pkl'
    """
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or "\\" in path or "\0" in path or any(p.startswith(".") for p in parts):
        raise ConfigError(
            f"{path!r} cannot be the name of an artifact. Use a relative path without '..' and hidden files."
        )
    if any(len(p.encode("utf-8", "surrogatepass")) > _MAX_NAME_BYTES for p in parts) or not path.isprintable():
        raise ConfigError(
            f"{shown(path)} cannot be the name of an artifact: a name has at most {_MAX_NAME_BYTES} bytes and only "
            "printable characters."
        )
    return "/".join(parts)


def probe_folder(folder: Path) -> None:
    """Check that a folder is writable by creating and removing a file of 64 kB.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    probe = folder / f".probe-{uuid.uuid4().hex}"
    try:
        probe.write_bytes(bytes(2**16))
    finally:
        probe.unlink(missing_ok=True)


class LocalFiles:
    """Artifacts in a folder of this machine's file system.

    Parameters
    ----------
    folder : Path
        Folder of the artifacts; it is created when the first one is written.
    uri : str, optional
        URI of the folder; by default its path.
    run : Path, optional
        Folder of the run, which must exist for artifacts to be written.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> files = LocalFiles(Path(folder.name))
    >>> with files.draft("sub/notes.txt") as draft:
    ...     _ = draft.write_text("short")
    >>> files.list(), files.list("sub"), files.get("sub/notes.txt").read_text()
    (['sub/'], ['notes.txt'], 'short')
    >>> folder.cleanup()
    """

    def __init__(self, folder: Path, *, uri: str | None = None, run: Path | None = None) -> None:
        self.folder: Path | None = folder
        self._root = folder
        self.uri = uri if uri is not None else str(folder)
        self._run = run

    @contextlib.contextmanager
    def draft(self, path: str) -> Iterator[Path]:
        target = self._root / inside(path)
        folder = target.parent
        draft = folder / f".{uuid.uuid4().hex}.part"
        replaced = False
        try:
            self._create(folder)
            yield draft
            os.replace(draft, target)
            replaced = True
        except OSError as exc:
            raise TrackingUnavailable(f"The artifact {target} cannot be written: {exc.strerror or exc}.") from exc
        finally:
            if not replaced:
                with contextlib.suppress(OSError):  # the error that matters is raised above
                    draft.unlink(missing_ok=True)

    def _create(self, folder: Path) -> None:
        """Create a folder of artifacts if it is missing, but not that of the run: the run has been deleted then."""
        try:
            os.mkdir(folder)
        except FileExistsError:
            pass
        except FileNotFoundError:
            if self._run is not None and not self._run.is_dir():
                raise RecorderNotFound(f"The recorder {self._run.name!r} no longer exists.") from None
            folder.mkdir(parents=True, exist_ok=True)

    def list(self, folder: str = "") -> list[str]:
        root = self._root / inside(folder) if folder else self._root
        try:
            with os.scandir(root) as entries:
                return sorted(e.name + ("/" if e.is_dir() else "") for e in entries if not e.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def get(self, path: str) -> Path | None:
        file = self._root / inside(path)
        return file if os.path.isfile(file) else None

    def remove(self, path: str) -> None:
        (self._root / inside(path)).unlink(missing_ok=True)
