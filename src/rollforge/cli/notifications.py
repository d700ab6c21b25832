"""What commands send to the targets of ``notify``. A notification that fails is a warning, and changes no exit code."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import typer

from rollforge.cli.exit_codes import Exit
from rollforge.cli.terminal import echo_error, one_line
from rollforge.confidential import mask_secrets, without_secrets
from rollforge.errors import RollforgeError, ServiceBusy

if TYPE_CHECKING:
    from rollforge.ledger.state import ServiceState
    from rollforge.plan import Plan
    from rollforge.workflow import Workflow

__all__ = ["reported_days", "reported_run"]

_MOST_CAUSES = 5


def _send(workflow: Workflow, *documents: Mapping[str, Any]) -> None:
    """Send documents in order. A target that fails gets no more of them, so that it delays the command only once."""
    from rollforge.notify import send

    targets = workflow.notify
    for document in documents:
        failed = send(targets, document)
        for problem in failed.values():
            echo_error(f"warning: {one_line(problem)}")
        targets = tuple(target for target in targets if target not in failed)


@contextlib.contextmanager
def reported_run(made: Plan, labels: Mapping[str, str]) -> Iterator[None]:
    """Send one document if the run in this context has failed tasks, ends with an error, or is interrupted.

    Parameters
    ----------
    made : Plan
        The tasks of the run.
    labels : mapping
        Ids of tasks -> readable names.
    """
    try:
        yield
    except typer.Exit as exc:
        if exc.exit_code != Exit.DONE and made.workflow.notify:
            event = "interrupted" if exc.exit_code == Exit.INTERRUPTED else "tasks_failed"
            _send(made.workflow, _run_document(made, labels, event))
        raise
    except KeyboardInterrupt:
        if made.workflow.notify:
            _send(made.workflow, _run_document(made, labels, "interrupted"))
        raise
    except Exception as exc:
        if made.workflow.notify:
            _send(made.workflow, _run_document(made, labels, "error", _message(exc)))
        raise


def _run_document(made: Plan, labels: Mapping[str, str], event: str, error: str = "") -> dict[str, Any]:
    """Return the document about a run: how it ended, the state of its tasks, and the first causes of failures."""
    from rollforge import pipeline

    session, name, tasks = made.workflow.session, made.workflow.experiment_name, len(set(made.ids))
    done: int | None = None
    failed: int | None = None
    causes: list[dict[str, Any]] = []
    try:
        done, groups = pipeline.done_tasks(made), pipeline.failures(made)
    except RollforgeError:  # the store cannot be read, which may be why the run failed
        pass
    else:
        failed = sum(len(group.tasks) for group in groups)
        causes = [
            {"reason": group.reason, "tasks": len(group.tasks), "first": labels.get(group.tasks[0], group.tasks[0])}
            for group in groups[:_MOST_CAUSES]
        ]
    said = [error] if error else ["interrupted"] if event == "interrupted" else []
    if failed:
        said.append(f"{failed} of {tasks} tasks failed: {causes[0]['reason']}")
    tracking_uri = session.tracking_uri
    return {
        "job": "run", "event": event, "name": name, "text": f"{name}: {'; '.join(said) or 'the run is incomplete'}",
        "error": error, "tasks": tasks, "done": done, "failed": failed, "failures": causes,
        "store": without_secrets(session.store_uri), "tracking": tracking_uri and without_secrets(tracking_uri),
    }  # fmt: skip


@contextlib.contextmanager
def reported_days(
    workflow: Workflow, before: ServiceState, current: Callable[[], ServiceState], name: str, known_error: str = ""
) -> Iterator[None]:
    """Send a document for each day that needs attention when the context ends, and for an error that is no day's.

    Parameters
    ----------
    workflow : Workflow
        The workflow of the service.
    before : ServiceState
        The service when the run began.
    current : callable
        Returns the service as it is now.
    name : str
        The name of the service.
    known_error : str
        An error that was sent before, and is not sent again.
    """
    try:
        yield
    except BaseException as exc:
        if workflow.notify:
            _send(workflow, *_alerts(before, current), *_error_alert(exc, current, name, known_error))
        raise
    if workflow.notify:
        _send(workflow, *_alerts(before, current))


def _alerts(before: ServiceState, current: Callable[[], ServiceState]) -> list[dict[str, Any]]:
    from rollforge.ledger.entry import author
    from rollforge.online.alerts import day_alerts

    try:
        return day_alerts(current(), before.last, author())
    except RollforgeError as exc:
        echo_error(f"warning: no notifications about single days, because the ledger cannot be read: {exc}")
        return []


def _error_alert(
    exc: BaseException, current: Callable[[], ServiceState], name: str, known_error: str
) -> list[dict[str, Any]]:
    """Return the document about an error, unless it was sent already or is recorded as that of a failed day."""
    error = mask_secrets(_message(exc))
    if not isinstance(exc, Exception) or isinstance(exc, ServiceBusy) or error == known_error:
        return []
    try:
        recorded = {day.error for day in current().days.values() if day.state == "failed"}
    except RollforgeError:  # then the error is probably that of the ledger
        recorded = set()
    if str(exc) in recorded:
        return []
    return [{"job": "serve", "event": "error", "name": name, "text": f"{name}: {error}", "error": error}]


def _message(exc: BaseException) -> str:
    return str(exc) if isinstance(exc, RollforgeError) else f"{type(exc).__name__}: {exc}"
