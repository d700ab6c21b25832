"""A worker takes tasks from a pool and runs them: fetch, keep the lease, execute, commit or give back.

One bad task never stops a worker: its exception goes onto the task, which is tried again or set aside as ``failed``.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rollforge.errors import LeaseLost, StoreError, TrainingFailed
from rollforge.session import Session, current_session, using
from rollforge.store.base import TaskStore, open_store
from rollforge.store.manager import Lease
from rollforge.task import Status, TaskRecord
from rollforge.track.base import Recorder

__all__ = [
    "Event",
    "Job",
    "Worker",
    "WorkerStopped",
    "call_in_child",
    "release_dead_workers",
    "run_task",
    "worker_name",
]

log = logging.getLogger(__name__)

LEASE_SECONDS = 60.0
_NAP_SECONDS = 0.2


class WorkerStopped(BaseException):
    """Somebody asked this worker to stop; like KeyboardInterrupt it passes through ``except Exception``."""


@dataclass(frozen=True, slots=True)
class Job:
    """Which tasks of which pool to run, and with what."""

    pool: str
    task_func: Callable[..., Any]
    """``(definition or result, **kwargs) -> result``; importable, as worker processes import it."""
    query: Mapping[str, Any] = field(default_factory=dict)
    before: Status = Status.WAITING
    """Take tasks of this status: waiting ones get their definition, part_done ones the result of their first stage."""
    after: Status = Status.DONE
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    force_release: bool = False
    """True runs each task in a child process, so that its memory is certainly given back."""


@dataclass(frozen=True, slots=True)
class Event:
    """One step in the life of a task, for whoever shows the progress."""

    kind: Literal["started", "done", "failed", "retry", "lost"]
    task_id: str
    worker: str
    seconds: float = 0.0
    error: str = ""
    at: float = field(default_factory=time.time)


def worker_name(pid: int | None = None) -> str:
    """Return the name under which a process of this host claims tasks."""
    return f"{socket.gethostname()}:{os.getpid() if pid is None else pid}"


def release_dead_workers(store: TaskStore, pool: str) -> list[TaskRecord]:
    """Take the tasks of this host's workers that are no longer alive, without waiting for their leases to run out.

    After ``kill -9`` of a whole run nobody is left to do so but the next run.
    """
    released = []
    running = store.query(pool, {"status": Status.RUNNING.value}, results=False)
    for name in sorted({task.worker or "" for task in running}):
        host, _, pid = name.rpartition(":")
        if host == socket.gethostname() and pid.isdigit() and not _alive(int(pid)):
            released += store.release_worker(pool, name, f"The worker {name} is gone: it was killed.")
    return released


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's process: alive
        return True
    return True


def _ignore(event: Event) -> None:
    """Nobody listens."""


def _never() -> bool:
    return False


@dataclass(slots=True)
class Worker:
    """Runs the tasks of one job, one at a time, until none is left to claim.

    Parameters
    ----------
    store : TaskStore
        Where the tasks are.
    job : Job
        Which of them.
    on_event : callable
        Told of each step.
    stop : callable
        Asked before each claim; True ends the worker.
    """

    store: TaskStore
    job: Job
    on_event: Callable[[Event], None] = _ignore
    stop: Callable[[], bool] = _never
    name: str = field(default_factory=worker_name)
    lease_seconds: float = LEASE_SECONDS
    _seen: set[str] = field(default_factory=set)

    def run(self) -> int:
        """Return how many tasks were run, when none is waiting any more (a task that backs off is waited for)."""
        ran = 0
        while not self.stop():
            claims = self.store.claim(
                self.job.pool,
                worker=self.name,
                lease=self.lease_seconds,
                status=self.job.before,
                query=self._query(),
            )
            if claims:
                self._run_one(claims[0])
                ran += 1
            elif self.store.count(self.job.pool, self._query()).get(self.job.before, 0):
                time.sleep(_NAP_SECONDS)  # there is one that backs off after a failed attempt
            else:
                break
        return ran

    def _query(self) -> Mapping[str, Any]:
        if self.job.before is not self.job.after:
            return self.job.query
        # part_done -> part_done: a task that stays in its status is run once, not for ever.
        return {"$and": [dict(self.job.query), {"_id": {"$nin": sorted(self._seen)}}]}

    def _run_one(self, task: TaskRecord) -> None:
        self._seen.add(task.id)
        self.on_event(Event("started", task.id, self.name))
        began = time.perf_counter()
        try:
            with Lease(self.store, task, self.lease_seconds):
                result = self._execute(task)
            self.store.commit(task, storable(result), self.job.after)
        except LeaseLost as exc:
            log.warning("task %s: %s", task.id, exc)
            self.on_event(Event("lost", task.id, self.name, time.perf_counter() - began, str(exc)))
        except StoreError:
            raise
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - whatever a task raises (sys.exit too) is its own failure
            self._fail(task, exc, time.perf_counter() - began)
        except BaseException:
            # Ctrl-C, SIGTERM: the task is not at fault and goes back as it was.
            self.store.give_back(task)
            raise
        else:
            self.on_event(Event("done", task.id, self.name, time.perf_counter() - began))

    def _execute(self, task: TaskRecord) -> Any:
        argument = task.result if self.job.before is Status.PART_DONE else dict(task.definition)
        if self.job.force_release:
            return call_in_child(self.job.task_func, argument, **self.job.kwargs)
        return self.job.task_func(argument, **self.job.kwargs)

    def _fail(self, task: TaskRecord, exc: BaseException, seconds: float) -> None:
        text = "".join(traceback.format_exception(exc))
        brief = f"{type(exc).__name__}: {exc}"
        log.warning("task %s failed: %s", task.id, brief)
        try:
            status = self.store.fail(task, text)
        except LeaseLost as lost:
            self.on_event(Event("lost", task.id, self.name, seconds, str(lost)))
            return
        self.on_event(Event("failed" if status is Status.FAILED else "retry", task.id, self.name, seconds, brief))


def storable(result: Any) -> Any:
    """Return what the store keeps of a task's result: a recorder as a reference, anything else as it is."""
    return {"recorder": result.reference()} if isinstance(result, Recorder) else result


