"""The key of a panel: what determines its contents, as plain data and as a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping

from rollforge.code_marks import code_mark
from rollforge.errors import TaskNotSerializable
from rollforge.market.filters import build_filters
from rollforge.task import encode

__all__ = ["describe_object", "describe_universe", "key_of"]

_COVERED = ("rollforge.market.", "rollforge.features.")


def describe_universe(instruments: object) -> object:
    """Describe a universe as plain data; None if an attribute of a filter is not plain data."""
    if isinstance(instruments, Mapping) and "market" in instruments:
        filters = [describe_object(f) for f in build_filters(instruments.get("filter_pipe") or [])]
        return None if None in filters else {"market": describe_universe(instruments["market"]), "filters": filters}
    if isinstance(instruments, Mapping):
        try:
            return {str(code): [[str(a), str(b)] for a, b in spans] for code, spans in instruments.items()}
        except (TypeError, ValueError):
            return None  # the loader reports the mistake
    if isinstance(instruments, str) or not isinstance(instruments, Iterable):
        return str(instruments)
    return sorted({str(code).upper() for code in instruments})


def describe_object(value: object, without: Collection[str] = ()) -> list[object] | None:
    """Describe a processor or filter by its class, code hash and attributes; None if these are not plain data.

    The classes of the modules that :func:`~rollforge.code_marks.code_version` covers need no hash: that version is in the
    key of every panel that is computed from a data folder.
    """
    kind = type(value)
    state = {k: v for k, v in vars(value).items() if k not in without}
    mark = "" if kind.__module__.startswith(_COVERED) else code_mark(kind)
    described: list[object] = [f"{kind.__module__}.{kind.__qualname__}", mark, state]
    try:
        encode(described)
    except TaskNotSerializable:
        return None
    return described


def key_of(definition: object) -> str:
    """Return the key of a panel for plain data that describe it."""
    return hashlib.sha256(encode(definition).encode()).hexdigest()[:24]
