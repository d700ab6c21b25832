"""Notifications of commands: from the section of a workflow file to the document that the user receives."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rollforge import notify
from rollforge.cli import service
from rollforge.cli.exit_codes import Exit
from rollforge.errors import ConfigError
from rollforge.ledger.base import open_ledger
from rollforge.online.day import DayRun

from ..documents.command_line import call
from ..documents.definitions import SMALL_MARKET, TWO_WINDOWS, expressions, stores, task_definition, write_workflow
from ..documents.growing import BEGIN, DAYS, STEP, Market, prices, template
from ..documents.hook import Hook, listening

FIRST = DAYS.index(BEGIN)
PATIENCE = 240.0
MODEL = '''
import time
from pathlib import Path

from rollforge.models.linear import LinearModel


class Flaky(LinearModel):
    """Cannot be fitted while a file exists."""

    def __init__(self, broken, interrupted="", seconds=0, **kwargs):
        super().__init__(**kwargs)
        self.broken, self.interrupted, self.seconds = broken, interrupted, seconds

    def fit(self, dataset, *args, **kwargs):
        if Path(self.broken).exists():
            raise ValueError("no convergence; see https://ann:s3cret@host/log")
        if self.interrupted:
            raise KeyboardInterrupt
        if self.seconds:
            Path(f"{self.broken}.training").touch()
            time.sleep(self.seconds)
        return super().fit(dataset, *args, **kwargs)
'''
REASON = "ValueError: no convergence; see https://ann:***@host/log"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pauses between attempts, and without a proxy of the machine."""
    monkeypatch.setattr(notify, "PAUSE_SECONDS", 0.01)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def hook() -> Iterator[Hook]:
    with listening() as found:
        yield found


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """The file that makes training fail while it exists."""
    (tmp_path / "flaky.py").write_text(MODEL)
    return tmp_path / "broken"


def flaky(broken: Path, **kwargs: Any) -> dict[str, Any]:
    """Return a model that cannot be fitted while a file exists."""
    kwargs = {"broken": str(broken), **kwargs}
    return {"class": "Flaky", "module_path": str(broken.parent / "flaky.py"), "kwargs": kwargs}


# -- rollforge run -----------------------------------------------------------------------------------------------------


def job(tmp_path: Path, market: Path, targets: Any, model: dict[str, Any]) -> Path:
    """Write a workflow with two windows."""
    task = task_definition(expressions("$close/Ref($close, 1)-1", **SMALL_MARKET), TWO_WINDOWS, model=model)
    content = {"rollforge": stores(market, tmp_path, "rolling"), "task": task, "rolling": {"step": 60}}
    return write_workflow(tmp_path / "job.yaml", {**content, "notify": targets})


def run(tmp_path: Path, file: Path, *options: str) -> Any:
    return call("run", file, "--jobs", "0", "--output", tmp_path / "results", *options)


def test_a_run_with_failed_tasks_sends_one_document(
    tmp_path: Path, small_market: Path, broken: Path, hook: Hook
) -> None:
    """Every target gets it; when the tasks succeed, nothing is sent."""
    broken.touch()
    copy = tmp_path / "copy.json"
    command = [sys.executable, "-c", f"import sys; open({str(copy)!r}, 'w').write(sys.stdin.read())"]
    file = job(tmp_path, small_market, [{"webhook": hook.url}, {"command": command}], flaky(broken))
    result = run(tmp_path, file)
    assert result.exit_code == Exit.FAILED, result.output
    assert "notification" not in result.stderr
    (got,) = hook.documents
    assert {k: got[k] for k in ("job", "event", "name", "error", "tasks", "done", "failed")} == {
        "job": "run", "event": "tasks_failed", "name": "rolling", "error": "", "tasks": 2, "done": 0, "failed": 2
    }  # fmt: skip
    (cause,) = got["failures"]
    assert (cause["reason"], cause["tasks"]) == (REASON, 2)
    assert cause["first"].startswith("window 1, test 2023-04-03")
    assert got["text"] == f"rolling: 2 of 2 tasks failed: {REASON}"
    assert (got["store"], got["tracking"]) == (f"sqlite:///{tmp_path}/tasks.db", f"folder:{tmp_path}/runs")
    assert json.loads(copy.read_text()) == got
    broken.unlink()
    assert run(tmp_path, file).exit_code == Exit.DONE
    assert len(hook.documents) == 1


