"""``qlib.utils.pickle_utils``: pickles that name nothing but what is allowed, by Rollforge's own allow-list."""

from __future__ import annotations

from typing import IO, Any

from rollforge import safe_pickle

__all__ = ["add_safe_class", "restricted_pickle_load", "restricted_pickle_loads"]


def restricted_pickle_load(file: IO[bytes]) -> Any:
    """Return the object pickled in an open file.

    Raises
    ------
    UntrustedPickle
        When the pickle names a type that is not allowed; nothing of it has run.
    ArtifactUnreadable
        When it is no pickle, or a truncated one.
    """
    return safe_pickle.load(file)


def restricted_pickle_loads(data: bytes) -> Any:
    """Return the object pickled in some bytes; see :func:`restricted_pickle_load`."""
    return safe_pickle.loads(data)


def add_safe_class(module: str, name: str) -> None:
    """Allow a class in this process."""
    safe_pickle.allow(module, name)
