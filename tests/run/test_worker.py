"""Workers: what happens to a task that succeeds, fails, is interrupted, or loses its lease."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest

from rollforge.errors import ConfigError, StoreGone, TrainingFailed
from rollforge.market import scans
from rollforge.market.demo import make_demo
from rollforge.market.provider import Provider
from rollforge.run import messages, worker_main, worker_process
from rollforge.run.job import Event, Job, WorkerStopped
from rollforge.run.worker import Worker, run_task
from rollforge.run.worker_pool import WorkerPool
from rollforge.run.worker_process import call_in_child
from rollforge.session import Session, using
from rollforge.store.base import open_store
from rollforge.store.codec import encode_result
from rollforge.store.manager import TaskManager
from rollforge.store.memory import MemoryStore
from rollforge.task import Cause, Status, TaskRecord


class Clock:
    """A clock that is set by the test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def run(store: MemoryStore, func: Callable[..., Any], **job: Any) -> list[Event]:
    events: list[Event] = []
    Worker(store, Job("p", func, **job), on_event=events.append).run()
    return events


def double(task: dict[str, Any]) -> int:
    return 2 * int(task["x"])


def test_a_task_is_run_and_its_result_committed() -> None:
    """Each task runs once, in the order of creation, and its result is stored."""
    store = MemoryStore()
    store.create("p", [{"x": 1}, {"x": 2}])
    events = run(store, double)
    assert [e.kind for e in events] == ["started", "done", "started", "done"]
    assert [t.result for t in store.query("p")] == [2, 4]


