"""Tasks as spans of OpenTelemetry, as an exporter of its SDK gets them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import Any

import pytest

from rollforge.run import InProcess, TaskSpans
from rollforge.run.job import Event, Job
from rollforge.session import Session
from rollforge.store.memory import MemoryStore

pytest.importorskip("opentelemetry.sdk", reason="not installed: pip install 'rollforge[otel]'")
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode


class Traced:
    """A tracer provider and what it has exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def spans(self, name: str) -> list[Any]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]


@pytest.fixture
def traced() -> Traced:
    return Traced()


def work(definition: dict[str, Any]) -> float:
    return 1 / float(definition["divisor"])


def test_an_attempt_is_a_span_of_its_job(traced: Traced) -> None:
    """Attempts that fail are recorded with their exceptions and causes."""
    store = MemoryStore("memory://spans")
    created = store.create("pool", [{"divisor": 2}, {"divisor": 0}], max_attempts=1)
    good, bad = (task.id for task in created)
    events: list[Event] = []
    with TaskSpans("job", events.append, tracer_provider=traced.provider) as spans:
        InProcess().run(Job("pool", work, own=True), Session(), spans, store=store)
    (job,) = traced.spans("job")
    assert dict(job.attributes) == {"rollforge.job.done": 1, "rollforge.job.failed": 1}
    assert job.status.status_code is StatusCode.ERROR
    tasks = {
        span.attributes["rollforge.task.id"]: span for span in traced.exporter.get_finished_spans() if span is not job
    }
    assert tasks.keys() == {good, bad}
    for span in tasks.values():
        assert span.parent.span_id == job.context.span_id
        assert job.start_time <= span.start_time <= span.end_time <= job.end_time
        assert span.attributes["rollforge.pool"] == "pool"
        assert span.attributes["rollforge.task.attempt"] == 1
        assert span.attributes["rollforge.worker"]
    done, failed = tasks[good], tasks[bad]
    assert (done.attributes["rollforge.task.status"], done.events) == ("done", ())
    assert done.status.status_code is StatusCode.UNSET
    assert failed.attributes["rollforge.task.status"] == "failed"
    assert failed.attributes["rollforge.task.cause"] == "raised"
    (recorded,) = failed.events
    assert recorded.name == "exception"
    assert recorded.attributes["exception.type"] == "ZeroDivisionError"
    assert recorded.attributes["exception.message"] == "float division by zero"
    assert "in work" in recorded.attributes["exception.stacktrace"]
    assert [event.kind for event in events].count("started") == 2


def test_each_attempt_has_its_number(traced: Traced) -> None:
    """A task that is tried again has several spans; one that is interrupted ends with its job."""
    spans = TaskSpans("job", tracer_provider=traced.provider)
    with contextlib.suppress(KeyboardInterrupt), spans:
        spans(Event("started", "a", "here", at=100.0, attempt=1))
        spans(Event("retry", "a", "here", error="OSError: gone", at=103.0, attempt=1, cause="raised"))
        spans(Event("started", "a", "here", at=110.0, attempt=2))
        raise KeyboardInterrupt
    first, second = traced.spans("a")
    assert (first.end_time - first.start_time) / 1e9 == 3.0
    assert [span.attributes["rollforge.task.attempt"] for span in (first, second)] == [1, 2]
    assert [span.attributes["rollforge.task.status"] for span in (first, second)] == ["retry", "interrupted"]
    (job,) = traced.spans("job")
    assert job.events[0].attributes["exception.type"] == "KeyboardInterrupt"


def test_opentelemetry_is_imported_only_if_it_is_used() -> None:
    """Importing what trains does not import it, nor does a trainer with another function."""
    code = "import sys, rollforge.run as run; run.TrainerR, run.TaskSpans; print('opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_secrets_of_an_error_are_masked(traced: Traced) -> None:
    """What a tracing system is sent leaves the machine."""
    error = "OSError: cannot reach postgresql://ann:s3cret-word@db/tasks"
    event = Event("failed", "id", "", 1.0, error, "task", traceback=f"Traceback\n{error}")
    with TaskSpans("job", tracer_provider=traced.provider) as spans:
        spans(event)
    sent = " ".join(span.to_json() for span in traced.exporter.get_finished_spans())
    assert "postgresql://ann:***@db/tasks" in sent
    assert "s3cret-word" not in sent
