"""A task is data: its canonical JSON, its digest, and values that survive the round trip."""

from __future__ import annotations

import datetime as dt
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st

from rollforge.errors import TaskNotSerializable
from rollforge.models import LinearModel
from rollforge.task import decode, digest, encode

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=8)
    | st.dates()
    | st.datetimes()
    | st.timedeltas()
    | st.datetimes(min_value=dt.datetime(1900, 1, 1), max_value=dt.datetime(2200, 1, 1)).map(pd.Timestamp)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=6), inner, max_size=4)
        | st.dictionaries(st.integers() | st.sampled_from(["$tuple", "$map", "$ts"]), inner, max_size=2)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_plain_data_survives_the_round_trip(value: Any) -> None:
    """Values and types are restored, including dicts that look like tags, and keys that are not strings."""
    back = decode(encode(value))
    assert back == value
    assert type(back) is type(value)


@given(st.dictionaries(st.text(max_size=5), LEAVES, max_size=6))
def test_the_order_of_keys_does_not_matter(value: dict[str, Any]) -> None:
    """Equal dicts are the same task."""
    assert digest(value) == digest(dict(reversed(value.items()))) == digest(OrderedDict(value))


@given(VALUES, VALUES)
def test_different_values_are_different_tasks(a: Any, b: Any) -> None:
    """The texts of different values differ, and so do their digests."""
    assert (encode(a) == encode(b)) == (digest(a) == digest(b))


def test_the_canonical_form_is_pinned() -> None:
    """The text and the digest of a definition must not change, or every task of an existing pool would be trained
    again."""
    definition = {
        "model": {"class": "LGBModel", "module_path": "qlib.contrib.model.gbdt", "kwargs": {"l": 64, "é": math.nan}},
        "segments": {
            "train": (dt.date(2020, 1, 2), pd.Timestamp("2020-12-31")),
            "test": [dt.datetime(2021, 1, 4, 9, 30), None],
        },
        "slice": slice(0, 10, None),
        "bytes": b"\x00\x01",
        "wait": dt.timedelta(days=1, seconds=2),
        "zone": dt.datetime(2021, 1, 4, tzinfo=ZoneInfo("Europe/Berlin")),
        "type": OrderedDict,
        "by_horizon": {1: 0.1},
    }
    assert encode(definition) == (
        '{"by_horizon":{"$map":[[1,0.1]]},"bytes":{"$bytes":"AAE="},'
        '"model":{"class":"LGBModel","kwargs":{"l":64,"é":{"$float":"nan"}},"module_path":"qlib.contrib.model.gbdt"},'
        '"segments":{"test":[{"$datetime":"2021-01-04T09:30:00"},null],'
        '"train":{"$tuple":[{"$date":"2020-01-02"},{"$ts":"2020-12-31T00:00:00"}]}},'
        '"slice":{"$slice":[0,10,null]},"type":{"$ref":"collections:OrderedDict"},"wait":{"$timedelta":"1d2s0us"},'
        '"zone":{"$datetime":"2021-01-04T00:00:00+01:00[Europe/Berlin]"}}'
    )
    assert digest(definition) == "fee3bd7d037ee5eb301ea15064af22a7"


def test_values_that_json_lacks_are_tagged() -> None:
    """NaN, infinity, slices, numpy scalars, paths and importable classes are encoded."""
    value = {"inf": math.inf, "s": slice("2020", None), "c": LinearModel}
    assert decode(encode(value)) == value
    assert math.isnan(decode(encode(math.nan)))
    given_types = {"f": np.float32(0.5), "i": np.int64(3), "b": np.bool_(True), "p": Path("/a/b")}
    assert decode(encode(given_types)) == {"f": 0.5, "i": 3, "b": True, "p": "/a/b"}
    assert decode(encode(pd.Timestamp("2020-01-02", tz="UTC"))) == pd.Timestamp("2020-01-02", tz="UTC")


def test_an_integer_and_an_equal_float_are_different_tasks() -> None:
    """An integer and an equal float are different arguments."""
    assert digest({"x": 1}) != digest({"x": 1.0})
    assert digest({"x": True}) != digest({"x": 1})


@pytest.mark.parametrize("value", [object(), lambda: 1, {1, 2}, pd.DataFrame(), np.zeros(2), LinearModel()])
def test_an_object_that_is_not_data_is_refused_with_its_position(value: Any) -> None:
    """The error says where it is and what to write instead."""
    with pytest.raises(TaskNotSerializable, match=r"dataset\.kwargs\.0\.thing is a live .*'class'"):
        encode({"dataset": {"kwargs": [{"thing": value}]}})


def test_a_named_time_zone_survives() -> None:
    """The name of the zone is kept, not only the offset, also in the hour that is repeated at the end of daylight
    saving time."""
    for moment in (
        dt.datetime(2020, 3, 29, 12, tzinfo=ZoneInfo("Europe/Berlin")),
        dt.datetime(2020, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
        pd.Timestamp("2020-07-01", tz="America/New_York"),
        pd.Timestamp("2020-07-01", tz="UTC"),
    ):
        back = decode(encode({"t": moment}))["t"]
        assert (type(back), back, str(back.tzinfo), back.utcoffset()) == (
            type(moment), moment, str(moment.tzinfo), moment.utcoffset(),
        )  # fmt: skip


def test_a_definition_that_contains_itself_is_refused() -> None:
    """A definition that contains itself raises one error."""
    cycle: dict[str, Any] = {"a": []}
    cycle["a"].append(cycle)
    with pytest.raises(TaskNotSerializable, match="contains itself"):
        encode(cycle)
