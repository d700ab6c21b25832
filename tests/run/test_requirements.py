"""A worker checks requirements before it claims tasks, and distinguishes its own failures from those of tasks.

The workers are real processes. Other machines are simulated by other host names (``unshare --uts``) where the system
allows it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.documents.command_line import run

from rollforge import Session, TaskManager, trust
from rollforge.cli.exit_codes import Exit
from rollforge.errors import CodeNotAllowed, FailingWorker, RequirementsNotMet, TrainingFailed
from rollforge.machine import machine_of, process_name
from rollforge.market.content import read_content
from rollforge.run import requirements, worker_health
from rollforge.run.job import Job, LogEvents
from rollforge.run.leases import Leases
from rollforge.run.requirements import Admission
from rollforge.run.runners import LocalRunners
from rollforge.run.starts import Starts
from rollforge.run.submission import submission_info
from rollforge.run.worker import Worker, run_task
from rollforge.run.worker_health import WorkerHealth
from rollforge.run.worker_pool import WorkerPool
from rollforge.store.base import TaskStore, open_store
from rollforge.store.memory import MemoryStore
from rollforge.task import Cause, Status, TaskRecord

NAMESPACES = os.geteuid() == 0 and shutil.which("unshare") is not None
needs_namespaces = pytest.mark.skipif(not NAMESPACES, reason="another host name needs root and unshare (util-linux)")

MODEL = '''
import os, time
from rollforge.models import ConstantModel


class Model(ConstantModel):
    """A model that works on healthy machines."""

    def fit(self, dataset, reweighter=None):
        time.sleep(float(os.environ.get("TAKES", "0.05")))
        if os.environ.get("BROKEN"):
            raise OSError("libgomp.so.1: cannot open shared object file")
        if self.value < 0:
            raise ValueError("this model never works")
        super().fit(dataset)
'''


def definition(value: float) -> dict[str, Any]:
    """Return a task that reads no data."""
    return {
        "model": {"class": "Model", "module_path": "my_models", "kwargs": {"value": value}},
        "dataset": {"class": "EmptyDataset", "module_path": "rollforge.models.constant"},
    }


def worker(
    folder: Path, *options: str, host: str = "", pool: str = "p", jobs: int = 1, **environment: str
) -> subprocess.Popen[str]:
    """Start a worker, if `host` is given with that host name."""
    command = [
        sys.executable,
        "-m",
        "rollforge",
        "worker",
        "-t",
        pool,
        "--exit-when-empty",
        "--jobs",
        str(jobs),
        *options,
    ]
    if host:
        command = ["unshare", "--uts", "sh", "-c", f"hostname {host} && exec {shlex.join(command)}"]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}", "ROLLFORGE_ALLOW": "my_models",
             "ROLLFORGE_STORE": f"sqlite:///{folder}/tasks.db", **environment},
    )  # fmt: skip


def ended(process: subprocess.Popen[str], seconds: float = 150) -> tuple[int, str]:
    """Wait for a worker to exit, and return its exit code and output."""
    out, _ = process.communicate(timeout=seconds)
    return process.returncode, out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_models.py").write_text(MODEL)
    return tmp_path


def pool(folder: Path, values: list[float], **options: Any) -> TaskManager:
    """Create a pool of tasks without a submission."""
    manager = TaskManager("p", store=open_store(f"sqlite:///{folder}/tasks.db"))
    manager.create_task([definition(v) for v in values], **options)
    return manager


RUNS = ("--no-data", "--tracking", "folder:runs")


# -- failures of a machine ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "host", ["", pytest.param("bad-machine", marks=needs_namespaces)], ids=["same host", "another host"]
)
def test_one_bad_worker_does_not_fail_the_pool(host: str, folder: Path) -> None:
    """All forty tasks are done; the bad worker, which started first, exits with its own exit code and the reason."""
    manager = pool(folder, [float(i) for i in range(40)])
    bad = worker(folder, *RUNS, host=host, jobs=2, BROKEN="1", TAKES="0")
    time.sleep(1.0)
    good = worker(folder, *RUNS, TAKES="0.2")
    assert ended(good)[0] == Exit.DONE
    code, said = ended(bad)
    assert manager.task_stat() == {Status.DONE: 40}
    assert code == Exit.FAILING, said
    assert "in a row failed on this machine" in said
    assert "libgomp" in said
    assert "Traceback" not in said.split("tasks of pool")[-1]
    failed = [t for t in manager.store.query("p") if t.failed_by]
    assert 3 <= len(failed) <= 8
    assert {len(t.failed_by) for t in failed} == {1}  # none was retried on the worker where it failed


@pytest.mark.slow
@pytest.mark.parametrize("takes", ["0.3", "4"], ids=["short tasks", "long tasks"])
def test_as_many_bad_workers_as_attempts_do_not_fail_the_pool(takes: str, folder: Path) -> None:
    """No task fails, even if four bad workers start together with a good one, and fail several tasks each before the
    good one has finished its first."""
    manager = pool(folder, [float(i) for i in range(8 if takes == "4" else 40)], max_attempts=3)
    bad = [worker(folder, *RUNS, BROKEN="1", TAKES="0") for _ in range(4)]
    good = worker(folder, *RUNS, TAKES=takes, jobs=2)
    assert ended(good)[0] == Exit.DONE
    ends = [ended(process) for process in bad]
    assert manager.task_stat() == {Status.DONE: len(list(manager.store.query("p")))}
    assert {code for code, _ in ends} <= {Exit.FAILING, Exit.DONE}, ends


@pytest.mark.slow
def test_tasks_fail_with_their_causes_if_all_machines_are_bad(folder: Path) -> None:
    """Waiting for them ends."""
    manager = pool(folder, [float(i) for i in range(4)], max_attempts=2)
    both = [worker(folder, *RUNS, BROKEN="1", TAKES="0") for _ in range(2)]
    assert manager.wait(warn=False) == {Status.FAILED: 4}
    assert [ended(process)[0] for process in both] == [Exit.DONE, Exit.DONE]
    assert {t.cause for t in manager.store.query("p")} == {Cause.RAISED}
    assert all("libgomp" in str(t.error) for t in manager.store.query("p"))


@pytest.mark.slow
def test_faulty_tasks_do_not_stop_healthy_workers(folder: Path) -> None:
    """Although five tasks that fail on any worker come first, the others are done, and both workers exit normally."""
    manager = pool(folder, [*(-1.0 - i for i in range(5)), *(float(i) for i in range(10))], max_attempts=2)
    both = [worker(folder, *RUNS, TAKES="0.1") for _ in range(2)]
    assert [ended(process)[0] for process in both] == [Exit.DONE, Exit.DONE]
    assert manager.task_stat() == {Status.FAILED: 5, Status.DONE: 10}


@pytest.mark.slow
def test_a_lone_worker_retries_its_own_failures(folder: Path) -> None:
    """The tasks that a lone worker retries fail after their last attempt, within a limited time, since there is no
    other worker to retry them."""
    manager = pool(folder, [-1.0], max_attempts=3)
    began = time.monotonic()
    assert ended(worker(folder, *RUNS, TAKES="0"))[0] == Exit.DONE
    assert manager.task_stat() == {Status.FAILED: 1}
    assert time.monotonic() - began < 120  # 15 s on a quiet machine: two waits of some seconds, and the start


def fail_in_a_row(store: TaskStore, health: WorkerHealth, me: str, n: int) -> list[Any]:
    """Let `n` tasks in a row fail on a worker."""
    tasks = store.claim("p", worker=me, lease=600, limit=n)
    for task in tasks:
        store.fail(task, "boom")
        health.failed(task, "OSError: boom")
    return tasks


def run_on(store: TaskStore, other: str, ids: list[str], *, good: bool = True) -> None:
    """Run some tasks on another worker, where they succeed if `good`."""
    for task in store.claim("p", worker=other, lease=600, query={"_id": {"$in": ids}}, limit=99):
        if good:
            store.commit(task, 1)
        else:
            store.fail(task, "boom too")


@pytest.fixture
def forty(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """A store with forty tasks, which can be claimed again at once after a failure."""
    monkeypatch.setattr("rollforge.transitions.backoff", lambda attempt: 0.0)
    store = MemoryStore()
    store.create("p", [{"x": i} for i in range(40)])
    return store


def test_a_worker_pauses_after_three_failures_until_others_have_tried(forty: MemoryStore) -> None:
    """If its failed tasks succeed on other workers, it stops claiming tasks."""
    health = WorkerHealth(forty, "p", "me")
    assert health.claim_limit(5) == 5
    tasks = fail_in_a_row(forty, health, "me", 3)
    assert health.claim_limit(5) == 0
    assert health.holds()
    run_on(forty, "other", [t.id for t in tasks])
    with pytest.raises(FailingWorker, match=r"3 tasks .* 3 of them succeeded on other workers.*boom"):
        health.finish()


def test_tasks_that_fail_on_other_workers_too_do_not_count(forty: MemoryStore) -> None:
    """Failures of tasks that fail on other workers too are the tasks' fault."""
    health = WorkerHealth(forty, "p", "me")
    tasks = fail_in_a_row(forty, health, "me", 4)
    run_on(forty, "other", [t.id for t in tasks[:2]], good=False)
    run_on(forty, "other", [t.id for t in tasks[2:]])
    assert health.claim_limit(5) == 5
    health.finish()


