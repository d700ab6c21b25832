"""Rules for the arrays, dtypes and numbers of NumPy in a pickle."""

from __future__ import annotations

import math
import re
from typing import Any

from rollforge.pickle_rules import Pending, Rule, are_integers, expect, need

__all__ = ["numpy_rule"]

_MAX_ITEM_SIZE = 2**20
_TYPE_CODE = re.compile(r"[?a-zA-Z]\d{0,7}|[a-z]+\d{0,3}")


def _dtype(code: Any, *_: Any) -> Pending:
    need(type(code) is str and _TYPE_CODE.fullmatch(code), "a dtype of an unknown form")

    def finish(state: object) -> object:
        import numpy as np

        if state is None:
            made = np.dtype(code)
        else:
            parts = expect(state, tuple, "a dtype with an unknown state")
            need(len(parts) >= 8, "a dtype with an unknown state")
            made = _dtype_with(code, parts)
        need(made.itemsize <= _MAX_ITEM_SIZE, "a dtype of a very large item")
        return made

    return Pending(finish)


def _dtype_with(code: str, state: tuple[Any, ...]) -> Any:
    import numpy as np

    order, sub, names, fields, size = state[1:6]
    need(order in ("<", ">", "|", "="), "a dtype with an unknown byte order")
    need(sub is None, "a dtype with an inner shape")
    if names is not None:
        need(isinstance(names, tuple) and isinstance(fields, dict) and type(size) is int, "a dtype with unknown fields")
        parts = [fields[name] for name in names]
        need(
            all(type(n) is str for n in names)
            # Fields inside fields can share their parts, so that hashing or comparing them never ends.
            and all(
                isinstance(p, tuple) and isinstance(p[0], np.dtype) and are_integers(p[1]) and not p[0].names
                for p in parts
            )
            and 0 < size <= _MAX_ITEM_SIZE,
            "a dtype with unknown fields",
        )
        dtype: Any = np.dtype(
            {"names": list(names), "formats": [p[0] for p in parts], "offsets": [p[1] for p in parts], "itemsize": size}
        )
        need(not dtype.hasobject, "a dtype with objects inside fields")
        return dtype
    if code in ("M8", "m8") and len(state) > 8 and state[8] is not None:
        (unit, number, _, _) = state[8][1]
        need(isinstance(unit, (bytes, str)) and type(number) is int, "a dtype with an unknown unit")
        unit = unit.decode("ascii") if isinstance(unit, bytes) else unit
        need(re.fullmatch(r"[a-zA-Zμ]{1,7}", unit), "a dtype with an unknown unit")
        code = code if unit == "generic" else f"{code}[{number}{unit}]"
    dtype = np.dtype(code)
    return dtype.newbyteorder(order) if order in "<>" and dtype.byteorder != "|" else dtype


def _array(data: Any, dtype: Any, shape: Any, order: str) -> Any:
    """Build an array from its bytes or from a list of objects, after checking that they fill it exactly."""
    import numpy as np

    need(isinstance(dtype, np.dtype), "an array without a dtype")
    need(
        isinstance(shape, tuple) and are_integers(*shape) and all(0 <= n < 2**48 for n in shape),
        "an array with an unknown shape",
    )
    need(len(shape) <= 32 and order in ("C", "F"), "an array with an unknown shape")
    count = math.prod(shape)
    if dtype.hasobject:
        need(dtype == np.dtype(object) and type(data) is list, "an array of objects from bytes")
        need(len(data) == count, "an array whose data do not match its shape")
        made = np.empty(count, object)
        for i, value in enumerate(data):
            made[i] = value
        return made.reshape(shape, order=order)  # type: ignore[call-overload]
    need(isinstance(data, (bytes, bytearray)), "an array of something other than bytes")
    need(len(data) == count * dtype.itemsize, "an array whose data do not match its shape")
    need(not count or dtype.itemsize, "an array of values without a size")
    if not count:
        return np.zeros(shape, dtype, order)  # type: ignore[call-overload]
    flat: Any = np.frombuffer(data, dtype)
    if dtype.kind == "b":
        flat = np.frombuffer(data, np.uint8) != 0  # any other byte than 0 and 1 would be neither
    return flat.reshape(shape, order=order).copy(order)


def _empty_array(cls: object, *_: object) -> Pending:
    import numpy as np

    need(cls is np.ndarray, "an array of another class")

    def finish(state: object) -> object:
        parts = expect(state, tuple, "an array without its data")
        need(len(parts) in (4, 5), "an array without its data")
        shape, dtype, fortran, data = parts[-4:]
        return _array(data, dtype, shape, "F" if fortran else "C")

    return Pending(finish)


def _array_from_buffer(data: object, dtype: Any, shape: Any, order: Any = "C", *_: object) -> object:
    return _array(data, dtype, shape, order)


def _scalar(dtype: object, data: object = b"") -> Any:
    return _array(data if data else None, dtype, (1,), "C")[0]


def numpy_rule(name: str) -> Rule | None:
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
