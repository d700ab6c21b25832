"""Faster imports of large packages."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["without_collections"]


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """Import packages without garbage collections.

    Nearly all objects that an import creates live as long as the process. Each collection looks at them again, which takes
    a quarter of the time of importing MLflow.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