def test_a_failure_is_doubtful_while_the_task_may_succeed_elsewhere(forty: MemoryStore) -> None:
    """A failure does not count while other workers have succeeded, or are running tasks and have not failed yet. If all
    workers fail, or this one has succeeded, it counts."""

    def doubtful() -> bool:
        (task,) = forty.claim("p", worker="me", lease=600)
        return health.is_doubtful(task)

    health = WorkerHealth(forty, "p", "me")
    assert not doubtful(), "there is no other worker"
    (theirs,) = forty.claim("p", worker="other", lease=600)
    assert doubtful()
    forty.fail(theirs, "boom")
    forty.claim("p", worker="other", lease=600)
    assert not doubtful(), "the other one fails too"
    for task in forty.claim("p", worker="third", lease=600):
        forty.commit(task, 1)
    assert doubtful()
    health.succeeded()
    assert not doubtful()
    fail_in_a_row(forty, health, "me", 2)
    assert doubtful(), "it has failed several times in a row"


def test_failures_on_two_bad_workers_do_not_clear_either(forty: MemoryStore) -> None:
    """Tasks that failed on two workers and then succeed on a third are evidence against both; until then, both wait."""
    both = {name: WorkerHealth(forty, "p", name) for name in ("bad 1", "bad 2")}
    forty.claim("p", worker="good", lease=600, query={"x": 39})
    tasks = fail_in_a_row(forty, both["bad 1"], "bad 1", 3)
    retried = forty.claim("p", worker="bad 2", lease=600, query={"_id": {"$in": [t.id for t in tasks]}}, limit=3)
    for task in retried:
        forty.fail(task, "boom")
        both["bad 2"].failed(task, "OSError: boom")
    assert [health.claim_limit(5) for health in both.values()] == [0, 0]
    run_on(forty, "good", [t.id for t in tasks])
    for health in both.values():
        with pytest.raises(FailingWorker):
            health.finish()
        assert sorted(health.failed_here) == sorted(t.id for t in tasks)


