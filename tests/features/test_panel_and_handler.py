"""Handlers and the panel cache: computed once, shared without copies, and bit for bit equal to uncached data."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import pickle
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.errors import ConfigError, DataError, SegmentError
from rollforge.features import panel_cache
from rollforge.features.alpha import Alpha158
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.features.loader import QlibDataLoader
from rollforge.features.panel import META, Panel, write_meta
from rollforge.features.panel_cache import PanelCache, clear_panels, list_panels
from rollforge.features.processor import Processor, ZScoreNorm
from rollforge.features.row_file import RowFile
from rollforge.market.folder_change import place_lock
from rollforge.market.provider import open_provider
from rollforge.session import Session, using

FIELDS = {
    "feature": (["$close/Ref($close, 1) - 1", "Mean($close, 5)/$close"], ["RET", "MA5"]),
    "label": (["Ref($close, -2)/Ref($close, -1) - 1"], ["LABEL0"]),
}


@pytest.fixture
def session(small_market: Path, tmp_path: Path) -> Iterator[Session]:
    """Return a session with its own cache."""
    opened = Session(provider_uri=str(small_market), cache=str(tmp_path / "cache"), threads=1)
    with using(opened):
        yield opened


def handler(**kwargs: Any) -> DataHandlerLP:
    chosen = {"instruments": "all", "start_time": "2022-01-03", "end_time": "2023-12-29", **kwargs}
    return DataHandlerLP(data_loader=QlibDataLoader(FIELDS), **chosen)


LEARN = [{"class": "DropnaLabel"}, {"class": "CSZScoreNorm", "kwargs": {"fields_group": "label"}}]


def test_a_panel_is_built_once_for_all_rolls(session: Session) -> None:
    """Handlers that differ in their end share a panel; another start or other columns give another one."""
    for end in ("2023-03-31", "2023-06-30", "2023-12-29"):
        handler(end_time=end, learn_processors=LEARN).setup_data()
    assert len(list_panels(session.cache)) == 2  # raw, and after the learn processors
    handler(start_time="2022-06-01").setup_data()
    assert len(list_panels(session.cache)) == 3
    assert clear_panels(session.cache) > 0
    assert list_panels(session.cache) == []


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_a_panel_of_a_frame_is_sorted(order: list[int]) -> None:
    """By day and instrument, whatever the order of the rows; days without rows are left out."""
    rows = [("2024-01-02", "A", 1.0), ("2024-01-02", "C", 2.0), ("2024-01-04", "B", 3.0)]
    frame = pd.DataFrame([rows[i] for i in order], columns=["datetime", "instrument", "x"])
    frame["datetime"] = pd.to_datetime(frame["datetime"])
    panel = Panel.from_frame(frame.set_index(["datetime", "instrument"]))
    assert panel.dates.tolist() == np.array(["2024-01-02", "2024-01-04"], "datetime64[D]").tolist()
    assert panel.offsets.tolist() == [0, 2, 3]
    assert [panel.codes[i] for i in panel.row_code] == ["A", "C", "B"]
    assert panel.groups["feature"].values[:, 0].tolist() == [1.0, 2.0, 3.0]
    assert panel.frame(None, "2024-01-04").index.tolist() == [(pd.Timestamp("2024-01-04"), "B")]


def test_a_panel_of_a_frame_whose_levels_are_unsorted() -> None:
    """The rows are sorted, but the index's levels are in another order and have values without rows."""
    days, codes = pd.to_datetime(["2024-01-04", "2024-01-03", "2024-01-02"]), ["B", "Z", "A"]
    index = pd.MultiIndex([days, codes], [[2, 2, 0], [2, 0, 2]], names=["datetime", "instrument"])
    panel = Panel.from_frame(pd.DataFrame({"x": [1.0, 2.0, 3.0]}, index=index))
    assert panel.dates.astype(str).tolist() == ["2024-01-02", "2024-01-04"]
    assert panel.codes == ("A", "B")
    assert panel.row_code.tolist() == [0, 1, 0]
    assert panel.offsets.tolist() == [0, 2, 3]
    assert panel.groups["feature"].values[:, 0].tolist() == [1.0, 2.0, 3.0]


