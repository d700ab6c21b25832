"""Both trackers pass the conformance suite."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier

import pytest

from rollforge.errors import ConfigError, RecorderNotFound, TrackingError, TrackingUnavailable
from rollforge.testing.track import TrackerSuite
from rollforge.track.base import get_experiment, open_tracker
from rollforge.track.filters import parse_filter
from rollforge.track.folder import FolderTracker
from rollforge.track.mlflow import MLflowTracker
from rollforge.track.tracker import FOLDER_MARK


class TestFolder(TrackerSuite):
    @pytest.fixture
    def uri(self, tmp_path: Path) -> str:
        return f"folder:{tmp_path}/runs"

    @pytest.mark.parametrize("name", ["\udcff", "a\udc80b"])
    def test_a_name_that_is_not_valid_unicode_is_kept(self, uri: str, name: str) -> None:
        """Python decodes command-line arguments that are not UTF-8 to such names."""
        tracker = open_tracker(uri)
        run = get_experiment(tracker, experiment_name=name).create_recorder("r")
        assert tracker.find_experiment(name=name) == (tracker.read(run.id).info.experiment_id, name)


@pytest.mark.parametrize("place", ["file", "loop"])
def test_an_unusable_folder_is_reported_once(tmp_path: Path, place: str) -> None:
    """The message does not contain itself."""
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(TrackingUnavailable) as caught:
        open_tracker(f"folder:{tmp_path}/{place}/runs").check_writable("e")
    assert str(caught.value).count("cannot be used") == 1


DAMAGE: list[tuple[str, str, type[TrackingError], str]] = [
    ("values", "text", TrackingError, "line 2 is damaged"),
    ("values", "[1]", TrackingError, "line 2 is damaged: found"),
    ("values", '{"name": "no time"}', TrackingError, "line 2 is damaged: found"),
    ("values", '{"t": 1, "status": 5}', TrackingError, "'status' cannot be 5"),
    ("values", '{"t": 1, "params": {"a": 1}}', TrackingError, "a param or tag is not a string"),
    ("values", '{"t": 1, "gone": [1]}', TrackingError, "a param or tag is not a string"),
    ("values", '{"t": 1, "metrics": [["a", "1.0", 0]]}', TrackingError, "line 2 is damaged: not enough values"),
    ("values", '{"t": 1, "metrics": [["a", "one", 0, 1]]}', TrackingError, "line 2 is damaged: could not convert"),
    ("values", '{"t": 1, "metrics": [["a", "1.0", 0.5, 1]]}', TrackingError, "a metric cannot be"),
    ("experiment.json", "text", TrackingError, "experiment.json is damaged"),
    ("experiment.json", "{}", TrackingError, "experiment.json is damaged"),
    ("rollforge.json", '{"format": "x"}', TrackingUnavailable, "is damaged. It should contain {'format': "),
    ("rollforge.json", '{"format": 99}', TrackingUnavailable, "by a newer Rollforge (format 99"),
]


@pytest.mark.parametrize(("file", "content", "kind", "words"), DAMAGE)
def test_a_damaged_file_is_named(
    file: str, content: str, kind: type[TrackingError], words: str, tmp_path: Path
) -> None:
    """A file of a tracking folder that somebody edited is one error with its path; an unfinished line is ignored."""
    uri = f"folder:{tmp_path}/runs"
    run = get_experiment(open_tracker(uri), experiment_name="e").create_recorder("r")
    run.log_params(a="1")
    (values,) = (tmp_path / "runs").glob("*/*/values-*.jsonl")
    first, *_ = values.read_text("utf-8").splitlines(keepends=True)
    values.write_text(first + '{"t": 1, "params"', "utf-8")
    assert open_tracker(uri).read(run.id).params == {}
    damaged = {"values": values, "rollforge.json": tmp_path / "runs" / FOLDER_MARK}.get(file, values.parents[1] / file)
    damaged.write_text(f"{first}{content}\n" if file == "values" else content, "utf-8")

    def read() -> None:
        tracker = FolderTracker(uri)
        tracker.find_experiment(name="e")
        tracker.read(run.id)

    with pytest.raises(kind) as caught:
        read()
    assert words in str(caught.value)
    assert str(damaged) in str(caught.value) or "newer" in words


def test_a_run_that_another_process_deletes_is_not_found(tmp_path: Path) -> None:
    """Reading, writing and deleting it then, and deleting its experiment again, are no accidents."""
    uri = f"folder:{tmp_path}/runs"
    experiment = get_experiment(open_tracker(uri), experiment_name="e")
    run, tracker = experiment.create_recorder("r"), open_tracker(uri)
    assert tracker.read(run.id).info.name == "r"
    open_tracker(uri).delete_run(run.id)
    for use in (tracker.read, tracker.delete_run, lambda run_id: tracker.write(run_id, {"a": "1"}, [], {})):
        with pytest.raises(RecorderNotFound, match=run.id):
            use(run.id)
    for _ in range(2):
        tracker.delete_experiment(experiment.id)
    assert tracker.experiments() == {}
    with pytest.raises(TrackingUnavailable, match="cannot be used"):
        tracker.create_run(experiment.id, "r", {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("metrics.IC > 'high'", "number"),
        ("metrics. > 1", "name"),
        ("metric.IC > 1 or metric.IC < 0", "metric.IC"),
        ("models.IC > 1", "must be one of"),
        ("params.a LIKE 3", "LIKE"),
        ("", ""),
    ],
)
def test_invalid_filters_are_quoted(text: str, words: str, tmp_path: Path) -> None:
    """The error of a filter contains it; the empty filter selects everything."""
    if not text:
        assert parse_filter(text) == ()
        return
    with pytest.raises(ConfigError) as caught:
        parse_filter(text)
    assert words in str(caught.value)


class TestMLflow(TrackerSuite):
    @pytest.fixture
    def uri(self, tracking_in: Callable[[str], str]) -> str:
        return tracking_in("mlflow")

    def test_many_threads_may_open_it_at_the_same_time(self, uri: str) -> None:
        """The threads of a collector do so if the tracker has not been opened before."""
        run = get_experiment(open_tracker(uri), experiment_name="e").create_recorder("r")
        for _ in range(10):
            tracker = MLflowTracker(uri)
            with ThreadPoolExecutor(8) as pool:
                assert {data.info.id for data in pool.map(tracker.read, [run.id] * 16)} == {run.id}

    def test_aliases_of_a_registered_model(self, uri: str) -> None:
        """An alias points at the version of a run, which is created once; only changes are written."""
        tracker = open_tracker(uri)
        assert isinstance(tracker, MLflowTracker)
        experiment = get_experiment(tracker, experiment_name="e")
        first, second = (experiment.create_recorder(name).id for name in ("first", "second"))
        assert tracker.set_model_aliases("model", {"champion": first, "candidate": second}, "us")
        assert not tracker.set_model_aliases("model", {"champion": first, "candidate": second}, "us")
        assert tracker.set_model_aliases("model", {"champion": second, "candidate": None}, "us")
        assert not tracker.set_model_aliases("model", {"candidate": None}, "us")
        with pytest.raises(ConfigError, match="created by the service 'us', so the service 'them' does not change"):
            tracker.set_model_aliases("model", {"champion": first}, "them")
        with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database:
            aliases = database.execute("SELECT alias, version FROM registered_model_aliases").fetchall()
            versions = dict(database.execute("SELECT run_id, version FROM model_versions").fetchall())
        assert sorted(versions) == sorted([first, second])
        assert aliases == [("champion", versions[second])]


def test_two_writers_of_the_same_new_tags(tmp_path: Path) -> None:
    """MLflow looks for a tag before it inserts it, so both writers can find none; neither of them fails."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run = get_experiment(open_tracker(uri), experiment_name="e").create_recorder("r").id
    trackers, begin = [MLflowTracker(uri) for _ in range(2)], Barrier(2)
    assert all(tracker.read(run).info.id == run for tracker in trackers)  # which opens them

    def write(tracker: MLflowTracker) -> None:
        try:
            for number in range(30):
                begin.wait()
                tracker.write(run, {}, [], {f"tag{number}": str(number)})
        except BaseException:
            begin.abort()
            raise

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(write, tracker) for tracker in trackers]:
            done.result()
    tags = trackers[0].read(run).tags
    assert {f"tag{number}": str(number) for number in range(30)}.items() <= tags.items()


