"""The error tree: every mistake Rollforge can name, each with what was wrong, where, and what to do.

All of them derive from :class:`RollforgeError`; each also derives from the builtin that a caller would expect, so
``except LookupError`` or ``except ValueError`` keeps working.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ArtifactNotFound",
    "ArtifactUnreadable",
    "BuildError",
    "ConfigError",
    "CoverageError",
    "DataError",
    "DataNotFound",
    "DateError",
    "ExperimentNotFound",
    "ExpressionError",
    "LeaseLost",
    "MissingCode",
    "MissingDependency",
    "ModelError",
    "RecorderNotFound",
    "RollforgeError",
    "SegmentError",
    "StoreError",
    "StoreUnavailable",
    "TaskNotFound",
    "TaskNotSerializable",
    "TrackingError",
    "TrackingUnavailable",
    "TrainingFailed",
    "UnfitWorker",
    "UntrustedPickle",
    "nearest",
]


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return ``" Did you mean 'X'?"`` for the closest of `allowed`, or an empty string when none is close.

    Examples
    --------
    >>> nearest("lern_rate", ["learn_rate", "depth"])
    " Did you mean 'learn_rate'?"
    >>> nearest("zzz", ["learn_rate"])
    ''
    """
    names = sorted({str(a) for a in allowed})
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    if not close:  # a difference in case alone is the commonest slip of all
        close = [a for a in names if a.lower() == str(name).lower()]
    return f" Did you mean {close[0]!r}?" if close else ""


class RollforgeError(Exception):
    """Base of every error that Rollforge raises on purpose. The command line prints its message without a traceback."""


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
        self.path = path
        self.message = message
        super().__init__(f"{path}: {message}" if path else message)


class BuildError(ConfigError):
    """A ``{class, module_path, kwargs}`` description names something that does not exist or does not fit."""


class MissingCode(BuildError):
    """A module, class or package that a task names and this machine does not have; another machine may have it."""


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
    position : int
        0-based offset of the fault in `text`.
    """

    def __init__(self, message: str, *, text: str, position: int) -> None:
        self.text = text
        self.position = position
        super().__init__(f"{message} at position {position + 1} of the expression:\n  {text}\n  {' ' * position}^")


class ModelError(RollforgeError, ValueError):
    """A model that is used wrongly: not fitted yet, no training rows, a label that it cannot take."""


class StoreError(RollforgeError):
    """Something about the task pool."""


class StoreUnavailable(StoreError, ConnectionError):
    """A task store that cannot be opened: no such folder, read-only, corrupted, not reachable, too new."""


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


class ArtifactNotFound(TrackingError, LookupError):
    """The run exists, the artifact does not: it was never saved."""


class ArtifactUnreadable(TrackingError, ValueError):
    """The artifact exists and cannot be read: truncated, of an unknown form, or refused by the allow-list."""


class TrainingFailed(RollforgeError, RuntimeError):
    """One or more tasks failed; the message names each with the last line of its traceback."""


class UnfitWorker(RollforgeError, RuntimeError):
    """This machine lacks what the tasks of a pool need. None was claimed, so no attempt was counted."""


class CoverageError(RollforgeError, ValueError):
    """The collected windows do not make one gapless, unambiguous out-of-sample result."""
