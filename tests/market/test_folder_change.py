"""A data folder changes atomically: for any reader, and wherever a process is killed, it is the old or the new one."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.errors import DataError, FolderBusy
from rollforge.market import folder_change, new_folder
from rollforge.market.append import append_table
from rollforge.market.folder_change import folder_lock, previous
from rollforge.market.importer import import_table
from rollforge.market.provider import Provider, open_provider
from rollforge.market.universe_import import import_universe

DAYS = pd.bdate_range("2021-03-01", periods=6)
WRITES = ("os.mkdir", "os.link", "open", "os.rename", "os.remove", "os.rmdir", "os.chmod", "ctypes.dlsym")


def bars(first: int = 0, stop: int = 6, *, scale: float = 1.0) -> pd.DataFrame:
    """Return bars of three instruments, of which C is listed on the fifth day; prices depend on the day."""
    rows = [(code, day) for code in "ABC" for day in range(first, stop) if code != "C" or day >= 4]
    frame = pd.DataFrame({"instrument": [c for c, _ in rows], "datetime": [DAYS[d] for _, d in rows]})
    for i, name in enumerate(("open", "high", "low", "close")):
        frame[name] = [scale * (10 + d + i / 8) for _, d in rows]
    return frame


def update() -> pd.DataFrame:
    """Return two new days, and a correction of the first day."""
    return pd.concat([bars(4), bars(0, 1, scale=1.25)])


def tree(folder: Path) -> dict[str, bytes]:
    """Return the content of all files of a folder, by their paths."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with four days."""
    import_table(bars(0, 4), tmp_path / "data")
    return tmp_path / "data"


def _appended(place: Path) -> dict[str, bytes]:
    shutil.copytree(place / "data", place / "whole")
    append_table(update(), place / "whole")
    return tree(place / "whole")


# -- killed processes


def _killed_at(folder: Path, write: int, seconds: float) -> bool:
    """Append in a process that is killed before a write, or after some time; return whether it was killed."""
    child = os.fork()
    if not child:
        left = [write]

        def stop(event: str, args: tuple[Any, ...]) -> None:
            if event in WRITES and not (event == "open" and not args[2] & os.O_CREAT):
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(stop)
        append_table(update(), folder)
        os._exit(0)
    if seconds:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def kill_everywhere(place: Path) -> None:
    """Kill an append before each of its writes, and at random times."""
    new, old = _appended(place), tree(place / "data")
    seen = []
    rng = random.Random(1)
    write = 1
    alive = False
    incomplete = {".try.change", ".try.discarded"}
    while not alive or len(seen) < write + 30:
        shutil.rmtree(place / "try", ignore_errors=True)
        shutil.copytree(place / "data", place / "try")
        alive = alive or not _killed_at(place / "try", write, 0)
        if alive:
            _killed_at(place / "try", 0, rng.random() * 0.05)
        else:
            write += 1
        found = tree(place / "try")
        assert found in (old, new), write
        seen.append(found == new)
        append_table(update(), place / "try")
        assert tree(place / "try") == new
        left = {p.name for p in place.iterdir()} - {"data", "whole", "try"}
        assert left <= {
            *(f".{name}" for name in ("try.lock", "try.previous", "whole.lock", "whole.previous")), *incomplete
        }  # fmt: skip
        assert not left & incomplete or found == new, write
    assert write > 20
    assert True in seen
    assert False in seen


@pytest.mark.slow
def test_a_killed_append_leaves_the_old_or_the_new_folder(folder: Path) -> None:
    """The append is killed before each of its writes, and at random times; the next append completes, and cleans up."""
    source = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, __file__, str(folder.parent)],
        capture_output=True, text=True, timeout=500, check=False, env={**os.environ, "PYTHONPATH": source},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


# -- failing writes


