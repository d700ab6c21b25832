"""Copying runs between tracking stores: what is copied, and that a copy that is refused creates nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.documents.command_line import call

from rollforge.errors import ConfigError, ExperimentNotFound, TrackingUnavailable
from rollforge.track.base import Recorder, get_experiment, open_tracker
from rollforge.track.experiment import PARENT_TAG
from rollforge.track.transfer import copy_runs


def test_no_target_is_created_if_the_source_cannot_be_read(tmp_path: Path) -> None:
    """The target is created only after the source has been read."""
    source, target = open_tracker(f"file:{tmp_path}/none"), open_tracker(f"folder:{tmp_path}/copied")
    with pytest.raises(TrackingUnavailable, match="the folder does not exist"):
        list(copy_runs(source, target))
    assert not list(tmp_path.iterdir())


def test_an_unknown_name_among_known_ones_copies_nothing(tmp_path: Path) -> None:
    """All names are checked before the first experiment is copied."""
    source = open_tracker(f"folder:{tmp_path}/runs")
    source.prepare()
    get_experiment(source, experiment_name="demo")
    target = open_tracker(f"folder:{tmp_path}/copied")
    with pytest.raises(ExperimentNotFound, match="no experiment 'dem0'"):
        list(copy_runs(source, target, ["demo", "dem0"]))
    assert not (tmp_path / "copied").exists()


def test_runs_are_copied_once_with_their_files_and_children(tmp_path: Path) -> None:
    """Values, histories, tags, files in folders, and status; a child names its parent's copy. An interrupted copy is
    replaced.
    """
    source, target = (open_tracker(f"folder:{tmp_path}/{name}") for name in ("runs", "copied"))
    source.prepare()
    experiment = get_experiment(source, experiment_name="demo")
    parent = experiment.create_recorder("parent")
    child = experiment.create_recorder("child", tags={PARENT_TAG: parent.id, "note": "hello"})
    child.log_params(model="lgb")
    for step in (1, 2):
        child.log_metrics(step=step, loss=1 / step)
    child.save_objects(artifact_path="deep/er", values=[1, 2])
    child.end_run("FAILED")
    parent.end_run()
    assert [(c.experiment_name, c.runs, c.known) for c in copy_runs(source, target)] == [("demo", 2, 0)]

    def copies() -> dict[str, Recorder]:
        listed = get_experiment(target, experiment_name="demo").list_recorders().values()
        return {one.list_tags()["rollforge.copied_from"]: one for one in listed}

    first = copies()
    copy = first[child.id]
    assert (copy.name, copy.status, copy.list_params()) == ("child", "FAILED", {"model": "lgb"})
    assert [(m.step, m.value) for m in copy.metric_history("loss")] == [(1, 1.0), (2, 0.5)]
    assert copy.load_object("deep/er/values") == [1, 2]
    assert copy.list_tags().items() >= {"note": "hello", PARENT_TAG: first[parent.id].id}.items()
    first[parent.id].set_tags(**{"rollforge.copying": parent.id})  # as if the process had been killed
    assert [(c.runs, c.known) for c in copy_runs(source, target, ["demo"])] == [(1, 1)]
    second = copies()
    assert second[child.id].id == copy.id
    assert second[parent.id].id != first[parent.id].id
    assert "rollforge.copying" not in second[parent.id].list_tags()


@pytest.mark.parametrize("words", [("list", "{}"), ("copy", "{}", "folder:copied")])
@pytest.mark.parametrize("store", ["sqlite:///runs.db", "folder:runs"])
def test_a_store_that_does_not_exist_is_not_created(
    words: tuple[str, ...], store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a mistyped name would create an empty store."""
    monkeypatch.chdir(tmp_path)
    said = call("track", *(word.format(store) for word in words))
    assert isinstance(said.exception, ConfigError)
    place = tmp_path / store.rpartition("/")[2].removeprefix("folder:")
    assert str(said.exception) == f"The tracking store {place} does not exist. Give the URI of another one."
    assert not list(tmp_path.iterdir())


def test_the_default_store_is_not_created_by_listing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a URI, that of the environment is listed, if it exists."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROLLFORGE_TRACKING", f"sqlite:///{tmp_path}/runs.db")
    said = call("track", "list")
    assert str(said.exception) == f"The tracking store {tmp_path}/runs.db does not exist. Give the URI of another one."
    assert not list(tmp_path.iterdir())


def test_no_uri_is_not_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty text, as of a variable of a shell that is not set, names no tracking store."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    said = call("track", "list", "")
    assert isinstance(said.exception, ConfigError)
    assert "'' does not name a tracking store." in str(said.exception)
    with pytest.raises(ConfigError, match="does not name a tracking store"):
        open_tracker("")
