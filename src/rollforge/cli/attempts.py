"""Ended attempts at a task as lines of text or JSON, for ``rollforge pool attempts`` and ``logs``."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import asdict

from rollforge.cli.terminal import one_line
from rollforge.confidential import mask_secrets
from rollforge.run.failures import error_line
from rollforge.task import Attempt

__all__ = ["attempt_json", "attempt_lines", "attempt_summary"]


def attempt_lines(attempt: Attempt) -> str:
    """Return how an attempt ended, and its traceback, without secrets.

    Examples
    --------
    >>> from rollforge.task import Cause, Ending
    >>> killed = Attempt(number=2, ending=Ending.FAILED, cause=Cause.KILLED, error="was killed by SIGKILL", worker="w")
    >>> print(attempt_lines(killed))
    --- attempt 2  failed  killed  worker w
    was killed by SIGKILL
    """
    head = f"--- {'  '.join(_cells(attempt))}"
    return f"{head}\n{mask_secrets(attempt.error.rstrip())}" if attempt.error else head


def attempt_summary(attempt: Attempt) -> str:
    """Return how an attempt ended in one line, with the line of its error that names the exception."""
    cells = _cells(attempt)
    return "  ".join([*cells, one_line(mask_secrets(error_line(attempt.error)))] if attempt.error else cells)


def attempt_json(attempt: Attempt) -> str:
    """Return the fields of an attempt as one line of JSON, without secrets in its error."""
    return json.dumps({**asdict(attempt), "error": attempt.error and mask_secrets(attempt.error)})


def _cells(attempt: Attempt) -> list[str]:
    cells = [f"attempt {attempt.number}", attempt.ending.value, attempt.cause.value if attempt.cause else ""]
    cells.append(f"worker {one_line(attempt.worker)}" if attempt.worker else "")
    if attempt.started_at is not None and attempt.seconds is not None:
        began = dt.datetime.fromtimestamp(attempt.started_at).astimezone()
        cells += [began.strftime("%Y-%m-%d %H:%M:%S"), f"{attempt.seconds:,.1f} s"]
    return [cell for cell in cells if cell]
