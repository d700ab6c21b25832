"""Tasks as spans of OpenTelemetry, for a tracing system that an organization already has."""

from __future__ import annotations

import contextlib
import os
import threading
import traceback
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Self

from rollforge.confidential import mask_secrets
from rollforge.errors import ConfigError, MissingDependency
from rollforge.run.job import Event, ignore_event

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, TracerProvider

__all__ = ["TaskSpans", "exported_spans", "tracer_provider"]

_NOT_INSTALLED = "Spans of tasks need OpenTelemetry: pip install 'rollforge[otel]'"
_EXPORTER = "OTEL_TRACES_EXPORTER"
_PROTOCOLS = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}
"""Value of ``OTEL_EXPORTER_OTLP_PROTOCOL`` -> name of the exporter."""


class TaskSpans:
    """Makes a span of a job and, below it, one of each attempt at a task: pass it as ``on_event``.

    Secrets in errors are masked. The spans are sent where the tracer provider sends them.

    The attributes of a task's span are ``rollforge.pool``, ``rollforge.task.id``, ``rollforge.task.name`` (its model and
    test days), ``rollforge.task.attempt``, ``rollforge.task.status`` (the last event: ``done``, ``failed``, ``retry``,
    ``lost`` or ``left``; ``interrupted`` if the job ended first), ``rollforge.task.cause`` of a failure and
    ``rollforge.worker``. The exception of a failed attempt is an event of its span.

    Parameters
    ----------
    name : str, optional
        Name of the job, such as that of the experiment. None makes no span of the job: the span of each attempt begins a
        trace of its own, as for a worker, which may run for months.
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
        name: str | None,
        forward: Callable[[Event], None] = ignore_event,
        *,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        try:
            from opentelemetry import trace
        except ImportError as exc:
            raise MissingDependency(_NOT_INSTALLED) from exc
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
        self._job = None if self._name is None else self._tracer.start_span(self._name)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: object) -> None:
        with self._lock:
            for span in self._running.values():
                span.set_attribute("rollforge.task.status", "interrupted")
                span.end()
            self._running.clear()
            if self._job is None:
                return
            for status, count in self._counts.items():
                self._job.set_attribute(f"rollforge.job.{status}", count)
            if value is not None:
                shown = "".join(traceback.format_exception(value))
                self._record(self._job, type(value).__name__, str(value), shown)
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
            kind, _, message = event.error.partition(": ")
            self._record(span, kind, message, event.traceback, at=_nanoseconds(event.at))
        span.end(end_time=_nanoseconds(event.at))

    def _record(self, span: Span, kind: str, message: str, stack: str, at: int | None = None) -> None:
        """Add an exception to a span, as ``Span.record_exception`` does, with secrets masked."""
        found = {"exception.type": kind, "exception.message": message, "exception.stacktrace": stack}
        span.add_event("exception", {name: mask_secrets(text) for name, text in found.items() if text}, timestamp=at)

    def _fails(self, span: Span, reason: str) -> None:
        span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, mask_secrets(reason)))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


@contextlib.contextmanager
def exported_spans(
    name: str | None, forward: Callable[[Event], None], provider: TracerProvider | None
) -> Iterator[Callable[[Event], None]]:
    """Provide what makes the spans of a job and calls `forward`; they are exported when the ``with`` block ends.

    Parameters
    ----------
    name : str or None
        As for :class:`TaskSpans`.
    forward : callable
        Called with each event too.
    provider : TracerProvider or None
        Where spans are sent, from :func:`tracer_provider`; None makes none, and provides `forward` itself.
    """
    if provider is None:
        yield forward
        return
    try:
        with TaskSpans(name, forward, tracer_provider=provider) as spans:
            yield spans
    finally:
        if (flush := getattr(provider, "force_flush", None)) is not None:  # a provider of the API alone has none
            flush()


def tracer_provider() -> TracerProvider:
    """Return the tracer provider of the program, or else one that follows the variables of OpenTelemetry.

    A program that ``opentelemetry-instrument`` has started has a provider. Otherwise ``OTEL_TRACES_EXPORTER`` names the
    exporters (``otlp`` by default, ``console``, or those of an installed package), and OpenTelemetry itself reads
    ``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_RESOURCE_ATTRIBUTES``, ``OTEL_TRACES_SAMPLER`` and so on. The name of the service is
    ``rollforge``, unless ``OTEL_SERVICE_NAME`` is set.

    Raises
    ------
    MissingDependency
        If OpenTelemetry or the exporter is not installed.
    ConfigError
        If the exporter cannot be used as configured.
    """
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider as Provider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as exc:
        raise MissingDependency(_NOT_INSTALLED) from exc
    given = trace.get_tracer_provider()
    if not isinstance(given, trace.ProxyTracerProvider):
        return given
    names = [
        name for part in os.environ.get(_EXPORTER, "otlp").split(",") if (name := part.strip()) not in ("", "none")
    ]
    exporters = [_exporter(name) for name in names]
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "rollforge"}))
    provider = Provider(resource=resource)
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _exporter(name: str) -> SpanExporter:
    """Return an exporter by its name in ``OTEL_TRACES_EXPORTER``."""
    found = [entry for one in _entries_of(name) for entry in _installed(one)]
    if not found:
        package = "opentelemetry-exporter-otlp" if name.startswith("otlp") else "the package that has it"
        raise MissingDependency(
            f"There is no exporter {name!r} for spans ({_EXPORTER}). Install it: pip install {package}. "
            f"{_EXPORTER}=console prints them."
        )
    try:
        made: SpanExporter = found[0].load()()
    except Exception as exc:
        raise ConfigError(f"the exporter {name!r} cannot be used: {exc}", path=_EXPORTER) from exc
    return made


def _entries_of(name: str) -> list[str]:
    """Return the names that installed packages may have for an exporter; ``otlp`` has two protocols."""
    if name != "otlp":
        return [name]
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if not protocol:
        return list(_PROTOCOLS.values())
    if protocol not in _PROTOCOLS:
        raise ConfigError(
            f"{protocol!r} is not known. Known: {', '.join(_PROTOCOLS)}.", path="OTEL_EXPORTER_OTLP_PROTOCOL"
        )
    return [_PROTOCOLS[protocol]]


def _installed(name: str) -> list[EntryPoint]:
    return list(entry_points(group="opentelemetry_traces_exporter", name=name))