def test_a_run_is_written_where_its_experiment_was_moved(tmp_path: Path) -> None:
    """A person may rename the folder of an experiment while a run is written."""
    tracker = FolderTracker(f"folder:{tmp_path}")
    tracker.prepare()
    run = tracker.create_run(tracker.create_experiment("e"), "first", {})
    tracker.write(run.id, {"a": "1"}, [], {})
    (folder,) = (place.parent for place in tmp_path.glob(f"*/{run.id}"))
    folder.rename(tmp_path / "renamed")
    tracker.write(run.id, {"b": "2"}, [], {})
    assert tracker.read(run.id).params == {"a": "1", "b": "2"}


def test_a_full_disk_leaves_no_incomplete_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of a new folder nor of a new experiment; when there is space again, both are completed."""
    tracker = FolderTracker(f"folder:{tmp_path}")
    write = Path.write_text

    def full(file: Path, text: str, *args: str, **kwargs: str) -> int:
        write(file, text[:3], *args, **kwargs)
        raise OSError(errno.ENOSPC, "No space left on device")

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", full)
            with pytest.raises(TrackingUnavailable, match="No space left"):
                tracker.create_experiment("new")
        assert not [file for file in tmp_path.rglob("*") if file.suffix == ".part"]
        tracker.prepare()  # the second time, only the experiment is missing
    tracker.create_experiment("new")
    assert list(tracker.experiments()) == ["new"]
