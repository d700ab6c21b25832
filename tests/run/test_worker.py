"""Workers: what happens to a task that succeeds, fails, is stopped, or loses its lease."""

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
from rollforge.run import worker_process
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
    """A clock that tests set."""

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
    """Each task is fetched once, in the order of creation, and its result is stored."""
    store = MemoryStore()
    store.create("p", [{"x": 1}, {"x": 2}])
    events = run(store, double)
    assert [e.kind for e in events] == ["started", "done", "started", "done"]
    assert [t.result for t in store.query("p")] == [2, 4]


def test_a_task_that_raises_is_tried_again_and_then_put_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    """After three attempts with a backoff it has failed, and its traceback is kept; the others are done."""
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


def test_a_task_that_calls_exit_fails_and_the_worker_goes_on() -> None:
    """``sys.exit`` in a task is a failure of the task."""
    store = MemoryStore()
    store.create("p", [{"x": 1}], max_attempts=1)
    assert [e.kind for e in run(store, leave)] == ["started", "failed"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, WorkerStopped])
def test_a_worker_that_is_stopped_gives_its_task_back(stop: type[BaseException]) -> None:
    """Ctrl-C and SIGTERM cost no attempt: the task waits again."""

    def interrupted(task: dict[str, Any]) -> None:
        raise stop

    store = MemoryStore()
    store.create("p", [{"x": 1}])
    with pytest.raises(stop):
        run(store, interrupted)
    (task,) = store.query("p")
    assert (task.status, task.attempt) == (Status.WAITING, 0)


def test_a_result_under_a_stale_claim_is_refused() -> None:
    """A worker whose task was taken over reports it as lost; the result of the other worker is kept."""
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


def test_the_four_situations_of_run_task() -> None:
    """Waiting tasks give their definition, part-done ones the result so far; a stage that stays is run once a call."""
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


def test_run_task_runs_what_the_query_names() -> None:
    """Tasks that do not match are not changed."""
    with using(Session(store_uri="memory://query")):
        manager = TaskManager("p")
        manager.create_task([{"x": 1}, {"x": 2}])
        run_task(double, "p", query={"def.x": 2})
        assert [d["status"] for d in manager.query()] == ["waiting", "done"]


@pytest.mark.slow
def test_a_call_in_a_child_comes_back() -> None:
    """The result is returned; an exception or the death of the child raises an error."""
    assert call_in_child(os.getpid) != os.getpid()
    with pytest.raises(TrainingFailed, match=r"ValueError: invalid literal"):
        call_in_child(int, "bad")
    with pytest.raises(TrainingFailed, match="killed by SIGKILL"):
        call_in_child(signal.raise_signal, 9)
    with pytest.raises(TrainingFailed, match="killed by signal 40"):  # a real-time signal without a name
        call_in_child(signal.raise_signal, 40)


class BadText(str):
    """A text whose methods raise."""

    def __len__(self) -> int:
        raise RuntimeError

    def __format__(self, spec: str) -> str:
        raise RuntimeError


class BadlyNamed(type):
    """Classes without a name."""

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
    """A task that raises an exception whose description is hard or impossible to make."""
    nested: Exception = ValueError("inside")
    for _ in range(2000):
        nested = ExceptionGroup("outside", [nested])
    exceptions = {
        "a text": Indescribable(), "a name": WithoutName(), "a traceback": WithoutTraceback(),
        "attributes": WithoutAttributes(), "a place": SyntaxError("wrong", ("file", 5, None, b"bytes")), "depth": nested,
    }  # fmt: skip
    raise exceptions[task["lacks"]]


@pytest.mark.parametrize("lacks", ["a text", "a name", "a traceback", "attributes", "a place", "depth"])
def test_an_exception_that_cannot_be_described_fails_its_task_alone(lacks: str) -> None:
    """The worker describes it as well as it can, and runs the next task."""
    store = MemoryStore()
    store.create("p", [{"lacks": lacks}], max_attempts=1)
    with contextlib.suppress(BaseException):  # what the worker lets through, pytest could not show either
        run(store, raise_it)
    (task,) = store.query("p")
    assert (task.status, task.cause) == (Status.FAILED, Cause.RAISED)
    assert task.error


