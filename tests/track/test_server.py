"""MLflow's server: its user interface shows the runs, and runs can be tracked on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from rollforge.errors import TrackingUnavailable
from rollforge.session import Session, using
from rollforge.testing.mlflow import MLflowServer
from rollforge.track.base import Recorder, get_experiment, open_tracker
from rollforge.track.r import R
from rollforge.track.transfer import copy_runs

pytestmark = pytest.mark.slow
PREDICTION = pd.DataFrame(
    {"score": [1.0, 2.0]},
    pd.MultiIndex.from_product([[pd.Timestamp("2020-01-01")], ["A", "B"]], names=["datetime", "instrument"]),
)


def record(uri: str, name: str = "demo") -> Recorder:
    """Log a run with all kinds of values."""
    with using(Session(tracking_uri=uri)):
        with R.start(experiment_name=name, recorder_name="first"):
            R.log_params(model="lgb", text="long " * 2000)
            for step in range(3):
                R.log_metrics(step=step, **{"l2.valid": 0.5 - step / 10})
            R.set_tags(note="hello")
            R.save_objects(**{"pred.pkl": PREDICTION, "notes": ["short"]})
            R.save_objects(artifact_path="sub", deep=[1, 2])
        return R.get_recorder(experiment_name=name, recorder_name="first")


def check(recorder: Recorder) -> None:
    """Check that a run has the values that `record` logs."""
    assert recorder.status == "FINISHED"
    params = recorder.list_params()
    assert (params["model"], params["text"]) == ("lgb", "long " * 2000)
    assert recorder.list_metrics() == {"l2.valid": pytest.approx(0.3)}
    assert [m.step for m in recorder.metric_history("l2.valid")] == [0, 1, 2]
    assert recorder.list_tags()["note"] == "hello"
    pd.testing.assert_frame_equal(recorder.load_object("pred.pkl"), PREDICTION)
    assert recorder.load_object("sub/deep") == [1, 2]


def test_the_state_of_the_code_is_recorded(tmp_path: Path) -> None:
    """A tag has the commit, and an artifact the uncommitted changes; nothing is printed."""
    code = (
        "from rollforge.session import Session, using\n"
        "from rollforge.track.r import R\n"
        f"with using(Session(tracking_uri='folder:{tmp_path}/runs')):\n"
        "    with R.start(experiment_name='e', recorder_name='r'):\n        pass\n"
        "    r = R.get_recorder(experiment_name='e', recorder_name='r')\n"
        "    print(r.list_tags()['mlflow.source.git.commit'], r.list_tags()['rollforge.command'][:9], r.list_artifacts())\n"
        "    print(open(r.download_artifact('code_diff.txt')).read())\n"
    )
    repo = tmp_path / "repo"
    repo.mkdir()
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(repo)]
    (repo / "model.py").write_text("alpha = 1\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    (repo / "model.py").write_text("alpha = 2\n")
    environment = {k: v for k, v in os.environ.items() if k != "ROLLFORGE_CODE_STATE"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repo, env=environment, capture_output=True, text=True, check=True
    )
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    first, *diff = done.stdout.splitlines()
    assert first.startswith(commit)
    assert "['code_diff.txt']" in first
    assert "+alpha = 2" in diff
    assert done.stderr == ""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MLflowServer, str]]:
    """A server for a store of the default tracker, and the URI of that store."""
    folder = tmp_path_factory.mktemp("server")
    uri = f"sqlite:///{folder}/mlflow.db"
    open_tracker(uri).prepare()
    with MLflowServer(uri, folder) as running:
        yield running, uri


def test_the_user_interface_shows_recorded_runs(server: tuple[MLflowServer, str]) -> None:
    """The REST API of the user interface returns params, metrics and artifacts of a run in the SQLite store."""
    running, uri = server
    recorder = record(uri)
    (experiment,) = [e for e in running.ask("experiments/search", max_results=10)["experiments"] if e["name"] == "demo"]
    (run,) = running.ask("runs/search", experiment_ids=[experiment["experiment_id"]])["runs"]
    assert run["info"]["status"] == "FINISHED"
    assert {p["key"]: p["value"] for p in run["data"]["params"]}["model"] == "lgb"
    assert [m["value"] for m in run["data"]["metrics"] if m["key"] == "l2.valid"] == [pytest.approx(0.3)]
    listed = running.look(f"artifacts/list?run_id={recorder.id}")["files"]
    assert any("pred.pkl" in f["path"] for f in listed)


def test_runs_are_tracked_to_a_server(server: tuple[MLflowServer, str]) -> None:
    """Over HTTP, including artifacts."""
    running, _ = server
    check(record(running.uri, "remote"))


@pytest.mark.parametrize("kinds", [("folder", "sqlite"), ("sqlite", "folder"), ("file", "sqlite")], ids="-".join)
def test_runs_are_copied_between_stores(kinds: tuple[str, str], tmp_path: Path) -> None:
    """Values, histories, tags and artifacts are copied once, also from an mlruns folder as written by Qlib."""
    uris = {
        "folder": f"folder:{tmp_path}/runs",
        "sqlite": f"sqlite:///{tmp_path}/m.db",
        "file": f"file:{tmp_path}/mlruns",
    }
    (tmp_path / "mlruns").mkdir()
    source, target = (open_tracker(uris[k]) for k in kinds)
    original = record(uris[kinds[0]])
    assert [(c.experiment_name, c.runs, c.known) for c in copy_runs(source, target, ["demo"])] == [("demo", 1, 0)]
    assert [(c.runs, c.known) for c in copy_runs(source, target, ["demo"])] == [(0, 1)]
    (copied,) = get_experiment(target, experiment_name="demo").list_recorders().values()
    check(copied)
    assert copied.list_tags()["rollforge.copied_from"] == original.id


def test_a_server_is_checked_for_artifact_storage_in_advance(
    server: tuple[MLflowServer, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`check_writable` succeeds for a server that accepts artifacts, and fails for one whose clients must write them to
    a folder of the server's machine."""
    running, _ = server
    open_tracker(running.uri).check_writable("tried")
    store = tmp_path / "elsewhere"
    store.mkdir()
    open_tracker(f"sqlite:///{store}/mlflow.db").prepare()
    no_artifacts = MLflowServer(f"sqlite:///{store}/mlflow.db", store)
    monkeypatch.setitem(no_artifacts._environment, "_MLFLOW_SERVER_ARTIFACT_ROOT", "/no/such/machine/artifacts")
    with no_artifacts, pytest.raises(TrackingUnavailable, match="--serve-artifacts"):
        open_tracker(no_artifacts.uri).check_writable("tried")


def test_a_local_store_without_writable_artifacts_is_reported(tmp_path: Path) -> None:
    """The error is raised even if the database is writable."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    open_tracker(uri).prepare()
    shutil.rmtree(tmp_path / "mlartifacts")
    (tmp_path / "mlartifacts").write_text("a file")
    with pytest.raises(TrackingUnavailable, match="mlartifacts"):
        open_tracker(uri).check_writable("tried")
