"""The error tree: every mistake Rollforge can name, each with what was wrong, where, and what to do.

All of them derive from :class:`RollforgeError`; each also derives from the builtin that a caller would expect, so
``except LookupError`` or ``except ValueError`` keeps working. No message is longer than :data:`LONGEST_MESSAGE` or holds a
character that cannot be printed, whatever the value was that it is about.
"""

from __future__ import annotations

import difflib
import itertools
import reprlib
from collections.abc import Iterable
from typing import Any

__all__ = [
    "LONGEST_MESSAGE",
    "ArtifactNotFound",
    "ArtifactUnreadable",
    "BuildError",
    "CodeNotAllowed",
    "ConfigError",
    "CoverageError",
    "DataError",
    "DataNotFound",
    "DateError",
    "ExperimentNotFound",
    "ExpressionError",
    "FailingWorker",
    "LeaseLost",
    "MissingCode",
    "MissingDependency",
    "ModelError",
    "RecorderElsewhere",
    "RecorderNotFound",
    "RollforgeError",
    "SegmentError",
    "StoreError",
    "StoreGone",
    "StoreUnavailable",
    "TaskNotFound",
    "TaskNotSerializable",
    "TrackingError",
    "TrackingUnavailable",
    "TrainingFailed",
    "UnfitWorker",
    "UntrustedPickle",
    "counted",
    "excerpt",
    "nearest",
    "printable",
    "shown",
]

LONGEST_MESSAGE = 1900
"""Characters of an error's message at most; of a longer one the middle is left out."""
_TAIL = 600  # the end says what to do
_LONGEST_NAME, _MOST_NAMES = 100, 10_000  # comparing names costs the square of their length


def printable(text: str) -> str:
    """Return `text` with an escape such as ``\\x1b`` in place of each character that cannot be printed.

    Line feeds and tabs stay. Half of a surrogate pair, which no stream can encode, counts as not printable.

    Examples
    --------
    >>> printable("a\\x1b[31mb\\ud800")
    'a\\\\x1b[31mb\\\\ud800'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def excerpt(text: str, limit: int = LONGEST_MESSAGE, *, tail: int = 0) -> str:
    """Return `text` with its middle left out where it is longer than `limit`, and nothing in it that cannot be printed.

    Parameters
    ----------
    text : str
        Any text.
    limit : int
        Characters at most.
    tail : int
        How many of them are for the end.

    Examples
    --------
    >>> excerpt("abcdefghij" * 10, 40, tail=5)
    'abcdefghijabcdefg… (78 left out) …fghij'
    """
    limit = max(limit, 32)
    fitting = printable(text[: 2 * limit])
    if len(text) <= 2 * limit and len(fitting) <= limit:
        return fitting
    end = printable(text[-tail:])[-tail:] if tail else ""
    room = limit - len(end) - len(f"… ({len(text)} left out) …")
    return f"{fitting[:room]}… ({max(1, len(text) - room - tail)} left out) …{end}"


class _Short(reprlib.Repr):
    """The form of a value in a message: of large ones, the beginning and the end."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 3, 80, 80, 40
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = 6

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() < 128 else f"an integer of {x.bit_length()} bits"


_SHORT = _Short()


def shown(value: Any) -> str:
    """Return ``repr(value)`` for a message: bounded, whatever the value is.

    Examples
    --------
    >>> shown("no"), shown([1, 2, {"a": None}]), len(shown("x" * 10**6)) < 100
    ("'no'", "[1, 2, {'a': None}]", True)
    """
    try:
        text = _SHORT.repr(value)
    except Exception:  # noqa: BLE001 - whatever the value's own __repr__ raises
        return f"a {type(value).__name__}"
    return excerpt(text, 200, tail=20)


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return ``" Did you mean 'X'?"`` for the closest of `allowed`, or an empty string when none is close.

    Examples
    --------
    >>> nearest("lern_rate", ["learn_rate", "depth"])
    " Did you mean 'learn_rate'?"
    >>> nearest("zzz", ["learn_rate"])
    ''
    """
    name = str(name)
    if len(name) > _LONGEST_NAME:
        return ""
    names = sorted({str(a)[: _LONGEST_NAME + 1] for a in itertools.islice(allowed, _MOST_NAMES)})
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if not close:  # a difference in case alone is the commonest slip of all
        close = [a for a in names if a.lower() == name.lower()]
    return f" Did you mean {close[0]!r}?" if close else ""


def counted(number: int, noun: str) -> str:
    """Return how many there are of something, in words.

    Examples
    --------
    >>> counted(1, "task"), counted(1200, "trading day")
    ('1 task', '1,200 trading days')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


class RollforgeError(Exception):
    """Base of every error that Rollforge raises on purpose. The command line prints its message without a traceback.

    Parameters
    ----------
    message : str
        What was wrong, which value, where, what to do. It is shortened to :data:`LONGEST_MESSAGE` characters, and what
        cannot be printed is escaped.
    """

    def __init__(self, message: object = "", *more: object) -> None:
        super().__init__(excerpt(message, tail=_TAIL) if isinstance(message, str) else message, *more)


