"""Objects that can save themselves to a file of their owner."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Self

from rollforge.errors import ConfigError
from rollforge.safe_pickle import load

__all__ = ["Serializable"]


class Serializable:
    """Base class of objects that can be saved to a file: models, processors, handlers, datasets, online managers.

    Examples
    --------
    >>> import tempfile
    >>> class Note(Serializable):
    ...     text = "unchanged"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     note = Note()
    ...     note.text = "kept"
    ...     note.to_pickle(f"{folder}/note.pkl")
    ...     Note.load(f"{folder}/note.pkl").text
    'kept'
    """

    def to_pickle(
        self, path: str | os.PathLike[str], *, dump_all: bool | None = None, recursive: bool | None = None
    ) -> None:
        """Save the object to a file, atomically.

        Parameters
        ----------
        path : path
            The file.
        dump_all, recursive : bool, optional
            Accepted for compatibility with Qlib, without effect: a handler's file contains its definition, and its data
            are found in the panel cache or computed again.
        """
        import cloudpickle

        target = Path(path)
        handle, draft = tempfile.mkstemp(dir=target.absolute().parent, prefix=f".{target.name}-")
        try:
            with os.fdopen(handle, "wb") as stream:
                cloudpickle.dump(self, stream)
            os.replace(draft, target)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, filepath: str | os.PathLike[str]) -> Self:
        """Load an object saved by :meth:`to_pickle`. The file is treated as your own and is trusted.

        Raises
        ------
        ConfigError
            If the file contains something else.
        """
        found = load(Path(filepath), trusted=True, known_classes=True)
        if not isinstance(found, cls):
            raise ConfigError(f"{filepath} contains a {type(found).__name__}, not a {cls.__name__}.")
        return found
