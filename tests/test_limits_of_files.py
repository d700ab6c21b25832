"""Files, tasks and values that would exhaust memory or time are refused before they do."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rollforge import safe_pickle
from rollforge.build import build, fill_placeholder, resolve_references
from rollforge.errors import (
    ArtifactUnreadable,
    ConfigError,
    DataError,
    ExpressionError,
    RollforgeError,
    SegmentError,
    TaskNotSerializable,
    TrackingError,
)
from rollforge.features.loader import StaticDataLoader
from rollforge.generate.base import task_generator
from rollforge.generate.grid import GridGen
from rollforge.generate.horizon import MultiHorizonGenBase
from rollforge.generate.rolling import RollingGen
from rollforge.limits import LIMITS, TooLarge, check_parquet, count_values, open_unpacked, read_bytes
from rollforge.market.importer import import_table
from rollforge.market.provider import open_provider
from rollforge.record.file_orders import FileOrderStrategy
from rollforge.run.messages import failure
from rollforge.store.codec import encode_result
from rollforge.store.memory import MemoryStore
from rollforge.task import digest, encode
from rollforge.track.artifact import load_file
from rollforge.track.base import get_experiment, open_tracker


@contextmanager
def soon(seconds: float = 5.0) -> Iterator[None]:
    """Fail if the block takes more CPU time; on an idle machine it takes at most one second."""
    start = time.process_time()
    yield
    assert time.process_time() - start < seconds


def doubled(levels: int, seed: Any = 0) -> Any:
    """Return nested lists in which a few objects stand for 2 to the power of `levels` values."""
    value = [seed]
    for _ in range(levels):
        value = [value, value]
    return value


# -- tasks -------------------------------------------------------------------------------------------------------------

TEMPLATE = {
    "model": {"class": "M", "kwargs": {}},
    "dataset": {"kwargs": {"segments": {"train": ("1900-01-01", "1905-12-29"), "test": ("1906-01-01", "2250-12-31")}}},
}


class Horizons(MultiHorizonGenBase):
    """A generator of horizons that does not change the task."""

    def set_horizon(self, task: dict[str, Any], hr: int) -> None:
        """Leave the label alone."""


def test_a_grid_is_counted_before_it_is_generated() -> None:
    grid = GridGen({f"model.kwargs.x{i}": list(range(10)) for i in range(8)})
    assert grid.count(TEMPLATE) == 10**8
    with (
        soon(),
        pytest.raises(TooLarge, match="values: its combinations are 100,000,000 tasks; the limit is 250,000 tasks"),
    ):
        grid.generate(TEMPLATE)
    with soon(), pytest.raises(TooLarge, match="GridGen makes 100,000,000 tasks"):
        task_generator(TEMPLATE, grid)
    small = GridGen({"model.kwargs.x": [1, 2, 3], "model.kwargs.y": {"a": 1, "b": 2}})
    assert small.count(TEMPLATE) == len(small.generate(TEMPLATE)) == 6


def test_tasks_of_several_generators_are_counted_before_they_are_generated() -> None:
    days = pd.bdate_range("1900-01-01", "2250-12-31")
    rolling = RollingGen(step=1, calendar=days)
    assert rolling.count(TEMPLATE) == len(pd.bdate_range("1906-01-01", "2250-12-31"))
    grid = GridGen({"model.kwargs.x": list(range(100))})
    with (
        soon(),
        pytest.raises(
            TooLarge, match=r"3 templates x 100 by GridGen x 90,\d{3} by RollingGen make 27,\d{3},\d{3} tasks"
        ),
    ):
        task_generator([TEMPLATE] * 3, [grid, rolling])
    with soon(), pytest.raises(TooLarge, match="10,000 by Horizons"):
        task_generator(TEMPLATE, [Horizons(range(10_000), calendar=days), grid])


@pytest.mark.parametrize("step", [1, 3, 7, 400])
def test_the_counted_windows_are_those_generated(step: int) -> None:
    days = pd.bdate_range("2020-01-01", periods=60)
    for end in ("2020-02-05", "2020-02-08", "2020-03-20", "2030-01-01", None):
        task = {"dataset": {"kwargs": {"segments": {"train": (days[0], days[9]), "test": (days[10], end)}}}}
        rolling = RollingGen(step=step, calendar=days)
        assert rolling.count(task) == len(rolling.generate(task))


def test_too_many_windows_are_refused_with_their_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROLLFORGE_LIMIT_TASKS", "10")
    days = pd.bdate_range("2020-01-01", periods=60)
    task = {"dataset": {"kwargs": {"segments": {"train": (days[0], days[9]), "test": (days[10], days[40])}}}}
    with pytest.raises(TooLarge, match=r"step: test windows of 2 days are 16 tasks"):
        RollingGen(step=2, calendar=days).generate(task)
    assert len(RollingGen(step=4, calendar=days).generate(task)) == 8


# -- definitions and results -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "x" * 50_000_000,
        list(range(5_000_000)),
        doubled(40),
        {"a": doubled(40, {})},
        b"x" * 50_000_000,
    ],
    ids=["text", "list", "doubled", "doubled dicts", "bytes"],
)
def test_a_huge_definition_is_refused_before_anything_is_stored(value: Any) -> None:
    store = MemoryStore()
    with soon(), pytest.raises(TaskNotSerializable, match=r"larger than 4 MiB.*ROLLFORGE_LIMIT_TASK_SIZE"):
        store.create("p", [{"x": 1}, {"x": value}])
    assert store.pools() == []


def test_an_integer_too_long_for_json_is_refused() -> None:
    with soon(), pytest.raises(TaskNotSerializable, match="x is an integer of 33220 bits, which is too long"):
        digest({"x": 10**10_000})
    assert digest({"x": -(10**3_000)})


def test_a_definition_of_three_megabytes_is_accepted() -> None:
    assert digest({"x": "y" * 3_000_000})


def test_a_definition_that_contains_itself_is_refused_at_once() -> None:
    value: list[Any] = []
    value += [value, value]
    with soon(), pytest.raises(TaskNotSerializable, match="contains itself"):
        digest({"x": value})


def test_a_result_of_a_gigabyte_is_refused() -> None:
    with soon(), pytest.raises(TaskNotSerializable, match="should be saved in a recorder"):
        encode_result(doubled(40))
    with soon(20), pytest.raises(TaskNotSerializable, match="should be saved in a recorder"):
        encode_result(np.zeros(2**26))
    assert encode_result([1.0] * 1000).plain == encode([1.0] * 1000)


def test_an_exception_with_a_huge_message_is_kept_shortened() -> None:
    kept = failure(ValueError("begin" + "x" * 10**7 + "the end"))
    assert len(kept.error) < 70_000
    assert "begin" in kept.error
    assert kept.error.rstrip().endswith("the end")


# -- references --------------------------------------------------------------------------------------------------------


def test_references_that_expand_exponentially_are_refused() -> None:
    task = {"a0": [1] * 9} | {f"a{i}": [f"<x.a{i - 1}>"] * 9 for i in range(1, 12)}
    with soon(), pytest.raises(TooLarge, match="with its references resolved, the task is larger than 300,000 values"):
        resolve_references({"x": task})
    wide = {"big": {"a": list(range(100_000))}, "uses": ["<big.a>"] * 100_000}
    for fill in (resolve_references, lambda t: fill_placeholder(t, {})):
        with soon(), pytest.raises(TooLarge, match="with its references"):
            fill(wide)


def test_a_very_long_chain_of_references_is_refused() -> None:
    with soon(), pytest.raises(ConfigError, match="too deeply"):
        resolve_references({"x": {"a0": 1} | {f"a{i}": f"<x.a{i - 1}>" for i in range(1, 10_000)}, "y": "<x.a9999>"})


def test_values_are_counted_as_often_as_they_are_used() -> None:
    assert count_values({"a": [1, 2], "b": {}}, 100) == 5  # the mapping, a list of two, an empty mapping
    shared = [1, 2]
    assert count_values([shared, shared], 100) == 7
    with soon():
        assert count_values(doubled(60), 1000) > 1000


# -- expressions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "(" * 1_000_000 + "$close" + ")" * 1_000_000,
        "$close" + "+$close" * 1_000_000,
        "(" * 9_000 + "$close" + ")" * 9_000,
        "-" * 15_000 + "$close",
    ],
)
def test_a_huge_expression_is_refused_with_a_short_message(text: str) -> None:
    from rollforge.expressions.expression import parse

    with soon(), pytest.raises(ExpressionError) as caught:
        parse(text)
    assert len(str(caught.value)) < 1000


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pipe(tmp_path: Path) -> Callable[[str], Path]:
    """A function that creates a named pipe, which cannot be read to an end."""

    def make(name: str) -> Path:
        os.mkfifo(tmp_path / name)
        return tmp_path / name

    return make


def test_every_reader_refuses_a_named_pipe(pipe: Callable[[str], Path], tmp_path: Path) -> None:
    readers: dict[str, Callable[[Path], Any]] = {
        "a.csv": lambda p: StaticDataLoader(config=str(p)).load(),
        "b.parquet": lambda p: StaticDataLoader(config=str(p)).load(),
        "c.pkl": lambda p: StaticDataLoader(config=str(p)).load(),
        "d.pkl": safe_pickle.load,
        "e.pkl": lambda p: build(f"file://{p}"),
        "f.csv": FileOrderStrategy,
        "g.csv": lambda p: import_table(p, tmp_path / "new"),
        "h.json": load_file,
        "i.npy": load_file,
        "j.parquet": load_file,
        "k.csv.gz": lambda p: import_table(p, tmp_path / "new"),
    }
    for name, read in readers.items():
        path = pipe(name)
        with soon(), pytest.raises(RollforgeError, match=r"named pipe|[Nn]o (table|file)|does not exist"):
            read(path)


def test_named_pipes_and_devices_in_a_data_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    table = pd.DataFrame({"date": pd.bdate_range("2020-01-01", periods=5), "code": "A", "close": 1.0, "open": 1.0})
    import_table(table, folder)
    (folder / "instruments" / "pipe.txt").unlink(missing_ok=True)
    os.mkfifo(folder / "instruments" / "pipe.txt")
    (folder / "features" / "a" / "close.day.bin").unlink()
    os.mkfifo(folder / "features" / "a" / "close.day.bin")
    (folder / "features" / "a" / "open.day.bin").unlink()
    (folder / "features" / "a" / "open.day.bin").symlink_to("/dev/zero")
    provider = open_provider(folder)
    with soon(), pytest.raises(DataError, match=r"named pipe|no universe|universe"):
        provider.instruments("pipe")
    for field in ("close", "open"):
        with soon(), pytest.raises(DataError, match=r"not a regular file|empty"):
            provider.read(field, ["A"], 0, 5)
    with soon(), pytest.raises(DataError, match="named pipe"):
        provider.fingerprint()


def test_a_calendar_with_too_many_lines_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    import_table(pd.DataFrame({"date": pd.bdate_range("2020-01-01", periods=5), "code": "A", "close": 1.0}), folder)
    (folder / "calendars" / "day.txt").write_text("2020-01-01\n" * 3_000_000)
    with soon(), pytest.raises(DataError, match=r"3,000,000 lines; the limit is 250,000 lines"):
        open_provider(folder).calendar()
    (folder / "calendars" / "day.txt").write_bytes(b"2020-01-01\n" * 7_000_000)
    with soon(), pytest.raises(DataError, match=r"the limit is 64 MiB"):
        open_provider(folder).calendar()


def test_a_file_that_would_block_is_read_as_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some files in /proc appear as regular files and block when read; reading them returns without waiting."""
    os.mkfifo(tmp_path / "waits")
    monkeypatch.setattr("rollforge.limits._KINDS", {})
    monkeypatch.setattr("rollforge.limits.stat.S_IFMT", lambda mode: stat.S_IFREG)
    writer = os.open(tmp_path / "waits", os.O_RDWR)
    try:
        assert read_bytes(tmp_path / "waits", LIMITS["text_file_size"]) == b""
    finally:
        os.close(writer)


