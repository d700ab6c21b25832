"""``rollforge pool`` and ``python -m rollforge.store.manager``: arguments, output and exit codes."""

from __future__ import annotations

import json
import os
import pickle
import shlex
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.documents.command_line import run

from rollforge.cli import pool
from rollforge.machine import process_name
from rollforge.store.manager import TaskManager
from rollforge.store.sqlite import SQLiteStore
from rollforge.task import Cause, Status


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/tasks.db"


@pytest.fixture
def manager(uri: str) -> TaskManager:
    """A pool with a done, a failed, a running and two waiting tasks."""
    manager = TaskManager("p", store=SQLiteStore(uri))
    manager.create_task([{"x": i} for i in range(5)], max_attempts=1)
    done, failed, _ = manager.store.claim("p", worker="host:1", lease=600, limit=3)
    manager.store.commit(done, {"ic": 0.5})
    manager.store.fail(failed, "Traceback\nValueError: bad", Cause.RAISED, "line one\nline two")
    return manager


def call(uri: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run("pool", *arguments, env={"ROLLFORGE_STORE": uri})


def test_the_state_of_a_pool_is_printed(manager: TaskManager, uri: str) -> None:
    """``task_stat`` prints counts as JSON and ``query`` one line per task; Qlib's module form works too."""
    assert json.loads(call(uri, "-t", "p", "task_stat").stdout) == {"done": 1, "failed": 1, "running": 1, "waiting": 2}
    command = [sys.executable, "-m", "rollforge.store.manager", "-t", "p", "task_stat"]
    as_module = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "ROLLFORGE_STORE": uri})
    assert as_module.stdout == call(uri, "-t", "p", "task_stat").stdout
    (line,) = call(uri, "-t", "p", "query", '{"status": "failed"}').stdout.splitlines()
    assert line.endswith("raised  ValueError: bad")
    assert call(uri, "list").stdout == "p\n"


def test_an_error_of_several_lines_is_listed_in_one_line(manager: TaskManager, uri: str) -> None:
    """The list shows the line with the type of the exception, and not the last line of the message."""
    (waiting,) = manager.store.claim("p", worker="host:1", lease=600, limit=1)
    error = 'Traceback (most recent call last):\n  File "x.py", line 1, in f\n    f()\nValueError: bad rows:\nA, B'
    manager.store.fail(waiting, error, Cause.RAISED, "")
    lines = call(uri, "-t", "p", "query", '{"status": "failed"}').stdout.splitlines()
    assert [line.rpartition("raised  ")[2] for line in lines] == ["ValueError: bad", "ValueError: bad rows:"]


def test_wait_reports_failures_once_with_commands_that_work(manager: TaskManager, uri: str) -> None:
    """The exit code is 1; the commands contain the pool and the store."""
    manager.reset_waiting()
    manager.remove({"status": "waiting"})
    waited = call("sqlite:///elsewhere.db", "--store", uri, "-t", "p", "wait")
    assert waited.returncode == 1
    assert (waited.stdout + waited.stderr).count("1 task failed.") == 1
    assert "TaskManager" not in waited.stderr
    assert waited.stdout.startswith("1 task failed.")
    _, query, _, retry, _ = waited.stdout.split("'")
    for command, said in ((query, "ValueError: bad"), (retry, "1 task waits again")):
        assert said in call("sqlite:///elsewhere.db", *shlex.split(command)[2:]).stdout


def test_prioritize_accepts_the_first_digits_of_an_id(manager: TaskManager, uri: str) -> None:
    """A prefix of the id is sufficient; a prefix without a matching task is an error."""
    *_, last = manager.query({"status": "waiting"})
    assert call(uri, "-t", "p", "prioritize", last["_id"][:8], "9").returncode == 0
    (claim,) = manager.store.claim("p", worker="host:1", lease=600, limit=1)
    assert claim.id == last["_id"]
    assert call(uri, "-t", "p", "prioritize", "zz", "9").returncode == 2


def test_query_prints_tasks_as_json_whatever_their_results(manager: TaskManager, uri: str) -> None:
    """A result that is not plain data is shown by its repr."""
    for result in ({1, 2}, {"half": "\udc80"}):
        (task,) = manager.store.claim("p", worker="host:1", lease=600)
        manager.store.commit(task, result)
    listed = call(uri, "-t", "p", "query", '{"status": "done"}', "--json")
    assert listed.returncode == 0, listed.stderr
    results = [json.loads(line)["res"] for line in listed.stdout.splitlines()]
    assert results == [{"ic": 0.5}, {"$repr": "{1, 2}"}, {"$repr": r"{'half': '\udc80'}"}]