def test_a_slice_of_the_shared_panel_equals_its_own_panel(session: Session) -> None:
    """Bit for bit, raw and processed, also with a processor that is fitted."""
    fit = {"fit_start_time": "2022-01-03", "fit_end_time": "2022-06-30"}
    infer = [{"class": "ZScoreNorm", "kwargs": {**fit, "fields_group": "feature"}}]
    shared = handler(end_time="2023-03-31", infer_processors=infer, learn_processors=LEARN)
    frame = QlibDataLoader(FIELDS).load("all", "2022-01-03", "2023-03-31")
    for key, chain in (("raw", []), ("infer", [ZScoreNorm(**fit, fields_group="feature")])):
        expected = frame
        for processor in chain:
            processor.fit(expected)
            expected = processor(expected)
        pd.testing.assert_frame_equal(shared.fetch(data_key=key, col_set="__raw"), expected, check_exact=True)


def test_a_fit_window_is_limited_to_the_handlers_range(session: Session) -> None:
    """The processor is fitted on the handler's days only, and other handlers do not share the panel."""
    fit = {"fit_start_time": "2022-01-03", "fit_end_time": "2022-12-30", "fields_group": "feature"}
    infer = [{"class": "ZScoreNorm", "kwargs": fit}]
    whole = handler(infer_processors=infer).fetch(data_key="infer")
    short = handler(end_time="2022-06-30", infer_processors=infer).fetch(data_key="infer", col_set="feature")
    raw = QlibDataLoader(FIELDS).load("all", "2022-01-03", "2022-06-30")["feature"]
    expected = (raw - raw.mean()) / raw.std(ddof=0)
    np.testing.assert_allclose(short, expected, rtol=1e-3, atol=1e-4)
    assert not np.allclose(short, whole.loc[:"2022-06-30", ["RET", "MA5"]], rtol=1e-2, atol=1e-3)


def test_a_fit_window_that_ends_with_the_handler_shares_its_panel(session: Session) -> None:
    """If the fit window does not reach beyond the handler, the panel does not depend on where the handler ends."""
    fit = {"fit_start_time": "2022-01-03", "fit_end_time": "2022-06-30", "fields_group": "feature"}
    for end in ("2022-06-30", "2022-09-30", None):
        handler(end_time=end, infer_processors=[{"class": "ZScoreNorm", "kwargs": fit}]).setup_data()
    assert len(list_panels(session.cache)) == 2  # raw, and after the processor


def test_a_cached_panel_equals_the_one_that_was_built(session: Session) -> None:
    """A second handler reads what the first one computed."""
    first = handler(learn_processors=LEARN).fetch(data_key="learn")
    second = handler(learn_processors=LEARN).fetch(data_key="learn")
    pd.testing.assert_frame_equal(first, second, check_exact=True)


def test_a_window_is_not_a_copy(session: Session) -> None:
    """The features of a range of days are a contiguous part of the panel's memory, as models need them."""
    made = handler()
    values = made.fetch(slice("2022-03-01", "2022-09-30"), col_set="feature", data_key="raw").to_numpy()
    panel = made.panel("raw").groups["feature"].values
    assert np.shares_memory(values, panel)
    assert values.flags.c_contiguous
    both = made.fetch(slice("2022-03-01", "2022-09-30"), col_set=["feature", "label"], data_key="raw")
    assert np.shares_memory(both["feature"].to_numpy(), panel)


def test_modifying_a_frame_does_not_change_the_panel(session: Session) -> None:
    """Writing to a returned frame changes a copy or fails; it never changes the cache."""
    made = handler()
    frame = made.fetch(col_set="feature", data_key="raw")
    before = frame.iloc[5, 0]
    try:
        frame.iloc[5, 0] = 99.0
    except ValueError as exc:
        assert "read-only" in str(exc)  # noqa: PT017
    assert handler().fetch(col_set="feature", data_key="raw").iloc[5, 0] == before


def test_a_damaged_panel_is_built_again(session: Session) -> None:
    """Truncated, overwritten, or without its description."""
    expected = handler().fetch(data_key="raw").copy()
    (info,) = list_panels(session.cache)
    folder = Path(session.cache) / "panels" / info.key
    for spoil in (
        lambda: (folder / "group0.npy").write_bytes((folder / "group0.npy").read_bytes()[:-100]),
        lambda: (folder / "group0.npy").write_bytes(b"\0" * (folder / "group0.npy").stat().st_size),
        lambda: (folder / "meta.json").write_text("{"),
    ):
        spoil()
        pd.testing.assert_frame_equal(handler().fetch(data_key="raw"), expected, check_exact=True)


