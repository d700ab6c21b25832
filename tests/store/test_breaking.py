"""A pool under extreme conditions: random failures, many processes, all kinds of crashes, and full disks."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import datetime as dt
import json
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rollforge import trust
from rollforge.errors import RequirementsNotMet, StoreUnavailable
from rollforge.run.job import Event, Job
from rollforge.run.worker import Worker
from rollforge.run.worker_pool import WorkerPool
from rollforge.session import Session
from rollforge.store.base import TaskStore, open_store
from rollforge.store.manager import TaskManager
from rollforge.store.memory import MemoryStore
from rollforge.store.mongo import MongoStore
from rollforge.store.postgres import PostgresStore
from rollforge.store.sqlite import SQLiteStore
from rollforge.task import Cause, Status
from rollforge.testing.postgres import PostgresServer

STORM = Path(__file__).parents[1] / "storm.py"
CONTEXT = multiprocessing.get_context("spawn")
pytestmark = pytest.mark.slow


# -- storms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("store", "tasks"), [("sqlite", 300), ("postgres", 150), ("mongodb", 100)], ids=["sqlite", "postgres", "mongodb"]
)
def test_every_task_has_one_result_after_a_storm(store: str, tasks: int) -> None:
    """Workers and the server are killed at random, some workers are paused beyond their lease, the definition or the
    code of some tasks is missing, machines are faulty and connections are cut. `make storm` does the same on a larger
    scale."""
    command = [
        sys.executable,
        str(STORM),
        "--store",
        store,
        "--tasks",
        str(tasks),
        "--workers",
        "4",
        "--work",
        "0.06",
        "--limit",
        "540",  # ten seconds on a quiet machine
        "--kill-every",
        "0.15",
        "--server-every",
        "1.5",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    result = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, result
    assert result["kills"] > 0
    assert result.get("server_kills", 0) > 0 or store != "postgres"
    assert result["broken"] == []
    assert result["no_data"] > 0
    assert result["fails"] > 0


def jostle(uri: str, number: int, seconds: float) -> None:
    """Make every call that a worker makes, as fast as possible."""
    store, rng, until = open_store(uri), random.Random(number), time.time() + seconds
    while time.time() < until:
        store.create("p", [{"x": rng.randrange(100_000)} for _ in range(3)])
        for task in store.claim("p", worker=f"w{number}", lease=30, limit=2):
            store.renew(task, 30)
            if rng.random() < 0.9:
                store.commit(task, {"by": number})
            else:
                store.fail(task, "bad luck")
        store.count("p")


def test_many_processes_share_one_file(tmp_path: Path) -> None:
    """No process fails with "database is locked"; the file is intact, and so is a copy taken at any moment.

    16 processes for 6 seconds here; `ROLLFORGE_CROWD=64,60 make storm` has 64 of them for a minute.
    """
    crowd, seconds = map(int, os.environ.get("ROLLFORGE_CROWD", "16,6").split(","))
    file = tmp_path / "tasks.db"
    uri = f"sqlite:///{file}?synchronous=NORMAL"
    store = open_store(uri)
    store.create("p", [{"x": 0}])
    workers = [CONTEXT.Process(target=jostle, args=(uri, i, seconds)) for i in range(crowd)]
    for worker in workers:
        worker.start()
    until(lambda: store.count("p").get(Status.DONE, 0) > 100, 60)
    time.sleep(random.uniform(0, 0.5))
    copy = tmp_path / "copy"
    copy.mkdir()
    for worker in workers:  # stop all workers, as in a snapshot or a power failure
        os.kill(worker.pid or 0, signal.SIGSTOP)
    for part in tmp_path.glob("tasks.db*"):
        shutil.copy(part, copy / part.name)
    for worker in workers:
        os.kill(worker.pid or 0, signal.SIGCONT)
    for worker in workers:
        worker.join()
    assert [w.exitcode for w in workers] == [0] * crowd
    for path in (file, copy / "tasks.db"):
        raw = sqlite3.connect(path)
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        raw.close()
        tasks = list(SQLiteStore(f"sqlite:///{path}").query("p"))
        done = [t for t in tasks if t.status is Status.DONE]
        assert len(done) > 20
        assert all(t.result is not None for t in done)
        assert all(t.result is None for t in tasks if t.status is not Status.DONE)


# -- crashes -----------------------------------------------------------------------------------------------------------


def die(task: dict[str, Any]) -> Any:
    """End in the way given by the task: all but the last end without a result."""
    print("the last words of", task["way"], flush=True)
    ways = {
        "raise": lambda: int("bad"),
        "exit": lambda: sys.exit("enough"),
        "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "segfault": lambda: ctypes.string_at(0),
        "memory": lambda: bytearray(4 * 2**30),
        "hang": lambda: time.sleep(600),
        "unserialisable": threading.Lock,
        "full disk": lambda: fill(Path("/dev/full")),
        "leave": lambda: os._exit(7),
        "good": lambda: task["x"] * 2,
    }
    return ways[task["way"]]()


def fill(file: Path) -> None:
    with file.open("w") as stream:
        stream.write("x" * 10_000_000)


WAYS = {
    "raise": (Cause.RAISED, "ValueError: invalid literal"),
    "exit": (Cause.RAISED, "SystemExit: enough"),
    "kill": (Cause.KILLED, "killed by SIGKILL"),
    "segfault": (Cause.KILLED, "killed by SIGSEGV"),
    "memory": (Cause.OUT_OF_MEMORY, "MemoryError"),
    "hang": (Cause.TIMED_OUT, "more than 3 s"),
    "unserialisable": (Cause.RAISED, "cannot be stored"),
    "full disk": (Cause.RAISED, "No space left on device"),
    "leave": (Cause.EXITED, "exited with code 7"),
}


@pytest.fixture(params=["memory", "sqlite", "postgres", "mongodb"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TaskStore]:
    """An empty store of each kind."""
    name = f"crashes_{os.getpid()}"
    if request.param == "memory":
        store: TaskStore = MemoryStore()
    elif request.param == "sqlite":
        store = SQLiteStore(f"sqlite:///{tmp_path}/tasks.db")
    elif request.param == "postgres":
        store = PostgresStore(f"{request.getfixturevalue('postgres').uri}?schema={name}")
    else:
        store = MongoStore(f"{request.getfixturevalue('mongodb')}/{name}")
    yield store
    for pool in store.pools():
        store.remove(pool)
    store.close()


def run_pool(store: TaskStore, job: Job, **options: Any) -> list[Event]:
    """Run a job in two processes and return its events."""
    events: list[Event] = []
    WorkerPool(store, job, Session(threads=1), options.pop("jobs", 2), events.append, **options).run()
    return events


def test_each_kind_of_crash_has_its_cause_and_affects_no_other_task(any_store: TaskStore) -> None:
    """Status and cause are as documented, the output of the task is kept, and 99 good tasks finish."""
    any_store.create("p", [{"way": way} for way in WAYS], max_attempts=1, priority=1)
    any_store.create("p", [{"way": "good", "x": i} for i in range(99)])
    run_pool(any_store, Job("p", die, timeout=3.0, memory=2 * 2**30))
    tasks = {t.definition["way"]: t for t in any_store.query("p", {"way": {"$ne": "good"}})}
    assert {way: t.cause for way, t in tasks.items()} == {way: cause for way, (cause, _) in WAYS.items()}
    for way, (_, said) in WAYS.items():
        assert tasks[way].status is Status.FAILED
        assert said in str(tasks[way].error)
        assert f"the last words of {way}" in tasks[way].log
    assert "Segmentation fault" in tasks["segfault"].log
    good = list(any_store.query("p", {"way": "good"}))
    assert [t.result for t in good] == [2 * i for i in range(99)]


def test_a_task_that_kills_its_process_fails_after_max_attempts(tmp_path: Path) -> None:
    """The task is retried in another process, and fails after its last attempt."""
    store = MemoryStore()
    store.create("p", [{"way": "kill"}], max_attempts=2)
    events = run_pool(store, Job("p", die), jobs=1)
    assert [e.kind for e in events] == ["started", "retry", "started", "failed"]


class Unprintable(BaseException):
    """An exception that has no message: ``str`` of it raises."""

    def __str__(self) -> str:
        raise RuntimeError("no")


def odd(task: dict[str, Any]) -> Any:  # noqa: C901 - one branch for each way
    """Tasks that do unusual things to their worker."""
    way = task["way"]
    if way == "fork":
        if os.fork() == 0:
            return "the child's"
        time.sleep(0.3)
    elif way == "fork and exit":
        if os.fork() == 0:
            sys.exit("the child's")
        time.sleep(0.3)
    elif way == "interrupt":
        raise KeyboardInterrupt("raised by the task")
    elif way == "cancel":
        raise asyncio.CancelledError
    elif way == "no output":
        sys.stdout.close()
        os.close(1)
    elif way == "no outputs":
        sys.stdout = sys.stderr = None  # type: ignore[assignment]
        os.closerange(0, 3)
    elif way == "odd output":
        sys.stdout = object()  # type: ignore[assignment]
    elif way == "unprintable":
        raise Unprintable
    elif way == "surrogate":
        os.write(1, b"\xff\xfe\x00")
        return {"said": "\udc80"}
    elif way == "surrogate error":
        raise ValueError("\udc80\x00")
    elif way == "base":
        raise GeneratorExit
    return task["x"]


@pytest.mark.parametrize(
    ("any_store", "jobs"),
    [("memory", 1), ("memory", 2), ("sqlite", 2), ("postgres", 2), ("mongodb", 2)],
    indirect=["any_store"],
)
def test_results_belong_to_their_tasks_whatever_a_task_does(any_store: TaskStore, jobs: int) -> None:
    """Forked children that return, closed output streams, unusual exceptions and texts: each task has its own result
    or error."""
    ways = [
        "fork",
        "good",
        "fork and exit",
        "no output",
        "no outputs",
        "odd output",
        "unprintable",
        "surrogate",
        "good",
        "interrupt",
        "cancel",
        "base",
        "surrogate error",
    ]
    any_store.create("p", [{"way": way, "x": x} for x, way in enumerate([*ways, *["good"] * 6])], max_attempts=1)
    run_pool(any_store, Job("p", odd), jobs=jobs)
    for task in any_store.query("p"):
        way, x = task.definition["way"], task.definition["x"]
        if way in ("interrupt", "cancel", "base", "surrogate error", "unprintable"):
            assert (task.status, task.cause) == (Status.FAILED, Cause.RAISED), way
            assert "Traceback" in str(task.error)
        else:
            assert (task.status, task.result) == (Status.DONE, {"said": "\udc80"} if way == "surrogate" else x), way


def damage(store: TaskStore, task_id: str, text: str) -> None:
    """Change a stored definition directly in the database."""
    if isinstance(store, SQLiteStore):
        with contextlib.closing(sqlite3.connect(store.path)) as raw, raw:
            raw.execute("UPDATE tasks SET definition = ? WHERE id = ?", (text, task_id))
    elif isinstance(store, MongoStore):
        store._database["p"].update_one({"digest": task_id}, {"$set": {"plain": text}})
    elif isinstance(store, PostgresStore):
        store._write(
            lambda tx: tx.run("UPDATE tasks SET definition = :text WHERE id = :id", text=text, id=task_id), "p"
        )


DAMAGED = ['{"x": {"$date": "no day"}}', '{"x": {"$ts": 1}}', '{"x": {"$bytes": 7}}', "[1]", '{"x": {"$map": 5}}']


@pytest.mark.parametrize("in_process", [False, True], ids=["processes", "in process"])
def test_a_task_that_cannot_be_decoded_does_not_stop_the_pool(any_store: TaskStore, in_process: bool) -> None:
    """The task fails at once with the cause `unreadable`; the pool can still be listed, and the other tasks are
    done."""
    if isinstance(any_store, MemoryStore):
        pytest.skip("a memory store holds no text that could be damaged")
    made = any_store.create("p", [{"way": "good", "x": x} for x in range(10)])
    for created, text in zip(made, DAMAGED, strict=False):
        damage(any_store, created.id, text)
    assert len(list(any_store.query("p"))) == 10
    if in_process:
        Worker(any_store, Job("p", odd)).run()
    else:
        run_pool(any_store, Job("p", odd))
    tasks = list(any_store.query("p"))
    assert [(t.status, t.cause, t.attempts) for t in tasks[:5]] == [(Status.FAILED, Cause.UNREADABLE, 1)] * 5
    assert [t.result for t in tasks[5:]] == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("in_process", [False, True], ids=["processes", "in process"])
def test_a_task_whose_code_is_missing_is_left_to_other_workers(any_store: TaskStore, in_process: bool) -> None:
    """No attempt is counted, the worker itself imports nothing, the other tasks are done, and the worker reports what
    is missing; a worker that has the code runs the remaining tasks."""
    if isinstance(any_store, MemoryStore):
        pytest.skip("the tasks of a memory store are run where they were created")
    made = any_store.create("p", [{"way": "good", "x": x} for x in range(6)], priority=1)
    for created, name in zip(made, ["nowhere_module:Thing", "json:NoSuchClass"], strict=False):
        damage(any_store, created.id, json.dumps({"way": "good", "x": 7, "c": {"$ref": name}}))
    worker: Any = (
        Worker(any_store, Job("p", odd)) if in_process else WorkerPool(any_store, Job("p", odd), Session(threads=1), 2)
    )
    with pytest.raises(RequirementsNotMet, match="nowhere_module") as raised:
        worker.run()
    assert "json:NoSuchClass" in str(raised.value)
    assert "No attempt was counted" in str(raised.value)
    tasks = list(any_store.query("p"))
    assert [(t.status, t.cause, t.attempts) for t in tasks[:2]] == [(Status.WAITING, Cause.REQUIREMENTS_NOT_MET, 0)] * 2
    assert all(t.status is Status.DONE for t in tasks[2:])
    assert TaskManager("p", store=any_store).wait() == {Status.WAITING: 2, Status.DONE: 4}
    for created in made[:2]:
        damage(any_store, created.id, '{"way": "good", "x": 7, "c": {"$ref": "json:JSONDecoder"}}')
    run_pool(any_store, Job("p", odd))
    assert any_store.count("p") == {Status.DONE: 6}


def builds_something(task: dict[str, Any]) -> Any:
    from rollforge.build import build

    return type(build(task)).__name__


def test_a_missing_module_does_not_count_as_an_attempt(any_store: TaskStore) -> None:
    """The most common form of missing code is a module path that this machine does not have."""
    any_store.create(
        "p", [{"class": "Model", "module_path": "nowhere_module"}, {"class": "rollforge.models.linear.LinearModel"}]
    )
    with pytest.raises(RequirementsNotMet, match="nowhere_module"):
        run_pool(any_store, Job("p", builds_something), jobs=1)
    assert [(t.status, t.attempts) for t in any_store.query("p")] == [(Status.WAITING, 0), (Status.DONE, 1)]


def slow_start() -> None:
    time.sleep(2.5)


def test_the_start_of_a_process_does_not_count_as_the_task() -> None:
    """The task is done even if the time limit is shorter than the start of the process."""
    store = MemoryStore()
    store.create("p", [{"s": 0.1}], max_attempts=1)
    run_pool(store, Job("p", sleepy, timeout=2.0, preload=slow_start), jobs=1)
    assert store.count("p") == {Status.DONE: 1}


def test_nothing_is_left_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither processes that exit nor processes that are killed leave files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = MemoryStore()
    store.create("p", [{"way": "kill"}, {"way": "good", "x": 1}], max_attempts=1)
    run_pool(store, Job("p", die))
    assert list(tmp_path.iterdir()) == []


# -- leases ------------------------------------------------------------------------------------------------------------


def hold_the_interpreter(task: dict[str, Any]) -> str:
    """Run C code that blocks all other threads of this process."""
    ctypes.PyDLL(None).usleep(2_500_000)
    return "held"


def test_a_lease_lasts_while_c_code_holds_the_interpreter(tmp_path: Path) -> None:
    """The parent process renews it, even if the call takes longer than the lease."""
    store = SQLiteStore(f"sqlite:///{tmp_path}/tasks.db")
    store.create("p", [{"x": 1}], max_attempts=1)
    events = run_pool(store, Job("p", hold_the_interpreter), jobs=1, lease_seconds=0.9)
    assert [e.kind for e in events] == ["started", "done"]


def sleepy(task: dict[str, Any]) -> int:
    time.sleep(task["s"])
    return 1


def test_cancelling_a_running_task_kills_its_process() -> None:
    """The worker continues with the next task."""
    store = MemoryStore()
    store.create("p", [{"s": 600}, {"s": 0}])

    def cancel() -> None:
        until(lambda: store.count("p").get(Status.RUNNING), 60)
        store.cancel("p", {"s": 600})

    threading.Thread(target=cancel).start()
    began = time.monotonic()
    run_pool(store, Job("p", sleepy), jobs=1, lease_seconds=1.0)
    assert time.monotonic() - began < 120  # processes start slowly on a busy machine; the task itself takes ten minutes
    assert [t.status for t in store.query("p")] == [Status.FAILED, Status.DONE]


def test_a_worker_waits_for_a_store_that_is_unavailable(tmp_path: Path) -> None:
    """The server is down for a while, also when a result is to be committed; afterwards the worker continues, and no
    result is lost."""
    with PostgresServer() as server:
        store = PostgresStore(server.uri)
        store.create("p", [{"s": 0.3}, {"s": 0.31}, {"s": 0.32}, {"s": 0.33}])
        outage = threading.Timer(1.0, lambda: _restart(server))
        outage.start()
        run_pool(store, Job("p", sleepy), jobs=1, reconnect_timeout=60)
        outage.join()
        assert store.count("p") == {Status.DONE: 4}
        store.close()


def _restart(server: PostgresServer) -> None:
    with server.down():
        time.sleep(1.5)


# -- the worker command ------------------------------------------------------------------------------------------------


def start_worker(uri: str, *options: str, code: str = "sleepy") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rollforge", "worker", "-t", "p", "--store", uri, "--jobs", "1", *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [*command, "--func", f"{Path(__file__).stem}:{code}"], stdout=subprocess.PIPE, text=True, env=environment
    )


def until(condition: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("seconds", "grace", "left"), [(3.0, "90", Status.DONE), (600.0, "0", Status.WAITING)], ids=["finish", "give back"]
)
def test_after_sigterm_a_task_finishes_or_is_given_back(
    seconds: float, grace: str, left: Status, tmp_path: Path
) -> None:
    """A task may finish within the grace period; otherwise it is given back without counting an attempt."""
    uri = f"sqlite:///{tmp_path}/tasks.db"
    store = open_store(uri)
    store.create("p", [{"s": seconds}, {"s": 0.001}])
    worker = start_worker(uri, "--grace", grace)
    until(lambda: store.count("p").get(Status.RUNNING))
    time.sleep(0.5)
    worker.terminate()
    worker.communicate(timeout=180)
    assert worker.returncode == 0
    first, second = store.query("p")
    assert (first.status, first.attempt) == (left, 0)
    assert second.status is Status.WAITING


def test_idle_workers_start_a_new_task_at_once(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that waits for a PostgreSQL server is notified of a new task, ten minutes before it would poll."""
    monkeypatch.setattr("rollforge.run.worker_pool.IDLE_SECONDS", 600.0)
    uri = f"{postgres.uri}?schema=idle{os.getpid()}"
    store, stopped = PostgresStore(uri), threading.Event()
    idle = WorkerPool(
        PostgresStore(uri), Job("p", sleepy), Session(threads=1), 1, stop=stopped.is_set, exit_when_empty=False
    )
    working = threading.Thread(target=idle.run, daemon=True)
    working.start()
    for i in range(4):
        time.sleep(0.3)  # by now it waits
        store.create("p", [{"s": 1e-6 * i}])
        until(lambda i=i: store.count("p").get(Status.DONE) == i + 1, 60)
    stopped.set()
    store.create("p", [{"s": 1}])  # wakes it
    working.join(60)
    assert not working.is_alive()
    assert store.count("p") == {Status.DONE: 4, Status.WAITING: 1}
    idle.store.close()
    store.close()