def test_a_task_that_raises_is_retried_and_then_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task fails after three attempts with a backoff between them, and its traceback is kept; the others are
    done."""
    clock = Clock()
    store = MemoryStore(clock=clock)
    monkeypatch.setattr(store, "wait_for_change", lambda pool, timeout: setattr(clock, "now", clock.now + 1))
    store.create("p", [{"x": 1}, {"x": "bad"}, {"x": 3}])
    events = run(store, double)
    tasks = list(store.query("p"))
    assert [t.status for t in tasks] == [Status.DONE, Status.FAILED, Status.DONE]
    assert [e.kind for e in events if e.task_id == tasks[1].id] == ["started", "retry"] * 2 + ["started", "failed"]
    assert tasks[1].attempt == 3
    assert "ValueError: invalid literal" in str(tasks[1].error)


def leave(task: dict[str, Any]) -> None:
    sys.exit(3)


def test_a_task_that_calls_exit_fails_and_the_worker_continues() -> None:
    """``sys.exit`` in a task is a failure of the task."""
    store = MemoryStore()
    store.create("p", [{"x": 1}], max_attempts=1)
    assert [e.kind for e in run(store, leave)] == ["started", "failed"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, WorkerStopped])
def test_a_worker_that_is_interrupted_gives_its_task_back(stop: type[BaseException]) -> None:
    """Ctrl-C and SIGTERM do not count as an attempt: the task is waiting again."""

    def interrupted(task: dict[str, Any]) -> None:
        raise stop

    store = MemoryStore()
    store.create("p", [{"x": 1}])
    with pytest.raises(stop):
        run(store, interrupted)
    (task,) = store.query("p")
    assert (task.status, task.attempt) == (Status.WAITING, 0)


def test_a_result_under_a_stale_claim_is_refused() -> None:
    """A worker that has lost its lease reports the task as lost; the result of the other worker is kept."""
    clock = Clock()
    store = MemoryStore(clock=clock)
    store.create("p", [{"x": 1}])

    def slow(task: dict[str, Any]) -> str:
        clock.now += 3600
        store.expire("p")
        clock.now += 2  # the backoff
        (other,) = store.claim("p", worker="other", lease=60)
        store.commit(other, "theirs")
        return "ours"

    assert [e.kind for e in run(store, slow)] == ["started", "lost"]
    assert next(iter(store.query("p"))).result == "theirs"


def add_one(value: Any) -> int:
    return int(value["x"] if isinstance(value, dict) else value) + 1


def test_run_task_handles_each_pair_of_statuses() -> None:
    """A waiting task is run with its definition and a part-done one with its result; a task whose status does not
    change is run once per call."""
    with using(Session(store_uri="memory://four")):
        manager = TaskManager("p")
        (task_id,) = manager.create_task([{"x": 1}])
        for before, after, expected in [
            ("waiting", "part_done", 2),
            ("part_done", "part_done", 3),
            ("part_done", "part_done", 4),
            ("part_done", "done", 5),
        ]:
            assert run_task(add_one, "p", before_status=before, after_status=after)
            document = manager.re_query(task_id)
            assert (document["status"], document["res"]) == (after, expected)
        assert not run_task(add_one, "p")
        with pytest.raises(ValueError, match="waiting or part_done"):
            run_task(add_one, "p", before_status="done")


def test_run_task_runs_the_tasks_that_match_the_query() -> None:
    """Tasks that do not match are not changed."""
    with using(Session(store_uri="memory://query")):
        manager = TaskManager("p")
        manager.create_task([{"x": 1}, {"x": 2}])
        run_task(double, "p", query={"def.x": 2})
        assert [d["status"] for d in manager.query()] == ["waiting", "done"]


@pytest.mark.slow
def test_a_call_in_a_child_process_returns_its_result() -> None:
    """An exception in the child, or its death, raises an error."""
    assert call_in_child(os.getpid) != os.getpid()
    with pytest.raises(TrainingFailed, match=r"ValueError: invalid literal"):
        call_in_child(int, "bad")
    with pytest.raises(TrainingFailed, match="killed by SIGKILL"):
        call_in_child(signal.raise_signal, 9)
    with pytest.raises(TrainingFailed, match="killed by signal 40"):  # a real-time signal without a name
        call_in_child(signal.raise_signal, 40)


def look(folder: Path) -> str:
    """Return what a worker process sees when it looks whether a data folder has changed."""
    return Provider(folder).fingerprint()


@pytest.mark.slow
def test_a_worker_process_tells_what_it_has_seen_of_a_data_folder(tmp_path: Path) -> None:
    make_demo(tmp_path / "market", instruments=3, years=1)
    mark = call_in_child(look, tmp_path / "market")
    shared, found = scans.shared(), (tmp_path / "market").stat()
    assert shared is not None
    scan = shared.latest((found.st_dev, found.st_ino))
    assert scan is not None
    assert scan.fingerprint == mark == look(tmp_path / "market")
    assert scan.began < time.monotonic()


class BadText(str):
    """A string whose methods raise."""

    def __len__(self) -> int:
        raise RuntimeError

    def __format__(self, spec: str) -> str:
        raise RuntimeError


class BadlyNamed(type):
    """A metaclass of classes without a name."""

    @property
    def __name__(cls) -> str:
        raise RuntimeError


class Indescribable(Exception):
    def __str__(self) -> str:
        return BadText("as it is")


class WithoutName(Exception, metaclass=BadlyNamed):
    pass


class WithoutTraceback(Exception):
    __traceback__ = 5  # type: ignore[assignment]


class WithoutAttributes(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError


def raise_it(task: dict[str, Any]) -> None:
    """Raise an exception that is difficult or impossible to format."""
    nested: Exception = ValueError("inside")
    for _ in range(2000):
        nested = ExceptionGroup("outside", [nested])
    exceptions = {
        "a text": Indescribable(), "a name": WithoutName(), "a traceback": WithoutTraceback(),
        "attributes": WithoutAttributes(), "a place": SyntaxError("wrong", ("file", 5, None, b"bytes")), "depth": nested,
    }  # fmt: skip
    raise exceptions[task["lacks"]]


@pytest.mark.parametrize("lacks", ["a text", "a name", "a traceback", "attributes", "a place", "depth"])
def test_an_exception_that_cannot_be_formatted_fails_only_its_task(lacks: str) -> None:
    """The worker formats it as far as possible, and runs the next task."""
    store = MemoryStore()
    store.create("p", [{"lacks": lacks}], max_attempts=1)
    with contextlib.suppress(BaseException):  # pytest could not format it either
        run(store, raise_it)
    (task,) = store.query("p")
    assert (task.status, task.cause) == (Status.FAILED, Cause.RAISED)
    assert task.error


def use_files(task: dict[str, Any]) -> str:
    """Open a file; the task that `breaks` its process first lowers the limit of open files to 0, and fails."""
    if task["breaks"]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
        raise ValueError("broken")
    with open(os.devnull) as stream:
        return stream.read()


@pytest.mark.slow
@pytest.mark.parametrize("max_attempts", [1, 2])
def test_a_task_that_breaks_its_process_does_not_fail_the_others(max_attempts: int) -> None:
    """The last attempt of a task is made in a process in which no task has failed."""
    store = MemoryStore()
    store.create("p", [{"breaks": True}], max_attempts=max_attempts)
    store.create("p", [{"breaks": False, "x": x} for x in range(3)], max_attempts=max_attempts)
    WorkerPool(store, Job("p", use_files), Session(threads=1), jobs=1).run()
    broken, *others = store.query("p")
    assert broken.status is Status.FAILED
    assert [task.status for task in others] == [Status.DONE] * 3, others[0].error


def process_id(task: dict[str, Any]) -> int:
    """Return the id of the process in which a task runs."""
    return os.getpid()


@pytest.mark.slow
@pytest.mark.parametrize("force_release", [True, False])
def test_force_release_gives_each_task_of_a_worker_pool_a_new_process(force_release: bool) -> None:
    """With force_release each task runs in a new process, otherwise one worker process runs them all."""
    store = MemoryStore()
    store.create("p", [{"x": x} for x in range(3)])
    WorkerPool(store, Job("p", process_id, force_release=force_release), Session(threads=1), jobs=1).run()
    processes = [t.result for t in store.query("p")]
    assert len(set(processes)) == (3 if force_release else 1)
    assert os.getpid() not in processes


@pytest.mark.slow
def test_run_task_applies_force_release() -> None:
    """With force_release each task runs in a new process, otherwise in the calling process."""
    with using(Session(store_uri="memory://release", threads=1)):
        manager = TaskManager("p")
        manager.create_task([{"x": 1}, {"x": 2}])
        run_task(process_id, "p", force_release=True)
        assert len({os.getpid(), *(d["res"] for d in manager.query())}) == 3
        manager.create_task([{"x": 3}])
        run_task(process_id, "p")
        assert [d["res"] for d in manager.query({"x": 3})] == [os.getpid()]


@pytest.mark.parametrize(("option", "value"), [("force_release", True), ("timeout", 1.0), ("memory", 2**30)])
def test_a_worker_refuses_options_that_need_processes(option: str, value: Any) -> None:
    """A Worker runs tasks in its own process; it raises an error before it claims any."""
    with pytest.raises(ConfigError, match=f"cannot apply {option}.*WorkerPool"):
        Worker(MemoryStore(), Job("p", len, **{option: value}))


def talk(task: dict[str, Any]) -> str:
    """Print and log a text, or change the output streams of the process."""
    match task["first"]:
        case "close":
            sys.stdout.close()
            sys.stderr.close()
        case "replace":
            sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
        case "drop":
            sys.stdout = sys.stderr = None  # type: ignore[assignment]
        case text:
            text = text.replace("half", "half \ud800")
            print(text)
            logging.getLogger("talk").warning("logged %s", text)
            print("and", text, file=sys.stderr)
    if task.get("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return str(task["first"])


def test_the_log_of_a_task_contains_its_own_output_and_all_of_it() -> None:
    """Whatever the previous task wrote, or did to the output streams; a lone surrogate is escaped."""
    store = MemoryStore()
    firsts = ["one", "two", "close", "three", "replace", "four", "drop", "five", "half", "six"]
    store.create("p", [{"first": text} for text in firsts] + [{"first": "last words", "crash": True}], max_attempts=1)
    WorkerPool(store, Job("p", talk), Session(threads=1), jobs=1).run()
    *tasks, crashed = store.query("p")
    for task in tasks:
        text = task.definition["first"]
        assert task.status is Status.DONE
        if text in ("close", "replace", "drop"):
            assert task.log == ""
            continue
        printed, logged, more = task.log.splitlines()
        escaped = text.replace("half", "half \\ud800")
        assert (printed, more) == (escaped, f"and {escaped}")
        assert logged.endswith(f"WARNING talk: logged {escaped}")
    assert crashed.log.splitlines()[0] == "last words"


class Evil:
    """An object whose pickle runs a command when it is loaded."""

    def __init__(self, marker: str) -> None:
        self._marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (self._marker,)


def write_to_sockets(task: dict[str, Any]) -> str:
    """Write to all open sockets of the process, of which one is the connection to the worker."""
    message = {
        "garbage": b"\xff" * 64,
        "the beginning of a message": (200).to_bytes(4, "big") + b"x",
        "a message that runs a command": ForkingPickler.dumps(Evil(task.get("marker", ""))),
        "a message of other values": ForkingPickler.dumps(["ready", 5]),
    }.get(task["writes"])
    if message is None:
        return "done"
    framed = task["writes"].startswith("a message")
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                os.write(descriptor, (len(message).to_bytes(4, "big") if framed else b"") + bytes(message))
    time.sleep(600)
    return "never"


@pytest.mark.slow
@pytest.mark.parametrize(
    "writes",
    ["garbage", "the beginning of a message", "a message that runs a command", "a message of other values"],
)
def test_whatever_a_task_writes_to_its_worker_affects_only_that_task(writes: str, tmp_path: Path) -> None:
    """The worker does not execute it, does not wait for the rest of a message, and continues with the next task."""
    marker = tmp_path / "it ran"
    store = MemoryStore()
    store.create("p", [{"writes": writes, "marker": str(marker)}], max_attempts=1)
    store.create("p", [{"writes": "nothing"}])
    WorkerPool(store, Job("p", write_to_sockets, timeout=5), Session(threads=1), jobs=1).run()
    hostile, other = store.query("p")
    cause = Cause.TIMED_OUT if writes.startswith("the beginning") else Cause.EXITED
    assert (hostile.status, hostile.cause) == (Status.FAILED, cause), hostile.error
    assert (other.status, other.result, other.failed_by) == (Status.DONE, "done", ())
    assert not marker.exists()


def size_of(task: dict[str, Any]) -> int:
    return len(task["text"])


def get_ready_slowly() -> None:
    time.sleep(2)


def test_a_process_that_does_not_get_ready_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Only once; without a time limit it is waited for."""
    monkeypatch.setattr(worker_process, "START_SECONDS", 0.2)
    store = MemoryStore()
    store.create("p", [{"text": "short"}])
    WorkerPool(store, Job("p", size_of, preload=get_ready_slowly), Session(threads=1), jobs=1).run()
    (task,) = store.query("p")
    assert (task.status, task.result) == (Status.DONE, 5)
    assert caplog.text.count("is not ready after 0.2 s; it says: ") == 1


