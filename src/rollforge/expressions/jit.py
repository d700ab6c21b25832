"""How kernels are compiled, and where compiled code is kept."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import njit

from rollforge.session import current_session

__all__ = ["NAN", "cache_folder", "exact", "kernel_version", "one_at_a_time", "reordering"]

log = logging.getLogger(__name__)

NAN = np.nan


@functools.cache
def kernel_version() -> str:
    """Return a mark of the kernels' code and of the compiler."""
    mark = hashlib.sha256(f"{numba.__version__} {np.__version__}".encode())
    for name in ("jit", "kernels", "moments"):
        mark.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return mark.hexdigest()[:16]


def _cache_folder() -> str:
    """Where compiled code is kept: in the cache that all processes share, or, where that is read-only, a folder of this
    process alone (compiled code is executed, so it is never taken from a folder that others can write).

    The folder's name stands for the kernels' code: numba itself compares the time and the size of one file, which an edit
    elsewhere, or an installation that sets all times alike, leaves as they were.
    """
    folder = Path(current_session().cache) / "kernels" / kernel_version()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return str(folder)
    except OSError as exc:
        log.info("Compiled code is not kept: %s", exc)
    return tempfile.mkdtemp(prefix="rollforge-kernels-")


_settings: Any = numba.config
if not _settings.CACHE_DIR:  # NUMBA_CACHE_DIR, when somebody has set it, wins
    _settings.CACHE_DIR = _cache_folder()

_FLAGS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}

exact = njit(**_FLAGS)
"""Operations stay in the order in which they are written."""
reordering = njit(**_FLAGS, fastmath={"reassoc", "contract"})
"""Sums inside one window may be reordered (vector instructions); NaN and infinity keep their meaning."""


def cache_folder() -> Path:
    """Return where this process keeps compiled code."""
    return Path(_settings.CACHE_DIR)


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Let no other process that keeps its compiled code in the same folder into such a block at the same time."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # where nothing can be kept, nothing is shared
            cache_folder().mkdir(parents=True, exist_ok=True)
            fcntl.flock(held.enter_context((cache_folder() / ".lock").open("w")), fcntl.LOCK_EX)
        yield