def test_the_tasks_of_a_killed_worker_command_are_taken_over(tmp_path: Path) -> None:
    """``kill -9`` of the command ends its processes too, and another worker takes over when the lease has expired."""
    uri = f"sqlite:///{tmp_path}/tasks.db"
    store = open_store(uri)
    store.create("p", [{"s": 60}])
    worker = start_worker(uri, "--lease", "1")
    until(lambda: store.count("p").get(Status.RUNNING))
    time.sleep(1.0)
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(worker.pid)], capture_output=True, text=True, check=False
    )
    worker.kill()
    worker.communicate()
    pids = [int(pid) for pid in children.stdout.split()]
    until(lambda: not any(_computes(pid) for pid in pids))
    until(lambda: bool(store.claim("p", worker="next", lease=60)))


def _computes(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return (
            "sleepy" in Path(f"/proc/{pid}/cmdline").read_text()
            or "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()
        )
    return False


# -- disks -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_nothing_is_lost_when_the_disk_is_full(small_disk: Path) -> None:
    """The error is one clear message; committed results are kept, and calls succeed when there is space again."""
    store = SQLiteStore(f"sqlite:///{small_disk}/tasks.db")
    store.create("p", [{"x": 1}, {"x": 2}])
    (first, second) = store.claim("p", worker="w", lease=600, limit=2)
    store.commit(first, "good")
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as stream:
        while True:
            stream.write(b"x" * 4096)
    with pytest.raises(StoreUnavailable, match="disk") as caught:
        store.commit(second, "y" * 200_000)
    assert "tasks.db" in str(caught.value)
    assert store.get("p", first.id).result == "good"
    assert store.get("p", second.id).status is Status.RUNNING
    ballast.unlink()
    store.commit(second, "y" * 200_000)
    assert store.count("p") == {Status.DONE: 2}
    store.commit(second, "again")  # repeating the call changes nothing
    assert store.get("p", second.id).result == "y" * 200_000


def test_a_read_only_disk_is_reported(small_disk: Path) -> None:
    """The message names the file, which is unchanged when the disk is writable again."""
    file = small_disk / "tasks.db"
    store = SQLiteStore(f"sqlite:///{file}")
    store.create("p", [{"x": 1}])
    store.close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreUnavailable, match="is writable") as caught:
        SQLiteStore(f"sqlite:///{file}")
    assert str(file) in str(caught.value)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert SQLiteStore(f"sqlite:///{file}").count("p") == {Status.WAITING: 1}


