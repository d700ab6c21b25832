"""Shells complete names: asked as bash, zsh and fish ask."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import typer
from typer.completion import get_completion_script

from rollforge.cli import completion
from rollforge.cli.completion import words_joined
from rollforge.cli.main import app
from rollforge.ledger.base import open_ledger
from rollforge.session import Session
from rollforge.store.manager import TaskManager

from ..documents.command_line import call, run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a store of six pools and a few files."""
    session = Session(store_uri=f"sqlite:///{tmp_path}/tasks.db")
    for name in ("alpha", "alpine", "with blank", "tree:deep", "tree:flat", "a@b::c"):
        TaskManager(name, session=session).create_task([{"model": {"class": "Mean", "kwargs": {}}}])
    (tmp_path / "jobs").mkdir()
    for name in ("alone.yaml", "jobs/monthly.yml", "notes.txt", ".hidden.yaml"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.fixture
def no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test waits for the names on a busy machine too."""
    monkeypatch.setattr(completion, "_SECONDS", 60.0)


class Shell:
    """Asks in a folder, in this process."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        monkeypatch.chdir(folder)
        monkeypatch.setenv("ROLLFORGE_HOME", str(folder))

    def ask(self, **env: str) -> str:
        with self.monkeypatch.context() as patch:
            for name, value in env.items():
                patch.setenv(name, value)
            printed = io.StringIO()
            with redirect_stdout(printed), words_joined():
                done = call()
                print(done.stdout, end="")
        assert (done.exit_code, done.stderr) == (0, "")
        return printed.getvalue()

    def offers(self, line: str, **env: str) -> list[str]:
        """What bash would offer at the end of a line."""
        return self.ask(**asked_by_bash(line), **env).split()


@pytest.fixture
def shell(folder: Path, no_limit: None, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A shell in the folder with the store."""
    return Shell(folder, monkeypatch)


def asked_by_bash(line: str) -> dict[str, str]:
    """The variables that bash sets; it splits words at colons, equals signs and @ as well as at blanks."""
    words = [part for word in line.split(" ") for part in _as_bash_splits(word)]
    return {
        "_ROLLFORGE_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }


def _as_bash_splits(word: str) -> list[str]:
    return [part for part in re.split("([:@]+|=)", word) if part] or [""]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("rollforge pool -t al", ["alpha", "alpine"]),
        ("rollforge pool --task-pool t", ["tree:deep", "tree:flat"]),
        ("rollforge pool --task-pool w", []),  # the name would need quotes
        ("rollforge pool --task-pool=", ["a@b::c", "alpha", "alpine", "tree:deep", "tree:flat"]),
        ("rollforge pool --task-pool=alpi", ["alpine"]),
        ("rollforge worker -t alpi", ["alpine"]),
        ("rollforge collect al", ["alpha", "alpine", "alone.yaml"]),
        ("rollforge report alpha alpi", ["alpine"]),
        ("rollforge run ", ["alone.yaml", "jobs/monthly.yml"]),
        ("rollforge plan jobs/", ["jobs/monthly.yml"]),
        ("rollforge check x", []),
        ("rollforge plan nowhere/", []),
    ],
)
def test_names_and_files_are_offered(shell: Shell, line: str, offered: list[str]) -> None:
    """Pools where a pool or an experiment is asked for, YAML files where a workflow is."""
    assert shell.offers(line) == offered


@pytest.mark.parametrize("form", ["--store {}", "--store={}"])
def test_the_store_on_the_line_is_asked(shell: Shell, folder: Path, form: str) -> None:
    """Bash splits the address of a store at its colon."""
    store = form.format(f"sqlite:///{folder}/tasks.db")
    other = {"ROLLFORGE_HOME": str(folder / "jobs")}
    assert shell.offers(f"rollforge pool {store} -t alph", **other) == ["alpha"]
    assert shell.offers("rollforge pool -t alph", **other) == []


def test_services_are_offered(shell: Shell, folder: Path) -> None:
    """By their names in the ledger."""
    ledger = open_ledger(f"sqlite:///{folder}/tasks.db")
    lease = ledger.acquire("daily", holder="me", seconds=60)
    ledger.append(lease, 1, "note", {"text": "note"})
    assert shell.offers("rollforge serve --service d") == ["daily"]


@pytest.mark.parametrize("kind", ["zsh", "fish"])
def test_other_shells_ask_in_other_words(shell: Shell, kind: str) -> None:
    """One line instead of a list of words."""
    found = shell.ask(
        _ROLLFORGE_COMPLETE=f"complete_{kind}", _TYPER_COMPLETE_ARGS="rollforge pool -t alph",
        _TYPER_COMPLETE_FISH_ACTION="get-args",
    )  # fmt: skip
    assert "alpha" in found
    assert "alpine" not in found


@pytest.mark.parametrize(
    "store",
    ["sqlite:///{}/absent.db", "sqlite:///{}/no/folder/tasks.db", "sqlite:///{}/notes.txt", "nothing://x", "sqlite://",
     "memory://never"],
)  # fmt: skip
def test_a_store_that_cannot_be_read_offers_nothing(folder: Path, store: str) -> None:
    """Nothing is created or printed, and no error ends the line that is typed."""
    (folder / "notes.txt").write_text("no database")
    before = sorted(folder.rglob("*"))
    asked = {**asked_by_bash("rollforge pool -t al"), "ROLLFORGE_STORE": store.format(folder)}
    done = run(cwd=folder, env={"ROLLFORGE_HOME": str(folder), **asked})
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("line", "offered"), [("rollforge pool -t alph", "alpha"), ("rollforge serve --service d", "daily")]
)
def test_names_are_found_without_heavy_imports(folder: Path, line: str, offered: str) -> None:
    """A shell waits while names are read, so the command imports no numerical library and no code that runs tasks."""
    ledger = open_ledger(f"sqlite:///{folder}/tasks.db")
    ledger.append(ledger.acquire("daily", holder="me", seconds=60), 1, "note", {"text": "note"})
    code = (
        "import sys\nfrom rollforge.cli import completion\nfrom rollforge.cli.main import main\n"
        "completion._SECONDS = 60.0\n"
        "try:\n    main()\nfinally:\n    print(*sys.modules, file=sys.stderr)\n"
    )
    env = {**os.environ, **asked_by_bash(line), "ROLLFORGE_HOME": str(folder)}
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [offered]
    imported = set(done.stderr.split())
    assert "rollforge.store.sqlite_database" in imported
    heavy = {"numpy", "pandas", "pyarrow", "mlflow", "lightgbm", "numba", "plotly", "sqlalchemy", "yaml"}
    ours = {f"rollforge.{name}" for name in ("build", "plugins", "workflow", "market", "features", "models", "run")}
    assert imported & (heavy | ours) == set()


def test_a_locked_store_does_not_make_the_shell_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer comes after a quarter of a second, whatever the database's own patience."""

    def sleep(store_uri: str | None) -> list[str]:
        time.sleep(30)
        return ["late"]

    monkeypatch.setattr(completion, "_pools", sleep)
    begun = time.monotonic()
    context = typer.Context(typer.main.get_command(app))
    assert completion.pool_names(context, "") == []
    assert completion._SECONDS <= time.monotonic() - begun < 15


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("rollforge pool -t tree:", ["deep", "flat"]),
        ("rollforge pool -t tree:f", ["flat"]),
        ("rollforge pool --task-pool=tree:f", ["flat"]),
        ("rollforge collect a@", ["@b::c"]),
        ("rollforge collect a@b", ["@b::c"]),
        ("rollforge collect a@b::", ["c"]),
        ("rollforge report alpha tree:d", ["deep"]),
        ("rollforge pool -t tree:x", []),
        ("rollforge tree:pl", []),  # not the command ``plan``
    ],
)
def test_bash_replaces_what_follows_a_colon(shell: Shell, line: str, offered: list[str]) -> None:
    """Names are compared with the whole word, and offered without the parts that stay."""
    assert shell.offers(line) == offered


