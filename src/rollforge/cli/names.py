"""How the words of a command may be spelt, and how messages print commands."""

from __future__ import annotations

import shlex
from typing import Any

from rollforge.confidential import mask_secrets
from rollforge.session import Session

__all__ = ["ANY_SPELLING", "pool_command"]

_SYNONYMS = {"ls": "list"}


def _canonical(word: str) -> str:
    """Return the name that this program gives a command or an option: Qlib's have underscores."""
    word = word.replace("_", "-")
    return _SYNONYMS.get(word, word)


ANY_SPELLING: dict[str, Any] = {"token_normalize_func": _canonical}
"""Context settings under which ``task_stat`` is ``task-stat`` and ``ls`` is ``list``."""


def pool_command(store: str, pool: str) -> str:
    """Return the words before a subcommand of ``rollforge pool``, to be run as they are printed.

    Examples
    --------
    >>> pool_command("sqlite:///my tasks.db", "two")
    "rollforge pool --store 'sqlite:///my tasks.db' -t two"
    """
    named = "" if store == Session().store else f" --store {shlex.quote(mask_secrets(store))}"
    return f"rollforge pool{named} -t {shlex.quote(pool)}"