def test_reading_stops_at_the_limit_if_the_file_size_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROLLFORGE_LIMIT_TEXT_FILE_SIZE", "100")
    with pytest.raises(TooLarge, match="contains 101 bytes; the limit is 100 bytes"):
        read_bytes("/proc/self/maps", LIMITS["text_file_size"])  # its stated size is 0


COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


def compressed_lines(kind: str, path: Path, size: int) -> Path:
    """Write a compressed file of repeated lines, of about `size` bytes uncompressed."""
    block = b"0,0,0,0,0,0,0,0,0,0,0,0,0,0,0\n" * 2**13
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.csv", "w") as out:
            for _ in range(size // len(block)):
                out.write(block)
        return path
    header = b"datetime,instrument,amount,direction,e,f,g,h,i,j,k,l,m,n,o\n"
    path.write_bytes(COMPRESS[kind](header) + COMPRESS[kind](block) * (size // len(block)))  # concatenated streams
    return path


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zip"])
def test_a_decompression_bomb_is_refused(kind: str, tmp_path: Path) -> None:
    path = compressed_lines(kind, tmp_path / f"orders.csv.{kind}", 100 * 2**20)
    assert path.stat().st_size < 2**20
    with soon(), pytest.raises(DataError, match=r"unpacks to .* or more; the limit is 100 times"):
        FileOrderStrategy(path)
    if kind == "gz":
        with soon(), pytest.raises(DataError, match="unpacks to"):
            import_table(path, tmp_path / "new")
        assert not (tmp_path / "new").exists()


def test_a_highly_compressed_file_is_read(tmp_path: Path) -> None:
    for kind in ("gz", "bz2", "xz", "zip"):
        path = compressed_lines(kind, tmp_path / f"x.csv.{kind}", 2**20)
        with open_unpacked(path) as stream:
            assert len(stream.read()) >= 900_000


def test_an_archive_with_too_many_or_large_files_or_bad_names_is_refused(tmp_path: Path) -> None:
    def archive(**files: bytes) -> Path:
        path = tmp_path / f"m{len(list(tmp_path.iterdir()))}.saved.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
            made.writestr("rollforge.json", '{"module": "rollforge.models.linear", "class": "LinearModel"}')
            for name, data in files.items():
                made.writestr(name, data)
        return path

    many = archive(**{f"data/{i}": b"" for i in range(10_001)})
    out = archive(**{"data/../../x": b"1"})
    huge = archive(**{"data/x": bytes(200 * 2**20)})
    from rollforge.track.artifact import _SAVED

    for path, message in [(many, "10,002 files"), (out, "outside the archive"), (huge, "unpacks to")]:
        named = path.with_name(f"{path.stem}{_SAVED}")
        path.rename(named)
        with soon(), pytest.raises(ArtifactUnreadable, match=message):
            load_file(named)


def test_a_csv_file_with_too_many_columns_or_a_huge_line_is_refused(tmp_path: Path) -> None:
    wide = tmp_path / "wide.csv"
    wide.write_text(
        "date,code," + ",".join(f"c{i}" for i in range(20_000)) + "\n" + "2020-01-01,A" + ",1" * 20_000 + "\n"
    )
    with soon(), pytest.raises(DataError, match=r"has 20,002 columns; the limit is 5,000 columns"):
        import_table(wide, tmp_path / "new")
    line = tmp_path / "line.csv"
    line.write_text("x" * 30_000_000)
    with soon(), pytest.raises(DataError, match="first line is longer"):
        import_table(line, tmp_path / "new")


def test_a_parquet_file_is_refused_by_its_size_in_memory(tmp_path: Path) -> None:
    """A billion equal rows, or one long string for all rows, take a few kilobytes in the file."""
    part = pa.table({"x": pa.array(np.zeros(25_000_000, np.int8))})
    rows = tmp_path / "rows.parquet"
    with pq.ParquetWriter(rows, part.schema) as writer:
        for _ in range(12):
            writer.write_table(part, row_group_size=25_000_000)
    assert rows.stat().st_size < 2**20
    texts = tmp_path / "texts.parquet"
    codes = pa.DictionaryArray.from_arrays(pa.array(np.zeros(100_000, np.int32)), pa.array(["x" * 1_000_000]))
    pq.write_table(pa.table({"code": codes.cast(pa.dictionary(pa.int32(), pa.string()))}), texts, store_schema=False)
    wide = tmp_path / "wide.parquet"
    pq.write_table(pa.table({f"c{i}": [1.0] for i in range(6_000)}), wide)
    for path, message in [(rows, "300,000,000 rows"), (texts, "takes 9"), (wide, "6,000 columns")]:
        for read in (
            lambda p: check_parquet(p, error=DataError),
            lambda p: import_table(p, tmp_path / "new"),
            lambda p: StaticDataLoader(config=str(p)).load(),
            load_file,
        ):
            with soon(), pytest.raises(RollforgeError, match=message):
                read(path)


def test_an_array_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": (10**13,)})
    path.write_bytes(stream.getvalue() + b"\0" * 800)
    with soon(), pytest.raises(ArtifactUnreadable, match="truncated"):
        load_file(path)
    for value in (np.zeros((3, 2)), np.array(1.5), np.zeros((0, 4), "<f4"), np.asfortranarray(np.ones((2, 3)))):
        np.save(path, value)
        assert (load_file(path) == value).all()


def test_invalid_segments_are_still_reported_by_the_generator() -> None:
    with pytest.raises(SegmentError):
        task_generator(
            {"dataset": {"kwargs": {"segments": {"train": ("x", "y")}}}},
            RollingGen(calendar=pd.bdate_range("2020", periods=9)),
        )


def test_parameters_and_tags_of_a_run_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number and size of parameters and tags are limited; a call that exceeds a limit stores nothing."""
    run = get_experiment(open_tracker(f"folder:{tmp_path}/runs"), experiment_name="e").create_recorder()
    monkeypatch.setenv("ROLLFORGE_LIMIT_RUN_VALUES", "100")
    monkeypatch.setenv("ROLLFORGE_LIMIT_RUN_VALUE_SIZE", "1K")
    for store in (run.set_tags, run.log_params):
        with pytest.raises(TrackingError, match=r"101 values; the limit is 100 values.*ROLLFORGE_LIMIT_RUN_VALUES"):
            store(**{f"a{i}": 1 for i in range(101)})
        with pytest.raises(TrackingError, match=r"'big' holds 1,025 bytes; .*ROLLFORGE_LIMIT_RUN_VALUE_SIZE"):
            store(small=1, big="x" * 1025)
        store(**{f"b{i}": "x" * 1024 for i in range(100)})
    run.end_run()
    assert len(run.list_params()) == 100
    assert not {"a0", "small", "big"} & {*run.list_params(), *run.list_tags()}
