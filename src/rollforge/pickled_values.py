"""Rules for building the values that a pickle may contain from their parts.

A :class:`Rule` replaces one name in a pickle (a class or function that Python's reader would call) and builds the value
with public constructors, after checking the parts. The names are those written by Python, numpy, pandas and pyarrow in
versions since 2020. Names move between modules from version to version, so names of pandas and numpy are identified by
their last part.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any, ClassVar

from rollforge.lightgbm_text import check_model_text
from rollforge.limits import count_values

__all__ = ["Pending", "Refused", "Rule", "count_hashes", "rule_of", "size_of"]


class Refused(Exception):
    """A pickle requests something that this reader does not support; the message names it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """The meaning of one name in a pickle."""

    NO_VALUE: ClassVar[Any] = object()

    make: Callable[..., Any] | None = None
    """Called with the arguments of a call. Returns the value, or a :class:`Pending` that is completed by its state."""
    value: Any = NO_VALUE
    """The object itself, if the name can be a value (for example a class)."""
    new: Callable[..., Any] | None = None
    """Used instead of `make` if an instance is created without its constructor."""
    fill: Callable[[Any, Any], Any] | None = None
    """``(instance, state) -> instance``, for a value that is created before its state is known."""


class Pending:
    """A value that is created once its state is known.

    Parameters
    ----------
    finish : callable
        ``state -> value``; the state is None if the pickle has none.
    """

    def __init__(self, finish: Callable[[Any], object]) -> None:
        self._finish = finish
        self._busy = False
        self.memo: list[int] = []
        """Where the reader stores it."""
        self.done = False
        self.result: object = None

    def finish(self, state: Any) -> Any:
        """Return the value."""
        self.result, self.done = self._finish(state), True
        return self.result


def size_of(value: Any) -> int:
    """Return roughly how many bytes a value that a call created takes, without the values in a container."""
    if isinstance(value, (bytes, bytearray, str)):
        return 32 + len(value)
    if isinstance(value, (list, set, frozenset, dict, deque)):
        return 64 + 64 * len(value)
    kind = type(value).__name__
    if kind in ("MultiIndex", "RangeIndex"):  # their own count is slow, and 0
        return 64 + 8 * len(value)
    if kind == "DataFrame":
        return 64 + len(value) * sum(getattr(dtype, "itemsize", 8) for dtype in value.dtypes)
    size = getattr(value, "nbytes", 0)
    return 64 + (size if type(size) is int else 0)


def _need(condition: object, what: str) -> None:
    if not condition:
        raise Refused(what)


def _ints(*values: object) -> bool:
    return all(type(v) is int for v in values)


# -- Python's own --------------------------------------------------------------------------------------------------------


_MOST_OF_A_HASH = 500
_MOST_IN_A_KEY = 1_000
_LARGEST_IN_A_KEY = 10_000
"""Bits of an integer in a key."""


def _checked_key(key: object) -> object:
    """Return the key of a dict or set; refuse one whose hash, which is computed again at each use, would take long."""
    if type(key) in (float, type(None), bool):
        return key
    waiting: list[Any] = [(key,)]
    count = 0
    while waiting:
        values = waiting.pop()
        count += len(values)
        if count > _MOST_IN_A_KEY:
            raise ValueError(f"a key in it consists of more than {_MOST_IN_A_KEY:,} values")
        for value in values:
            if isinstance(value, (tuple, frozenset)):
                waiting.append(value)
            elif isinstance(value, (range, slice)):
                waiting.append((value.start, value.stop, value.step))
            elif type(value) is int:
                _need(value.bit_length() <= _LARGEST_IN_A_KEY, "a very large integer as a key")
            else:
                _need(not hasattr(value, "construct_array_type"), "a dtype of pandas as a key")
    return key


def count_hashes(keys: Iterable[object], seen: Counter[int]) -> None:
    """Count the hashes of the keys of one dict or set.

    With equal hashes, each insertion searches all of them. Hashes of strings and bytes differ between processes, so an
    attacker cannot choose them.

    Raises
    ------
    ValueError
        If more than a few hundred distinct keys have the same hash.
    """
    numbers = [hash(_checked_key(key)) for key in keys if type(key) not in (str, bytes)]
    if numbers:
        seen.update(numbers)
        if max(map(seen.__getitem__, set(numbers))) > _MOST_OF_A_HASH:
            raise ValueError(f"more than {_MOST_OF_A_HASH} keys in it have the same hash")