def values_file(session: Session) -> Path:
    """Return the file of the features of the only panel."""
    (info,) = list_panels(session.cache)
    return Path(session.cache) / "panels" / info.key / "group0.npy"


@pytest.mark.parametrize("share", [0.2, 0.37, 0.71, 0.93])
def test_a_single_changed_byte_is_detected(session: Session, share: float, caplog: pytest.LogCaptureFixture) -> None:
    """Writing to a panel changes the file's time, so the whole file is verified, and the panel is built again."""
    expected = handler().fetch(data_key="raw").copy()
    file = values_file(session)
    content = bytearray(file.read_bytes())
    content[int(share * len(content))] ^= 1
    file.write_bytes(content)
    pd.testing.assert_frame_equal(handler().fetch(data_key="raw"), expected, check_exact=True)
    assert "group0.npy is damaged; it is rebuilt" in caplog.text


def test_a_process_opens_a_panel_once(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tasks of a job that run in one process share its pages; a panel that another process has written is opened."""
    handler().setup_data()
    opened = []
    load = Panel.load
    monkeypatch.setattr(Panel, "load", lambda folder, **kwargs: opened.append(folder.name) or load(folder, **kwargs))
    first, second = (handler(end_time=end).panel("raw") for end in ("2023-06-30", "2023-12-29"))
    assert first is second
    assert len(opened) == 1  # it was written above
    values_file(session).touch()
    assert handler().panel("raw") is not second
    assert len(opened) == 2
    for file in values_file(session).parent.iterdir():
        file.unlink()
    assert len(handler().panel("raw")) == len(second)
    assert len(list_panels(session.cache)) == 1


def test_a_panel_that_changes_while_it_is_opened_is_opened_again(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may commit other rows of a panel after this one has read the description of the earlier ones."""
    made = handler().panel("raw")
    cache, key = PanelCache(session.cache, session.cache_limit), values_file(session).parent.name
    assert made.stored is not None
    before, meta = made.stored.state, made.stored.meta
    load = Panel.load

    def changed_meanwhile(folder: Path, **kwargs: bool) -> Panel | None:
        panel = load(folder, **kwargs)
        write_meta(folder, {**meta, "state": "later"})
        return panel

    def never_built(folder: Path) -> Panel:
        raise AssertionError("the panel of the later state is there")

    monkeypatch.setattr(Panel, "load", changed_meanwhile)
    monkeypatch.setattr(panel_cache, "_opened", {})  # as in a process that has just started
    assert cache.get(key, never_built, before).stored.state == before  # type: ignore[union-attr]
    monkeypatch.setattr(Panel, "load", load)
    assert cache.get(key, never_built, "later").stored.state == "later"  # type: ignore[union-attr]


def test_changing_a_frame_changes_no_later_one(session: Session) -> None:
    """A user's processor may name the columns of the frame that it is called with."""
    panel = handler().panel("raw")
    assert isinstance(panel, Panel)
    for groups in (None, ["label"], "feature"):
        first, expected = panel.frame(groups), panel.frame(groups).copy()
        first.columns.names = [f"level {place}" for place in range(first.columns.nlevels)]
        first.index.names = ["day", "code"]
        pd.testing.assert_frame_equal(panel.frame(groups), expected, check_names=True)


def test_the_content_of_a_description_tells_whether_a_panel_is_open(session: Session) -> None:
    """A later version may have the size of an earlier one and, as file systems use inodes again, its inode."""
    made = handler().panel("raw")
    cache, key = PanelCache(session.cache, session.cache_limit), values_file(session).parent.name
    assert made.stored is not None
    assert handler().panel("raw") is cache.get(key, lambda _: made)
    file, later = made.stored.folder / META, made.stored.state[::-1]
    file.write_text(file.read_text(encoding="utf-8").replace(made.stored.state, later), encoding="utf-8")
    assert cache.get(key, lambda _: made).stored.state == later  # type: ignore[union-attr]


def test_clearing_the_cache_frees_its_space(session: Session) -> None:
    """The process that has deleted a panel, such as a notebook, does not keep it open."""
    handler().setup_data()
    handler().setup_data()
    assert str(values_file(session)) in Path("/proc/self/maps").read_text(encoding="utf-8")
    clear_panels(session.cache)
    gc.collect()
    assert session.cache not in Path("/proc/self/maps").read_text(encoding="utf-8")


def test_panels_are_verified_once_after_each_boot(session: Session) -> None:
    """A power cut can lose data that were not on disk yet without changing size and time."""
    expected = handler().fetch(data_key="raw").copy()
    file = values_file(session)
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[int(0.37 * len(content))] ^= 1
    with file.open("r+b") as handle:
        handle.write(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    (mark,) = file.parent.glob("checked*")
    mark.unlink()  # the mark of a verification since the last boot
    pd.testing.assert_frame_equal(handler().fetch(data_key="raw"), expected, check_exact=True)


def test_the_key_depends_on_the_folder_and_not_on_its_data(session: Session, tmp_path: Path) -> None:
    """A copy of the folder has its own panel, whatever name is used to open it; it is kept when the data change."""
    handler().setup_data()
    copy = tmp_path / "copy"
    shutil.copytree(session.provider_uri or "", copy)
    (tmp_path / "link").symlink_to(copy)
    for name in ("copy", "link"):
        with using(session.with_(provider_uri=str(tmp_path / name))):
            handler().setup_data()
            assert len(list_panels(session.cache)) == 2
            (copy / "features" / "d0001" / "close.day.bin").touch()
            open_provider(copy).refresh()
            handler().setup_data()
            assert len(list_panels(session.cache)) == 2


def test_changes_of_the_data_are_detected_by_running_processes(session: Session, tmp_path: Path) -> None:
    """A process that runs for days uses a corrected file without further action."""
    copy = tmp_path / "copy"
    shutil.copytree(session.provider_uri or "", copy)
    with using(session.with_(provider_uri=str(copy))):
        before = handler().fetch(col_set="feature", data_key="raw").copy()
        file = copy / "features" / "d0001" / "close.day.bin"
        values = np.fromfile(file, "<f4")
        values[-1] *= 2
        values.tofile(file)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            after = handler().fetch(col_set="feature", data_key="raw")
            if not after.equals(before):
                break
            time.sleep(0.05)
        assert after.iloc[-1000:].ne(before.iloc[-1000:]).any().all()


def test_changed_code_gives_another_panel(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours, and a user's processor: the same class with another body."""

    class Own(Processor):
        def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
            return df + 1

    first = handler(infer_processors=[Own()]).fetch(data_key="infer")
    assert len(list_panels(session.cache)) == 2
    Own.__call__ = lambda self, df: df + 2  # type: ignore[method-assign]
    second = handler(infer_processors=[Own()]).fetch(data_key="infer")
    pd.testing.assert_frame_equal(second, first + 1)
    assert len(list_panels(session.cache)) == 3
    monkeypatch.setattr("rollforge.features.handler.code_version", lambda: "another")
    handler().setup_data()
    assert len(list_panels(session.cache)) == 4


def build_slowly(session: Session, started: Any) -> None:
    put = RowFile.put

    def slow(self: RowFile, at: int, rows: Any) -> None:
        put(self, at, rows)
        started.set()
        time.sleep(60)

    RowFile.put = slow  # type: ignore[method-assign]
    with using(session):
        handler().setup_data()


@pytest.mark.slow
def test_an_incomplete_panel_is_never_used(session: Session) -> None:
    """If the process that builds it is killed, the next one builds it and deletes the remains."""
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    builder = context.Process(target=build_slowly, args=(session, started))
    builder.start()
    assert started.wait(300)
    builder.kill()
    builder.join()
    root = Path(session.cache) / "panels"
    assert list_panels(session.cache) == []
    assert list(root.glob(".*-*"))
    assert handler().fetch(data_key="raw").notna().any().all()
    assert not list(root.glob(".*-*"))
    assert len(list_panels(session.cache)) == 1


def hold_a_window(session: Session, pipe: Any) -> None:
    """Open a window, read all of it, and report how much of this process's memory the panel takes."""
    with using(session):
        values = handler().fetch(col_set="feature", data_key="raw").to_numpy()
    total = float(np.nansum(values))
    pipe.send("read")
    pipe.recv()  # until all processes have opened it
    shared, own, seen = 0, 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            seen = line.endswith("group0.npy")
        elif seen and line.startswith("Pss:"):
            shared += int(line.split()[1])
        elif seen and line.startswith(("Private_Clean:", "Private_Dirty:")):
            own += int(line.split()[1])
    pipe.send((total, shared, own))
    pipe.recv()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells how pages are shared")
def test_eight_workers_share_one_copy(session: Session) -> None:
    """Pages are mapped from the file: eight processes that read the whole panel have it in memory once."""
    handler().setup_data()
    size = values_file(session).stat().st_size / 1024
    context = multiprocessing.get_context("spawn")
    pipes, workers = [], []
    for _ in range(8):
        ours, theirs = context.Pipe()
        workers.append(context.Process(target=hold_a_window, args=(session, theirs), daemon=True))
        workers[-1].start()
        theirs.close()  # so that the end of a process is noticed
        pipes.append(ours)
    assert [pipe.recv() for pipe in pipes] == ["read"] * 8
    for pipe in pipes:
        pipe.send("all have read")
    answers = [pipe.recv() for pipe in pipes]
    for pipe, worker in zip(pipes, workers, strict=True):
        pipe.send("end")
        worker.join()
    assert len({total for total, _, _ in answers}) == 1
    assert sum(shared for _, shared, _ in answers) == pytest.approx(size, rel=0.2)
    assert sum(own for _, _, own in answers) < 0.1 * size


def test_the_cache_respects_its_size_limit(session: Session) -> None:
    """The least recently used panels are deleted; the one just built remains."""
    small = session.with_(cache_limit=1)
    with using(small):
        handler().setup_data()
        handler(start_time="2022-06-01").setup_data()
    assert len(list_panels(session.cache)) == 1


@pytest.mark.parametrize(("missing", "left"), [(0, ["a", "b", "c"]), (1, ["a", "c"])])
def test_the_cache_deletes_what_was_used_longest_ago(tmp_path: Path, missing: int, left: list[str]) -> None:
    """Panels of exactly the limit stay. If a byte is missing, the panel used longest ago is deleted, not the oldest."""
    index = pd.MultiIndex.from_product(
        [pd.bdate_range("2022-01-03", periods=3), ["A"]], names=["datetime", "instrument"]
    )
    frame = pd.DataFrame({("feature", "x"): [1.0, 2.0, 3.0]}, index)

    def build(folder: Path) -> Panel:
        return Panel.from_frame(frame)

    cache = PanelCache(tmp_path, 2**30)
    for place, key in enumerate(("a", "b")):
        cache.get(key, build)
        os.utime(cache.root / key / META, (1000.0 + place, 1000.0 + place))
    cache.get("a", build)  # used again, so "b" is the one that was used longest ago
    size = cache.list()[0].bytes
    PanelCache(tmp_path, 3 * size - missing).get("c", build)
    assert sorted(panel.key for panel in cache.list()) == left


def one_row() -> Panel:
    index = pd.MultiIndex.from_tuples([(pd.Timestamp("2022-01-03"), "A")], names=["datetime", "instrument"])
    return Panel.from_frame(pd.DataFrame({("feature", "x"): [1.0]}, index))


def test_a_panel_that_another_process_is_writing_is_not_deleted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise that process would not find what it has just written."""
    cache = PanelCache(tmp_path, 1)
    cache.get("a", lambda folder: one_row())
    with place_lock(cache.root / "a"):
        cache.get("b", lambda folder: one_row())  # beyond the limit
        assert sorted(one.key for one in cache.list()) == ["a", "b"]
        assert cache.clear() == cache.list()[0].bytes
        assert [one.key for one in cache.list()] == ["a"]
    assert "1 panel kept, because a process is writing there" in caplog.text
    assert cache.clear() > 0
    assert list(cache.root.iterdir()) == []


def test_clearing_deletes_what_killed_processes_have_left_and_nothing_else(tmp_path: Path) -> None:
    """Drafts and locks of panels are deleted, files of other names are not."""
    cache = PanelCache(tmp_path, 10**9)
    cache.get("a", lambda folder: one_row())
    for name in (".c-left", "-x", "..lock", "README.txt", ".nfs00012.x"):
        (cache.root / name).mkdir()
    (cache.root / ".d.lock").touch()
    with place_lock(cache.root / "a"):
        assert cache.clear() == 0
        assert [one.key for one in cache.list()] == ["a"]
    cache.clear()
    assert sorted(one.name for one in cache.root.iterdir()) == ["-x", "..lock", ".nfs00012.x", "README.txt"]


def test_a_lock_that_was_deleted_while_a_process_waited_excludes_nobody(tmp_path: Path) -> None:
    """The process that waited holds the next one, and so do those that come later."""
    held = threading.Event()

    def wait() -> None:
        with place_lock(tmp_path / "a"):
            held.set()
            done.wait(60)

    done, waiting = threading.Event(), threading.Thread(target=wait)
    with place_lock(tmp_path / "a") as lock:
        waiting.start()
        while Path("/proc/locks").read_text().count(f":{lock.stat().st_ino} ") < 2:
            time.sleep(0.01)
        lock.unlink()
    assert held.wait(60)
    with pytest.raises(BlockingIOError), place_lock(tmp_path / "a", wait=False):
        pass
    done.set()
    waiting.join()


def test_a_process_that_a_loader_has_forked_does_not_keep_the_lock(tmp_path: Path) -> None:
    """A loader may keep a pool of processes for the next panel."""
    cache, forked = PanelCache(tmp_path, 10**9), []

    def build(folder: Path) -> Panel:
        forked.append(multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,)))
        forked[0].start()
        return one_row()

    try:
        cache.get("a", build, "old")
        with place_lock(cache.root / "a", wait=False):
            pass
    finally:
        forked[0].kill()
        forked[0].join()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_without_locks_is_named(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says that another folder is needed."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    cache = PanelCache(tmp_path, 10**9)
    with pytest.raises(DataError, match=f"cannot be written: {os.strerror(number)}. Choose another folder"):
        cache.get("a", lambda folder: one_row())
    (cache.root / "a").mkdir()
    with pytest.raises(DataError, match=f"cannot be cleared: {os.strerror(number)}"):
        cache.clear()


class Industries(Processor):
    """A processor of the user that reads a file, or a server."""

    def __init__(self, problem: str) -> None:
        self.problem = problem

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        if self.problem == "file":
            open("industries.csv").close()
        if self.problem == "library":
            raise OSError("Unable to open file (truncated file)")
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")


@pytest.mark.parametrize(
    ("problem", "error"), [("file", FileNotFoundError), ("server", ConnectionRefusedError), ("library", OSError)]
)
def test_a_file_that_a_processor_lacks_is_no_problem_of_the_cache(
    session: Session, problem: str, error: type[OSError]
) -> None:
    """The error is the one that it raised, not an advice to choose another folder for the cache."""
    with pytest.raises(error):
        handler(learn_processors=[Industries(problem)]).fetch(data_key="learn")


@pytest.mark.parametrize("problem", ["folder", "full", "size"])
def test_a_cache_that_cannot_be_written_is_named(
    session: Session, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says why: the folder cannot be made, the disk is full, or NumPy has written less than it was given."""
    if problem == "folder":
        (tmp_path / "cache").write_text("")
        reason = "Not a directory"
    elif problem == "full":
        reason = os.strerror(errno.ENOSPC)
        monkeypatch.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, reason)))
    else:
        reason = "24 requested and 0 written"
        monkeypatch.setattr(np, "save", lambda *_: (_ for _ in ()).throw(OSError(reason)))
    with pytest.raises(DataError, match=f"cache/panels cannot be written: {reason}"):
        handler().setup_data()


