"""Tasks as data: their status, their record in a pool, and the canonical JSON that determines their id.

A task definition is a JSON-like dict. :func:`encode` writes it as canonical JSON (sorted keys, no spaces), in which
dates, timestamps, tuples and references to importable classes are tagged so that they survive the round trip.
:func:`digest` is the hash of that text, which is the task's id in every store.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import importlib
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import FunctionType
from typing import Any

from rollforge.errors import ConfigError, RollforgeError, TaskNotSerializable, shown
from rollforge.limits import LIMITS, Limit

__all__ = [
    "KEPT_ATTEMPTS",
    "Attempt",
    "Cause",
    "Definition",
    "Document",
    "Ending",
    "Status",
    "TaskRecord",
    "check_size",
    "decode",
    "digest",
    "encode",
    "from_plain",
    "identified",
    "import_reference",
    "name_reference",
    "searchable",
    "to_plain",
]


Definition = dict[str, Any]
"""A task definition, or part of one: JSON-like data that can contain values of any kind."""
Document = Mapping[str, Any]
"""A definition that is only read, part of one, or a similar document."""


class Status(StrEnum):
    """The status of a task.

    ``waiting -> running -> done | part_done | failed``; ``part_done -> running``; ``running -> waiting`` when a worker
    returns the task. The values are Qlib's; `FAILED` is an addition.
    """

    WAITING = "waiting"
    """Not claimed by any worker."""
    RUNNING = "running"
    """A worker holds a lease on it."""
    DONE = "done"
    """Its result is committed."""
    PART_DONE = "part_done"
    """The result of the first stage is committed; the second stage can be claimed."""
    FAILED = "failed"
    """It failed after ``max_attempts``; the traceback and the number of attempts are kept."""


class Cause(StrEnum):
    """Cause of a failed attempt."""

    RAISED = "raised"
    """The task raised an exception (including ``sys.exit``), or returned a value that cannot be stored."""
    TIMED_OUT = "timed_out"
    """It exceeded its time limit, and its process was killed."""
    KILLED = "killed"
    """A signal ended its process: ``kill -9``, a segmentation fault, an abort in C code."""
    EXITED = "exited"
    """Its process exited without a result (``os._exit``)."""
    OUT_OF_MEMORY = "out_of_memory"
    """It exceeded its memory limit, or the machine's out-of-memory killer ended its process."""
    LOST = "lost"
    """The agent that ran it on another machine does not answer any more: the agent, the machine or the network failed."""
    LEASE_LOST = "lease_lost"
    """Its lease expired: the worker or the machine died, hung, or could not reach the store."""
    CANCELLED = "cancelled"
    """It was cancelled."""
    DEPENDENCY = "dependency"
    """A task that it depends on failed."""
    UNREADABLE = "unreadable"
    """Its stored definition is damaged: no worker can decode it."""
    REQUIREMENTS_NOT_MET = "unfit"
    """The worker that claimed it lacks a module or package that the task needs; no attempt was counted."""


class Ending(StrEnum):
    """The ending of an attempt."""

    DONE = "done"
    """Its result was committed."""
    PART_DONE = "part_done"
    """The result of the first stage was committed."""
    FAILED = "failed"
    """It has no result; its cause says why."""
    RETURNED = "returned"
    """Its worker gave the task back, and no attempt was counted."""
    RESET = "reset"
    """The status of the task was changed while it ran, so a result would have been refused."""


