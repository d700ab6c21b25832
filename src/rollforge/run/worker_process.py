"""One worker process, from the parent's side: it is given tasks one by one and returns their outcomes.

The child does not use the store. Its output and log go to a file that the parent holds, so that they are kept even
after a crash in C code. The death of the child, for whatever reason, is an outcome of its task.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import connection, resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollforge import drivers
from rollforge.drivers import TRACKERS
from rollforge.errors import (
    ConfigError,
    TrainingFailed,
)
from rollforge.limits import LIMITS
from rollforge.machine import process_is_stopped
from rollforge.market import scans
from rollforge.run.gpus import VARIABLE, GpuShare
from rollforge.run.interactive import main_classes
from rollforge.run.job import Job, known_failures
from rollforge.run.messages import (
    MESSAGE_TYPES,
    READY,
    CannotRun,
    CannotStart,
    Done,
    Failed,
    Message,
    Outcome,
    Started,
    Unreadable,
    is_complete,
)
from rollforge.run.pipe import Messages, read_message
from rollforge.run.references import from_reference
from rollforge.run.worker_main import Inherited, worker_main
from rollforge.session import Session, current_session, using
from rollforge.store.base import trim_log
from rollforge.store.codec import decode_result
from rollforge.task import Cause, Status, TaskRecord

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

__all__ = ["WorkerProcess", "call_in_child", "import_plugins_in_child", "portable"]

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_MEMORY_MARKS = ("bad_alloc", "MemoryError", "Cannot allocate memory", "std::length_error")
_NAME = "rollforge-worker"
_UNGUARDED_CODE = 78  # EX_CONFIG of sysexits.h
_UNGUARDED = (
    "The script starts training again when a worker process imports it. Put what it does, except for imports and "
    "definitions, under \"if __name__ == '__main__':\"."
)
START_SECONDS = 120.0
"""Seconds that a process has to get ready, which includes importing plugins."""

log = logging.getLogger(__name__)


def _check_not_importing() -> None:
    """Raise an error in a worker process that is importing a module, for a class of a task: it would wait for its own task.

    Raises
    ------
    ConfigError
        If this thread or the main one is importing a module.
    """
    if multiprocessing.current_process().name != _NAME:
        return
    frames = sys._current_frames()
    for thread in {threading.get_ident(), threading.main_thread().ident}:
        frame = frames.get(thread or 0)
        while frame is not None:
            name = frame.f_globals.get("__name__")
            if frame.f_code.co_name == "<module>" and name not in ("__main__", "__mp_main__"):
                raise ConfigError(
                    f"The module {name!r} starts training when a worker process imports it, which it does for a class or "
                    "function of a task. Put what it does, except for imports and definitions, into a function."
                )
            frame = frame.f_back


def _signal_name(number: int) -> str:
    """Return the name of a signal. Most real-time signals have none.

    Examples
    --------
    >>> _signal_name(9), _signal_name(40)
    ('SIGKILL', 'signal 40')
    """
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


_STOPPED_SECONDS = 60.0  # as long as a lease
_LOOK_SECONDS = 1.0
_PART_SECONDS = 1.0  # that a process has to exit before others use its GPUs


@dataclass(slots=True)
class StopTimer:
    """Measures how long another process has been stopped by a signal.

    If this process does not check for a while, because it was stopped too (Ctrl-Z stops both), the time starts again.
    """

    too_long: bool = False
    _since: float | None = None
    _looked: float = -1e9

    def check(self, pid: int) -> bool:
        """Check the process at most once a second, and return whether it has been stopped for too long."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return self.too_long
        resumed = now - self._looked > 10 * _LOOK_SECONDS
        self._looked = now
        if not process_is_stopped(pid):
            self._since = None
        elif self._since is None or resumed:
            self._since = now
            log.warning("worker process %d is stopped; 'kill -CONT %d' resumes it", pid, pid)
        else:
            self.too_long = now - self._since > _STOPPED_SECONDS
        return self.too_long


