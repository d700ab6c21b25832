"""Reading pickles as data: values are restored, and nothing that a pickle refers to is called."""

from __future__ import annotations

import contextlib
import datetime as dt
import pickle
import pickletools
import re
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from rollforge import pickled_pandas, pickled_python, safe_pickle
from rollforge.errors import ArtifactUnreadable, ConfigError, UntrustedPickle
from rollforge.features.alpha import Alpha158
from rollforge.features.dataset import DatasetH
from rollforge.models import LinearModel

INDEX = pd.MultiIndex.from_product(
    [pd.date_range("2020-01-01", periods=2), ["A", "B"]], names=["datetime", "instrument"]
)


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 2.5, None, True], "b": ("x", b"y"), "c": {1, 2}, "d": frozenset({3})},
        dt.datetime(2020, 1, 2, 3, 4, tzinfo=dt.UTC),
        dt.date(2020, 1, 2),
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.float64(1.5),
        np.datetime64("2020-01-02"),
        pd.Timestamp("2020-01-02 03:04"),
        pd.Timedelta("2 days"),
        pd.Series([1.0, 2.0], index=pd.date_range("2020-01-01", periods=2), name="ic"),
        pd.DataFrame({"score": [1.0, 2.0, 3.0, 4.0]}, index=INDEX),
        pd.DataFrame({("feature", "a"): [1.0], ("label", "b"): ["x"]}),
    ],
    ids=lambda v: type(v).__name__,
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_data_is_restored(value: Any, protocol: int) -> None:
    """Containers, dates, and values of numpy and pandas, in every protocol in use."""
    back = safe_pickle.loads(pickle.dumps(value, protocol))
    assert type(back) is type(value)
    if isinstance(value, (pd.DataFrame, pd.Series)):
        assert back.equals(value)
    else:
        np.testing.assert_equal(back, value)


def test_models_and_datasets_are_restored() -> None:
    """Objects of a recorder: a model with its weights, a dataset with its definition, a LightGBM booster."""
    lightgbm = pytest.importorskip("lightgbm")
    model = LinearModel("ridge", alpha=2.0)
    model.coef_ = np.ones(3)
    assert safe_pickle.loads(pickle.dumps(model)).coef_.tolist() == [1, 1, 1]
    dataset = DatasetH(Alpha158("all"), {"train": ("2020-01-01", "2020-06-30")})
    back = safe_pickle.loads(pickle.dumps(dataset))
    assert back.segments == dataset.segments
    assert back.handler.instruments == "all"
    booster = lightgbm.train({"verbosity": -1}, lightgbm.Dataset(np.random.rand(60, 2), np.random.rand(60)), 2)
    assert safe_pickle.loads(pickle.dumps(booster)).num_trees() == 2


def call(module: str, name: str, argument: str) -> bytes:
    """Return a pickle that calls ``module.name(argument)``."""
    return f"c{module}\n{name}\n(S{argument!r}\ntR.".encode()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("builtins", "exec"),
        ("builtins", "open"),
        ("builtins", "__import__"),
        ("importlib", "import_module"),
        ("importlib", "reload"),
        ("runpy", "run_path"),
        ("pickle", "loads"),
        ("operator", "attrgetter"),
        ("functools", "partial"),
        ("shutil", "rmtree"),
        ("subprocess", "check_output"),
        ("pandas", "eval"),
        ("pandas.io.pickle", "read_pickle"),
        ("pandas.core.frame", "os"),
        ("rollforge.safe_pickle", "load"),
        ("rollforge.build", "locate"),
        ("rollforge.models.linear", "MissingDependency"),
        ("rollforge.features.handler", "FeaturePlan"),
        ("numpy", "load"),
        ("numpy.core.multiarray", "fromfile"),
    ],
)
def test_anything_else_is_refused(module: str, name: str, tmp_path: Path) -> None:
    """Functions, names that a module imports, and readers of other files are not called."""
    marker = tmp_path / "ran"
    for argument in (f"touch {marker}", f"open({str(marker)!r}, 'w')"):
        with pytest.raises(UntrustedPickle, match="trusted=True"):
            safe_pickle.loads(call(module, name, argument))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("module", "advised"), [("my_model", True), ("my.models", True), ("os", False), ("numpy", False)]
)
def test_the_refusal_says_how_to_allow_a_package(module: str, advised: bool) -> None:
    """Only for a package that can be allowed, and not for Python's own modules or the libraries."""
    with pytest.raises(UntrustedPickle, match=r"trusted=True") as caught:
        safe_pickle.loads(call(module, "thing", "x"))
    assert (f"ROLLFORGE_ALLOW={module.partition('.')[0]}." in str(caught.value)) is advised


