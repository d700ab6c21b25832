"""A pickler that leaves out hidden attributes that cannot be pickled, and where in an object the cause of a failure is."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import IO, Any

import cloudpickle

from rollforge.errors import shown

__all__ = ["Omissions", "names_of"]

_MAX_STEPS = 20
"""Attributes and items in the path to a cause."""
_IN_A_MODULE = "Define the class in a module: the attributes of a class of a script or notebook are saved with it."
_OF_CLASSES = ("__dict__", "__weakref__", "_abc_impl")
"""Attributes of classes that Python makes, and that pickles of classes never contain."""


def names_of(given: Collection[str] | None) -> frozenset[str]:
    """Return names of attributes as a set; a string is one name.

    Examples
    --------
    >>> sorted(names_of(["a", "b"])), sorted(names_of("connection")), sorted(names_of(None))
    (['a', 'b'], ['connection'], [])
    """
    return frozenset((given,) if isinstance(given, str) else given or ())


class Omissions:
    """Attributes that are left out of the pickles of some objects, at any depth.

    Parameters
    ----------
    kind : type
        Class of these objects. Others are pickled as cloudpickle does.
    optional : bool
        Leave out attributes whose name begins with ``_``, or that `exclude_attr` names, if they cannot be pickled. Each of
        them is pickled twice.
    excluded : (object, collection of str), optional
        An object, and attributes of it that are left out.
    """

    def __init__(
        self, kind: type, *, optional: bool = True, excluded: tuple[object, Collection[str]] | None = None
    ) -> None:
        self.kind = kind
        self.left_out: dict[str, None] = {}
        """``Class.attribute`` of what was left out because it cannot be pickled."""
        self._optional = optional
        self._excluded = excluded
        self._tried: dict[int, tuple[object, dict[str, bool]]] = {}  # with the object, as an id may be used again

    def dump(self, value: object, stream: IO[bytes]) -> None:
        """Write the pickle of an object to a stream."""
        self.left_out = {}
        _Pickler(stream, self).dump(value)

    def failure(self, value: object) -> Exception | None:
        """Return the error with which an object cannot be pickled, or None."""
        try:
            _Pickler(_Nowhere(), self).dump(value)
        except MemoryError:
            raise
        except Exception as exc:  # noqa: BLE001 - classes raise errors of their own
            return exc
        return None

    def cause(self, value: object) -> tuple[str, str]:
        """Return the path from an object that cannot be pickled to the cause, and what to do; empty if it is unknown."""
        path, advice, passed = "", _IN_A_MODULE if isinstance(value, type) else "", [value]
        while len(passed) < _MAX_STEPS:
            found = self._failing(passed)
            if found is None:
                break
            step, part = found
            path += step
            if isinstance(part, type):
                advice = _IN_A_MODULE
            elif step.startswith(".") and not isinstance(passed[-1], type):
                advice = f"Leave it out in {type(passed[-1]).__name__}.__getstate__()."
            passed.append(part)
        return path and type(value).__name__ + path, advice

    def reduced(self, value: Any, made: Any) -> Any:
        """Return what an object is pickled as, without the attributes that are left out.

        Parameters
        ----------
        value : object
            The object.
        made : str or tuple
            The result of its ``__reduce_ex__``.
        """
        if isinstance(made, str) or len(made) < 3:
            return made
        state = made[2]
        if isinstance(state, dict):
            state = self._kept(value, state)
        elif _has_slots(state):
            state = tuple(self._kept(value, part) for part in state)
        return (*made[:2], state, *made[3:])

    def _kept(self, value: object, state: dict[Any, Any] | None) -> dict[Any, Any] | None:
        if state is None:
            return None
        return {name: part for name, part in state.items() if not self._is_left_out(value, name, part)}

    def _is_left_out(self, value: object, name: object, part: object) -> bool:
        if not isinstance(name, str):
            return False
        if self._excluded is not None and value is self._excluded[0] and name in self._excluded[1]:
            return True
        if not self._optional or not (name.startswith("_") or name in names_of(getattr(value, "exclude_attr", ()))):
            return False
        tried = self._tried.setdefault(id(value), (value, {}))[1]
        if name not in tried:
            tried[name] = True  # while it is tried, since it may refer back to the object
            tried[name] = self.failure(part) is not None
        if tried[name]:
            self.left_out[f"{type(value).__name__}.{name}"] = None
        return tried[name]

    def _failing(self, passed: list[object]) -> tuple[str, object] | None:
        """Return the first part of the last object that cannot be pickled, other than those that were passed."""
        for step, part in self._parts(passed[-1]):
            if not any(part is other for other in passed) and self.failure(part) is not None:
                return step, part
        return None

    def _parts(self, value: Any) -> Iterator[tuple[str, object]]:
        """Yield the items and attributes that the pickle of an object contains, each with its step of the path."""
        if isinstance(value, dict):
            yield from ((f"[{shown(key)}]", part) for key, part in value.items())
        elif isinstance(value, (list, tuple, set, frozenset)):
            yield from ((f"[{place}]", part) for place, part in enumerate(value))
        else:
            yield from ((f".{name}", part) for name, part in self._attributes(value).items())
            yield ".__class__", type(value)  # a class of a script is pickled with its own attributes

    def _attributes(self, value: Any) -> dict[str, object]:
        if isinstance(value, type):
            return {name: part for name, part in vars(value).items() if name not in _OF_CLASSES}
        state: Any = None
        if isinstance(value, self.kind):
            try:
                made = self.reduced(value, value.__reduce_ex__(cloudpickle.DEFAULT_PROTOCOL))
            except Exception:  # noqa: BLE001 - this method of the class is the cause
                return {}
            state = made[2] if isinstance(made, tuple) and len(made) > 2 else None
        parts: tuple[Any, ...] = state if _has_slots(state) else (state,)
        if not any(isinstance(part, dict) for part in parts):
            parts = (getattr(value, "__dict__", None) or {},)
        return {name: part for attributes in parts for name, part in (attributes or {}).items()}


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    """A pickler that asks :class:`Omissions` what to leave out."""

    def __init__(self, stream: Any, omissions: Omissions) -> None:
        super().__init__(stream)
        self._omissions = omissions

    def reducer_override(self, value: Any) -> Any:
        if not issubclass(type(value), self._omissions.kind):
            return super().reducer_override(value)
        registered = self.dispatch_table.get(type(value))
        made = value.__reduce_ex__(self.proto) if registered is None else registered(value)
        return self._omissions.reduced(value, made)


class _Nowhere:
    """A stream without content."""

    def write(self, data: object) -> None:
        """Forget the data."""


def _has_slots(state: object) -> bool:
    """Return whether the state of an object consists of its attributes and its slots."""
    return (
        isinstance(state, tuple) and len(state) == 2 and all(part is None or isinstance(part, dict) for part in state)
    )