@pytest.mark.parametrize("call", ["mkdir", "link", "open", "write", "fchmod"])
def test_a_failing_write_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Whichever call fails, as on a full disk, there is one message, and the folder is the old one."""
    new, old = _appended(folder.parent), tree(folder)
    real = getattr(os, call)
    for number in (1,) if call == "link" else (1, 2, 5, 9):
        left = [number]

        def failing(*args: Any, left: list[int] = left, **kwargs: Any) -> Any:
            if call != "open" or (args[1] & os.O_CREAT and "lock" not in str(args[0])):
                left[0] -= 1
                if not left[0]:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            with pytest.raises(
                DataError, match=r"data cannot be written: No space left on device\. Nothing was changed"
            ):
                append_table(update(), folder)
        assert tree(folder) == old
        assert not (folder.parent / ".data.change").exists()
    append_table(update(), folder)
    assert tree(folder) == new


def test_files_that_cannot_be_linked_are_copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File systems without hard links give the same folder."""
    new = _appended(folder.parent)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refused)
    append_table(update(), folder)
    assert tree(folder) == new


def test_without_exchange_the_folder_is_put_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where names cannot be exchanged, the folder is renamed; if the process dies in between, the next one restores
    it."""
    new = _appended(folder.parent)

    def refused(*_: object) -> None:
        raise OSError(errno.EINVAL, "not here")

    monkeypatch.setattr(folder_change, "_swap", refused)
    folder.rename(folder.parent / ".data.change.old")  # what a process killed in between leaves
    append_table(update(), folder)
    assert tree(folder) == new
    assert sorted(os.listdir(folder.parent)) == [".data.lock", ".data.previous", ".whole.lock", ".whole.previous", "data",
                                                 "whole"]  # fmt: skip


def test_a_mount_point_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount point cannot be renamed; the message says what to do."""
    old = tree(folder)

    def busy(*_: object) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(folder_change, "_swap", busy)
    with pytest.raises(DataError, match=r"is a mount point.*Use a folder below it\. Nothing was changed"):
        append_table(update(), folder)
    assert tree(folder) == old


def test_linked_folders_and_other_files(folder: Path, tmp_path: Path) -> None:
    """The folder may be a link, and so may its features: the files there are replaced, the originals stay."""
    new = _appended(tmp_path)
    (folder / "features").rename(tmp_path / "elsewhere")
    (folder / "features").symlink_to(tmp_path / "elsewhere")
    (folder / "mine.txt").symlink_to("nowhere")
    (tmp_path / "link").symlink_to(folder)
    before = tree(tmp_path / "elsewhere")
    append_table(update(), tmp_path / "link")
    assert tree(tmp_path / "elsewhere") == before
    assert tree(folder) == new
    assert (tmp_path / "link").is_symlink()
    assert os.readlink(folder / "mine.txt") == "nowhere"


def test_permissions_are_kept(folder: Path) -> None:
    """Changed files and folders have the permissions of those that they replace."""
    file = folder / "features" / "a" / "close.day.bin"
    file.chmod(0o640)
    folder.chmod(0o750)
    append_table(update(), folder)
    assert (file.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o640, 0o750)


# -- readers


def test_a_reader_keeps_the_version_that_it_opened(folder: Path) -> None:
    """The reader sees the former calendar, universes and values until the next change; opening the folder again gives
    the new ones."""
    reader = Provider(folder)  # nothing is read yet
    mark = Provider(folder).fingerprint()
    append_table(update(), folder)
    assert len(reader.calendar()) == 4
    assert list(reader.instruments("all")) == ["A", "B"]
    assert not reader.has("C")
    np.testing.assert_array_equal(
        reader.read("close", ["A"], 0, 4).values[0], np.float32([10.375, 11.375, 12.375, 13.375])
    )
    assert reader.fingerprint() == mark
    fresh = open_provider(folder)
    assert (len(fresh.calendar()), list(fresh.instruments("all"))) == (6, ["A", "B", "C"])
    assert fresh.read("close", ["A"], 0, 1).values[0, 0] == np.float32(1.25 * 10.375)
    append_table(bars(0, 1), folder)
    with pytest.raises(DataError, match="was replaced while it was being read"):
        reader.read("close", ["A"], 0, 4)
    np.testing.assert_array_equal(fresh.read("close", ["A"], 0, 1).values[0], np.float32([1.25 * 10.375]))