@pytest.mark.slow
def test_a_process_that_does_not_read_its_task_does_not_block_its_worker() -> None:
    """If a task does not fit into the pipe to a stopped process, the rest is sent when the process continues; `assign`
    does not wait."""
    process = worker_process.WorkerProcess(Session(threads=1), Job("p", size_of))

    def send_signal(number: int) -> None:
        assert process._process is not None
        os.kill(process._process.pid or 0, number)

    def end_of(text: str, token: int) -> messages.Outcome | None:
        stopping = threading.Timer(30, process.kill)  # in case it waits
        stopping.start()
        try:
            began = time.perf_counter()
            process.assign(TaskRecord(id="a", pool="p", definition={"text": text}, token=token), 1)
            assert time.perf_counter() - began < 10
        finally:
            stopping.cancel()
        if process.is_sending:
            assert process.outcome() is None
            send_signal(signal.SIGCONT)
        deadline = time.monotonic() + 60
        while (outcome := process.outcome()) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        return outcome

    try:
        assert end_of("short", 1) == messages.Done(encode_result(5))
        send_signal(signal.SIGSTOP)
        assert end_of("x" * 3_000_000, 2) == messages.Done(encode_result(3_000_000))
        send_signal(signal.SIGSTOP)
        process.assign(TaskRecord(id="a", pool="p", definition={"text": "x" * 3_000_000}, token=3), 1)
    finally:
        began = time.perf_counter()
        process.end(0.5)  # does not wait either
        assert time.perf_counter() - began < 10


