"""The outcomes of a task, and the messages in which a worker process sends them to its parent."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass

from rollforge.errors import outer_parts
from rollforge.store.codec import EncodedResult
from rollforge.task import Cause

__all__ = [
    "MESSAGE_TYPES",
    "READY",
    "CannotRun",
    "CannotStart",
    "Done",
    "Failed",
    "Message",
    "Outcome",
    "Started",
    "Stopped",
    "Unreadable",
    "failure",
    "is_complete",
]


@dataclass(frozen=True, slots=True)
class Done:
    """The task has a result."""

    result: EncodedResult


@dataclass(frozen=True, slots=True)
class Failed:
    """The task has no result.

    Examples
    --------
    >>> failure(ValueError("no good")).brief
    'ValueError: no good'
    """

    error: str
    brief: str
    cause: Cause


@dataclass(frozen=True, slots=True)
class Stopped:
    """The task was interrupted from outside and is not at fault."""


@dataclass(frozen=True, slots=True)
class CannotRun:
    """The task could not run, because this machine lacks a module, a package or a recorder that it needs."""

    reason: str


@dataclass(frozen=True, slots=True)
class CannotStart:
    """No worker process can start, because of a mistake in the script that starts them. No process sends this."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The task was not started, because its definition cannot be decoded on any machine."""

    reason: str


Outcome = Done | Failed | Stopped | CannotRun | CannotStart | Unreadable


@dataclass(frozen=True, slots=True)
class Started:
    """The process starts the task now."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a process about a claim of a task."""

    task_id: str
    token: int
    content: Outcome | Started


READY = "ready"
_MAX_ERROR_LENGTH = 64_000
"""The message of an exception may contain an entire table."""
MESSAGE_TYPES = {
    (kind.__module__, kind.__name__): kind
    for kind in (Done, Failed, Stopped, CannotRun, Unreadable, Started, Message, EncodedResult, Cause)
}
"""Types that a message of a process may contain."""


def is_complete(content: object) -> bool:
    """Return whether the content of a message is complete and well-typed."""
    match content:
        case Done(EncodedResult(plain, blob)):
            return isinstance(plain, str | None) and isinstance(blob, bytes | None)
        case Failed(error, brief, cause):
            return isinstance(error, str) and isinstance(brief, str) and isinstance(cause, Cause)
        case CannotRun(reason) | Unreadable(reason):
            return isinstance(reason, str)
    return isinstance(content, (Stopped, Started))


def failure(exc: BaseException) -> Failed:
    """Return the outcome of a task that raised."""
    # Not isinstance(), which asks the exception for its __class__.
    cause = Cause.OUT_OF_MEMORY if issubclass(type(exc), MemoryError) else Cause.RAISED
    name = _described(lambda: type(exc).__name__, "an exception")
    text = _described(lambda: str(exc), "<its message cannot be produced>")
    brief = f"{name}: {text}" if text else name
    error = _described(lambda: "".join(traceback.format_exception(exc)), brief)
    return Failed(outer_parts(error, _MAX_ERROR_LENGTH), outer_parts(brief, _MAX_ERROR_LENGTH), cause)


def _described(describe: Callable[[], str], instead: str) -> str:
    """Return a description of an exception, or `instead` if it cannot be made: its methods are the task's code."""
    try:
        return str.__str__(describe())  # not a subclass, whose methods are the task's too
    except BaseException:  # noqa: BLE001 - whatever they raise
        return instead
