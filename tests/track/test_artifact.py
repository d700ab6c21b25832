"""Objects are restored exactly, or an error says why not; loading never executes code that a file refers to."""

from __future__ import annotations

import datetime as dt
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

from rollforge import safe_pickle
from rollforge.errors import ArtifactUnreadable, TrackingUnavailable, UntrustedPickle
from rollforge.track import artifact, frame
from rollforge.track.artifact_files import LocalFiles
from rollforge.track.frame import to_arrow

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary(), st.dates(), st.datetimes(),
    st.timedeltas(), st.sampled_from([pd.Timestamp("2020-01-01"), pd.Timestamp("2020-06-01", tz="UTC")]),
    st.just(pd.Timedelta("3h")),
)  # fmt: skip
KEYS = st.one_of(st.text(), st.integers(), st.sampled_from(["$ref", "$tuple"]))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=3),
    ),
    max_leaves=8,
)

LABELS = st.one_of(
    st.none(), st.text(max_size=4), st.integers(-5, 5), st.tuples(st.text(max_size=2), st.integers(0, 3))
)
COLUMNS = {
    "bool": st.booleans(),
    "int8": st.integers(-128, 127),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "float32": st.floats(width=32),
    "float64": st.floats(),
    "str": st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), max_size=5)),
    "object": st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    "datetime64[s]": st.integers(-(10**9), 10**9),
    "datetime64[ns]": st.one_of(st.just(pd.NaT), st.integers(-(10**18), 10**18)),
    "datetime64[us, Europe/Berlin]": st.integers(0, 10**15),
    "category": st.sampled_from(["a", "b"]),
    "boolean": st.one_of(st.none(), st.booleans()),
    "Float32": st.one_of(st.none(), st.floats(width=32, allow_nan=False)),
    "Int64": st.one_of(st.none(), st.integers(-5, 5)),
}
# Pandas itself changes the type of a level with only NA.
PLAIN = COLUMNS.keys() - {"boolean", "Float32", "Int64"}


def column_of(dtype: str, values: list[Any]) -> Any:
    """Return a column of a dtype."""
    if dtype.startswith("datetime64["):
        unit = dtype[11:].partition("]")[0].partition(",")[0]
        numbers = np.array([np.iinfo(np.int64).min if v is pd.NaT else v for v in values], "int64")
        stamps = pd.Series(numbers.view(f"datetime64[{unit}]"))
        return stamps.dt.tz_localize("UTC").dt.tz_convert("Europe/Berlin") if "," in dtype else stamps
    return pd.Series(values, dtype=dtype)


@st.composite
def tables(draw: st.DrawFn) -> pd.DataFrame | pd.Series:
    """Draw a table of an unusual kind."""
    rows = draw(st.integers(0, 5))

    def column(dtypes: Any = COLUMNS) -> Any:
        dtype = draw(st.sampled_from(sorted(dtypes)))
        return column_of(dtype, draw(st.lists(COLUMNS[dtype], min_size=rows, max_size=rows)))

    width = draw(st.integers(0, 3))
    table = pd.DataFrame({i: column() for i in range(width)}, index=pd.RangeIndex(rows))
    kind = draw(st.sampled_from(["range", "one", "two", "dates"]))
    if kind == "one":
        table.index = pd.Index(column(PLAIN), name=draw(LABELS))
    elif kind == "two":
        names = [draw(LABELS), draw(LABELS)]
        table.index = pd.MultiIndex.from_arrays([column(PLAIN), column(PLAIN)], names=names)
    elif kind == "dates":
        table.index = pd.date_range(
            "2020-01-01", periods=rows, freq=draw(st.sampled_from(["D", "B", "h"])), name="datetime"
        )
    header = draw(st.sampled_from(["range", "text", "mixed", "levels", "numbers"]))
    if header == "text":
        table.columns = pd.Index(
            draw(st.lists(st.text(max_size=3), min_size=width, max_size=width)), dtype="str", name="c"
        )
    elif header == "mixed":
        table.columns = pd.Index(
            draw(st.lists(LABELS, min_size=width, max_size=width)), dtype=object, tupleize_cols=False
        )
    elif header == "levels" and width:
        table.columns = pd.MultiIndex.from_arrays([["f"] * width, range(width)], names=["kind", draw(LABELS)])
    elif header == "numbers":
        table.columns = pd.Index(np.arange(width, dtype="float64"))
    if width and draw(st.booleans()):
        series = table.iloc[:, 0]
        series.name = draw(LABELS)
        return series
    return table


def assert_same(found: Any, given_: Any) -> None:
    """Check that two tables are equal, including dtypes, names, frequency and time zone."""
    assert type(found) is type(given_)
    if isinstance(given_.index, pd.MultiIndex):
        # Unused labels are not stored, but pandas compares levels.
        given_ = given_.set_axis(given_.index.remove_unused_levels(), axis=0)
    if isinstance(given_, pd.DataFrame):
        pd.testing.assert_frame_equal(found, given_, check_exact=True)
    else:
        pd.testing.assert_series_equal(found, given_, check_exact=True)
    assert found.attrs == given_.attrs