def test_query_prints_tasks_as_json_if_a_result_is_damaged(manager: TaskManager, uri: str) -> None:
    """A task with a damaged result is shown with the reason; the tasks before and after it are complete."""
    ids = []
    for result in ({1, 2}, {3}, 4):
        (task,) = manager.store.claim("p", worker="host:1", lease=600)
        manager.store.commit(task, result)
        ids.append(task.id)
        manager.create_task([{"y": len(ids)}])
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as raw, raw:
        raw.execute("UPDATE results SET plain = NULL, blob = x'8004' WHERE id = ?", (ids[1],))
    listed = call(uri, "-t", "p", "query", json.dumps({"_id": {"$in": ids}}), "--json")
    assert listed.returncode == 0, listed.stderr
    results = {d["_id"]: d["res"] for d in map(json.loads, listed.stdout.splitlines())}
    assert results[ids[0]] == {"$repr": "{1, 2}"}
    assert "not a readable pickle" in results[ids[1]]["$unreadable"]
    assert results[ids[2]] == 4
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as raw, raw:
        raw.execute("UPDATE results SET blob = ? WHERE id = ?", (pickle.dumps(shlex.quote), ids[1]))
    listed = call(uri, "-t", "p", "query", json.dumps({"_id": ids[1]}), "--json")
    assert "not on the list of types" in json.loads(listed.stdout)["res"]["$unreadable"]
    other = f"{uri}.copy"
    copied = call(uri, "copy", uri, other)
    assert copied.returncode == 1
    assert f"{ids[1]} was not copied, because its result cannot be read" in copied.stdout
    known = {t.id for t in manager.store.query("p", results=False)}
    assert {t.id for t in SQLiteStore(other).query("p")} == known - {ids[1]}


@pytest.mark.parametrize(
    "arguments", [("-t", "p", "wait"), ("list",), ("-t", "p", "task-stat"), ("copy", "{}", "{}.copy")]
)
def test_reading_from_a_store_that_does_not_exist_creates_none(
    arguments: tuple[str, ...], uri: str, tmp_path: Path
) -> None:
    """Otherwise a mistyped name would create an empty store."""
    refused = call(uri, *[argument.format(uri) for argument in arguments])
    assert refused.returncode == 2
    assert "does not exist" in refused.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [("collect", "p"), ("report", "p"), ("report", "p:m", "q")])
def test_an_experiment_in_a_store_that_does_not_exist(words: tuple[str, ...], tmp_path: Path) -> None:
    """Reading it does not create the store."""
    uri = f"sqlite:///{tmp_path}/none.db"
    refused = run(*words, "--store", uri, "--output", str(tmp_path / "out"), cwd=tmp_path)
    assert refused.returncode == 2
    assert f"the task store {tmp_path}/none.db does not exist." in refused.stderr
    assert list(tmp_path.glob("*.db*")) == []


def test_logs_shows_the_log_of_a_task(manager: TaskManager, uri: str) -> None:
    """Given the first digits of its id, ``logs`` shows cause, error and last lines."""
    (failed,) = manager.query({"status": "failed"})
    shown = call(uri, "-t", "p", "logs", failed["_id"][:8]).stdout
    for text in ("raised", "ValueError: bad", "line one\nline two"):
        assert text in shown
    unknown = call(uri, "-t", "p", "logs", "zz")
    assert unknown.returncode == 2
    assert "No task has an id that starts with 'zz'" in unknown.stderr


def test_commands_change_a_pool(manager: TaskManager, uri: str) -> None:
    """Each command changes the pool and prints what it has done."""
    assert "1 task waits again" in call(uri, "-t", "p", "retry").stdout
    assert "paused" in call(uri, "-t", "p", "pause").stdout
    assert manager.fetch_task() is None
    call(uri, "-t", "p", "resume")
    reset = call(uri, "-t", "p", "reset_waiting")
    assert ("1 task waits again" in reset.stdout, reset.stderr) == (True, "")
    assert "2 tasks cancelled" in call(uri, "-t", "p", "cancel", '{"x": {"$gte": 3}}').stdout
    assert manager.task_stat() == {"done": 1, "failed": 2, "waiting": 2}
    assert manager.fetch_task() is not None
    reset = call(uri, "-t", "p", "reset_waiting").stderr
    assert reset == f"{process_name()} is still running; the results of its tasks will be refused\n"


def test_copy_copies_a_pool(manager: TaskManager, uri: str, tmp_path: Path) -> None:
    """All tasks are copied to another store, with their results; a second call copies nothing."""
    other = f"sqlite:///{tmp_path}/other.db"
    assert "p: 5 of 5 tasks copied" in call(uri, "copy", uri, other).stdout
    assert "p: 0 of 5 tasks copied" in call(uri, "-t", "p", "copy", uri, other).stdout
    copied = TaskManager("p", store=SQLiteStore(other))
    assert copied.task_stat() == {"done": 1, "failed": 1, "waiting": 3}
    assert next(copied.query({"status": "done"}))["res"] == {"ic": 0.5}
    assert call(uri, "-t", "q", "copy", uri, other).returncode == 2


