"""Notifications: commands and webhooks get a document, and a failure is a message without secrets."""

from __future__ import annotations

import json
import math
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from rollforge import notify
from rollforge.confidential import mask_secrets
from rollforge.errors import ConfigError
from rollforge.notify import Command, Target, Webhook, read_targets, send
from rollforge.workflow import load_workflow

from .documents.definitions import expressions, task_definition, write_workflow
from .documents.hook import listening

DOCUMENT = {"job": "run", "event": "tasks_failed", "name": "rolling"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pauses between attempts, and without a proxy of the machine."""
    monkeypatch.setattr(notify, "PAUSE_SECONDS", 0.01)
    monkeypatch.setenv("no_proxy", "*")


def python(code: str, *words: object) -> Command:
    """Return a command that runs a Python program."""
    return Command((sys.executable, "-c", code, *map(str, words)))


def only(target: Target, document: Any = DOCUMENT) -> str:
    """Send a document to one target, and return the message about it; empty if it did not fail."""
    return send([target], document).get(target, "")


# -- commands ----------------------------------------------------------------------------------------------------------


def test_a_command_gets_the_document_on_its_standard_input(tmp_path: Path) -> None:
    file = tmp_path / "got.json"
    code = "import sys; open(sys.argv[1], 'wb').write(sys.stdin.buffer.read()); print('not shown')"
    assert send([python(code, file)], DOCUMENT) == {}
    got = json.loads(file.read_text())
    assert {key: got[key] for key in DOCUMENT} == DOCUMENT
    assert got["host"] == socket.gethostname()
    assert got["time"].endswith("+00:00")


def test_a_command_is_not_interpreted_by_a_shell(tmp_path: Path) -> None:
    (targets, _) = read_targets([{"command": f"{sys.executable} -c 'import sys; sys.exit(sys.argv[1])' '$HOME; x'"}])
    assert only(*targets).endswith("failed: exit code 1: $HOME; x")


def test_the_last_line_of_a_command_that_fails_is_shown_without_secrets() -> None:
    code = "import sys; print('first', file=sys.stderr); sys.exit('login with password=hunter22 refused\\n\\n')"
    said = only(python(code, "token-of-the-command"))
    assert said == (
        f"the notification by command {sys.executable} failed: exit code 1: login with password=*** refused"
    )


def test_a_command_that_never_ends_is_killed_with_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "SECONDS", 2.0)
    held, writer = os.pipe()
    os.set_inheritable(writer, True)
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'], close_fds=False)"
    monkeypatch.setattr(notify.subprocess, "Popen", _inheriting(notify.subprocess.Popen))
    assert only(python(code)).endswith("it did not end within 2 seconds")
    os.close(writer)
    assert os.read(held, 1) == b""  # no process has the other end open any more
    os.close(held)


def _inheriting(popen: Any) -> Any:
    return lambda *args, **kwargs: popen(*args, **kwargs, close_fds=False)


def test_a_command_that_reads_nothing_succeeds() -> None:
    assert only(python("pass"), {**DOCUMENT, "failures": ["x" * 3000] * 100}) == ""


def test_a_missing_program_is_a_message() -> None:
    said = only(Command(("no-such-program", "secret-word")))
    assert said == "the notification by command no-such-program failed: No such file or directory"


# -- webhooks ----------------------------------------------------------------------------------------------------------


def test_a_webhook_gets_the_document_by_post() -> None:
    with listening() as hook:
        assert send([Webhook(hook.url)], DOCUMENT) == {}
    ((method, headers, _),) = hook.requests
    assert (method, headers["Content-Type"]) == ("POST", "application/json")
    assert hook.documents[0]["event"] == "tasks_failed"


@pytest.mark.parametrize("first", [500, 503, 429, 408])
def test_a_server_that_is_busy_gets_it_again(first: int) -> None:
    with listening(first, 200) as hook:
        assert only(Webhook(hook.url)) == ""
    assert len(hook.requests) == 2
    assert hook.documents[0] == hook.documents[1]


@pytest.mark.parametrize(("status", "attempts"), [(500, 3), (404, 1), (302, 1), (307, 1)])
def test_an_answer_that_is_a_failure(status: int, attempts: int) -> None:
    """A redirect is not followed, and what the server does not accept is not sent again."""
    with listening(status) as hook:
        assert only(Webhook(hook.url)) == f"the notification by webhook 127.0.0.1 failed: HTTP status {status}"
    assert len(hook.requests) == attempts


def test_pauses_between_attempts_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is busy gets the document again after one second, and then after two."""
    monkeypatch.setattr(notify, "PAUSE_SECONDS", 1.0)
    pauses: list[float] = []
    monkeypatch.setattr(notify.time, "sleep", pauses.append)
    with listening(503) as hook:
        only(Webhook(hook.url))
    assert pauses == [1.0, 2.0]
    assert len(hook.requests) == 3


def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "ANSWER_SECONDS", 0.3)
    with listening(0) as hook:
        assert only(Webhook(hook.url)).endswith("failed: no answer within 0.3 seconds")
    assert len(hook.requests) == 3


