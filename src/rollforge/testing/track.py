"""What every tracker must do."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.errors import ArtifactNotFound, ArtifactUnreadable, ExperimentNotFound, RecorderNotFound, UntrustedPickle
from rollforge.session import Session, using
from rollforge.track.base import Experiment, Recorder, Tracker, get_experiment, open_reference, open_tracker
from rollforge.track.r import R

__all__ = ["TrackerSuite", "prediction"]


def prediction() -> pd.DataFrame:
    """Return a small frame as records save them."""
    index = pd.MultiIndex.from_product(
        [pd.date_range("2020-01-01", periods=3), ["A", "B"]], names=["datetime", "instrument"]
    )
    return pd.DataFrame({"score": [0.1, np.nan, 0.3, 0.4, 0.5, 0.6]}, index=index)


def _saved() -> dict[str, Any]:
    return {"pred.pkl": prediction()}


class Hostile:
    """Pickles as a call of ``os.system``."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        import os

        return os.system, (f"touch {self.marker}",)


class TrackerSuite:
    """Subclass it and say where the tracker is; every test then runs on that tracker."""

    def uri(self, folder: Path) -> str:
        """Return the URI of a tracker that keeps everything below `folder`."""
        raise NotImplementedError

    @pytest.fixture
    def tracker(self, tmp_path: Path) -> Tracker:
        """The tracker under test."""
        opened = open_tracker(self.uri(tmp_path))
        opened.prepare()
        return opened

    @pytest.fixture
    def experiment(self, tracker: Tracker) -> Experiment:
        """An experiment of it."""
        return get_experiment(tracker, experiment_name="mine")

    @pytest.fixture
    def recorder(self, experiment: Experiment) -> Recorder:
        """A running recorder."""
        return experiment.create_recorder("first")

    def test_an_experiment_is_made_once(self, tracker: Tracker, experiment: Experiment) -> None:
        """The same name is the same experiment; one that is not there is named with the nearest."""
        again = get_experiment(tracker, experiment_name="mine")
        assert (again.id, again.name) == (experiment.id, "mine")
        assert tracker.experiments()["mine"] == experiment.id
        with pytest.raises(ExperimentNotFound, match="Did you mean 'mine'"):
            get_experiment(tracker, experiment_name="mien", create=False)

    def test_what_is_logged_comes_back(self, recorder: Recorder) -> None:
        """Params as text, metrics with their curve, NaN and infinity too, tags that can change and go."""
        recorder.log_params(**{"model.kwargs.depth": 8, "segments": ("a", "b")})
        for step in range(3):
            recorder.log_metrics(step=step, **{"l2.valid": step / 10})
        recorder.log_metrics(IC=0.05, none=math.nan, much=math.inf)
        recorder.set_tags(a="1", b="2")
        recorder.set_tags(a="3")
        recorder.delete_tags("b")
        recorder.end_run()
        found = open_reference(recorder.reference())
        assert found.list_params() == {"model.kwargs.depth": "8", "segments": "('a', 'b')"}
        metrics = found.list_metrics()
        assert (metrics["l2.valid"], metrics["IC"]) == (0.2, 0.05)
        assert math.isnan(metrics["none"])
        assert metrics["much"] > 1e300
        assert [(m.step, m.value) for m in found.metric_history("l2.valid")] == [(0, 0.0), (1, 0.1), (2, 0.2)]
        tags = found.list_tags()
        assert tags["a"] == "3"
        assert "b" not in tags

    def test_many_values_and_long_ones(self, recorder: Recorder) -> None:
        """Params of any number and length, thousands of metrics."""
        recorder.log_params(**{f"p{i}": i for i in range(250)}, long="x" * 20_000)
        for step in range(3000):
            recorder.log_metrics(step=step, loss=float(step))
        recorder.end_run()
        params = recorder.list_params()
        assert len(params) == 251
        assert params["long"] == "x" * 20_000
        assert len(recorder.metric_history("loss")) == 3000

    def test_a_run_has_a_status_and_times(self, recorder: Recorder) -> None:
        """RUNNING until it ends, then FINISHED or FAILED, with the time."""
        assert (recorder.status, recorder.end_time) == (Recorder.STATUS_R, None)
        recorder.end_run(Recorder.STATUS_FA)
        found = open_reference(recorder.reference())
        assert found.status == Recorder.STATUS_FA
        assert found.end_time is not None
        assert found.end_time >= found.start_time > "2020-01-01"

    def test_objects_come_back_under_their_names(self, recorder: Recorder) -> None:
        """Frames, series, plain data, arrays: equal to what was saved, listed as they were named."""
        frame = prediction()
        plain: dict[str, Any] = {"pred.pkl": frame, "task": {"segments": ("a", "b"), "n": None}}
        nested: dict[str, Any] = {"ic.pkl": frame["score"], "x.pkl": np.arange(3)}
        recorder.save_objects(**plain)
        recorder.save_objects(artifact_path="sig_analysis", **nested)
        found = open_reference(recorder.reference())
        pd.testing.assert_frame_equal(found.load_object("pred.pkl"), frame)
        pd.testing.assert_series_equal(found.load_object("sig_analysis/ic.pkl"), frame["score"])
        assert found.load_object("sig_analysis/x.pkl").tolist() == [0, 1, 2]
        assert found.load_object("task") == {"segments": ("a", "b"), "n": None}
        assert found.list_artifacts() == ["pred.pkl", "sig_analysis", "task"]
        assert found.list_artifacts("sig_analysis") == ["sig_analysis/ic.pkl", "sig_analysis/x.pkl"]

    def test_missing_and_unreadable_are_two_errors(self, recorder: Recorder, tmp_path: Path) -> None:
        """Never saved: named with the nearest. There and damaged: said so."""
        recorder.save_objects(**_saved())
        with pytest.raises(ArtifactNotFound, match=r"Did you mean 'pred\.pkl'"):
            recorder.load_object("perd.pkl")
        (kept,) = tmp_path.rglob("pred.pkl.*")
        kept.write_bytes(kept.read_bytes()[:40])
        with pytest.raises(ArtifactUnreadable):
            recorder.load_object("pred.pkl")

    def test_a_hostile_pickle_runs_nothing(self, recorder: Recorder, tmp_path: Path) -> None:
        """It is refused; `trusted` is the caller's word."""
        marker = tmp_path / "ran"
        file = tmp_path / "bad.pkl"
        file.write_bytes(pickle.dumps(Hostile(marker)))
        recorder.log_artifact(file)
        with pytest.raises(UntrustedPickle, match="system"):
            recorder.load_object("bad.pkl")
        assert not marker.exists()
        recorder.load_object("bad.pkl", trusted=True)
        assert marker.exists()

    def test_files_and_folders_are_kept(self, recorder: Recorder, tmp_path: Path) -> None:
        """A folder with all in it; a file can be fetched again."""
        (tmp_path / "notes" / "deep").mkdir(parents=True)
        (tmp_path / "notes" / "deep" / "a.txt").write_text("hello")
        recorder.save_objects(local_path=tmp_path / "notes", artifact_path="kept")
        copied = recorder.download_artifact("kept/deep/a.txt", tmp_path / "fetched")
        assert Path(copied).read_text() == "hello"

    def test_recorders_are_listed_and_found(self, experiment: Experiment, recorder: Recorder) -> None:
        """The latest first; by id, name, status and tag; one that is gone is named."""
        recorder.end_run()
        second = experiment.create_recorder("second")
        second.set_tags(kind="x")
        second.flush()
        assert set(experiment.list_recorders()) == {recorder.id, second.id}
        assert experiment.list_recorders(rtype="list", status=Recorder.STATUS_FI) == [recorder]
        assert experiment.list_recorders(rtype="list", tags={"kind": "x"}) == [second]
        assert experiment.get_recorder(recorder_name="second") == second
        assert experiment.get_recorder(recorder.id) == recorder
        frame = experiment.search_records()
        assert set(frame["run_name"]) == {"first", "second"}
        experiment.delete_recorder(second.id)
        assert list(experiment.list_recorders()) == [recorder.id]
        with pytest.raises(RecorderNotFound):
            experiment.get_recorder("0" * 32)

    def test_a_recorder_travels_as_its_reference(self, recorder: Recorder) -> None:
        """A pickle of it holds no data, and what was gathered is written first."""
        recorder.log_params(a=1)
        copy = pickle.loads(pickle.dumps(recorder))
        assert copy == recorder
        assert copy.list_params() == {"a": "1"}

    @pytest.fixture
    def session(self, tracker: Tracker) -> Iterator[Session]:
        """A session over the tracker, for `R`."""
        with using(Session(tracking=tracker.uri)) as session:
            yield session

    def test_r_runs_a_block_under_a_recorder(self, session: Session) -> None:
        """FINISHED, or FAILED when the block raises; a run can be resumed; outside there is no recorder."""
        with R.start(experiment_name="mine", recorder_name="a") as recorder:
            R.log_metrics(IC=0.1)
            R.save_objects(**_saved())
            assert R.get_recorder() == recorder
        assert R.get_recorder(recorder_id=recorder.id).status == Recorder.STATUS_FI
        with pytest.raises(ZeroDivisionError), R.start(experiment_name="mine") as failing:
            raise ZeroDivisionError
        assert R.get_recorder(recorder_id=failing.id).status == Recorder.STATUS_FA
        with R.start(experiment_name="mine", recorder_id=recorder.id, resume=True):
            R.log_metrics(more=1)
        assert set(R.get_recorder(recorder_id=recorder.id).list_metrics()) == {"IC", "more"}
        with pytest.raises(RecorderNotFound, match="No recorder is active"):
            R.get_recorder()
