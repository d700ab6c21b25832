"""``R``: access to the runs of the current session, as used by Qlib's scripts."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollforge.errors import RecorderNotFound, TrackingUnavailable
from rollforge.session import Session, init, using
from rollforge.track.r import R


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    init(tracking_uri=f"folder:{tmp_path}/runs")


def test_starting_a_run_creates_the_tracking_folder(tmp_path: Path) -> None:
    """The folder is given as a path or as file:PATH, relative or absolute; reading from a missing folder is an
    error."""
    for number, uri in enumerate(("made/here", "file:./there", f"file:{tmp_path}/full", str(tmp_path / "plain"))):
        with R.start(experiment_name="e", uri=uri) as recorder:
            R.log_params(number=number)
            assert R.get_uri() == uri  # as it was written
            folder = recorder.get_local_dir()
            assert recorder.artifact_uri == recorder.get_artifact_uri()
        with R.uri_context(uri):
            assert R.get_recorder(experiment_name="e", recorder_id=recorder.id).list_params() == {"number": str(number)}
            assert R.get_recorder(experiment_name="e", recorder_id=recorder.id).get_local_dir() == folder
    assert R.get_uri() == f"folder:{tmp_path}/runs"
    with pytest.raises(TrackingUnavailable, match="the folder does not exist"), R.uri_context("nowhere"):
        R.list_experiments()
    assert not (tmp_path / "nowhere").exists()


def test_set_uri_changes_the_store_for_later_calls(tmp_path: Path) -> None:
    """``set_uri`` creates the folder; with None it selects the store given by the environment."""
    before = R.get_uri()
    R.set_uri("mine")
    assert R.get_uri() == "mine"
    assert (tmp_path / "mine").is_dir()
    with R.uri_context("file:mine"):
        assert R.get_uri() == "file:mine"
    assert R.get_uri() == "mine"
    R.set_uri(None)
    assert R.get_uri() not in ("mine", before)


def test_without_an_active_recorder_the_latest_is_read_and_none_is_written() -> None:
    """As in Qlib, ``R.get_recorder()`` returns the latest run of the session's experiment; values can only be logged to
    an active run."""
    with pytest.raises(RecorderNotFound, match="No recorder is active"):
        R.get_recorder()
    with R.start(recorder_name="first"), R.start(recorder_name="second") as second:
        assert R.get_recorder() == second
    assert R.get_recorder().name in ("first", "second")
    for write in (lambda: R.log_params(a=1), lambda: R.save_objects(a=1), lambda: R.set_tags(a=1)):
        with pytest.raises(RecorderNotFound, match="No recorder is active"):
            write()
    with using(Session(tracking_uri=R.get_uri(), experiment_name="another")), pytest.raises(RecorderNotFound):
        R.get_recorder()