def test_a_pickle_that_contains_code_is_refused_as_such() -> None:
    """A class of a script or notebook is pickled with its code; the message says so instead of naming cloudpickle."""
    kept = call("cloudpickle.cloudpickle", "_make_skeleton_class", "x")
    with pytest.raises(UntrustedPickle, match=r"__main__.*trusted=True"):
        safe_pickle.loads(kept)


@pytest.mark.parametrize("data", [b"", b"no pickle", pickle.dumps([1, 2, 3])[:-4]])
def test_data_that_are_not_a_pickle_are_unreadable(data: bytes) -> None:
    """Empty, truncated and other data raise an error that is not a refusal."""
    with pytest.raises(ArtifactUnreadable):
        safe_pickle.loads(data)


# -- calls with arguments ----------------------------------------------------------------------------------------------

COMMAND = {"class": "system", "module_path": "os"}


def program(module: str, name: str, *arguments: Any) -> bytes:
    """Return a pickle that calls ``module.name(*arguments)``, in a recent protocol."""
    packed = pickle.dumps(arguments, 4)[2:-1]
    packed = packed[9:] if packed[:1] == b"\x95" else packed  # without its frame
    return (
        b"\x80\x04"
        + b"".join(b"\x8c" + bytes([len(t)]) + t for t in (module.encode(), name.encode()))
        + b"\x93"
        + packed
        + b"R."
    )


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("rollforge.features.dataset", "DatasetH"),
        ("rollforge.features.handler", "DataHandlerLP"),
        ("rollforge.features.handler", "DataHandler"),
        ("rollforge.features.loader", "QlibDataLoader"),
        ("rollforge.features.loader", "StaticDataLoader"),
        ("rollforge.features.alpha", "Alpha158"),
        ("rollforge.models.linear", "LinearModel"),
        ("lightgbm.basic", "Booster"),
        ("pandas", "DataFrame"),
        ("pandas", "Series"),
        ("pandas.core.frame", "DataFrame"),
    ],
)
def test_constructors_are_not_called_with_arguments(module: str, name: str, tmp_path: Path) -> None:
    """A constructor would build what its arguments describe, so a pickle cannot call it."""
    marker = tmp_path / "ran"
    config = {**COMMAND, "kwargs": {"command": f"touch {marker}"}}
    for arguments in ((config, {}), (config,), ({"handler": config},), (str(tmp_path),)):
        with pytest.raises((UntrustedPickle, ArtifactUnreadable)):
            safe_pickle.loads(program(module, name, *arguments))
    assert not marker.exists()


class Evil:
    """An object whose pickle is a call that creates a marker file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        import os

        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", range(6))
def test_a_call_anywhere_inside_is_refused(protocol: int, tmp_path: Path) -> None:
    """Inside containers, states of Rollforge's objects, and cells of frames."""
    model = LinearModel()
    model.coef_ = Evil(tmp_path / "ran")  # type: ignore[assignment]
    frame = pd.DataFrame({"a": pd.Series([Evil(tmp_path / "ran")], dtype=object)})
    for value in ([{"x": (Evil(tmp_path / "ran"),)}], model, frame, {Evil(tmp_path / "ran")}):
        with pytest.raises(UntrustedPickle, match=r"posix\.system"):
            safe_pickle.loads(pickle.dumps(value, protocol))
    assert not (tmp_path / "ran").exists()