def test_readers_during_appends_see_one_version(folder: Path) -> None:
    """While corrections are appended, all fields of a reader are of one version."""
    stop, seen, errors = threading.Event(), set[float](), list[str]()

    def read() -> None:
        while not stop.is_set():
            provider = open_provider(folder)
            try:
                days = len(provider.calendar())
                values = [provider.read(name, ["A"], 0, days).values[0, 0] for name in ("open", "high", "low", "close")]
            except DataError as exc:
                if "was replaced" not in str(exc):  # two appends within one read
                    errors.append(str(exc))
                continue
            scales = {float(v) / (10 + i / 8) for i, v in enumerate(values)}
            seen.update(scales)
            if len(scales) != 1:
                errors.append(f"mixed: {values}")

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for scale in (2.0, 4.0, 8.0, 0.5, 0.25, 1.0, 2.0, 4.0):
        append_table(bars(0, 1, scale=scale), folder)
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(seen) > 1


def test_a_reader_keeps_its_version_while_a_change_is_completed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader keeps its version also between the exchange of the folders and the renaming of the former one."""
    append_table(bars(4, 5), folder)
    reader, exchange, seen = Provider(folder), folder_change.exchange, []
    mark = Provider(folder).fingerprint()

    def exchanged(one: Path, other: Path) -> None:
        exchange(one, other)
        seen.append((len(reader.calendar()), list(reader.instruments("all")), reader.fingerprint()))

    monkeypatch.setattr(folder_change, "exchange", exchanged)
    append_table(bars(5, 6), folder)
    assert seen == [(5, ["A", "B", "C"], mark)]


def test_a_fingerprint_is_of_one_version(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A correction that is appended while the files are listed does not give the fingerprint of the new ones."""
    reader, mark, scandir = Provider(folder), Provider(folder).fingerprint(), os.scandir

    def then_append(place: str | Path) -> Any:
        if str(place).endswith("/a"):
            monkeypatch.setattr(os, "scandir", scandir)
            append_table(bars(0, 1, scale=1.25), folder)
        return scandir(place)

    monkeypatch.setattr(os, "scandir", then_append)
    assert reader.fingerprint() == mark
    assert open_provider(folder).fingerprint() != mark


def test_a_reader_of_an_overwritten_folder_does_not_go_on_with_the_new_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader of an overwritten folder does not go on with the new one, even before the former folder is deleted."""
    reader = Provider(folder)
    monkeypatch.setattr(new_folder, "remove_folder", lambda _: None)
    import_table(bars(1, 5), folder, overwrite=True)
    with pytest.raises(DataError, match="was replaced while it was being read"):
        reader.calendar()
    assert len(open_provider(folder).calendar()) == 4


def test_a_reader_of_the_current_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader's path is relative, and empty but for a dot."""
    monkeypatch.chdir(folder)
    assert Provider(Path()).read("close", ["A"], 0, 1).values[0, 0] == np.float32(10.375)


# -- several processes


def test_a_second_process_waits_or_names_the_first(folder: Path) -> None:
    """A second process waits for a while, and then reports which process is changing the folder. A dry run does not
    wait."""
    with folder_lock(folder):
        with pytest.raises(FolderBusy, match=rf"is being changed by process {os.getpid()} on .* Try again"):
            append_table(update(), folder, wait=0.1)
        assert append_table(update(), folder, dry_run=True).changed
    assert append_table(update(), folder, wait=0).changed


def test_two_appends_at_once_change_the_folder_once(folder: Path) -> None:
    """If two append the same table, one changes the folder, and the other finds nothing to append."""
    new = _appended(folder.parent)
    results: list[bool] = []
    threads = [
        threading.Thread(target=lambda: results.append(append_table(update(), folder).changed)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False, False, True]
    assert tree(folder) == new


def test_other_commands_wait_too(folder: Path) -> None:
    """An import that replaces the folder, and a universe, are not lost to an append that is running."""
    (folder.parent / "m.csv").write_text("A\n")
    order: list[str] = []

    def replace() -> None:
        import_universe("mine", folder.parent / "m.csv", folder)
        order.append("universe")
        import_table(bars(0, 3), folder, overwrite=True)
        order.append("import")

    thread = threading.Thread(target=replace)
    with folder_lock(folder):
        thread.start()
        time.sleep(0.3)
        order.append("append")
    thread.join()
    assert order == ["append", "universe", "import"]
    assert len(open_provider(folder).calendar()) == 3
    assert not previous(folder).exists()


if __name__ == "__main__":
    kill_everywhere(Path(sys.argv[1]))
