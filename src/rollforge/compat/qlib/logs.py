"""Logging, as in ``qlib.log``."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

__all__ = [
    "LogFilter",
    "QlibLogger",
    "TimeInspector",
    "get_module_logger",
    "logger",
    "set_global_logger_level",
    "set_global_logger_level_cm",
    "set_log_with_config",
]

logger = logging.getLogger("qlib")
_LOGGERS = (logger, logging.getLogger("rollforge"))


class QlibLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger whose level can be set like that of Qlib's."""

    def setLevel(self, level: int | str) -> None:  # noqa: N802 - logging's name
        """Set the level."""
        self.logger.setLevel(level)


def get_module_logger(module_name: str, level: int | None = None) -> QlibLogger:
    """Return the logger of a module."""
    name = module_name if module_name.startswith("qlib.") else f"qlib.{module_name}"
    found = logging.getLogger(name)
    if level is not None:
        found.setLevel(level)
    return QlibLogger(found, {})


def set_log_with_config(log_config: Mapping[str, object] | None) -> None:
    """Configure logging from a dict; None changes nothing."""
    import logging.config

    if log_config:
        logging.config.dictConfig(dict(log_config))


class LogFilter(logging.Filter):
    """Suppresses messages that match one of the patterns at their start.

    Parameters
    ----------
    param : str or list of str, optional
        The patterns.
    """

    def __init__(self, param: str | list[str] | None = None) -> None:
        super().__init__()
        self.param = param
        self._patterns = [re.compile(p) for p in ([param] if isinstance(param, str) else param or [])]

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a message is shown."""
        return not any(p.match(str(record.msg)) for p in self._patterns)


def set_global_logger_level(level: int, return_orig_handler_level: bool = False) -> dict[logging.Handler, int] | None:
    """Set the level of Qlib's and Rollforge's loggers and of their handlers.

    Parameters
    ----------
    level : int
        The level.
    return_orig_handler_level : bool
        If True, return a mapping of handlers to their previous levels.
    """
    before = {handler: handler.level for one in _LOGGERS for handler in one.handlers}
    for one in _LOGGERS:
        one.setLevel(level)
    for handler in before:
        handler.setLevel(level)
    return before if return_orig_handler_level else None


@contextmanager
def set_global_logger_level_cm(level: int) -> Iterator[None]:
    """Set the level of Qlib's loggers inside a ``with`` block."""
    own = {one: one.level for one in _LOGGERS}
    before = set_global_logger_level(level, return_orig_handler_level=True) or {}
    try:
        yield
    finally:
        for one, level_before in own.items():
            one.setLevel(level_before)
        for handler, was in before.items():
            handler.setLevel(was)


class TimeInspector:
    """Measures and logs how long things take."""

    timer_logger = get_module_logger("timer")
    time_marks: list[float] = []  # noqa: RUF012 - one clock for the process, as in Qlib

    @classmethod
    def set_time_mark(cls) -> float:
        """Start a measurement."""
        cls.time_marks.append(time.perf_counter())
        return cls.time_marks[-1]

    @classmethod
    def pop_time_mark(cls) -> float:
        """Return the start of the last measurement."""
        return cls.time_marks.pop()

    @classmethod
    def get_cost_time(cls) -> float:
        """Return the seconds since the last start."""
        return time.perf_counter() - cls.time_marks.pop()

    @classmethod
    def log_cost_time(cls, info: str = "Done") -> None:
        """Log the seconds since the last start."""
        cls.timer_logger.info("Time cost: %.3fs | %s", cls.get_cost_time(), info)

    @classmethod
    @contextmanager
    def logt(cls, name: str = "", show_start: bool = False) -> Iterator[None]:
        """Log how long a ``with`` block takes."""
        began = time.perf_counter()
        if show_start:
            cls.timer_logger.info("%s begins", name)
        try:
            yield
        finally:
            cls.timer_logger.info("Time cost: %.3fs | %s", time.perf_counter() - began, name)
