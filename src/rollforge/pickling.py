"""Objects that can save themselves to a file of their owner, and the pickles of such objects."""

from __future__ import annotations

import copy
import logging
import os
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Self

from rollforge.errors import ConfigError
from rollforge.safe_pickle import load

__all__ = ["Serializable", "pickled"]

log = logging.getLogger(__name__)


class Serializable:
    """Base class of objects that can be saved to a file: models, processors, handlers, datasets, online managers.

    Attributes whose name begins with ``_``, and those named by the class attribute ``exclude_attr``, are left out of the file
    if they cannot be pickled, such as a lock or an open file.

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

    exclude_attr: Collection[str] = ()

    def to_pickle(
        self,
        path: str | os.PathLike[str],
        *,
        dump_all: bool | None = None,
        recursive: bool | None = None,
        exclude: Collection[str] = (),
    ) -> None:
        """Save the object to a file, atomically.

        Parameters
        ----------
        path : path
            The file.
        dump_all, recursive : bool, optional
            Accepted for compatibility with Qlib, without effect: a handler's file contains its definition, and its data
            are found in the panel cache or computed again.
        exclude : collection of str
            Names of attributes that are left out.

        Raises
        ------
        ConfigError
            If another attribute cannot be pickled.
        """
        content = pickled(_without(self, exclude) if exclude else self)
        target = Path(path)
        handle, draft = tempfile.mkstemp(dir=target.absolute().parent, prefix=f".{target.name}-")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
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


def pickled(value: object) -> bytes:
    """Return the pickle of an object; of a :class:`Serializable` without hidden attributes that cannot be pickled.

    Qlib leaves out all hidden attributes, so models written for it keep locks and connections in them.

    Raises
    ------
    ConfigError
        If it cannot be pickled, with the attribute that is the cause.
    """
    import cloudpickle

    try:
        content: bytes = cloudpickle.dumps(value)
    except Exception as exc:  # classes raise errors of their own
        problem = f"{type(value).__name__} cannot be saved: {exc}"
        causes = list(_unpicklable(value))
        hidden = [
            name for name in causes if name.startswith("_") or name in (getattr(value, "exclude_attr", None) or ())
        ]
        if not causes or hidden != causes or not isinstance(value, Serializable):
            cause = next(iter([name for name in causes if name not in hidden] or causes), None)
            where = f" (attribute {cause!r}). Leave it out in __getstate__()" if cause else ""
            raise ConfigError(f"{problem}{where}.") from exc
        log.warning("%s is saved without %s, which cannot be pickled", type(value).__name__, ", ".join(hidden))
        content = cloudpickle.dumps(_without(value, hidden))
    return content


def _unpicklable(value: object) -> Iterator[str]:
    """Yield the names of the attributes that cannot be pickled."""
    import cloudpickle

    for name, attribute in getattr(value, "__dict__", {}).items():
        try:
            cloudpickle.dumps(attribute)
        except Exception:  # noqa: BLE001 - which error it is was determined for the whole object
            yield name


def _without(value: object, names: Collection[str]) -> object:
    """Return a copy of an object without some of its attributes."""
    bare = copy.copy(value)
    for name in names:
        vars(bare).pop(name, None)
    return bare