def test_classes_cannot_be_changed() -> None:
    """A state of a class, or one that hides a method of an object, is refused."""
    fit = LinearModel.fit
    on_class = b"crollforge.models.linear\nLinearModel\n(N}(S'fit'\nNutb."
    on_object = b"crollforge.models.linear\nLinearModel\n)\x81}(S'fit'\nNub."
    dunder = b"crollforge.models.linear\nLinearModel\n)\x81}(S'__class__'\nNub."
    for data in (on_class, on_object, dunder):
        with pytest.raises((UntrustedPickle, ArtifactUnreadable)):
            safe_pickle.loads(data)
    assert LinearModel.fit is fit


@pytest.mark.parametrize(
    "data",
    [
        program("collections", "deque", range(3_000_000_000)),
        program("builtins", "list", range(3_000_000_000)),
        program("builtins", "set", range(3_000_000_000)),
        program("builtins", "bytearray", 10**12),
        program("builtins", "bytes", 10**12),
        program("numpy", "ndarray", (10,), np.dtype(object), b"\x01" * 80),
        program("numpy", "ndarray", (10**12,)),
        program("numpy._core.multiarray", "_reconstruct", np.ndarray, (10**12,), b"b"),
        program("numpy._core.numeric", "_frombuffer", b"\x01" * 8, np.dtype(object), (1,), "C"),
        program("numpy._core.numeric", "_frombuffer", b"\x01" * 8, np.dtype("f8"), (10**12,), "C"),
        program("datetime", "datetime", b"\xff" * 10),
        program("builtins", "getattr", "".__class__, "format"),
        b"(" * 300_000 + b".",
        b"\x80\x04})" + b"2\x86" * 60 + b"K\x01s.",  # a key of 2**60 values
        b"\x80\x04\x8f(" + b")" + b"2\x86" * 60 + b"\x90.",
        b"\x80\x04()" + b"2\x86" * 60 + b"\x91.",
        b"\x80\x04" + b"cbuiltins\nslice\n(" * 2000 + b"K\x01" + b"tR" * 2000 + b".",
        b"\x80\x04})" + b"\x85" * 500_000 + b"K\x01s.",  # a key so deep that hashing it ends the interpreter
    ],
    ids=range(18),
)  # fmt: skip
def test_bombs_and_crashes_are_one_error(data: bytes) -> None:
    """No memory is allocated for sizes given in a pickle, and bytes are not interpreted as objects."""
    with pytest.raises((UntrustedPickle, ArtifactUnreadable)):
        safe_pickle.loads(data)


# The complete list of names that a pickle may refer to.
NAMES = [
    *((m, n) for m, n in pickled_python.PYTHON),
    *(("numpy", n) for n in ("dtype", "ndarray", "float64", "bool_")),
    *(("numpy._core.multiarray", n) for n in ("_reconstruct", "scalar")),
    ("numpy._core.numeric", "_frombuffer"),
    *(("pandas", n) for n in sorted({*pickled_pandas.PANDAS, *pickled_pandas.INDEXES, *pickled_pandas.BACKED})),
    *(("pandas", n) for n in ("DataFrame", "Series", "NA", *sorted(pickled_pandas.NULLABLE))),
    ("pandas._libs.tslibs.offsets", "Day"),
    ("pandas._libs.tslibs.offsets", "BusinessDay"),
    *(("pyarrow.lib", n) for n in pickled_pandas.ARROW),
    ("lightgbm.basic", "Booster"),
    ("copyreg", "_reconstructor"),
    ("rollforge.models.linear", "LinearModel"),
    ("rollforge.features.dataset", "DatasetH"),
    ("rollforge.features.alpha", "Alpha158"),
    ("rollforge.features.processor", "ZScoreNorm"),
    ("rollforge.task", "Status"),
]


