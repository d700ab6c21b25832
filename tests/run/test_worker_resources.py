"""``rollforge worker`` and tasks that ask for resources."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.documents.command_line import run

from rollforge.store.base import open_store
from rollforge.task import Status

pytestmark = pytest.mark.slow


def test_a_worker_leaves_what_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with one GPU, the task for two is left without an attempt; the end and a warning say why."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    uri = f"sqlite:///{tmp_path}/tasks.db"
    store = open_store(uri)
    store.create("p", [{"x": 0}, {"x": 1, "resources": {"gpus": 1}}])
    store.create("p", [{"x": 2, "resources": {"gpus": 2}}], priority=1)
    options = ("--store", uri, "--func", "builtins:len", "--jobs", 2, "--exit-when-empty")
    done = run("worker", "-t", "p", *options)
    assert done.returncode == 7, done.stderr
    assert "1 task is left to other workers, as this machine lacks 2 GPUs (1 here)" in done.stderr
    assert "It lacks 2 GPUs (1 here) (1 task)" in done.stderr
    found = {task.definition["x"]: (task.status, task.attempt) for task in store.query("p")}
    assert found == {0: (Status.DONE, 0), 1: (Status.DONE, 0), 2: (Status.WAITING, 0)}