def build_in_process(session: Session, pipe: Any) -> None:
    built: list[str] = []
    get = PanelCache.get

    def counting(self: PanelCache, key: str, build: Any, *others: Any) -> Any:
        return get(self, key, lambda folder: (built.append(key), build(folder))[1], *others)

    PanelCache.get = counting  # type: ignore[method-assign]
    with using(session):
        rows = len(handler().fetch(data_key="raw"))
    pipe.send((rows, len(built)))


@pytest.mark.slow
def test_two_processes_build_a_panel_once(session: Session) -> None:
    """The second waits for the first and reads the result."""
    context = multiprocessing.get_context("spawn")
    pipes, workers = [], []
    for _ in range(2):
        ours, theirs = context.Pipe(duplex=False)
        workers.append(context.Process(target=build_in_process, args=(session, theirs), daemon=True))
        workers[-1].start()
        theirs.close()  # so that the end of a process is noticed
        pipes.append(ours)
    answers = [pipe.recv() for pipe in pipes]
    for worker in workers:
        worker.join()
    assert answers[0][0] == answers[1][0] > 0
    assert sum(built for _, built in answers) == 1


def test_handlers_and_datasets_are_pickled_without_data(session: Session) -> None:
    """The pickle has a few hundred bytes, and finds the data again."""
    dataset = DatasetH(handler(), {"train": ("2022-01-03", "2022-12-30")})
    rows = len(dataset.prepare("train"))
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 3000
    assert len(pickle.loads(pickled).prepare("train")) == rows