def test_a_large_pool_is_copied_in_chunks(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool is never completely in memory, and dependencies on tasks that come later in the pool are kept."""
    monkeypatch.setattr(pool, "_AT_ONCE", 3)
    old = SQLiteStore(uri)
    ids = [c.id for c in old.create("p", [{"x": x} for x in range(8)])]
    (waits,) = old.create("p", [{"x": "waits"}], depends_on=[ids[0]])
    (last,) = old.create("p", [{"x": "last"}], depends_on=[waits.id])
    old.create("p", [{"x": x} for x in range(8, 12)])
    later = old.replace("p", ids[0], {"x": 11})
    read: list[int] = []
    query = old.query

    def counted(*args: Any, **kwargs: Any) -> Any:
        found = list(query(*args, **kwargs))
        read.append(len(found))
        return iter(found)

    monkeypatch.setattr(old, "query", counted)
    new = SQLiteStore(f"sqlite:///{tmp_path}/copy.db")
    assert pool._copy_tasks(old, new, "p") == 0
    assert max(read) == 3
    monkeypatch.undo()
    assert {t.id: (t.depends_on, t.status) for t in new.query("p")} == {
        t.id: (t.depends_on, t.status) for t in old.query("p")
    }
    assert new.get("p", waits.id).depends_on == (later,)
    assert new.get("p", last.id).status is Status.WAITING


def test_remove_without_confirmation_removes_nothing(manager: TaskManager, uri: str) -> None:
    """The exit code is 1, also if there is no input to answer the question."""
    for answer in ("n\n", ""):
        done = run("pool", "--store", uri, "-t", "p", "remove", input=answer)
        assert (done.returncode, "nothing was changed" in done.stderr) == (1, True)
    assert sum(manager.task_stat().values()) == 5


def test_waiting_for_a_paused_pool_is_logged(manager: TaskManager, caplog: pytest.LogCaptureFixture) -> None:
    """The wait is logged once, with the command that resumes the pool."""
    manager.pause()
    end = time.monotonic() + 0.3
    manager.wait(settled=lambda counts: time.monotonic() > end, warn=False, poll=0.05)
    assert [r.getMessage() for r in caplog.records] == [
        "pool 'p' is paused: no task is taken from it until 'rollforge pool -t p resume'"
    ]


def test_a_copy_keeps_the_submissions_of_its_tasks(manager: TaskManager, uri: str, tmp_path: Path) -> None:
    """The copy also keeps the workers on which they failed, which ``logs`` shows."""
    key = manager.store.keep_submission("p", {"host": "head1"})
    manager.create_task([{"x": i} for i in range(5)], submission=key)
    other = f"sqlite:///{tmp_path}/other.db"
    call(uri, "copy", uri, other)
    store = SQLiteStore(other)
    assert store.submissions("p") == {key: {"host": "head1"}}
    listed = call(other, "-t", "p", "submissions").stdout
    assert listed == f"{key[:8]}  head1  no data  runs chosen by each worker  1 failed, 3 waiting\n"
    whole = json.loads(call(other, "-t", "p", "submissions", "--json").stdout)
    assert (whole["submission"], whole["host"], whole["tasks"]["waiting"]) == (key, "head1", 3)
    assert {t.submission for t in store.query("p")} == {"", key}
    (failed,) = store.query("p", {"status": "failed"})
    assert failed.failed_by == ("host:1",)
    assert "failed on host:1\n" in call(other, "-t", "p", "logs", failed.id[:8]).stdout


def test_watch_ends_when_no_task_can_be_run(manager: TaskManager, uri: str) -> None:
    """Without a terminal ``watch`` prints a line for each change."""
    manager.reset_waiting()
    manager.cancel({"status": "waiting"})
    assert call(uri, "-t", "p", "watch").stdout == "p: 1 done, 4 failed\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-t", "q", "task_stat"), "Task pool 'q' does not exist"),
        (("-t", "p", "query", "{bad"), "not JSON"),
        (("task_stat",), "No pool is given"),
        (("-t", "p", "query", '{"x": {"$gtt": 1}}'), "Did you mean '$gt'?"),
        (("--store", "postgresql://127.0.0.1:9/x", "list"), "cannot be reached"),
        (("--store", "redis://x", "list"), "does not name a task store"),
    ],
)
def test_mistakes_are_reported_in_one_message(
    manager: TaskManager, uri: str, arguments: tuple[str, ...], said: str
) -> None:
    """The exit code is 2, and there is no traceback."""
    failed = call(uri, *arguments)
    assert failed.returncode == 2
    assert said in failed.stderr
    assert "Traceback" not in failed.stderr