KEPT_ATTEMPTS = 10
"""Number of ended attempts that are kept with a task: the latest ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt at a task, which has ended. Times are seconds since the epoch by the store's clock."""

    number: int
    """Its place among all attempts at the task, from 1, including those that were not counted."""
    ending: Ending
    cause: Cause | None = None
    """Why it has no result; None if it has one, and if nobody knows."""
    error: str | None = None
    """The traceback or message; of a long one, the beginning and the end."""
    worker: str | None = None
    """``host:pid:…`` of the worker that claimed the task."""
    started_at: float | None = None
    """When the task was claimed."""
    ended_at: float = 0.0
    token: int = 0
    """Fencing token of its claim. A run that was recorded in this attempt has the tag ``rollforge.token`` with it."""

    @property
    def seconds(self) -> float | None:
        """Its duration; None if it is not known when the attempt started."""
        return None if self.started_at is None else max(0.0, self.ended_at - self.started_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """A snapshot of one task in the pool. Times are seconds since the epoch by the store's clock."""

    id: str
    """Hash of the definition, see :func:`digest`."""
    pool: str
    definition: Document
    """What to run: ``{"model": …, "dataset": …, "record": …}``; for inspection: it was decoded without importing anything."""
    text: str = field(default="", repr=False, compare=False)
    """The stored definition, which the process that runs the task decodes."""
    model_name: str = ""
    """The name of the task's model, which is not part of the definition; empty if it has none."""
    status: Status = Status.WAITING
    priority: int = 0
    attempt: int = 0
    """Number of attempts at the current stage that failed or lost their lease, without a running or successful one. A task
    that is done keeps that of its last stage."""
    max_attempts: int = 3
    token: int = 0
    """Fencing token: increases with every claim. A commit must have the current one."""
    lease_until: float | None = None
    """When the current worker's lease expires; None unless running."""
    available_at: float = 0.0
    """Not claimed before this time (backoff after a failed attempt)."""
    worker: str | None = None
    """``host:pid:…`` of the last worker that claimed the task."""
    created_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    result: Any = None
    """The decoded result of the last committed stage."""
    error: str | None = None
    """Traceback of the last failed attempt."""
    cause: Cause | None = None
    """Why the last attempt failed; None after a successful one."""
    log: str = ""
    """The last lines that the latest attempt logged or printed."""
    depends_on: tuple[str, ...] = ()
    """Ids of the tasks in this pool that must be done first."""
    failed_by: tuple[str, ...] = ()
    """Workers on which attempts failed, without duplicates; cleared by a retry. Lost leases do not count."""
    submission: str = ""
    """Key of the task's latest submission, see :meth:`~rollforge.store.base.TaskStore.submissions`; empty
    if there is none."""
    blocked: bool = False
    """Whether at least one of them is not done yet."""
    stage_from: Status = Status.WAITING
    """Status before the current claim; restored when the task is returned."""
    history: tuple[Attempt, ...] = ()
    """Its latest ended attempts, oldest first, at most `KEPT_ATTEMPTS`, except the one that made it ``done``: the task itself
    describes that one, see :attr:`ended_attempts`. Read together with the result."""
    extra: Document = field(default_factory=dict)
    """Additional fields of a backend or of a newer version."""

    @property
    def attempts(self) -> int:
        """Number of attempts at the current stage, including a running or successful one."""
        return attempts_made(self.attempt, self.status)

    @property
    def ended_attempts(self) -> tuple[Attempt, ...]:
        """Its latest ended attempts, oldest first, at most `KEPT_ATTEMPTS`, including a successful one."""
        if self.status is not Status.DONE or self.started_at is None:
            return self.history
        last = Attempt(
            number=self.history[-1].number + 1 if self.history else 1, ending=Ending.DONE, worker=self.worker,
            started_at=self.started_at, ended_at=self.finished_at or self.started_at, token=self.token,
        )  # fmt: skip
        return (*self.history, last)[-KEPT_ATTEMPTS:]


def attempts_made(failed: int, status: Status) -> int:
    """Return the number of attempts at a task that failed `failed` times and now has `status`.

    Examples
    --------
    >>> attempts_made(0, Status.DONE), attempts_made(3, Status.FAILED), attempts_made(1, Status.WAITING)
    (1, 3, 1)
    """
    return failed + (status in (Status.RUNNING, Status.DONE, Status.PART_DONE))


_TAGS = frozenset({"$tuple", "$ts", "$timedelta", "$date", "$datetime", "$bytes", "$float", "$slice", "$ref", "$map"})


def to_plain(value: object, path: str = "") -> Any:  # noqa: C901 - one flat table of types
    """Return `value` as a tree of JSON types, with a tag for each type that JSON lacks.

    Parameters
    ----------
    value : object
        dict, list, tuple, str, int, float, bool, None, date, datetime, timedelta, slice, bytes, path, pandas Timestamp
        or Timedelta, numpy scalar, or an importable class or function.
    path : str
        Location of `value` in its document, for the error.

    Raises
    ------
    TaskNotSerializable
        For any other type, with the location.
    """
    if value is None or isinstance(value, bool) or (type(value) is str and value.isascii()):
        return value
    if isinstance(value, str):
        return _text_to_plain(str(value), path)
    if isinstance(value, int):
        return _int_to_plain(int(value), path)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, Mapping):
        return _mapping_to_plain(value, path)
    if isinstance(value, tuple):
        return {"$tuple": [to_plain(v, f"{path}.{i}") for i, v in enumerate(value)]}
    if isinstance(value, list):
        return [to_plain(v, f"{path}.{i}") for i, v in enumerate(value)]
    if isinstance(value, slice):
        return {"$slice": [to_plain(v, path) for v in (value.start, value.stop, value.step)]}
    if isinstance(value, (bytes, bytearray)):
        return {"$bytes": base64.b64encode(bytes(value)).decode("ascii")}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    for convert in (_pandas_to_plain, _numpy_to_plain, _date_to_plain, _reference_to_plain):
        plain = convert(value)
        if plain is not None:
            return plain
    where = path.lstrip(".") or "the task itself"
    raise TaskNotSerializable(
        f"A task must be plain data, but {where} is a live object of "
        f"{type(value).__module__}.{type(value).__qualname__}. Describe it as {{'class': …, "
        "'module_path': …, 'kwargs': …} instead."
    )


