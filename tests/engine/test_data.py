"""Data are sent to the machines of a cluster once, and tasks compute there what they compute on the driver."""

from __future__ import annotations

import fcntl
import os
import resource
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

import rollforge
from growing import DAYS, Market, prices, template
from rollforge.engine.executors import Dask, Ray
from rollforge.engine.modules import Named
from rollforge.engine.parcel import Parcel, has, here, install, make_parcel
from rollforge.errors import DataNotSent, RequirementsNotMet
from rollforge.market import content
from rollforge.market.universe import session_provider
from rollforge.run.executor import LocalProcesses
from rollforge.run.job import Job
from rollforge.run.pool_trainer import DelayTrainerRM, TrainerRM
from rollforge.run.trainer import DelayTrainerR, TrainerR
from rollforge.session import Session, current_session, using
from rollforge.store.base import open_store
from rollforge.store.memory import MemoryStore
from rollforge.task import Status
from rollforge.track.base import Recorder, get_experiment, open_tracker
from rollforge.track.folder import FolderTracker
from rollforge.track.provenance import code_diff, program_tags
from rollforge.track.transfer import deliver_runs
from second_folder import AT_HOUR, Folders

if TYPE_CHECKING:
    from conftest import Cluster

RECORD = "qlib.workflow.record_temp"
BACKTEST = {
    "class": "PortAnaRecord",
    "module_path": RECORD,
    "kwargs": {
        "config": {
            "strategy": {
                "class": "TopkDropoutStrategy", "module_path": "qlib.contrib.strategy",
                "kwargs": {"signal": "<PRED>", "topk": 2, "n_drop": 1},
            },
            "backtest": {"account": 1e6, "benchmark": "A", "exchange_kwargs": {"deal_price": "close"}},
        }
    },
}  # fmt: skip


def window(first: int, *records: Any, **handler: Any) -> dict[str, Any]:
    """Return a task that is tested on ten days."""
    made = template()
    made["dataset"]["kwargs"]["segments"] = {
        "train": (DAYS[first], DAYS[first + 40]), "test": (DAYS[first + 43], DAYS[first + 52]),
    }  # fmt: skip
    made["dataset"]["kwargs"]["handler"]["kwargs"].update(handler)
    made["record"] += records
    return made


ANALYSIS = {"class": "SigAnaRecord", "module_path": RECORD}


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    made = Market(tmp_path / "days", prices())
    made.show(DAYS[-1])
    rollforge.init(
        made.folder, tracking_uri=f"folder:{tmp_path}/runs", store_uri=f"sqlite:///{tmp_path}/tasks.db",
        cache=tmp_path / "cache", threads=1,
    )  # fmt: skip
    yield made
    rollforge.session.init()


def own(*tasks: Any) -> list[Named]:
    return [Named(task) for task in tasks]


def names(parcel: Parcel | None) -> set[str]:
    assert parcel is not None
    return {"/".join(name.split("/")[2:]) for name, _, _ in parcel.manifest.files}


def result(recorder: Recorder) -> tuple[pd.DataFrame, dict[str, float], list[str], dict[str, str]]:
    """Return what a run contains, except times and what names its machine."""
    metrics = {name: value for name, value in recorder.list_metrics().items() if not name.endswith("_seconds")}
    tags = {name: recorder.list_tags()[name] for name in ("rollforge.data", "rollforge.folder")}
    return recorder.load_object("pred.pkl"), metrics, sorted(recorder.list_artifacts()), tags


# -- what is sent ------------------------------------------------------------------------------------------------------


def machine(parcel: Parcel | None, cache: Path, session: Session | None = None) -> Session:
    """Return the session of a machine that was sent a parcel."""
    assert parcel is not None
    assert install(parcel.manifest, parcel.data, str(cache)) == ""
    assert has(parcel.manifest, str(cache))
    return here(parcel.manifest, session or current_session(), str(cache))


def test_values_are_sent_only_if_a_task_may_read_them(market: Market) -> None:
    """Predictions and their IC need the panel only; backtests and code that is not Rollforge's read what they like."""
    values, plain = "features/a/close.day.bin", window(4, ANALYSIS)
    assert values not in names(make_parcel(own(plain), current_session()))
    assert values in names(make_parcel(own(plain, window(4, BACKTEST)), current_session()))
    assert values in names(make_parcel(own(window(4, {"class": "Mine", "module_path": "mine"})), current_session()))
    assert values in names(make_parcel(own(window(4, instruments="nobody")), current_session()))
    assert values in names(make_parcel(own(plain), current_session(), [market.show]))
    assert make_parcel(own(plain), current_session(), data=False) is None