@given(tables())
@settings(max_examples=300, deadline=None)
def test_any_table_is_restored_exactly(
    tmp_path_factory: pytest.TempPathFactory, table: pd.DataFrame | pd.Series
) -> None:
    """Index, names, dtypes and multi-level columns are kept, in Parquet or, if Parquet cannot hold the table, in a
    pickle."""
    files = LocalFiles(tmp_path_factory.mktemp("t"))
    artifact.save(files, "x.pkl", table)
    found = artifact.find(files, "x.pkl")
    assert found is not None
    try:
        assert_same(artifact.load_file(found), table)
    except artifact.ArtifactRefused:  # other tables are pickled, and time zones and frequencies need trust
        assert found.suffix == ".pkl"
        assert_same(artifact.load_file(found, trusted=True), table)


def test_usual_tables_are_stored_as_parquet(tmp_path: Path) -> None:
    """Predictions, labels and reports can be read with ``pandas.read_parquet``."""
    index = pd.MultiIndex.from_product(
        [pd.date_range("2020-01-01", periods=3), ["B", "A"]], names=["datetime", "instrument"]
    )
    prediction = pd.DataFrame({"score": np.arange(6, dtype="float32")}, index=index)
    prediction.attrs = {"segment": "test"}
    features = pd.concat({"feature": prediction, "label": prediction}, axis=1)
    report = pd.DataFrame({"return": [0.1, np.nan]}, index=pd.date_range("2020-01-01", periods=2, name="datetime"))
    for value in (prediction, prediction["score"], features, report, prediction.unstack(), pd.DataFrame()):
        table = frame.to_arrow(value)
        assert table is not None
        frame.write_table(table, tmp_path / "x.parquet")
        assert_same(frame.read_table(tmp_path / "x.parquet"), value)
    frame.write_table(frame.to_arrow(prediction), tmp_path / "x.parquet")
    plain = pd.read_parquet(tmp_path / "x.parquet")
    assert plain.equals(prediction)
    back: Any = frame.read_table(tmp_path / "x.parquet")
    back.iloc[0, 0] = 7.0  # it is not a read-only view of the file
    report.to_parquet(tmp_path / "pandas.parquet")
    pd.testing.assert_frame_equal(frame.read_table(tmp_path / "pandas.parquet"), report, check_freq=False)


@given(VALUES)
@settings(max_examples=200, deadline=None)
def test_any_plain_value_is_restored_exactly(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    """Types and the order of keys are kept, in JSON or in a pickle."""
    files = LocalFiles(tmp_path_factory.mktemp("t"))
    artifact.save(files, "x", value)
    found = artifact.find(files, "x")
    assert found is not None
    back = artifact.load_file(found)
    assert back == value
    assert repr(back) == repr(value)


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6).reshape(2, 3),
        np.array(5.0),
        np.array(["2020-01-01", "NaT"], "datetime64[D]"),
        np.zeros((0, 3), "float32"),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.array([{"a": 1}, None], dtype=object),
    ],
)
def test_arrays_are_restored_exactly(value: Any, tmp_path: Path) -> None:
    """Dtype and shape are kept; an array of objects is pickled."""
    files = LocalFiles(tmp_path)
    artifact.save(files, "x", value)
    back = artifact.load_file(artifact.find(files, "x"))  # type: ignore[arg-type]
    assert back.dtype == value.dtype
    assert back.shape == value.shape
    assert np.array_equal(back, value, equal_nan=value.dtype.kind in "fM")


class Lines:
    """A model with its own text format."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def save_to(self, folder: Path) -> None:
        (folder / "sub").mkdir()
        (folder / "sub" / "model.txt").write_text("\n".join(self.lines))

    @classmethod
    def load_from(cls, folder: Path) -> Lines:
        return cls((folder / "sub" / "model.txt").read_text().split("\n"))


def test_an_object_is_stored_in_its_own_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An allowed class is loaded; another is refused before any of its code runs, unless ``trusted=True``."""
    monkeypatch.setitem(sys.modules, Lines.__module__, sys.modules[__name__])
    files = LocalFiles(tmp_path)
    artifact.save(files, "model.pkl", Lines(["a", "b"]))
    found = artifact.find(files, "model.pkl")
    assert found is not None
    with zipfile.ZipFile(found) as archive:
        assert "data/sub/model.txt" in archive.namelist()
    with pytest.raises(artifact.ArtifactRefused, match="Lines"):
        artifact.load_file(found)
    assert artifact.load_file(found, trusted=True).lines == ["a", "b"]
    monkeypatch.setattr(safe_pickle, "_allowed", {(Lines.__module__, "Lines")})
    assert artifact.load_file(found).lines == ["a", "b"]