def _int_to_plain(value: int, path: str) -> int:
    """Check an integer: Python does not parse integers of more than 4,300 digits."""
    if value.bit_length() > 10_000:
        raise TaskNotSerializable(
            f"A task must be plain data, but {path.lstrip('.') or 'the task itself'} is {shown(value)}, which is too long."
        )
    return value


def _text_to_plain(text: str, path: str) -> str:
    """Check a string: no store accepts an unpaired surrogate."""
    if not (text.isascii() or _encodable(text)):
        raise TaskNotSerializable(
            f"A task must be plain data, but {path.lstrip('.') or 'the task itself'} contains an unpaired "
            f"surrogate, which cannot be stored: {text[:60]!a}."
        )
    return text


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _mapping_to_plain(value: Mapping[object, object], path: str) -> object:
    for key in value:
        if isinstance(key, str):
            _text_to_plain(key, path)
    plain = {k: to_plain(v, f"{path}.{k}") for k, v in value.items()}
    # A dict with keys that JSON cannot represent, or one that looks like a tag, is stored as a list of pairs.
    if all(type(k) is str for k in plain) and not (len(plain) == 1 and next(iter(plain)) in _TAGS):
        return plain
    pairs = [[to_plain(k, f"{path}.{k}"), v] for k, v in plain.items()]
    return {"$map": sorted(pairs, key=lambda p: json.dumps(p[0], sort_keys=True))}


def _zone_of(moment: dt.datetime) -> str:
    """Return the name of a time zone as in RFC 9557, ``[Europe/Berlin]``; empty for a fixed offset."""
    name = getattr(moment.tzinfo, "key", None) or getattr(moment.tzinfo, "zone", None)
    return f"[{name}]" if isinstance(name, str) else ""


def _date_to_plain(value: object) -> object:
    if isinstance(value, dt.datetime):
        return {"$datetime": value.isoformat() + _zone_of(value)}
    if isinstance(value, dt.date):
        return {"$date": value.isoformat()}
    if isinstance(value, dt.timedelta):
        return {"$timedelta": f"{value.days}d{value.seconds}s{value.microseconds}us"}
    return None


def _pandas_to_plain(value: object) -> object:
    pandas = sys.modules.get("pandas")  # pandas values exist only if pandas is imported
    if pandas is None:
        return None
    if value is pandas.NaT or isinstance(value, pandas.Timestamp):
        return {"$ts": str(value) if value is pandas.NaT else value.isoformat() + _zone_of(value)}
    if isinstance(value, pandas.Timedelta):
        return {"$timedelta": value.isoformat()}
    return None


def _numpy_to_plain(value: object) -> object:
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.generic):
        return None
    if isinstance(value, numpy.datetime64):
        return {"$ts": str(value)}
    return to_plain(value.item()) if not isinstance(value.item(), numpy.generic) else None


