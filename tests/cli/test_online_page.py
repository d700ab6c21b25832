"""``docs/online.md``: its commands run in the order of the page, and print what the page shows."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import runpy
import shlex
import shutil
import sqlite3
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rollforge.cli.exit_codes import exit_code
from rollforge.errors import RollforgeError
from rollforge.ledger.base import open_ledger
from rollforge.online.overview import Reader

from ..documents.command_line import call

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "online.md"
SCHEDULES = (
    "crontab", "rollforge-serve.service", "rollforge-watch.service", "cronjob.yaml", "deployment.yaml", "prefect_flow.py",
)  # fmt: skip
LEDGER = "sqlite:///.rollforge/tasks.db"
VARIES = (
    r"\b(?:[0-9a-f]{64}|[0-9a-f]{32}|[0-9a-f]{12}|[0-9a-f]{8})\b",  # hashes and ids
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?: UTC)?",  # times
    r"-?\d+\.\d+(?:e-\d+)?",  # seconds and scores
    r"\S+@\S+:\d+:\S+",  # the user and the process
    r"sqlite:////\S+/|/\S+/\.rollforge",  # where the test runs
)


def steps(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the command lines of a page (``    $ …``) with the lines that are printed below them."""
    command: tuple[str, list[str]] | None = None
    for line in [*text.splitlines(), ""]:
        if command is not None and (line.startswith("    $ ") or not line.startswith("    ")):
            yield command
            command = None
        if line.startswith("    $ "):
            command = (line[6:], [])
        elif command is not None:
            command[1].append(line[4:])


class Shell:
    """Runs the commands of the page in the working folder."""

    def __init__(self) -> None:
        self.code = 0
        self.background = contextlib.ExitStack()
        self.port = 0

    def run(self, line: str) -> list[str]:
        """Return the lines that a command prints."""
        words = shlex.split(line, comments=True)
        if line == "echo $?":
            return [str(self.code)]
        if words[0] == "python":
            return self._python(words[1:])
        if words[0] == "sqlite3":
            return _query(*words[1:])
        if words[0] == "curl":
            return self._curl(*words[1:])
        assert words[0] == "rollforge", line
        if words[-1] == "&":
            return self._serve()
        with _running() if "# while" in line else contextlib.nullcontext():
            return self._rollforge(words[1:])

    def _python(self, words: list[str]) -> list[str]:
        printed, before = io.StringIO(), sys.argv
        sys.argv = words
        try:
            with contextlib.redirect_stdout(printed):
                runpy.run_path(words[0], run_name="__main__")
        finally:
            sys.argv = before
        return printed.getvalue().splitlines()

    def _serve(self) -> list[str]:
        """Serve the ledger over HTTP until the end of the page, on any port."""
        pytest.importorskip("uvicorn", reason="pip install 'rollforge[serve]'")
        from rollforge.cli.serve_http import HttpService

        service = self.background.enter_context(HttpService.listening("127.0.0.1", 0, None))
        reader = self.background.enter_context(contextlib.closing(Reader(LEDGER)))
        self.background.enter_context(service.running(reader))
        self.port = service.socket.getsockname()[1]
        return [f"serving sqlite:///{Path('.rollforge/tasks.db').absolute()} on http://127.0.0.1:8765"]

    def _curl(self, *words: str) -> list[str]:
        address = words[-1].replace(":8765/", f":{self.port}/")
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                text: str = answer.read().decode()
        except urllib.error.HTTPError as exc:
            text = exc.read().decode()
        return text.splitlines()

    def _rollforge(self, words: list[str]) -> list[str]:
        result = call(*words, columns=100)
        self.code = result.exit_code
        lines = [line.rstrip() for line in result.stdout.splitlines()]
        if isinstance(result.exception, RollforgeError):
            self.code = exit_code(result.exception)
            return [*lines, f"rollforge: {result.exception}"]
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return lines


@contextlib.contextmanager
def _running() -> Iterator[None]:
    """Simulate that another machine runs the service."""
    ledger = open_ledger(LEDGER)
    lease = ledger.acquire("ranking", holder="server2:4711:9c1e7a2b-51873", seconds=120)
    try:
        yield
    finally:
        ledger.release(lease)


def _query(file: str, statement: str) -> list[str]:
    """Return rows as the program ``sqlite3`` prints them."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return ["|".join("" if v is None else str(v) for v in row) for row in connection.execute(statement)]


def masked(lines: list[str]) -> list[str]:
    """Return lines without the parts that differ from run to run, and with single spaces."""
    text = "\n".join(lines)
    for pattern in VARIES:
        text = re.sub(pattern, "*", text)
    return [" ".join(line.split()) for line in text.splitlines()]


def test_the_commands_print_what_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apart from ids, times and scores. Its Python code runs after them."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROLLFORGE_HOME", str(tmp_path / ".rollforge"))
    monkeypatch.delenv("ROLLFORGE_HTTP_TOKEN", raising=False)
    shell, known, commands = Shell(), dict[str, str](), 0
    names: dict[str, Any] = {}
    for line, shown in steps(PAGE.read_text(encoding="utf-8")):
        printed = shell.run(re.sub(r"\b[0-9a-f]{32}\b", lambda found: known[found[0]], line))
        assert masked(printed) == masked(shown), line
        ids = (re.findall(r"\b[0-9a-f]{32}\b", "\n".join(text)) for text in (shown, printed))
        known.update(zip(*ids, strict=True))  # the recorders of this run by those of the page
        commands += 1
    shell.background.close()
    assert commands > 20
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(block, names)
    assert len(names["simulated"]) == 8 * 17


@pytest.mark.parametrize("file", SCHEDULES)
def test_the_commands_of_a_schedule_exist(file: str) -> None:
    """The options of the commands exist too."""
    text = (ROOT / "examples" / "serve" / file).read_text(encoding="utf-8")
    if file.endswith(".yaml"):
        spec = yaml.safe_load(text)["spec"]
        pod = spec.get("jobTemplate", {"spec": spec})["spec"]["template"]["spec"]
        lines = [shlex.join(container["command"]) for container in pod["containers"]]
    elif file.endswith(".py"):
        lists = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.List)]
        words = [[one.value if isinstance(one, ast.Constant) else "x" for one in each.elts] for each in lists]
        lines = [shlex.join(each) for each in words if each[0] == "rollforge"]
    else:
        settings = [line for line in text.splitlines() if not line.startswith("#")]
        lines = re.findall(r"rollforge (?:serve|data) [^;&>|\n]+", "\n".join(settings))
    assert lines
    for line in lines:
        words = shlex.split(line.removeprefix("rollforge "))
        assert call(*words, "--help").exit_code == 0, line
