"""A task whose attempts end in several ways, from the processes that ran it to what a person sees of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rollforge.store.base import open_store
from rollforge.store.manager import TaskManager
from rollforge.task import Cause, Ending
from rollforge.track.base import Recorder
from rollforge.track.tracker import RunQuery, open_tracker

from ..dashboard.serving import serving
from ..documents.command_line import call
from ..documents.definitions import SIGNAL, write_workflow
from ..documents.growing import DAYS, Market, prices, template
from .chromium import MISSING, Page, find_browser

pytest.importorskip("starlette", reason="pip install 'rollforge[dashboard]'")
pytest.importorskip("jinja2", reason="pip install 'rollforge[dashboard]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason=MISSING),
]

UNLUCKY = """
import os, time
from pathlib import Path
from rollforge.models.linear import LinearModel

class Unlucky(LinearModel):
    def fit(self, dataset, **more):
        number = len(list(Path.cwd().glob("process-*")))
        Path(f"process-{number}.part").write_text(str(os.getpid()))
        Path(f"process-{number}.part").rename(f"process-{number}")
        if number == 0:
            time.sleep(600)
        if number == 1:
            raise ValueError("no rows; password=hunter2x")
        super().fit(dataset, **more)
"""


def killed_and_failed(folder: Path) -> tuple[str, str]:
    """Run a task whose process is killed, then fails, and then succeeds; return the store and the tracking store."""
    market = Market(folder / "data", prices())
    market.show(DAYS[-1])
    (folder / "unlucky.py").write_text(UNLUCKY)
    store, tracking = f"sqlite:///{folder}/tasks.db", f"folder:{folder}/runs"
    task = {**template(), "model": {"class": "Unlucky", "module_path": "./unlucky.py"}, "record": [SIGNAL]}
    about = {"data": str(market.folder), "store": store, "tracking": tracking, "experiment": "unlucky"}
    file = write_workflow(folder / "workflow.yaml", {"rollforge": about, "task": task})
    command = [sys.executable, "-m", "rollforge", "run", str(file), "--jobs", "1", "--leakage", "warn"]
    with (folder / "output").open("w") as output:
        running = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + 120
            while not (folder / "process-0").exists():
                assert time.monotonic() < deadline, (folder / "output").read_text()
                assert running.poll() is None, (folder / "output").read_text()
                time.sleep(0.05)
            os.kill(int((folder / "process-0").read_text()), signal.SIGKILL)
            assert running.wait(timeout=180) == 0, (folder / "output").read_text()
        finally:
            running.kill()
    return store, tracking


def test_a_person_sees_why_each_attempt_ended(page: Page, tmp_path: Path) -> None:
    """The killed process, the exception and the success are rows of the page, lines of the terminal, and values in Python; each
    has the run that it recorded."""
    store_uri, tracking = killed_and_failed(tmp_path)
    (task,) = open_store(store_uri).query("unlucky")
    attempts = TaskManager("unlucky", store=store_uri).attempts(task.id)
    assert [(one.number, one.ending, one.cause) for one in attempts] == [
        (1, Ending.FAILED, Cause.KILLED), (2, Ending.FAILED, Cause.RAISED), (3, Ending.DONE, None),
    ]  # fmt: skip
    assert "was killed by SIGKILL" in str(attempts[0].error)
    assert str(attempts[1].error).startswith("Traceback")

    tracker = open_tracker(tracking)
    experiment = tracker.find_experiment(name="unlucky")
    assert experiment is not None
    runs = [run for run in tracker.search([experiment[0]], RunQuery()) if "rollforge.token" in run.tags]
    by_token = {run.tags["rollforge.token"]: run.info for run in runs}
    own = [by_token[str(one.token)] for one in attempts]
    assert [run.status for run in own] == [Recorder.STATUS_FA, Recorder.STATUS_FA, Recorder.STATUS_FI]

    pool = ("pool", "--store", store_uri, "-t", "unlucky")
    shown = call(*pool, "attempts", task.id[:8]).stdout
    heads = [line.split("  ")[:3] for line in shown.splitlines() if line.startswith("---")]
    assert heads[:2] == [["--- attempt 1", "failed", "killed"], ["--- attempt 2", "failed", "raised"]]
    assert heads[2][:2] == ["--- attempt 3", "done"]
    assert "was killed by SIGKILL" in shown
    assert "ValueError: no rows; password=***" in shown
    logs = call(*pool, "logs", task.id[:8]).stdout
    assert [line.split("  ")[0] for line in logs.splitlines() if line.startswith("attempt")] == [
        "attempt 1", "attempt 2", "attempt 3",
    ]  # fmt: skip
    assert "hunter2x" not in shown + logs
    found = [json.loads(line) for line in call(*pool, "attempts", task.id, "--json").stdout.splitlines()]
    assert [(one["number"], one["ending"], one["cause"]) for one in found] == [
        (1, "failed", "killed"), (2, "failed", "raised"), (3, "done", None),
    ]  # fmt: skip

    with serving(store_uri, tracking) as served:
        page.open(f"{served.address}/task?experiment=unlucky&id={task.id}")
        assert page.problems == []
        rows = page.run(
            "[...document.querySelectorAll('#attempts tbody tr')].map(r => [...r.cells].map(c => c.innerText))"
        )
        assert [row[:2] for row in rows] == [["3", "done"], ["2", "failed raised"], ["1", "failed killed"]]
        assert [row[5] for row in rows] == [run.id[:8] for run in reversed(own)]
        assert page.text("#attempts .lead") == "The task is done, after 2 failed attempts."
        assert page.run("document.querySelector('#attempt-1').open") is False
        page.run("document.querySelector('#attempt-2 summary').click()")
        assert "in fit" in page.text("#attempt-2 pre")
        assert "ValueError: no rows; password=***" in page.text("#attempt-2 pre")
        assert "SIGKILL" in page.text("#attempt-1 summary")
        page.size(390, 800)
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
