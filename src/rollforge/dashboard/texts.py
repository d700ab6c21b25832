"""The texts of pages: names, times and durations, and what others wrote, printable and without secrets."""

from __future__ import annotations

import datetime as dt
import re
import time

from rollforge.confidential import mask_secrets
from rollforge.errors import printable
from rollforge.machine import machine_of

__all__ = ["clock", "duration", "iso", "last_line", "masked", "masked_lines", "shown_name", "when", "worker_text"]


_LOG_HEAD = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ (?:\d+ )?[A-Z]+ [\w.]+: ")
"""What a worker process puts before a message in its log."""


def masked(text: str) -> str:
    """Return one line of printable text, without secrets."""
    return mask_secrets(printable(text))


def last_line(log: str) -> str:
    """Return the last line of a log, without the time, the process, the level and the name of the logger.

    Examples
    --------
    >>> last_line("epoch 1\\n2024-01-02 10:00:00,123 17 INFO rollforge.models.lightgbm: [20]  valid's l2: 0.98")
    "[20]  valid's l2: 0.98"
    """
    lines = log.splitlines()
    return _LOG_HEAD.sub("", lines[-1]) if lines else ""


def masked_lines(text: str) -> str:
    """Return lines of printable text, without secrets."""
    return mask_secrets("\n".join(map(printable, text.splitlines())))


def shown_name(pool: str) -> str:
    """Return the name of an experiment as it is shown."""
    return masked(pool)


def worker_text(name: str) -> str:
    """Return the machine and the process of a worker.

    Examples
    --------
    >>> worker_text("gpu1:4711:0badc0de-99812"), worker_text("")
    ('gpu1, process 4711', '')
    """
    host = machine_of(name).partition("/")[0]
    process = name.partition(":")[2].partition(":")[0]
    return masked(f"{host}, process {process}" if process else host)


def duration(seconds: float) -> str:
    """Return a duration: seconds if it is short, else as on a clock.

    Examples
    --------
    >>> duration(0.84), duration(12.3), duration(75), duration(3700)
    ('0.8 s', '12 s', '1:15 min', '1:01:40 h')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{clock(seconds)} {'min' if seconds < 3599.5 else 'h'}"


def clock(seconds: float) -> str:
    """Return seconds as ``m:ss`` or ``h:mm:ss``.

    Examples
    --------
    >>> clock(75), clock(3700)
    ('1:15', '1:01:40')
    """
    hours, rest = divmod(max(0, round(seconds)), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def when(moment: float) -> str:
    """Return a time of the store on this machine's clock: without the day if it is today."""
    local = dt.datetime.fromtimestamp(moment).astimezone()
    today = dt.datetime.fromtimestamp(time.time()).astimezone().date()
    return local.strftime("%H:%M:%S" if local.date() == today else "%Y-%m-%d %H:%M")


def iso(moment: float) -> str:
    """Return a time with its day and time zone."""
    return dt.datetime.fromtimestamp(moment).astimezone().isoformat(timespec="seconds")
