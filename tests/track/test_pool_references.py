"""References in a pool to runs that other machines have recorded."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from rollforge.errors import RecorderUnreachable
from rollforge.session import Session, using
from rollforge.store.base import open_store
from rollforge.track.base import get_experiment, open_tracker
from rollforge.track.pool_references import describe_unreachable_runs, open_pool_reference, pool_reference
from rollforge.track.recorder import Recorder, RunReference
from rollforge.track.transfer import copy_runs

HERE = socket.gethostname()


def recorded(folder: Path) -> Recorder:
    """Return a finished run in a tracking folder, whose parameter ``folder`` is the folder's name."""
    tracker = open_tracker(f"folder:{folder}")
    tracker.prepare()
    recorder = get_experiment(tracker, experiment_name="e").create_recorder("r")
    recorder.log_params(folder=folder.name)
    recorder.end_run()
    return recorder


def on_another_host(recorder: Recorder) -> RunReference:
    """Return the reference to a run as a worker on another machine keeps it."""
    return {**pool_reference(recorder), "host": "elsewhere"}


def test_a_reference_names_the_host_of_a_local_store(tmp_path: Path) -> None:
    """On that host it is opened without reading the run, which may be damaged or deleted."""
    recorder = recorded(tmp_path / "runs")
    kept = pool_reference(recorder)
    assert (kept["host"], kept["recorder_id"]) == (HERE, recorder.id)
    assert open_pool_reference(kept).list_params() == {"folder": "runs"}
    assert open_pool_reference({**kept, "recorder_id": "0" * 32}).id == "0" * 32


def test_a_run_of_another_machine_is_read_from_a_shared_disk_or_from_a_copy(tmp_path: Path) -> None:
    """If neither the path of the store nor a copy in the session's store leads to the run, the error says how to copy."""
    recorder = recorded(tmp_path / "runs")
    kept, session = on_another_host(recorder), Session(tracking_uri=f"folder:{tmp_path}/here")
    with using(session):
        assert open_pool_reference(kept).list_params() == {"folder": "runs"}  # a shared disk
        (tmp_path / "runs").rename(tmp_path / "theirs")
        for _ in range(2):  # the session's store does not exist, and then it has no copy
            with pytest.raises(RecorderUnreachable, match=r"recorded on elsewhere.*rollforge track copy"):
                open_pool_reference(kept)
            recorded(tmp_path / "here")
        list(copy_runs(open_tracker(f"folder:{tmp_path}/theirs"), open_tracker(session.tracking_uri)))
        copy = open_pool_reference(kept)
        assert copy.id != recorder.id
        assert copy.list_params() == {"folder": "runs"}
        recorded(tmp_path / "runs")  # another store at the path that the reference names
        assert open_pool_reference(kept) == copy


def test_unreachable_runs_of_pools_are_counted(tmp_path: Path) -> None:
    """Only those that no store of this machine has; a pool that does not exist, and other results, are left out."""
    session = Session(store_uri=f"sqlite:///{tmp_path}/tasks.db", tracking_uri=f"folder:{tmp_path}/here")
    assert describe_unreachable_runs(session, None) == ""
    assert not (tmp_path / "tasks.db").exists()
    here, theirs = recorded(tmp_path / "here"), [recorded(tmp_path / name) for name in ("a", "b")]
    references = [pool_reference(here), *map(on_another_host, theirs)]
    for name in ("a", "b"):
        (tmp_path / name).rename(tmp_path / f"{name} of elsewhere")
    store = open_store(session.store_uri)
    results: list[object] = [*({"recorder": kept} for kept in references), {"recorder": "text"}, "text"]
    for number, result in enumerate(results):
        pool = "second" if number == 2 else "first"
        store.create(pool, [{"model": number}])
        (task,) = store.claim(pool, worker="w", lease=60.0)
        store.commit(task, result)
    with using(session):
        assert describe_unreachable_runs(session, None).startswith("2 runs were recorded on elsewhere")
        assert describe_unreachable_runs(session, "second").startswith("The run was recorded on elsewhere")
        assert describe_unreachable_runs(session, "first", run_id=theirs[0].id).startswith("The run was recorded")
        assert describe_unreachable_runs(session, "first", run_id=here.id) == ""
        assert describe_unreachable_runs(session, "third") == ""