def test_a_success_resets_the_count_of_failures(forty: MemoryStore) -> None:
    """Failures before and after a success are not in a row."""
    health = WorkerHealth(forty, "p", "me")
    fail_in_a_row(forty, health, "me", 2)
    health.succeeded()
    fail_in_a_row(forty, health, "me", 2)
    assert health.claim_limit(5) == 5


def test_a_few_failures_are_no_evidence_if_tasks_fail_everywhere(forty: MemoryStore) -> None:
    """A third of the attempts fail on the other workers too, so three tasks that succeed there are no evidence."""
    health = WorkerHealth(forty, "p", "me")
    for _ in range(6):
        health.succeeded()
    tasks = fail_in_a_row(forty, health, "me", 3)
    mine = [t.id for t in tasks]
    rest = [t.id for t in forty.query("p", {"status": "waiting", "_id": {"$nin": mine}})]
    run_on(forty, "other", rest[:10], good=False)
    run_on(forty, "other", rest[10:20])
    run_on(forty, "other", mine)
    health.finish()


@pytest.mark.parametrize("succeeded_before", [True, False])
def test_a_worker_with_successes_needs_stronger_evidence(forty: MemoryStore, succeeded_before: bool) -> None:
    """Four failures with a probability of 0.24 % stop a worker without successes; one with successes only below 0.1 %."""
    health = WorkerHealth(forty, "p", "me")
    for _ in range(6 if succeeded_before else 0):
        health.succeeded()
    mine = [t.id for t in fail_in_a_row(forty, health, "me", 4)]
    rest = [t.id for t in forty.query("p", {"status": "waiting", "_id": {"$nin": mine}})]
    run_on(forty, "other", rest[:5], good=False)
    run_on(forty, "other", rest[5:15])
    run_on(forty, "other", mine)
    if succeeded_before:
        health.finish()
    else:
        with pytest.raises(FailingWorker):
            health.finish()


