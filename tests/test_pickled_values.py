"""The rules for values in pickles: each rule builds a value from plain parts and refuses anything else."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter, OrderedDict, deque
from decimal import Decimal
from pathlib import PosixPath, PurePosixPath
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from rollforge.pickle_rules import Pending, Refused
from rollforge.pickled_values import rule_of

F8, OBJECT = np.dtype("f8"), np.dtype(object)
NONE = object()


def made(module: str, name: str, *arguments: Any, state: Any = NONE) -> Any:
    """Return the value built by a call and by the state that follows it."""
    rule = rule_of(module, name)
    assert rule is not None
    assert rule.make is not None
    value = rule.make(*arguments)
    if isinstance(value, Pending):
        return value.finish(None if state is NONE else state)
    assert state is NONE
    return value


class Text(str):
    """A subclass of str, whose methods might be hostile."""


class Number(int):
    """A subclass of int, whose methods might be hostile."""


def dtype_state(
    order: Any = "|", sub: Any = None, names: Any = None, fields: Any = None, size: Any = -1, unit: Any = None
) -> tuple[Any, ...]:
    more = () if unit is None else (({}, unit),)
    return (3 if unit is None else 4, order, sub, names, fields, size, -1, 0, *more)


ONE_FIELD: dict[str, Any] = {"names": ("a",), "fields": {"a": (F8, 0)}, "size": 8}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("builtins.set", ("ab",), "a container made from something else"),
        ("builtins.frozenset", ({"a": 1},), "a container made from something else"),
        ("builtins.bytes", ([1, 2],), "a bytearray of something other than bytes"),
        ("builtins.bytes", (3,), "a bytearray of something other than bytes"),
        ("builtins.bytearray", ("a", "utf-16"), "a bytearray of something other than bytes"),
        ("builtins.complex", ("1",), "a complex of something other than numbers"),
        ("builtins.range", (Number(3),), "a range of something other than numbers"),
        ("builtins.slice", ((1,),), None),
        ("builtins.slice", (((1,),),), "a slice of containers"),
        ("builtins.slice", (slice(1),), "a slice of containers"),
        ("builtins.slice", (frozenset(),), "a slice of containers"),
        ("builtins.slice", ((1, frozenset()),), "a slice of containers"),
        ("builtins.getattr", ("", "format"), "getattr"),
        ("builtins.getattr", (ZoneInfo, "no_cache"), "getattr"),
        ("_codecs.encode", (b"a",), "an encoding other than Latin-1"),
        ("_codecs.encode", ("a", "rot13"), "an encoding other than Latin-1"),
        ("_codecs.encode", (Text("a"), "latin1"), "an encoding other than Latin-1"),
        ("collections.OrderedDict", (3,), "an OrderedDict of something other than pairs"),
        ("collections.OrderedDict", ([(1, 2, 3)],), "an OrderedDict of something other than pairs"),
        ("collections.OrderedDict", (["ab"],), "an OrderedDict of something other than pairs"),
        ("collections.Counter", ([1, 1],), "a Counter of something"),
        ("collections.Counter", (OrderedDict(),), "a Counter of something"),
        ("collections.defaultdict", (eval,), "a defaultdict of an unknown type"),
        ("collections.deque", ([1],), "a deque that is filled"),
        ("collections.deque", ([], 2.0), "a deque that is filled"),
        ("datetime.date", ("x", 1, 1), "a date of something other than"),
        ("datetime.date", (b"\x07\xe4\x01\x02", 1), "a date of something other than"),
        ("datetime.date", (2020.0, 1, 1), "a date of something other than"),
        ("datetime.datetime", (2020.0, 1, 1), "a datetime of something other than"),
        ("datetime.datetime", (2020, 1, 1, "UTC"), "a datetime of something other than"),
        ("datetime.datetime", (b"\x07\xe4\x01\x02\x00\x00\x00\x00\x00\x00", 1), "a datetime of something other than"),
        ("datetime.timedelta", ("1",), "a timedelta of something other than"),
        ("datetime.timezone", (3600,), "a timezone of something other than an offset"),
        ("datetime.timezone", (dt.timedelta(0), 1), "a timezone of something other than an offset"),
        ("decimal.Decimal", (1.5,), "a Decimal of something"),
        ("decimal.Decimal", ("1" * 10_000,), "a Decimal of something"),
        ("decimal.Decimal", ("1" * 9_999,), None),
        ("pathlib.PosixPath", (PosixPath("/"),), "a path of something other than"),
        ("pathlib.PosixPath", ("/", Text("a")), "a path of something other than"),
        ("pathlib.PurePosixPath", (PosixPath("/"),), "a path of something other than"),
        ("pathlib.PurePosixPath", ("/", 1), "a path of something other than"),
        ("zoneinfo.ZoneInfo._unpickle", (Text("UTC"),), "a time zone without a name"),
        ("zoneinfo.ZoneInfo._unpickle", ("x" * 100, True), "a time zone without a name"),
        ("numpy.dtype", ("f8,f8",), "a dtype of an unknown form"),
        ("numpy.dtype", (Text("f8"),), "a dtype of an unknown form"),
        ("numpy.dtype", ([("a", "f8")],), "a dtype of an unknown form"),
        ("numpy.dtype", (f"V{2**20}",), None),
        ("numpy.dtype", (f"V{2**20 + 1}",), "a dtype of a very large item"),
        ("numpy._core.multiarray._reconstruct", (np.matrix, (0,), b"b"), "an array of another class"),
        ("numpy._core.numeric._frombuffer", (b"\0" * 8, "f8", (1,)), "an array without a dtype"),
        ("numpy._core.numeric._frombuffer", (b"\0" * 8, F8, [1]), "an array with an unknown shape"),
        ("numpy._core.numeric._frombuffer", (b"\0" * 8, F8, (1.0,)), "an array with an unknown shape"),
        ("numpy._core.numeric._frombuffer", (b"\0" * 8, F8, (-1, -1)), "an array with an unknown shape"),
        ("numpy._core.numeric._frombuffer", (b"", F8, (0, 2**48)), "an array with an unknown shape"),
        ("numpy._core.numeric._frombuffer", (b"\0" * 8, F8, (1,) * 32), None),
        ("numpy._core.numeric._frombuffer", (b"\0" * 8, F8, (1,) * 33), "an array with an unknown shape"),
        ("numpy._core.numeric._frombuffer", (b"\0" * 8, F8, (1,), "K"), "an array with an unknown shape"),
        ("numpy._core.numeric._frombuffer", ([0.0], F8, (1,)), "an array of something other than bytes"),
        ("numpy._core.numeric._frombuffer", (b"\0" * 9, F8, (1,)), "whose data do not match its shape"),
        ("numpy._core.numeric._frombuffer", (b"\0" * 7, F8, (1,)), "whose data do not match its shape"),
        ("numpy._core.numeric._frombuffer", (b"\0" * 8, OBJECT, (1,)), "an array of objects from bytes"),
        ("numpy._core.numeric._frombuffer", ((1,), OBJECT, (1,)), "an array of objects from bytes"),
        ("numpy._core.numeric._frombuffer", ([1, 2], OBJECT, (1,)), "whose data do not match its shape"),
        ("numpy._core.multiarray.scalar", (F8, b"\0" * 16), "whose data do not match its shape"),
        ("pandas.DataFrame", ({"a": [1]},), "a call of DataFrame with arguments"),
        ("pandas.Series", ([1],), "a call of Series with arguments"),
        ("pandas._new_Index", (pd.Series, {}), "an index of an unknown kind"),
        ("pandas._new_Index", ("Index", {}), "an index of an unknown kind"),
        ("pandas._new_Index", (pd.Index, []), "an index of an unknown kind"),
        ("pandas._new_Index", (pd.RangeIndex, {"start": 0, "stop": 2.0, "step": 1}), "a range of something other than"),
        ("pandas._new_Index", (pd.Index, {"data": [1, 2]}), "an index of something other than an array"),
        ("pandas._new_Index", (pd.Index, {"data": np.zeros((2, 2))}), "an index of something other than an array"),
        ("pandas._new_Index", (pd.Index, {"data": np.zeros(2), "freq": "D"}), "a frequency of something other"),
        ("pandas.IntegerArray", (np.zeros(1, "i8"),), "a masked array made by a call"),
        ("pandas.ArrowStringArray", (["a"],), "an Arrow array made by a call"),
        ("pandas.Categorical", (["a"],), "a call of Categorical with arguments"),
        ("pandas.Int64Dtype", (1,), "a dtype made by a call"),
        ("pandas.DatetimeTZDtype", (1, "UTC"), "a time zone of an unknown kind"),
        ("pandas.DatetimeTZDtype", ("ns", Text("UTC")), "a time zone of an unknown kind"),
        ("pandas.DatetimeTZDtype", ("ns", 0), "a time zone of an unknown kind"),
        ("pandas.StringDtype", (1,), "a string dtype of an unknown kind"),
        ("pandas.StringDtype", ("python", None, None), "a string dtype of an unknown kind"),
        ("pandas.PeriodDtype", (pd.offsets.Day(),), "a period of an unknown kind"),
        ("pandas.PeriodDtype", ("D" * 100,), "a period of an unknown kind"),
        ("pandas._unpickle_timestamp", ("2020",), "a timestamp of something other than"),
        ("pandas._unpickle_timestamp", (0, None, None, 6), "a timestamp of something other than"),
        ("pandas._unpickle_timestamp", (0, None, Text("UTC")), "a time zone of an unknown kind"),
        ("pandas._unpickle_timestamp", (0, None, 1), "a time zone of an unknown kind"),
        ("pandas._timedelta_unpickle", (1.0,), "a timedelta of something other than"),
        ("pandas._timedelta_unpickle", (1, 11), "a timedelta of something other than"),
        ("pandas._libs.tslibs.offsets.Day", ("1",), "an offset of an unknown kind"),
        ("pandas._libs.tslibs.offsets.Day", (1, 0), "an offset of an unknown kind"),
        ("pandas._libs.tslibs.offsets.CustomBusinessDay", (1, False, "Mon Tue"), "an offset of an unknown kind"),
        ("pyarrow.lib.type_for_alias", (1,), "an Arrow type without a name"),
        ("pyarrow.lib.py_buffer", (8,), "a buffer of something other than bytes"),
        ("pyarrow.lib.py_buffer", (np.zeros(1),), "a buffer of something other than bytes"),
        ("pyarrow.lib.chunked_array", ((),), "an Arrow array of something other than"),
        ("pyarrow.lib.chunked_array", ([[1]],), "an Arrow array of something other than"),
        ("lightgbm.basic.Booster", ("/tmp/model",), "a call of Booster with arguments"),
    ],
)  # fmt: skip
def test_a_call_is_built_from_plain_parts_only(name: str, arguments: tuple[Any, ...], message: str | None) -> None:
    """Other parts are refused, including subclasses, and sizes that exceed the limit by one."""
    module, name = ("zoneinfo", "ZoneInfo._unpickle") if "ZoneInfo" in name else tuple(name.rsplit(".", 1))
    if message is None:
        made(module, name, *arguments)
        return
    with pytest.raises(Refused, match=re.escape(message)):
        made(module, name, *arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "state", "message"),
    [
        ("numpy.dtype", ("f8",), [3, "<", None, None, None, -1, -1, 0], "a dtype with an unknown state"),
        ("numpy.dtype", ("f8",), (3, "<", None, None, None, -1, -1), "a dtype with an unknown state"),
        ("numpy.dtype", ("f8",), dtype_state("!"), "a dtype with an unknown byte order"),
        ("numpy.dtype", ("f8",), dtype_state("<", (F8, (2,))), "a dtype with an inner shape"),
        ("numpy.dtype", ("V8",), dtype_state(**{**ONE_FIELD, "names": ["a"]}), "a dtype with unknown fields"),
        ("numpy.dtype", ("V8",), dtype_state(**{**ONE_FIELD, "size": 8.0}), "a dtype with unknown fields"),
        ("numpy.dtype", ("V8",), dtype_state(**{**ONE_FIELD, "size": 0}), "a dtype with unknown fields"),
        ("numpy.dtype", ("V8",), dtype_state(**{**ONE_FIELD, "size": 2**20 + 1}), "a dtype with unknown fields"),
        ("numpy.dtype", ("V8",), dtype_state(**{**ONE_FIELD, "fields": {"a": ("f8", 0)}}), "unknown fields"),
        ("numpy.dtype", ("V8",), dtype_state(**{**ONE_FIELD, "fields": {"a": (F8, 0.0)}}), "unknown fields"),
        ("numpy.dtype", ("V8",), dtype_state(**{**ONE_FIELD, "fields": {"a": [F8, 0]}}), "unknown fields"),
        ("numpy.dtype", ("V8",), dtype_state(names=(1,), fields={1: (F8, 0)}, size=8), "unknown fields"),
        ("numpy.dtype", ("V8",), dtype_state(**{**ONE_FIELD, "fields": {"a": (OBJECT, 0)}}), "objects inside fields"),
        ("numpy.dtype", ("M8",), dtype_state("<", unit=(1, 1, 1, 1)), "a dtype with an unknown unit"),
        ("numpy.dtype", ("M8",), dtype_state("<", unit=(b"D", "1", 1, 1)), "a dtype with an unknown unit"),
        ("numpy.dtype", ("M8",), dtype_state("<", unit=(b"D],O", 1, 1, 1)), "a dtype with an unknown unit"),
        ("numpy._core.multiarray._reconstruct", (np.ndarray, (0,), b"b"), None, "an array without its data"),
        ("numpy._core.multiarray._reconstruct", (np.ndarray, (0,), b"b"), (1, 2, 3), "an array without its data"),
        ("pandas.BlockManager", (), (1, 2, 3), "a manager with an unknown state"),
        ("pandas.BlockManager", (), (1, 2, 3, []), "a manager with an unknown state"),
        ("pandas.DataFrame", (), None, "a frame without its state"),
        ("pandas.DataFrame", (), {"_mgr": 1}, "a frame without blocks"),
        ("pandas.Series", (), None, "a series without its state"),
        ("pandas.Series", (), {"_mgr": 1}, "a series without a block"),
        ("pandas.Categorical", (), (np.zeros(1, "i1"),), "an array with an unknown state"),
        ("pandas.Categorical", (), (1, 2, 3, 4), "an array with an unknown state"),
        ("pandas.Categorical", (), ("int8", {}), "an array without values"),
        ("pandas.Categorical", (), (F8, np.zeros(1, "i1")), "categories of an unknown kind"),
        ("pandas.Categorical", (), (pd.CategoricalDtype(["a"]), np.zeros(1)), "categories of an unknown kind"),
        ("pandas.Categorical", (), (pd.CategoricalDtype(["a"]), np.zeros((1, 1), "i1")), "an array of two dimensions"),
        ("pandas.PeriodArray", (), (F8, np.zeros(1, "i8")), "periods of an unknown kind"),
        ("pandas.PeriodArray", (), (pd.PeriodDtype("D"), np.zeros(1)), "periods of an unknown kind"),
        ("pandas.BooleanArray", (), None, "a masked array without its state"),
        (
            "pandas.BooleanArray",
            (),
            {"_data": [True], "_mask": np.zeros(1, bool)},
            "a masked array of something other than",
        ),
        (
            "pandas.BooleanArray",
            (),
            {"_data": np.zeros(1, bool), "_mask": [True]},
            "a masked array of something other than",
        ),
        ("pandas.ArrowStringArray", (), None, "an Arrow array without its state"),
        ("pandas.ArrowStringArray", (), {"_data": ["a"]}, "an Arrow array of something other than"),
        ("pandas.ArrowStringArray", (), {"_data": pa.array(["a"]), "_dtype": "string"}, "of an unknown dtype"),
        ("pandas.ArrowDtype", (), {"pyarrow_dtype": "int64"}, "a dtype of an unknown kind"),
        ("pandas.ArrowDtype", (), {}, "a dtype of an unknown kind"),
        ("lightgbm.basic.Booster", (), None, "a booster without its state"),
        ("lightgbm.basic.Booster", (), {"_handle": "/etc/passwd"}, "a booster without its model"),
        ("lightgbm.basic.Booster", (), {"_handle": Text("tree")}, "a booster without its model"),
        ("lightgbm.basic.Booster", (), {"_handle": b"tree"}, "a booster without its model"),
    ],
)
def test_a_state_consists_of_plain_parts_only(name: str, arguments: tuple[Any, ...], state: Any, message: str) -> None:
    """The state that follows a call is checked in the same way."""
    module, name = name.rsplit(".", 1)
    with pytest.raises(Refused, match=re.escape(message)):
        made(module, name, *arguments, state=state)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": "int64"}, "of an unknown kind"),
        ({"length": 2.0}, "of an unknown kind"),
        ({"nulls": None}, "of an unknown kind"),
        ({"offset": "0"}, "of an unknown kind"),
        ({"length": -1}, "with parts"),
        ({"offset": -1}, "with parts"),
        ({"children": [1]}, "with parts"),
        ({"dictionary": 1}, "with parts"),
        ({"buffers": [None, b"\0" * 16]}, "of something other than buffers"),
    ],
)
def test_an_arrow_array_is_built_from_a_type_numbers_and_buffers(changed: dict[str, Any], message: str) -> None:
    """An array of two numbers is restored; any other kind of part is refused."""
    parts = {
        "kind": pa.int64(), "length": 2, "nulls": 0, "offset": 0,
        "buffers": [None, pa.py_buffer(np.array([3, 4]).tobytes())], "children": [], "dictionary": None,
    }  # fmt: skip
    assert made("pyarrow.lib", "_restore_array", tuple(parts.values())).to_pylist() == [3, 4]
    with pytest.raises(Refused, match=message):
        made("pyarrow.lib", "_restore_array", tuple({**parts, **changed}.values()))


def test_arrow_strings_with_offsets_outside_their_buffer_are_refused() -> None:
    """Offsets come from the pickle; one beyond the end of the characters would read memory of the process."""
    for offsets in ([0, 3], [0, 2_000_000], [0, -1]):
        buffers = [None, pa.py_buffer(np.array(offsets, np.int32).tobytes()), pa.py_buffer(b"abc")]
        parts = (pa.string(), 1, 0, 0, buffers, [], None)
        if offsets == [0, 3]:
            assert made("pyarrow.lib", "_restore_array", parts).to_pylist() == ["abc"]
            continue
        with pytest.raises(pa.ArrowInvalid):
            made("pyarrow.lib", "_restore_array", parts)
    not_utf8 = [None, pa.py_buffer(np.array([0, 1], np.int32).tobytes()), pa.py_buffer(b"\xff")]
    with pytest.raises(pa.ArrowInvalid, match="UTF8"):
        made("pyarrow.lib", "_restore_array", (pa.string(), 1, 0, 0, not_utf8, [], None))


BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("name", "arguments", "value"),
    [
        ("builtins.set", ([1, 2],), {1, 2}),
        ("builtins.bytes", ("\xe9",), b"\xe9"),
        ("builtins.bytearray", (b"ab",), bytearray(b"ab")),
        ("builtins.complex", (1.5, True), 1.5 + 1j),
        ("_codecs.encode", ("\xff", "latin1"), b"\xff"),
        ("collections.OrderedDict", ([("b", 1), ["a", 2]],), OrderedDict([("b", 1), ("a", 2)])),
        ("collections.OrderedDict", ({"a": 2},), OrderedDict(a=2)),
        ("collections.Counter", ({"a": 2},), Counter("aa")),
        ("collections.Counter", (), Counter()),
        ("collections.deque", ([], 3), deque(maxlen=3)),
        ("datetime.date", (2020, 1, 2), dt.date(2020, 1, 2)),
        ("datetime.date", (b"\x07\xe4\x01\x02",), dt.date(2020, 1, 2)),
        ("datetime.datetime", (2020, 1, 2), dt.datetime(2020, 1, 2)),
        ("datetime.datetime", (2020, 1, 2, 3, 4, 5, 6, BERLIN), dt.datetime(2020, 1, 2, 3, 4, 5, 6, BERLIN)),
        ("datetime.datetime", (2020, 1, 2, 3, 4, 5, 6, None), dt.datetime(2020, 1, 2, 3, 4, 5, 6)),
        ("datetime.datetime", (2020, 1, 2, dt.UTC), dt.datetime(2020, 1, 2, tzinfo=dt.UTC)),
        ("datetime.datetime", (b"\x07\xe4\x01\x02\x03\x04\x05\0\0\x06",), dt.datetime(2020, 1, 2, 3, 4, 5, 6)),
        (
            "datetime.datetime",
            (b"\x07\xe4\x01\x02\x03\x04\x05\0\0\x06", dt.UTC),
            dt.datetime(2020, 1, 2, 3, 4, 5, 6, dt.UTC),
        ),
        ("datetime.time", (3, 4), dt.time(3, 4)),
        ("datetime.timezone", (dt.timedelta(hours=1), "CET"), dt.timezone(dt.timedelta(hours=1), "CET")),
        ("decimal.Decimal", ("1.10",), Decimal("1.10")),
        ("pathlib.PosixPath", ("/", "a"), PosixPath("/a")),
        ("pathlib.PurePosixPath", ("a", "b"), PurePosixPath("a/b")),
        ("numpy._core.multiarray.scalar", (np.dtype("<i4"), b"\x02\x01\0\0"), np.int32(258)),
        ("pandas._unpickle_timestamp", (1, None, None, 7), pd.Timestamp("1970-01-01 00:00:01").as_unit("s")),
        ("pandas._unpickle_timestamp", (3, None, None, 8), pd.Timestamp("1970-01-01 00:00:00.003").as_unit("ms")),
        ("pandas._unpickle_timestamp", (0, None, "Asia/Tokyo"), pd.Timestamp(0, tz="Asia/Tokyo").as_unit("ns")),
        ("pandas._unpickle_timestamp", (0, None, BERLIN), pd.Timestamp(0, tz=BERLIN).as_unit("ns")),
        ("pandas._timedelta_unpickle", (90, 7), pd.Timedelta("90s").as_unit("s")),
        ("pandas._timedelta_unpickle", (90,), pd.Timedelta("90ns")),
        ("pandas._libs.tslibs.offsets.Day", (3,), pd.offsets.Day(3)),
        ("pandas._libs.tslibs.offsets.BusinessDay", (2, True, dt.timedelta(1)), pd.offsets.BusinessDay(2, True, dt.timedelta(1))),
        ("pandas.StringDtype", ("pyarrow",), pd.StringDtype("pyarrow")),
        ("pandas.PeriodDtype", ("M",), pd.PeriodDtype("M")),
        ("pandas.DatetimeTZDtype", ("ns", "UTC"), pd.DatetimeTZDtype("ns", "UTC")),
    ],
)  # fmt: skip
def test_a_call_builds_the_right_value(name: str, arguments: tuple[Any, ...], value: Any) -> None:
    """Values are built from their old and new forms: packed bytes or separate numbers, with a zone, in other units."""
    module, name = name.rsplit(".", 1)
    built = made(module, name, *arguments)
    assert built == value
    assert type(built) is type(value)
    assert getattr(built, "tzinfo", None) == getattr(value, "tzinfo", None)
    assert getattr(built, "unit", None) == getattr(value, "unit", None)


def test_a_zoneinfo_is_restored() -> None:
    """A zone is restored by its name, directly and in the form that uses ``getattr``."""
    assert made("zoneinfo", "ZoneInfo._unpickle", "Europe/Berlin", True) == BERLIN
    assert made("builtins", "getattr", ZoneInfo, "_unpickle").make("Europe/Berlin", True) == BERLIN


@pytest.mark.parametrize(
    ("code", "state", "dtype"),
    [
        ("f8", dtype_state("<"), "<f8"),
        ("f8", dtype_state(">"), ">f8"),
        ("b", dtype_state("|"), "i1"),
        ("V8", dtype_state(**ONE_FIELD), [("a", "f8")]),
        ("M8", dtype_state("<", unit=(b"D", 1, 1, 1)), "<M8[D]"),
        ("m8", dtype_state(">", unit=("ns", 25, 1, 1)), ">m8[25ns]"),
        ("M8", dtype_state("<", unit=(b"generic", 1, 1, 1)), "<M8"),
        ("M8", (*dtype_state("<"), None), "<M8"),
        ("M8", dtype_state("<"), "<M8"),
    ],
)
def test_a_dtype_is_restored(code: str, state: tuple[Any, ...], dtype: Any) -> None:
    """Byte order, fields, and the unit of dates with its multiple are restored."""
    assert made("numpy", "dtype", code, state=state) == np.dtype(dtype)


def test_booleans_are_zero_or_one() -> None:
    """Other bytes would give values that equal neither True nor False."""
    assert made("numpy._core.numeric", "_frombuffer", b"\0\x01\x07", np.dtype(bool), (3,)).tolist() == [
        False,
        True,
        True,
    ]


def test_a_frequency_is_that_of_one_column() -> None:
    """Two columns of a block are not days in a row, so a block of dates has no frequency."""
    days = np.array(["2020-01-01", "2020-01-02"], "M8[ns]")
    parts = {"_freq": pd.offsets.Day()}
    one = made("pandas", "DatetimeArray", state=(days.dtype, days, parts))
    assert getattr(one, "freq", pd.offsets.Day()) == pd.offsets.Day()  # arrays of recent versions have none
    two = made("pandas", "DatetimeArray", state=(days.dtype, np.stack([days, days]), parts))
    assert getattr(two, "freq", None) is None
    assert list(two[1]) == list(one)


def test_an_array_keeps_its_memory_order() -> None:
    """Column-major and row-major arrays are restored, and are writable."""
    data = np.arange(6.0).tobytes()
    by_column = made("numpy._core.numeric", "_frombuffer", data, F8, (2, 3), "F")
    by_row = made("numpy._core.multiarray", "_reconstruct", np.ndarray, (0,), b"b", state=(1, (2, 3), F8, False, data))
    assert by_column.tolist() == [[0, 2, 4], [1, 3, 5]]
    assert by_row.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert by_column.flags.f_contiguous
    assert by_row.flags.c_contiguous
    assert by_row.flags.writeable


def blocks(values: Any, places: Any, *axes: Any) -> Any:
    return made("pandas", "BlockManager", (made("pandas", "_unpickle_block", values, places),), list(axes))


@pytest.mark.parametrize(
    ("values", "places", "message"),
    [
        (np.zeros((2, 3)), slice(0, 2.0), "unknown positions"),
        (np.zeros((2, 3)), np.array([0.0, 1.0]), "unknown positions"),
        (np.zeros((2, 3)), np.array([[0, 1]]), "unknown positions"),
        (np.zeros((3, 3)), np.array([0, 1, 1]), "unknown positions"),
        (np.zeros((2, 2)), slice(0, 2), "does not fit its frame"),
        (np.zeros((1, 3)), slice(0, 2), "does not fit its frame"),
        (np.zeros((1, 3)), slice(0, 1), "do not cover its columns"),
        (pd.array([1, 2, 3]), slice(0, 2), "does not fit its frame"),
        (pd.array([1, 2]), slice(0, 1), "does not fit its frame"),
        (pd.array(pd.date_range("2020", periods=6)).reshape(3, 2), slice(0, 2), "does not fit its frame"),
    ],
)
def test_blocks_must_fit_their_frame(values: Any, places: Any, message: str) -> None:
    """In a frame of two columns and three rows, each column must occur once, with three values."""
    state = {"_mgr": blocks(values, places, pd.Index(["a", "b"]), pd.RangeIndex(3))}
    with pytest.raises(Refused, match=message):
        made("pandas", "DataFrame", state=state)


def test_frames_and_series_are_built_from_blocks() -> None:
    """Positions may be in any order; attributes and flags are restored."""
    whole = blocks(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1, 0]), pd.Index(["a", "b"]), pd.RangeIndex(2))
    frame = made(
        "pandas", "DataFrame", state={"_mgr": whole, "attrs": {"x": 1}, "_flags": {"allows_duplicate_labels": False}}
    )
    assert frame["a"].tolist() == [3.0, 4.0]
    assert frame["b"].tolist() == [1.0, 2.0]
    assert frame.attrs == {"x": 1}
    assert frame.flags.allows_duplicate_labels is False
    one = blocks(np.array([1.0, 2.0]), slice(0, 2), pd.Index(["x", "y"]))
    series = made("pandas", "Series", state={"_mgr": one, "_name": "s"})
    pd.testing.assert_series_equal(series, pd.Series([1.0, 2.0], ["x", "y"], name="s"))
    assert series.flags.allows_duplicate_labels is True
    with pytest.raises(Refused, match="something other than blocks"):
        made(
            "pandas",
            "DataFrame",
            state={"_mgr": made("pandas", "BlockManager", [3], [pd.Index(["a"]), pd.RangeIndex(1)])},
        )
    for attributes in ({"attrs": [("x", 1)]}, {"_flags": "none"}):
        with pytest.raises(Refused, match="unknown attributes"):
            made("pandas", "Series", state={"_mgr": one, **attributes})
    with pytest.raises(Refused, match="does not fit its index"):
        made("pandas", "Series", state={"_mgr": blocks(np.zeros(3), slice(0, 3), pd.Index(["x", "y"]))})
    with pytest.raises(Refused, match="without a block"):
        made("pandas", "Series", state={"_mgr": blocks(np.zeros(2), slice(0, 2), ["x", "y"])})


@pytest.mark.parametrize("name", ["eval", "read_pickle", "offsets", "io", "DataFrame.eval", "_libs"])
def test_no_other_name_of_pandas_has_a_rule(name: str) -> None:
    """The module of offsets, from which classes are taken by name, has none either."""
    assert rule_of("pandas", name) is None
    assert rule_of("pandas._libs.tslibs.offsets", name) is None


def test_only_number_types_of_numpy_have_a_rule() -> None:
    """NumPy's functions, other classes and other modules have no rule."""
    assert rule_of("numpy", "float64").value is np.float64  # type: ignore[union-attr]
    for module, name in (("numpy", "load"), ("numpy", "memmap"), ("numpy.lib", "float64"), ("numpy", "matrix")):
        assert rule_of(module, name) is None
    assert rule_of("lightgbm.basic", "Dataset") is None
    assert rule_of("lightgbm", "Booster") is None