def test_segments_are_prepared_by_name(session: Session) -> None:
    """One frame for a name, a list for a list, with the requested groups; open ends are those of the handler."""
    segments = {"train": ("2022-01-03", "2022-06-30"), "test": ("2022-07-01", None)}
    dataset = DatasetH(handler(learn_processors=LEARN), segments)
    train, test = dataset.prepare(["train", "test"], col_set="feature")
    assert list(train.columns) == ["RET", "MA5"]
    assert train.index.get_level_values("datetime").max() < test.index.get_level_values("datetime").min()
    assert str(test.index.get_level_values("datetime").max().date()) == "2023-12-29"
    assert list(dataset.prepare("train", col_set=["feature", "label"]).columns.get_level_values(0).unique()) == [
        "feature",
        "label",
    ]
    with pytest.raises(SegmentError, match="Did you mean 'train'"):
        dataset.prepare("trian")
    with pytest.raises(ConfigError, match="data_key"):
        dataset.prepare("train", data_key="learnt")
    with pytest.raises(DataError, match="no columns 'lable'"):
        dataset.prepare("train", col_set="lable")


class Shuffle(Processor):
    """A user's processor that does not declare `any_range`."""

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        return df - df.mean()


def test_a_users_processor_gets_only_the_handlers_range(session: Session) -> None:
    """A user's processor may use all rows that it gets, so it gets no day after the handler's end."""
    made = handler(end_time="2022-12-30", infer_processors=[Shuffle()])
    raw = made.fetch(data_key="raw")
    pd.testing.assert_frame_equal(made.fetch(data_key="infer"), (raw - raw.mean()).astype(np.float32))