def use_files(task: dict[str, Any]) -> str:
    """A task that opens a file; one of them also lowers the limit of open files to 0, and fails."""
    if task["breaks"]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
        raise ValueError("broken")
    with open(os.devnull) as stream:
        return stream.read()


@pytest.mark.slow
@pytest.mark.parametrize("max_attempts", [1, 2])
def test_a_task_that_breaks_its_process_does_not_fail_the_others(max_attempts: int) -> None:
    """The last attempt of a task runs in a process in which no task has failed."""
    store = MemoryStore()
    store.create("p", [{"breaks": True}], max_attempts=max_attempts)
    store.create("p", [{"breaks": False, "x": x} for x in range(3)], max_attempts=max_attempts)
    WorkerPool(store, Job("p", use_files), Session(threads=1), jobs=1).run()
    broken, *others = store.query("p")
    assert broken.status is Status.FAILED
    assert [task.status for task in others] == [Status.DONE] * 3, others[0].error


def process_id(task: dict[str, Any]) -> int:
    """Return the process in which a task runs."""
    return os.getpid()


@pytest.mark.slow
@pytest.mark.parametrize("force_release", [True, False])
def test_force_release_gives_each_task_of_a_crew_a_new_process(force_release: bool) -> None:
    """One worker process runs all tasks one after another; with force_release each task runs in a new process."""
    store = MemoryStore()
    store.create("p", [{"x": x} for x in range(3)])
    WorkerPool(store, Job("p", process_id, force_release=force_release), Session(threads=1), jobs=1).run()
    processes = [t.result for t in store.query("p")]
    assert len(set(processes)) == (3 if force_release else 1)
    assert os.getpid() not in processes


@pytest.mark.slow
def test_run_task_applies_force_release() -> None:
    """Each task runs in a new process; without force_release, in the calling process."""
    with using(Session(store_uri="memory://release", threads=1)):
        manager = TaskManager("p")
        manager.create_task([{"x": 1}, {"x": 2}])
        run_task(process_id, "p", force_release=True)
        assert len({os.getpid(), *(d["res"] for d in manager.query())}) == 3
        manager.create_task([{"x": 3}])
        run_task(process_id, "p")
        assert [d["res"] for d in manager.query({"x": 3})] == [os.getpid()]


@pytest.mark.parametrize(("option", "value"), [("force_release", True), ("timeout", 1.0), ("memory", 2**30)])
def test_a_worker_refuses_what_needs_processes(option: str, value: Any) -> None:
    """It runs tasks in its own process, and raises an error before it claims any."""
    with pytest.raises(ConfigError, match=f"cannot apply {option}.*WorkerPool"):
        Worker(MemoryStore(), Job("p", len, **{option: value}))


