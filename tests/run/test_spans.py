"""Tasks as spans of OpenTelemetry, as an exporter of its SDK gets them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.documents.definitions import (
    SIGNAL,
    SMALL_MARKET,
    TWO_WINDOWS,
    expressions,
    stores,
    task_definition,
    write_workflow,
)

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


def test_secrets_of_an_interruption_are_masked(traced: Traced) -> None:
    """The exception that ends a job is recorded as those of its tasks are."""
    with contextlib.suppress(OSError), TaskSpans("job", tracer_provider=traced.provider):
        raise OSError("cannot reach postgresql://ann:s3cret-word@db/tasks")
    (job,) = traced.spans("job")
    assert job.events[0].attributes["exception.message"] == "cannot reach postgresql://ann:***@db/tasks"
    assert "raise OSError" in job.events[0].attributes["exception.stacktrace"]
    assert "s3cret-word" not in job.to_json()


def test_a_worker_has_no_span_of_its_own(traced: Traced) -> None:
    """Each attempt begins a trace, and one that is interrupted ends with the worker."""
    with TaskSpans(None, tracer_provider=traced.provider) as spans:
        spans(Event("started", "a", "here", at=1.0, attempt=1))
        spans(Event("done", "a", "here", at=2.0, attempt=1))
        spans(Event("started", "b", "here", at=3.0, attempt=1))
    first, second = traced.exporter.get_finished_spans()
    assert [first.parent, second.parent] == [None, None]
    assert first.context.trace_id != second.context.trace_id
    assert second.attributes["rollforge.task.status"] == "interrupted"


# -- the switch of commands and workflows --------------------------------------------------------------------------------

EXPORTER = """
import os
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

class ToFile(SpanExporter):
    def export(self, spans):
        with open(os.environ["SPANS_FILE"], "a") as file:
            file.writelines(span.to_json(indent=None) + "\\n" for span in spans)
        return SpanExportResult.SUCCESS
"""
MODEL = """
class Picky:
    def fit(self, dataset, reweighter=None):
        self.day = str(dataset.segments["test"][0])[:10]
        if self.day > "2023-05-01":
            raise OSError("cannot reach postgresql://ann:s3cret-word@db/prices")

    def predict(self, dataset, segment="test"):
        return dataset.prepare(segment, col_set="feature").iloc[:, 0]
"""


class Commands:
    """Runs commands beside an installed package with the exporter ``file``, which a real one would be."""

    def __init__(self, folder: Path, market: Path) -> None:
        self.folder = folder
        (folder / "to_file.py").write_text(EXPORTER)
        (folder / "to_file-1.0.dist-info").mkdir()
        (folder / "to_file-1.0.dist-info" / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: to-file\nVersion: 1.0\n"
        )
        entry = "[opentelemetry_traces_exporter]\nfile = to_file:ToFile\n"
        (folder / "to_file-1.0.dist-info" / "entry_points.txt").write_text(entry)
        (folder / "picky.py").write_text(MODEL)
        handler = expressions("Ref($close, 1)/$close", **SMALL_MARKET)
        model = {"class": "Picky", "module_path": "picky"}
        self.document = {
            "rollforge": stores(market, folder, "traced"),
            "task": task_definition(handler, TWO_WINDOWS, model=model, record=[SIGNAL]),
            "rolling": {"step": 60, "rtype": "sliding", "trunc_days": "auto"},
            "plugins": ["picky"],
        }

    def workflow(self, **run: object) -> Path:
        return write_workflow(self.folder / "traced.yaml", {**self.document, **({"run": run} if run else {})})

    def run(self, *words: object, **env: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(self.folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        names = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        given = {**names, "PYTHONPATH": path, "SPANS_FILE": str(self.folder / "spans"), **env}
        command = [sys.executable, "-m", "rollforge", *map(str, words)]
        return subprocess.run(command, env=given, cwd=self.folder, capture_output=True, text=True, timeout=200)

    def spans(self) -> list[dict[str, Any]]:
        file = self.folder / "spans"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def commands(tmp_path: Path, small_market: Path) -> Commands:
    return Commands(tmp_path, small_market)


def statuses(spans: list[dict[str, Any]]) -> list[str]:
    return sorted(span["attributes"].get("rollforge.task.status", "job") for span in spans)


@pytest.mark.parametrize(
    ("run", "option", "traced"),
    [({"spans": True}, [], True), ({}, ["--spans"], True), ({"spans": True}, ["--no-spans"], False), ({}, [], False)],
)
def test_a_run_is_traced_if_the_workflow_or_the_command_says_so(
    commands: Commands, run: dict[str, Any], option: list[str], traced: bool
) -> None:
    """The exporter is that of OpenTelemetry's variables. A window that fails is a span with its error, without secrets."""
    file = commands.workflow(jobs=0, **run)
    done = commands.run(
        "run", file, "--allow-gaps", *option, OTEL_TRACES_EXPORTER="file", OTEL_RESOURCE_ATTRIBUTES="a=b"
    )
    assert done.returncode == 1, done.stderr  # a window has failed
    spans = commands.spans()
    if not traced:
        assert spans == []
        return
    assert statuses(spans) == ["done", "failed", "job", "retry", "retry"]
    (job,) = [span for span in spans if span["name"] == "traced"]
    assert job["attributes"] == {"rollforge.job.done": 1, "rollforge.job.retry": 2, "rollforge.job.failed": 1}
    assert job["resource"]["attributes"]["service.name"] == "rollforge"
    assert job["resource"]["attributes"]["a"] == "b"
    assert {span["parent_id"] for span in spans if span is not job} == {job["context"]["span_id"]}
    (failed,) = [span for span in spans if span["attributes"].get("rollforge.task.status") == "failed"]
    (event,) = failed["events"]
    assert event["attributes"]["exception.message"] == "cannot reach postgresql://ann:***@db/prices"
    assert "in fit" in event["attributes"]["exception.stacktrace"]
    assert "s3cret-word" not in (commands.folder / "spans").read_text()


