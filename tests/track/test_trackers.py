"""Every tracker keeps every promise; MLflow's own client reads what was written; four processes may open it at once."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from rollforge.errors import ConfigError, TrackingUnavailable
from rollforge.testing.track import TrackerSuite
from rollforge.track.base import get_experiment, open_tracker

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # SQLAlchemy's pool closes its connections late


class TestFolder(TrackerSuite):
    def uri(self, folder: Path) -> str:
        return f"folder:{folder}/runs"


@pytest.mark.slow
class TestMLflow(TrackerSuite):
    def uri(self, folder: Path) -> str:
        return f"sqlite:///{folder}/mlflow.db"


def record(uri: str, n: int) -> None:
    tracker = open_tracker(uri)
    tracker.prepare()
    for i in range(n):
        recorder = get_experiment(tracker, experiment_name="together").create_recorder()
        recorder.log_metrics(IC=float(i))
        recorder.end_run()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["sqlite:///{}/mlflow.db", "folder:{}/runs"])
def test_processes_may_open_a_fresh_store_at_once(scheme: str, tmp_path: Path) -> None:
    """The schema is made once, the experiment too, and no run is lost."""
    uri = scheme.format(tmp_path)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=record, args=(uri, 5)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    experiment = get_experiment(open_tracker(uri), experiment_name="together", create=False)
    assert len(experiment.list_recorders()) == 15


@pytest.mark.slow
def test_mlflow_itself_reads_the_runs(tmp_path: Path) -> None:
    """Params, metrics, tags and artifacts are where MLflow looks for them, so its UI shows them."""
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    recorder = get_experiment(open_tracker(uri), experiment_name="mine").create_recorder("named")
    recorder.log_params(depth=8)
    recorder.log_metrics(IC=0.05)
    recorder.save_objects(task={"a": 1})
    recorder.end_run()
    run = MlflowClient(uri).get_run(recorder.id)
    assert (run.info.run_name, run.info.status) == ("named", "FINISHED")
    assert (run.data.params, run.data.metrics) == ({"depth": "8"}, {"IC": 0.05})
    assert [f.path for f in MlflowClient(uri).list_artifacts(recorder.id)] == ["task.plain.json"]


def test_a_half_written_line_is_passed_over(tmp_path: Path) -> None:
    """What a killed process left unfinished does not spoil the run."""
    tracker = open_tracker(f"folder:{tmp_path}/runs")
    recorder = get_experiment(tracker, experiment_name="mine").create_recorder()
    recorder.log_metrics(IC=0.5)
    recorder.end_run()
    (line, *_) = tmp_path.glob("runs/*/*/*.jsonl")
    with line.open("a") as handle:
        handle.write('{"metrics": [["IC", "0.')
    assert recorder.list_metrics() == {"IC": 0.5}


def test_a_store_that_cannot_be_meant_or_opened_is_named(tmp_path: Path) -> None:
    """One message each."""
    with pytest.raises(ConfigError, match="Did you mean 'folder'"):
        open_tracker("foldr:runs")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(TrackingUnavailable, match="cannot be used"):
        open_tracker(f"folder:{tmp_path}/file/runs").prepare()
    (tmp_path / "bad.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(TrackingUnavailable, match="cannot be opened"):
        open_tracker(f"sqlite:///{tmp_path}/bad.db").prepare()