def test_values_that_were_not_sent_are_not_read_elsewhere(market: Market, tmp_path: Path) -> None:
    """The message says how to run such tasks. The original folder is not opened, even if the machine has one there."""
    session = machine(make_parcel(own(window(4)), current_session()), tmp_path / "node")
    assert session.provider_uri != str(market.folder)
    with using(session), pytest.raises(DataNotSent, match=r"but not its values.*data='shared'"):
        session_provider().has("A")


def test_tasks_with_other_handlers_get_their_panels(market: Market, tmp_path: Path) -> None:
    """Windows share a panel; each other definition of the data has its own."""
    tasks = own(window(4), window(14), window(4, start_time=DAYS[3]))
    parcel = make_parcel(tasks, current_session())
    assert parcel is not None
    assert sum(name.startswith("panels/") for name in parcel.manifest.folders) == 2
    trained_elsewhere(market, [task.definition for task in tasks], tmp_path)


def trained_elsewhere(market: Market, tasks: list[Any], tmp_path: Path) -> set[str]:
    """Train tasks here and, without the original folders, on another machine; return the files that were sent there."""
    session = current_session()
    parcel = make_parcel(own(*tasks), session)
    local = [result(r) for r in TrainerR("local").train(tasks)]
    other = machine(parcel, tmp_path / "node").with_(tracking_uri=f"folder:{tmp_path}/others")
    places = {session.provider_uri, *session.folders.values()}
    for place in places:
        os.rename(str(place), f"{place}-away")
    content._known.clear()  # of this process: the other machine has its own
    with using(other):
        remote = [result(r) for r in TrainerR("remote").train(tasks)]
    for place in places:
        os.rename(f"{place}-away", str(place))
    for one, there in zip(local, remote, strict=True):
        pd.testing.assert_frame_equal(one[0], there[0], check_exact=True)
        assert one[1:] == there[1:]
    return names(parcel)


@pytest.mark.parametrize("record", [ANALYSIS, BACKTEST])
def test_data_up_to_a_day(record: Any, market: Market, tmp_path: Path) -> None:
    """One day for all tasks needs the panel only; with several days, machines compute the panels from the values."""
    first, second = (window(4, record) | {"data_until": DAYS[60]}, window(14, record) | {"data_until": DAYS[80]})
    sent = trained_elsewhere(
        market, [first, {**first, "model": {**first["model"], "kwargs": {"estimator": "ridge"}}}], tmp_path
    )
    assert ("features/a/close.day.bin" in sent) == (record is BACKTEST)
    assert "features/a/close.day.bin" in trained_elsewhere(market, [first, second], tmp_path)


def test_second_folders(tmp_path: Path) -> None:
    """The bars of a second folder travel; of a folder that no task reads, only the calendar does."""
    (tmp_path / "at_hour.py").write_text(AT_HOUR)
    folders = Folders(tmp_path, Market(tmp_path / "days", prices()))
    folders.show(DAYS[-1])
    rollforge.init(folders.by_frequency, tracking_uri=f"folder:{tmp_path}/runs", cache=tmp_path / "cache", threads=1)
    try:
        sent = trained_elsewhere(folders.days, [folders.task()], tmp_path)
    finally:
        rollforge.session.init()
    assert {name for name in sent if name.startswith("features/a/")} == {
        "features/a/close.day.bin", "features/a/factor.day.bin", "features/a/close.60min.bin"
    }  # fmt: skip
    assert "calendars/30min.txt" in sent


def test_changed_data_are_sent_again(market: Market, tmp_path: Path) -> None:
    """A parcel of the same panel with a day more replaces it; what has not changed is not written again."""
    market.show(DAYS[100])
    before = make_parcel(own(window(4)), current_session())
    assert before is not None
    machine(before, tmp_path / "node")
    (panel,) = (tmp_path / "node" / "panels").glob("[!.]*")
    inode = panel.stat().st_ino
    machine(before, tmp_path / "node")
    assert panel.stat().st_ino == inode
    market.show(DAYS[110])
    after = make_parcel(own(window(4)), current_session())
    assert after is not None
    assert not has(after.manifest, str(tmp_path / "node"))
    machine(after, tmp_path / "node")
    assert panel.stat().st_ino != inode
    assert len(list((tmp_path / "node" / "extracts").glob("[!.]*"))) == 2