def test_the_list_of_names_is_complete() -> None:
    """The list contains no name that calls, imports, opens or looks up something; an addition changes the counts
    here."""
    assert len(pickled_python.PYTHON) == 32
    assert len(pickled_pandas.PANDAS) == 23
    named = {name for _, name in NAMES}
    assert named.isdisjoint(
        {"eval", "exec", "compile", "open", "__import__", "import_module", "setattr", "type", "vars", "map"}
    )


ARGUMENTS = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-5, 10**13), st.floats(allow_nan=True), st.text(max_size=4), st.binary(max_size=9),
        st.sampled_from(["C", "F", "i4", "O", "M8", "latin1", "system", "os"]),
        st.builds(lambda: COMMAND), st.builds(lambda: np.arange(3)), st.builds(lambda: pd.RangeIndex(3)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.tuples(inner, inner), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(st.sampled_from(NAMES), st.lists(ARGUMENTS, max_size=4), ARGUMENTS, st.sampled_from("R\x81b")),
        max_size=3,
    )
)
def test_no_composition_of_names_runs_anything(steps: list[Any]) -> None:
    """Nested calls, instances and states of all allowed names return a value or raise one of two errors."""
    body, inner = b"", b"N"
    for (module, name), arguments, state, ending in steps:
        packed = _body(tuple(arguments))
        body = b"c" + module.encode() + b"\n" + name.encode() + b"\n"
        # The value so far is passed as an additional argument.
        body += b"(" + inner + b"".join(_body(a) for a in arguments) + b"t" if ending == "R" else packed
        body += b"\x81" if ending == "\x81" else b"R"
        if ending == "b":
            body += _body(state) + b"b"
        inner = body
    with contextlib.suppress(UntrustedPickle, ArtifactUnreadable):
        safe_pickle.loads(inner + b".")


def _body(value: Any) -> bytes:
    """Return the instructions that build a value, without frame and memo."""
    return pickletools.optimize(pickle.dumps(value, 2))[2:-1]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 5))
def test_any_bytes_are_a_value_or_one_error(data: bytes, protocol: int) -> None:
    """For random bytes, and for a valid pickle that is truncated or changed."""
    good = bytearray(pickle.dumps({"a": [1, 2.5, ("x",)], "b": pd.Series([1.0])}, protocol))
    for i, byte in enumerate(data[:8]):
        good[(byte * 7 + i) % len(good)] ^= data[-1 - i % len(data)]
    for candidate in (data, bytes(good), bytes(good[: len(data)])):
        with contextlib.suppress(UntrustedPickle, ArtifactUnreadable):
            safe_pickle.loads(candidate)


