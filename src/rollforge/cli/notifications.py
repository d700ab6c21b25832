"""Notifications that commands send to the targets of ``notify``.

A failed notification causes a warning; the exit code stays the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

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

_MAX_CAUSES = 5


def _send(workflow: Workflow, *documents: Mapping[str, object]) -> None:
    _Sender(workflow).send(*documents)


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


def _run_document(made: Plan, labels: Mapping[str, str], event: str, error: str = "") -> dict[str, object]:
    """Return the document about a run: how it ended, the state of its tasks, and the first causes of failures."""
    from rollforge import pipeline

    session, name, tasks = made.workflow.session, made.workflow.experiment_name, len(set(made.ids))
    done: int | None = None
    failed: int | None = None
    causes: list[dict[str, object]] = []
    try:
        done, groups = pipeline.done_tasks(made), pipeline.failures(made)
    except RollforgeError:  # the store cannot be read, which may be why the run failed
        pass
    else:
        failed = sum(len(group.tasks) for group in groups)
        causes = [
            {"reason": group.reason, "tasks": len(group.tasks), "first": labels.get(group.tasks[0], group.tasks[0])}
            for group in groups[:_MAX_CAUSES]
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


class _Sender:
    """Sends documents in order. A target that fails gets no further documents, so that it delays the command only once."""

    def __init__(self, workflow: Workflow) -> None:
        self.targets = workflow.notify

    def send(self, *documents: Mapping[str, object]) -> None:
        """Send documents; print a warning for each target that fails."""
        from rollforge.notify import send

        for document in documents:
            failed = send(self.targets, document)
            for problem in failed.values():
                echo_error(f"warning: {one_line(problem)}")
            self.targets = tuple(target for target in self.targets if target not in failed)


@contextlib.contextmanager
def reported_days(
    workflow: Workflow, before: ServiceState, current: Callable[[], ServiceState], name: str, known_error: str = ""
) -> Iterator[Callable[[], None]]:
    """Send a document for each day that needs attention, and for an error that belongs to no day when the context ends.

    The context manager yields a function that sends the documents about the days recorded since its last call.

    Parameters
    ----------
    workflow : Workflow
        The workflow of the service.
    before : ServiceState
        The state of the service when the run began.
    current : callable
        Returns the current state of the service.
    name : str
        The name of the service.
    known_error : str
        An error that was sent before, and is not sent again.
    """
    sender, sent = _Sender(workflow), before.last

    def report() -> None:
        nonlocal sent
        if workflow.notify:
            documents, sent = _alerts(current, sent)
            sender.send(*documents)

    try:
        yield report
    except BaseException as exc:
        report()
        if workflow.notify:
            sender.send(*_error_alert(exc, current, name, known_error))
        raise
    report()


def _alerts(current: Callable[[], ServiceState], after: int) -> tuple[list[dict[str, object]], int]:
    """Return the documents about the entries after a number, and the number of the last entry."""
    from rollforge.ledger.entry import author
    from rollforge.online.alerts import day_alerts

    try:
        state = current()
        return day_alerts(state, after, author()), state.last
    except RollforgeError as exc:
        echo_error(f"warning: no notifications about single days, because the ledger cannot be read: {exc}")
        return [], after


def _error_alert(
    exc: BaseException, current: Callable[[], ServiceState], name: str, known_error: str
) -> list[dict[str, object]]:
    """Return the document about an error, unless it was already sent or is recorded as the error of a failed day."""
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
