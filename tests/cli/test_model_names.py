"""Model names are shown literally where tasks are watched and listed, whatever characters they contain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.documents.command_line import call

from rollforge.cli.progress import RunProgress
from rollforge.cli.watch import _View
from rollforge.run.job import Event
from rollforge.store.manager import TaskManager
from rollforge.store.sqlite import SQLiteStore

NAME = "ridge [red]a[/red], depth=[4]"


def task(month: int) -> dict[str, Any]:
    segments = {"test": (f"2020-{month:02d}-01", f"2020-{month:02d}-28")}
    return {"model": {"class": "LGBModel"}, "dataset": {"kwargs": {"segments": segments}}}


@pytest.fixture
def manager(tmp_path: Path) -> TaskManager:
    """A pool with a running, a failed and a waiting task, the last one without a model name."""
    manager = TaskManager("p", store=SQLiteStore(f"sqlite:///{tmp_path}/tasks.db"))
    manager.create_task([task(1), task(2), task(3)], max_attempts=1, model_names=[NAME, NAME, ""])
    failed, _ = manager.store.claim("p", worker="host:1", lease=600, limit=2)
    manager.store.fail(failed, "Traceback\nValueError: bad")
    return manager


def shown(renderable: Any) -> str:
    console = Console(width=160, record=True, color_system=None)
    console.print(renderable)
    return console.export_text()


def test_watching_shows_models_and_days(manager: TaskManager) -> None:
    """Models and days are shown for running and failed tasks."""
    text = shown(_View(manager).render())
    for days in ("2020-01-01 to 2020-01-28", "2020-02-01 to 2020-02-28"):
        assert text.count(f"{NAME} {days}") == 1


def test_listing_shows_models_and_days(manager: TaskManager) -> None:
    """A task without a model name is shown with the model's class; tasks can be queried by model name."""
    uri = manager.store.uri
    listed = call("pool", "--store", uri, "-t", "p", "query").stdout.splitlines()
    assert [line.partition("attempt 1  ")[2] or line.partition("attempt 0  ")[2] for line in listed] == [
        f"{NAME} 2020-01-01 to 2020-01-28  raised  ValueError: bad",
        f"{NAME} 2020-02-01 to 2020-02-28",
        "LGBModel 2020-03-01 to 2020-03-28",
    ]
    found = call("pool", "--store", uri, "-t", "p", "query", '{"model_name": ""}').stdout
    assert found.count("\n") == 1
    (failed,) = manager.query({"status": "failed"})
    logs = call("pool", "--store", uri, "-t", "p", "logs", failed["_id"][:8]).stdout
    assert f"{NAME} 2020-01-01 to 2020-01-28" in logs


def test_progress_shows_models(tmp_path: Path) -> None:
    """Models are shown on the terminal and in the log, also for a task that is not in the plan."""
    console = Console(width=160, record=True, color_system=None, force_terminal=False)
    label = f"{NAME}, window 3, test 2020-01-01 … 2020-01-28"
    with RunProgress({"a": label}, done=0, jobs=1, console=console, log_file=tmp_path / "run.log") as progress:
        progress(Event("started", "a", "w"))
        assert label in shown(progress._render())
        progress(Event("done", "a", "w", 1.0))
        progress(Event("failed", "b", "w", error="bad", label=f"{NAME} 2020-03-01 to 2020-03-28"))
    text = console.export_text()
    assert f"done     {label} in 1.0 s" in text
    assert f"failed   {NAME} 2020-03-01 to 2020-03-28: bad" in text
    assert label in (tmp_path / "run.log").read_text(encoding="utf-8")
