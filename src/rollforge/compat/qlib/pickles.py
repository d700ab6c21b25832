"""``qlib.utils.pickle_utils``: loading pickles that contain only types on Rollforge's allow-list."""

from __future__ import annotations

from typing import IO, Any

from rollforge import safe_pickle

__all__ = ["add_safe_class", "restricted_pickle_load", "restricted_pickle_loads"]


def restricted_pickle_load(file: IO[bytes]) -> Any:
    """Return the object pickled in an open file.

    Raises
    ------
    UntrustedPickle
        If the pickle refers to a type that is not allowed. None of its code is run.
    ArtifactUnreadable
        If it is not a pickle, or is truncated.
    """
    return safe_pickle.load(file)


def restricted_pickle_loads(data: bytes) -> Any:
    """Return the object pickled in a bytes object; see :func:`restricted_pickle_load`."""
    return safe_pickle.loads(data)


def add_safe_class(module: str, name: str) -> None:
    """Allow a class in this process."""
    safe_pickle.allow(module, name)