# -- more values that are restored -------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize(
    "value",
    [
        pd.Series(pd.Categorical(["a", "b", "a"], ordered=True)),
        pd.Series(pd.date_range("2020-03-28", periods=3, tz="Europe/Berlin")),
        pd.DataFrame({"a": pd.Series([1, None], dtype="Int64"), "b": pd.Series([True, None], dtype="boolean")}),
        pd.DataFrame({"t": ["x", None], "n": [1.5, 2.5], "o": pd.Series([{"a": 1}, [2]], dtype=object)}),
        pd.DataFrame({"d": pd.date_range("2020", periods=2), "e": pd.date_range("2021", periods=2), "f": [1, 2]}),
        pd.Series(pd.period_range("2020-01", periods=2, freq="M")),
        pd.DataFrame(index=pd.RangeIndex(3)),
        pd.DataFrame({"a": [1.0]}, index=pd.DatetimeIndex(["2020-01-01"], freq="D")),
        pd.DataFrame([[1, 2.0, 3]], columns=["a", "a", "b"]),
        pd.Series([1.0], index=pd.IntervalIndex.from_breaks([0, 1])),
        pd.Series([pd.Timedelta("1D"), pd.NaT]),
        pd.DataFrame({"o": pd.Series(["x", "y"], dtype=object)}),
        pd.DataFrame(
            {"half a pair": pd.Series(["x\ud800", "y"], dtype=object)}, index=pd.Index(["\udc80", "b"], dtype=object)
        ),
    ],
    ids=range(13),
)
def test_frames_of_every_kind_are_restored(value: Any, protocol: int) -> None:
    """Categories, time zones, nullable and object columns, several date columns, periods, duplicate names,
    frequencies."""
    back = safe_pickle.loads(pickle.dumps(value, protocol))
    equal = pd.testing.assert_frame_equal if isinstance(value, pd.DataFrame) else pd.testing.assert_series_equal
    equal(back, value)  # type: ignore[operator]
    assert getattr(back.index, "freq", None) == getattr(value.index, "freq", None)


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("sign", ["", "U"])
@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_nullable_integers_of_every_size_are_restored(sign: str, bits: int, protocol: int) -> None:
    """Extreme values, a missing one, and the dtype itself are restored for every size."""
    dtype = f"{sign}Int{bits}"
    limits = np.iinfo(dtype.lower())
    value = pd.Series([limits.min, None, limits.max], dtype=dtype)
    back, kind = safe_pickle.loads(pickle.dumps([value, value.dtype], protocol))
    pd.testing.assert_series_equal(back, value)
    assert (kind, back.dtype) == (value.dtype, value.dtype)


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize(
    "value",
    [
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([1, "a", None], dtype=object),
        np.array(["2020-01-01"], dtype="M8[D]"),
        np.array(["ab", "c"]),
        np.zeros((0, 3), np.int8),
        np.arange(3, dtype=">i4"),
        np.array(True),
    ],
    ids=range(8),
)
def test_arrays_of_every_kind_are_restored(value: Any, protocol: int) -> None:
    """Fields, column-major order, objects, dates, strings, empty arrays, another byte order, no dimension."""
    back = safe_pickle.loads(pickle.dumps(value, protocol))
    np.testing.assert_array_equal(back, value)
    assert (back.dtype, back.shape, back.flags.f_contiguous) == (value.dtype, value.shape, value.flags.f_contiguous)


def test_shared_and_nested_values_stay_shared() -> None:
    """An object that occurs twice is restored as one object, even if it contains itself."""
    model = LinearModel()
    model.coef_ = np.ones(2)
    first, second = safe_pickle.loads(pickle.dumps([model, {"again": model}]))
    assert second["again"] is first
    cycle: list[Any] = []
    cycle.append(cycle)
    back = safe_pickle.loads(pickle.dumps(cycle))
    assert back[0] is back


def test_an_allowed_class_is_restored_by_its_own_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class is allowed by its name or by its package, and otherwise refused."""
    data = pickle.dumps(Fraction(1, 3))
    with pytest.raises(UntrustedPickle, match=r"fractions\.Fraction"):
        safe_pickle.loads(data)
    monkeypatch.setattr(safe_pickle, "_allowed", set())
    monkeypatch.setattr(safe_pickle, "_packages", set())
    safe_pickle.allow("fractions", "Fraction")
    assert safe_pickle.loads(data) == Fraction(1, 3)
    from sklearn.linear_model import Lasso

    other = pickle.dumps(Lasso(alpha=0.5))
    with pytest.raises(UntrustedPickle, match=r"sklearn\.linear_model"):
        safe_pickle.loads(other)
    safe_pickle.allow_package("sklearn")
    assert safe_pickle.loads(other).alpha == 0.5


def test_an_allowed_package_allows_no_other_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package allows its own module and its submodules; not its parent, and not packages whose names begin like its
    own."""
    monkeypatch.setattr(safe_pickle, "_packages", set())
    safe_pickle.allow_package("hypothesis.strategies")
    for module in ("hypothesis.strategies", "hypothesis.strategies._internal.strategies"):
        assert safe_pickle.find_class(module, "SearchStrategy") is st.SearchStrategy
    for module, name in (
        ("hypothesis", "settings"),
        ("hypothesis.errors", "Flaky"),
        ("hypothesis.strategies_of_mine", "SearchStrategy"),
        ("my_package", "Mine"),
    ):
        with pytest.raises(UntrustedPickle, match=re.escape(f"{module}.{name}")):
            safe_pickle.find_class(module, name)