def test_a_corrupted_file_is_reported(tmp_path: Path) -> None:
    """A corrupted file is reported whether its header or its contents are damaged."""
    file = tmp_path / "tasks.db"
    store = SQLiteStore(f"sqlite:///{file}")
    store.create("p", [{"x": i, "text": "y" * 500} for i in range(500)])
    store.close()
    for part in tmp_path.glob("tasks.db-*"):
        part.unlink()
    content = bytearray(file.read_bytes())
    content[8192:-4096] = os.urandom(len(content) - 12288)
    file.write_bytes(content)
    with pytest.raises(StoreUnavailable, match="corrupted"):
        list(SQLiteStore(f"sqlite:///{file}").query("p", {"x": {"$gte": 0}}))
    file.write_bytes(os.urandom(10_000))
    with pytest.raises(StoreUnavailable, match="not a task store"):
        SQLiteStore(f"sqlite:///{file}")


def test_the_id_of_a_task_is_the_hash_of_its_stored_definition(any_store: TaskStore) -> None:
    """A program recognizes the tasks that it submitted by that hash, and does not recognize a task that was changed."""
    definition = {"a": (1, 2.5, None), "ü": {"b": [True, "x" * 100, 1e-300]}, "day": dt.date(2020, 1, 2), "é\n": -0.0}
    (task_id,) = TaskManager("p", store=any_store).create_task([definition])
    (claimed,) = any_store.claim("p", worker="w", lease=60.0)
    assert trust.is_own(task_id, claimed.text)
    assert not trust.is_own(task_id, claimed.text.replace("2.5", "2.6"))