@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("builtins", "object"), ("rollforge.task", "TaskRecord"), ("a\nb", "c"), (1, 2)],
)
def test_an_archive_with_another_class_is_refused(module: Any, name: Any, tmp_path: Path) -> None:
    """An archive may only contain a class with `load_from` that is on the allow-list of pickles."""
    file = tmp_path / "x.saved.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("rollforge.json", json.dumps({"module": module, "class": name}))
        archive.writestr("data/../../escaped", "x")
    with pytest.raises(ArtifactUnreadable):
        artifact.load_file(file)
    assert not (tmp_path.parent / "escaped").exists()
    assert not (tmp_path / "escaped").exists()


def test_loading_plain_data_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference in a JSON file to a module that is not imported yet is refused, since importing would run it."""
    (tmp_path / "hostile_module.py").write_text(f"open({str(tmp_path / 'it ran')!r}, 'w').close()\nclass X: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "x.plain.json"
    for text in ('{"a":[{"$ref":"hostile_module:X"}]}', '{"$tuple":[{"$map":[["k",{"$ref":"hostile_module:X"}]]}]}'):
        file.write_text(text)
        with pytest.raises(artifact.ArtifactRefused, match="hostile_module"):
            artifact.load_file(file)
        with pytest.raises(UntrustedPickle):
            artifact.load_file(file)
    assert not (tmp_path / "it ran").exists()
    artifact.load_file(file, trusted=True)
    assert (tmp_path / "it ran").exists()
    file.write_text('{"$ref":"rollforge.task:Nothing"}')
    with pytest.raises(ArtifactUnreadable, match="does not exist"):
        artifact.load_file(file)


@pytest.mark.parametrize(
    "value", [pd.DataFrame({"a": np.arange(1000.0)}), {"a": "x" * 500}, np.arange(500), {1, 2, "x" * 300}]
)
@pytest.mark.parametrize("part", [0, 0.3, 0.9])
def test_a_truncated_file_is_reported(value: Any, part: float, tmp_path: Path) -> None:
    """Every kind of file raises ArtifactUnreadable with the path, and no other error."""
    files = LocalFiles(tmp_path)
    artifact.save(files, "x", value)
    found = artifact.find(files, "x")
    assert found is not None
    data = found.read_bytes()
    found.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ArtifactUnreadable, match=str(tmp_path)):
        artifact.load_file(found)


def test_a_failed_write_keeps_the_old_artifact(tmp_path: Path) -> None:
    """The old artifact is kept, and no temporary file is left."""
    files = LocalFiles(tmp_path / "a")
    artifact.save(files, "x", [1])

    def write() -> None:
        with files.draft("x.plain.json") as draft:
            draft.write_text("[2")
            raise OSError(28, "No space left on device")

    with pytest.raises(TrackingUnavailable, match="No space left"):
        write()
    assert artifact.load_file(tmp_path / "a" / "x.plain.json") == [1]
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["x.plain.json"]


@pytest.mark.slow
def test_a_process_killed_while_saving_leaves_no_partial_artifact(tmp_path: Path) -> None:
    """After ``kill -9`` at any time, the artifact is completely the old one or the new one."""
    code = """
import sys
import numpy as np
from pathlib import Path
from rollforge.track import artifact, frame as frame_module
from rollforge.track.artifact_files import LocalFiles
files = LocalFiles(Path(sys.argv[1]))
value = np.zeros(2_000_000)
artifact.save(files, "x", value)
print("ready", flush=True)
while True:
    value = value + 1
    artifact.save(files, "x", value)