def _filled(kind: str, keys: list[Any]) -> bytes:
    """Return a pickle of a container with some keys, including forms that Python's pickler does not write."""
    parts = [pickle.dumps(key, 2)[2:-1] for key in keys]
    pairs = b"".join(part + b"N" for part in parts)
    return {
        "set": b"\x80\x04\x8f(" + b"".join(parts) + b"\x90.",
        "set in pieces": b"\x80\x04\x8f" + b"".join(b"(" + part + b"\x90" for part in parts) + b".",
        "frozenset": b"\x80\x04(" + b"".join(parts) + b"\x91.",
        "dict": b"\x80\x04}(" + pairs + b"u.",
        "dict at once": b"\x80\x04(" + pairs + b"d.",
        "dict one by one": b"\x80\x04}" + b"".join(part + b"Ns" for part in parts) + b".",
        "set of a list": b"\x80\x04cbuiltins\nset\n(" + b"(" + b"".join(parts) + b"l" + b"tR.",
        "OrderedDict": b"\x80\x04ccollections\nOrderedDict\n((" + b"".join(part + b"N\x86" for part in parts) + b"ltR.",
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["set", "set in pieces", "frozenset", "dict", "dict at once", "dict one by one", "set of a list", "OrderedDict"],
)
def test_keys_with_equal_hashes_are_refused_at_once(kind: str) -> None:
    """Twenty thousand integers with equal hashes would take seconds, and ten times as many minutes."""
    colliding = [i * (2**61 - 1) for i in range(1, 20_000)]
    began = time.process_time()
    with pytest.raises(ArtifactUnreadable, match="have the same hash"):
        safe_pickle.loads(_filled(kind, colliding))
    assert time.process_time() - began < 1
    keys = list(range(2_000))
    assert list(safe_pickle.loads(_filled(kind, keys))) == keys


@pytest.mark.parametrize("package", ["os", "subprocess", "os.path", "builtins", "posix", "__main__", "a-b", "", "os\0"])
def test_a_package_of_python_itself_cannot_be_allowed(package: str) -> None:
    """The classes of Python's own packages can run commands and open files with the arguments in a pickle."""
    with pytest.raises(ConfigError, match="allow_package"):
        safe_pickle.allow_package(package)


def _nested(depth: int) -> bytes:
    """Return a pickle of `depth` nested tuples."""
    return b"\x80\x04)" + b"\x85" * (depth - 1) + b"."


def test_deeply_nested_tuples_are_refused() -> None:
    """One level more than the limit is refused. Long tuples do not count as nested."""
    value, depth = safe_pickle.loads(_nested(500)), 0
    while value:
        (value,), depth = value, depth + 1
    assert depth == 499
    with pytest.raises(ArtifactUnreadable, match="nested more than 500 deep"):
        safe_pickle.loads(_nested(501))
    wide = ((tuple(range(2000)),), (1,))
    assert safe_pickle.loads(pickle.dumps(wide)) == wide


