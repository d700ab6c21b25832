"""GPUs of one machine, which are shared out among processes. No GPU is needed: the names of some are enough."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from tests.documents.command_line import call
from tests.documents.definitions import LINEAR, TWO_WINDOWS, dataset, expressions, write_workflow

from rollforge.errors import ConfigError
from rollforge.run.executor import LocalProcesses
from rollforge.run.gpus import GpuShare, check_gpus, take_gpus, visible_gpus
from rollforge.run.job import Job
from rollforge.session import Session
from rollforge.store.memory import MemoryStore


@pytest.fixture(autouse=True)
def two_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two GPUs, whose locks no other test has."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.mark.parametrize(
    ("given", "found"), [("0,1", ["0", "1"]), ("GPU-8f, 3", ["GPU-8f", "3"]), ("", []), ("-1", []), ("2,2", ["2"])]
)
def test_visible_gpus(given: str, found: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable CUDA_VISIBLE_DEVICES lists them, as numbers or UUIDs."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_gpus() == found


def test_without_the_variable_the_driver_lists_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line of ``nvidia-smi`` for each GPU; where there is no such program, there is no GPU."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf 'GPU-1\\nGPU-2\\n'\n")
    program.chmod(0o755)
    assert visible_gpus() == ["GPU-1", "GPU-2"]


def test_whole_gpus_go_to_one_process_each() -> None:
    """A third process gets none until one is given back."""
    first, second = take_gpus(1), take_gpus(1)
    assert first is not None
    assert second is not None
    assert (first.devices, second.devices) == (("0",), ("1",))
    assert take_gpus(1) is None
    assert take_gpus(0.1) is None
    first.close()
    again = take_gpus(1)
    assert again is not None
    assert again.devices == ("0",)
    again.close()
    second.close()


def test_fractions_share_a_gpu_and_leave_the_other_whole() -> None:
    """Three thirds fit on one GPU; two GPUs cannot be had then, one can."""
    thirds = [take_gpus(1 / 3) for _ in range(3)]
    assert [one.devices for one in thirds if one is not None] == [("0",)] * 3
    assert take_gpus(2) is None
    whole = take_gpus(1)
    assert whole is not None
    assert whole.devices == ("1",)
    assert take_gpus(1 / 3) is None
    for one in (*thirds, whole):
        assert one is not None
        one.close()
    both = take_gpus(2)
    assert both is not None
    assert both.devices == ("0", "1")
    both.close()


STEPS = st.tuples(st.sampled_from([0.1, 0.25, 0.3, 0.5, 1, 2]), st.one_of(st.none(), st.integers(0, 11)))
"""GPUs to take, and the place of a share that is given back before; None gives none back."""


@given(st.lists(STEPS, max_size=12))
@settings(max_examples=30, deadline=None)
def test_no_gpu_is_given_more_than_once(steps: list[tuple[float, int | None]]) -> None:
    """Whatever is taken and given back, in any order: the shares of a GPU add up to one at most."""
    with contextlib.ExitStack() as left:
        held: list[tuple[float, GpuShare]] = []
        for gpus, back in steps:
            if held and back is not None:
                held.pop(back % len(held))[1].close()
            share = take_gpus(gpus)
            if share is not None:
                left.callback(share.close)
                held.append((gpus, share))
            for name in ("0", "1"):
                assert sum(min(1, size) for size, one in held if name in one.devices) <= 1 + 1e-9


def test_a_killed_process_gives_its_gpu_back() -> None:
    """The lock ends with the process, however it ends."""
    code = "from rollforge.run.gpus import take_gpus; s = take_gpus(2); print(*s.devices, flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "0 1\n"
    assert take_gpus(0.5) is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    share = take_gpus(2)
    assert share is not None
    share.close()


@pytest.mark.parametrize(
    ("gpus", "said"),
    [
        (3, "Each task needs 3 GPUs, but this machine has 2 GPUs"),
        (-1, "must be a fraction of a GPU or a whole number, found -1."),
        (1.5, "must be a fraction of a GPU or a whole number, found 1.5."),
        (float("nan"), "must be a fraction of a GPU or a whole number, found nan."),
    ],
)
def test_what_this_machine_does_not_have(gpus: float, said: str) -> None:
    """The message says how many it has."""
    with pytest.raises(ConfigError, match=re.escape(said)):
        check_gpus(gpus)
    with pytest.raises(ConfigError, match=re.escape(said)):
        LocalProcesses(1, gpus=gpus).run(Job("p", len), Session(threads=1), store=MemoryStore())


def use(task: Mapping[str, Any]) -> dict[str, Any]:
    """Use a GPU for a while, and return which, and when."""
    began = time.monotonic()
    time.sleep(0.3)
    return {"gpu": os.environ["CUDA_VISIBLE_DEVICES"], "began": began, "ended": time.monotonic()}


def intervals(gpus: float, jobs: int) -> list[dict[str, Any]]:
    """Return what six tasks have used."""
    store = MemoryStore()
    store.create("p", [{"x": x} for x in range(6)])
    LocalProcesses(jobs, gpus=gpus).run(Job("p", use, own=True), Session(threads=1), store=store)
    return [task.result for task in store.query("p")]


@pytest.mark.slow
def test_tasks_do_not_overlap_on_a_gpu() -> None:
    """Of three processes, two get a GPU each; the third waits until they end."""
    used = intervals(1, jobs=3)
    assert {one["gpu"] for one in used} == {"0", "1"}
    for one in used:
        for other in used:
            if one is not other and one["gpu"] == other["gpu"]:
                assert one["ended"] <= other["began"] or other["ended"] <= one["began"]


@pytest.mark.slow
def test_halves_share_one_gpu() -> None:
    """Two processes with half a GPU each see the same one; after the run, it is free."""
    assert {one["gpu"] for one in intervals(0.5, jobs=2)} == {"0"}
    share = take_gpus(2)
    assert share is not None
    share.close()


@pytest.mark.slow
def test_gpus_in_use_are_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    """No task is claimed while another process has the GPUs; the log says what is waited for."""
    code = "from rollforge.run.gpus import take_gpus; s = take_gpus(2); print(flush=True); input()"
    waits = "waiting for a GPU: all that this process may use are in use by others"
    ended: list[float] = []
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:

        def end() -> None:
            deadline = time.monotonic() + 60
            while waits not in caplog.text and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(1.5)
            ended.append(time.monotonic())
            other.kill()

        assert other.stdout is not None
        other.stdout.readline()
        ending = threading.Thread(target=end)
        ending.start()
        used = intervals(1, jobs=2)
        ending.join()
    assert min(one["began"] for one in used) > ended[0]
    assert caplog.text.count(waits) == 1


def test_the_command_refuses_more_than_there_are(small_market: Path, tmp_path: Path) -> None:
    """``--gpus`` without an engine is about this machine; nothing is stored."""
    task = {"model": LINEAR, "dataset": dataset(expressions("$close/Ref($close,1)-1"), TWO_WINDOWS)}
    rollforge = {
        "data": str(small_market),
        "store": f"sqlite:///{tmp_path}/tasks.db",
        "tracking": f"folder:{tmp_path}/runs",
    }
    file = write_workflow(tmp_path / "job.yaml", {"rollforge": rollforge, "leakage": "off", "task": task})
    result = call("run", file, "--gpus", 3, "--output", tmp_path / "out")
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception).startswith("--gpus: Each task needs 3 GPUs, but this machine has 2 GPUs")
    assert not (tmp_path / "tasks.db").exists()