PAGER = """
import json
from pathlib import Path

class Pager:
    def __init__(self, file, token=""):
        self.file, self.token = file, token

    def notify(self, document):
        Path(self.file).write_text(json.dumps([self.token, document]))

class Broken:
    def notify(self, document):
        raise RuntimeError(f"the pager refuses {document['name']}, password=hunter22")

class Silent:
    pass
"""


def test_a_class_of_the_user_gets_the_document(
    tmp_path: Path, small_market: Path, broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The arguments can be variables. An exception of another one is a warning without secrets, and changes nothing else."""
    broken.touch()
    pager, got = tmp_path / "pager.py", tmp_path / "got.json"
    pager.write_text(PAGER)
    monkeypatch.setenv("PAGER_TOKEN", "tok-3141-of-pager")
    targets = [
        {"class": "Pager", "module_path": str(pager), "kwargs": {"file": str(got), "token": "env:PAGER_TOKEN"}},
        {"class": "Broken", "module_path": str(pager)},
    ]
    result = run(tmp_path, job(tmp_path, small_market, targets, flaky(broken)))
    assert result.exit_code == Exit.FAILED, result.output
    token, document = json.loads(got.read_text())
    assert token == "tok-3141-of-pager"
    assert (document["job"], document["event"], document["failed"]) == ("run", "tasks_failed", 2)
    said = "the notification by class Broken failed: RuntimeError: the pager refuses rolling, password=***"
    assert said in result.stderr
    assert "tok-3141" not in result.output


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"class": "Pagr"}, "Did you mean 'Pager'?"),
        ({"class": "Silent"}, "it has no notify()"),
        ({"class": "Pager"}, "Pager needs 'file'"),
        (
            {"class": "Pager", "kwargs": {"file": "x", "tokn": "y"}},
            "Pager takes no argument 'tokn'. Did you mean 'token'?",
        ),
    ],
)
def test_a_plan_checks_the_class(
    tmp_path: Path, small_market: Path, broken: Path, target: dict[str, Any], message: str
) -> None:
    (tmp_path / "pager.py").write_text(PAGER)
    targets = [{"module_path": str(tmp_path / "pager.py"), **target}]
    result = call("plan", job(tmp_path, small_market, targets, flaky(broken)))
    assert message in str(result.exception)
    assert "line" in str(result.exception)


def test_failed_tasks_are_sent_also_if_the_rest_is_reported(
    tmp_path: Path, small_market: Path, broken: Path, hook: Hook
) -> None:
    file = job(tmp_path, small_market, [{"webhook": hook.url}], flaky(broken))
    assert run(tmp_path, file, "--limit", "1").exit_code == Exit.DONE
    broken.touch()
    assert run(tmp_path, file, "--allow-gaps").exit_code == Exit.FAILED
    (got,) = hook.documents
    assert (got["event"], got["tasks"], got["done"], got["failed"]) == ("tasks_failed", 2, 1, 1)


def test_an_error_after_the_tasks_is_sent(tmp_path: Path, small_market: Path, broken: Path, hook: Hook) -> None:
    """Here the report cannot be written."""
    (tmp_path / "results" / "report.html").mkdir(parents=True)
    file = job(tmp_path, small_market, [{"webhook": hook.url}], flaky(broken))
    result = run(tmp_path, file)
    (got,) = hook.documents
    assert (got["event"], got["done"], got["failed"]) == ("error", 2, 0)
    assert str(result.exception) in got["error"]
    assert "report.html" in got["text"]


def test_an_interrupted_run_says_so(tmp_path: Path, small_market: Path, broken: Path, hook: Hook) -> None:
    file = job(tmp_path, small_market, [{"webhook": hook.url}], flaky(broken, interrupted="yes"))
    assert run(tmp_path, file).exit_code == Exit.INTERRUPTED
    (got,) = hook.documents
    assert (got["event"], got["text"], got["failed"]) == ("interrupted", "rolling: interrupted", 0)


def test_a_notification_that_fails_changes_no_exit_code(tmp_path: Path, small_market: Path, broken: Path) -> None:
    """A failed notification is a warning on standard error, without the address."""
    broken.touch()
    with listening(500) as hook:
        file = job(tmp_path, small_market, [{"webhook": hook.url}, {"command": "no-such-program"}], flaky(broken))
        result = run(tmp_path, file)
    assert result.exit_code == Exit.FAILED
    assert "warning: the notification by webhook 127.0.0.1 failed: HTTP status 500\n" in result.stderr
    assert "warning: the notification by command no-such-program failed: No such file" in result.stderr
    assert "T0aB1cD2" not in result.output


def test_planning_sends_nothing(tmp_path: Path, small_market: Path, broken: Path, hook: Hook) -> None:
    file = job(tmp_path, small_market, [{"webhook": hook.url}], flaky(broken))
    assert call("plan", file).exit_code == Exit.DONE
    assert run(tmp_path, file, "--dry-run").exit_code == Exit.DONE
    assert hook.requests == []


@pytest.mark.slow
def test_a_run_with_worker_processes_that_is_terminated_says_so(
    tmp_path: Path, small_market: Path, broken: Path, hook: Hook
) -> None:
    """SIGTERM while a worker trains."""
    file = job(tmp_path, small_market, [{"webhook": hook.url}], flaky(broken, seconds=600))
    words = ["run", str(file), "--jobs", "2", "--output", str(tmp_path / "results")]
    with subprocess.Popen([sys.executable, "-m", "rollforge", *words]) as process:
        try:
            wait_for((tmp_path / "broken.training").exists)
            process.terminate()
            assert process.wait(timeout=PATIENCE) == Exit.INTERRUPTED
        finally:
            process.kill()
    (got,) = hook.documents
    assert (got["event"], got["tasks"], got["done"], got["failed"]) == ("interrupted", 2, 0, 0)


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until something is the case."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# -- rollforge serve ---------------------------------------------------------------------------------------------------

Serve = Callable[..., Any]


@pytest.fixture
def market(tmp_path: Path) -> Market:
    return Market(tmp_path / "data", prices())


@pytest.fixture
def serve(tmp_path: Path, market: Market, hook: Hook) -> Serve:
    """Runs a command of a service; ``init`` writes the workflow first."""

    def run(*words: object, code: int = 0, checks: Any = False, model: Any = None) -> Any:
        if words[0] == "init":
            task = {**template(), **({"model": model} if model else {})}
            content = {
                "rollforge": {
                    "data": str(market.folder),
                    "tracking": f"folder:{tmp_path}/runs",
                    "experiment": "served",
                },
                "task": task,
                "rolling": {"step": STEP, "rtype": "sliding", "trunc_days": "auto"},
                "checks": checks,
                "notify": [{"webhook": hook.url}],
            }
            words = ("init", write_workflow(tmp_path / "job.yaml", content))
        result = call("serve", "--ledger", f"sqlite:///{tmp_path}/ledger.db", *words)
        assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
        return result

    return run


def test_a_check_that_fails_is_sent_once(serve: Serve, market: Market, hook: Hook) -> None:
    """Repeating the run sends nothing, and so do the days on which nothing is remarkable."""
    market.show(BEGIN)
    serve("init", checks={"universe": {"limit": 0.9, "level": "fail"}})
    serve("run")
    assert hook.requests == []
    day = DAYS[FIRST + 1]
    market.close.loc[day, ["A", "B"]] = np.nan
    market.show(day)
    serve("run", code=Exit.CHECK_FAILED)
    serve("run", code=Exit.CHECK_FAILED)
    (got,) = hook.documents
    reason = f"check universe of {day}: 0.5, limit 0.9 (2 of 4 instruments have a price)"
    assert {k: got[k] for k in ("job", "event", "name", "day", "state", "error", "text")} == {
        "job": "serve", "event": "day_failed", "name": "served", "day": day, "state": "failed",
        "error": reason, "text": f"served {day} failed: {reason}",
    }  # fmt: skip
    ((check),) = got["checks"]
    assert (check["name"], check["outcome"], check["value"]) == ("universe", "fail", 0.5)


def test_a_check_that_warns_is_sent_with_the_published_day(serve: Serve, market: Market, hook: Hook) -> None:
    market.show(BEGIN)
    serve("init", checks={"jumps": 0.8, "feature_psi": False, "score_psi": False})
    serve("run")
    day = DAYS[FIRST + 1]
    market.close.loc[day:, "B"] *= 1.9
    market.show(DAYS[FIRST + 2])
    serve("run")
    (got,) = hook.documents
    assert (got["event"], got["day"], got["state"]) == ("check", day, "published")
    assert got["text"].startswith(f"served {day} published: check jumps of {day}: ")


def test_earlier_models_and_their_reason_are_sent(serve: Serve, market: Market, broken: Path, hook: Hook) -> None:
    """On each day on which they are used."""
    market.show(BEGIN)
    serve("init", model=flaky(broken))
    serve("run")
    broken.touch()
    market.show(DAYS[FIRST + STEP])
    serve("run", code=Exit.SERVED_OLD_MODEL)
    assert hook.documents
    assert {got["event"] for got in hook.documents} == {"fallback"}
    assert hook.documents[0]["fallback"] == f"training of served failed, and the earlier models were used: {REASON}"
    assert len({got["day"] for got in hook.documents}) == len(hook.documents)


def test_a_training_that_fails_without_an_earlier_model_is_sent(
    serve: Serve, market: Market, broken: Path, hook: Hook
) -> None:
    market.show(BEGIN)
    serve("init", model=flaky(broken))
    broken.touch()
    serve("run", code=Exit.FAILED)
    (got,) = hook.documents
    assert (got["job"], got["event"], got["name"]) == ("serve", "error", "served")
    assert "no convergence" in got["error"]
    assert "s3cret" not in json.dumps(got)


def test_the_ledger_does_not_have_the_address(tmp_path: Path, serve: Serve, market: Market, hook: Hook) -> None:
    """A new address is used without recording the workflow again; any other change is refused, and sends nothing."""
    market.show(BEGIN)
    serve("init", checks={"universe": 1})
    uri, file = f"sqlite:///{tmp_path}/ledger.db", tmp_path / "job.yaml"
    assert "T0aB1cD2" not in json.dumps([dict(entry.body) for entry in open_ledger(uri).entries("served")])
    file.write_text(file.read_text().replace(hook.url, hook.url.replace("T0aB1cD2", "T9")))
    market.close.loc[BEGIN, "A"] = np.nan
    market.show(BEGIN)
    serve("run")
    assert [got["event"] for got in hook.documents] == ["check"]
    file.write_text(file.read_text() + "label_days: 2\n")
    assert isinstance(serve("run", code=1).exception, ConfigError)
    file.unlink()
    assert isinstance(serve("run", code=1).exception, ConfigError)
    assert len(hook.requests) == 1


def test_a_run_after_one_with_the_same_error_sends_nothing(
    tmp_path: Path, serve: Serve, market: Market, broken: Path, hook: Hook
) -> None:
    """As with ``serve watch``, which retries for hours."""
    market.show(BEGIN)
    serve("init", model=flaky(broken))
    broken.touch()
    ledger, known = open_ledger(f"sqlite:///{tmp_path}/ledger.db"), ""
    for _ in range(2):
        with pytest.raises(Exception, match="no convergence"):
            service.publish_due(ledger, "served", known_error=known)
        known = hook.documents[0]["error"]
    assert len(hook.requests) == 1


@pytest.mark.slow
def test_a_watch_sends_the_error_of_its_attempts_once(
    tmp_path: Path, serve: Serve, market: Market, broken: Path, hook: Hook
) -> None:
    """The day is published as soon as training succeeds."""
    market.show(BEGIN)
    serve("init", model=flaky(broken))
    broken.touch()
    words = ["serve", "--ledger", f"sqlite:///{tmp_path}/ledger.db", "watch", "--interval", "0.2"]
    with subprocess.Popen([sys.executable, "-m", "rollforge", *words], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            for _ in range(2):
                assert "no convergence" in json.loads(process.stdout.readline())["error"]
            broken.unlink()
            lines = iter(process.stdout.readline, "")
            assert next(line for line in map(json.loads, lines) if "error" not in line)["last_published"] == BEGIN
        finally:
            process.kill()
    assert [got["event"] for got in hook.documents] == ["error"]


def test_days_of_a_long_run_are_sent_as_they_end(
    serve: Serve, market: Market, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the next day is run, not at the end of the command."""
    market.show(BEGIN)
    serve("init", checks={"jumps": 0.8, "feature_psi": False, "score_psi": False})
    serve("run")
    market.close.loc[DAYS[FIRST + 1] :, "B"] *= 1.9
    market.show(DAYS[FIRST + 3])
    sent: dict[str, int] = {}
    run = DayRun.run

    def noted(self: DayRun, **arguments: Any) -> Any:
        sent[self.day] = len(hook.requests)
        return run(self, **arguments)

    monkeypatch.setattr(DayRun, "run", noted)
    serve("run")
    assert sent == {DAYS[FIRST + 1]: 0, DAYS[FIRST + 2]: 1, DAYS[FIRST + 3]: 1}
    assert len(hook.requests) == 1