class ConfigError(RollforgeError, ValueError):
    """A workflow file, a task definition or an option says something that cannot be meant.

    Parameters
    ----------
    message : str
        What is wrong and what to do.
    path : str, optional
        Where in the document, as ``task.dataset.kwargs.segments.train``.
    """

    def __init__(self, message: str, *, path: str = "") -> None:
        self.path = excerpt(path, 300, tail=50)
        self.message = excerpt(message, tail=_TAIL)
        super().__init__(f"{self.path}: {message}" if path else message)


class BuildError(ConfigError):
    """A ``{class, module_path, kwargs}`` description names something that does not exist or does not fit."""


class MissingCode(BuildError):
    """A module, class or package that a task names and this machine does not have; another machine may have it."""


class CodeNotAllowed(MissingCode):
    """Code that whoever runs this process did not allow tasks of a pool to name. It was not imported."""


class SegmentError(ConfigError):
    """Windows that cannot be: inverted, overlapping, missing, outside the calendar; a bad step."""


class TaskNotSerializable(RollforgeError, TypeError):
    """A task definition holds a value that is not plain data."""


class UntrustedPickle(RollforgeError, ValueError):
    """A pickle names a type that is not on the allow-list. Nothing of it was executed."""


class MissingDependency(RollforgeError, ImportError):
    """A part of Rollforge needs a package that is not installed; the message says which command installs it."""


class DataError(RollforgeError, ValueError):
    """Data that is there but cannot be right: a truncated file, an empty universe, an unknown field."""


class DataNotFound(DataError, LookupError):
    """A data folder, calendar, instrument list or field that does not exist."""


class DateError(ConfigError, DataError):
    """A value that does not name exactly one day, whether a person wrote it or a file holds it."""


class ExpressionError(DataError):
    """A feature expression that cannot be read or evaluated; carries the text and the position of the fault.

    Parameters
    ----------
    message : str
        What is wrong.
    text : str
        The whole expression.
    position : int, optional
        0-based offset of the fault in `text`; None where it is the whole.
    """

    def __init__(self, message: str, *, text: str, position: int | None) -> None:
        self.text = text
        self.position = position
        line, column = _around(text, position or 0)
        where = f" at position {position + 1} of the expression" if position is not None else " The expression"
        super().__init__(f"{message}{where}:\n  {line}\n  {' ' * column}^")


_WIDTH = 120


def _around(text: str, position: int) -> tuple[str, int]:
    """The part of a text around a position, on one line, and where the position is in it."""
    start = 0 if len(text) <= _WIDTH else max(0, min(position - _WIDTH // 2, len(text) - _WIDTH))
    before = "…" * (start > 0) + _one_line(text[start:position])
    after = _one_line(text[position : start + _WIDTH]) + "…" * (start + _WIDTH < len(text))
    return before + after, len(before)


def _one_line(text: str) -> str:
    return printable(text.replace("\n", " ").replace("\t", " "))


class ModelError(RollforgeError, ValueError):
    """A model that is used wrongly: not fitted yet, no training rows, a label that it cannot take."""


class StoreError(RollforgeError):
    """Something about the task pool."""


class StoreUnavailable(StoreError, ConnectionError):
    """A task store that cannot be opened: no such folder, read-only, corrupted, not reachable, too new."""


class StoreGone(StoreUnavailable):
    """The file of a task store was deleted, emptied or replaced while it was in use: it rarely comes back."""


class TaskNotFound(StoreError, LookupError):
    """No task, or no pool, of that name."""


class LeaseLost(StoreError):
    """The worker no longer holds the task: its lease ran out, somebody else took over. Its result was refused."""


class TrackingError(RollforgeError):
    """Something about experiments and recorders."""


class TrackingUnavailable(TrackingError, ConnectionError):
    """A tracking store that cannot be opened."""


class ExperimentNotFound(TrackingError, LookupError):
    """No experiment of that name or id."""


class RecorderNotFound(TrackingError, LookupError):
    """No recorder (run) of that name or id."""


class RecorderElsewhere(RecorderNotFound):
    """The run is in a tracking store that only another machine has; the message names machine and store."""


class ArtifactNotFound(TrackingError, LookupError):
    """The run exists, the artifact does not: it was never saved."""


class ArtifactUnreadable(TrackingError, ValueError):
    """The artifact exists and cannot be read: truncated, of an unknown form, or refused by the allow-list."""


class TrainingFailed(RollforgeError, RuntimeError):
    """One or more tasks failed; the message names each with the last line of its traceback."""


class UnfitWorker(RollforgeError, RuntimeError):
    """This machine lacks what the tasks of a pool need. None was claimed, so no attempt was counted."""


class FailingWorker(RollforgeError, RuntimeError):
    """Tasks failed on this machine, one after the other, that succeeded on others: the machine is at fault."""


class CoverageError(RollforgeError, ValueError):
    """The collected windows do not make one gapless, unambiguous out-of-sample result."""
