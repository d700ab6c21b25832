"""Both trackers pass the conformance suite."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rollforge.errors import TrackingUnavailable
from rollforge.testing.track import TrackerSuite
from rollforge.track.base import get_experiment, open_tracker
from rollforge.track.mlflow import MLflowTracker


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