def stop_the_process(task: dict[str, Any]) -> str:
    """Stop the process at the first attempt, as ``kill -STOP`` does."""
    if not Path(task["marker"]).exists():
        Path(task["marker"]).touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    return "done"


@pytest.mark.slow
def test_a_process_that_stays_stopped_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is killed even without a time limit: the attempt counts as killed, and the task is retried."""
    monkeypatch.setattr(worker_process, "_STOPPED_SECONDS", 2.0)
    store = MemoryStore()
    store.create("p", [{"marker": str(tmp_path / "stopped once")}])
    events: list[Event] = []
    WorkerPool(store, Job("p", stop_the_process), Session(threads=1), jobs=1, on_event=events.append).run()
    (task,) = store.query("p")
    assert task.status is Status.DONE
    assert [e.kind for e in events] == ["started", "retry", "started", "done"]
    assert "was stopped by a signal for more than 2 s" in events[1].error


def test_a_process_that_was_stopped_together_with_its_worker_is_not_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-Z both continue at nearly the same time: the time in which the worker itself did not run does not
    count."""
    now = [0.0]
    monkeypatch.setattr(worker_process.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(worker_process, "process_is_stopped", lambda pid: True)
    watch = worker_process.StopTimer()
    assert not watch.check(1)
    now[0] += 3600
    assert not watch.check(1)
    for _ in range(61):
        assert not watch.check(1)
        now[0] += 1
    assert watch.check(1)


def configure(task: dict[str, Any]) -> None:
    """Replace the logging configuration, or log something."""
    import logging.config

    if task["how"] == "basicConfig":
        logging.basicConfig(force=True, level=logging.INFO)
    elif task["how"] == "dictConfig":
        logging.config.dictConfig({"version": 1})
    elif task["how"] == "handlers":
        logging.getLogger().handlers.clear()
        logging.disable()
        logging.getLogger("rollforge").propagate = False
        logging.getLogger("rollforge").setLevel(logging.CRITICAL)
    else:
        logging.getLogger("rollforge.somewhere").info("a line of %s", task["how"])
        logging.getLogger("my.model").warning("another line")


@pytest.mark.parametrize("in_processes", [True, False], ids=["processes", "in process"])
def test_a_task_that_configures_logging_does_not_affect_later_tasks(in_processes: bool) -> None:
    """Handlers, levels and disabled loggers are restored; each line is in the log of its task once."""
    store = MemoryStore()
    hows = ["before", "basicConfig", "one", "dictConfig", "two", "handlers", "three"]
    store.create("p", [{"how": how} for how in hows])
    level = logging.getLogger().level
    if in_processes:
        WorkerPool(store, Job("p", configure), Session(threads=1), jobs=1).run()
    else:
        logging.getLogger().setLevel(logging.INFO)
        state = worker_main._Logs()
        try:
            # In the user's own process, other logging settings made by a task are kept.
            Worker(store, Job("p", configure, query={"how": {"$in": ["before", "basicConfig", "one"]}})).run()
        finally:
            state.put_back()
            logging.getLogger().setLevel(level)
    logs = {t.definition["how"]: t.log for t in store.query("p")}
    for how in ("before", "one", "two", "three") if in_processes else ("before", "one"):
        assert logs[how].count(f"a line of {how}") == 1, (how, logs[how])
        assert logs[how].count("another line") == 1, (how, logs[how])


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare")
def test_a_worker_may_be_the_first_process_of_a_container(tmp_path: Path) -> None:
    """The worker's process id is 1, which is also the parent id of orphaned processes."""
    store = open_store(f"sqlite:///{tmp_path}/tasks.db")
    store.create("p", [{"x": 1}])
    ran = subprocess.run(
        [
            "unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-m", "rollforge", "worker",
            "-t", "p", "--store", store.uri, "--tracking", f"folder:{tmp_path}/runs", "--no-data", "--func", "builtins:len",
            "-j", "1", "--exit-when-empty",
        ],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    (task,) = store.query("p")
    assert (task.status, task.result) == (Status.DONE, 1)
    assert str(task.worker).split(":")[1] == "1"


def test_a_worker_does_not_wait_long_for_a_deleted_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server may return, but a deleted file rarely does, so the worker soon exits with the reason."""
    monkeypatch.setattr("rollforge.run.leases.GONE_SECONDS", 0.3)
    store = open_store(f"sqlite:///{tmp_path}/tasks.db")
    store.create("p", [{"i": 1}])
    (tmp_path / "tasks.db").unlink()
    began = time.monotonic()
    with pytest.raises(StoreGone, match="was deleted while it was in use"):
        Worker(store, Job("p", lambda task: None, query={}), reconnect_timeout=600.0).run()
    assert time.monotonic() - began < 60


UNGUARDED = """
import sys
from rollforge.errors import ConfigError
from rollforge.run.trainer import TrainerR

sys.stdout.write("begins\\n")
sys.stdout.flush()
try:
    TrainerR("demo", train_func=max, jobs=1).train([{"x": 1}], default="x" * LETTERS)
except ConfigError as exc:
    sys.exit(str(exc))
"""


@pytest.mark.parametrize("letters", [1, 200_000])
def test_a_script_without_a_guard_is_told_so(letters: int, tmp_path: Path) -> None:
    """The process that imports it ends where it would start processes, also if the script catches the error.

    It has not read its arguments then, which may be more than fits into a pipe.
    """
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED.replace("LETTERS", str(letters)), encoding="utf-8")
    environment = {**os.environ, "ROLLFORGE_HOME": str(tmp_path / "home")}
    ended = subprocess.run(
        [sys.executable, str(script)], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip
    assert ended.returncode == 1
    assert "if __name__ == '__main__'" in ended.stderr.splitlines()[-1]
    assert ended.stdout.splitlines() == ["begins"] * 2
    assert "Traceback" not in ended.stderr