def _from_sequence(kind: Callable[[Any], object]) -> Callable[..., object]:
    def make(values: Any = ()) -> object:
        _need(isinstance(values, (list, tuple, set, frozenset)), "a container made from something else")
        if kind in (set, frozenset) and not isinstance(values, (set, frozenset)):
            count_hashes(values, Counter())
        return kind(values)

    return make


def _bytearray(data: Any = b"", encoding: str = "latin-1") -> bytearray:
    _need(
        isinstance(data, (bytes, bytearray, str)) and encoding in ("latin-1", "latin1"),
        "a bytearray of something other than bytes",
    )
    return bytearray(data.encode("latin-1") if isinstance(data, str) else data)


def _encode(text: Any, encoding: object = "latin1") -> bytes:
    _need(type(text) is str and encoding in ("latin1", "latin-1"), "an encoding other than Latin-1")
    made: bytes = text.encode("latin-1")
    return made


def _bytes(data: object = b"", encoding: str = "latin-1") -> bytes:
    return bytes(_bytearray(data, encoding))


def _numbers(kind: Callable[..., object]) -> Callable[..., object]:
    def make(*values: object) -> object:
        _need(all(type(v) in (int, float, bool) for v in values), f"a {kind.__name__} of something other than numbers")
        return kind(*values)

    return make


def _slice(*values: object) -> slice:
    # Slices are hashable since Python 3.12: nested ones would crash the process, as deep tuples do.
    plain = (v for value in values for v in (value if isinstance(value, tuple) else (value,)))
    _need(not any(isinstance(v, (tuple, frozenset, slice)) for v in plain), "a slice of containers")
    return slice(*values)


def _ordered(pairs: Any = ()) -> OrderedDict[Any, Any]:
    _need(isinstance(pairs, (list, tuple, dict)), "an OrderedDict of something other than pairs")
    if not isinstance(pairs, dict):
        _need(
            all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs),
            "an OrderedDict of something other than pairs",
        )
        count_hashes((pair[0] for pair in pairs), Counter())
    return OrderedDict(pairs)


def _counter(counts: Any = ()) -> Counter[Any]:
    _need(type(counts) is dict or counts == (), "a Counter of something other than a dict")
    return Counter(counts)


_FACTORIES = (int, float, str, list, dict, set, tuple, OrderedDict)


def _default_dict(factory: Any = None) -> defaultdict[Any, Any]:
    _need(factory is None or factory in _FACTORIES, "a defaultdict of an unknown type")
    return defaultdict(factory)


def _deque(values: Any = (), maxlen: Any = None) -> deque[Any]:
    _need(values in ((), []) and (maxlen is None or type(maxlen) is int), "a deque that is filled by a call")
    return deque(maxlen=maxlen)


def _date(*parts: Any) -> dt.date:
    _need(
        _ints(*parts) or (len(parts) == 1 and type(parts[0]) in (bytes, str)), "a date of something other than numbers"
    )
    return dt.date(*parts)


def _moment(kind: type[dt.datetime] | type[dt.time]) -> Callable[..., object]:
    def make(*parts: object) -> object:
        *numbers, zone = parts if parts and (parts[-1] is None or isinstance(parts[-1], dt.tzinfo)) else (*parts, None)
        _need(
            _ints(*numbers) or (len(numbers) == 1 and type(numbers[0]) in (bytes, str)),
            f"a {kind.__name__} of something other than numbers",
        )
        build: Callable[..., Any] = kind
        packed = bool(numbers) and type(numbers[0]) is not int
        if packed:
            return build(*numbers, zone) if zone is not None else build(*numbers)
        return build(*numbers, tzinfo=zone)

    return make


def _zone(offset: Any, *name: Any) -> dt.timezone:
    _need(
        type(offset) is dt.timedelta and all(type(n) is str for n in name),
        "a timezone of something other than an offset and a name",
    )
    return dt.timezone(offset, *name)


def _is_zone(zone: object) -> bool:
    """Return whether pandas may be given a time zone: some names are paths of files, which it would open."""
    return isinstance(zone, dt.tzinfo) or (type(zone) is str and len(zone) < 100 and not zone.startswith("dateutil/"))


def _zone_info(key: Any, *_: object) -> object:
    from zoneinfo import ZoneInfo

    _need(type(key) is str and len(key) < 100, "a time zone without a name")
    return ZoneInfo(key)