def test_a_worker_continues_if_no_other_worker_is_running(forty: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker waits longer while another worker runs tasks, and then tries a single one."""
    health = WorkerHealth(forty, "p", "me")
    fail_in_a_row(forty, health, "me", 3)
    assert health.claim_limit(5) == 0
    monkeypatch.setattr(worker_health, "_HOLD_SECONDS", 0.0)
    time.sleep(1.1)
    assert health.claim_limit(5) == 5
    forty.claim("p", worker="other", lease=600)
    time.sleep(1.1)
    assert health.claim_limit(5) == 0
    monkeypatch.setattr(worker_health, "_PROBE_SECONDS", 0.0)
    time.sleep(1.1)
    assert health.claim_limit(5) == 1
    assert health.claim_limit(5) == 0


def test_a_failed_task_goes_to_another_worker_first(forty: MemoryStore) -> None:
    """Two workers in one process, one of which fails everything: each task fails at most once, and all are done."""

    def good(task: dict[str, Any]) -> int:
        time.sleep(0.02)
        return int(task["x"])

    def bad(task: dict[str, Any]) -> int:
        raise OSError("disk full")

    left: list[BaseException] = []

    def run_bad() -> None:
        try:
            Worker(forty, Job("p", bad), name="bad:1", wait_for_others=True).run()
        except FailingWorker as exc:
            left.append(exc)

    thread = threading.Thread(target=run_bad)
    thread.start()
    time.sleep(0.2)
    Worker(forty, Job("p", good), name="good:1").run()
    thread.join(60)
    assert forty.count("p") == {Status.DONE: 40}
    assert len(left) == 1
    assert Counter(name for t in forty.query("p") for name in t.failed_by).keys() == {"bad:1"}


def die() -> None:
    """Exit, as a broken library may when it is imported."""
    with Path(os.environ["STARTS"]).open("a") as file:
        file.write(f"{time.monotonic()}\n")
    os._exit(3)


def count_of_starts() -> int:
    """Return how many processes have died in :func:`die`."""
    starts = Path(os.environ["STARTS"])
    return len(starts.read_text().splitlines()) if starts.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize(("jobs", "tasks", "starts"), [(1, 1, 3), (8, 1, 3), (3, 3, 6)])
def test_a_process_that_cannot_start_does_not_count_as_an_attempt(
    jobs: int, tasks: int, starts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that exits before it has received its task says nothing about the task; after three such processes, and
    two for each task that runs beside others, the worker raises an error. Processes without a task do not count."""
    monkeypatch.setenv("STARTS", str(tmp_path / "starts"))
    store = MemoryStore()
    store.create("p", [{"x": n} for n in range(tasks)])
    with pytest.raises(TrainingFailed, match="exit before they can run a task"):
        WorkerPool(store, Job("p", len, preload=die), Session(threads=1), jobs=jobs).run()
    assert {(task.status, task.attempt, task.failed_by) for task in store.query("p")} == {(Status.WAITING, 0, ())}
    assert count_of_starts() == starts


def die_every_other_time() -> None:
    """Exit, as a process that the system kills while it starts."""
    starts = Path(os.environ["STARTS"])
    with starts.open("a") as file:
        file.write("x")
    if starts.stat().st_size % 2:
        os._exit(3)


@pytest.mark.slow
def test_processes_that_cannot_start_are_counted_in_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long job goes on if now and then a process dies while it starts, and others run tasks in between."""
    monkeypatch.setenv("STARTS", str(tmp_path / "starts"))
    store = MemoryStore()
    store.create("p", [{"x": n} for n in range(4)])
    job = Job("p", len, preload=die_every_other_time, force_release=True)
    WorkerPool(store, job, Session(threads=1), jobs=1).run()
    assert store.count("p") == {Status.DONE: 4}
    assert {task.attempt for task in store.query("p")} == {0}
    assert (tmp_path / "starts").stat().st_size >= 8


def die_at_first() -> None:
    """Exit, if fewer than three other processes have done so."""
    starts = Path(os.environ["STARTS"])
    with starts.open("a") as file:
        file.write("x")
        file.flush()
        if starts.stat().st_size <= 3:
            os._exit(3)


@pytest.mark.slow
def test_of_many_processes_some_may_die_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four processes that start at the same time may lack memory; three that die do not end the job of the fourth."""
    monkeypatch.setenv("STARTS", str(tmp_path / "starts"))
    store = MemoryStore()
    store.create("p", [{"x": n} for n in range(4)])
    WorkerPool(store, Job("p", len, preload=die_at_first), Session(threads=1), jobs=4).run()
    assert store.count("p") == {Status.DONE: 4}


def die_unless_first() -> None:
    """Exit, unless no other process has started before."""
    try:
        Path(os.environ["STARTS"]).with_name("first").touch(exist_ok=False)
    except FileExistsError:
        die()


def run_until_three_died(task: object) -> int:
    """Wait until three other processes have died while they started."""
    until = time.monotonic() + 120
    while count_of_starts() < 3:
        assert time.monotonic() < until, "no other process is started"
        time.sleep(0.05)
    return 1


@pytest.mark.slow
def test_processes_that_cannot_start_do_not_end_a_job_while_another_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training, which may have taken hours, is kept. The other process is started again after growing pauses."""
    monkeypatch.setenv("STARTS", str(tmp_path / "starts"))
    store = MemoryStore()
    store.create("p", [{"x": n} for n in range(4)])
    job = Job("p", run_until_three_died, preload=die_unless_first)
    WorkerPool(store, job, Session(threads=1), jobs=2).run()
    assert {(task.status, task.attempt, task.attempts) for task in store.query("p")} == {(Status.DONE, 0, 1)}
    first, second, third, *_ = map(float, (tmp_path / "starts").read_text().splitlines())
    assert second - first >= 2.0
    assert third - second >= 4.0


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [1, 4])
def test_no_task_is_given_only_to_a_process_that_cannot_start(
    tasks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of two processes always dies while it starts, so the second one, which has started, is given its tasks."""
    monkeypatch.setenv("STARTS", str(tmp_path / "starts"))
    store = MemoryStore()
    store.create("p", [{"x": n} for n in range(tasks)])
    job, session = Job("p", len, preload=die_unless_first), Session(threads=1)
    runners = LocalRunners(session, job, 2)
    runners.current()[1].start()
    until = time.monotonic() + 120
    while not (tmp_path / "first").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    WorkerPool(store, job, session, jobs=2, runners=runners).run()
    assert {(task.status, task.attempt) for task in store.query("p")} == {(Status.DONE, 0)}
    assert count_of_starts() >= 1


class Idle:
    """A runner without a task."""

    task = None
    free = True

    def __init__(self, *, is_up: bool) -> None:
        self.is_up = is_up


def test_runners_whose_process_runs_are_preferred() -> None:
    """Then come those of which none has died. One that has died rests, but only while another process runs."""
    starts = Starts()
    dead, new, up = Idle(is_up=False), Idle(is_up=False), Idle(is_up=True)
    runners: Any = [dead, new, up]
    starts.died(runners[0], runners)
    assert starts.idle(runners) == [up, new]
    up.is_up = False
    assert starts.idle(runners) == [new, up, dead]


# -- requirements that a machine does not meet -------------------------------------------------------------------------


@contextlib.contextmanager
def full_disk(folder: Path) -> Iterator[Path]:
    """Mount a disk of 64 kB."""
    place = folder / "full"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["TMPDIR", "ROLLFORGE_CACHE", "tracking"])
def test_a_full_disk_is_detected_before_a_task_is_claimed(variable: str, folder: Path) -> None:
    """A full disk is detected for the disk of temporary files, the cache or the tracking store: the exit code is 7,
    with one message, and no attempt is counted."""
    manager = pool(folder, [1.0])
    with full_disk(folder) as place:
        (place / "junk").write_bytes(bytes(50_000))
        if variable == "tracking":
            process = worker(folder, "--no-data", "--tracking", f"folder:{place}/runs")
        else:
            process = worker(folder, *RUNS, **{variable: str(place)})
        code, said = ended(process)
    assert code == Exit.REQUIREMENTS_NOT_MET, said
    assert str(place) in said
    assert "Traceback" not in said
    assert [(t.status, t.attempts) for t in manager.store.query("p")] == [(Status.WAITING, 0)]


