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


def _start(folder: Path, market: Path) -> subprocess.Popen[bytes]:
    """Start ``rollforge run`` in a folder of its own, with a cache of its own: one window, one worker process."""
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
    command = ["run", write_workflow(folder / "net.yaml", document), "--jobs", "1", "--output", "out"]
    with (folder / "said").open("wb") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "rollforge", *map(str, command)],
            cwd=folder, stdout=said, stderr=subprocess.STDOUT,
            env={**os.environ, "ROLLFORGE_CACHE": str(folder / "cache")},
        )  # fmt: skip


def _calls(folder: Path) -> list[str]:
    """Return the number of the process of each batch that was learned from."""
    file = folder / "calls.txt"
    return file.read_text().split() if file.exists() else []


@pytest.mark.slow
def test_a_task_whose_worker_process_was_killed_continues_after_the_last_epoch(
    small_market: Path, tmp_path: Path
) -> None:
    """The prediction of the task has the same bits as that of a run that was not disturbed, and no finished epoch is repeated."""
    disturbed, undisturbed = tmp_path / "disturbed", tmp_path / "undisturbed"
    with _start(disturbed, small_market) as process:
        try:
            deadline = time.monotonic() + 300
            while not list(disturbed.glob("cache/checkpoints/*.pt")) and time.monotonic() < deadline:
                assert process.poll() is None, (disturbed / "said").read_text()
                time.sleep(0.01)
            killed = _calls(disturbed)[-1]
            assert int(killed) != process.pid
            os.kill(int(killed), signal.SIGKILL)
            assert process.wait(300) == 0, (disturbed / "said").read_text()
        finally:
            process.kill()
    with _start(undisturbed, small_market) as other:
        assert other.wait(300) == 0, (undisturbed / "said").read_text()

    again, all_at_once = _calls(disturbed), _calls(undisturbed)
    assert len(set(again)) == 2
    assert len(set(all_at_once)) == 1
    an_epoch = len(all_at_once) // EPOCHS
    continued = [number for number in again if number != killed]
    assert len(continued) % an_epoch == 0
    assert len(continued) < len(all_at_once)
    assert len(again) - len(all_at_once) <= an_epoch  # of the epoch during which it was killed
    assert "killed by SIGKILL" in (disturbed / "out" / "run.log").read_text()
    predictions = [pd.read_parquet(folder / "out" / "prediction.parquet") for folder in (disturbed, undisturbed)]
    pd.testing.assert_frame_equal(*predictions, check_exact=True)
    assert predictions[0]["score"].std() > 0
