"""Control sequences in a pool, a tracking store or a file are shown as text and never reach the terminal."""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import pty
import re
import select
import signal
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from rich.panel import Panel
from rich.table import Table

from rollforge.cli import terminal
from rollforge.cli.terminal import SafeFormatter, console, echo, echo_json, one_line, output_to_stderr
from rollforge.store.manager import TaskManager
from rollforge.store.sqlite import SQLiteStore
from rollforge.task import Cause
from rollforge.track.base import open_tracker

HOSTILE = (
    "[/bold][link=file:///x]中文\x1b]0;owned\x07\x1b[2J\x1b[38;5;201m\x9b31m\x9d8;;x\x9c\u202e\u2066\x7f\x08:smile:"
)
SHOWN = "[/bold][link=file:///x]中文\\x1b]0;owned\\x07\\x1b[2J\\x1b[38;5;201m\\x9b31m\\x9d8;;x\\x9c\\u202e\\u2066\\x7f\\x08:smile:"

# The control sequences that Rich itself writes: colours, and cursor movements of its live display.
RICH = re.compile(r"\x1b\[(?:[0-9;]*m|\?25[lh]|[0-9]*[AK]|2K|1G)")

DRIVER = """
import json, sys
from rollforge.cli.main import main
for number, arguments in enumerate(json.loads(sys.stdin.readline() if len(sys.argv) < 2 else open(sys.argv[1]).read())):
    sys.argv = ["rollforge", *arguments]
    print(f"=== {number}", flush=True)
    code = 0
    try:
        main()
    except SystemExit as exc:
        code = exc.code
    sys.stdout.flush()
    print(f"--- {code}", flush=True)
"""


def on_a_terminal(commands: list[list[str]], folder: Path, **variables: str) -> list[str]:
    """Run commands on a pseudo-terminal, and return the output of each."""
    listed, driver = folder / "commands.json", folder / "driver.py"
    listed.write_text(json.dumps(commands))
    driver.write_text(DRIVER)
    master, slave = pty.openpty()
    environment = {**os.environ, "COLUMNS": "1000", "TERM": "xterm-256color", **variables}
    process = subprocess.Popen(
        [sys.executable, str(driver), str(listed)], stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=folder
    )
    os.close(slave)
    seen = b""
    try:
        while select.select([master], [], [], 120)[0]:
            try:
                part = os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            seen += part
        assert process.wait(200) == 0, seen.decode("utf-8", "replace")[-3000:]
    finally:
        process.kill()
        process.wait()
        os.close(master)
    text = seen.decode("utf-8").replace("\r\n", "\n")
    return re.split(r"=== \d+\n", text)[1:]


def control_characters(text: str) -> list[str]:
    """Return the characters in a text that could control a terminal, except those written by Rich."""
    return [c for c in RICH.sub("", text) if not c.isprintable() and c not in "\n\t"]


@pytest.fixture
def hostile_pool(tmp_path: Path) -> str:
    """A store in which the names of the pool, models and workers, and errors, logs and definitions, contain control
    sequences."""
    uri = f"sqlite:///{tmp_path}/tasks.db"
    manager = TaskManager("p", store=SQLiteStore(uri))
    definitions = [{"model": {"class": f"{HOSTILE}{i}", "module_path": HOSTILE}, HOSTILE: HOSTILE} for i in range(3)]
    content = {"mark": HOSTILE, "last_day": HOSTILE}
    info = {"host": HOSTILE, "tracking": HOSTILE, "data": {"folder": HOSTILE, "content": content}}
    manager.create_task(definitions, max_attempts=1, submission=manager.store.keep_submission("p", info))
    done, failed = manager.store.claim("p", worker="w", lease=600, limit=2)
    manager.store.commit(done, {"x": HOSTILE})
    manager.store.fail(failed, f"Traceback\nValueError: {HOSTILE}", Cause.RAISED, f"a {HOSTILE}\nb")
    manager.store.close()
    database = sqlite3.connect(tmp_path / "tasks.db")
    with database:
        for table in ("tasks", "results", "tallies", "submissions"):
            database.execute(f"UPDATE {table} SET pool = ?", (HOSTILE,))
        database.execute("UPDATE tasks SET model_name = ?, worker = ?, log = ?", (HOSTILE, HOSTILE, HOSTILE))
        database.execute("UPDATE tasks SET error = ? WHERE status = 'failed'", (f"Traceback\nValueError: {HOSTILE}",))
        database.execute("UPDATE tasks SET status = 'failed' WHERE status = 'waiting'")
    database.close()
    return uri


