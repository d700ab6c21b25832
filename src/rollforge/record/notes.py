"""What should be known of a backtest's numbers: logged when it is found, and kept with the result."""

from __future__ import annotations

import logging

__all__ = ["Notes"]

log = logging.getLogger("rollforge.record.backtest")


class Notes(list[str]):
    """Sentences, each once.

    Examples
    --------
    >>> notes = Notes()
    >>> notes.add("the price is missing %d times", 3)
    >>> notes
    ['the price is missing 3 times']
    """

    def add(self, message: str, *values: object) -> None:
        """Log a warning, and keep it."""
        text = message % values if values else message
        if text not in self:
            self.append(text)
            log.warning("%s", text)


def shown(names: list[str], most: int = 5) -> str:
    """Return names for a message: the first few of them, and how many there are besides."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
