"""Main loop of a worker process: it receives tasks one by one and sends their outcomes.

It does not use the store. Its output and log go to a file that the parent holds.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import faulthandler
import gc
import io
import logging
import multiprocessing
import os
import resource
import signal
import sys
from multiprocessing import connection, reduction
from pathlib import Path
from typing import Any

from rollforge import drivers, trust
from rollforge.errors import RollforgeError
from rollforge.market import scans
from rollforge.plugins import load_plugins
from rollforge.run.attempt import run_attempt
from rollforge.run.interactive import define_in_main
from rollforge.run.job import Job, WorkerStopped, current_attempt, current_model, current_task, current_token
from rollforge.run.messages import READY, Message, Outcome, Started, Stopped
from rollforge.session import Session, using
from rollforge.trust import Origin
from rollforge.user_code import use_sent

__all__ = ["Inherited", "worker_main"]

_PARENT_DIED = 1  # PR_SET_PDEATHSIG


class Inherited:
    """A file descriptor that is duplicated into a spawned process."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __reduce__(self) -> tuple[object, ...]:
        return _take_over, (reduction.DupFd(self.descriptor),)


def _take_over(duplicate: Any) -> int:
    descriptor: int = duplicate.detach()
    return descriptor


def worker_main(
    session: Session,
    job: Job,
    pipe: connection.Connection,
    log_descriptor: int,
    log_file: Path | None,
    known_drivers: drivers.Registered,
    modules: Path | None = None,
    locks: tuple[int, ...] = (),
    shared_scans: int | None = None,
) -> None:
    """Main function of a worker process.

    It keeps the files of `locks` open as long as it runs, and shares scans of data folders through the file
    `shared_scans`.
    """
    if shared_scans is not None:
        scans.join(shared_scans)
    drivers.register_again(known_drivers)
    if modules is not None:
        use_sent(modules)
    me = os.getpid()
    for number in (signal.SIGINT, signal.SIGHUP):  # sent to the whole process group; the parent handles them
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, _raise_stopped)
    _die_with_parent()
    _open_outputs(log_descriptor)
    faulthandler.enable()
    handlers: list[logging.Handler] = [_ToStderr()]
    if log_file is not None:
        handlers.append(logging.FileHandler(log_file))
    form = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(handlers=handlers, level=logging.INFO, format=form)
    if job.memory is not None:
        # Limits what the process allocates; mapped files, such as the panel, do not count.
        resource.setrlimit(resource.RLIMIT_DATA, (job.memory, job.memory))
    trust.set_process_origin(Origin.POOL)
    with contextlib.suppress(WorkerStopped, EOFError, BrokenPipeError), using(session):
        if job.preload is not None:
            with contextlib.suppress(Exception):  # the task will raise an import error itself
                job.preload()
            gc.freeze()  # later collections need not look at the objects of the imported packages
        with contextlib.suppress(RollforgeError):  # it will be the outcome of each task
            load_plugins(session)
        pipe.send(READY)
        logs = _Logs()
        while (given := pipe.recv()) is not None:
            task_id, token, attempt, model_name, argument, threads, other, own, main, new = given
            session, job = new or (session, job)
            current_task.set(task_id)
            current_attempt.set(attempt)
            current_token.set(token)
            current_model.set(model_name)
            _open_outputs(log_descriptor)
            os.ftruncate(log_descriptor, 0)
            pipe.send(Message(task_id, token, Started()))
            define_in_main(main)
            with using((other or session).with_(threads=threads)):
                answer = _answer(job, argument, task_id, own=own)
            if os.getpid() != me:
                os._exit(0)  # a child that the task forked and that returned: it must not send an outcome
            with contextlib.suppress(Exception):  # a task may have closed or replaced sys.stdout
                sys.stdout.flush()
            logs.put_back()
            pipe.send(Message(task_id, token, answer))
            if isinstance(answer, Stopped):
                return
        # Only the exit functions of libraries are left to run; a full interpreter shutdown would take half a second.
        logging.shutdown()
        atexit._run_exitfuncs()  # those that libraries have registered
        os._exit(0)


def _open_outputs(log_descriptor: int) -> None:
    """Redirect standard output and error to the log, whatever the previous task did to them."""
    for stream in (1, 2):
        os.dup2(log_descriptor, stream)
    sys.stdout, sys.stderr = _output(sys.stdout, 1), _output(sys.stderr, 2)


def _output(stream: object, descriptor: int) -> object:
    """Return `stream` if it writes to `descriptor`, else a new stream that does.

    It is line-buffered, so that the last lines are kept after a crash, and escapes characters that cannot be encoded.
    """
    if isinstance(stream, io.TextIOWrapper) and not stream.closed:
        with contextlib.suppress(Exception):
            if stream.fileno() == descriptor:
                stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
                return stream
    return open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


class _Logs:
    """The logging configuration, restored after each task.

    Otherwise a task that calls ``logging.basicConfig(force=True)``, ``logging.disable()`` or
    ``logging.config.dictConfig()`` would change what later tasks log.
    """

    def __init__(self) -> None:
        self._root = self._state(logging.root)
        # Parents of loggers may be mere placeholders: they have the state of a new logger.
        names = dict.fromkeys(logging.root.manager.loggerDict, self._state(logging.Logger("")))
        self._others = {**names, **{name: self._state(logger) for name, logger in self._loggers()}}

    @staticmethod
    def _loggers() -> list[tuple[str, logging.Logger]]:
        known = list(logging.root.manager.loggerDict.items())
        return [(name, logger) for name, logger in known if isinstance(logger, logging.Logger)]

    @staticmethod
    def _state(logger: logging.Logger) -> dict[str, object]:
        return {
            "handlers": list(logger.handlers), "filters": list(logger.filters), "level": logger.level,
            "propagate": logger.propagate, "disabled": logger.disabled,
        }  # fmt: skip

    @staticmethod
    def _restore(logger: logging.Logger, state: dict[str, Any]) -> None:
        logger.handlers[:], logger.filters[:] = state["handlers"], state["filters"]
        logger.propagate, logger.disabled = state["propagate"], state["disabled"]
        if logger.level != state["level"]:
            logger.setLevel(state["level"])

    def put_back(self) -> None:
        """Undo a task's changes to loggers that existed before it; loggers that it created stay as they are."""
        logging.disable(logging.NOTSET)
        self._restore(logging.root, self._root)
        for name, logger in self._loggers():
            if name in self._others:
                self._restore(logger, self._others[name])
            else:
                logger.disabled = False  # dictConfig disables the loggers that it does not name
                self._others[name] = self._state(logger)


class _ToStderr(logging.StreamHandler[Any]):
    """Logs to the current ``sys.stderr``: a task may have closed the previous one."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        if self.stream is not None:
            super().emit(record)


def _answer(job: Job, argument: object, task_id: str, *, own: bool) -> Outcome:
    try:
        # The origin of the process, because a task can start threads.
        return run_attempt(
            job, task_id, argument, own=own, set_origin=trust.set_process_origin, interrupts=(WorkerStopped,)
        )
    except WorkerStopped:
        return Stopped()


def _die_with_parent() -> None:
    """Have the system kill this process when its parent dies, as its result could not be stored any more."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PARENT_DIED, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:
        os._exit(1)  # the parent died before; comparing with 1 would not do, as it may be a container's first process


def _raise_stopped(signum: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # only once: giving the task back must not be interrupted
    raise WorkerStopped
