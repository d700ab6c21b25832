"""Copying runs between tracking stores: what is refused leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollforge.errors import ExperimentNotFound, TrackingUnavailable
from rollforge.track.base import get_experiment, open_tracker
from rollforge.track.transfer import copy_runs


def test_a_source_that_cannot_be_read_leaves_no_target(tmp_path: Path) -> None:
    """A target is made only once the source has been read."""
    source, target = open_tracker(f"file:{tmp_path}/none"), open_tracker(f"folder:{tmp_path}/copied")
    with pytest.raises(TrackingUnavailable, match="no such folder"):
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
