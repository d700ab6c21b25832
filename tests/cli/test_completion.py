"""Shells complete names: asked as bash, zsh and fish ask."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from rollforge.cli import completion
from rollforge.cli.completion import join_split_words
from rollforge.cli.main import app
from rollforge.ledger.base import open_ledger
from rollforge.session import Session
from rollforge.store.manager import TaskManager

from ..documents.command_line import call, run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a store of three pools and a few files."""
    session = Session(store_uri=f"sqlite:///{tmp_path}/tasks.db")
    for name in ("alpha", "alpine", "with blank"):
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
            join_split_words()
            done = call()
        assert (done.exit_code, done.stderr) == (0, "")
        return done.stdout

    def offers(self, line: str, **env: str) -> list[str]:
        """What bash would offer at the end of a line."""
        return self.ask(**asked_by_bash(line), **env).split()


@pytest.fixture
def shell(folder: Path, no_limit: None, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A shell in the folder with the store."""
    return Shell(folder, monkeypatch)


def asked_by_bash(line: str) -> dict[str, str]:
    """The variables that bash sets; it splits words at colons and equals signs as well as at blanks."""
    words = [part for word in line.split(" ") for part in _as_bash_splits(word)]
    return {
        "_ROLLFORGE_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }


def _as_bash_splits(word: str) -> list[str]:
    for mark in "=:":
        word = word.replace(mark, f"\n{mark}\n")
    return word.split("\n")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("rollforge pool -t al", ["alpha", "alpine"]),
        ("rollforge pool --task-pool ", ["alpha", "alpine"]),  # the other name would need quotes
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


def test_a_word_that_bash_has_split_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URI with a port and a password is one word again; the word that is being typed stays as it is."""
    words = ["rollforge", "pool", "--store", "postgresql", ":", "//u", ":", "p", "@", "h", ":", "5432/db", "-t", "a"]
    monkeypatch.setenv("_ROLLFORGE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "\n".join(words))
    monkeypatch.setenv("COMP_CWORD", "13")
    join_split_words()

    assert os.environ["COMP_WORDS"].split("\n") == [
        "rollforge", "pool", "--store", "postgresql://u:p@h:5432/db", "-t", "a",
    ]  # fmt: skip
    assert os.environ["COMP_CWORD"] == "5"
