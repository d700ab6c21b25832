"""Notes on the numbers of a backtest, which are logged and stored with the result."""

from __future__ import annotations

import logging

__all__ = ["Notes"]

log = logging.getLogger("rollforge.record.backtest")


class Notes(list[str]):
    """A list of distinct sentences.

    Examples
    --------
    >>> notes = Notes()
    >>> notes.add("the price is missing %d times", 3)
    >>> notes
    ['the price is missing 3 times']
    """

    def add(self, message: str, *values: object) -> None:
        """Log a warning and add it, unless it is already in the list."""
        text = message % values if values else message
        if text not in self:
            self.append(text)
            log.warning("%s", text)