def _reference_to_plain(value: object) -> object:
    if not isinstance(value, (type, FunctionType)):
        return None
    module, name = value.__module__, value.__qualname__
    if "<" in name or module == "__main__":
        return None
    return {"$ref": f"{module}:{name}"}


def import_reference(module: str, name: str) -> Any:
    """Import a module and return what ``module:name`` refers to. This runs the module's code."""
    target: object = importlib.import_module(module)
    for part in name.split("."):
        target = getattr(target, part)
    return target


def name_reference(module: str, name: str) -> str | type | FunctionType:
    """Return the class or function that ``module:name`` refers to, or its dotted name if that is not imported.

    Nothing is imported or called, and only a class or function defined under this name is returned: how a definition is
    displayed must not depend on other contents of a module.
    """
    target: object = sys.modules.get(module)
    for part in name.split("."):
        target = getattr(target, "__dict__", {}).get(part)
    if isinstance(target, (type, FunctionType)) and (target.__module__, target.__qualname__) == (module, name):
        return target
    return f"{module}.{name}"


_DAMAGED = (ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError)
"""Errors raised by tags with contents that :func:`to_plain` does not produce."""


def from_plain(plain: object, *, resolve: Callable[[str, str], object] = name_reference) -> Any:
    """Invert :func:`to_plain` (numpy scalars become Python scalars, paths become strings).

    Parameters
    ----------
    plain : object
        JSON types.
    resolve : callable
        ``(module, name) -> object``: resolves a reference to a class or function. By default nothing is imported.
    """
    if isinstance(plain, list):
        return [from_plain(v, resolve=resolve) for v in plain]
    if not isinstance(plain, dict):
        return plain
    if len(plain) == 1:
        tag, body = next(iter(plain.items()))
        if tag in _TAGS:
            return _from_tag(tag, body, resolve)
    return {k: from_plain(v, resolve=resolve) for k, v in plain.items()}


def _from_tag(tag: str, body: Any, resolve: Callable[[str, str], object]) -> Any:  # noqa: C901 - one branch a tag
    if tag == "$tuple":
        return tuple(from_plain(v, resolve=resolve) for v in body)
    if tag == "$map":
        return {from_plain(k, resolve=resolve): from_plain(v, resolve=resolve) for k, v in body}
    if tag == "$slice":
        return slice(*(from_plain(v, resolve=resolve) for v in body))
    if tag == "$date":
        return dt.date.fromisoformat(body)
    if tag == "$datetime":
        moment, zone = _split_zone(body)
        parsed = dt.datetime.fromisoformat(moment)
        return parsed if zone is None else parsed.astimezone(zone)
    if tag == "$bytes":
        return base64.b64decode(body)
    if tag == "$float":
        return float(body)
    if tag == "$ref":
        module, _, name = body.partition(":")
        return resolve(module, name)
    if tag == "$timedelta" and "us" in body:
        days, _, rest = body.partition("d")
        seconds, _, micros = rest.partition("s")
        return dt.timedelta(days=int(days), seconds=int(seconds), microseconds=int(micros.removesuffix("us")))
    import pandas as pd

    if tag == "$timedelta":
        return pd.Timedelta(body)
    moment, zone = _split_zone(body)
    return pd.Timestamp(moment) if zone is None else pd.Timestamp(moment).tz_convert(zone)


def _split_zone(text: str) -> tuple[str, dt.tzinfo | None]:
    moment, bracket, name = text.partition("[")
    if not bracket:
        return text, None
    from zoneinfo import ZoneInfo

    return moment, ZoneInfo(name.removesuffix("]"))


_AS_LISTS = ("$tuple", "$slice")


def searchable(plain: object) -> Any:
    """Return a plain tree in the form used by queries: tuples as lists, dates and other tagged values as strings.

    Examples
    --------
    >>> searchable(to_plain({"test": (dt.date(2020, 1, 2), None)}))
    {'test': ['2020-01-02', None]}
    """
    if isinstance(plain, list):
        return [searchable(v) for v in plain]
    if not isinstance(plain, dict):
        return plain
    if len(plain) == 1:
        tag, body = next(iter(plain.items()))
        if tag in _AS_LISTS:
            return [searchable(v) for v in body]
        if tag == "$map":
            return {str(searchable(k)): searchable(v) for k, v in body}
        if tag in _TAGS:
            return body
    return {k: searchable(v) for k, v in plain.items()}