"""
    for i in range(6):
        child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(0.03 + 0.017 * i)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        found = artifact.load_file(tmp_path / "x.array.npy")
        assert found.shape == (2_000_000,)
        assert (found == found[0]).all()
    assert artifact.names(LocalFiles(tmp_path)) == ["x"]


def test_files_are_readable_by_others(tmp_path: Path) -> None:
    """An artifact has the default permissions of the process, not those of a temporary file."""
    before = os.umask(0o022)
    try:
        artifact.save(LocalFiles(tmp_path), "x", [1])
    finally:
        os.umask(before)
    assert (tmp_path / "x.plain.json").stat().st_mode & 0o777 == 0o644


def test_a_subclass_is_not_restored_as_its_base_class(tmp_path: Path) -> None:
    """A subclass such as an ordered dict is restored exactly or refused, but never restored as another type."""
    from collections import OrderedDict

    files = LocalFiles(tmp_path)
    value = {"a": OrderedDict(b=1), "c": np.float64(2.0), "d": dt.time(3)}
    artifact.save(files, "x", value)
    back = artifact.load_file(artifact.find(files, "x"))  # type: ignore[arg-type]
    assert [type(v) for v in back.values()] == [OrderedDict, np.float64, dt.time]
    assert pickle.loads(pickle.dumps(back)) == value


@pytest.mark.parametrize("dtype", ["S999999999", "<U999999999", "V1000000000"])
@pytest.mark.parametrize("place", ["labels", "column"])
def test_the_metadata_of_a_table_cannot_request_huge_values(place: str, dtype: str, tmp_path: Path) -> None:
    """A dtype of a gigabyte per value is refused before memory is allocated."""
    import pyarrow.parquet as pq

    table = to_arrow(pd.DataFrame({"a": [1.0]}))
    assert table is not None
    about = json.loads(table.schema.metadata[b"rollforge"])
    (about["columns"] if place == "labels" else about)["dtypes"] = [dtype]
    file = tmp_path / "a.frame.parquet"
    pq.write_table(table.replace_schema_metadata({b"rollforge": json.dumps(about)}), file)
    with pytest.raises(ArtifactUnreadable, match=r"not the type of a column|not understood"):
        artifact.load_file(file)


def test_loading_a_hostile_table_runs_nothing(tmp_path: Path) -> None:
    """A reference to a module anywhere in a Parquet file's metadata is refused."""
    import pyarrow.parquet as pq

    marker = tmp_path / "ran"
    (tmp_path / "evilmod.py").write_text(f"open({str(marker)!r}, 'w').close()\nX = 1\n", encoding="utf-8")
    reference = {"$ref": "evilmod:X"}
    frame = pd.DataFrame({"a": [1.0]}, index=pd.Index([1], name="i"))
    for place in ("attrs", "columns", "index"):
        table = to_arrow(frame)
        assert table is not None
        about = json.loads(table.schema.metadata[b"rollforge"])
        if place == "attrs":
            about["attrs"] = {"a": reference}
        else:
            about[place]["names"] = [reference]
        file = tmp_path / f"{place}.frame.parquet"
        pq.write_table(table.replace_schema_metadata({b"rollforge": json.dumps(about)}), file)
        code = (
            f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
            "from pathlib import Path\nfrom rollforge.errors import ArtifactUnreadable\nfrom rollforge.track import artifact\n"
            f"try:\n    artifact.load_file(Path({str(file)!r}))\nexcept ArtifactUnreadable as exc:\n    print(exc)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        assert "evilmod" in done.stdout
    assert not marker.exists()


def test_a_reference_to_a_library_function_is_refused(tmp_path: Path) -> None:
    """A reference to ``os:system`` is refused although the module is imported; one to a builtin type is accepted."""
    for name, refused in (("os:system", True), ("subprocess:run", True), ("builtins:dict", False)):
        file = tmp_path / "x.plain.json"
        file.write_text(json.dumps({"class": {"$ref": name}}), encoding="utf-8")
        if refused:
            with pytest.raises(artifact.ArtifactRefused):
                artifact.load_file(file)
        else:
            assert artifact.load_file(file) == {"class": dict}


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<U0', 'fortran_order': False, 'shape': (68719476736,), }",
        "{'descr': '|V0', 'fortran_order': False, 'shape': (68719476736,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (0, 140737488355328), }",
    ],
)
def test_an_array_without_bytes_has_no_values(tmp_path: Path, header: str) -> None:
    """Values of no size and axes of an empty array are not more than the file could contain."""
    text = header.ljust(117) + "\n"
    data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
    (tmp_path / "x.array.npy").write_bytes(data)
    with pytest.raises(ArtifactUnreadable, match="truncated"):
        artifact.load_file(tmp_path / "x.array.npy")


def test_an_array_of_invalid_text_is_refused(tmp_path: Path) -> None:
    """numpy reads it, and fails when the text is used."""
    np.save(tmp_path / "x.array.npy", np.array(["b", "a"]))
    valid = (tmp_path / "x.array.npy").read_bytes()
    (tmp_path / "x.array.npy").write_bytes(valid[:-4] + b"a\0\0\xff")
    with pytest.raises(ArtifactUnreadable, match=r"x.array.npy is damaged: it contains invalid text"):
        artifact.load_file(tmp_path / "x.array.npy")


def test_a_table_without_columns_has_a_limited_number_of_rows(tmp_path: Path) -> None:
    """Only the metadata says how many."""
    frame.write_table(frame.to_arrow(pd.DataFrame(index=range(10**15))), tmp_path / "x.frame.parquet")
    with pytest.raises(ArtifactUnreadable, match="rows"):
        artifact.load_file(tmp_path / "x.frame.parquet")
    frame.write_table(frame.to_arrow(pd.DataFrame(index=range(1000))), tmp_path / "x.frame.parquet")
    assert artifact.load_file(tmp_path / "x.frame.parquet").shape == (1000, 0)
