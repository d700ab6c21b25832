"""Scans of data folders, shared by the processes of a job."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from rollforge.market import scans
from rollforge.market.demo import make_demo
from rollforge.market.provider import Provider
from rollforge.market.scans import Scan, SharedScans

MARK = "0123456789abcdef"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_demo(tmp_path / "market", instruments=3, years=1)
    return tmp_path / "market"


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[SharedScans]:
    """Scans that this process shares; two providers stand for two processes."""
    with tempfile.TemporaryFile() as file:
        monkeypatch.setattr(scans, "_shared", SharedScans(file.fileno()))
        known = scans.shared()
        assert known is not None
        yield known


def identity(folder: Path) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def change(folder: Path) -> None:
    """Change a value in place, as a correction of the data does."""
    file = next((folder / "features").rglob("close.day.bin"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(0, time.time_ns()))


def scanned(folder: Path) -> str:
    """What a process sees that looks for the first time."""
    return Provider(folder).fingerprint()


def expire(provider: Provider) -> None:
    """Let the time pass after which a provider looks again."""
    assert provider._latest is not None
    provider._latest = provider._latest._replace(until=time.monotonic() - 1e-6)


@given(
    st.dictionaries(
        st.tuples(st.integers(-(2**31), 2**64 - 1), st.integers(0, 2**64 - 1)), st.floats(0, 1e9), max_size=8
    )
)
def test_each_folder_has_its_own_scan(found: dict[tuple[int, int], float]) -> None:
    with tempfile.TemporaryFile() as file:
        known = SharedScans(file.fileno())
        for place, began in found.items():
            known.keep(place, Scan(began, began + 1, began + 3, MARK))
            assert known.latest(place) == (began, began + 1, began + 3, MARK)
        # Two folders may need the same place; a scan is never taken for that of another folder.
        assert all(known.latest(place) in ((began, began + 1, began + 3, MARK), None) for place, began in found.items())


@given(st.integers(0, 59), st.integers(1, 255))
def test_a_record_that_is_half_written_or_damaged_counts_as_missing(place: int, flipped: int) -> None:
    with tempfile.TemporaryFile() as file:
        known = SharedScans(file.fileno())
        known.keep((1, 2), Scan(1.0, 1.5, 2.0, MARK))
        start = hash((1, 2)) % 64 * 64
        os.pwrite(file.fileno(), bytes([os.pread(file.fileno(), 1, start + place)[0] ^ flipped]), start + place)
        assert known.latest((1, 2)) is None


def test_a_descriptor_that_was_closed_and_given_to_another_file_is_not_used(tmp_path: Path) -> None:
    """Code of a task may close all descriptors. What it opens then must not be written to."""
    with tempfile.TemporaryFile() as file:
        known = SharedScans(os.dup(file.fileno()))
    os.close(known.descriptor)
    known.keep((1, 2), Scan(1.0, 1.5, 2.0, MARK))
    assert known.latest((1, 2)) is None
    with (tmp_path / "other").open("w+b") as other:
        os.dup2(other.fileno(), known.descriptor)
        known.keep((1, 2), Scan(1.0, 1.5, 2.0, MARK))
        assert known.latest((1, 2)) is None
        os.close(known.descriptor)
    assert (tmp_path / "other").read_bytes() == b""


def test_the_second_scan_may_be_that_of_another_process(folder: Path, shared: SharedScans) -> None:
    mine, other = Provider(folder), Provider(folder)
    before = mine.fingerprint()
    change(folder)
    assert other.fingerprint() != before
    assert mine.fingerprint() == before  # as long as it need not look again
    expire(mine)
    assert mine.fingerprint() == other.fingerprint()
    assert mine._latest is not None
    assert other._latest == shared.latest(identity(folder)) == mine._latest._replace(until=other._latest.until)  # type: ignore[union-attr]


def test_the_first_scan_of_a_process_is_its_own(folder: Path, shared: SharedScans) -> None:
    Provider(folder).fingerprint()
    change(folder)
    now = scanned(folder)
    kept = shared.latest(identity(folder))
    assert kept is not None
    assert kept.fingerprint == now


def test_after_refresh_a_process_looks_itself(folder: Path, shared: SharedScans) -> None:
    mine, other = Provider(folder), Provider(folder)
    mine.fingerprint()
    before = other.fingerprint()
    change(folder)
    mine.refresh()
    assert mine.fingerprint() == scanned(folder) != before


def test_a_scan_of_another_process_is_not_used_for_longer_than_there(folder: Path, shared: SharedScans) -> None:
    mine, other = Provider(folder), Provider(folder)
    mine.fingerprint()
    before = other.fingerprint()
    change(folder)
    for provider in (mine, other):
        expire(provider)
    assert other._latest is not None
    shared.keep(identity(folder), other._latest)  # what the other process keeps has expired, too
    assert mine.fingerprint() == scanned(folder) != before


def test_a_process_does_not_go_back_to_an_earlier_scan(folder: Path, shared: SharedScans) -> None:
    mine = Provider(folder)
    before = time.monotonic()
    mine.fingerprint()
    assert mine._latest is not None
    for began in (
        before,
        (mine._latest.began + mine._latest.ended) / 2,
    ):  # it may have read a file before this process did
        shared.keep(identity(folder), Scan(began, time.monotonic(), time.monotonic() + 1000, "f" * 16))
        expire(mine)
        assert mine.fingerprint() == scanned(folder)


def test_a_scan_of_a_slower_process_is_used_no_longer_than_an_own_one(
    folder: Path, shared: SharedScans, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    mine = Provider(folder)
    mine._latest = Scan(100.0, 100.01, 102.0, MARK)  # two seconds
    shared.keep(identity(folder), Scan(102.0, 103.0, 302.0, "f" * 16))
    now[0] = 103.5
    assert mine.fingerprint() == "f" * 16
    now[0] = 104.1
    assert mine.fingerprint() == scanned(folder)


def test_a_scan_from_the_future_is_not_used(folder: Path, shared: SharedScans) -> None:
    mine = Provider(folder)
    mine.fingerprint()
    shared.keep(
        identity(folder), Scan(time.monotonic() + 1000, time.monotonic() + 1001, time.monotonic() + 2000, "f" * 16)
    )
    expire(mine)
    assert mine.fingerprint() == scanned(folder)


def test_without_sharing_every_process_looks_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scans, "_shared", None)
    mine = Provider(folder)
    before = mine.fingerprint()
    change(folder)
    expire(mine)
    assert mine.fingerprint() == scanned(folder) != before


def test_a_closed_descriptor_is_replaced_for_the_next_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scans, "_shared", None)
    first = scans.begin_sharing()
    assert first is not None
    assert scans.begin_sharing() == first
    os.close(first)
    second = scans.begin_sharing()
    assert second is not None
    assert os.fstat(second).st_nlink == 0
    os.close(second)


def test_without_a_place_for_the_file_nothing_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scans, "_shared", None)
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    assert scans.begin_sharing() is None
