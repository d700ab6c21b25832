"""Output of Qlib scripts: results of records on standard output, log lines on standard error, as in Qlib.

Outside its command, Rollforge prints nothing: records use a logger. This module connects that logger to the terminal.
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO

from rollforge.record.base import RESULTS

__all__ = ["show"]

_FORM = "[%(process)d:%(threadName)s](%(asctime)s) %(levelname)s - %(name)s - [%(filename)s:%(lineno)d] - %(message)s"
_LOGGERS = ("rollforge", "qlib")


class _Terminal(logging.StreamHandler[TextIO]):
    """Writes to the current standard output or error, because notebooks and tests replace them."""

    def __init__(self, name: str, form: str) -> None:
        self._standard = name
        logging.Handler.__init__(self)
        self.setFormatter(logging.Formatter(form))

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        found: TextIO = getattr(sys, self._standard)
        return found


class _LogLines(_Terminal):
    """Handles log lines, unless the program has configured logging itself."""

    def __init__(self) -> None:
        super().__init__("stderr", _FORM)

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != RESULTS and not logging.getLogger().handlers:
            super().emit(record)


def show(level: int | str = logging.INFO) -> None:
    """Print results, and log lines at `level` or above, from now on. Idempotent."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(h, _Terminal) for h in logger.handlers):
            logger.addHandler(_LogLines())
        logger.setLevel(level)
    results = logging.getLogger(RESULTS)
    if not any(isinstance(h, _Terminal) for h in results.handlers):
        results.addHandler(_Terminal("stdout", "%(message)s"))
        results.propagate = False
    results.setLevel(logging.INFO)