class WorkerProcess:
    """A worker process and its current task. The process is started when it gets its first task.

    Parameters
    ----------
    session : Session
        Session of the task function.
    job : Job
        The job to run.
    log_file : path, optional
        File to which the process also logs.
    modules : path, optional
        Folder with the modules of a user of another machine, see :func:`~rollforge.user_code.use_sent`.
    """

    def __init__(
        self,
        session: Session,
        job: Job,
        log_file: Path | None = None,
        *,
        modules: Path | None = None,
    ) -> None:
        self._session = portable(session)
        self._job = job
        self._log_file = log_file
        self._modules = modules
        self._share: GpuShare | None = None
        self._context = multiprocessing.get_context("spawn")
        # A file without a name: the system frees it, whichever process is killed.
        self._log = tempfile.TemporaryFile(buffering=0, prefix="rollforge-task-")  # noqa: SIM115
        # Mode "ab" does not set O_APPEND. Without it, a task's log begins with as many NULs as the previous task wrote.
        fcntl.fcntl(self._log, fcntl.F_SETFL, fcntl.fcntl(self._log, fcntl.F_GETFL) | os.O_APPEND)
        self._next_job: tuple[Session, Job] | None = None
        """Session and job that the process does not know yet."""
        self._process: SpawnProcess | None = None
        self._pipe: connection.Connection | None = None
        self._messages: Messages | None = None
        self._invalid_message = ""
        self._oom_kills = 0
        self._timed_out = False
        self._stopped = StopTimer()
        self._told_slow = False
        self.task: TaskRecord | None = None
        self.began = 0.0
        """When the task was given to the process."""
        self._running_since: float | None = None
        """When the process began the task; it may have had to start first."""
        self.ready = False
        """Whether the process has started and can run tasks."""
        self.failed = False
        """Whether a task failed in the process. It may have left the process in a state in which others fail too."""

    @property
    def is_up(self) -> bool:
        """Whether the process is running and has got ready."""
        return self.ready and self._process is not None and self._process.is_alive()

    @property
    def free(self) -> bool:
        """Whether it has no task. The process is started with the next task."""
        return self.task is None

    def use_gpus(self, share: GpuShare | None) -> None:
        """Let tasks see only the GPUs of a share, or all if there is none, in a new process if one is running.

        The share that it had is given back. It keeps the new one until :meth:`end`.
        """
        if share is not self._share:
            self._part(_PART_SECONDS)
            if self._share is not None:
                self._share.close()
            self._share = share

    @property
    def handles(self) -> list[Any]:
        """Handles to wait for with ``multiprocessing.connection.wait``."""
        if self._process is None or self._pipe is None:
            return []
        return [self._pipe, self._process.sentinel]

    @property
    def pid(self) -> int:
        """Id of the process; 0 if there is none."""
        return 0 if self._process is None else self._process.pid or 0

    @property
    def is_sending(self) -> bool:
        """Whether part of the task has not been sent to the process yet; each call of :meth:`outcome` sends more."""
        return self._messages is not None and self._messages.sending

    @property
    def seconds(self) -> float:
        """Seconds since the task was given to the process."""
        return time.perf_counter() - self.began

    def log(self) -> str:
        """Return the last lines that the task printed or logged."""
        with contextlib.suppress(OSError, ValueError):
            size = os.fstat(self._log.fileno()).st_size
            start = max(0, size - 64_000)
            return trim_log(os.pread(self._log.fileno(), size - start, start).decode("utf-8", "replace"))
        return ""

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the process if it is not running."""
        if self._process is None or not self._process.is_alive():
            self._start()

    def change_job(self, session: Session, job: Job) -> None:
        """Run the following tasks as those of another job. The process keeps its limits of memory and threads, and its log
        file."""
        self._session, self._job = portable(session), job
        if self._process is not None:
            self._next_job = (self._session, replace(job, on_death=None))

    def assign(
        self,
        task: TaskRecord,
        threads: int,
        session: Session | None = None,
        *,
        own: bool = False,
        main: bytes | None = None,
    ) -> None:
        """Send a task to the process, to run with a number of threads.

        If `session` is given, the task runs in it instead of the session of the process. What the task may build
        depends on whether it is this user's `own`. `main` are the classes of ``__main__`` that it names, if this is not
        the process in which they were defined.
        """
        self.start()
        assert self._messages is not None
        second = self._job.before is Status.PART_DONE
        argument = task.result if second else task.text or dict(task.definition)
        self.task, self.began, self._timed_out, self._oom_kills = task, time.perf_counter(), False, _oom_kills()
        self._running_since, self._stopped = None, StopTimer()
        other = None if session is None else portable(session)
        with contextlib.suppress(OSError):  # the process has died, which outcome() will report
            main = main_classes(task.text) if own and main is None else main
            self._messages.send(
                (
                    task.id,
                    task.token,
                    known_failures(task),
                    task.model_name,
                    argument,
                    threads,
                    other,
                    own,
                    main,
                    self._next_job,
                )
            )
            self._next_job = None

    def _start(self) -> None:
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            # A script without a guard: the process that it started imports it, and is about to start processes, too. It
            # ends here, whatever exceptions the script catches.
            os.write(2, f"{_UNGUARDED}\n".encode())
            os._exit(_UNGUARDED_CODE)
        _check_not_importing()
        self._forget()
        os.ftruncate(self._log.fileno(), 0)
        ours, theirs = self._context.Pipe(duplex=True)
        job = replace(self._job, on_death=None)
        process = self._context.Process(
            target=worker_main, name=_NAME,
            args=(
                # What may be large follows with the first task: start() would wait forever for a process that has died
                # before it read its arguments.
                self._session, replace(job, query={}, kwargs={}), theirs, Inherited(self._log.fileno()),
                self._log_file, drivers.registered(), self._modules,
                # The locks of its GPUs last as long as the process, even if this one is killed.
                () if self._share is None else tuple(map(Inherited, self._share.descriptors)),
                None if (scanned := scans.begin_sharing()) is None else Inherited(scanned),
            ),
        )  # fmt: skip
        resource_tracker.ensure_running()
        devices = None if self._share is None else self._share.devices
        with _variables(self._session.threads, devices), _interrupts_held():
            process.start()
        theirs.close()
        # A pickle is slightly longer than the result that it contains.
        self._messages = Messages(ours, 2 * LIMITS["result_size"].value + 2**20)
        self._process, self._pipe, self.ready, self._invalid_message = process, ours, False, ""
        self._next_job = (self._session, job)
        self._told_slow = False
        self.failed = False

    def _forget(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
        if self._messages is not None:
            self._messages.close()
        self._process = self._pipe = self._messages = None

    def outcome(self) -> Outcome | None:
        """Return how the task ended, or None while it is running. If the process died, its handles are closed."""
        if self._process is None or self._pipe is None:
            return None
        alive = self._process.is_alive()
        try:
            answer = self._answer(self._messages)
        except ValueError as exc:
            # The message cannot be from the code that runs tasks: nothing that this process sends can be trusted.
            log.warning("a worker process is replaced because it sent %s", exc)
            self._invalid_message = str(exc)
            self.kill()
        else:
            if answer is not None:
                return answer
        if alive and self._process.is_alive():
            return None
        died = self._death(self._process.exitcode or 0)
        self._process.join()
        self._forget()
        return died

    def _answer(self, messages: Messages | None) -> Outcome | None:
        """Return the outcome that the process has sent, or None.

        Raises
        ------
        ValueError
            If the process sent something that no worker process sends.
        """
        if messages is None:
            return None
        with contextlib.suppress(OSError):  # it has died, which is reported below
            messages.push()
        messages.receive()
        while (data := messages.next()) is not None:
            message = read_message(data, MESSAGE_TYPES)
            self.ready = True
            if message == READY:
                continue
            if not isinstance(message, Message) or not is_complete(message.content):
                raise ValueError("a message that is not an answer")
            if self.task is None or (message.task_id, message.token) != (self.task.id, self.task.token):
                raise ValueError("an answer for a task that it does not have")
            if messages.sending:
                raise ValueError("an answer for a task that it has not read")
            if not isinstance(message.content, Started):
                return message.content
            self._running_since = time.perf_counter()
        return None

    def _death(self, code: int) -> Failed | CannotStart:
        if code == _UNGUARDED_CODE and not self.ready:
            return CannotStart(_UNGUARDED)
        log_text = self.log()
        pid = self._process.pid if self._process is not None else None
        if self._timed_out:
            how, cause = f"ran for more than {self._job.timeout:g} s and was terminated", Cause.TIMED_OUT
        elif self._stopped.too_long:
            how, cause = (
                f"was stopped by a signal for more than {_STOPPED_SECONDS:g} s and was terminated",
                Cause.KILLED,
            )
        elif self._invalid_message:
            how, cause = f"sent {self._invalid_message} and was terminated", Cause.EXITED
        elif code < 0:
            how, cause = f"was killed by {_signal_name(-code)}", Cause.KILLED
            limited = self._job.memory is not None and any(mark in log_text for mark in _MEMORY_MARKS)
            if limited or (code == -signal.SIGKILL and _oom_kills() > self._oom_kills):
                how, cause = f"ran out of memory ({_signal_name(-code)})", Cause.OUT_OF_MEMORY
        else:
            how, cause = f"exited with code {code} without a result", Cause.EXITED
        return Failed(f"The worker process {pid} {how}.", f"worker {how}", cause)

    def fits(self, task: TaskRecord) -> bool:
        """Return True: all tasks of a job can run in each process."""
        return True

    def leave(self, task: TaskRecord, reason: str) -> bool:
        """Return False: what is missing in one process of this machine is missing in all."""
        return False

    def overdue(self) -> bool:
        """Return whether the task exceeded its time limit; if so, kill its process, which :meth:`outcome` reports.

        The time that the process takes to start does not count, but a process that does not get ready in time is killed
        too; without a time limit, it is only reported. One that is stopped by a signal for as long as a lease is killed:
        a stopped worker also loses its tasks then.
        """
        if self.task is None or self._timed_out:
            return False
        if self._process is not None and self._process.pid is not None and self._stopped.check(self._process.pid):
            self.kill()
            return True
        now = time.perf_counter()
        if not self.ready and now - self.began > START_SECONDS:
            self._tell_slow()
        if self._job.timeout is None:
            return False
        if self._running_since is None:
            late = now - self.began > max(START_SECONDS, self._job.timeout)
        else:
            late = now - self._running_since > self._job.timeout
        if late:
            self._timed_out = True
            self.kill()
        return late

    def _tell_slow(self) -> None:
        """Log a warning, once, about a process that does not get ready, as it may never do without a time limit."""
        if not self._told_slow:
            self._told_slow = True
            said = (self.log().splitlines() or ["nothing"])[-1]
            log.warning("worker process %d is not ready after %g s; it says: %s", self.pid, START_SECONDS, said)

    def kill(self) -> None:
        """Kill the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()

    def interrupt(self) -> None:
        """Ask the process to abort its task and exit."""
        if self._process is not None:
            self._process.terminate()

    def shut_down(self) -> None:
        """Tell the process to exit, as there are no more tasks."""
        if self._messages is not None:
            with contextlib.suppress(OSError):  # a process that does not read is killed later
                self._messages.send(None)

    def end(self, grace: float) -> None:
        """Let the process exit within `grace` seconds, else kill it, and close its log."""
        self._part(grace)
        self._log.close()
        if self._share is not None:
            self._share.close()

    def renew_process(self, grace: float = 5.0) -> None:
        """End the process within `grace` seconds, so that the next task gets a new one."""
        self._part(grace)

    def _part(self, grace: float) -> None:
        self.shut_down()
        if self._process is not None:
            self._process.join(grace)
            self.kill()
        self._forget()


