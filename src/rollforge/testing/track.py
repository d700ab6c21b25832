"""Conformance test suite for trackers, including your own.

::

    class TestMine(TrackerSuite):
        @pytest.fixture
        def uri(self, tmp_path):
            return f"mine:{tmp_path}"

The tests use ``open_tracker`` and read what was written through a second, independent tracker of the same store
(:meth:`TrackerSuite.reopen`), so that values that are only cached are not mistaken for stored ones.
"""

from __future__ import annotations

import math
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.errors import (
    ArtifactNotFound,
    ArtifactUnreadable,
    ConfigError,
    ExperimentNotFound,
    RecorderNotFound,
    TrackingError,
)
from rollforge.session import Session, using
from rollforge.track import tracker as opened
from rollforge.track.artifact import ArtifactRefused
from rollforge.track.base import JOINED_TAG, Experiment, Recorder, Tracker, get_experiment, open_reference, open_tracker
from rollforge.track.r import R

__all__ = ["TrackerSuite"]


class _Hostile:
    """An object whose pickle writes a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.marker,)


class TrackerSuite:
    """Subclass it and provide the fixture `uri`: a store that does not exist yet."""

    @pytest.fixture
    def uri(self) -> str:
        """URI of a new store."""
        raise NotImplementedError("a suite needs the fixture 'uri'")

    @pytest.fixture
    def tracker(self, uri: str) -> Iterator[Tracker]:
        """The store, created and opened."""
        found = open_tracker(uri)
        found.prepare()
        yield found
        opened._opener.known.clear()

    @pytest.fixture
    def experiment(self, tracker: Tracker) -> Experiment:
        """An experiment in the store."""
        return get_experiment(tracker, experiment_name="e")

    def reopen(self, uri: str) -> Tracker:
        """Return another tracker of the same store, as another process would open it."""
        opened._opener.known.clear()
        return open_tracker(uri)

    def again(self, uri: str, recorder: Recorder) -> Recorder:
        """Return a recorder as another process would see it."""
        tracker = self.reopen(uri)
        return Recorder(tracker, tracker.read(recorder.id).info)

    # -- experiments ---------------------------------------------------------------------------------------------------

    def test_an_experiment_is_created_once_and_found_by_name_and_id(self, tracker: Tracker, uri: str) -> None:
        """The same name is the same experiment in all processes."""
        made = get_experiment(tracker, experiment_name="my experiment/1")
        other = self.reopen(uri)
        assert get_experiment(other, experiment_name="my experiment/1").id == made.id
        assert get_experiment(other, experiment_id=made.id).name == "my experiment/1"
        assert other.experiments()["my experiment/1"] == made.id
        assert other.create_experiment("my experiment/1") == made.id

    def test_an_unknown_experiment_is_an_error_with_the_nearest_name(self, experiment: Experiment, uri: str) -> None:
        """Without `create`, an unknown experiment raises an error and is not created."""
        tracker = self.reopen(uri)
        get_experiment(tracker, experiment_name="rolling")
        with pytest.raises(ExperimentNotFound, match="Did you mean 'rolling'"):
            get_experiment(tracker, experiment_name="roling", create=False)
        with pytest.raises(ExperimentNotFound):
            get_experiment(tracker, experiment_id="987654321")
        assert "roling" not in tracker.experiments()

    def test_checking_for_write_access_leaves_no_run(self, tracker: Tracker, uri: str) -> None:
        """The experiment is created and has no run."""
        tracker.check_writable("tried")
        tracker.check_writable("tried")
        assert get_experiment(open_tracker(uri), experiment_name="tried", create=False).list_recorders() == {}

    @pytest.mark.parametrize("name", ["", "  "])
    def test_an_experiment_has_a_name(self, tracker: Tracker, uri: str, name: str) -> None:
        """The error is the same in all stores, and nothing is created."""
        with pytest.raises(ConfigError, match=r"experiment_name.*must not be empty"):
            get_experiment(tracker, experiment_name=name)
        assert name not in tracker.experiments()

    def test_the_name_of_a_deleted_experiment_can_be_used_again(
        self, experiment: Experiment, tracker: Tracker, uri: str
    ) -> None:
        """Its runs are deleted, and a new experiment with that name is empty."""
        old = experiment.create_recorder("r")
        tracker.delete_experiment(experiment.id)
        assert tracker.find_experiment(name="e") is None
        again = get_experiment(self.reopen(uri), experiment_name="e")
        assert again.list_recorders() == {}
        assert old.id not in again.info["recorders"]

    # -- life cycle of a run -------------------------------------------------------------------------------------------

    def test_a_run_can_be_renamed(self, experiment: Experiment, uri: str) -> None:
        """Nothing else changes, and the run is found by its new name."""
        recorder = experiment.create_recorder("old")
        recorder.log_metrics(IC=0.5)
        recorder.end_run("FAILED")
        before = self.again(uri, recorder).info
        recorder.rename("ridge, depth=4 'x'")
        assert recorder.name == "ridge, depth=4 'x'"
        seen = self.again(uri, recorder)
        assert seen.info == {**before, "name": "ridge, depth=4 'x'"}
        assert seen.list_metrics() == {"IC": 0.5}
        assert experiment.get_recorder(recorder_name="ridge, depth=4 'x'", create=False) == recorder
        with pytest.raises(RecorderNotFound):
            experiment.get_recorder(recorder_name="old", create=False)

    def test_objects_can_be_deleted(self, experiment: Experiment, uri: str) -> None:
        """Objects are deleted whatever their file format; missing objects are ignored."""
        recorder = experiment.create_recorder("r")
        objects: dict[str, Any] = {"plain": {"a": 1}, "f.pkl": pd.DataFrame({"x": [1.0]}), "kept": 2}
        recorder.save_objects(**objects)
        recorder.delete_objects("plain", "f.pkl", "nothing", "no/thing")
        assert self.again(uri, recorder).list_artifacts() == ["kept"]

    def test_joined_results_are_listed_only_on_request(self, experiment: Experiment, uri: str) -> None:
        """So that the same predictions are not collected twice, even with a limit."""
        windows = [experiment.create_recorder(f"w{i}") for i in range(2)]
        joined = [experiment.create_recorder("joined", tags={JOINED_TAG: "pool"}) for _ in range(3)]
        seen = get_experiment(self.reopen(uri), experiment_name="e")
        assert set(seen.list_recorders()) == {r.id for r in windows}
        assert len(seen.list_recorders(max_results=1)) == 1
        assert set(seen.list_recorders(max_results=2)) == {r.id for r in windows}
        assert set(seen.list_recorders(joined=True)) == {r.id for r in (*windows, *joined)}
        assert set(seen.list_recorders(joined=True, tags={JOINED_TAG: "pool"})) == {r.id for r in joined}
        assert seen.start(resume=True).id in {r.id for r in windows}
        seen.end()

    def test_a_run_starts_as_running_and_ends_with_the_given_status(self, experiment: Experiment, uri: str) -> None:
        """Status and times are stored, in Qlib's terms."""
        recorder = experiment.create_recorder("r")
        assert (recorder.status, recorder.end_time) == ("RUNNING", None)
        for status in ("SCHEDULED", "FAILED", "FINISHED"):
            recorder.end_run(status)
            seen = self.again(uri, recorder)
            assert seen.info == recorder.info
            assert seen.status == status
            assert (seen.end_time is None) == (status == "SCHEDULED")
        assert recorder.info["class"] == "Recorder"
        assert recorder.start_time == recorder.info["start_time"]
        with pytest.raises(ConfigError, match="FINISHED"):
            recorder.end_run("FINISHD")
        assert recorder.start_run().status == self.again(uri, recorder).status == "RUNNING"

    def test_a_block_that_raises_ends_the_run_failed(self, experiment: Experiment, uri: str) -> None:
        """The exception is not suppressed, and values logged before it are stored."""
        recorder = experiment.create_recorder("r")

        def work() -> None:
            with recorder:
                recorder.log_metrics(a=1.0)
                raise KeyError("deliberate")

        with pytest.raises(KeyError, match="deliberate"):
            work()
        seen = self.again(uri, recorder)
        assert (seen.status, seen.list_metrics()) == ("FAILED", {"a": 1.0})

    @pytest.mark.parametrize("word", ["one tag", "two tags", "metric", "status"])
    def test_nothing_is_written_to_a_deleted_run(self, experiment: Experiment, word: str) -> None:
        """Using it afterwards raises RecorderNotFound."""
        recorder = experiment.create_recorder()
        recorder.end_run()
        experiment.delete_recorder(recorder.id)
        say: dict[str, Callable[[], object]] = {
            "one tag": lambda: recorder.set_tags(a="1"),
            "two tags": lambda: recorder.set_tags(a="1", b="2"),
            "metric": lambda: recorder.log_metrics(a=1.0),
            "status": recorder.start_run,
        }
        with pytest.raises(RecorderNotFound):
            say[word]()

    def test_a_deleted_run_is_gone(self, experiment: Experiment, uri: str) -> None:
        """Reading, writing, and deleting it again raise RecorderNotFound; it is not listed."""
        recorder = experiment.create_recorder("r")
        recorder.save_objects(a=1)
        experiment.delete_recorder(recorder.id)
        with pytest.raises(RecorderNotFound):
            self.again(uri, recorder)
        with pytest.raises(RecorderNotFound):
            recorder.list_params()
        with pytest.raises(RecorderNotFound):
            open_reference(recorder.reference())
        with pytest.raises(RecorderNotFound):
            experiment.delete_recorder(recorder.id)
        assert experiment.list_recorders() == {}

    def test_a_recorder_is_pickled_as_a_reference(self, experiment: Experiment) -> None:
        """Its pickle is small, buffered values are written first, and the restored recorder equals the original."""
        recorder = experiment.create_recorder("r")
        recorder.log_params(a=1)
        other = experiment.create_recorder("r")
        data = pickle.dumps(recorder)
        back = pickle.loads(data)
        assert len(data) < 600
        assert back == recorder
        assert hash(back) == hash(recorder)
        assert back.list_params() == {"a": "1"}
        assert recorder != other
        assert len({recorder, other, back}) == 2
        assert open_reference(recorder.reference()) == recorder

    # -- values --------------------------------------------------------------------------------------------------------

    def test_values_are_stored(self, experiment: Experiment, uri: str) -> None:
        """Params and tags are read as text, metrics as numbers; of a curve, the last step."""
        recorder = experiment.create_recorder("r", tags={"made": "here"})
        recorder.log_params(**{"model.kwargs.lr": 0.1, "none": None, "empty": ""})
        for step in range(3):
            recorder.log_metrics(step=step, l2=3.0 - step)
        recorder.log_metrics(IC=np.float32(0.5), hits=3)
        recorder.set_tags(a=1, b="two")
        recorder.set_tags(a=2)
        recorder.end_run()
        seen = self.again(uri, recorder)
        assert seen.list_params() == {"model.kwargs.lr": "0.1", "none": "None", "empty": ""}
        assert seen.list_metrics() == {"l2": 1.0, "IC": 0.5, "hits": 3.0}
        assert {k: seen.list_tags()[k] for k in ("a", "b", "made")} == {"a": "2", "b": "two", "made": "here"}
        assert [(m.step, m.value) for m in seen.metric_history("l2")] == [(0, 3.0), (1, 2.0), (2, 1.0)]
        assert seen.metric_history("nothing") == []

    def test_buffered_values_are_written_before_reading(self, experiment: Experiment) -> None:
        """Buffered values are written before reading."""
        recorder = experiment.create_recorder("r")
        recorder.log_params(a=1)
        recorder.set_tags(t=1)
        assert recorder.list_params() == {"a": "1"}
        recorder.delete_tags("t", "never there")
        recorder.log_metrics(m=1.0)
        assert recorder.list_metrics() == {"m": 1.0}
        assert "t" not in recorder.list_tags()
        recorder.delete_tags("u")
        recorder.set_tags(u=1)
        assert recorder.list_tags()["u"] == "1"

    def test_nan_and_infinity_are_preserved(self, experiment: Experiment, uri: str) -> None:
        """NaN and infinite metrics are restored exactly, even on a curve."""
        recorder = experiment.create_recorder("r")
        recorder.log_metrics(a=math.nan, b=math.inf, c=-math.inf)
        recorder.log_metrics(step=1, curve=math.nan)
        recorder.log_metrics(step=2, curve=1.0)
        recorder.end_run()
        seen = self.again(uri, recorder)
        found = seen.list_metrics()
        assert math.isnan(found["a"])
        assert [m.step for m in seen.metric_history("curve")] == [1, 2]
        assert math.isnan(seen.metric_history("curve")[0].value)
        assert found["curve"] == 1.0
        assert (found["b"], found["c"]) == (math.inf, -math.inf)
        with pytest.raises(TrackingError, match="'d' must be a number"):
            recorder.log_metrics(d="high")
        with pytest.raises(TrackingError, match="'d' must be a number, found an integer of 1329 bits"):
            recorder.log_metrics(d=10**400)
        steps: list[Any] = ["x", math.nan, [1], 2**63, math.inf]
        for step in steps:
            with pytest.raises(TrackingError, match="The step of metrics must be a whole number"):
                recorder.log_metrics(step=step, e=1.0)
        assert "e" not in recorder.list_metrics()

    def test_names_and_values_of_any_kind(self, experiment: Experiment, uri: str) -> None:
        """Names with characters that a store does not support, and values of any length, are restored exactly."""
        names = [
            "l2@valid",
            "a:x40:b",
            ":@",
            "/abs",
            "../up",
            "a//b",
            "ü",
            "x y",
            "50%",
            "<PRED>",
            ".",
            "a\nb",
            "tail/",
        ]
        long = {"long": "é" * 20_000, "edge": "x" * 6000, "over": "y" * 6001, "lines": "a\r\nb\n" * 3000}
        recorder = experiment.create_recorder("r")
        recorder.log_params(**long, **{n: i for i, n in enumerate(names)})
        numbers: dict[str, Any] = {n: float(i) for i, n in enumerate(names)}
        recorder.log_metrics(**numbers)
        recorder.set_tags(**{"story": "z" * 9000, "l2@tag": "'quoted' \"too\""})
        recorder.end_run()
        seen = self.again(uri, recorder)
        assert seen.list_params() == {**long, **{n: str(i) for i, n in enumerate(names)}}
        assert seen.list_metrics() == numbers
        assert seen.list_tags()["story"] == "z" * 9000
        assert seen.list_tags()["l2@tag"] == "'quoted' \"too\""
        assert [m.value for m in seen.metric_history("l2@valid")] == [0.0]
        assert seen.list_artifacts() == []
        with pytest.raises(TrackingError, match="name"):
            recorder.log_params(**{"": 1})

    def test_a_param_cannot_be_changed(self, experiment: Experiment, uri: str) -> None:
        """Logging the same value again is accepted; another value is refused at once, and other values are kept."""
        recorder = experiment.create_recorder("r")
        recorder.log_params(a=1)
        recorder.log_params(a=1)
        with pytest.raises(TrackingError, match=r"'a'.*'1'.*'2'"):
            recorder.log_params(b=1, a=2)
        recorder.log_metrics(m=1.0)
        recorder.end_run()
        seen = self.again(uri, recorder)
        with pytest.raises(TrackingError, match="'a'"):
            seen.log_params(a=3)
        seen.log_params(a=1, c=1)
        assert seen.list_params() == {"a": "1", "c": "1"}
        assert seen.list_metrics() == {"m": 1.0}

    def test_many_values_at_once(self, experiment: Experiment, uri: str) -> None:
        """More values than any store accepts in one batch."""
        recorder = experiment.create_recorder("r")
        recorder.log_params(**{f"p{i}": i for i in range(350)})
        for step in range(700):
            recorder.log_metrics(step=step, a=step, b=-step, c=0)
        recorder.set_tags(**{f"t{i}": i for i in range(230)})
        recorder.end_run()
        seen = self.again(uri, recorder)
        assert seen.list_params() == {f"p{i}": str(i) for i in range(350)}
        assert [m.value for m in seen.metric_history("b")] == [-float(i) for i in range(700)]
        assert {k: v for k, v in seen.list_tags().items() if k[0] == "t" and k[1:].isdigit()} == {
            f"t{i}": str(i) for i in range(230)
        }

    def test_values_are_written_during_a_long_run(
        self, experiment: Experiment, uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With the next value logged after some seconds, without a thread."""
        recorder = experiment.create_recorder("r")
        recorder.log_metrics(a=1.0)
        assert self.again(uri, recorder).list_metrics() == {}
        monkeypatch.setattr(recorder, "_written", recorder._written - 60)
        recorder.log_metrics(b=2.0)
        assert self.again(uri, recorder).list_metrics() == {"a": 1.0, "b": 2.0}

    def test_threads_can_log_to_one_recorder(self, experiment: Experiment, uri: str) -> None:
        """No value is lost."""
        recorder = experiment.create_recorder("r")

        def work(place: int) -> None:
            for step in range(100):
                recorder.log_metrics(step=step, **{f"m{place}": step})
                if step % 25 == place:
                    recorder.flush()

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        recorder.end_run()
        seen = self.again(uri, recorder)
        assert {i: len(seen.metric_history(f"m{i}")) for i in range(4)} == dict.fromkeys(range(4), 100)

    # -- objects and files ---------------------------------------------------------------------------------------------

    def test_objects_are_loaded_by_the_names_under_which_they_were_saved(
        self, experiment: Experiment, uri: str
    ) -> None:
        """Tables, arrays, plain data and pickles are listed under their names, including those in folders."""
        index = pd.MultiIndex.from_product(
            [pd.date_range("2020-01-01", periods=3), ["A", "B"]], names=["datetime", "i"]
        )
        frame = pd.DataFrame({"score": np.arange(6.0)}, index=index)
        task = {"b": (1, 2), "a": [pd.Timestamp("2020-01-01"), None], "class": dict}
        recorder = experiment.create_recorder("r")
        objects: dict[str, Any] = {"pred.pkl": frame, "label.pkl": frame["score"], "task": task, "x": {1, 2}}
        analysis: dict[str, Any] = {"ic.pkl": frame["score"], "a": np.eye(2)}
        recorder.save_objects(**objects)
        recorder.save_objects(artifact_path="sig_analysis", **analysis)
        seen = self.again(uri, recorder)
        assert seen.list_artifacts() == ["label.pkl", "pred.pkl", "sig_analysis", "task", "x"]
        assert seen.list_artifacts("sig_analysis") == ["sig_analysis/a", "sig_analysis/ic.pkl"]
        assert seen.list_artifacts("nothing") == []
        pd.testing.assert_frame_equal(seen.load_object("pred.pkl"), frame)
        pd.testing.assert_series_equal(seen.load_object("sig_analysis/ic.pkl"), frame["score"])
        assert np.array_equal(seen.load_object("sig_analysis/a"), np.eye(2))
        assert seen.load_object("task") == task
        assert list(seen.load_object("task")) == ["b", "a", "class"]
        assert seen.load_object("x") == {1, 2}

    def test_saving_again_replaces_an_object_in_any_format(self, experiment: Experiment, uri: str) -> None:
        """The last object under a name is the one that loads."""
        recorder = experiment.create_recorder("r")
        frame = pd.DataFrame({"a": [1.0]})
        for value in ({"plain": 1}, frame, {1, 2}, np.eye(2), [3]):
            recorder.save_objects(x=value)
            found = self.again(uri, recorder).load_object("x")
            assert type(found) is type(value)
            assert recorder.list_artifacts() == ["x"]
        assert found == [3]

    def test_missing_and_unreadable_objects_are_different_errors(
        self, experiment: Experiment, uri: str, tmp_path: Path
    ) -> None:
        """Missing, damaged, refused, and no such recorder; a refused pickle executes nothing."""
        marker = tmp_path / "it ran"
        recorder = experiment.create_recorder("r")
        objects: dict[str, Any] = {"bad": _Hostile(marker), "pred.pkl": pd.DataFrame({"a": [1.0]})}
        recorder.save_objects(**objects)
        (tmp_path / "cut").write_bytes(pickle.dumps(list(range(1000)))[:500])
        (tmp_path / "t.frame.parquet").write_bytes(b"PAR1 and no more")
        (tmp_path / "j.plain.json").write_text('{"a": 1')
        for name in ("cut", "t.frame.parquet", "j.plain.json"):
            recorder.log_artifact(tmp_path / name)
        seen = self.again(uri, recorder)
        with pytest.raises(ArtifactNotFound, match=r"Did you mean 'pred.pkl'"):
            seen.load_object("pred.pk")
        for name in ("cut", "t", "j"):
            with pytest.raises(ArtifactUnreadable, match=name):
                seen.load_object(name)
        with pytest.raises(ArtifactRefused, match="trusted=True"):
            seen.load_object("bad")
        assert not marker.exists()
        seen.load_object("bad", trusted=True)
        assert marker.exists()
        with pytest.raises(RecorderNotFound):
            self.reopen(uri).read("0123456789abcdef0123456789abcdef")

    @pytest.mark.parametrize("name", ["../up", "/abs", "a/../../b", ".hidden", ""])
    def test_a_name_stays_inside_the_run(self, experiment: Experiment, name: str) -> None:
        """An artifact is never written or read outside the run."""
        recorder = experiment.create_recorder("r")
        objects: dict[str, Any] = {name: 1}
        with pytest.raises(ConfigError):
            recorder.save_objects(**objects)
        with pytest.raises(ConfigError):
            recorder.load_object(name)

    def test_files_and_folders_are_stored(self, experiment: Experiment, uri: str, tmp_path: Path) -> None:
        """Unchanged; they are downloaded one by one or as a folder."""
        (tmp_path / "in" / "deep").mkdir(parents=True)
        (tmp_path / "in" / "one.txt").write_text("1")
        (tmp_path / "in" / "deep" / "two.txt").write_text("2")
        recorder = experiment.create_recorder("r")
        recorder.log_artifact(tmp_path / "in" / "one.txt")
        recorder.save_objects(local_path=tmp_path / "in", artifact_path="kept")
        seen = self.again(uri, recorder)
        assert seen.list_artifacts() == ["kept", "one.txt"]
        assert seen.list_artifacts("kept") == ["kept/deep", "kept/one.txt"]
        assert Path(seen.download_artifact("one.txt")).read_text() == "1"
        there = Path(seen.download_artifact("kept", tmp_path / "out"))
        assert there == tmp_path / "out" / "kept"
        assert (there / "deep" / "two.txt").read_text() == "2"
        with pytest.raises(ArtifactNotFound):
            seen.download_artifact("nothing")
        with pytest.raises(ArtifactNotFound):
            recorder.log_artifact(tmp_path / "nothing")

    # -- many runs -----------------------------------------------------------------------------------------------------

    def test_runs_are_found_by_their_values(self, experiment: Experiment, uri: str) -> None:
        """By status, name, params, tags or MLflow's filter language; latest first, or in a given order."""
        for i in range(6):
            recorder = experiment.create_recorder(f"n{i % 2}", tags={"kind": "a'b" if i < 2 else "plain", "t@g": i})
            recorder.log_params(i=i, long="x" * 7000 if i == 3 else "short", **{"p@q": i % 3})
            numbers: dict[str, Any] = {"IC": i / 10, "l2@v": -i}
            recorder.log_metrics(**numbers)
            recorder.end_run("FAILED" if i == 5 else "FINISHED")
        seen = Experiment(self.reopen(uri), experiment.id, experiment.name)

        def found(**query: Any) -> list[int]:
            return [int(r.list_params()["i"]) for r in seen.list_recorders("list", **query)]

        assert sorted(found()) == list(range(6))
        assert found(status="FAILED") == [5]
        assert sorted(found(status=["FAILED", "FINISHED"])) == list(range(6))
        assert sorted(found(name="n1")) == [1, 3, 5]
        assert sorted(found(tags={"kind": "a'b"})) == [0, 1]
        assert found(tags={"t@g": 4}) == [4]
        assert found(params={"long": "x" * 7000}) == [3]
        assert sorted(found(params={"p@q": 1}, status="FINISHED")) == [1, 4]
        assert sorted(found(filter_string="metrics.IC > 0.25 and params.`p@q` != '0'")) == [4, 5]
        assert sorted(found(filter_string="metrics.\"l2@v\" >= -1 and tags.kind LIKE 'a%'")) == [0, 1]
        assert found(filter_string="attributes.status = 'FAILED'", order_by=["metrics.IC ASC"]) == [5]
        assert found(order_by=["metrics.IC DESC"], max_results=2) == [5, 4]
        assert found(order_by=["metrics.`l2@v` DESC"], max_results=2) == [0, 1]
        assert len(found(max_results=4)) == 4
        assert list(seen.list_recorders(status="FAILED").values()) == seen.list_recorders("list", status="FAILED")
        for wrong in ("IC > 1", "metrics.IC > 'a'", "params.i ~ 1", "metrics.IC >"):
            with pytest.raises(ConfigError):
                seen.list_recorders(filter_string=wrong)

    def test_a_name_means_the_latest_run_with_it(self, experiment: Experiment) -> None:
        """By id or name; otherwise it is created, or an error suggests the nearest name."""
        first = experiment.create_recorder("one")
        assert experiment.get_recorder(recorder_name="one") == first
        assert experiment.get_recorder(first.id) == first
        with pytest.raises(RecorderNotFound, match="Did you mean 'one'"):
            experiment.get_recorder(recorder_name="onee", create=False)
        with pytest.raises(RecorderNotFound):
            experiment.get_recorder("0123456789abcdef0123456789abcdef")
        made = experiment.get_recorder(recorder_name="two")
        assert made.name == "two"
        assert set(experiment.list_recorders()) == {first.id, made.id}
        assert set(experiment.info["recorders"]) == {first.id, made.id}

    def test_the_frame_of_runs_has_mlflows_columns(self, experiment: Experiment) -> None:
        """Missing metrics are NaN, missing params and tags None; times are in UTC."""
        with experiment.create_recorder("a") as one:
            one.log_params(p=1)
            one.log_metrics(m=0.5)
        two = experiment.create_recorder("b")
        frame: Any = experiment.search_records().set_index("run_id")
        assert {"experiment_id", "status", "artifact_uri", "start_time", "end_time", "metrics.m", "params.p"} <= set(
            frame
        )
        assert frame.loc[one.id, "metrics.m"] == 0.5
        assert math.isnan(frame.loc[two.id, "metrics.m"])
        assert (frame.loc[one.id, "params.p"], frame.loc[two.id, "params.p"]) == ("1", None)
        assert str(frame["start_time"].dt.tz) == "UTC"
        assert frame["end_time"].isna().to_dict() == {one.id: False, two.id: True}
        assert list(experiment.search_records(filter_string="metrics.m > 0")["run_id"]) == [one.id]
        assert len(experiment.search_records(max_results=1)) == 1
        with pytest.raises(ConfigError, match="run_view_type"):
            experiment.search_records(run_view_type=3)

    # -- R -------------------------------------------------------------------------------------------------------------

    def test_r_starts_resumes_and_ends_runs(self, tracker: Tracker, uri: str) -> None:
        """Start, log, end, find, resume and delete, as in Qlib."""
        with using(Session(tracking_uri=uri)):
            with R.start(experiment_name="e", recorder_name="r") as recorder:
                assert R.get_recorder() is recorder
                assert R.get_exp().active_recorder is recorder
                R.log_params(a=1)
                R.log_metrics(step=1, m=2.0)
                R.set_tags(t=1)
                R.save_objects(x=[1])
                with R.start(experiment_name="other") as inner:
                    assert R.get_recorder() is inner
                assert R.get_recorder() is recorder
            assert recorder.status == "FINISHED"
            with pytest.raises(RecorderNotFound, match=r"R\.start"):
                R.get_recorder()
            again = R.get_recorder(recorder_name="r", experiment_name="e")
            assert again == recorder == R.get_recorder(recorder_id=recorder.id)
            assert (again.list_params(), again.load_object("x")) == ({"a": "1"}, [1])
            assert set(R.list_experiments()) >= {"e", "other"}

            def work() -> None:
                with R.start(experiment_name="e", recorder_id=recorder.id, resume=True) as resumed:
                    assert resumed == recorder
                    R.log_metrics(step=2, m=3.0)
                    raise KeyError("deliberate")

            with pytest.raises(KeyError, match="deliberate"):
                work()
            assert R.get_recorder(recorder_id=recorder.id).status == "FAILED"
            assert [m.value for m in again.metric_history("m")] == [2.0, 3.0]
            frame = R.search_records([recorder.experiment_id])
            assert list(frame["run_id"]) == [recorder.id]
            R.delete_recorder(recorder_id=recorder.id)
            assert R.list_recorders(experiment_name="e") == {}
            R.delete_exp(experiment_name="other")
            assert "other" not in R.list_experiments()
            assert R.get_uri() == tracker.uri
