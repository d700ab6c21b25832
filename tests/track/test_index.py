"""The folder tracker caches runs: listing reads only runs that have changed, and is never out of date."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from rollforge.track.folder import FolderTracker
from rollforge.track.tracker import Metric, RunQuery

RUNS = 120


@pytest.fixture
def tracker(tmp_path: Path) -> FolderTracker:
    made = FolderTracker(f"folder:{tmp_path}")
    made.prepare()
    experiment = made.create_experiment("many")
    for i in range(RUNS):
        run = made.create_run(experiment, f"run {i}", {"model": "a" if i % 2 else "b"})
        made.write(run.id, {"seed": str(i)}, [Metric("IC", i / RUNS, 0, float(i))], {})
        made.update_run(run.id, "FINISHED", 2.0)
        set_old(folder_of(made, run.id))
    return made


def folder_of(tracker: FolderTracker, run_id: str) -> Path:
    return next(tracker.root.glob(f"*/{run_id}"))


def set_old(folder: Path) -> None:
    """Set the time of the last write to a minute ago."""
    past = time.time() - 60
    os.utime(folder, (past, past))


def good(tracker: FolderTracker) -> dict[str, float]:
    """Return the names and ICs of the runs of model a with a good IC."""
    (experiment,) = tracker.experiments().values()
    found = tracker.search([experiment], RunQuery(filter_string="metrics.IC > 0.5 and tags.model = 'a'"))
    return {data.info.name: data.metrics["IC"] for data in found}


def fresh(tracker: FolderTracker) -> FolderTracker:
    """Open the tracker as another process does."""
    return FolderTracker(tracker.uri)


def overwrite_values(tracker: FolderTracker) -> None:
    """Overwrite the value files of all runs directly, so that reading them raises an error."""
    for file in tracker.root.glob("*/*/values-*.jsonl"):
        file.write_text("no json\n")


def test_listing_again_reads_no_run(tracker: FolderTracker) -> None:
    """Listed runs are cached for this process and for others."""
    expected = good(tracker)
    assert len(expected) == 30
    overwrite_values(tracker)
    assert good(tracker) == expected
    assert good(fresh(tracker)) == expected


def test_a_change_by_another_process_is_seen_at_once(tracker: FolderTracker) -> None:
    """Another process writes a metric and a tag, and creates and deletes a run."""
    before = good(tracker)
    other = fresh(tracker)
    (experiment,) = other.experiments().values()
    by_name = {data.info.name: data.info.id for data in other.search([experiment], RunQuery())}
    other.write(by_name["run 1"], {}, [Metric("IC", 0.9, 1, 99.0)], {})
    other.write(by_name["run 119"], {}, [], {"model": "c"})
    other.delete_run(by_name["run 117"])
    new = other.create_run(experiment, "new", {"model": "a"})
    other.write(new.id, {}, [Metric("IC", 0.7, 0, 0.0)], {})
    expected = {k: v for k, v in before.items() if k not in ("run 119", "run 117")} | {"run 1": 0.9, "new": 0.7}
    assert good(tracker) == expected
    assert good(fresh(tracker)) == expected


def test_a_write_just_after_a_listing_is_not_lost(tracker: FolderTracker) -> None:
    """A run that was written recently is read again each time, since another write could leave the same time stamp."""
    (experiment,) = tracker.experiments().values()
    run = tracker.create_run(experiment, "busy", {"model": "a"})
    for step in range(20):
        tracker.write(run.id, {}, [Metric("IC", 0.6 + step / 100, step, float(step))], {})
        assert good(tracker)["busy"] == 0.6 + step / 100


@pytest.mark.parametrize("damage", ["", "{", '{"format": 1, "runs": [[1]]}', '{"format": 99, "runs": []}'])
def test_a_damaged_index_only_makes_listing_slower(tracker: FolderTracker, damage: str) -> None:
    """Results are right whatever the index file contains, and if it is deleted."""
    expected = good(tracker)
    (kept,) = tracker.root.glob("*/.runs.json")
    kept.write_text(damage)
    assert good(fresh(tracker)) == expected
    kept.unlink()
    assert good(fresh(tracker)) == expected
    assert kept.exists()


def test_changing_a_listed_run_does_not_change_the_cache(tracker: FolderTracker) -> None:
    """Callers get copies."""
    (experiment,) = tracker.experiments().values()
    for data in tracker.search([experiment], RunQuery()):
        data.metrics.clear()
        data.tags.clear()
    assert len(good(tracker)) == 30
