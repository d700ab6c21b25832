"""The names that the shell completes: pools, experiments, services and workflow files.

A shell calls these functions while the user types, so they return nothing rather than raise, print, create or wait.
"""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import typer

__all__ = ["COMPLETE_VAR", "experiment_or_file", "pool_names", "service_names", "words_joined", "workflow_files"]

_SECONDS = 0.25
"""Time for reading names: a database may be locked, or out of reach."""
_FILES = 2000
"""Number of directory entries that are looked at."""
_NEEDS_QUOTES = re.compile(r"""[\s"'`$\\&|;<>(){}\[\]*?!#~]""")
COMPLETE_VAR = "_ROLLFORGE_COMPLETE"
"""By this variable, a shell asks for completions."""


@contextmanager
def words_joined() -> Iterator[None]:
    """Join the words that bash has split, while a program reads them and answers.

    Bash takes ``sqlite:///tasks.db`` for three words. It replaces only the last part of the word that is being typed, so
    what is offered is printed without the parts before it.
    """
    before = _join_words() if os.environ.get(COMPLETE_VAR) == "complete_bash" else ""
    if not before:
        yield
        return
    offered = io.StringIO()
    try:
        with redirect_stdout(offered):
            yield
    finally:
        sys.stdout.write("".join(line.removeprefix(before) for line in offered.getvalue().splitlines(keepends=True)))


def _join_words() -> str:
    """Join the words in the variables of bash, and return what the word that is being typed begins with."""
    words, index = os.environ.get("COMP_WORDS", "").split("\n"), os.environ.get("COMP_CWORD", "")
    if not index.isdigit() or int(index) >= len(words):
        return ""
    joined: list[str] = []
    begins, after_mark = "", False
    for word in words[: int(index) + 1]:
        if word == "=" and joined and joined[-1].startswith("--"):
            joined.append("")  # ``--store=URI`` means ``--store URI``
            begins, after_mark = "", True
            continue
        is_mark = re.fullmatch("[:@]+", word) is not None
        if joined and (after_mark or is_mark):
            begins = joined[-1] + word if is_mark else joined[-1]
            joined[-1] += word
        else:
            begins = ""
            joined.append(word)
        after_mark = is_mark
    os.environ["COMP_WORDS"] = "\n".join([*joined, *words[int(index) + 1 :]])
    os.environ["COMP_CWORD"] = str(len(joined) - 1)
    return begins.removesuffix("@")  # bash replaces an @ together with what follows it


def pool_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the pools of the store that was given, or of the default one."""
    return _matching(_in_time(lambda: _pools(_given(ctx, "store_uri"))), incomplete)


def service_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the services of the ledger that was given, or of the default one."""
    return _matching(_in_time(lambda: _services(_given(ctx, "ledger_uri"))), incomplete)


def workflow_files(incomplete: str) -> list[str]:
    """Return the YAML files in the folder that was begun, and in the folders in it."""
    return _matching(_in_time(lambda: _yaml_files(incomplete)), incomplete)


def experiment_or_file(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return experiments, which are the pools of the store, and workflow files."""
    return pool_names(ctx, incomplete) + workflow_files(incomplete)


def _given(ctx: typer.Context, name: str) -> str | None:
    found = ctx.params.get(name)
    return found if isinstance(found, str) else None


def _pools(store_uri: str | None) -> list[str]:
    from rollforge.session import Session
    from rollforge.store.base import open_store

    return open_store(Session().with_(store_uri=store_uri).store_uri, read_only=True).pools()


def _services(ledger_uri: str | None) -> list[str]:
    from rollforge.ledger.base import open_ledger
    from rollforge.session import Session

    return open_ledger(Session().with_(store_uri=ledger_uri).store_uri, read_only=True).services()


def _yaml_files(incomplete: str) -> list[str]:
    begun = os.path.dirname(incomplete)
    left = _FILES
    found: list[str] = []
    for folder in [begun, *_folders_in(begun)]:
        with os.scandir(folder or ".") as entries:
            for entry in entries:
                left -= 1
                if left < 0:
                    return sorted(found)
                if Path(entry.name).suffix in (".yaml", ".yml") and not entry.name.startswith("."):
                    found.append(os.path.join(folder, entry.name))
    return sorted(found)


def _folders_in(folder: str) -> list[str]:
    with os.scandir(folder or ".") as entries:
        names = [entry.name for entry, _ in zip(entries, range(_FILES), strict=False) if entry.is_dir()]
    return [os.path.join(folder, name) for name in sorted(names) if not name.startswith(".")]


def _matching(names: Iterable[str], incomplete: str) -> list[str]:
    """Return the names that begin so and can be typed without quotes."""
    return [
        name for name in names
        if name.startswith(incomplete) and name.isprintable() and _NEEDS_QUOTES.search(name) is None
    ]  # fmt: skip


def _in_time(read: Callable[[], list[str]]) -> list[str]:
    """Return what `read` finds; nothing if it fails or takes too long."""
    found: list[str] = []

    def keep() -> None:
        try:
            found.extend(read())
        except Exception:  # noqa: BLE001 - a message in the middle of the command line would help nobody
            return

    thread = threading.Thread(target=keep, daemon=True)
    with _silence():
        thread.start()
        thread.join(_SECONDS)
    return found


@contextmanager
def _silence() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