def check_size(value: object, limit: Limit, what: str) -> None:
    """Raise an error if the JSON of a value would exceed a limit. Checked before the JSON is created.

    Shared objects count each time they occur, because they are written each time.

    Raises
    ------
    TaskNotSerializable
        If it is larger.
    """
    most = limit.value
    try:
        size = _Sizes(most).of(value)
    except RecursionError:
        raise TaskNotSerializable(_TOO_DEEP) from None
    except _LimitExceeded:
        size = most + 1
    if size > most:
        limit.refuse(f"{what} is larger than {limit.shown()}", error=TaskNotSerializable)


_TOO_DEEP = "This value is not plain data: it contains itself or is nested too deeply."


class _LimitExceeded(Exception):
    """The size exceeds the limit."""


class _Sizes:
    """Estimates the length of values' JSON. Shared objects are visited once, and counted each time they are used."""

    def __init__(self, most: int) -> None:
        self._left = most
        self._known: dict[int, tuple[int, object]] = {}

    def of(self, value: object) -> int:
        """Return the size of `value`, or raise :class:`_LimitExceeded` if the limit is exceeded."""
        if not isinstance(value, (Mapping, list, tuple)):
            return self._spent(_leaf(value))
        if id(value) not in self._known:
            size = 2 + 2 * len(value)
            children: Any = value
            if isinstance(value, Mapping):
                size += sum(map(len, map(str, value)))
                children = value.values()
            texts = [child for child in children if type(child) is str]
            branches = [child for child in children if type(child) not in _SHORT]
            size += sum(map(len, texts))
            self._spent(size + len(value))
            size += sum(map(self.of, branches))
            self._known[id(value)] = size, value  # kept alive, so that its id is not reused
        return self._known[id(value)][0]

    def _spent(self, size: int) -> int:
        self._left -= size
        if self._left < 0:
            raise _LimitExceeded
        return size


_SHORT = frozenset([str, int, float, bool, type(None)])


def _leaf(value: object) -> int:
    return len(value) + 2 if isinstance(value, (str, bytes, bytearray)) else 4


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def encode(value: object) -> str:
    """Return the canonical JSON of `value`. Equal values give equal text, independent of the order of keys.

    Raises
    ------
    TaskNotSerializable
        If `value` contains something that is not plain data.

    Examples
    --------
    >>> encode({"b": (1, 2), "a": None})
    '{"a":null,"b":{"$tuple":[1,2]}}'
    """
    try:
        return _CANONICAL.encode(to_plain(value))
    except RecursionError:
        raise TaskNotSerializable(_TOO_DEEP) from None


def decode(text: str, *, resolve: Callable[[str, str], object] = name_reference) -> Any:
    """Decode the text written by :func:`encode`; `resolve` as in :func:`from_plain`.

    Raises
    ------
    ConfigError
        If `text` is not JSON, or a tag in it has invalid contents.

    Examples
    --------
    >>> decode('{"a":null,"b":{"$tuple":[1,2]}}')
    {'a': None, 'b': (1, 2)}
    """
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"The stored value is not JSON: {exc}") from exc
    try:
        return from_plain(plain, resolve=resolve)
    except RollforgeError:  # raised by the resolver
        raise
    except _DAMAGED as exc:
        raise ConfigError(f"The stored value is damaged: {type(exc).__name__}: {exc}") from exc


def digest(value: object) -> str:
    """Return the id of a definition: the first 32 hex digits (128 bits) of the SHA-256 of its canonical JSON.

    Raises
    ------
    TaskNotSerializable
        If it is not plain data, or larger than the limit for tasks.

    Examples
    --------
    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    return identified(value)[0]


def identified(value: object) -> tuple[str, str]:
    """Return a definition's id (see :func:`digest`) and its canonical JSON."""
    check_size(value, LIMITS["task_size"], "A task definition")
    text = encode(value)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32], text
