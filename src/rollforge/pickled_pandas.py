"""Rules for the frames, indexes, arrays, dtypes and times of pandas in a pickle, and for the Arrow data in them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rollforge.limits import count_values
from rollforge.pickle_rules import Pending, Refused, Rule, are_integers, expect, need
from rollforge.pickled_python import is_zone

__all__ = ["ARROW", "BACKED", "INDEXES", "NULLABLE", "PANDAS", "pandas_rule"]


@dataclass(slots=True)
class _Block:
    """Columns of one dtype: values (columns, rows) or an extension array, and the positions of the columns."""

    values: Any
    places: object


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

    def finish(state: object) -> _Blocks:
        parts = expect(state, tuple, "a manager with an unknown state")
        need(len(parts) >= 4 and isinstance(parts[3], dict), "a manager with an unknown state")
        inner = parts[3]["0.14.1"]
        return _Blocks(list(inner["axes"]), [_Block(b["values"], b["mgr_locs"]) for b in inner["blocks"]])

    return Pending(finish)


def _places(places: object, count: int) -> list[int]:
    import numpy as np

    if isinstance(places, slice):
        parts = (places.start, places.stop, places.step)
        need(all(p is None or type(p) is int for p in parts), "a block at unknown positions")
        return list(range(*places.indices(count)))
    found = np.asarray(places)
    need(found.ndim == 1 and found.dtype.kind in "iu" and len(found) <= count, "a block at unknown positions")
    return [int(p) for p in found]


def _is_index(value: object) -> bool:
    import pandas as pd

    return isinstance(value, pd.Index)


def _frame_columns(blocks: _Blocks) -> dict[int, Any]:
    import numpy as np
    import pandas as pd

    columns, index = blocks.axes
    columns_at: dict[int, Any] = {}
    for block in blocks.blocks:
        need(isinstance(block, _Block), "a frame of something other than blocks")
        places = _places(block.places, len(columns))
        values = block.values
        if isinstance(values, np.ndarray):
            need(values.shape == (len(places), len(index)), "a block that does not fit its frame")
            columns_at.update(zip(places, values, strict=True))
        elif values.ndim == 2:  # several columns of dates
            need(values.shape == (len(places), len(index)), "a block that does not fit its frame")
            columns_at.update((p, values[i]) for i, p in enumerate(places))
        else:
            need(isinstance(values, pd.api.extensions.ExtensionArray), "a block of an unknown kind")
            need(len(places) == 1 and len(values) == len(index), "a block that does not fit its frame")
            columns_at[places[0]] = values
    need(sorted(columns_at) == list(range(len(columns))), "a frame whose blocks do not cover its columns")
    return columns_at


_MAX_ATTRIBUTES = 10_000


def _with_flags(value: Any, state: dict[str, Any]) -> Any:
    attrs, flags = state.get("attrs") or {}, state.get("_flags") or {}
    need(type(attrs) is dict and type(flags) is dict, "a frame with unknown attributes")
    need(count_values(attrs, _MAX_ATTRIBUTES) <= _MAX_ATTRIBUTES, "a frame with very many attributes")
    value.attrs = attrs
    if flags.get("allows_duplicate_labels") is False:
        value.flags.allows_duplicate_labels = False
    return value


def _frame(*arguments: object) -> Pending:
    need(not arguments, "a call of DataFrame with arguments")

    def finish(state: object) -> object:
        import numpy as np
        import pandas as pd

        known = expect(state, dict, "a frame without its state")
        blocks = expect(known.get("_mgr", known.get("_data")), _Blocks, "a frame without blocks")
        need(len(blocks.axes) == 2 and all(map(_is_index, blocks.axes)), "a frame without blocks")
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
        return _with_flags(made, known)

    return Pending(finish)


def _series(*arguments: object) -> Pending:
    need(not arguments, "a call of Series with arguments")

    def finish(state: object) -> object:
        import pandas as pd

        known = expect(state, dict, "a series without its state")
        blocks = expect(known.get("_mgr", known.get("_data")), _Blocks, "a series without a block")
        need(len(blocks.axes) == 1 and _is_index(blocks.axes[0]), "a series without a block")
        need(len(blocks.blocks) == 1, "a series without a block")
        values, name = blocks.blocks[0].values, known.get("_name", known.get("name"))
        need(
            getattr(values, "ndim", 0) == 1 and len(values) == len(blocks.axes[0]),
            "a series that does not fit its index",
        )
        hash(name)
        return _with_flags(pd.Series(values, index=blocks.axes[0], dtype=values.dtype, name=name), known)

    return Pending(finish)


def _index(cls: Any, parts: Any) -> Any:
    import pandas as pd

    need(isinstance(cls, type) and issubclass(cls, pd.Index) and type(parts) is dict, "an index of an unknown kind")
    name = parts.get("name")
    hash(name)
    if cls is pd.RangeIndex:
        numbers = [parts["start"], parts["stop"], parts["step"]]
        need(are_integers(*numbers), "a range of something other than numbers")
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
    need(getattr(data, "ndim", 0) == 1, "an index of something other than an array")
    made: Any = pd.Index(data, dtype=data.dtype, name=name, tupleize_cols=False)
    if parts.get("freq") is not None:
        need(hasattr(made, "freq"), "a frequency of something other than days")
        made.freq = parts["freq"]
    return made


def _backed_array(cls: Any, *_: Any) -> Pending:
    """Build arrays of dates, times, periods, categories and strings from numbers (or objects) and a dtype."""

    def finish(state: object) -> object:
        import numpy as np
        import pandas as pd

        parts = expect(state, tuple, "an array with an unknown state")
        need(isinstance(cls, type) and len(parts) in (2, 3), "an array with an unknown state")
        values = next((part for part in parts if isinstance(part, np.ndarray)), None)
        dtype = next((p for p in parts if isinstance(p, (np.dtype, pd.api.extensions.ExtensionDtype))), None)
        more = next((part for part in parts if type(part) is dict), {})
        need(values is not None, "an array without values")
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
    need(values.ndim == 1, "an array of two dimensions")
    if kind == "Categorical":
        need(isinstance(dtype, pd.CategoricalDtype) and values.dtype.kind == "i", "categories of an unknown kind")
        return pd.Categorical.from_codes(values, dtype=dtype)
    if kind == "PeriodArray":
        need(isinstance(dtype, pd.PeriodDtype) and values.dtype.kind == "i", "periods of an unknown kind")
        index = pd.PeriodIndex.from_ordinals(values, freq=dtype.freq)  # type: ignore[attr-defined]
        return index.array
    if kind in ("StringArray", "NumpyExtensionArray", "PandasArray"):
        return pd.array(values, dtype=dtype if dtype is not None else values.dtype)
    raise Refused(f"an array of the kind {kind}")


def _masked_array(*arguments: object) -> Pending:
    need(not arguments, "a masked array made by a call")

    def finish(state: object) -> object:
        import numpy as np
        import pandas as pd

        known = expect(state, dict, "a masked array without its state")
        data, mask = known["_data"], known["_mask"]
        need(
            isinstance(data, np.ndarray) and isinstance(mask, np.ndarray),
            "a masked array of something other than values and a mask",
        )
        kinds = {"b": pd.arrays.BooleanArray, "i": pd.arrays.IntegerArray, "u": pd.arrays.IntegerArray}
        return kinds.get(data.dtype.kind, pd.arrays.FloatingArray)(data, mask)

    return Pending(finish)


def _arrow_array(*arguments: object) -> Pending:
    need(not arguments, "an Arrow array made by a call")

    def finish(state: Any) -> object:
        import pandas as pd
        import pyarrow as pa

        need(isinstance(state, dict), "an Arrow array without its state")
        data, dtype = state.get("_pa_array", state.get("_data")), state.get("_dtype")
        need(isinstance(data, (pa.ChunkedArray, pa.Array)), "an Arrow array of something other than Arrow data")
        if isinstance(data, pa.Array):
            data = pa.chunked_array([data])
        if dtype is None:
            dtype = pd.ArrowDtype(data.type)
        need(isinstance(dtype, (pd.StringDtype, pd.ArrowDtype)), "an Arrow array of an unknown dtype")
        return dtype.__from_arrow__(data)

    return Pending(finish)


def _with_state(make: Callable[[dict[str, Any]], object]) -> Callable[..., object]:
    """A dtype that is pickled as an empty instance and its attributes."""

    def start(*arguments: object) -> Any:
        need(not arguments, "a dtype made by a call")
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
        need(type(unit) is str and is_zone(zone), "a time zone of an unknown kind")
        return pd.DatetimeTZDtype(unit, zone)

    return make(*arguments) if arguments else Pending(lambda state: make(state["unit"], state["tz"]))


def _string_dtype(*arguments: Any) -> Any:
    import pandas as pd

    if not arguments:
        return Pending(lambda state: pd.StringDtype((state or {}).get("storage", "python")))
    storage, *missing = arguments
    need(type(storage) is str and len(missing) < 2, "a string dtype of an unknown kind")
    return pd.StringDtype(storage, *missing)


def _period_dtype(frequency: Any) -> Any:
    import pandas as pd

    need(type(frequency) is str and len(frequency) < 100, "a period of an unknown kind")
    return pd.PeriodDtype(frequency)


_UNITS = {7: "s", 8: "ms", 9: "us", 10: "ns"}


def _timestamp(value: Any, frequency: object = None, zone: Any = None, unit: Any = 10) -> Any:
    import numpy as np
    import pandas as pd

    need(type(value) is int and unit in _UNITS, "a timestamp of something other than a number")
    moment: Any = np.array(value).astype(f"datetime64[{_UNITS[unit]}]")[()]
    made = pd.Timestamp(moment)
    if zone is None:
        return made
    need(is_zone(zone), "a time zone of an unknown kind")
    return made.tz_localize("UTC").tz_convert(zone)


def _timedelta(value: Any, unit: Any = 10) -> Any:
    import numpy as np
    import pandas as pd

    need(type(value) is int and unit in _UNITS, "a timedelta of something other than a number")
    length: Any = np.array(value).astype(f"timedelta64[{_UNITS[unit]}]")[()]
    return pd.Timedelta(length)


def _offset(name: str) -> Callable[..., object]:
    def make(number: object = 1, normalize: object = False, *more: object) -> object:
        import pandas as pd

        plain = all(type(m) in (int, bool, dt.timedelta, type(None)) for m in more)
        need(type(number) is int and type(normalize) is bool and plain, "an offset of an unknown kind")
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

    need(isinstance(state.get("pyarrow_dtype"), pa.DataType), "a dtype of an unknown kind")
    return pd.ArrowDtype(state["pyarrow_dtype"])


def _not_a_time(*_: object) -> object:
    import pandas as pd

    return pd.NaT


INDEXES = frozenset(
    "Index RangeIndex MultiIndex DatetimeIndex TimedeltaIndex PeriodIndex CategoricalIndex IntervalIndex Int64Index "
    "UInt64Index Float64Index".split()
)
BACKED = frozenset(
    "DatetimeArray TimedeltaArray PeriodArray Categorical StringArray NumpyExtensionArray PandasArray".split()
)
NULLABLE = frozenset(
    ["BooleanDtype", "Float32Dtype", "Float64Dtype", *(f"{u}Int{n}Dtype" for u in ("", "U") for n in (8, 16, 32, 64))]
)
PANDAS: dict[str, Rule] = {
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


def pandas_rule(module: str, name: str) -> Rule | None:
    import pandas as pd

    if name in PANDAS:
        return PANDAS[name]
    if name in ("DataFrame", "Series"):
        return Rule(_frame if name == "DataFrame" else _series, getattr(pd, name))
    if name in INDEXES:
        return Rule(value=getattr(pd, _OLD_INDEXES.get(name, name)))
    if name in BACKED:
        return Rule(_backed_array_of(name), type(name, (), {}))
    if name in NULLABLE:
        return Rule(_with_state(_nullable_dtype(name)))
    if name == "NA":
        return Rule(value=pd.NA)
    if module.endswith(".offsets") and not name.startswith("_") and isinstance(getattr(pd.offsets, name, None), type):
        return Rule(_offset(name))
    return None


def _backed_array_of(name: str) -> Callable[..., object]:
    """A pandas array that is pickled as an empty instance and its state."""

    def make(*arguments: object) -> Pending:
        need(not arguments, f"a call of {name} with arguments")
        return _backed_array(type(name, (), {}))

    return make


# -- Arrow ---------------------------------------------------------------------------------------------------------------


def _arrow_type(alias: object) -> object:
    import pyarrow as pa

    need(type(alias) is str, "an Arrow type without a name")
    return pa.type_for_alias(alias)


def _arrow_buffer(data: Any) -> Any:
    import pyarrow as pa

    need(isinstance(data, (bytes, bytearray)), "a buffer of something other than bytes")
    return pa.py_buffer(bytes(data))


def _arrow_values(data: Any) -> Any:
    import pyarrow as pa

    kind, length, nulls, offset, buffers, children, dictionary = data
    need(isinstance(kind, pa.DataType) and are_integers(length, nulls, offset), "an Arrow array of an unknown kind")
    need(length >= 0 and offset >= 0 and not children and dictionary is None, "an Arrow array with parts")
    need(all(b is None or isinstance(b, pa.Buffer) for b in buffers), "an Arrow array of something other than buffers")
    made = pa.Array.from_buffers(kind, length, list(buffers), nulls, offset)
    made.validate(full=True)  # offsets that point outside their buffers
    return made


def _arrow_chunks(chunks: object, kind: object = None) -> object:
    import pyarrow as pa

    need(
        isinstance(chunks, list) and all(isinstance(c, pa.Array) for c in chunks),
        "an Arrow array of something other than Arrow data",
    )
    return pa.chunked_array(chunks, kind)


ARROW = {
    "type_for_alias": Rule(_arrow_type),
    "py_buffer": Rule(_arrow_buffer),
    "_restore_array": Rule(_arrow_values),
    "chunked_array": Rule(_arrow_chunks),
}
