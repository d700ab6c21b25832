"""Short texts written by people and programs: days, sizes, queries, filters of runs, paths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fuzzing import Target, as_json, fuzzed, json_values, text_of
from hypothesis import strategies as st

from rollforge.cli.pool import parse_query as typed_query
from rollforge.dates import read_column, read_day, read_timestamp
from rollforge.errors import RollforgeError
from rollforge.session import parse_size
from rollforge.store.codec import EncodedResult, decode_result, read_definition
from rollforge.store.query import matches, parse_query
from rollforge.task import Status, decode, searchable, to_plain
from rollforge.track.filters import matches as run_matches, parse_filter, parse_order
from rollforge.track.tracker import RunData, RunInfo, RunQuery


def _day(data: bytes, folder: Path) -> Any:
    text = text_of(data)
    return read_timestamp(text, "start_time")


def _any_day(data: bytes, folder: Path) -> Any:
    """Use numbers and other values in place of a day."""
    last: RollforgeError | None = None
    found = 0
    values = [float(v) for v in np.frombuffer(data[: len(data) // 8 * 8], "<f8")[:8]]
    whole = np.frombuffer(data[: len(data) // 8 * 8], "<i8")[:8]
    for value in (
        *values,
        *(int(v) for v in whole),
        *whole,
        *whole.astype("M8[ns]"),
        *whole.astype("M8[s]"),
        *whole.astype("M8[Y]"),
    ):
        try:
            read_day(value, "here")
        except RollforgeError as exc:
            last = last or exc
        else:
            found += 1
    if last is not None and not found:
        raise last
    return None


def _column(data: bytes, folder: Path) -> Any:
    found = read_column(text_of(data).split("\n"))
    read_column(pd.Series(np.frombuffer(data[: len(data) // 8 * 8], "<f8")))
    read_column(pd.Series(np.frombuffer(data[: len(data) // 8 * 8], "<i8")))
    return found.reason


DAYS = [b"2015-06-30", b"2015/6/3", b"20150630", b"30 Jun 2015", b"Jun 30, 2015", b"2021-03-01 00:00:00+08:00",
        b"2021-03-01T09:30:00.123456Z", "2015年6月30日".encode(), b"20210305093000000", b"2015-06-30 9:30 pm EST"]  # fmt: skip
_days = st.one_of(
    st.tuples(st.integers(-1, 12000), st.integers(-1, 14), st.integers(-1, 33), st.sampled_from("-/. ")).map(
        lambda p: f"{p[0]}{p[3]}{p[1]}{p[3]}{p[2]}"
    ),
    st.dates().map(str),
    st.datetimes().map(str),
    st.integers(-(10**20), 10**20).map(str),
).map(str.encode)

DOCUMENT = {
    "id": "a" * 32, "model_name": "m", "status": Status.DONE, "priority": 1, "attempt": 0, "worker": None, "cause": None,
    "created_at": 1.0, "started_at": 2.0, "finished_at": None,
    "def": searchable(to_plain({"model": {"class": "LGB", "kwargs": {"a": [1, 2.5, None]}}, "segments": {"test": ["2020-01-01", None]}})),
}  # fmt: skip


def _query(data: bytes, folder: Path) -> Any:
    query = typed_query(text_of(data))
    return matches(parse_query(query), DOCUMENT)


QUERIES = [
    b'{"status": "done", "model.class": "LGB"}',
    b'{"_id": {"$in": ["a", "b"]}, "$or": [{"priority": {"$gt": 1}}, {"attempt": {"$lte": 3}}]}',
    b'{"$nor": [{"$and": [{"def.segments.test.0": {"$regex": "^20"}}]}], "worker": {"$exists": false}}',
    b'{"created_at": {"$not": {"$gte": 10}}, "cause": null}',
]
QUERY_WORDS = [b"$and", b"$or", b"$not", b"$in", b"$nin", b"$regex", b"$exists", b"$ne", b'"status"', b"_id", b"def.a", b"{}",
               b"[]", b'{"$or": ' * 1500, b"(a+)+$", b"1e999"]  # fmt: skip
_keys = st.sampled_from(
    ["_id", "status", "priority", "cause", "worker", "def.a", "model.class", "$and", "$or", "$nor", "$not", "", "."]
)
_ops = st.sampled_from("$eq $ne $in $nin $gt $gte $lt $lte $exists $regex $not $near".split())
_queries = st.recursive(
    st.dictionaries(_keys, st.one_of(json_values, st.dictionaries(_ops, json_values, max_size=2)), max_size=3),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"$and": st.lists(inner, max_size=3)}),
        st.fixed_dictionaries({"$not": inner}),
        st.dictionaries(_keys, inner, max_size=2),
    ),
    max_leaves=6,
).map(as_json)


def _size(data: bytes, folder: Path) -> Any:
    return parse_size(text_of(data), path="memory")


RUN = RunData(
    RunInfo("ab", "first", "1", "FINISHED", 1.0),
    {"model": "lgb"},
    {"IC": 0.5, "l2.valid": float("nan")},
    {"user": "ann"},
)


def _runs(data: bytes, folder: Path) -> Any:
    text = text_of(data)
    parse_filter(text)
    return run_matches(RUN, RunQuery(filter_string=text))


def _order(data: bytes, folder: Path) -> Any:
    return parse_order(text_of(data))


def _definition(data: bytes, folder: Path) -> Any:
    text = text_of(data)
    read_definition(text)
    return decode(text)


def _result(data: bytes, folder: Path) -> Any:
    return decode_result(EncodedResult(text_of(data)))


PLAIN = [
    b'{"a":null,"b":{"$tuple":[1,2]},"d":{"$date":"2020-01-02"},"t":{"$ts":"2020-01-02T00:00:00+01:00[Europe/Berlin]"}}',
    b'{"x":{"$timedelta":"1d2s3us"},"y":{"$timedelta":"P1DT0H0M0S"},"z":{"$slice":[{"$ts":"2020-01-02T00:00:00"},null,null]}}',
    b'{"m":{"$map":[[1,"a"],[{"$tuple":[1]},"b"]]},"r":{"$ref":"builtins:dict"},"b":{"$bytes":"YWI="},"f":{"$float":"nan"}}',
    b'{"n":{"$datetime":"2020-01-02T00:00:00+02:00"},"nat":{"$ts":"NaT"}}',
]
_tags = st.sampled_from("$tuple $ts $timedelta $date $datetime $bytes $float $slice $ref $map".split())
_plain = st.recursive(
    json_values,
    lambda inner: st.one_of(st.tuples(_tags, inner).map(lambda p: {p[0]: p[1]}), st.lists(inner, max_size=3)),
    max_leaves=6,
).map(as_json)


@fuzzed(
    Target("day", _day, DAYS, [b"Jun", b"Sept", b"UTC", b"+24:00", b"am", b"T", "年".encode()], _days),
    Target("value-as-day", _any_day, [np.array([20200102, 20200103], "<i8").tobytes(), np.array([20200102.0]).tobytes()]),
    Target("column-of-days", _column, [b"\n".join(DAYS), b"1/2/2020\n13/2/2020\n"], [b"NaT", b"1577836800000"], _days),
    Target("query", _query, QUERIES, QUERY_WORDS, _queries),
    Target("size", _size, [b"4G", b"512 MiB", b"1.5k", b"1024"], [b"9" * 400 + b"T", b"1e3", b"T"]),
    Target(
        "filter-of-runs",
        _runs,
        [b"params.model = 'lgb' and metrics.\"l2.valid\" < 0.99", b"attributes.status = 'FINISHED' and tags.user LIKE 'a%'",
         b"tags.`my tag` IN ('a', 'b') and params.x is not null"],
        [b"and", b"LIKE", b"IN", b"is null", b"metrics.", b"tags.", b"params.", b"`", b"%" * 60 + b"x", b"1e999"],
    ),
    Target("order-of-runs", _order, [b"metrics.IC DESC", b"attributes.start_time", b"tags.`a b` asc"], [b"desc", b"metrics."]),
    Target("definition", _definition, PLAIN, [t.encode() for t in ("$tuple", "$ts", "$ref", "$map", "[Europe/Paris]", "[../../etc/passwd]")], _plain),
    Target("result", _result, PLAIN, [b"$ref", b"$map"], _plain),
)  # fmt: skip
class TestTexts:
    """Short texts."""


def test_seeds_are_json() -> None:
    """The words of a query's language occur in its seeds."""
    assert all(isinstance(json.loads(q), dict) for q in QUERIES)
