"""Tasks as spans of OpenTelemetry, for a tracing system that an organization already has."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from rollforge.confidential import mask_secrets
from rollforge.errors import MissingDependency
from rollforge.run.job import Event, ignore_event

if TYPE_CHECKING:
    from opentelemetry.trace import Span, TracerProvider

__all__ = ["TaskSpans"]


class TaskSpans:
    """Makes a span of a job and, below it, one of each attempt at a task: pass it as ``on_event``.

    The attributes of a task's span are ``rollforge.pool``, ``rollforge.task.id``, ``rollforge.task.name`` (its model and
    test days), ``rollforge.task.attempt``, ``rollforge.task.status`` (the last event: ``done``, ``failed``, ``retry``,
    ``lost`` or ``left``; ``interrupted`` if the job ended first), ``rollforge.task.cause`` of a failure and
    ``rollforge.worker``. The exception of a failed attempt is an event of its span, with secrets
    masked. What is traced is sent where the
    tracer provider of the program sends it.

    Parameters
    ----------
    name : str
        Name of the job, such as that of the experiment.
    forward : callable, optional
        Called with each event too: the progress display that ``on_event`` replaces.
    tracer_provider : TracerProvider, optional
        By default that of the program.

    Raises
    ------
    MissingDependency
        If OpenTelemetry is not installed.
    """

    def __init__(
        self,
        name: str,
        forward: Callable[[Event], None] = ignore_event,
        *,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        try:
            from opentelemetry import trace
        except ImportError as exc:
            raise MissingDependency("Spans of tasks need OpenTelemetry: pip install 'rollforge[otel]'") from exc
        self._trace: Any = trace
        self._name = name
        self._forward = forward
        self._tracer = trace.get_tracer("rollforge", tracer_provider=tracer_provider)
        self._job: Any = None
        self._running: dict[str, Span] = {}
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()  # tasks may end in several threads

    def __enter__(self) -> Self:
        self._counts = {}
        self._job = self._tracer.start_span(self._name)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: object) -> None:
        with self._lock:
            for span in self._running.values():
                span.set_attribute("rollforge.task.status", "interrupted")
                span.end()
            self._running.clear()
            for status, count in self._counts.items():
                self._job.set_attribute(f"rollforge.job.{status}", count)
            if value is not None:
                self._job.record_exception(value)
                self._fails(self._job, str(value))
            elif failed := self._counts.get("failed"):
                self._fails(self._job, f"{failed} failed")
            self._job.end()

    def __call__(self, event: Event) -> None:
        """Begin or end the span of a task."""
        with self._lock:
            if event.kind == "started":
                self._running[event.task_id] = self._begun(event, event.at)
            else:
                span = self._running.pop(event.task_id, None) or self._begun(event, event.at - event.seconds)
                self._end(span, event)
        self._forward(event)

    def _begun(self, event: Event, at: float) -> Span:
        attributes: dict[str, str | int] = {
            "rollforge.pool": event.pool, "rollforge.task.id": event.task_id, "rollforge.task.name": event.label,
            "rollforge.task.attempt": event.attempt, "rollforge.worker": event.worker,
        }  # fmt: skip
        span: Span = self._tracer.start_span(
            event.label or event.task_id,
            context=self._trace.set_span_in_context(self._job) if self._job is not None else None,
            attributes={name: value for name, value in attributes.items() if value},
            start_time=_nanoseconds(at),
        )
        return span

    def _end(self, span: Span, event: Event) -> None:
        self._counts[event.kind] = self._counts.get(event.kind, 0) + 1
        span.set_attribute("rollforge.task.status", event.kind)
        if event.cause:
            span.set_attribute("rollforge.task.cause", event.cause)
        if event.kind in ("failed", "retry", "lost"):
            self._fails(span, event.error)
        if event.kind in ("failed", "retry"):
            kind, _, message = mask_secrets(event.error).partition(": ")
            recorded = {
                "exception.type": kind, "exception.message": message,
                "exception.stacktrace": mask_secrets(event.traceback),
            }  # fmt: skip
            span.add_event("exception", {k: v for k, v in recorded.items() if v}, timestamp=_nanoseconds(event.at))
        span.end(end_time=_nanoseconds(event.at))

    def _fails(self, span: Span, reason: str) -> None:
        span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, mask_secrets(reason)))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