class Plain:
    """A processor as Qlib accepts it, without a base class."""

    offset = 1.0

    def __init__(self, scale: float = 2.0) -> None:
        self.scale = scale

    def fit(self, df: pd.DataFrame) -> None:
        self.columns = len(df.columns)

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        return df * self.scale + self.offset

    def is_for_infer(self) -> bool:
        return True


def test_a_processor_without_a_base_class(session: Session) -> None:
    """A processor without a base class needs only Qlib's methods, and its own attributes are accessible."""
    made = handler(infer_processors=[{"class": "Plain", "module_path": __name__, "kwargs": {"scale": 3.0}}])
    raw = made.fetch(data_key="raw")
    pd.testing.assert_frame_equal(made.fetch(data_key="infer"), (raw * 3 + 1).astype(np.float32))
    (processor,) = made.infer_processors
    assert (processor.scale, processor.columns) == (3.0, 3)
    made.config(processor_kwargs={"scale": 1.0})
    assert processor.scale == 1.0
    assert not processor.readonly()
    assert pickle.loads(pickle.dumps(processor)).scale == 1.0


def test_the_label_of_a_handler_can_be_changed(session: Session) -> None:
    """As in Qlib, by ``label`` in the handler's arguments."""
    made = Alpha158("all", "2022-01-03", "2022-06-30", label=["Ref($close, -6)/Ref($close, -1) - 1"])
    assert made.get_cols("label") == ["Ref($close, -6)/Ref($close, -1) - 1"]
