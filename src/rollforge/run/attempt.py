"""One attempt at a task, from its definition to its outcome: in this process, or in a worker process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from rollforge.errors import (
    ConfigError,
    DataNotSent,
    MissingCode,
    MissingDependency,
    RecorderUnreachable,
    RollforgeError,
)
from rollforge.plugins import load_plugins
from rollforge.run.job import Job
from rollforge.run.messages import CannotRun, Done, Outcome, Unreadable, failure
from rollforge.run.references import from_reference, is_of_task, to_reference
from rollforge.run.review import reviewed
from rollforge.session import current_session
from rollforge.store.codec import decode_definition, encode_result
from rollforge.task import Status
from rollforge.trust import Origin

__all__ = ["run_attempt"]


def run_attempt(
    job: Job,
    task_id: str,
    argument: object,
    *,
    own: bool,
    set_origin: Callable[[Origin], object],
    interrupts: tuple[type[BaseException], ...],
) -> Outcome:
    """Run a task in the current session and return its outcome.

    Parameters
    ----------
    job : Job
        The job of the task.
    task_id : str
        Id of the task.
    argument : str or object
        The text of the definition, or the definition; for a ``part_done`` task, the result of the first stage.
    own : bool
        Whether the task is this user's own, so that it may build any class.
    set_origin : callable
        Called with the origin from which the task may build classes.
    interrupts : tuple of exception types
        Exceptions that interrupt the task. They are raised; any other exception is a failure of the task.

    Examples
    --------
    >>> run_attempt(Job("p", len), "5041", {"x": 1}, own=True, set_origin=print, interrupts=())
    own
    Done(result=EncodedResult(plain='1', blob=None))
    """
    second = job.before is Status.PART_DONE
    set_origin(Origin.OWN if own and (job.own or not second) else Origin.POOL)
    try:
        load_plugins(current_session())  # including files that have changed
    except RollforgeError as exc:
        return CannotRun(str(exc))
    if isinstance(argument, str) and not second:
        try:
            argument = decode_definition(argument)
        except MissingCode as exc:
            return CannotRun(str(exc))
        except ConfigError as exc:
            return Unreadable(str(exc))
    try:
        if second:
            argument = from_reference(argument)
            if own and is_of_task(argument, task_id):
                set_origin(Origin.OWN)
        with reviewed() if job.reviewed else contextlib.nullcontext():
            result = job.task_func(argument, **job.kwargs)
        return Done(encode_result(to_reference(result)))
    except interrupts:
        raise
    except (DataNotSent, MissingCode, MissingDependency, ModuleNotFoundError, RecorderUnreachable) as exc:
        return CannotRun(str(exc))
    except BaseException as exc:  # noqa: BLE001 - anything else that a task raises, also SystemExit, is its failure
        return failure(exc)
