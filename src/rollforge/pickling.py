"""Objects that can save themselves to a file of their owner, and pickles of objects that contain them."""

from __future__ import annotations

import io
import logging
import os
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any, Self

from rollforge.errors import ConfigError, shown
from rollforge.safe_pickle import load

__all__ = ["Serializable", "dump", "kept_attributes", "pickled", "save"]

log = logging.getLogger(__name__)


class Serializable:
    """Base class of objects that can be saved to a file: models, processors, handlers, datasets, online managers.

    Attributes that the class attribute ``exclude_attr`` names are left out of files and copies. Those whose name begins with
    ``_`` are left out of files if they cannot be pickled, such as a lock or an open file, and a warning names them. What is
    needed after loading must be made again by ``__setstate__``.

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

    def __getstate__(self) -> Any:
        """Return what is pickled: the attributes, without those that `exclude_attr` names."""
        state = super().__getstate__()
        if not self.exclude_attr:
            return state
        parts = state if isinstance(state, tuple) else (state,)
        kept = tuple(_without(part, self) if isinstance(part, dict) else part for part in parts)
        return kept if isinstance(state, tuple) else kept[0]

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
            Names of attributes that are left out; a string is one name.

        Raises
        ------
        ConfigError
            If another attribute cannot be pickled.
        """
        save(self, path, exclude=exclude)

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


def kept_attributes(value: Serializable) -> dict[str, Any]:
    """Return the attributes of an object, without those that its class excludes from files."""
    return _without(vars(value), value)


def save(value: object, path: str | os.PathLike[str], *, exclude: Collection[str] = ()) -> None:
    """Save an object to a file of its owner, atomically, as :func:`dump` does.

    Raises
    ------
    ConfigError
        If it cannot be pickled.
    """
    target = Path(path)
    handle, draft = tempfile.mkstemp(dir=target.absolute().parent, prefix=f".{target.name}-")
    try:
        with os.fdopen(handle, "wb") as stream:
            dump(value, stream, exclude=exclude)
        os.replace(draft, target)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def dump(value: object, stream: IO[bytes], *, exclude: Collection[str] = ()) -> None:
    """Write the pickle of an object to a file, without the hidden attributes that cannot be pickled.

    Qlib leaves out all hidden attributes of each :class:`Serializable`, so classes written for it keep locks and connections
    in them.

    Parameters
    ----------
    value : object
        The object.
    stream : file
        A file opened for writing, that can be truncated.
    exclude : collection of str
        Names of attributes of `value` that are left out.

    Raises
    ------
    ConfigError
        If something else cannot be pickled, with the path to it.
    """
    import cloudpickle

    from rollforge.pickler import Omissions, names_of

    excluded = (value, names_of(exclude))
    start = stream.tell()
    try:
        if exclude:
            Omissions(Serializable, optional=False, excluded=excluded).dump(value, stream)
        else:
            cloudpickle.dump(value, stream)
        return
    except MemoryError:  # the task may be run again with more memory
        raise
    except Exception:  # noqa: BLE001 - which attribute is the cause is found below
        omissions = Omissions(Serializable, excluded=excluded)
        problem = omissions.failure(value)
    if problem is not None:
        path, advice = omissions.cause(value)
        raise ConfigError(
            f"{type(value).__name__} cannot be saved: {_said(problem)}{path and f' ({path})'}. {advice}".rstrip()
        ) from problem
    # An error of the file itself, such as a full disk, is raised again here.
    stream.seek(start)
    stream.truncate()
    omissions.dump(value, stream)
    if omissions.left_out:
        log.warning(
            "%s is saved without %s, which cannot be pickled. What is needed after loading must be made again by "
            "__setstate__() of its class.", type(value).__name__, ", ".join(omissions.left_out),
        )  # fmt: skip


def pickled(value: object) -> bytes:
    """Return what :func:`dump` writes."""
    stream = io.BytesIO()
    dump(value, stream)
    return stream.getvalue()


def _without(attributes: dict[str, Any], value: Serializable) -> dict[str, Any]:
    from rollforge.pickler import names_of

    try:
        names = names_of(value.exclude_attr)
    except TypeError:
        raise ConfigError(
            f"{type(value).__name__}.exclude_attr must be names of attributes, found {shown(value.exclude_attr)}."
        ) from None
    return {name: part for name, part in attributes.items() if name not in names}


def _said(error: Exception) -> str:
    try:
        return str(error).rstrip(".") or type(error).__name__
    except Exception:  # noqa: BLE001 - whatever the error's own __str__ raises
        return type(error).__name__