def test_a_worker_is_traced(commands: Commands) -> None:
    """Each attempt of a worker is a trace; a name of the service is kept."""
    assert commands.run("submit", commands.workflow()).returncode == 0
    store, tracking = (commands.document["rollforge"][name] for name in ("store", "tracking"))
    words = ["worker", "-t", "traced", "--store", store, "--tracking", tracking, "--allow", "picky", "--jobs", 1]
    done = commands.run(
        *words, "--exit-when-empty", "--spans", OTEL_TRACES_EXPORTER="file", OTEL_SERVICE_NAME="nightly"
    )
    assert done.returncode == 0, done.stderr
    spans = commands.spans()
    assert statuses(spans) == ["done", "failed", "retry", "retry"]
    assert {span["parent_id"] for span in spans} == {None}
    assert {span["resource"]["attributes"]["service.name"] for span in spans} == {"nightly"}


def test_printed_spans_do_not_mix_with_json(commands: Commands) -> None:
    """``OTEL_TRACES_EXPORTER=console`` prints spans where everything but the JSON goes."""
    file = commands.workflow(jobs=0, spans=True)
    done = commands.run("run", file, "--allow-gaps", "--json", OTEL_TRACES_EXPORTER="console")
    assert json.loads(done.stdout)["experiment"] == "traced"
    assert '"name": "traced"' in done.stderr


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({}, "There is no exporter 'otlp' for spans (OTEL_TRACES_EXPORTER). Install it: pip install opentelemetry-exporter-"),
        ({"OTEL_TRACES_EXPORTER": "fiel"}, "There is no exporter 'fiel' for spans"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http"}, "OTEL_EXPORTER_OTLP_PROTOCOL: 'http' is not known. Known: grpc, http"),
    ],
)  # fmt: skip
def test_an_exporter_that_is_missing_is_an_error_before_anything_is_stored(
    commands: Commands, env: dict[str, str], said: str
) -> None:
    """The message names the package to install. The variable decides, as everywhere else."""
    if not env and find_spec("opentelemetry.exporter") is not None:
        pytest.skip("an OTLP exporter is installed")
    done = commands.run("run", commands.workflow(jobs=0), "--spans", **env)
    assert (done.returncode, done.stdout.count("Traceback")) == (2, 0)
    assert said in " ".join(done.stderr.split())
    assert not (commands.folder / "tasks.db").exists()


def test_a_provider_of_the_program_is_used() -> None:
    """``opentelemetry-instrument``, or a script, may have set one; its exporters are not added a second time."""
    code = (
        "from opentelemetry import trace\nfrom opentelemetry.sdk.trace import TracerProvider\n"
        "from rollforge.run.spans import tracer_provider\n"
        "given = TracerProvider()\ntrace.set_tracer_provider(given)\nprint(tracer_provider() is given)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