def test_code_that_is_not_allowed_or_not_installed_is_reported_at_once(folder: Path) -> None:
    """The report concerns the code of the models in the submission."""
    store = MemoryStore()
    session = Session(tracking_uri=f"folder:{folder}/runs", store_uri=store.uri)
    for name, said in (("no_such_package", "not installed here"), ("scipy", "--allow scipy")):
        info = {**submission_info([], session), "models": {"Model": {name: "1.2"}}}
        store.create(name, [{"x": 1}], submission=store.keep_submission(name, info))
        admission = Admission(store, name, session)
        admission.refresh()
        (one,) = admission.checked.values()
        assert one.session is None
        assert said in one.problems[0]
        info["models"]["Other"] = {}  # one of the models can be run
        store.create(name, [{"x": 1}], submission=store.keep_submission(name, info))
        admission.refresh(idle=True)
        admission._looked = -1e9
        admission.refresh()
        assert [v.session is None for v in admission.checked.values()] == [True, False]


# -- what the tasks were submitted with --------------------------------------------------------------------------------


def workflow(folder: Path, market: Path, **rollforge: Any) -> Path:
    """Write a workflow with four windows of a linear model."""
    handler = {
        "class": "Alpha158", "module_path": "rollforge.data",
        "kwargs": {"instruments": "all", "start_time": "2022-01-03", "end_time": "2023-12-29"}
    }  # fmt: skip
    segments = {
        "train": ["2022-01-03", "2022-10-31"], "valid": ["2022-11-01", "2022-12-30"], "test": ["2023-01-02", "2023-12-29"]
    }  # fmt: skip
    document = {
        "rollforge": {"data": str(market), "store": f"sqlite:///{folder}/tasks.db", "tracking": f"folder:{folder}/runs",
                      "experiment": "small", **rollforge},
        "task": {
            "model": {"class": "LinearModel", "module_path": "rollforge.models"},
            "dataset": {
                "class": "DatasetH", "module_path": "rollforge.data", "kwargs": {"handler": handler, "segments": segments}
            },
            "record": [{"class": "SignalRecord"}],
        },
        "rolling": {"step": 80, "rtype": "sliding"},
    }  # fmt: skip
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return file