def portable(session: Session) -> Session:
    """Return the session for a worker process: objects that this program passed are replaced by their URIs."""
    return session.with_(tracking_uri=TRACKERS.portable(session.tracking_uri))


@contextlib.contextmanager
def _variables(threads: int, devices: Sequence[str] | None) -> Iterator[None]:
    """Limit the thread pools and the GPUs of a child process through variables that libraries read when they are loaded."""
    variables = {name: str(threads) for name in _THREAD_VARIABLES}
    if devices is not None:
        variables[VARIABLE] = ",".join(devices)
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Block SIGINT while a child starts: Ctrl-C would kill it before it can ignore the signal."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _oom_kills() -> int:
    """Return how many processes the machine's out-of-memory killer has killed."""
    with contextlib.suppress(OSError, ValueError), open("/proc/vmstat") as stream:
        for line in stream:
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


# -- calls in a child process ----------------------------------------------------------------------------------------


def call_in_child(func: Callable[..., object], *args: object, **kwargs: object) -> object:
    """Run ``func(*args, **kwargs)`` in a new child process and return the result.

    A recorder is returned as a recorder. Any other result must be plain data, or of a type that may be unpickled.

    Raises
    ------
    TrainingFailed
        If the child dies without a result (killed, out of memory, crashed in C code), or if `func` raises; the message
        contains the exception and its traceback.
    """
    return _run_in_child(Job("", _called, kwargs={"func": func, "args": args, "kwargs": kwargs}, own=True))


def import_plugins_in_child(session: Session, seconds: float) -> None:
    """Import the plugins of a session in a new child process.

    Raises
    ------
    TrainingFailed
        If one cannot be imported, or if that takes longer than `seconds`.
    """
    with using(session):
        _run_in_child(Job("", len, own=True, timeout=seconds))


def _run_in_child(job: Job) -> object:
    process = WorkerProcess(current_session(), job)
    try:
        process.assign(TaskRecord(id="call", pool="", definition={}), current_session().threads, own=True)
        while (outcome := process.outcome()) is None:
            process.overdue()
            connection.wait(process.handles, timeout=1.0)
    finally:
        process.end(5.0)
    if isinstance(outcome, Done):
        return from_reference(decode_result(outcome.result))
    if isinstance(outcome, CannotStart):
        raise ConfigError(outcome.reason)
    if isinstance(outcome, (CannotRun, Unreadable)):
        raise TrainingFailed(outcome.reason)
    raise TrainingFailed(outcome.error if isinstance(outcome, Failed) else "The child process was stopped.")


def _called(argument: object, func: Callable[..., object], args: Any, kwargs: Any) -> object:
    return func(*args, **kwargs)