def talk(task: dict[str, Any]) -> str:
    """Print and log, after the previous task changed the outputs."""
    match task["first"]:
        case "close":
            sys.stdout.close()
            sys.stderr.close()
        case "replace":
            sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
        case "drop":
            sys.stdout = sys.stderr = None  # type: ignore[assignment]
        case words:
            words = words.replace("half", "half \ud800")
            print(words)
            logging.getLogger("talk").warning("logged %s", words)
            print("and", words, file=sys.stderr)
    if task.get("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return str(task["first"])


def test_each_task_of_a_process_has_the_log_of_its_own_and_all_of_it() -> None:
    """Whatever the previous task wrote or did to its outputs; a lone surrogate that is printed is escaped."""
    store = MemoryStore()
    firsts = ["one", "two", "close", "three", "replace", "four", "drop", "five", "half", "six"]
    store.create("p", [{"first": words} for words in firsts] + [{"first": "last words", "crash": True}], max_attempts=1)
    WorkerPool(store, Job("p", talk), Session(threads=1), jobs=1).run()
    *tasks, crashed = store.query("p")
    for task in tasks:
        words = task.definition["first"]
        assert task.status is Status.DONE
        if words in ("close", "replace", "drop"):
            assert task.log == ""
            continue
        printed, logged, more = task.log.splitlines()
        escaped = words.replace("half", "half \\ud800")
        assert (printed, more) == (escaped, f"and {escaped}")
        assert logged.endswith(f"WARNING talk: logged {escaped}")
    assert crashed.log.splitlines()[0] == "last words"


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare")
class Evil:
    """An object whose pickle runs a command when it is loaded."""

    def __init__(self, marker: str) -> None:
        self._marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (self._marker,)


def speak(task: dict[str, Any]) -> str:
    """A task that writes to all open files of its process other than its outputs."""
    said = {
        "garbage": b"\xff" * 64,
        "the beginning of a message": (200).to_bytes(4, "big") + b"x",
        "a message that runs something": ForkingPickler.dumps(Evil(task.get("marker", ""))),
        "a message of other values": ForkingPickler.dumps(["ready", 5]),
    }.get(task["says"])
    if said is None:
        return "done"
    framed = task["says"].startswith("a message")
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                os.write(descriptor, (len(said).to_bytes(4, "big") if framed else b"") + bytes(said))
    time.sleep(600)
    return "never"


@pytest.mark.slow
@pytest.mark.parametrize(
    "says",
    ["garbage", "the beginning of a message", "a message that runs something", "a message of other values"],
)
def test_whatever_a_task_writes_to_its_worker_costs_that_task_alone(says: str, tmp_path: Path) -> None:
    """None of it is executed in the worker, which neither waits for the rest of it nor ends; the next task is done."""
    marker = tmp_path / "it ran"
    store = MemoryStore()
    store.create("p", [{"says": says, "marker": str(marker)}], max_attempts=1)
    store.create("p", [{"says": "nothing"}])
    WorkerPool(store, Job("p", speak, timeout=5), Session(threads=1), jobs=1).run()
    hostile, other = store.query("p")
    cause = Cause.TIMED_OUT if says.startswith("the beginning") else Cause.EXITED
    assert (hostile.status, hostile.cause) == (Status.FAILED, cause), hostile.error
    assert (other.status, other.result, other.failed_by) == (Status.DONE, "done", ())
    assert not marker.exists()


def size_of(task: dict[str, Any]) -> int:
    return len(task["text"])


@pytest.mark.slow
def test_a_process_that_does_not_read_its_task_does_not_hold_up_its_worker() -> None:
    """What does not fit into the pipe to a stopped process is sent when it continues; `give` does not wait."""
    process = worker_process.WorkerProcess(Session(threads=1), Job("p", size_of))

    def send_signal(number: int) -> None:
        assert process._process is not None
        os.kill(process._process.pid or 0, number)

    def end_of(text: str, token: int) -> worker_process.Outcome | None:
        stopping = threading.Timer(30, process.kill)  # in case it waits
        stopping.start()
        try:
            began = time.perf_counter()
            process.give(TaskRecord(id="a", pool="p", definition={"text": text}, token=token), 1)
            assert time.perf_counter() - began < 10
        finally:
            stopping.cancel()
        if process.taking:
            assert process.outcome() is None
            send_signal(signal.SIGCONT)
        deadline = time.monotonic() + 60
        while (outcome := process.outcome()) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        return outcome

    try:
        assert end_of("short", 1) == worker_process.Done(encode_result(5))
        send_signal(signal.SIGSTOP)
        assert end_of("x" * 3_000_000, 2) == worker_process.Done(encode_result(3_000_000))
        send_signal(signal.SIGSTOP)
        process.give(TaskRecord(id="a", pool="p", definition={"text": "x" * 3_000_000}, token=3), 1)
    finally:
        began = time.perf_counter()
        process.end(0.5)  # this does not wait either
        assert time.perf_counter() - began < 10


def stop_oneself(task: dict[str, Any]) -> str:
    """A task whose process stops at the first attempt, as by ``kill -STOP``."""
    if not Path(task["marker"]).exists():
        Path(task["marker"]).touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    return "done"


@pytest.mark.slow
def test_a_process_that_stays_stopped_is_ended_as_its_lease_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even without a time limit: the attempt counts as killed, the task is retried, and nothing waits for ever."""
    monkeypatch.setattr(worker_process, "_STOPPED_SECONDS", 2.0)
    store = MemoryStore()
    store.create("p", [{"marker": str(tmp_path / "stopped once")}])
    events: list[Event] = []
    WorkerPool(store, Job("p", stop_oneself), Session(threads=1), jobs=1, on_event=events.append).run()
    (task,) = store.query("p")
    assert task.status is Status.DONE
    assert [e.kind for e in events] == ["started", "retry", "started", "done"]
    assert "was stopped by a signal for more than 2 s" in events[1].error


def test_a_process_that_was_stopped_together_with_its_worker_is_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-Z both continue at nearly the same time: what passed while the worker did not look does not count."""
    now = [0.0]
    monkeypatch.setattr(worker_process.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(worker_process, "process_is_stopped", lambda pid: True)
    watch = worker_process.StoppedFor()
    assert not watch.look(1)
    now[0] += 3600
    assert not watch.look(1)
    for _ in range(61):
        assert not watch.look(1)
        now[0] += 1
    assert watch.look(1)


def configure(task: dict[str, Any]) -> None:
    """A task that replaces the logging configuration and logs something."""
    import logging.config

    if task["how"] == "basicConfig":
        logging.basicConfig(force=True, level=logging.INFO)
    elif task["how"] == "dictConfig":
        logging.config.dictConfig({"version": 1})
    elif task["how"] == "by hand":
        logging.getLogger().handlers.clear()
        logging.disable()
        logging.getLogger("rollforge").propagate = False
        logging.getLogger("rollforge").setLevel(logging.CRITICAL)
    else:
        logging.getLogger("rollforge.somewhere").info("the words of %s", task["how"])
        logging.getLogger("my.model").warning("more words")


@pytest.mark.parametrize("beside", [True, False], ids=["in a process", "in process"])
def test_a_task_that_sets_up_logging_takes_no_words_of_later_ones(beside: bool) -> None:
    """Handlers, levels and disabled loggers are as before; each line is in the log once."""
    store = MemoryStore()
    hows = ["before", "basicConfig", "one", "dictConfig", "two", "by hand", "three"]
    store.create("p", [{"how": how} for how in hows])
    level = logging.getLogger().level
    if beside:
        WorkerPool(store, Job("p", configure), Session(threads=1), jobs=1).run()
    else:
        logging.getLogger().setLevel(logging.INFO)
        state = worker_process._Logs()
        try:
            # Other logging settings of a task are kept in the user's own process.
            Worker(store, Job("p", configure, query={"how": {"$in": ["before", "basicConfig", "one"]}})).run()
        finally:
            state.put_back()
            logging.getLogger().setLevel(level)
    logs = {t.definition["how"]: t.log for t in store.query("p")}
    for how in ("before", "one", "two", "three") if beside else ("before", "one"):
        assert logs[how].count(f"the words of {how}") == 1, (how, logs[how])
        assert logs[how].count("more words") == 1, (how, logs[how])


def test_a_worker_that_is_the_first_process_of_a_container(tmp_path: Path) -> None:
    """Its process id is 1, which is also that of the process that adopts orphans."""
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


def test_a_store_that_was_deleted_is_not_waited_for_as_long_as_one_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may return, but a deleted file rarely does, so the worker ends soon and reports the reason."""
    monkeypatch.setattr("rollforge.run.leases.GONE_SECONDS", 0.3)
    store = open_store(f"sqlite:///{tmp_path}/tasks.db")
    store.create("p", [{"i": 1}])
    (tmp_path / "tasks.db").unlink()
    began = time.monotonic()
    with pytest.raises(StoreGone, match="was deleted while it was in use"):
        Worker(store, Job("p", lambda task: None, query={}), patience=600.0).run()
    assert time.monotonic() - began < 60