def test_a_server_that_refuses_connections() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert only(Webhook(f"http://127.0.0.1:{port}/x")).endswith("failed: Connection refused")


def test_a_server_that_does_not_speak_http() -> None:
    with listening() as hook:
        assert only(Webhook(hook.url.replace("http:", "https:"))).startswith("the notification by webhook 127.0.0.1")
    assert hook.requests == []


def test_the_address_can_be_in_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Webhook("env:TEAM_HOOK")
    assert only(target) == "the notification by webhook env:TEAM_HOOK failed: the variable is not set"
    monkeypatch.setenv("TEAM_HOOK", "ftp://host/T0aB1cD2")
    assert only(target).endswith("the value of the variable must begin with http:// or https:// and name a host, "
                                 "without user and password")  # fmt: skip
    with listening() as hook:
        monkeypatch.setenv("TEAM_HOOK", hook.url)
        assert only(target, {**DOCUMENT, "text": f"posting to {hook.url} failed"}) == ""
    assert hook.documents[0]["text"] == "posting to *** failed"


# -- all ---------------------------------------------------------------------------------------------------------------


def test_one_failure_does_not_keep_the_others_from_getting_it() -> None:
    with listening() as hook:
        missing = Command(("no-such-program",))
        assert list(send([missing, Webhook(hook.url), missing], DOCUMENT)) == [missing]
    assert len(hook.requests) == 1


def test_without_targets_nothing_happens() -> None:
    assert send([], {"not": object()}) == {}


def test_secrets_are_masked_long_texts_shortened_and_numbers_are_json() -> None:
    with listening() as hook:
        found = {"error": "postgresql://ann:s3cret@db/x", "checks": [{"value": math.nan, "text": "x" * 10_000}]}
        send([Webhook(hook.url)], found)
    (got,) = hook.documents
    assert got["error"] == "postgresql://ann:***@db/x"
    assert (got["checks"][0]["value"], len(got["checks"][0]["text"])) == (None, 4001)


def test_an_address_is_a_secret_from_the_moment_it_is_read() -> None:
    (target,), _ = read_targets([{"webhook": "https://hooks.example/services/T9/B8/x7Y6"}])
    assert mask_secrets("see https://hooks.example/services/T9/B8/x7Y6") == "see ***"
    assert "x7Y6" not in f"{target} {target!r}"
    (command,), _ = read_targets([{"command": ["send", "x7Y6"]}])
    assert "x7Y6" not in f"{command} {command!r}"


# -- the section of a workflow -----------------------------------------------------------------------------------------

URL_TEXT = "must begin with http:// or https:// and name a host, without user and password, or be env:NAME."
FORMS, OWN = "{command: …}, {webhook: …}, {email: …}", "{class: …, module_path: …}"
COMMAND_TEXT = "must be a command line, or a list of its words."


