"""Rules for the values of Python's own types in a pickle."""

from __future__ import annotations

import datetime as dt
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

from rollforge.pickle_rules import Refused, Rule, are_integers, count_hashes, need

__all__ = ["MOVED", "PYTHON", "is_zone"]


def _from_sequence(kind: Callable[[Any], object]) -> Callable[..., object]:
    def make(values: Any = ()) -> object:
        need(isinstance(values, (list, tuple, set, frozenset)), "a container made from something else")
        if kind in (set, frozenset) and not isinstance(values, (set, frozenset)):
            count_hashes(values, Counter())
        return kind(values)

    return make


def _bytearray(data: Any = b"", encoding: str = "latin-1") -> bytearray:
    need(
        isinstance(data, (bytes, bytearray, str)) and encoding in ("latin-1", "latin1"),
        "a bytearray of something other than bytes",
    )
    return bytearray(data.encode("latin-1") if isinstance(data, str) else data)


def _encode(text: object, encoding: object = "latin1") -> bytes:
    if not (type(text) is str and encoding in ("latin1", "latin-1")):
        raise Refused("an encoding other than Latin-1")
    return text.encode("latin-1")


def _bytes(data: object = b"", encoding: str = "latin-1") -> bytes:
    return bytes(_bytearray(data, encoding))


def _numbers(kind: Callable[..., object]) -> Callable[..., object]:
    def make(*values: object) -> object:
        need(all(type(v) in (int, float, bool) for v in values), f"a {kind.__name__} of something other than numbers")
        return kind(*values)

    return make


def _slice(*values: object) -> slice:
    # Slices are hashable since Python 3.12: nested ones would crash the process, as deep tuples do.
    plain = (v for value in values for v in (value if isinstance(value, tuple) else (value,)))
    need(not any(isinstance(v, (tuple, frozenset, slice)) for v in plain), "a slice of containers")
    return slice(*values)


def _ordered(pairs: Any = ()) -> OrderedDict[object, object]:
    need(isinstance(pairs, (list, tuple, dict)), "an OrderedDict of something other than pairs")
    if not isinstance(pairs, dict):
        need(
            all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs),
            "an OrderedDict of something other than pairs",
        )
        count_hashes((pair[0] for pair in pairs), Counter())
    return OrderedDict(pairs)


def _counter(counts: Any = ()) -> Counter[object]:
    need(type(counts) is dict or counts == (), "a Counter of something other than a dict")
    return Counter(counts)


_FACTORIES = (int, float, str, list, dict, set, tuple, OrderedDict)


def _default_dict(factory: Any = None) -> defaultdict[object, object]:
    need(factory is None or factory in _FACTORIES, "a defaultdict of an unknown type")
    return defaultdict(factory)


def _deque(values: Any = (), maxlen: Any = None) -> deque[object]:
    need(values in ((), []) and (maxlen is None or type(maxlen) is int), "a deque that is filled by a call")
    return deque(maxlen=maxlen)


def _date(*parts: Any) -> dt.date:
    need(
        are_integers(*parts) or (len(parts) == 1 and type(parts[0]) in (bytes, str)),
        "a date of something other than numbers",
    )
    return dt.date(*parts)


def _moment(kind: type[dt.datetime] | type[dt.time]) -> Callable[..., object]:
    def make(*parts: object) -> object:
        *numbers, zone = parts if parts and (parts[-1] is None or isinstance(parts[-1], dt.tzinfo)) else (*parts, None)
        need(
            are_integers(*numbers) or (len(numbers) == 1 and type(numbers[0]) in (bytes, str)),
            f"a {kind.__name__} of something other than numbers",
        )
        build: Callable[..., object] = kind
        packed = bool(numbers) and type(numbers[0]) is not int
        if packed:
            return build(*numbers, zone) if zone is not None else build(*numbers)
        return build(*numbers, tzinfo=zone)

    return make


def _zone(offset: Any, *name: Any) -> dt.timezone:
    need(
        type(offset) is dt.timedelta and all(type(n) is str for n in name),
        "a timezone of something other than an offset and a name",
    )
    return dt.timezone(offset, *name)


def is_zone(zone: object) -> bool:
    """Return whether pandas may be given a time zone: some names are paths of files, which it would open."""
    return isinstance(zone, dt.tzinfo) or (type(zone) is str and len(zone) < 100 and not zone.startswith("dateutil/"))


def _zone_info(key: object, *_: object) -> object:
    from zoneinfo import ZoneInfo

    if not (type(key) is str and len(key) < 100):
        raise Refused("a time zone without a name")
    return ZoneInfo(key)


def _get_attribute(*arguments: object) -> Rule:
    """``getattr`` in a pickle, with which a ZoneInfo names its reader."""
    from zoneinfo import ZoneInfo

    need(arguments == (ZoneInfo, "_unpickle"), "getattr")
    return Rule(_zone_info)


def _decimal(text: object) -> Decimal:
    if not (type(text) is str and len(text) < 10_000):
        raise Refused("a Decimal of something other than a string")
    return Decimal(text)


def _path(*parts: Any) -> object:
    from pathlib import PosixPath

    need(all(type(p) is str for p in parts), "a path of something other than strings")
    return PosixPath(*parts)


def _pure_path(*parts: Any) -> PurePosixPath:
    need(all(type(p) is str for p in parts), "a path of something other than strings")
    return PurePosixPath(*parts)


PYTHON: dict[tuple[str, str], Rule] = {
    **{("builtins", t.__name__): Rule(value=t) for t in (bool, int, float, str, list, tuple, dict, object)},
    ("builtins", "bytes"): Rule(_bytes, bytes),
    ("builtins", "bytearray"): Rule(_bytearray, bytearray),
    ("builtins", "complex"): Rule(_numbers(complex), complex),
    ("builtins", "set"): Rule(_from_sequence(set), set),
    ("builtins", "frozenset"): Rule(_from_sequence(frozenset), frozenset),
    ("builtins", "slice"): Rule(_slice, slice),
    ("builtins", "range"): Rule(_numbers(range), range),
    ("builtins", "getattr"): Rule(_get_attribute),
    ("_codecs", "encode"): Rule(_encode),
    ("collections", "OrderedDict"): Rule(_ordered, OrderedDict),
    ("collections", "Counter"): Rule(_counter, Counter),
    ("collections", "defaultdict"): Rule(_default_dict, defaultdict),
    ("collections", "deque"): Rule(_deque, deque),
    ("datetime", "date"): Rule(_date, dt.date),
    ("datetime", "datetime"): Rule(_moment(dt.datetime), dt.datetime),
    ("datetime", "time"): Rule(_moment(dt.time), dt.time),
    ("datetime", "timedelta"): Rule(_numbers(dt.timedelta), dt.timedelta),
    ("datetime", "timezone"): Rule(_zone, dt.timezone),
    ("decimal", "Decimal"): Rule(_decimal, Decimal),
    ("pathlib", "PosixPath"): Rule(_path),
    ("pathlib", "PurePosixPath"): Rule(_pure_path, PurePosixPath),
    ("pathlib._local", "PosixPath"): Rule(_path),
    ("pathlib._local", "PurePosixPath"): Rule(_pure_path, PurePosixPath),
    ("zoneinfo", "ZoneInfo._unpickle"): Rule(_zone_info),
}
MOVED = {"__builtin__": "builtins", "copy_reg": "copyreg"}