def rollforge(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(*arguments, cwd=folder, env={"COLUMNS": "200", **environment})


@pytest.mark.slow
def test_a_worker_runs_submitted_tasks_without_further_settings(small_market: Path, tmp_path: Path) -> None:
    """The worker uses the data and the tracking store of the submission; `run` then trains nothing more, and `collect`
    finds all results."""
    file = workflow(tmp_path, small_market)
    submitted = rollforge(tmp_path, "submit", str(file), "--json")
    assert submitted.returncode == Exit.DONE, submitted.stderr
    info = json.loads(submitted.stdout)
    assert (info["pool"], info["tasks"], info["new"], info["done"]) == ("small", 4, 4, 0)
    assert info["content"] == read_content(small_market).mark
    manager = TaskManager("small", store=open_store(f"sqlite:///{tmp_path}/tasks.db"))
    assert manager.task_stat() == {Status.WAITING: 4}
    assert info["ids"] == [t.id for t in manager.store.query("small")]
    assert not (tmp_path / "runs").exists()
    command = shlex.split(info["worker"])
    assert command[0] == "rollforge"
    (tmp_path / "away").mkdir()
    ran = rollforge(tmp_path / "away", *command[1:], "--exit-when-empty", "--jobs", "1")
    assert ran.returncode == Exit.DONE, ran.stdout + ran.stderr
    assert manager.task_stat() == {Status.DONE: 4}
    repeated = rollforge(tmp_path, "submit", str(file))
    assert "4: 0 new, 4 already done" in repeated.stdout
    whole = rollforge(tmp_path, "run", str(file))
    assert whole.returncode == Exit.DONE, whole.stderr
    assert "all 4 tasks are already done" in whole.stdout
    assert "other data" not in whole.stderr
    assert rollforge(tmp_path, "collect", str(file)).returncode == Exit.DONE


@pytest.mark.slow
def test_a_worker_with_other_data_claims_nothing_unless_that_is_accepted(small_market: Path, tmp_path: Path) -> None:
    """The message names the differences; an identical copy is accepted."""
    file = workflow(tmp_path, small_market)
    assert rollforge(tmp_path, "submit", str(file)).returncode == Exit.DONE
    store = f"sqlite:///{tmp_path}/tasks.db"
    manager = TaskManager("small", store=open_store(store))
    other = Path(shutil.copytree(small_market, tmp_path / "other"))
    name = sorted(p.name for p in (other / "features").iterdir())[3]
    series = other / "features" / name / "close.day.bin"
    series.write_bytes(series.read_bytes()[:-4] + b"\x00\x00\x80\x3f")
    command = ("worker", "-t", "small", "--store", store, "--exit-when-empty", "--jobs", "1", "--data")
    refused = rollforge(tmp_path, *command, str(other))
    assert refused.returncode == Exit.REQUIREMENTS_NOT_MET
    assert f"values of the instrument {name} differ in 2023" in refused.stderr
    assert str(small_market) in refused.stderr
    assert "--accept-other-data" in refused.stderr
    assert manager.task_stat() == {Status.WAITING: 4}
    assert {t.attempts for t in manager.store.query("small")} == {0}
    accepted = rollforge(tmp_path, *command, str(other), "--accept-other-data")
    assert accepted.returncode == Exit.DONE, accepted.stderr
    assert "differs from" in accepted.stderr
    assert manager.task_stat() == {Status.DONE: 4}
    collected = rollforge(tmp_path, "run", str(file))
    assert "4 of 4 windows were trained on data that differ" in collected.stderr
    assert re.search(r"Train all of them again: rollforge pool .*-t small reset-status waiting", collected.stderr)
    manager.reset_status({}, Status.WAITING)
    copy = shutil.copytree(small_market, tmp_path / "copy", copy_function=shutil.copy)
    assert rollforge(tmp_path, *command, str(copy)).returncode == Exit.DONE
    assert "other data" not in rollforge(tmp_path, "run", str(file)).stderr


@pytest.mark.slow
def test_two_submissions_in_one_pool_may_use_different_data(small_market: Path, tmp_path: Path) -> None:
    """A worker without settings runs each submission with its own data; a worker that is given the data of the first
    leaves the tasks of the second."""
    other = Path(shutil.copytree(small_market, tmp_path / "other"))
    name = next((other / "features").iterdir()) / "open.day.bin"
    name.write_bytes(name.read_bytes()[:-4] + b"\x00\x00\x80\x3f")
    store = f"sqlite:///{tmp_path}/tasks.db"
    manager = TaskManager("small", store=open_store(store))
    assert rollforge(tmp_path, "submit", str(workflow(tmp_path, small_market)), "--limit", "2").returncode == Exit.DONE
    first = {t.id for t in manager.store.query("small")}
    file = workflow(tmp_path, other)
    file.write_text(file.read_text().replace("'2022-10-31'", "'2022-09-30'"))
    assert rollforge(tmp_path, "submit", str(file), "--limit", "2").returncode == Exit.DONE
    command = ("worker", "-t", "small", "--store", store, "--exit-when-empty", "--jobs", "1")
    one = rollforge(tmp_path, *command, "--data", str(small_market))
    assert one.returncode == Exit.REQUIREMENTS_NOT_MET, one.stderr
    assert "2 tasks" in one.stderr
    assert {t.id for t in manager.store.query("small", {"status": "done"})} == first
    both = rollforge(tmp_path, *command)
    assert both.returncode == Exit.DONE, both.stderr
    assert manager.task_stat() == {Status.DONE: 4}
    marks = {read_content(folder).mark for folder in (small_market, other)}
    runs = [TaskManager("small", store=manager.store).re_query(i)["res"]["recorder"] for i in sorted(first)]
    assert len(marks) == 2
    assert all(run["tracking"] == f"folder:{tmp_path}/runs" for run in runs)


@pytest.mark.slow
def test_a_worker_without_exit_when_empty_waits_for_tasks_that_it_can_run(small_market: Path, tmp_path: Path) -> None:
    """The worker stays even if the pool has tasks that it cannot run, and exits with 0 when it is terminated; if it can
    run none, it exits at once with 7."""
    other = Path(shutil.copytree(small_market, tmp_path / "other"))
    name = next((other / "features").iterdir()) / "open.day.bin"
    name.write_bytes(name.read_bytes()[:-4] + b"\x00\x00\x80\x3f")
    store = open_store(f"sqlite:///{tmp_path}/tasks.db")
    session = Session(provider_uri=str(small_market), tracking_uri=f"folder:{tmp_path}/runs", store_uri=store.uri)
    command = [sys.executable, "-m", "rollforge", "worker", "-t", "p", "--store", store.uri, "--jobs", "1"]
    both = [
        subprocess.Popen([*command, "--data", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for folder in (small_market, other)
    ]
    for process in both:  # the pool has no tasks yet
        assert process.stdout is not None
        assert "takes tasks" in process.stdout.readline()
    task = {
        **definition(1.0),
        "model": {**definition(1.0)["model"], "class": "ConstantModel", "module_path": "rollforge.models"},
    }
    store.pause("p")  # otherwise the first worker could finish the task before the second has seen it
    for folder in (small_market, other):
        info = submission_info([task], session.with_(provider_uri=str(folder)))
        store.create("p", [{**task, "n": folder.name}], submission=store.keep_submission("p", info))
        if folder is small_market:
            code, said = ended(both[1])
            assert code == Exit.REQUIREMENTS_NOT_MET
            assert "differs from" in said
    store.pause("p", paused=False)
    TaskManager("p", store=store).wait(warn=False, settled=lambda counts: counts.get(Status.DONE) == 1)
    time.sleep(3.0)
    assert both[0].poll() is None
    both[0].send_signal(signal.SIGTERM)
    assert ended(both[0])[0] == Exit.DONE
    assert store.count("p") == {Status.DONE: 1, Status.WAITING: 1}


@pytest.mark.slow
@needs_namespaces
def test_runs_on_another_machine_are_reported_with_a_remedy(small_market: Path, tmp_path: Path) -> None:
    """``collect`` and ``R.get_recorder`` say where they are and how to copy them; copied runs are found."""
    file = workflow(tmp_path, small_market)
    assert rollforge(tmp_path, "submit", str(file)).returncode == Exit.DONE
    away = tmp_path / "gpu1"
    away.mkdir()
    options = ("--tracking", f"folder:{away}/runs")
    store = f"sqlite:///{tmp_path}/tasks.db"
    code, said = ended(worker(tmp_path, *options, host="gpu1", pool="small", ROLLFORGE_STORE=store, ROLLFORGE_ALLOW=""))
    assert code == Exit.DONE, said
    shutil.move(away, tmp_path / "taken away")
    for command in (("run", str(file)), ("collect", str(file))):
        failed = rollforge(tmp_path, *command)
        assert failed.returncode == Exit.USAGE
        assert "4 runs were recorded on gpu1" in failed.stderr
        assert f"folder:{away}/runs" in failed.stderr
        assert "rollforge track copy" in failed.stderr
    report = rollforge(tmp_path, "report", str(file))
    assert "recorded on gpu1" in report.stderr
    code_text = (
        "import rollforge\nfrom rollforge import R, init\n"
        f"init(store={store!r}, tracking='folder:{tmp_path}/runs')\n"
        "try:\n    R.get_recorder(experiment_name='small', recorder_name='x')\n"
        "except rollforge.errors.RecorderUnreachable as exc:\n    print(exc)\n"
    )
    asked = subprocess.run([sys.executable, "-c", code_text], capture_output=True, text=True, check=True, timeout=60)
    assert "recorded on gpu1" in asked.stdout
    copied = rollforge(tmp_path, "track", "copy", f"folder:{tmp_path}/taken away/runs", f"folder:{tmp_path}/runs")
    assert copied.returncode == Exit.DONE, copied.stderr
    found = rollforge(tmp_path, "collect", str(file))
    assert found.returncode == Exit.DONE, found.stderr


def test_information_about_a_submission_contains_no_secret(tmp_path: Path) -> None:
    """The user and the password are removed from addresses; a worker takes them from its own settings."""
    session = Session(tracking_uri="http://ann:s3cret@127.0.0.1:9/?token=abc", store_uri=f"sqlite:///{tmp_path}/t.db")
    info = submission_info([definition(1.0)], session)
    assert info["tracking"] == "http://127.0.0.1:9/"
    assert "s3cret" not in json.dumps(info)
    assert info["data"] is None
    assert info["machine"] == machine_of(process_name())


def test_a_finished_pool_needs_nothing(tmp_path: Path) -> None:
    """A worker of a pool whose tasks have all ended has nothing to check, and nothing to report."""
    store = open_store(f"memory://{tmp_path}")
    store.create("p", [{"x": 1}])
    store.cancel("p")
    assert Admission(store, "p", Session(store_uri=f"memory://{tmp_path}")).check_pool(exit_when_empty=True) == []


def test_a_pool_without_tasks_is_reported_with_the_known_pools(tmp_path: Path) -> None:
    """The misspelt pool is reported, whatever else this machine lacks; in either case the worker claims nothing."""
    uri = f"sqlite:///{tmp_path}/tasks.db"
    store = open_store(uri)
    store.create("rolling", [{"x": 1}])
    problems = Admission(store, "roling", Session(store_uri=uri)).check_pool(exit_when_empty=True)
    assert problems == ["Task pool 'roling' has no tasks. Did you mean 'rolling'? Known pools: rolling."]
    ended = rollforge(tmp_path, "worker", "-t", "roling", "--store", uri, "--exit-when-empty")
    assert ended.returncode == Exit.DONE
    assert problems[0] in ended.stderr
    assert "data folder" not in ended.stderr
    with pytest.raises(RequirementsNotMet, match="no data folder"):  # of a pool with tasks
        Admission(store, "rolling", Session(store_uri=uri)).check_pool(exit_when_empty=True)


def test_a_waiting_worker_checks_new_submissions(small_market: Path, tmp_path: Path) -> None:
    """If the data change, all submissions are checked again."""
    market = Path(shutil.copytree(small_market, tmp_path / "market"))
    session = Session(provider_uri=str(market), tracking_uri=f"folder:{tmp_path}/runs", store_uri="memory://judged")
    store = open_store(session.store_uri)
    admission = Admission(store, "p", session, ("provider_uri",))
    assert admission.check_pool(exit_when_empty=True) == ["Task pool 'p' has no tasks. Known pools: none."]
    key = store.keep_submission("p", submission_info([], session))
    store.create("p", [{"x": 1}], submission=key)
    admission._looked = -1e9
    admission.refresh()
    assert admission.query == {"submission": {"$in": [key]}}
    assert admission.session_for(key).provider_uri == str(market)
    changed = next((market / "features").iterdir()) / "open.day.bin"
    changed.write_bytes(changed.read_bytes()[:-4] + b"\x00\x00\x80\x3f")
    from rollforge.market.provider import open_provider

    open_provider(market).refresh()
    admission._looked = -1e9
    admission.refresh()
    assert admission.query == {"submission": {"$in": []}}
    assert "differs from" in admission.explain(admission.refused())


@pytest.mark.slow
def test_a_bad_worker_exits_even_if_tasks_have_one_attempt(folder: Path) -> None:
    """The success of other tasks on other workers is sufficient evidence; the attempts of the failed tasks, which have
    only one, are given back."""
    manager = pool(folder, [float(i) for i in range(40)], max_attempts=1)
    good = worker(folder, *RUNS, TAKES="0.5")
    bad = worker(folder, *RUNS, BROKEN="1", TAKES="0")
    code, said = ended(bad)
    assert code == Exit.FAILING, said
    assert "other tasks succeeded on other workers meanwhile" in said
    assert ended(good)[0] == Exit.DONE
    # The good worker may have run out of tasks before the bad one gave its tasks back.
    assert ended(worker(folder, *RUNS, TAKES="0"))[0] == Exit.DONE
    assert manager.task_stat() == {Status.DONE: 40}


def test_a_run_does_not_claim_tasks_that_were_resubmitted_with_other_data(small_market: Path, tmp_path: Path) -> None:
    """The latest submission determines the data; identical data in another folder are accepted."""
    store = open_store("memory://submitted again")
    here = Session(provider_uri=str(small_market), tracking_uri=f"folder:{tmp_path}/runs", store_uri=store.uri)
    (tmp_path / "copy").parent.mkdir(exist_ok=True)
    for name, change in (("copy", False), ("other", True)):
        folder = Path(shutil.copytree(small_market, tmp_path / name))
        if change:
            file = next((folder / "features").iterdir()) / "open.day.bin"
            file.write_bytes(file.read_bytes()[:-4] + b"\x00\x00\x80\x3f")
        info = submission_info([], here.with_(provider_uri=str(folder)))
        store.create("p", [{"x": 1}], submission=store.keep_submission("p", info))
        admission = requirements.session_admission(store, "p", here)
        admission.refresh()
        assert (admission.query["submission"]["$in"] == []) is change


@pytest.mark.parametrize(
    "info",
    [
        {"data": 7},
        {"models": [1], "host": None},
        {"data": {"content": {"years": 3}}},
        {"exchange": {"a": 1}, "region": "us"},
        {"tracking": "\x1b]0;x\x07", "host": "\x1b[31m" * 500},
        {"models": {"M": {"os": "1", "a.b.c": "2"}}},
    ],
)
def test_invalid_information_about_a_submission_does_not_stop_a_worker(info: dict[str, Any], tmp_path: Path) -> None:
    """Invalid values are ignored, and nothing reaches the terminal unescaped."""
    store = open_store("memory://invalid info")
    session = Session(tracking_uri=f"folder:{tmp_path}/runs", store_uri=store.uri)
    name = str(abs(hash(json.dumps(info))))
    store.create(name, [{"x": 1}], submission=store.keep_submission(name, info))
    admission = Admission(store, name, session, needs_data=False)
    admission.refresh()
    assert "\x1b" not in admission.explain(admission.refused())


def test_the_advice_what_to_allow_is_given_once() -> None:
    """However many tasks refer to code that the worker may not run, the message ends with one line of advice."""
    store = MemoryStore()
    store.create("p", [{"x": 1}, {"x": 2}, {"x": 3}])
    leases = Leases(store, Job("p", len), "me", lambda event: None)
    for task, (place, package) in zip(
        store.claim("p", worker="me", lease=60, limit=3),
        [("model", "mine"), ("dataset.kwargs.handler", "mine"), ("record.0", "theirs")],
        strict=True,
    ):
        with trust.from_origin(trust.Origin.POOL), pytest.raises(CodeNotAllowed) as refused:
            trust.check_import("Thing", f"{package}.things", where=place)
        leases.leave(task, str(refused.value))
    with pytest.raises(RequirementsNotMet) as raised:
        leases.raise_if_cannot_run()
    said = str(raised.value)
    assert said.count("allow it:") == 1
    assert said.splitlines()[-1].endswith("--allow mine --allow theirs or ROLLFORGE_ALLOW=mine,theirs.")
    assert "dataset.kwargs.handler" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda store, task: store.set_status("p", {}, Status.WAITING), "it was set to waiting while it was running"),
        (lambda store, task: store.cancel("p", {"_id": task.id}), "it was cancelled"),
        (lambda store, task: store.remove("p", {"_id": task.id}), "it was removed from the pool"),
        (lambda store, task: (store.set_status("p", {}, Status.WAITING), store.claim("p", worker="you", lease=60)),
         "it was taken over by you"),
        (lambda store, task: (store.set_status("p", {}, Status.WAITING), store.claim("p", worker="me", lease=60)),
         "it was set to waiting while it was running"),
    ],
)  # fmt: skip
def test_why_a_task_was_taken_away_is_told_once(
    change: Callable[[MemoryStore, TaskRecord], object], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The message says what has ended the claim, which need not be another worker."""
    store = MemoryStore()
    store.create("p", [{"x": 1}])
    leases = Leases(store, Job("p", len), "me", LogEvents())
    (task,) = leases.take(1)
    change(store, task)
    assert not leases.commit(task, None, "", 1.0)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"task {task.id[:12]}: its result is not stored: {said}"
    ]


def count_days(task: dict[str, Any]) -> int:
    """Stand for a function in a user's script."""
    return int(task["x"])


def test_run_task_compares_the_data_with_those_of_the_submission(small_market: Path, tmp_path: Path) -> None:
    """`run_task` does not run tasks that were submitted with other data, and says why."""
    other = Path(shutil.copytree(small_market, tmp_path / "other"))
    file = next((other / "features").iterdir()) / "open.day.bin"
    file.write_bytes(file.read_bytes()[:-4] + b"\x00\x00\x80\x3f")
    session = Session(
        provider_uri=str(small_market), store_uri="memory://scripts", tracking_uri=f"folder:{tmp_path}/runs"
    )
    store = open_store(session.store_uri)
    store.create("p", [{"x": 1}], submission=store.keep_submission("p", submission_info([], session)))
    with pytest.raises(RequirementsNotMet, match="differs from"):
        run_task(count_days, "p", session=session.with_(provider_uri=str(other)))
    assert store.count("p") == {Status.WAITING: 1}
    assert run_task(count_days, "p", session=session)
    assert store.count("p") == {Status.DONE: 1}
