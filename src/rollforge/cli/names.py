"""How the words of a command may be spelt."""

from __future__ import annotations

from typing import Any

__all__ = ["ANY_SPELLING"]

_SYNONYMS = {"ls": "list"}


def _canonical(word: str) -> str:
    """Return the name that this program gives a command or an option: Qlib's have underscores."""
    word = word.replace("_", "-")
    return _SYNONYMS.get(word, word)


ANY_SPELLING: dict[str, Any] = {"token_normalize_func": _canonical}
"""Context settings under which ``task_stat`` is ``task-stat`` and ``ls`` is ``list``."""
