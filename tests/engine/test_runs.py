"""A run that was recorded on a cluster looks like one that was recorded here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rollforge.engine.executors import Dask
from rollforge.engine.runs import Deliveries
from rollforge.run.executor import Executor, LocalProcesses
from rollforge.run.pool_trainer import DelayTrainerRM, TrainerRM
from rollforge.session import Session, using
from rollforge.testing.mlflow import MLflowServer
from rollforge.track.base import Recorder, get_experiment, open_tracker

if TYPE_CHECKING:
    from conftest import Cluster

pytestmark = pytest.mark.slow

MODELS = '''
import os
import signal

from rollforge import R
from rollforge.models.constant import ConstantModel


class Logging(ConstantModel):
    """Logs a loss for each step, nested runs and files, and then ends as `end` says."""

    def __init__(self, value, end=""):
        super().__init__(value)
        self.end = end

    def fit(self, dataset, reweighter=None):
        R.log_params(rate=0.1, end=self.end)
        for step in range(3):
            R.log_metrics(step=step, loss=1.0 / (step + 1), again=float(step))
        R.log_metrics(once=7.0)
        R.set_tags(kind="test", text="two\\nlines")
        R.save_objects(numbers=[1, 2, 3])
        R.save_objects(artifact_path="inner/folder", **{"deep.pkl": {"a": 1}})
        R.get_recorder().flush()
        if self.end == "raise":
            raise ValueError("cannot be trained")
        if self.end == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
'''


def task(folder: Path, end: str = "") -> dict[str, Any]:
    """Return a task that ends as `end` says."""
    return {
        "model": {"class": "Logging", "module_path": str(folder / "models.py"), "kwargs": {"value": 2.0, "end": end}},
        "dataset": {"class": "EmptyDataset", "module_path": "rollforge.models.constant"},
        "record": [{"class": "SignalRecord", "module_path": "rollforge.record"}],
    }


def files(recorder: Recorder, folder: str | None = None) -> list[str]:
    """Return all files of a run."""
    found = []
    for name in recorder.list_artifacts(folder):
        inside = files(recorder, name)
        found += inside or [name]
    return sorted(found)


def described(recorder: Recorder) -> Mapping[str, Any]:
    """Return everything of a run that does not depend on when and where it was recorded."""
    metrics = recorder.list_metrics()
    measured = {name for name in metrics if name.endswith("_seconds") or "memory" in name}
    return {
        "name": recorder.name,
        "status": recorder.status,
        "params": recorder.list_params(),
        "metrics": {name: value for name, value in metrics.items() if name not in measured},
        "measured": measured,
        "histories": {
            name: [(m.step, m.value) for m in recorder.metric_history(name)] for name in set(metrics) - measured
        },
        "tags": {name: value for name, value in recorder.list_tags().items() if name in ("kind", "text")},
        "names of tags": sorted(recorder.list_tags()),
        "files": files(recorder),
    }


def train(
    kind: type[TrainerRM], executor: Executor, tasks: list[dict[str, Any]], folder: Path, tracking: str
) -> list[Recorder]:
    """Train tasks, and return all runs of the experiment, in the order of their tasks."""
    session = Session(
        threads=1, store_uri=f"sqlite:///{folder}/tasks.db", tracking_uri=tracking.format(folder=folder),
        cache=str(folder / "cache"), experiment_name="runs",
    )  # fmt: skip
    with using(session):
        kind("runs", "p", executor=executor, on_error="skip")(tasks)
        runs = get_experiment(open_tracker(session.tracking_uri), experiment_name="runs").list_recorders()
        order = [one["model"]["kwargs"]["end"] for one in tasks]
        return sorted(runs.values(), key=lambda run: order.index(run.list_params().get("end", "")))


@pytest.mark.parametrize(
    ("kind", "tracking"),
    [(TrainerRM, "sqlite:///{folder}/mlflow.db"), (DelayTrainerRM, "folder:{folder}/runs")],
    ids=["mlflow", "two stages"],
)
def test_a_run_on_a_cluster_has_the_same_history_as_a_local_one(
    cluster: Cluster, kind: type[TrainerRM], tracking: str, tmp_path: Path
) -> None:
    """Of tasks that are done, that raise, and whose process is killed."""
    (tmp_path / "models.py").write_text(MODELS)
    tasks = [task(tmp_path), task(tmp_path, "raise"), task(tmp_path, "kill")]
    runs = {}
    for name, executor in (("here", LocalProcesses(1)), ("there", Dask(cluster.address, jobs=1))):
        (tmp_path / name).mkdir()
        runs[name] = train(kind, executor, tasks, tmp_path / name, tracking)
    here, there = ([described(run) for run in runs[name]] for name in ("here", "there"))
    assert there == here
    assert [run["status"] for run in here].count("FINISHED") == 1
    done = next(run for run in runs["there"] if run.status == "FINISHED")
    assert [(m.step, m.value) for m in done.metric_history("loss")] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert done.load_object("numbers") == [1, 2, 3]
    times = [m.time for m in done.metric_history("loss")]
    began, ended = done.run_info.start_time, done.run_info.end_time
    assert ended is not None
    assert began <= times[0] <= times[-1] <= ended


def test_machines_record_runs_on_a_server_themselves(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is brought back to the driver and written there."""
    monkeypatch.delattr(Deliveries, "deliver")
    (tmp_path / "models.py").write_text(MODELS)
    (tmp_path / "server").mkdir()
    with MLflowServer(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "server") as server:
        runs = train(
            TrainerRM, Dask(cluster.address, jobs=1), [task(tmp_path), task(tmp_path, "raise")], tmp_path, server.uri
        )
        assert {run.uri for run in runs} == {server.uri}
        done = next(run for run in runs if run.status == "FINISHED")
        assert [(m.step, m.value) for m in done.metric_history("loss")] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
        assert done.load_object("numbers") == [1, 2, 3]
        assert {run.status for run in runs} == {"FINISHED", "FAILED"}
