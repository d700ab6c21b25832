"""The accepted spellings of commands and options, and how messages print commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from rollforge.confidential import mask_secrets
from rollforge.session import Session

__all__ = ["ANY_SPELLING", "worker_command"]

_SYNONYMS = {"ls": "list"}


def _canonical(word: str) -> str:
    """Normalize the name of a command or option: Qlib's names have underscores."""
    word = word.replace("_", "-")
    return _SYNONYMS.get(word, word)


ANY_SPELLING: dict[str, object] = {"token_normalize_func": _canonical}
"""Context settings that accept ``task_stat`` for ``task-stat`` and ``ls`` for ``list``."""


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
