"""Small pickles cannot crash the interpreter, compute for minutes or exhaust memory."""

from __future__ import annotations

import pickle
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge import pickle_rules, pickled_pandas, safe_pickle
from rollforge.errors import ArtifactUnreadable, UntrustedPickle
from rollforge.pickle_rules import size_of


def program(module: str, name: str, *arguments: Any) -> bytes:
    """Return a pickle that calls ``module.name(*arguments)``."""
    return _names(module, name) + pickle.dumps(arguments, 2)[2:-1] + b"R."


def _names(module: str, name: str) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def _nested(first: bytes, then: bytes, depth: int = 100_000) -> bytes:
    """Return a pickle of nested containers."""
    return first * depth + b"N" + then * depth + b"."


_DTYPE = pickle.dumps(np.dtype(object), 2)[2:-1]
_ARRAY = (
    _names("numpy._core.multiarray", "_reconstruct")
    + b"cnumpy\nndarray\n(K\x00tU\x01b\x87R(K\x01(K\x01t"
    + b"h\x63\x89"
)


def _object_array_in_itself(depth: int) -> bytes:
    return _DTYPE + b"q\x630" + _nested(_ARRAY + b"]", b"atb", depth)


def _grown(kind: bytes, fill: bytes) -> bytes:
    """Return a pickle of containers that are nested before they are filled."""
    make = b"".join(kind + b"r" + i.to_bytes(4, "little") + b"0" for i in range(5_000))
    return make + b"".join(b"j%b%bj%b%b0" % (i.to_bytes(4, "little"), fill[:-1], (i + 1).to_bytes(4, "little"), fill[-1:])
                           for i in range(4_999)) + b"N."  # fmt: skip


def _dtype_of_two(inner: bytes) -> bytes:
    head = _names("numpy", "dtype") + b"(U\x02V8\x89\x88tR(K\x03U\x01|N"
    return head + b"(U\x01aU\x01bt(U\x01a(" + inner + b"K\x00tU\x01b(" + inner + b"K\x00tdK\x08K\x01K\x00tb"


def _dtype_with_shared_fields(depth: int = 50) -> bytes:
    start = pickle.dumps(np.dtype("i8"), 2)[2:-1] + b"q\x640"
    return b"}" + start + (_dtype_of_two(b"h\x64") + b"q\x640") * depth + b"h\x64Ns."


def _copies(name: str, value: object) -> bytes:
    """Return a pickle in which calls make many copies of one value."""
    call = _names("builtins", name) + b"h\xff\x85R"
    return pickle.dumps(value, 2)[2:-1] + b"q\xff0(" + call * 20_000 + b"l."


_SIZELESS = [np.dtype("V0"), np.dtype("S0"), np.dtype("U0")]


@pytest.mark.parametrize(
    "data",
    [
        _nested(_names("collections", "deque") + b")R", b"a"),
        _nested(_names("collections", "defaultdict") + b")RN", b"s"),
        _object_array_in_itself(20_000),
        _grown(_names("collections", "deque") + b")R", b"a"),
        b"}(" + b"N" * 2_000 + b"tq\x010" + b"h\x01Ns" * 10 + b".",
        b"}" + pickle.dumps(1 << 80_000, 2)[2:-1] + b"q\x010" + b"h\x01Ns" * 10 + b".",
        b"}" + pickle.dumps(pd.CategoricalDtype(["a"]), 2)[2:-1] + b"Ns.",
        _dtype_with_shared_fields(),
        _copies("bytes", b"x" * 100_000),
        _copies("set", list(range(1_000))),
        *(program("numpy._core.numeric", "_frombuffer", b"", d, (2**36,), "C") for d in _SIZELESS),
        program("pandas.core.indexes.base", "_new_Index", pd.RangeIndex, {"start": 0, "stop": 10**15, "step": 1}),
        program("pandas._libs.tslibs.timestamps", "_unpickle_timestamp", 0, None, "dateutil//etc/hostname"),
        program("pandas", "DatetimeTZDtype", "ns", "dateutil//etc/hostname"),
    ],
    ids=[
        "deques", "defaultdicts", "arrays", "grown deques", "a large key", "a large integer as a key", "a dtype as a key",
        "fields that are shared", "copies of bytes", "copies of sets", "V0", "S0", "U0", "a range", "a file as a zone",
        "a file as the zone of a dtype",
    ],
)  # fmt: skip
def test_no_pickle_crashes_the_interpreter_or_exhausts_memory(data: bytes) -> None:
    """For example deep nesting, repeated hashing, repeated copies, large sizes without data, and paths as names."""
    began = time.process_time()
    with pytest.raises((UntrustedPickle, ArtifactUnreadable)):
        safe_pickle.loads(data)
    assert time.process_time() - began < 10


@pytest.mark.parametrize("part", ["start", "stop", "step"])
@pytest.mark.parametrize("kind", [range, slice])
def test_a_key_contains_no_very_large_integer(kind: type[range] | type[slice], part: str) -> None:
    """A range or slice in a key contains none either; with a smaller one, the same range is a key."""

    def pickled(number: int) -> bytes:
        key = kind(*({"start": 1, "stop": 9, "step": 2} | {part: number}).values())
        return b"}" + pickle.dumps(key, 3)[2:-1] + b"Ns."

    with pytest.raises(UntrustedPickle, match="a very large integer as a key"):
        safe_pickle.loads(pickled(1 << 80_000))
    if kind is range:
        assert safe_pickle.loads(pickled(1 << 9_000)) == {pickle.loads(pickled(1 << 9_000)).popitem()[0]: None}


