"""The accepted spellings of commands and options, and how messages print commands."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from typer.core import TyperGroup

from rollforge.confidential import mask_secrets
from rollforge.session import Session

__all__ = ["ANY_SPELLING", "OptionsAnywhere", "worker_command"]

_SYNONYMS = {"ls": "list"}


def _canonical(word: str) -> str:
    """Normalize the name of a command or option: Qlib's names have underscores."""
    word = word.replace("_", "-")
    return _SYNONYMS.get(word, word)


ANY_SPELLING: dict[str, object] = {"token_normalize_func": _canonical}
"""Context settings that accept ``task_stat`` for ``task-stat`` and ``ls`` for ``list``."""


class OptionsAnywhere(TyperGroup):
    """A group of commands whose own options, which take a value each, may also follow the name of the command.

    ``serve run --service us`` is ``serve --service us run``. No command of the group may have an option of the same name.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, with the group's options first."""
        names = {name for parameter in self.params for name in parameter.opts}
        first, rest, words = [], [], iter(args)
        for word in words:
            name, given, _ = word.partition("=")
            if word == "--":
                rest += [word, *words]
            elif _canonical(name) in names:
                value = list(itertools.islice(words, 0 if given else 1))
                if not given and not value:
                    rest = []  # without a value, it is reported before the command is looked for
                first += [word, *value]
            else:
                rest.append(word)
        return super().parse_args(ctx, [*first, *rest])


def worker_command(session: Session, pool: str, allowed: Iterable[str] = ()) -> str:
    """Return the command that starts a worker for a pool on any machine that can reach the store.

    Parameters
    ----------
    session : Session
        The session, with the store. An address that contains a password is not printed; set ``ROLLFORGE_STORE``
        instead.
    pool : str
        Name.
    allowed : iterable of str
        The user's packages and files that the tasks refer to.

    Examples
    --------
    >>> worker_command(Session(store_uri="postgresql://db/tasks"), "two", ["my_models"])
    'rollforge worker -t two --store postgresql://db/tasks --allow my_models'
    """
    words = ["rollforge", "worker", "-t", pool]
    store_uri = absolute_store(session.store_uri)
    if mask_secrets(store_uri) == store_uri:
        words += ["--store", store_uri]
    for name in allowed:
        words += ["--allow", name]
    return shlex.join(words)


def absolute_store(store_uri: str) -> str:
    """Return the URI of a store with an absolute path, so that it is valid in any folder.

    Examples
    --------
    >>> absolute_store("sqlite:////srv/tasks.db"), absolute_store("postgresql://db/tasks")
    ('sqlite:////srv/tasks.db', 'postgresql://db/tasks')
    """
    if not store_uri.startswith("sqlite:///"):
        return store_uri
    path, mark, options = store_uri.removeprefix("sqlite:///").partition("?")
    return f"sqlite:///{Path(path).expanduser().absolute()}{mark}{options}"