def test_the_size_of_a_tuple_includes_its_tuples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each value counts as often as hashing visits it."""
    monkeypatch.setattr(safe_pickle, "_MAX_TUPLE_LENGTH", 12)
    inner = (1, 2, 3, 4)
    assert safe_pickle.loads(pickle.dumps((inner, inner, 5))) == (inner, inner, 5)  # 3 of its own and 2 x 4
    assert safe_pickle.loads(pickle.dumps((inner, inner, 5, 6))) == (inner, inner, 5, 6)
    with pytest.raises(ArtifactUnreadable, match="more than 12 values"):
        safe_pickle.loads(pickle.dumps((inner, inner, 5, 6, 7)))


@pytest.mark.parametrize(
    "dtype", ["boolean", "Float32", "Float64", *(f"{u}Int{bits}" for u in ("", "U") for bits in (8, 16, 32, 64))]
)
def test_arrays_with_missing_values_are_restored(dtype: str) -> None:
    """Of each type of pandas that has them."""
    value = pd.Series([1, 0, None], dtype=dtype)
    pd.testing.assert_series_equal(safe_pickle.loads(pickle.dumps(value)), value)


@pytest.mark.parametrize(
    ("kind", "base", "state"), [("list", object, None), (LinearModel, dict, None), (LinearModel, object, {})]
)
def test_an_instance_of_a_builtin_type_is_not_made(kind: Any, base: type, state: Any) -> None:
    """The old protocols call the constructor of `base` with `state`, for any class other than object."""
    assert type(safe_pickle.loads(program("copyreg", "_reconstructor", LinearModel, object, None))) is LinearModel
    with pytest.raises(UntrustedPickle, match="an instance of a builtin type"):
        safe_pickle.loads(program("copyreg", "_reconstructor", kind, base, state))


def test_the_module_and_the_name_of_a_global_are_strings() -> None:
    """Each of them must be a string."""
    one, text = b"K\x01", b"\x8c\x08builtins"
    for module, name in ((text, one), (one, text), (one, one)):
        with pytest.raises(UntrustedPickle, match="a name that is not a string"):
            safe_pickle.loads(b"\x80\x04" + module + name + b"\x93.")


def test_a_state_is_a_dict_or_a_pair_of_dicts() -> None:
    """The second dict has the attributes in slots; other states are refused."""
    start = b"\x80\x04crollforge.models.linear\nLinearModel\n)\x81"
    back = safe_pickle.loads(start + _body(({"alpha": 2.0}, {"l1_ratio": 3.0})) + b"b.")
    assert (back.alpha, back.l1_ratio) == (2.0, 3.0)
    assert safe_pickle.loads(start + _body((None, {"alpha": 4.0})) + b"b.").alpha == 4.0
    for state in (({}, {}, {}), ({},), ([], None), "alpha", {1: 2}):
        with pytest.raises(UntrustedPickle, match="of LinearModel"):
            safe_pickle.loads(start + _body(state) + b"b.")


class Failing:
    """An object that cannot be unpickled."""

    def __reduce__(self) -> Any:
        return _fail, ()


def _fail() -> None:
    raise RuntimeError("no good")


def test_an_error_in_trusted_code_is_passed_on() -> None:
    """An error in trusted code does not mean that the file is damaged, unlike an error in a pickle that is read as
    data."""
    with pytest.raises(RuntimeError, match="no good"):
        safe_pickle.loads(pickle.dumps(Failing()), trusted=True)
    with pytest.raises(ArtifactUnreadable, match="is not a readable pickle: EOFError"):
        safe_pickle.loads(b"", trusted=True)
    with pytest.raises(ArtifactUnreadable, match="is not a readable pickle: OverflowError"):
        safe_pickle.loads(program("datetime", "date", 10**30, 1, 1))


class KeywordOnly:
    """A class that is created with a keyword argument and counts the calls of its constructor."""

    calls = 0

    def __new__(cls, *, a: int) -> KeywordOnly:
        made = super().__new__(cls)
        made.a = a  # type: ignore[attr-defined]
        return made

    def __init__(self, **_: Any) -> None:
        type(self).calls += 1

    def __getnewargs_ex__(self) -> Any:
        return (), {"a": self.a}  # type: ignore[attr-defined]


def test_an_allowed_class_is_created_without_its_constructor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own unpickler does the same; keyword arguments must be a dict."""
    monkeypatch.setattr(safe_pickle, "_allowed", set())
    safe_pickle.allow(__name__, "KeywordOnly")
    data = pickle.dumps(KeywordOnly(a=3), 4)
    before = KeywordOnly.calls
    assert safe_pickle.loads(data).a == 3
    assert KeywordOnly.calls == before
    with pytest.raises(UntrustedPickle, match="a call whose keywords are not a dict"):
        safe_pickle.loads(b"\x80\x04crollforge.models.linear\nLinearModel\n)N\x92.")
