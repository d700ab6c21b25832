"""MLflow's database as a file: it is deleted, replaced, or left behind in part while processes use it."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rollforge.errors import TrackingError, TrackingUnavailable
from rollforge.run.execute import task_train
from rollforge.session import Session, using
from rollforge.track.base import get_experiment
from rollforge.track.mlflow import MLflowTracker
from rollforge.track.mlflow.connection import Connection
from rollforge.track.mlflow.rows import SWITCH
from rollforge.track.tracker import Metric

KILLED = """
import os, signal, sys
from rollforge.track.base import get_experiment
from rollforge.track.mlflow import MLflowTracker
from rollforge.track.mlflow.connection import Connection
experiment = get_experiment(MLflowTracker(sys.argv[1]), experiment_name="of the killed process")
for i in range(20):
    experiment.create_recorder(f"run {i}").log_params(lr=i)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(params=["on", "off"])
def tracker(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MLflowTracker:
    """A tracker that has recorded a run, as rows or by MLflow alone."""
    monkeypatch.setenv(SWITCH, request.param)
    opened = MLflowTracker(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = get_experiment(opened, experiment_name="before")
    experiment.create_recorder("first").end_run()
    return opened


def names(database: Path) -> list[str]:
    """Return the names of the runs in a database, after checking that it is not damaged."""
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [name for (name,) in connection.execute("SELECT name FROM runs ORDER BY start_time, name")]


def remove(database: Path) -> None:
    for ending in ("", "-wal", "-shm"):
        Path(f"{database}{ending}").unlink(missing_ok=True)


def test_runs_are_not_lost_silently_in_a_deleted_database(tracker: MLflowTracker, tmp_path: Path) -> None:
    """The run that was being recorded gets an error. The next one is recorded in a new database."""
    experiment = get_experiment(tracker, experiment_name="before")
    running = experiment.create_recorder("second")
    remove(tmp_path / "mlflow.db")
    with pytest.raises(TrackingUnavailable, match=r"mlflow\.db was deleted or moved while it was in use"):
        tracker.write(running.id, {}, [Metric("ic", 0.5, 0, 0.0)], {})
    get_experiment(tracker, experiment_name="after").create_recorder("third").end_run()
    assert names(tmp_path / "mlflow.db") == ["third"]
    assert list(tracker.experiments()) == ["after", "Default"]


def test_runs_are_not_lost_silently_in_a_replaced_database(tracker: MLflowTracker, tmp_path: Path) -> None:
    """A copy of the database may be restored in its place. What follows is recorded there."""
    database = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        source.backup(copy)
    get_experiment(tracker, experiment_name="before").create_recorder("lost")
    remove(database)
    shutil.move(tmp_path / "copy.db", database)
    with pytest.raises(TrackingUnavailable, match="was replaced while it was in use"):
        tracker.experiments()
    get_experiment(tracker, experiment_name="before").create_recorder("second").end_run()
    assert names(database) == ["first", "second"]


def test_every_thread_that_recorded_in_a_deleted_database_gets_an_error(
    tracker: MLflowTracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them opens a new database while the other one still writes to the deleted one."""
    experiment = get_experiment(tracker, experiment_name="before")
    running = experiment.create_recorder("second")
    check = Connection._check_same_file

    def while_written(connection: Connection, opened: tuple[int, int] | None) -> None:
        monkeypatch.setattr(Connection, "_check_same_file", check)
        remove(tmp_path / "mlflow.db")
        with pytest.raises(TrackingUnavailable, match="was deleted or moved"):
            tracker.experiments()
        get_experiment(tracker, experiment_name="after")
        check(connection, opened)

    monkeypatch.setattr(Connection, "_check_same_file", while_written)
    with pytest.raises(TrackingUnavailable, match="was replaced while it was in use"):
        tracker.write(running.id, {}, [Metric("ic", 0.5, 0, 0.0)], {})
    assert list(tracker.experiments()) == ["after", "Default"]


def test_an_error_of_a_call_does_not_hide_that_the_database_was_replaced(
    tracker: MLflowTracker, tmp_path: Path
) -> None:
    """A dashboard that asks for a run of the new database finds it with its second request."""
    other = MLflowTracker(f"sqlite:///{tmp_path}/other/mlflow.db")
    run = get_experiment(other, experiment_name="other").create_recorder("new")
    run.end_run()
    other._connection.close()
    remove(tmp_path / "mlflow.db")
    shutil.move(tmp_path / "other" / "mlflow.db", tmp_path / "mlflow.db")
    with pytest.raises(TrackingUnavailable, match="was replaced while it was in use"):
        tracker.read(run.id)
    assert tracker.read(run.id).info.name == "new"


def test_an_emptied_database_is_an_error(tracker: MLflowTracker, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"")
    with pytest.raises(TrackingUnavailable, match="was emptied while it was in use"):
        tracker.experiments()


def test_a_task_after_the_database_was_deleted_tells_it(
    tracker: MLflowTracker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The task itself is recorded in a new database, but those before it are lost."""
    uri = tracker.uri
    with using(Session(tracking_uri=uri, experiment_name="before")):
        for i, task in enumerate(tasks(2)):
            if i:
                remove(tmp_path / "mlflow.db")
            task_train(task)
    assert "was deleted or moved while it was in use" in caplog.text
    assert len(names(tmp_path / "mlflow.db")) == 1


def test_a_task_whose_database_is_deleted_fails_and_the_next_ones_are_recorded_under_their_names(
    tracker: MLflowTracker, tmp_path: Path
) -> None:
    """The ids of experiments begin anew in the new database."""
    with using(Session(tracking_uri=tracker.uri)):
        first, second, third = tasks(3)
        for name in ("before", "another"):
            task_train(first, name)
        database = str(tmp_path / "mlflow.db")
        second["record"] = [{"class": "DeletesDatabase", "module_path": __name__, "kwargs": {"database": database}}]
        with pytest.raises(TrackingUnavailable, match="was deleted or moved while it was in use"):
            task_train(second, "another")
        for name in ("another", "before"):
            task_train(third, name)
    opened = MLflowTracker(tracker.uri)
    for name in ("another", "before"):
        assert len(get_experiment(opened, experiment_name=name).list_recorders()) == 1


class DeletesDatabase:
    """A record during which somebody deletes MLflow's database."""

    def __init__(self, database: str, **_: object) -> None:
        self.database = Path(database)

    def generate(self) -> None:
        remove(self.database)


def tasks(number: int) -> list[dict[str, Any]]:
    """Return tasks that need no data."""
    return [
        {
            "model": {"class": "ConstantModel", "module_path": "rollforge.models", "kwargs": {"value": float(i)}},
            "dataset": {"class": "EmptyDataset", "module_path": "rollforge.models.constant"},
        }
        for i in range(number)
    ]


def test_an_experiment_that_cannot_be_created_is_not_tried_again(tracker: MLflowTracker) -> None:
    called: list[str] = []
    call = tracker._connection.call
    tracker._connection.call = lambda name, *args, **more: (called.append(name), call(name, *args, **more))[1]  # type: ignore[method-assign]
    with pytest.raises(TrackingError):
        tracker.create_experiment("")
    assert called == ["create_experiment", "get_experiment_by_name"]


def test_a_database_that_is_left_alone_is_not_opened_again(tracker: MLflowTracker) -> None:
    opened = tracker._connection._process, tracker._connection._rows, tracker._connection._opened
    for _ in range(3):
        get_experiment(tracker, experiment_name="before").create_recorder("more").end_run()
    assert (tracker._connection._process, tracker._connection._rows, tracker._connection._opened) == opened


@pytest.mark.slow
def test_a_log_that_a_killed_process_left_does_not_become_part_of_a_new_database(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite would write the pages of the deleted database into the one that was created in its place."""
    database = tmp_path / "mlflow.db"
    killed = subprocess.run([sys.executable, "-c", KILLED, f"sqlite:///{database}"], check=False)
    assert killed.returncode == -9
    log = Path(f"{database}-wal").read_bytes()
    assert log
    database.unlink()
    with caplog.at_level(logging.WARNING):
        tracker = MLflowTracker(f"sqlite:///{database}")
        get_experiment(tracker, experiment_name="new").create_recorder("first").end_run()
    assert "belonged to a database that was deleted" in caplog.text
    assert names(database) == ["first"]
    assert list(tracker.experiments()) == ["new", "Default"]
    assert (tmp_path / "mlflow.db.deleted-wal").read_bytes() == log

    tracker._connection.close()
    remove(database)
    Path(f"{database}-wal").write_bytes(b"another log")
    MLflowTracker(f"sqlite:///{database}").prepare()
    assert (tmp_path / "mlflow.db.deleted-wal").read_bytes() == log
    assert (tmp_path / "mlflow.db.deleted1-wal").read_bytes() == b"another log"


@pytest.mark.slow
def test_several_trackers_create_an_experiment_with_the_name_of_a_deleted_one(tmp_path: Path) -> None:
    """An experiment that was deleted in MLflow's user interface keeps its name there."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    first = MLflowTracker(uri)
    others = [MLflowTracker(uri) for _ in range(6)]
    for _ in range(10):
        gone = first.create_experiment("same")
        MlflowClient(uri).delete_experiment(gone)
        with ThreadPoolExecutor(len(others)) as threads:
            (created,) = set(threads.map(lambda tracker: tracker.create_experiment("same"), others))
        assert first.find_experiment(name="same") == (created, "same")
        assert created != gone
