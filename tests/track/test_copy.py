"""Copying runs between tracking stores: a copy that is refused creates nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.documents.command_line import call

from rollforge.errors import ConfigError, ExperimentNotFound, TrackingUnavailable
from rollforge.track.base import get_experiment, open_tracker
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


@pytest.mark.parametrize("words", [("list", "{}"), ("copy", "{}", "folder:copied")])
@pytest.mark.parametrize("store", ["sqlite:///runs.db", "folder:runs"])
def test_a_store_that_does_not_exist_is_not_created(
    words: tuple[str, ...], store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a mistyped name would create an empty store."""
    monkeypatch.chdir(tmp_path)
    said = call("track", *(word.format(store) for word in words))
    assert isinstance(said.exception, ConfigError)
    assert (
        str(said.exception)
        == f"The tracking store {tmp_path / store.rpartition('/')[2].removeprefix('folder:')} does not exist."
    )
    assert not list(tmp_path.iterdir())
