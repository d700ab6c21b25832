"""A worker process is killed while it trains a PyTorch model: the next one continues after the last epoch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

from definitions import SMALL_MARKET, TWO_WINDOWS, expressions, task_definition, write_workflow

HAVE = all(find_spec(name) is not None for name in ("torch", "skorch"))
pytestmark = pytest.mark.skipif(not HAVE, reason="PyTorch is not installed: make .venv/torch")

EPOCHS = 40
LEASE = 5  # seconds
MODULE = """
import os, time, torch

class Counted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))

    def forward(self, x):
        if self.training:
            with open("calls.txt", "a") as file:
                file.write(f"{os.getpid()}\\n")
            time.sleep(0.01)
        return self.layers(x)[:, 0]
"""


def _prepare(folder: Path, market: Path) -> None:
    """Write the module and a workflow of one window into a folder of its own."""
    folder.mkdir()
    (folder / "counted.py").write_text(MODULE)
    model = {
        "class": "TorchModel",
        "module_path": "rollforge.models",
        "kwargs": {
            "module": {"class": "Counted", "module_path": "./counted.py"},
            "n_epochs": EPOCHS, "early_stop": EPOCHS, "batch_size": 400, "lr": 0.01, "checkpoint_seconds": 0.0,
        },
    }  # fmt: skip
    handler = expressions({"A": "Ref($close, 1)/$close - 1", "B": "Ref($close, 5)/$close - 1"}, **SMALL_MARKET)
    document = {
        "rollforge": {
            "data": str(market),
            "store": "sqlite:///tasks.db",
            "tracking": "folder:runs",
            "experiment": "net",
        },
        "task": task_definition(handler, TWO_WINDOWS, model=model),
        "rolling": {"step": 200, "rtype": "sliding"},
    }
    write_workflow(folder / "net.yaml", document)


def _start(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    """Start a command in the folder, with the cache of the folder."""
    with (folder / "said").open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "rollforge", *command],
            cwd=folder, stdout=said, stderr=subprocess.STDOUT,
            env={**os.environ, "ROLLFORGE_CACHE": str(folder / "cache"), "ROLLFORGE_ALLOW": str(folder / "counted.py")},
        )  # fmt: skip


def _succeed(folder: Path, *command: str) -> None:
    with _start(folder, *command) as process:
        try:
            assert process.wait(300) == 0, (folder / "said").read_text()
        finally:
            process.kill()  # if it hangs; its end is waited for


def _calls(folder: Path) -> list[str]:
    """Return the number of the process of each batch that was learned from."""
    file = folder / "calls.txt"
    return file.read_text().split() if file.exists() else []


def _wait_for_a_checkpoint(folder: Path, process: subprocess.Popen[bytes]) -> str:
    """Return the number of the process that trains."""
    deadline = time.monotonic() + 300
    while not list(folder.glob("cache/checkpoints/*.pt")) and time.monotonic() < deadline:
        assert process.poll() is None, (folder / "said").read_text()
        time.sleep(0.01)
    training = _calls(folder)[-1]
    assert int(training) != process.pid
    return training


RUN = ("run", "net.yaml", "--jobs", "1", "--output", "out")
WORKER = (
    "worker", "-t", "net", "--store", "sqlite:///tasks.db", "--lease", f"{LEASE}", "--jobs", "1", "--exit-when-empty",
)  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(small_market: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was not disturbed."""
    folder = tmp_path_factory.mktemp("trained") / "undisturbed"
    _prepare(folder, small_market)
    _succeed(folder, *RUN)
    assert len(set(_calls(folder))) == 1
    return folder


def _check_continued(folder: Path, undisturbed: Path, killed: str) -> None:
    """The prediction has the same bits as that of the other run, and no finished epoch was repeated."""
    again, all_at_once = _calls(folder), _calls(undisturbed)
    assert len(set(again)) == 2
    an_epoch = len(all_at_once) // EPOCHS
    continued = [number for number in again if number != killed]
    assert len(continued) % an_epoch == 0
    assert len(continued) < len(all_at_once)
    assert len(again) - len(all_at_once) <= an_epoch  # of the epoch during which it was killed
    predictions = [pd.read_parquet(one / "out" / "prediction.parquet") for one in (folder, undisturbed)]
    pd.testing.assert_frame_equal(*predictions, check_exact=True)
    assert predictions[0]["score"].std() > 0


@pytest.mark.slow
def test_a_task_whose_worker_process_was_killed_continues_after_the_last_epoch(
    small_market: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """``rollforge run`` starts another process, which continues with the same bits."""
    folder = tmp_path / "disturbed"
    _prepare(folder, small_market)
    with _start(folder, *RUN) as process:
        try:
            killed = _wait_for_a_checkpoint(folder, process)
            os.kill(int(killed), signal.SIGKILL)
            assert process.wait(300) == 0, (folder / "said").read_text()
        finally:
            process.kill()
    assert "killed by SIGKILL" in (folder / "out" / "run.log").read_text()
    _check_continued(folder, undisturbed, killed)


@pytest.mark.slow
def test_another_worker_continues_the_training_of_a_killed_one(
    small_market: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """``rollforge worker`` itself is killed, and its process ends; another worker on the machine takes the task over."""
    folder = tmp_path / "pool"
    _prepare(folder, small_market)
    _succeed(folder, "submit", "net.yaml")
    with _start(folder, *WORKER) as first:
        try:
            killed = _wait_for_a_checkpoint(folder, first)
        finally:
            first.kill()
    time.sleep(LEASE + 0.5)  # until then, the task may be that of a worker that still runs
    _succeed(folder, *WORKER)
    _succeed(folder, "collect", "net.yaml", "--output", "out")
    assert (folder / "said").read_text().count("started") == 2
    _check_continued(folder, undisturbed, killed)
