"""Compilation of kernels, and the cache of compiled code."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import hashlib
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import njit

from rollforge.confidential import private_folder
from rollforge.session import current_session

__all__ = ["NAN", "cache_folder", "exact", "kernel_version", "one_at_a_time", "reordering"]

log = logging.getLogger(__name__)

NAN = np.nan


@functools.cache
def kernel_version() -> str:
    """Return a hash of the kernels' code and the compiler's version."""
    mark = hashlib.sha256(f"{numba.__version__} {np.__version__}".encode())
    for name in ("jit", "kernels", "moments"):
        mark.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return mark.hexdigest()[:16]


def _cache_folder() -> str:
    """Return the folder of compiled code: in the cache shared by all processes or, if that is read-only or belongs to
    another user, a private folder of this process (compiled code is executed, so it is never loaded from a folder that
    others can write to).

    The folder is named after a hash of the kernels' code, because numba itself only compares the time and size of one
    file: it would miss edits in other files, and installations that give all files the same time.
    """
    folder = Path(current_session().cache) / "kernels" / kernel_version()
    try:
        private_folder(folder)
        if os.access(folder, os.W_OK) and _is_private(folder):
            return str(folder)
    except OSError as exc:
        log.info("Compiled code is not cached: %s", exc)
    own = tempfile.mkdtemp(prefix="rollforge-kernels-")
    atexit.register(_remove, own, os.getpid())
    return own


def _remove(folder: str, process: int) -> None:
    if os.getpid() == process:  # a forked child leaves its parent's folder
        shutil.rmtree(folder, ignore_errors=True)


def _is_private(folder: Path) -> bool:
    """Return whether only this user can write to a folder.

    If the folder is this user's and others can write to it (a permissive umask), that permission and all files are
    removed.
    """
    if not hasattr(os, "geteuid"):
        return True  # on Windows, the cache is in the user's profile
    state = folder.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid():
        return False
    if state.st_mode & 0o022:
        folder.chmod(stat.S_IMODE(state.st_mode) & ~0o022)
        for entry in folder.iterdir():  # existing files may come from others; they are compiled again
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    return True


_settings: Any = numba.config
if not _settings.CACHE_DIR:  # NUMBA_CACHE_DIR takes precedence
    _settings.CACHE_DIR = _cache_folder()

_FLAGS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}

exact = njit(**_FLAGS)
"""Compile with operations in the order in which they are written."""
reordering = njit(**_FLAGS, fastmath={"reassoc", "contract"})
"""Compile with reordering of sums inside one window (vector instructions); NaN and infinity keep their meaning."""


def cache_folder() -> Path:
    """Return the folder of this process's compiled code."""
    return Path(_settings.CACHE_DIR)


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Hold a lock that excludes other processes that use the same folder of compiled code."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # without a writable folder nothing is shared
            cache_folder().mkdir(parents=True, exist_ok=True)
            fcntl.flock(held.enter_context((cache_folder() / ".lock").open("w")), fcntl.LOCK_EX)
        yield
