"""The error classes. Each message says what was wrong, where, and what to do.

All errors derive from :class:`RollforgeError`. Each also derives from the builtin that a caller would expect, so
``except LookupError`` or ``except ValueError`` works. Messages are at most :data:`MAX_MESSAGE_LENGTH` characters long and
contain only printable characters, whatever value caused the error.
"""

from __future__ import annotations

import difflib
import itertools
import reprlib
from collections.abc import Callable, Collection, Iterable
from typing import Any

__all__ = [
    "MAX_MESSAGE_LENGTH",
    "ArtifactNotFound",
    "ArtifactUnreadable",
    "BuildError",
    "ClusterUnavailable",
    "CodeNotAllowed",
    "ConfigError",
    "CoverageError",
    "DataError",
    "DataNotFound",
    "DataNotSent",
    "DateError",
    "DayFailed",
    "ExperimentNotFound",
    "ExpressionError",
    "FailingWorker",
    "FolderBusy",
    "LeakageError",
    "LeaseLost",
    "LedgerConflict",
    "MissingCode",
    "MissingDependency",
    "ModelError",
    "RecorderNotFound",
    "RecorderUnreachable",
    "RequirementsNotMet",
    "RollforgeError",
    "SegmentError",
    "ServiceBusy",
    "StoreError",
    "StoreGone",
    "StoreUnavailable",
    "TaskNotFound",
    "TaskNotSerializable",
    "TrackingError",
    "TrackingUnavailable",
    "TrainingFailed",
    "UntrustedPickle",
    "counted",
    "excerpt",
    "first_few",
    "nearest",
    "outer_parts",
    "printable",
    "shown",
    "with_article",
]

MAX_MESSAGE_LENGTH = 1900
"""Maximum length of an error message, in characters. The middle of a longer message is omitted."""
_TAIL = 600  # the end of a message says what to do
_MAX_NAME_LENGTH, _MAX_NAMES = 100, 10_000  # comparing names costs the square of their length


def printable(text: str) -> str:
    """Return `text` with an escape such as ``\\x1b`` in place of each character that cannot be printed.

    Line feeds and tabs are kept. An unpaired surrogate, which no stream can encode, is not printable.

    Examples
    --------
    >>> printable("a\\x1b[31mb\\ud800")
    'a\\\\x1b[31mb\\\\ud800'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def excerpt(text: str, limit: int = MAX_MESSAGE_LENGTH, *, tail: int = 0) -> str:
    """Return `text` with its middle omitted if it is longer than `limit`, and with unprintable characters escaped.

    Parameters
    ----------
    text : str
        Any text.
    limit : int
        Maximum number of characters.
    tail : int
        How many of them to keep from the end.

    Examples
    --------
    >>> excerpt("abcdefghij" * 10, 40, tail=5)
    'abcdefghijabcdefgh… (77 omitted) …fghij'
    """
    limit = max(limit, 32)
    fitting = printable(text[: 2 * limit])
    if len(text) <= 2 * limit and len(fitting) <= limit:
        return fitting
    end = printable(text[-tail:])[-tail:] if tail else ""
    room = limit - len(end) - len(f"… ({len(text)} omitted) …")
    return f"{fitting[:room]}… ({max(1, len(text) - room - tail)} omitted) …{end}"


def outer_parts(text: str, limit: int) -> str:
    """Return the beginning and the end of a text that is longer than `limit` characters, such as a traceback.

    Examples
    --------
    >>> outer_parts("abcdefghij", 4)
    'ab\\n… 6 characters omitted …\\nij'
    """
    half = limit // 2
    left_out = len(text) - 2 * half
    return text if left_out <= 0 else f"{text[:half]}\n… {left_out:,} characters omitted …\n{text[-half:]}"


class _Short(reprlib.Repr):
    """Format values for messages; large ones are reduced to their beginning and end."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 3, 80, 80, 40
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = 6

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() < 128 else f"an integer of {x.bit_length()} bits"


_SHORT = _Short()