def run_task(
    task_func: Callable[..., Any],
    task_pool: str,
    query: Mapping[str, Any] | None = None,
    force_release: bool = False,
    before_status: Status | str = Status.WAITING,
    after_status: Status | str = Status.DONE,
    *,
    session: Session | None = None,
    **kwargs: Any,
) -> bool:
    """Run the tasks of a pool in this process until none is left, and return whether there was any.

    ====================== =============================================================
    before -> after        what `task_func` is given
    ====================== =============================================================
    waiting -> done        the definition
    waiting -> part_done   the definition: the first of two stages
    part_done -> part_done the result so far; each task once a call
    part_done -> done      the result of the first stage
    ====================== =============================================================

    Parameters
    ----------
    task_func : callable
        ``(definition or result, **kwargs) -> result``.
    task_pool : str
        Name of the pool.
    query : mapping, optional
        Only the tasks that match.
    force_release : bool
        True runs each task in a child process, so that its memory is certainly given back.
    before_status, after_status : Status or str
        See the table.
    session : Session, optional
        By default the current one.
    **kwargs
        Handed to `task_func`.

    Raises
    ------
    ValueError
        When `before_status` is neither waiting nor part_done.
    """
    before, after = Status(before_status), Status(after_status)
    if before not in (Status.WAITING, Status.PART_DONE):
        raise ValueError(f"before_status must be waiting or part_done, found {before.value!r}.")
    session = session or current_session()
    job = Job(task_pool, task_func, dict(query or {}), before, after, kwargs, force_release)
    with using(session):
        return Worker(open_store(session.store), job).run() > 0


def call_in_child(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return ``func(*args, **kwargs)``, computed in a fresh child process that is gone afterwards.

    Raises
    ------
    TrainingFailed
        When the child dies without an answer (killed, out of memory, crashed in C code).
        And when `func` raises, with its exception and traceback.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child_main, args=(current_session(), func, args, kwargs, theirs))
    child.start()
    theirs.close()
    try:
        answer = ours.recv()
    except EOFError:
        child.join()
        raise TrainingFailed(f"The child process died with exit code {child.exitcode} and left no result.") from None
    except BaseException:
        child.terminate()
        raise
    finally:
        child.join()
        ours.close()
    if isinstance(answer, BaseException):
        raise answer
    return answer[0]


def _child_main(session: Session, func: Callable[..., Any], args: Any, kwargs: Any, pipe: Any) -> None:
    try:
        with using(session):
            answer: Any = (func(*args, **kwargs),)
    except (Exception, SystemExit) as exc:  # noqa: BLE001
        # Neither a traceback nor every exception travels between processes; its text always does.
        answer = TrainingFailed(f"{type(exc).__name__}: {exc}\n{traceback.format_exc()}")
    pipe.send(answer)