def test_the_attributes_of_a_frame_are_limited() -> None:
    """The number of a frame's attributes is limited, because attributes are copied in each operation and compared when frames are
    joined."""
    shared: list[Any] = [1]
    for _ in range(40):
        shared = [shared, shared]
    frame = pd.DataFrame({"a": [1.0]})
    frame.attrs = {"a": [1, {"b": "c"}]}
    assert safe_pickle.loads(pickle.dumps(frame)).attrs == frame.attrs
    frame.attrs = {"a": shared}
    with pytest.raises(UntrustedPickle, match="attributes"):
        safe_pickle.loads(pickle.dumps(frame))


def test_containers_may_be_nested_and_shared() -> None:
    """A few levels of nesting, and values that occur many times, are accepted."""
    nested: dict[str, Any] = defaultdict(dict, {"a": defaultdict(list, {"b": [deque([deque([1])])]})})
    assert safe_pickle.loads(pickle.dumps(nested)) == nested
    array = np.empty(2, object)
    array[:] = [np.array(["a", None], object), deque([1])]
    back = safe_pickle.loads(pickle.dumps([array] * 100))
    assert back[0][0].tolist() == ["a", None]
    assert back[99] is back[0]
    index = pd.MultiIndex.from_product([pd.date_range("2020-01-01", periods=200), list("abcde")])
    frames = {i: pd.DataFrame({"x": 1.0, "y": True, "z": "t"}, index=index) for i in range(20)}
    back = safe_pickle.loads(pickle.dumps(frames))
    assert all(back[i].equals(frames[i]) for i in frames)


def _attributes(count: int) -> bytes:
    frame = pd.DataFrame({"a": [1.0]})
    frame.attrs = {"a": [1] * count}
    return pickle.dumps(frame)


def _deques(depth: int) -> bytes:
    value: deque[Any] = deque()
    for _ in range(depth - 1):
        value = deque([value])
    return pickle.dumps(value)


@pytest.mark.parametrize(
    ("pickled", "most", "message"),
    [
        (lambda n: b"N" * (n - 1) + b".", (safe_pickle, "_MAX_STEPS", 7), "instructions"),
        (lambda n: b"}(" + b"".join(pickle.dumps(i * (2**61 - 1), 2)[2:-1] + b"N" for i in range(1, n + 1)) + b"u.",
         (pickle_rules, "_MAX_HASHED", None), "have the same hash"),
        (lambda n: b"}" + pickle.dumps(tuple(range(n - 1)), 2)[2:-1] + b"Ns.",
         (pickle_rules, "_MAX_KEY_ITEMS", None), "a key in it consists of more than"),
        (lambda n: b"}" + pickle.dumps(frozenset([((1,), *range(n - 4))]), 4)[2:-1] + b"Ns.",
         (pickle_rules, "_MAX_KEY_ITEMS", 20), "a key in it consists of more than"),
        (lambda n: b"}" + pickle.dumps(1 << (n - 1), 2)[2:-1] + b"Ns.",
         (pickle_rules, "_MAX_KEY_BYTES", None), "a very large integer as a key"),
        (_deques, (safe_pickle, "_MAX_DEPTH", None), "nested more than 100 deep"),
        (lambda n: _attributes(n - 2), (pickled_pandas, "_MAX_ATTRIBUTES", 50), "very many attributes"),
    ],
    ids=["steps", "equal hashes", "values of a key", "nested key", "bits", "deques", "attributes"],
)  # fmt: skip
def test_each_limit_is_the_largest_accepted_size(
    pickled: Callable[[int], bytes], most: tuple[Any, str, int | None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value of exactly that size is accepted, and one that is larger by one is refused."""
    module, name, smaller = most
    if smaller is not None:
        monkeypatch.setattr(module, name, smaller)
    limit = getattr(module, name)
    safe_pickle.loads(pickled(limit))
    with pytest.raises((UntrustedPickle, ArtifactUnreadable), match=message):
        safe_pickle.loads(pickled(limit + 1))


@pytest.mark.parametrize(
    ("value", "least"),
    [
        (b"x" * 1000, 1000),
        (bytearray(1000), 1000),
        ("x" * 1000, 1000),
        ([None] * 1000, 8000),
        (set(range(1000)), 8000),
        (frozenset(range(1000)), 8000),
        (dict.fromkeys(range(1000)), 8000),
        (deque([None] * 1000), 8000),
        (pd.MultiIndex.from_product([range(100), range(10)]), 1000),
        (pd.DataFrame({"a": np.zeros(1000), "b": np.zeros(1000, "i1")}), 9000),
        (pd.Series(np.zeros(1000)), 8000),
        (np.zeros(1000), 8000),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_size_of_a_value_is_estimated(value: Any, least: int) -> None:
    """At least what its elements take, and not many times as much; a value without a size counts a little."""
    assert least <= size_of(value) <= 10 * least
    assert 0 < size_of(None) <= size_of(type) < 1000


def test_calls_create_only_a_multiple_of_the_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copying a value again and again is refused once the copies exceed the limit, and not before."""
    monkeypatch.setattr(safe_pickle, "_MADE_ANYWAY", 20_000)
    monkeypatch.setattr(safe_pickle, "_MADE_PER_BYTE", 0)
    # Each call makes another bytearray of 1,000 bytes, which counts as 1,032.
    once = b"0cbuiltins\nbytearray\nh\x01\x85R"
    start = b"\x80\x04B" + (1000).to_bytes(4, "little") + bytes(1000) + b"q\x01"
    assert safe_pickle.loads(start + once * 19 + b".") == bytearray(1000)
    with pytest.raises(ArtifactUnreadable, match="far larger than the pickle"):
        safe_pickle.loads(start + once * 20 + b".")
    monkeypatch.setattr(safe_pickle, "_MADE_PER_BYTE", 1)
    assert safe_pickle.loads(start + once * 20 + b".") == bytearray(1000)