@pytest.mark.slow
def test_no_command_passes_control_sequences_to_the_terminal(hostile_pool: str, tmp_path: Path) -> None:
    tracking = f"folder:{tmp_path}/runs"
    tracker = open_tracker(tracking)
    tracker.create_experiment("e")
    for file in (tmp_path / "runs").rglob("experiment.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), "name": HOSTILE}))
    workflow = tmp_path / "w.yaml"
    text = json.dumps(HOSTILE)
    workflow.write_text(
        f"{text}: 1\nexperiment_name: {text}\ntask: {{model: {text}, dataset: {{class: {text}}}, {text}: 1}}\n"
    )
    odd = tmp_path / "\x1b[38;5;201mfile\x07.csv"
    odd.write_text(f"date,code,close\n2020-01-01,{HOSTILE},1\n2020-01-02,A,x{HOSTILE}\n")
    pool = ["pool", "-t", HOSTILE]
    with closing(sqlite3.connect(tmp_path / "tasks.db")) as database:
        ident = database.execute("SELECT id FROM tasks WHERE error IS NOT NULL").fetchone()[0]
    commands = [
        ["pool", "list"], ["pool", "query"], [*pool, "task-stat"], [*pool, "query"], [*pool, "query", "--json"],
        [*pool, "logs", ident], [*pool, "logs", HOSTILE], [*pool, "wait"], [*pool, "watch"], [*pool, "submissions"],
        [*pool, "submissions", "--json"], ["worker", "-t", HOSTILE, "--exit-when-empty"], [*pool, "pause"],
        [*pool, "resume"], [*pool, "query", f'{{"{HOSTILE}": 1}}'], [*pool, "query", '{"\\u001b[38;5;201m": {"$x": 1}}'],
        [*pool, "reset-status", HOSTILE], [*pool, "prioritize", ident, HOSTILE], ["pool", "-t", HOSTILE + "x", "query"],
        ["pool", "copy", hostile_pool, f"sqlite:///{tmp_path}/other.db"], ["pool", HOSTILE], [HOSTILE], [f"--{HOSTILE}"],
        ["track", "list", tracking], ["track", "copy", tracking, f"folder:{tmp_path}/other"], ["track", "list", HOSTILE],
        ["report", HOSTILE], ["collect", HOSTILE], ["report", HOSTILE + "x"], ["plan", str(workflow)],
        ["plan", str(odd)], ["plan", HOSTILE], ["run", HOSTILE], ["data", "import", str(odd), str(tmp_path / "d")],
        ["data", "import", HOSTILE, HOSTILE], ["data", "universe", HOSTILE, str(odd)], ["data", "demo", str(odd)],
        ["cache", "list", "--cache", str(tmp_path / HOSTILE.replace("/", "_"))], ["worker", "-t", HOSTILE, "--func", HOSTILE],
        ["worker", "-t", HOSTILE, "--exit-when-empty", "--func", "os:getcwd"], ["-v", *pool, "query"], ["-v", "plan", HOSTILE],
        [*pool, "cancel"], [*pool, "retry"], [*pool, "reset-waiting"], [*pool, "remove", "--yes"],
    ]  # fmt: skip
    outputs = on_a_terminal(
        commands,
        tmp_path,
        ROLLFORGE_STORE=hostile_pool,
        ROLLFORGE_TRACKING=tracking,
        ROLLFORGE_HOME=str(tmp_path / "home"),
    )
    assert len(outputs) == len(commands)
    for command, output in zip(commands, outputs, strict=True):
        assert control_characters(output) == [], (command, output)
        assert "\x1b[38;5;201m" not in output, (command, output)
        assert "Traceback (most recent call last)" not in output or command[0] == "-v", (command, output)
    said = dict(zip(map(json.dumps, commands), outputs, strict=True))
    assert SHOWN in said[json.dumps(["pool", "list"])]
    assert SHOWN in said[json.dumps([*pool, "logs", ident])]
    assert SHOWN in said[json.dumps(["track", "list", tracking])]
    first = said[json.dumps([*pool, "query", "--json"])].splitlines()[0]
    task = json.loads(first)
    assert task["def"][HOSTILE] == HOSTILE  # still JSON, and still the same value
    assert task["model_name"] == HOSTILE


@given(st.text())
def test_one_line_returns_one_line_and_keeps_printable_text(text: str) -> None:
    shown = one_line(text)
    assert shown.isprintable()
    assert not text.isprintable() or shown == text
    assert one_line(shown) == shown


@given(st.recursive(st.text() | st.none(), lambda v: st.lists(v) | st.dictionaries(st.text(), v), max_leaves=10))
def test_json_on_the_terminal_is_the_same_value(value: Any) -> None:
    for ascii_only in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            said = io.StringIO()
            patch.setattr(terminal.typer, "echo", lambda text, said=said: said.write(text))
            echo_json(json.dumps(value, ensure_ascii=ascii_only))
        assert json.loads(said.getvalue()) == value
        assert control_characters(said.getvalue()) == []


def test_rich_shows_data_as_text_in_any_position() -> None:
    said = io.StringIO()
    screen = console(file=said, force_terminal=True, width=300)
    table = Table(HOSTILE, title=HOSTILE, caption=HOSTILE)
    table.add_row(HOSTILE)
    for shown in (HOSTILE, table, Panel(HOSTILE), [HOSTILE]):
        screen.print(shown)
    screen.rule(HOSTILE)
    assert control_characters(said.getvalue()) == []
    assert "38;5;201" not in said.getvalue().replace("\\x1b[38;5;201m", "")
    assert said.getvalue().count("[/bold][link=file:///x]中文") >= 5


def test_log_messages_and_tracebacks_are_shown_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(SafeFormatter("%(name)s: %(message)s"))
    log = logging.getLogger("hostile")
    log.addHandler(handler)
    log.propagate = False
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        log.exception("about %s", HOSTILE)
    finally:
        log.removeHandler(handler)
    echo(f"{HOSTILE}\nnext", err=True)
    said = capsys.readouterr().err
    assert control_characters(said) == []
    assert said.count(SHOWN) == 3
    assert said.endswith("\nnext\n")


DIRECT_OUTPUT = {"print", "typer.echo", "typer.secho", "click.echo", "Console", "sys.stderr.write", "logging.Formatter"}


def test_commands_print_only_through_the_terminal_module() -> None:
    """All output is written by ``cli/terminal.py``: no other file uses ``print``, echo, a console or a stream."""
    source = Path(terminal.__file__).parents[1]
    found = []
    for file in [*(source / "cli").glob("*.py"), *(source / "report").glob("*.py"), source / "compat/qlib/commands.py"]:
        if file.name == "terminal.py" and file.parent.name == "cli":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in DIRECT_OUTPUT:
                    found.append(f"{file.name}:{node.lineno}: {called}")
    assert found == []


@pytest.mark.parametrize(
    ("number", "of_keyboard"),
    [("SIGINT", "default_int_handler"), ("SIGTERM", "default_int_handler"), ("SIGTERM", "SIG_IGN")],
)
def test_an_interruption_that_arrives_in_a_destructor_is_not_lost(number: str, of_keyboard: str) -> None:
    """Python ignores exceptions in destructors; the command ends all the same, with the code of an interruption.

    Shells start background jobs so that they ignore SIGINT.
    """
    program = f"""
        import os, signal, time
        from rollforge.cli.program import guarded

        signal.signal(signal.SIGINT, signal.{of_keyboard})

        class Resource:
            def __del__(self):
                os.kill(os.getpid(), signal.{number})
                time.sleep(0.01)

        def command():
            Resource()
            print("continues", flush=True)
            time.sleep(60)

        guarded(command)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stdout) == (130, "continues\n")
    assert "rollforge: interrupted." in done.stderr
    assert "Exception ignored" not in done.stderr


def test_output_of_other_code_goes_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    """What Python code, libraries and child processes print does not get between lines of JSON."""
    echo_json("[1]")
    with output_to_stderr():
        print("Python")
        os.write(1, b"library\n")
        subprocess.run(["echo", "child"], check=True)
    echo_json("[2]")
    out, err = capfd.readouterr()
    assert out.split() == ["[1]", "[2]"]
    assert sorted(err.split()) == ["Python", "child", "library"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("words", [["schema"], ["--help"]])
def test_output_to_a_full_disk(words: list[str]) -> None:
    """The command ends with one message instead of a traceback."""
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "rollforge", *words], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120
        )
    assert (ended.returncode, ended.stderr) == (
        1,
        "rollforge: The output cannot be written: No space left on device. Make room, then run the same command again.\n",
    )


def test_ctrl_c_before_the_command_has_started(tmp_path: Path) -> None:
    """While its modules are imported, which takes half a second, it ends as programs usually do, without a traceback."""
    (tmp_path / "typer.py").write_text("import sys, time\nprint('importing', flush=True)\ntime.sleep(100)\n")
    begun = subprocess.Popen(
        [sys.executable, "-m", "rollforge", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )  # fmt: skip
    with begun:
        assert begun.stdout is not None
        assert begun.stdout.readline() == "importing\n"
        begun.send_signal(signal.SIGINT)
        assert begun.communicate(timeout=60)[1] == ""
    assert begun.returncode == -signal.SIGINT