# -- the cache of a machine --------------------------------------------------------------------------------------------


@pytest.fixture
def parcel(market: Market) -> Parcel:
    made = make_parcel(own(window(4)), current_session())
    assert made is not None
    return made


def test_the_second_process_waits_for_the_first(parcel: Parcel, tmp_path: Path) -> None:
    """A folder is written under its lock. What a killed process has left is removed and blocks nothing."""
    folder = next(name for name in parcel.manifest.folders if name.startswith("panels/"))
    key = folder.rpartition("/")[2]
    left = tmp_path / "node" / "panels" / f".{key}-killed"
    left.mkdir(parents=True)
    (left / "rows").write_bytes(b"half")
    second = threading.Thread(target=install, args=(parcel.manifest, parcel.data, str(tmp_path / "node")))
    with (tmp_path / "node" / "panels" / f".{key}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        second.start()
        second.join(0.2)
        assert second.is_alive()
        assert left.exists()
    second.join(60)
    assert has(parcel.manifest, str(tmp_path / "node"))
    assert not left.exists()


def test_a_full_cache_is_reported(parcel: Parcel, tmp_path: Path) -> None:
    """The message has the reason, the size and the setting; nothing half-written is used later."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        problem = install(parcel.manifest, parcel.data, str(tmp_path / "node"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert problem == (
        f"The cache {tmp_path}/node cannot be written: File too large. It needs 1 MB; choose another folder with "
        "ROLLFORGE_CACHE."
    )
    assert not has(parcel.manifest, str(tmp_path / "node"))
    assert not list((tmp_path / "node").glob("*/.*-*"))
    assert install(parcel.manifest, parcel.data, str(tmp_path / "node")) == ""


def test_old_folders_are_removed(parcel: Parcel, market: Market, tmp_path: Path) -> None:
    """Extracts that were not used for a week, beyond the latest twenty; panels beyond the limit of the cache."""
    root = tmp_path / "node" / "extracts"
    for number in range(30):
        (root / f"{number:02}").mkdir(parents=True)
        about = root / f"{number:02}" / "rollforge-extract.json"
        about.touch()
        os.utime(about, (time.time() - (6 if number < 3 else 9) * 86_400 + number,) * 2)
    machine(parcel, tmp_path / "node")
    left = {place.name for place in root.glob("[!.]*")} & {f"{number:02}" for number in range(30)}
    assert left == {f"{number:02}" for number in (0, 1, 2, *range(14, 30))}
    market.show(DAYS[100])
    other = make_parcel(own(window(4, start_time=DAYS[2])), current_session().with_(cache_limit=1))
    machine(other, tmp_path / "node")
    assert len(list((tmp_path / "node" / "panels").glob("[!.]*"))) == 1


def test_delivered_runs_name_the_program_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run has the command and the changed code of what the user started, not of an agent; its machine stays its own."""
    there, driver = FolderTracker(f"folder:{tmp_path}/there"), FolderTracker(f"folder:{tmp_path}/driver")
    for tracker in (there, driver):
        tracker.prepare()
    tags = {"rollforge.command": "dask worker", "mlflow.source.name": "dask", "rollforge.host": "n1", "mine": "kept"}
    run = there.create_run(there.create_experiment("e"), "one", tags)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("ROLLFORGE_CODE_STATE", "on")
    changed = Path("model.py")
    changed.write_text("x = 1\n")
    for command in ("init -q", "add .", "-c user.name=a -c user.email=a@b commit -qm one"):
        subprocess.run(["git", *command.split()], check=True)
    changed.write_text("x = 2\n")
    code_diff.cache_clear()
    try:
        (made,) = deliver_runs(there, driver).values()
    finally:
        code_diff.cache_clear()
    found = driver.read(made.id).tags
    assert found == tags | program_tags()
    assert found["rollforge.command"] != "dask worker"
    assert run.id != made.id
    diff = driver.files(made.id).get("code_diff.txt")
    assert diff is not None
    assert "+x = 2" in diff.read_text()


# -- a cluster gives the results of this machine -----------------------------------------------------------------------

OWN_RECORD = """
from rollforge.record.base import RecordTemp
from rollforge.session import current_session
from qlib.data import D


class Closes(RecordTemp):
    def generate(self, **kwargs):
        closes = D.features(["A", "B"], ["$close"])
        self.recorder.log_metrics(mean_close=float(closes["$close"].mean()))
        self.save(**{"where.pkl": [str(current_session().provider_uri), __file__]})
"""


@pytest.mark.slow
def test_predictions_metrics_and_backtests_are_those_of_local_processes(
    market: Market, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal to the last bit, also for a record of the user's that reads prices. A second run sends nothing."""
    (tmp_path / "own_record.py").write_text(OWN_RECORD)
    mine = {"class": "Closes", "module_path": str(tmp_path / "own_record.py")}
    tasks = [window(4, ANALYSIS, BACKTEST, mine), window(14, ANALYSIS, BACKTEST, mine)]
    sent = counted_parcels(monkeypatch)
    local = TrainerRM("local", "local", executor=LocalProcesses(1)).train(tasks)
    remote = TrainerRM("remote", "remote", executor=Dask(cluster.address, jobs=2)).train(tasks)
    for one, there in zip(map(result, local), map(result, remote), strict=True):
        pd.testing.assert_frame_equal(one[0], there[0], check_exact=True)
        assert one[1:] == there[1:]
        assert {"mean_close", "IC", "1day.excess_return_with_cost.annualized_return"} <= set(there[1])
    for place in remote[0].load_object("where.pkl"):
        assert Path(place).is_relative_to(cluster.cache)
    assert len(sent) == 1
    assert sent[0] > 1000
    TrainerRM("again", "again", executor=Dask(cluster.address, jobs=2)).train(tasks)
    assert len(sent) == 1


def counted_parcels(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which the size of each parcel is appended when it is sent."""
    from rollforge.engine import dask

    sent: list[int] = []
    receive = dask._Ref.receive

    def counted(ref: Any, parcel: Parcel) -> Any:
        sent.append(parcel.data.nbytes)
        return receive(ref, parcel)

    monkeypatch.setattr(dask._Ref, "receive", counted)
    return sent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import importlib.metadata as m\nversion = m.version\nimport pandas\n"
         "m.version = eval(\"lambda name, known=version: '1.0' if name == 'pandas' else known(name)\", {'version': version})",
         r"has pandas 1\.0, the driver has pandas .*, so that it cannot use the panels .* Run there: pip install pandas=="),
        ("import rollforge.code_marks as c; c._LIBRARIES = c._LIBRARIES[:2]", "has other code of Rollforge .* than the driver"),
    ],
)  # fmt: skip
def test_a_machine_that_would_compute_other_panels_takes_no_task(
    code: str, said: str, market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions of the libraries that compute panels are part of their keys, as is Rollforge's code."""
    distributed = pytest.importorskip("distributed", reason="pip install 'rollforge[dask]'")
    monkeypatch.setenv("ROLLFORGE_CACHE", str(tmp_path / "node"))
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as workers,
        distributed.Client(workers.scheduler_address, set_as_default=False) as client,
    ):
        client.run(exec, code)
        with pytest.raises(RequirementsNotMet, match=f"{socket.gethostname()} {said}"):
            TrainerRM("e", "p", executor=Dask(workers.scheduler_address, jobs=1)).train([window(4)])


@pytest.mark.slow
def test_a_machine_whose_cache_cannot_be_written_takes_no_task(market: Market, cluster: Cluster) -> None:
    """The run ends with a message that names the machine, and no attempt is counted."""
    (cluster.cache / "panels").touch()
    with pytest.raises(
        RequirementsNotMet, match=f"{socket.gethostname()} cannot be sent what the tasks need. The cache"
    ):
        TrainerRM("e", "p", executor=Dask(cluster.address, jobs=2)).train([window(4)])
    (cluster.cache / "panels").unlink()
    (task,) = open_store(current_session().store_uri).query("p")
    assert (task.status, task.attempt) == (Status.WAITING, 0)


WHERE = """
import own_tags
from rollforge.record.base import RecordTemp


class Where(RecordTemp):
    def generate(self, **kwargs):
        self.recorder.set_tags(**{own_tags.NAME: self.recorder.uri})
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", [DelayTrainerR, DelayTrainerRM])
def test_second_stages_continue_a_copy_of_their_run(
    kind: type[DelayTrainerR | DelayTrainerRM], market: Market, cluster: Cluster, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """An agent does not open the driver's tracking store, and the run there gets what the agent has recorded.

    The modules that the task of the run names are sent.
    """
    (tmp_path / "own_where.py").write_text(WHERE)
    (tmp_path / "own_tags.py").write_text("NAME = 'where'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    trainer = kind("e", executor=Dask(cluster.address, jobs=1))
    (begun,) = trainer.train([window(4, {"class": "Where", "module_path": str(tmp_path / "own_where.py")})])
    trainer.end_train([begun])
    (found,) = get_experiment(open_tracker(current_session().tracking_uri), experiment_name="e").list_recorders(
        rtype="list"
    )
    assert (found.id, found.status) == (begun.id, "FINISHED")
    assert "pred.pkl" in found.list_artifacts()
    assert not found.list_tags()["where"].startswith(f"folder:{tmp_path}")


MAPPED = r"""
import re
import time
from pathlib import Path

import numpy as np
from rollforge.build import build


def mapped(task, folder, others):
    handler = build(task["dataset"]).handler
    panel = handler.panel(handler.DK_R)
    total = sum(float(np.nansum(group.values)) for group in panel.groups.values())
    (Path(folder) / str(task["number"])).touch()
    while len(list(Path(folder).iterdir())) < others:
        time.sleep(0.01)
    shared = own = 0
    for block in re.split(r"\n(?=[0-9a-f]+-)", Path("/proc/self/smaps").read_text()):
        if "/panels/" in block.partition("\n")[0]:
            own += int(re.search(r"Rss: *([0-9]+)", block)[1])
            shared += int(re.search(r"Pss: *([0-9]+)", block)[1])
    (Path(folder) / f"read-{task['number']}").touch()
    while len(list(Path(folder).iterdir())) < 2 * others:
        time.sleep(0.01)
    return {"rss": own, "pss": shared, "sum": total}
"""


@pytest.mark.slow
def test_the_tasks_of_a_machine_share_the_pages_of_a_panel(
    market: Market, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three processes that map it have a third of each page, as the kernel counts them."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "own_mapped.py").write_text(MAPPED)
    (tmp_path / "ready").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    from own_mapped import mapped  # type: ignore[import-not-found]

    store = MemoryStore()
    store.create("p", [window(4) | {"number": n} for n in range(3)], max_attempts=1)
    job = Job("p", mapped, kwargs={"folder": str(tmp_path / "ready"), "others": 3}, own=True)
    Dask(cluster.address, jobs=3).run(job, current_session(), store=store)
    found = [task.result for task in store.query("p")]
    assert all(one["rss"] > 0 and one["rss"] == found[0]["rss"] for one in found)
    assert sum(one["pss"] for one in found) == pytest.approx(found[0]["rss"], abs=10)


@pytest.mark.slow
def test_ray(market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data and modules arrive through Ray's object store as well."""
    ray = pytest.importorskip("ray", reason="pip install 'rollforge[ray]'")
    (tmp_path / "own_record.py").write_text(OWN_RECORD)
    monkeypatch.setenv("ROLLFORGE_CACHE", str(tmp_path / "node"))
    tasks = [window(4, BACKTEST, {"class": "Closes", "module_path": str(tmp_path / "own_record.py")})]
    (local,) = TrainerRM("local", "local", executor=LocalProcesses(1)).train(tasks)
    ray.init(
        num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False,
        object_store_memory=100_000_000, address="local",
    )  # fmt: skip
    try:
        (remote,) = TrainerRM("remote", "remote", executor=Ray(jobs=1)).train(tasks)
    finally:
        ray.shutdown()
    pd.testing.assert_frame_equal(result(local)[0], result(remote)[0], check_exact=True)
    assert result(local)[1:] == result(remote)[1:]
    for place in remote.load_object("where.pkl"):
        assert Path(place).is_relative_to(tmp_path / "node")