@pytest.mark.parametrize(
    ("section", "place", "message"),
    [
        ({"command": "x"}, "", f"must be a list of {FORMS} and {OWN}, found {{'command': 'x'}}."),
        ([{"command": f"x{i}"} for i in range(21)], "", "must have at most 20 entries, found 21."),
        (["mail me"], ".0", f"must be {FORMS} or {OWN}."),
        ([{"command": "x", "webhook": "http://h"}], ".0", f"must be {FORMS} or {OWN}."),
        ([{"command": "x"}, {"webhok": "http://h"}], ".1.webhok",
         "unknown key. Did you mean 'webhook'? Allowed: command, webhook, email, class."),
        ([{"command": ""}], ".0.command", COMMAND_TEXT),
        ([{"command": "an 'open quote"}], ".0.command", COMMAND_TEXT),
        ([{"command": ["mail", 3]}], ".0.command", COMMAND_TEXT),
        ([{"command": "a\0b"}], ".0.command", COMMAND_TEXT),
        ([{"webhook": None}], ".0.webhook", URL_TEXT),
        ([{"webhook": "file:///etc/passwd"}], ".0.webhook", URL_TEXT),
        ([{"webhook": "https:///path"}], ".0.webhook", URL_TEXT),
        ([{"webhook": "https://host:port/"}], ".0.webhook", URL_TEXT),
        ([{"webhook": "https://ann:word@host/"}], ".0.webhook", URL_TEXT),
        ([{"webhook": "https://host/\nx"}], ".0.webhook", URL_TEXT),
        ([{"webhook": "https://host/a b"}], ".0.webhook", URL_TEXT),
        ([{"webhook": "env:"}], ".0.webhook", URL_TEXT),
        ([{"webhook": "env:A B"}], ".0.webhook", URL_TEXT),
        ([{"class": "Pager", "modul_path": "pager.py"}], ".0.modul_path",
         "unknown key. Did you mean 'module_path'? Allowed: class, module_path, kwargs."),
        ([{"class": 3}], ".0.class", "must be text, found 3."),
        ([{"class": "Pager", "kwargs": ["x"]}], ".0.kwargs", "must be a mapping, found ['x']."),
    ],
)  # fmt: skip
def test_a_mistake_has_its_place(section: Any, place: str, message: str) -> None:
    assert read_targets(section)[1] == [(f"notify{place}", message)]


def test_all_mistakes_of_a_workflow_are_reported_with_their_lines(tmp_path: Path) -> None:
    task = task_definition(expressions("$close"), {"train": ["2022-01-03", "2022-12-30"]})
    file = write_workflow(tmp_path / "job.yaml", {"task": task})
    begin = len(file.read_text().splitlines())
    file.write_text(
        file.read_text() + "notify:\n- command: ''\n- command: true\n- webhook: ftp://x7Y6\nchecks: {gap: x}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_workflow(file)
    said = str(caught.value)
    for line, place in ((2, "notify.0.command"), (3, "notify.1.command"), (4, "notify.2.webhook"), (5, "checks.gap")):
        assert f"line {begin + line}: {place}: must be" in said
    assert "4 mistakes" in said
    assert "x7Y6" not in said


@pytest.mark.parametrize("section", [{"qlib_init": {"region": "us"}}, {"rollforge": {"region": "us"}}])
def test_both_forms_of_workflows_have_the_section(tmp_path: Path, section: dict[str, Any]) -> None:
    task = task_definition(expressions("$close"), {"train": ["2022-01-03", "2022-12-30"]})
    content = {**section, "task": task, "notify": [{"command": "send -q"}, {"webhook": "https://hooks.example/T1/x"}]}
    workflow = load_workflow(write_workflow(tmp_path / "job.yaml", content))
    assert workflow.notify == (Command(("send", "-q")), Webhook("https://hooks.example/T1/x"))
    assert "webhook: ***" in workflow.public_text
    assert "T1" not in workflow.public_text
    del content["notify"]
    workflow = load_workflow(write_workflow(tmp_path / "job.yaml", content))
    assert (workflow.notify, workflow.public_text) == ((), workflow.text)