def shown(value: object) -> str:
    """Return ``repr(value)`` for a message, limited in length.

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
    """Return ``" Did you mean 'X'?"`` for the closest of `allowed`, or an empty string if none is close.

    Examples
    --------
    >>> nearest("lern_rate", ["learn_rate", "depth"])
    " Did you mean 'learn_rate'?"
    >>> nearest("zzz", ["learn_rate"])
    ''
    """
    name = str(name)
    if len(name) > _MAX_NAME_LENGTH:
        return ""
    names = sorted({str(a)[: _MAX_NAME_LENGTH + 1] for a in itertools.islice(allowed, _MAX_NAMES)})
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if not close:  # a difference in case only is the most common typo
        close = [a for a in names if a.lower() == name.lower()]
    return f" Did you mean {close[0]!r}?" if close else ""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun in the singular or plural.

    Examples
    --------
    >>> counted(1, "task"), counted(1200, "trading day")
    ('1 task', '1,200 trading days')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def first_few(
    values: Collection[object], most: int = 5, separator: str = ", ", *, show: Callable[[Any], str] = str
) -> str:
    """Return the first of some values for a message, and the number of the others.

    Parameters
    ----------
    values : collection
        Any values.
    most : int
        Number of values to show.
    separator : str
        Text between two values.
    show : callable
        Formats a value.

    Examples
    --------
    >>> first_few(range(7)), first_few(["a", "b"], 1, show=repr), first_few([])
    ('0, 1, 2, 3, 4 and 2 more', "'a' and 1 more", '')
    """
    others = len(values) - most
    text = separator.join(show(value) for value in itertools.islice(values, most))
    return f"{text} and {others} more" if others > 0 else text


def with_article(noun: str) -> str:
    """Return a noun with its indefinite article.

    Examples
    --------
    >>> with_article("model"), with_article("operator")
    ('a model', 'an operator')
    """
    return f"{'an' if noun[:1] in 'aeio' else 'a'} {noun}"


class RollforgeError(Exception):
    """Base class of all errors that Rollforge raises. The command line prints the message without a traceback.

    Parameters
    ----------
    message : str
        What was wrong, which value, where, and what to do. It is shortened to :data:`MAX_MESSAGE_LENGTH` characters, and
        unprintable characters are escaped.
    """

    def __init__(self, message: object = "", *more: object) -> None:
        super().__init__(excerpt(message, tail=_TAIL) if isinstance(message, str) else message, *more)


class ConfigError(RollforgeError, ValueError):
    """A workflow file, a task definition or an option is invalid.

    Parameters
    ----------
    message : str
        What is wrong and what to do.
    path : str, optional
        Location in the document, for example ``task.dataset.kwargs.segments.train``.
    """

    def __init__(self, message: str, *, path: str = "") -> None:
        self.path = excerpt(path, 300, tail=50)
        self.message = excerpt(message, tail=_TAIL)
        super().__init__(f"{self.path}: {message}" if path else message)


class BuildError(ConfigError):
    """A ``{class, module_path, kwargs}`` description names something that does not exist or is of the wrong kind."""


class MissingCode(BuildError):
    """A module, class or package that a task names is missing on this machine. Another machine may have it."""


class CodeNotAllowed(MissingCode):
    """A task of a pool names code that is not allowed in this process. The code was not imported."""


class SegmentError(ConfigError):
    """Invalid windows: inverted, overlapping, missing, or outside the calendar; an invalid step."""


class LeakageError(RollforgeError, ValueError):
    """The definitions of tasks leak information from the future. The message lists each leak and what to do about it."""


class TaskNotSerializable(RollforgeError, TypeError):
    """A task definition contains a value that is not plain data."""


class UntrustedPickle(RollforgeError, ValueError):
    """A pickle names a type that is not on the allow-list. None of its code was executed."""


class MissingDependency(RollforgeError, ImportError):
    """A required package is not installed. The message gives the command that installs it."""


class DataError(RollforgeError, ValueError):
    """Data that exists but is invalid: a truncated file, an empty universe, an unknown field."""


class DataNotFound(DataError, LookupError):
    """A data folder, calendar, instrument list or field that does not exist."""


class DataNotSent(DataError):
    """A task reads values of a data folder that its machine was not sent. The attempt does not count."""


class FolderBusy(DataError):
    """Another process is changing the data folder. Nothing was changed; try again when it has finished."""


class DateError(ConfigError, DataError):
    """A value, in user input or in a file, does not denote exactly one day."""


class ExpressionError(DataError):
    """A feature expression cannot be parsed or evaluated. Contains the text and the position of the error.

    Parameters
    ----------
    message : str
        What is wrong.
    text : str
        The complete expression.
    position : int, optional
        0-based offset of the error in `text`; None if the error concerns the whole expression.
    """

    def __init__(self, message: str, *, text: str, position: int | None) -> None:
        self.text = text
        self.position = position
        line, column = _around(text, position or 0)
        where = f" at position {position + 1} of the expression" if position is not None else " The expression"
        super().__init__(f"{message}{where}:\n  {line}\n  {' ' * column}^")


_WIDTH = 120


def _around(text: str, position: int) -> tuple[str, int]:
    """Return the part of a text around a position, on one line, and the offset of the position in it."""
    start = 0 if len(text) <= _WIDTH else max(0, min(position - _WIDTH // 2, len(text) - _WIDTH))
    before = "…" * (start > 0) + _one_line(text[start:position])
    after = _one_line(text[position : start + _WIDTH]) + "…" * (start + _WIDTH < len(text))
    return before + after, len(before)


def _one_line(text: str) -> str:
    return printable(text.replace("\n", " ").replace("\t", " "))


class ModelError(RollforgeError, ValueError):
    """A model is used incorrectly: it is not fitted, has no training rows, or does not support the label."""


class StoreError(RollforgeError):
    """Base class of errors of the task pool."""


class StoreUnavailable(StoreError, ConnectionError):
    """A task store cannot be opened: missing folder, read-only, corrupted, not reachable, or too new."""


class StoreGone(StoreUnavailable):
    """The file of a task store was deleted, emptied or replaced while it was in use. Retrying rarely helps."""


class TaskNotFound(StoreError, LookupError):
    """There is no task or pool with that name."""


class LeaseLost(StoreError):
    """The lease of a task or service expired, and another process may have taken over. Nothing was stored."""


class ServiceBusy(StoreError):
    """Another process holds the lease of a service. The message says which process, and until when.

    Parameters
    ----------
    message : str
        What was wrong, and what to do.
    holder : str
        Who holds the lease.
    until : float
        When the lease expires unless it is renewed, in seconds since the epoch.
    """

    def __init__(self, message: str, *, holder: str = "", until: float = 0.0) -> None:
        super().__init__(message)
        self.holder = holder
        self.until = until


class DayFailed(RollforgeError):
    """A service has published nothing for a day: its data are missing, or its models have no predictions for it."""


class DataChanged(DayFailed):
    """The data of a service changed while its models were being trained, which may have read both versions."""


class LedgerConflict(StoreError):
    """An entry of a ledger cannot be appended: its number is taken by another entry, or is not the next one."""


class TrackingError(RollforgeError):
    """Base class of errors of experiments and recorders."""


class TrackingUnavailable(TrackingError, ConnectionError):
    """A tracking store cannot be opened, or was deleted or replaced while it was in use."""


class ExperimentNotFound(TrackingError, LookupError):
    """There is no experiment with that name or id."""


class RecorderNotFound(TrackingError, LookupError):
    """There is no recorder (run) with that name or id."""


class RecorderUnreachable(RecorderNotFound):
    """The run is in a tracking store on another machine. The message names the machine and the store."""


class ArtifactNotFound(TrackingError, LookupError):
    """The run exists, but the artifact was never saved."""


class ArtifactUnreadable(TrackingError, ValueError):
    """The artifact cannot be read: it is truncated, of an unknown format, or refused by the allow-list."""


class TrainingFailed(RollforgeError, RuntimeError):
    """One or more tasks failed. The message lists them with the last line of each traceback."""


class RequirementsNotMet(RollforgeError, RuntimeError):
    """This machine does not meet the requirements of the tasks of a pool. No attempt was counted."""


class ClusterUnavailable(RollforgeError, ConnectionError):
    """A cluster of Ray, Dask or Slurm cannot be reached or used. No task was started."""


class FailingWorker(RollforgeError, RuntimeError):
    """Consecutive tasks failed on this machine but succeeded on others, so the machine is at fault."""


class CoverageError(RollforgeError, ValueError):
    """The collected windows do not form one complete and unambiguous out-of-sample result."""