def joined(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> list[str]:
    """Return the words up to the one that is being typed, the last one, after they were joined."""
    monkeypatch.setenv("_ROLLFORGE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "\n".join(words))
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    with words_joined():
        found = os.environ["COMP_WORDS"].split("\n")
    assert os.environ["COMP_CWORD"] == str(len(found) - 1)
    return found


def test_a_word_that_bash_has_split_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URI with a port and a password is one word again, and so is the word that is being typed."""
    words = [
        "rollforge",
        "pool",
        "--store",
        "=",
        "postgresql",
        ":",
        "//u",
        ":",
        "p",
        "@",
        "h",
        ":",
        "5432/db",
        "-t",
        "a",
    ]
    whole = ["rollforge", "pool", "--store", "postgresql://u:p@h:5432/db", "-t", "a"]
    assert joined(monkeypatch, words) == whole
    assert joined(monkeypatch, [*words, ":", "b"]) == [*whole[:-1], "a:b"]


class Bash:
    """A bash in a folder, in which lines are typed at a terminal, with the command ``rollforge``."""

    def __init__(self, folder: Path) -> None:
        code = (
            "import os, sys\nfrom rollforge.cli import completion\nfrom rollforge.cli.main import main\n"
            "completion._SECONDS = 60.0\n"
            "main() if completion.COMPLETE_VAR in os.environ else print('called with', *sys.argv[1:])\n"
        )
        command = folder / "bin" / "rollforge"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(code)} "$@"\n')
        command.chmod(0o755)
        rc = folder / "bashrc"
        rc.write_text(
            get_completion_script(prog_name="rollforge", complete_var=completion.COMPLETE_VAR, shell="bash")
            + "\nPS1='> '\n"
        )
        env = {
            **os.environ, "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}", "TERM": "dumb", "INPUTRC": "/dev/null",
            "ROLLFORGE_HOME": str(folder),
        }  # fmt: skip
        self.terminal, slave = pty.openpty()
        self.process = subprocess.Popen(
            ["bash", "--noprofile", "--rcfile", rc, "-i"], stdin=slave, stdout=slave, stderr=slave, cwd=folder, env=env,
            start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.until("(> )")

    def until(self, pattern: str) -> str:
        """Return the first group of a pattern, once it was shown."""
        shown = ""
        while (found := re.search(pattern, shown)) is None:
            assert select.select([self.terminal], [], [], 60)[0], shown
            shown += os.read(self.terminal, 4096).decode("utf-8", "replace")
        return found[1]

    def completed(self, line: str) -> str:
        """Return the words with which the command is called after a line, a tab and the enter key were typed."""
        os.write(self.terminal, f"{line}\t\n".encode())
        return self.until(r"called with ([^\r\n]*)\r\n(?:.*\n)?(> )")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_itself_completes_words_with_colons(folder: Path) -> None:
    """What is typed stays, whether bash splits it or it is quoted."""
    bash = Bash(folder)
    try:
        found = {
            line: bash.completed(f"rollforge {line}")
            for line in (
                "pool -t alph", "pool -t t", "pool -t tree:f", "pool --task-pool=tree:d", "pool -t 'tree:f", "pool -t a@",
                "pool -t a@b:",
                f"pool --store sqlite:///{folder}/tasks.db -t tree:d", "tree:pl",
            )
        }  # fmt: skip
    finally:
        bash.close()
    assert list(found.values()) == [
        "pool -t alpha", "pool -t tree:", "pool -t tree:flat", "pool --task-pool=tree:deep", "pool -t tree:flat",
        "pool -t a@b::c", "pool -t a@b::c", f"pool --store sqlite:///{folder}/tasks.db -t tree:deep", "tree:pl",
    ]  # fmt: skip