def _get_attribute(*arguments: object) -> Rule:
    """``getattr`` in a pickle, with which a ZoneInfo names its reader."""
    from zoneinfo import ZoneInfo

    _need(arguments == (ZoneInfo, "_unpickle"), "getattr")
    return Rule(_zone_info)


def _decimal(text: Any) -> Decimal:
    _need(type(text) is str and len(text) < 10_000, "a Decimal of something other than a string")
    return Decimal(text)


def _path(*parts: Any) -> object:
    from pathlib import PosixPath

    _need(all(type(p) is str for p in parts), "a path of something other than strings")
    return PosixPath(*parts)


def _pure_path(*parts: Any) -> PurePosixPath:
    _need(all(type(p) is str for p in parts), "a path of something other than strings")
    return PurePosixPath(*parts)


_PYTHON: dict[tuple[str, str], Rule] = {
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
_MOVED = {"__builtin__": "builtins", "copy_reg": "copyreg"}


# -- numpy ---------------------------------------------------------------------------------------------------------------

_LARGEST_ITEM = 2**20
_TYPE_CODE = re.compile(r"[?a-zA-Z]\d{0,7}|[a-z]+\d{0,3}")


def _dtype(code: Any, *_: Any) -> Pending:
    _need(type(code) is str and _TYPE_CODE.fullmatch(code), "a dtype of an unknown form")

    def finish(state: Any) -> object:
        import numpy as np

        if state is None:
            made = np.dtype(code)
        else:
            _need(isinstance(state, tuple) and len(state) >= 8, "a dtype with an unknown state")
            made = _dtype_with(code, state)
        _need(made.itemsize <= _LARGEST_ITEM, "a dtype of a very large item")
        return made

    return Pending(finish)


def _dtype_with(code: str, state: tuple[Any, ...]) -> Any:
    import numpy as np

    order, sub, names, fields, size = state[1:6]
    _need(order in ("<", ">", "|", "="), "a dtype with an unknown byte order")
    _need(sub is None, "a dtype with an inner shape")
    if names is not None:
        _need(
            isinstance(names, tuple) and isinstance(fields, dict) and type(size) is int, "a dtype with unknown fields"
        )
        parts = [fields[name] for name in names]
        _need(
            all(type(n) is str for n in names)
            # Fields inside fields can share their parts, so that hashing or comparing them never ends.
            and all(
                isinstance(p, tuple) and isinstance(p[0], np.dtype) and _ints(p[1]) and not p[0].names for p in parts
            )
            and 0 < size <= _LARGEST_ITEM,
            "a dtype with unknown fields",
        )
        made: Any = np.dtype(
            {"names": list(names), "formats": [p[0] for p in parts], "offsets": [p[1] for p in parts], "itemsize": size}
        )
        _need(not made.hasobject, "a dtype with objects inside fields")
        return made
    if code in ("M8", "m8") and len(state) > 8 and state[8] is not None:
        (unit, number, _, _) = state[8][1]
        _need(isinstance(unit, (bytes, str)) and type(number) is int, "a dtype with an unknown unit")
        unit = unit.decode("ascii") if isinstance(unit, bytes) else unit
        _need(re.fullmatch(r"[a-zA-Zμ]{1,7}", unit), "a dtype with an unknown unit")
        code = code if unit == "generic" else f"{code}[{number if number != 1 else ''}{unit}]"
    made = np.dtype(code)
    return made.newbyteorder(order) if order in "<>" and made.byteorder != "|" else made


def _array(data: Any, dtype: Any, shape: Any, order: str) -> Any:
    """Build an array from its bytes or from a list of objects, after checking that they fill it exactly."""
    import numpy as np

    _need(isinstance(dtype, np.dtype), "an array without a dtype")
    _need(
        isinstance(shape, tuple) and _ints(*shape) and all(0 <= n < 2**48 for n in shape),
        "an array with an unknown shape",
    )
    _need(len(shape) <= 32 and order in ("C", "F"), "an array with an unknown shape")
    count = math.prod(shape)
    if dtype.hasobject:
        _need(dtype == np.dtype(object) and type(data) is list, "an array of objects from bytes")
        _need(len(data) == count, "an array whose data do not match its shape")
        made = np.empty(count, object)
        for i, value in enumerate(data):
            made[i] = value
        return made.reshape(shape, order=order)  # type: ignore[call-overload]
    _need(isinstance(data, (bytes, bytearray)), "an array of something other than bytes")
    _need(len(data) == count * dtype.itemsize, "an array whose data do not match its shape")
    _need(not count or dtype.itemsize, "an array of values without a size")
    if not count:
        return np.zeros(shape, dtype, order)  # type: ignore[call-overload]
    flat: Any = np.frombuffer(data, dtype)
    if dtype.kind == "b":
        flat = np.frombuffer(data, np.uint8) != 0  # any other byte than 0 and 1 would be neither
    return flat.reshape(shape, order=order).copy(order)


def _empty_array(cls: object, *_: object) -> Pending:
    import numpy as np

    _need(cls is np.ndarray, "an array of another class")

    def finish(state: Any) -> Any:
        _need(isinstance(state, tuple) and len(state) in (4, 5), "an array without its data")
        shape, dtype, fortran, data = state[-4:]
        return _array(data, dtype, shape, "F" if fortran else "C")

    return Pending(finish)


def _array_from_buffer(data: Any, dtype: Any, shape: Any, order: Any = "C", *_: object) -> Any:
    return _array(data, dtype, shape, order)


def _scalar(dtype: object, data: object = b"") -> Any:
    return _array(data if data else None, dtype, (1,), "C")[0]


def _numpy_rule(name: str) -> Rule | None:
    import numpy as np

    rules = {
        "dtype": Rule(_dtype, np.dtype),
        "ndarray": Rule(value=np.ndarray),
        "_reconstruct": Rule(_empty_array),
        "_frombuffer": Rule(_array_from_buffer),
        "scalar": Rule(_scalar),
    }
    if name in rules:
        return rules[name]
    found = getattr(np, name, None)
    return Rule(value=found) if isinstance(found, type) and issubclass(found, np.generic) else None


# -- pandas --------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Block:
    """Columns of one dtype: values (columns, rows) or an extension array, and the positions of the columns."""

    values: Any
    places: Any


@dataclass(slots=True)
class _Blocks:
    """The parts of a frame or a series."""

    axes: list[Any]
    blocks: list[_Block]


def _block(values: object, places: object, *_: object, **__: object) -> _Block:
    return _Block(values, places)


def _manager(*arguments: Any) -> Any:
    """Build a manager from arguments, or from a state that follows."""
    if len(arguments) >= 2:
        blocks, axes = arguments[:2]
        return _Blocks(list(axes), [blocks] if isinstance(blocks, _Block) else list(blocks))

    def finish(state: Any) -> _Blocks:
        _need(
            isinstance(state, tuple) and len(state) >= 4 and isinstance(state[3], dict),
            "a manager with an unknown state",
        )
        inner = state[3]["0.14.1"]
        return _Blocks(list(inner["axes"]), [_Block(b["values"], b["mgr_locs"]) for b in inner["blocks"]])

    return Pending(finish)


def _places(places: object, count: int) -> list[int]:
    import numpy as np

    if isinstance(places, slice):
        parts = (places.start, places.stop, places.step)
        _need(all(p is None or type(p) is int for p in parts), "a block at unknown positions")
        return list(range(*places.indices(count)))
    found = np.asarray(places)
    _need(found.ndim == 1 and found.dtype.kind in "iu" and len(found) <= count, "a block at unknown positions")
    return [int(p) for p in found]


def _is_index(value: object) -> bool:
    import pandas as pd

    return isinstance(value, pd.Index)


def _frame_columns(blocks: _Blocks) -> dict[int, Any]:
    import numpy as np
    import pandas as pd

    columns, index = blocks.axes
    found: dict[int, Any] = {}
    for block in blocks.blocks:
        _need(isinstance(block, _Block), "a frame of something other than blocks")
        places = _places(block.places, len(columns))
        values = block.values
        if isinstance(values, np.ndarray):
            _need(values.shape == (len(places), len(index)), "a block that does not fit its frame")
            found.update(zip(places, values, strict=True))
        elif values.ndim == 2:  # several columns of dates
            _need(values.shape == (len(places), len(index)), "a block that does not fit its frame")
            found.update((p, values[i]) for i, p in enumerate(places))
        else:
            _need(isinstance(values, pd.api.extensions.ExtensionArray), "a block of an unknown kind")
            _need(len(places) == 1 and len(values) == len(index), "a block that does not fit its frame")
            found[places[0]] = values
    _need(sorted(found) == list(range(len(columns))), "a frame whose blocks do not cover its columns")
    return found


_MOST_ATTRIBUTES = 10_000


def _with_flags(value: Any, state: dict[str, Any]) -> Any:
    attrs, flags = state.get("attrs") or {}, state.get("_flags") or {}
    _need(type(attrs) is dict and type(flags) is dict, "a frame with unknown attributes")
    _need(count_values(attrs, _MOST_ATTRIBUTES) <= _MOST_ATTRIBUTES, "a frame with very many attributes")
    value.attrs = attrs
    if flags.get("allows_duplicate_labels") is False:
        value.flags.allows_duplicate_labels = False
    return value


def _frame(*arguments: Any) -> Pending:
    _need(not arguments, "a call of DataFrame with arguments")

    def finish(state: Any) -> Any:
        import numpy as np
        import pandas as pd

        _need(isinstance(state, dict), "a frame without its state")
        blocks = state.get("_mgr", state.get("_data"))
        _need(
            isinstance(blocks, _Blocks) and len(blocks.axes) == 2 and all(map(_is_index, blocks.axes)),
            "a frame without blocks",
        )
        columns, index = blocks.axes
        found = _frame_columns(blocks)
        only = blocks.blocks[0].values if len(blocks.blocks) == 1 else None
        if isinstance(only, np.ndarray) and _places(blocks.blocks[0].places, len(columns)) == list(range(len(columns))):
            made = pd.DataFrame(only.T, index=index, columns=range(len(columns)), dtype=only.dtype, copy=True)
        else:
            # A separate dtype for each column: otherwise pandas would convert objects to strings.
            series = {i: pd.Series(found[i], index=index, dtype=found[i].dtype) for i in range(len(columns))}
            made = pd.DataFrame(series, index=index)
        made.columns = columns
        return _with_flags(made, state)

    return Pending(finish)


def _series(*arguments: Any) -> Pending:
    _need(not arguments, "a call of Series with arguments")

    def finish(state: Any) -> Any:
        import pandas as pd

        _need(isinstance(state, dict), "a series without its state")
        blocks = state.get("_mgr", state.get("_data"))
        _need(
            isinstance(blocks, _Blocks) and len(blocks.axes) == 1 and _is_index(blocks.axes[0]),
            "a series without a block",
        )
        _need(len(blocks.blocks) == 1, "a series without a block")
        values, name = blocks.blocks[0].values, state.get("_name", state.get("name"))
        _need(
            getattr(values, "ndim", 0) == 1 and len(values) == len(blocks.axes[0]),
            "a series that does not fit its index",
        )
        hash(name)
        return _with_flags(pd.Series(values, index=blocks.axes[0], dtype=values.dtype, name=name), state)

    return Pending(finish)


def _index(cls: Any, parts: Any) -> Any:
    import pandas as pd

    _need(isinstance(cls, type) and issubclass(cls, pd.Index) and type(parts) is dict, "an index of an unknown kind")
    name = parts.get("name")
    hash(name)
    if cls is pd.RangeIndex:
        numbers = [parts["start"], parts["stop"], parts["step"]]
        _need(_ints(*numbers), "a range of something other than numbers")
        start, stop, step = numbers
        return pd.RangeIndex(start, stop, step, name=name)
    if cls is pd.MultiIndex:
        return pd.MultiIndex(
            levels=list(parts["levels"]), codes=list(parts["codes"]), names=list(parts["names"]), sortorder=None
        )
    if cls is pd.IntervalIndex:
        return pd.IntervalIndex.from_arrays(parts["left"], parts["right"], closed=parts["closed"], name=name)
    data = parts["data"]
    if isinstance(data, pd.Index):
        data = data.array
    _need(getattr(data, "ndim", 0) == 1, "an index of something other than an array")
    made: Any = pd.Index(data, dtype=data.dtype, name=name, tupleize_cols=False)
    if parts.get("freq") is not None:
        _need(hasattr(made, "freq"), "a frequency of something other than days")
        made.freq = parts["freq"]
    return made


def _backed_array(cls: Any, *_: Any) -> Pending:
    """Build arrays of dates, times, periods, categories and strings from numbers (or objects) and a dtype."""

    def finish(state: Any) -> Any:
        import numpy as np
        import pandas as pd

        _need(
            isinstance(cls, type) and isinstance(state, tuple) and len(state) in (2, 3),
            "an array with an unknown state",
        )
        values = next((part for part in state if isinstance(part, np.ndarray)), None)
        dtype = next((p for p in state if isinstance(p, (np.dtype, pd.api.extensions.ExtensionDtype))), None)
        more = next((part for part in state if type(part) is dict), {})
        _need(values is not None, "an array without values")
        return _array_of(cls.__name__, values, dtype, more)

    return Pending(finish)


def _array_of(kind: str, values: Any, dtype: Any, more: dict[str, Any]) -> Any:
    import pandas as pd

    if kind in ("DatetimeArray", "TimedeltaArray"):
        flat = values.reshape(-1)
        if isinstance(dtype, pd.DatetimeTZDtype):
            index: Any = pd.DatetimeIndex(flat).tz_localize("UTC").tz_convert(dtype.tz)
        else:
            index = pd.Index(flat)
        if values.ndim == 1 and more.get("_freq", more.get("freq")) is not None:
            index.freq = more.get("_freq", more.get("freq"))
        array: Any = index.array
        return array.reshape(values.shape) if values.ndim == 2 else array
    _need(values.ndim == 1, "an array of two dimensions")
    if kind == "Categorical":
        _need(isinstance(dtype, pd.CategoricalDtype) and values.dtype.kind == "i", "categories of an unknown kind")
        return pd.Categorical.from_codes(values, dtype=dtype)
    if kind == "PeriodArray":
        _need(isinstance(dtype, pd.PeriodDtype) and values.dtype.kind == "i", "periods of an unknown kind")
        index = pd.PeriodIndex.from_ordinals(values, freq=dtype.freq)  # type: ignore[attr-defined]
        return index.array
    if kind in ("StringArray", "NumpyExtensionArray", "PandasArray"):
        return pd.array(values, dtype=dtype if dtype is not None else values.dtype)
    raise Refused(f"an array of the kind {kind}")


def _masked_array(*arguments: object) -> Pending:
    _need(not arguments, "a masked array made by a call")

    def finish(state: Any) -> Any:
        import numpy as np
        import pandas as pd

        _need(isinstance(state, dict), "a masked array without its state")
        data, mask = state["_data"], state["_mask"]
        _need(
            isinstance(data, np.ndarray) and isinstance(mask, np.ndarray),
            "a masked array of something other than values and a mask",
        )
        kinds = {"b": pd.arrays.BooleanArray, "i": pd.arrays.IntegerArray, "u": pd.arrays.IntegerArray}
        return kinds.get(data.dtype.kind, pd.arrays.FloatingArray)(data, mask)

    return Pending(finish)


def _arrow_array(*arguments: object) -> Pending:
    _need(not arguments, "an Arrow array made by a call")

    def finish(state: Any) -> Any:
        import pandas as pd
        import pyarrow as pa

        _need(isinstance(state, dict), "an Arrow array without its state")
        data, dtype = state.get("_pa_array", state.get("_data")), state.get("_dtype")
        _need(isinstance(data, (pa.ChunkedArray, pa.Array)), "an Arrow array of something other than Arrow data")
        if isinstance(data, pa.Array):
            data = pa.chunked_array([data])
        if dtype is None:
            dtype = pd.ArrowDtype(data.type)
        _need(isinstance(dtype, (pd.StringDtype, pd.ArrowDtype)), "an Arrow array of an unknown dtype")
        return dtype.__from_arrow__(data)

    return Pending(finish)


def _with_state(make: Callable[[dict[str, Any]], object]) -> Callable[..., object]:
    """A dtype that is pickled as an empty instance and its attributes."""

    def start(*arguments: object) -> Any:
        _need(not arguments, "a dtype made by a call")
        return Pending(lambda state: make(state if isinstance(state, dict) else {}))

    return start


def _category_dtype(*arguments: Any) -> object:
    import pandas as pd

    if arguments:
        return pd.CategoricalDtype(*arguments)
    return Pending(lambda state: pd.CategoricalDtype(state["categories"], state["ordered"]))


def _zoned_dtype(*arguments: object) -> object:
    import pandas as pd

    def make(unit: Any, zone: Any) -> object:
        _need(type(unit) is str and _is_zone(zone), "a time zone of an unknown kind")
        return pd.DatetimeTZDtype(unit, zone)

    return make(*arguments) if arguments else Pending(lambda state: make(state["unit"], state["tz"]))


def _string_dtype(*arguments: Any) -> Any:
    import pandas as pd

    if not arguments:
        return Pending(lambda state: pd.StringDtype((state or {}).get("storage", "python")))
    storage, *missing = arguments
    _need(type(storage) is str and len(missing) < 2, "a string dtype of an unknown kind")
    return pd.StringDtype(storage, *missing)


def _period_dtype(frequency: Any) -> Any:
    import pandas as pd

    _need(type(frequency) is str and len(frequency) < 100, "a period of an unknown kind")
    return pd.PeriodDtype(frequency)


_UNITS = {7: "s", 8: "ms", 9: "us", 10: "ns"}


def _timestamp(value: Any, frequency: object = None, zone: Any = None, unit: Any = 10) -> Any:
    import numpy as np
    import pandas as pd

    _need(type(value) is int and unit in _UNITS, "a timestamp of something other than a number")
    moment: Any = np.array(value).astype(f"datetime64[{_UNITS[unit]}]")[()]
    made = pd.Timestamp(moment)
    if zone is None:
        return made
    _need(_is_zone(zone), "a time zone of an unknown kind")
    return made.tz_localize("UTC").tz_convert(zone)


def _timedelta(value: Any, unit: Any = 10) -> Any:
    import numpy as np
    import pandas as pd

    _need(type(value) is int and unit in _UNITS, "a timedelta of something other than a number")
    length: Any = np.array(value).astype(f"timedelta64[{_UNITS[unit]}]")[()]
    return pd.Timedelta(length)


def _offset(name: str) -> Callable[..., object]:
    def make(number: object = 1, normalize: object = False, *more: object) -> object:
        import pandas as pd

        plain = all(type(m) in (int, bool, dt.timedelta, type(None)) for m in more)
        _need(type(number) is int and type(normalize) is bool and plain, "an offset of an unknown kind")
        return getattr(pd.offsets, name)(number, normalize, *more)

    return make


def _nullable_dtype(name: str) -> Callable[..., object]:
    def make(_: dict[str, Any]) -> object:
        import pandas as pd

        return getattr(pd, name)()

    return make


def _arrow_dtype(state: dict[str, Any]) -> object:
    import pandas as pd
    import pyarrow as pa

    _need(isinstance(state.get("pyarrow_dtype"), pa.DataType), "a dtype of an unknown kind")
    return pd.ArrowDtype(state["pyarrow_dtype"])


def _not_a_time(*_: object) -> object:
    import pandas as pd

    return pd.NaT


_INDEXES = frozenset(
    "Index RangeIndex MultiIndex DatetimeIndex TimedeltaIndex PeriodIndex CategoricalIndex IntervalIndex Int64Index "
    "UInt64Index Float64Index".split()
)
_BACKED = frozenset(
    "DatetimeArray TimedeltaArray PeriodArray Categorical StringArray NumpyExtensionArray PandasArray".split()
)
_NULLABLE = frozenset(
    ["BooleanDtype", "Float32Dtype", "Float64Dtype", *(f"{u}Int{n}Dtype" for u in ("", "U") for n in (8, 16, 32, 64))]
)
_PANDAS: dict[str, Rule] = {
    "_unpickle_block": Rule(_block),
    "new_block": Rule(_block),
    "BlockManager": Rule(_manager),
    "SingleBlockManager": Rule(_manager),
    "_new_Index": Rule(_index),
    "_new_DatetimeIndex": Rule(_index),
    "_new_TimedeltaIndex": Rule(_index),
    "_new_PeriodIndex": Rule(_index),
    "_new_IntervalIndex": Rule(_index),
    "__pyx_unpickle_NDArrayBacked": Rule(_backed_array),
    "IntegerArray": Rule(_masked_array),
    "FloatingArray": Rule(_masked_array),
    "BooleanArray": Rule(_masked_array),
    "ArrowStringArray": Rule(_arrow_array),
    "ArrowExtensionArray": Rule(_arrow_array),
    "CategoricalDtype": Rule(_category_dtype),
    "DatetimeTZDtype": Rule(_zoned_dtype),
    "StringDtype": Rule(_string_dtype),
    "PeriodDtype": Rule(_period_dtype),
    "ArrowDtype": Rule(_with_state(_arrow_dtype)),
    "_unpickle_timestamp": Rule(_timestamp),
    "_timedelta_unpickle": Rule(_timedelta),
    "_nat_unpickle": Rule(_not_a_time),
}
_OLD_INDEXES = {"Int64Index": "Index", "UInt64Index": "Index", "Float64Index": "Index"}


def _pandas_rule(module: str, name: str) -> Rule | None:
    import pandas as pd

    if name in _PANDAS:
        return _PANDAS[name]
    if name in ("DataFrame", "Series"):
        return Rule(_frame if name == "DataFrame" else _series, getattr(pd, name))
    if name in _INDEXES:
        return Rule(value=getattr(pd, _OLD_INDEXES.get(name, name)))
    if name in _BACKED:
        return Rule(_backed_array_of(name), type(name, (), {}))
    if name in _NULLABLE:
        return Rule(_with_state(_nullable_dtype(name)))
    if name == "NA":
        return Rule(value=pd.NA)
    if module.endswith(".offsets") and not name.startswith("_") and isinstance(getattr(pd.offsets, name, None), type):
        return Rule(_offset(name))
    return None


def _backed_array_of(name: str) -> Callable[..., object]:
    """A pandas array that is pickled as an empty instance and its state."""

    def make(*arguments: object) -> Pending:
        _need(not arguments, f"a call of {name} with arguments")
        return _backed_array(type(name, (), {}))

    return make


# -- Arrow, LightGBM -----------------------------------------------------------------------------------------------------


def _arrow_type(alias: object) -> object:
    import pyarrow as pa

    _need(type(alias) is str, "an Arrow type without a name")
    return pa.type_for_alias(alias)


def _arrow_buffer(data: Any) -> Any:
    import pyarrow as pa

    _need(isinstance(data, (bytes, bytearray)), "a buffer of something other than bytes")
    return pa.py_buffer(bytes(data))


def _arrow_values(data: Any) -> Any:
    import pyarrow as pa

    kind, length, nulls, offset, buffers, children, dictionary = data
    _need(isinstance(kind, pa.DataType) and _ints(length, nulls, offset), "an Arrow array of an unknown kind")
    _need(length >= 0 and offset >= 0 and not children and dictionary is None, "an Arrow array with parts")
    _need(all(b is None or isinstance(b, pa.Buffer) for b in buffers), "an Arrow array of something other than buffers")
    made = pa.Array.from_buffers(kind, length, list(buffers), nulls, offset)
    made.validate(full=True)  # offsets that point outside their buffers
    return made


def _arrow_chunks(chunks: object, kind: object = None) -> object:
    import pyarrow as pa

    _need(
        isinstance(chunks, list) and all(isinstance(c, pa.Array) for c in chunks),
        "an Arrow array of something other than Arrow data",
    )
    return pa.chunked_array(chunks, kind)


_ARROW = {
    "type_for_alias": Rule(_arrow_type),
    "py_buffer": Rule(_arrow_buffer),
    "_restore_array": Rule(_arrow_values),
    "chunked_array": Rule(_arrow_chunks),
}
_BOOSTER_STATE = {
    "best_iteration": int, "params": dict, "best_score": dict, "pandas_categorical": (list, type(None)),
    "name_valid_sets": list, "train_set_version": int,
}  # fmt: skip


def _booster(*arguments: Any) -> Pending:
    _need(not arguments, "a call of Booster with arguments")

    def finish(state: Any) -> Any:
        import lightgbm

        _need(isinstance(state, dict), "a booster without its state")
        text = state.get("_handle", state.get("handle"))
        _need(type(text) is str and text.startswith("tree"), "a booster without its model")
        check_model_text(text)
        made = lightgbm.Booster(model_str=text)
        for name, kind in _BOOSTER_STATE.items():
            if name in state:
                _need(isinstance(state[name], kind), f"a booster with an unknown {name}")  # type: ignore[arg-type]
                setattr(made, name, state[name])
        return made

    return Pending(finish)


def rule_of(module: str, name: str) -> Rule | None:
    """Return the rule for `module.name`, or None if it is not on the list."""
    module = _MOVED.get(module, module)
    if (module, name) in _PYTHON:
        return _PYTHON[module, name]
    if (module, name) == ("zoneinfo", "ZoneInfo"):
        from zoneinfo import ZoneInfo

        return Rule(value=ZoneInfo)
    package = module.partition(".")[0]
    if package == "numpy":
        known = ("numpy", *(f"numpy.{c}.{m}" for c in ("core", "_core") for m in ("multiarray", "numeric")))
        return _numpy_rule(name) if module in known else None
    if package == "pandas":
        return _pandas_rule(module, name)
    if module == "pyarrow.lib":
        return _ARROW.get(name)
    return Rule(_booster) if (module, name) == ("lightgbm.basic", "Booster") else None
