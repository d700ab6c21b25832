"""The contents of a ledger's entries as typed values, and reading and writing them as plain JSON.

A ledger stores the body of an entry as JSON, so that it can be read with SQL and by later versions of Rollforge. Programs
create bodies with the functions here (:func:`day_body`, :func:`release_body`, …) and read them with :func:`read_body`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import getpass
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Self

from rollforge.errors import ConfigError, shown
from rollforge.machine import process_name
from rollforge.store.base import storable_text
from rollforge.task import Document

__all__ = [
    "MAX_BODY_BYTES",
    "CheckResult",
    "Comparison",
    "Content",
    "DayResult",
    "DayState",
    "Entry",
    "EntryKind",
    "Event",
    "Level",
    "Outcome",
    "Release",
    "Role",
    "ServiceDefinition",
    "Shadow",
    "Signal",
    "Verdict",
    "author",
    "correction_body",
    "day_body",
    "event_body",
    "read_body",
    "release_body",
    "service_body",
]

MAX_BODY_BYTES = 7_000_000
"""Maximum size of a body in bytes of JSON. MongoDB accepts documents of 16 MB, in which a body may occur twice."""
_DEEPEST = 50

Day = str
"""A trading day as text, ``2024-05-31``."""


class EntryKind(StrEnum):
    """The kind of decision that an entry records."""

    SERVICE = "service"
    """The service was created, or its workflow or policy has changed."""
    DAY = "day"
    """One trading day: its releases and signals, or that it failed."""
    PROMOTION = "promotion"
    """A candidate became the champion."""
    ROLLBACK = "rollback"
    """An earlier model became the champion again."""
    CORRECTION = "correction"
    """New versions of signals of past days."""
    EVENT = "event"
    """Something that changed neither releases nor signals."""


class Role(StrEnum):
    """The role of a trained model in a service."""

    CHAMPION = "champion"
    """Its predictions are published."""
    CANDIDATE = "candidate"
    """It is compared with the champion, and its predictions are not published."""
    RETIRED = "retired"
    """It is no longer used."""


class DayState(StrEnum):
    """The progress of a trading day."""

    DUE = "due"
    TRAINED = "trained"
    PUBLISHED = "published"
    FAILED = "failed"


class Level(StrEnum):
    """The importance of an event."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Outcome(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARN = "warn"
    """The limit is exceeded; the day was published anyway."""
    FAIL = "fail"
    """The limit of a check that fails a day is exceeded."""
    UNKNOWN = "unknown"
    """The value could not be computed. If the check can fail a day, this does too; otherwise it was published anyway."""


class Verdict(StrEnum):
    """The result of a comparison of a candidate with the champion."""

    SHADOW = "shadow"
    """There are too few days yet."""
    PROMOTED = "promoted"
    """The candidate is not worse, and becomes the champion from the next day on."""
    LOST = "lost"
    """The candidate is worse."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One decision of a service. It is never changed or deleted."""

    service: str
    number: int
    """1, 2, 3, … without gaps in a service."""
    kind: str
    """An :class:`EntryKind`. A kind that a later version of Rollforge wrote is a plain string."""
    body: Document
    """Plain JSON, see :func:`read_body`."""
    token: int
    """Fencing token of the lease under which it was appended."""
    made_at: float
    """Seconds since the epoch by the clock of the ledger."""
    by: str = ""
    """The user and the process."""

    @property
    def known(self) -> bool:
        """Whether this version of Rollforge knows the kind."""
        return isinstance(self.kind, EntryKind)


class _Value:
    """A value with a fixed set of fields, as JSON. Keys that are not fields are ignored: later versions may add some."""

    __slots__ = ()
    noun: ClassVar[str]

    def to_document(self) -> dict[str, object]:
        """Return the value as plain JSON."""
        return {f.name: _to_json(getattr(self, f.name)) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    @classmethod
    def of_document(cls, document: object, where: str = "") -> Self:
        """Read the value from plain JSON.

        Parameters
        ----------
        document : mapping
            The value returned by :meth:`to_document`.
        where : str
            Location of the document, for messages.

        Raises
        ------
        ConfigError
            If a field is missing or has a value of another type.
        """
        where = where or cls.noun
        if not isinstance(document, Mapping):
            raise ConfigError(f"expected a {cls.noun} with its fields, found {shown(document)}.", path=where)
        values = {}
        for each in dataclasses.fields(cls):  # type: ignore[arg-type]
            path = f"{where}.{each.name}"
            if each.name in document:
                values[each.name] = _checked(document[each.name], str(each.type), path)
            elif each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
                raise ConfigError(f"a {cls.noun} requires {each.name!r}.", path=path)
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Release(_Value):
    """The role of a trained model from a given day on."""

    noun: ClassVar[str] = "release"

    task: str
    """Digest of the task that trained it."""
    experiment_name: str
    """Name of the experiment with its recorder."""
    recorder: str
    """Id of its recorder."""
    role: Role
    from_day: Day
    """First trading day on which it has the role."""
    by: str = ""
    reason: str = ""
    strategy: str = ""
    """Name of the strategy whose model it is; empty if the service has only one."""
    template: str = ""
    """Name of its template. Of a strategy's models with the same name, one is the champion on a day."""
    definition: str = ""
    """Hash of the template and of the rule of its windows; empty if unknown."""
    instead_of: str = ""
    """Name of the template whose model it replaces as the champion, if it belongs to a challenger; empty otherwise."""

    @property
    def slot(self) -> tuple[str, str]:
        """The strategy, and the name of the template of which it is or would be the champion."""
        return self.strategy, self.instead_of or self.template

    def replaces(self, other: Release) -> bool:
        """Return whether this champion takes the place of another one, of the same strategy and template."""
        return self.slot == other.slot and bool(self.template) and self.role is other.role is Role.CHAMPION


@dataclass(frozen=True, slots=True)
class Signal(_Value):
    """The signals of one day as they were published, or corrected later."""

    noun: ClassVar[str] = "signal"

    day: Day
    version: int
    """1 for the first publication of the day; each correction adds one."""
    recorders: tuple[str, ...]
    """Ids of the recorders of the models that predicted."""
    file: str
    """Path of the Parquet file relative to the folder of the service."""
    sha256: str
    rows: int
    why: str = ""
    """Why there is a new version."""


@dataclass(frozen=True, slots=True)
class DayResult(_Value):
    """The outcome of a trading day."""

    noun: ClassVar[str] = "day"

    day: Day
    state: DayState
    data: str = ""
    """Fingerprint of the data on which the day is based."""
    seconds: float = 0.0
    """Duration of the routine."""
    error: str = ""
    trained: tuple[str, ...] = ()
    """Ids of the recorders trained on this day."""
    fallback: str = ""
    """Why earlier models were used instead of new ones, whose training failed; empty if they were not."""
    history: Document = field(default_factory=dict)
    """If models were trained: fingerprints of the data before the service's first day, by month."""


@dataclass(frozen=True, slots=True)
class CheckResult(_Value):
    """The result of a check of a day."""

    noun: ClassVar[str] = "check"

    name: str
    day: Day
    """The trading day that was checked. It can be before the day of the entry: labels are known later."""
    value: float | None
    """None if it is not a finite number: JSON has no others."""
    outcome: Outcome
    limit: float | None = None
    """The limit that must not be exceeded; None if there is none."""
    text: str = ""
    """The finding, in words."""
    data: Document = field(default_factory=dict)
    """Further figures."""

    def __post_init__(self) -> None:
        if self.value is not None and not math.isfinite(self.value):
            object.__setattr__(self, "value", None)


@dataclass(frozen=True, slots=True)
class Shadow(_Value):
    """The predictions of candidates and of their champions for one day, which are compared and not published."""

    noun: ClassVar[str] = "shadow"

    day: Day
    recorders: tuple[str, ...]
    """Ids of the recorders, which are the columns of the file."""
    file: str
    """Path of the Parquet file relative to the folder of the service."""
    sha256: str
    rows: int


@dataclass(frozen=True, slots=True)
class Comparison(_Value):
    """The comparison of a candidate with the champion on the days on which both have predicted and labels are known."""

    noun: ClassVar[str] = "comparison"

    candidate: str
    """Id of its recorder."""
    champion: str
    metric: str
    days: int
    """Number of these days."""
    candidate_mean: float
    """Mean of the daily metric over these days."""
    champion_mean: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Event(_Value):
    """A noteworthy event, such as a failed check. NaN and infinity, which JSON lacks, are stored as strings."""

    noun: ClassVar[str] = "event"

    level: Level
    text: str
    data: Document = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServiceDefinition(_Value):
    """A service: its name and what it runs."""

    noun: ClassVar[str] = "service"

    name: str
    workflow: object
    """The text of the workflow file, or its definition."""
    policy: Document = field(default_factory=dict)
    """When a candidate is promoted; empty if the model of a new window is the champion at once."""


@dataclass(frozen=True, slots=True)
class Content:
    """The body of an entry, parsed."""

    service: ServiceDefinition | None = None
    day: DayResult | None = None
    releases: tuple[Release, ...] = ()
    signals: tuple[Signal, ...] = ()
    events: tuple[Event, ...] = ()
    checks: tuple[CheckResult, ...] = ()
    shadows: tuple[Shadow, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    reason: str = ""


_REQUIRED: dict[str, tuple[str, ...]] = {
    EntryKind.DAY: ("day",),
    EntryKind.PROMOTION: ("releases",),
    EntryKind.ROLLBACK: ("releases",),
    EntryKind.CORRECTION: ("signals",),
    EntryKind.EVENT: ("events",),
}


def service_body(name: str, workflow: object, policy: Document | None = None) -> Document:
    """Return the body of a ``service`` entry."""
    return ServiceDefinition(name, workflow, policy or {}).to_document()


def day_body(
    day: DayResult,
    *,
    releases: Iterable[Release] = (),
    signals: Iterable[Signal] = (),
    events: Iterable[Event] = (),
    checks: Iterable[CheckResult] = (),
    shadows: Iterable[Shadow] = (),
    comparisons: Iterable[Comparison] = (),
) -> Document:
    """Return the body of a ``day`` entry: everything that was decided on the day."""
    parts: dict[str, Iterable[_Value]] = {
        "releases": releases, "signals": signals, "events": events, "checks": checks,
    }  # fmt: skip
    shadow: dict[str, Iterable[_Value]] = {
        "shadows": list(shadows),
        "comparisons": list(comparisons),
    }  # only of services with a policy
    parts |= {name: values for name, values in shadow.items() if values}
    return {"day": day.to_document(), **{k: [v.to_document() for v in values] for k, values in parts.items()}}


def release_body(releases: Iterable[Release], reason: str) -> Document:
    """Return the body of a ``promotion`` or ``rollback`` entry."""
    return {"releases": [release.to_document() for release in releases], "reason": reason}


def correction_body(
    signals: Iterable[Signal],
    why: str,
    *,
    day: DayResult | None = None,
    events: Iterable[Event] = (),
    checks: Iterable[CheckResult] = (),
    shadows: Iterable[Shadow] = (),
) -> Document:
    """Return the body of a ``correction`` entry. `day` replaces what was recorded of the day, such as its data."""
    body: dict[str, object] = {"signals": [s.to_document() for s in signals], "why": why}
    if day is not None:
        body["day"] = day.to_document()
    parts: dict[str, Iterable[_Value]] = {"checks": list(checks), "shadows": list(shadows)}
    body |= {name: [value.to_document() for value in values] for name, values in parts.items() if values}
    return {**body, "events": [e.to_document() for e in events]}


def event_body(events: Iterable[Event]) -> Document:
    """Return the body of an ``event`` entry."""
    return {"events": [event.to_document() for event in events]}


def read_body(kind: str, body: object) -> Content:
    """Read the body of an entry.

    Raises
    ------
    ConfigError
        If a part that the kind requires is missing, or a field has a value of another type.

    Examples
    --------
    >>> body = release_body([Release("9f8a", "exp", "r1", Role.CHAMPION, "2024-05-31")], "better")
    >>> read_body("promotion", body).releases[0].recorder
    'r1'
    """
    if not isinstance(body, Mapping):
        raise ConfigError(f"The body of an entry must be a mapping, found {shown(body)}.")
    for part in _REQUIRED.get(kind, ()):
        if not body.get(part):
            raise ConfigError(f"An entry of the kind {kind} requires {part!r}.", path=part)
    return Content(
        service=ServiceDefinition.of_document(body) if kind == EntryKind.SERVICE else None,
        day=DayResult.of_document(body["day"]) if "day" in body else None,
        releases=tuple(Release.of_document(v, w) for w, v in _items(body, "releases")),
        signals=tuple(Signal.of_document(v, w) for w, v in _items(body, "signals")),
        events=tuple(Event.of_document(v, w) for w, v in _items(body, "events")),
        checks=tuple(CheckResult.of_document(v, w) for w, v in _items(body, "checks")),
        shadows=tuple(Shadow.of_document(v, w) for w, v in _items(body, "shadows")),
        comparisons=tuple(Comparison.of_document(v, w) for w, v in _items(body, "comparisons")),
        reason=_checked(body.get("why", body.get("reason", "")), "str", "reason"),
    )


def author() -> str:
    """Return the user and the process, as the author of an entry."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container without an entry for the user
        user = ""
    return f"{user}@{process_name()}" if user else process_name()


# -- JSON --------------------------------------------------------------------------------------------------------------


def kind_of(text: str) -> str:
    """Return the :class:`EntryKind` of a text, or the text if it is the kind of a later version."""
    try:
        return EntryKind(text)
    except ValueError:
        return text


def body_text(body: object) -> str:
    """Return a body as canonical JSON that every database can store: NUL and lone surrogates are replaced by escapes.

    Raises
    ------
    ConfigError
        If it is not plain JSON, or larger than `MAX_BODY_BYTES`.

    Examples
    --------
    >>> body_text({"why": "a\\x00b", "events": ()})
    '{"events":[],"why":"a\\\\\\\\x00b"}'
    """
    if not isinstance(body, Mapping):
        raise ConfigError(f"The body of an entry must be a mapping, found {shown(body)}.")
    text = json.dumps(_plain(body, "body", 0), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    size = len(text.encode())
    if size > MAX_BODY_BYTES:
        raise ConfigError(
            f"The body of an entry has {size:,} bytes, more than the {MAX_BODY_BYTES:,} that a ledger stores. Store large "
            "data in a file, and its name in the entry."
        )
    return text


def _plain(value: object, where: str, depth: int) -> object:
    """Return a value in the types of JSON."""
    if depth > _DEEPEST:
        raise ConfigError(f"more than {_DEEPEST} levels of nesting.", path=where)
    if isinstance(value, str):
        return storable_text(str(value))
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"the key {shown(key)} is not a string.", path=where)
        return {storable_text(k): _plain(v, f"{where}.{k}", depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, f"{where}[{i}]", depth + 1) for i, v in enumerate(value)]
    raise ConfigError(f"{shown(value)} is not a value that JSON can represent.", path=where)


def _to_json(value: object) -> object:
    """Return the value of a field as JSON; NaN and infinity, which JSON lacks, become strings."""
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    if isinstance(value, Mapping):
        return {k: _to_json(v) for k, v in value.items()}
    return [_to_json(v) for v in value] if isinstance(value, (list, tuple)) else value


def _items(body: Document, name: str) -> list[tuple[str, object]]:
    values = body.get(name, ())
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ConfigError(f"expected a list, found {shown(values)}.", path=name)
    return [(f"{name}[{i}]", value) for i, value in enumerate(values)]


def _checked(value: object, kind: str, path: str) -> Any:
    """Return the value of a field with its type, which `kind` names as in the source.

    Raises
    ------
    ConfigError
        If the value is of another type.
    """
    with contextlib.suppress(TypeError, ValueError):
        return _TYPES[kind][0](value)
    raise ConfigError(f"must be {_TYPES[kind][1]}, found {shown(value)}.", path=path)


def _day(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    if dt.date.fromisoformat(value).isoformat() != value:  # newer versions of Python read other notations too
        raise ValueError
    return str(value)


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(text, str) for text in value):
        raise TypeError
    return tuple(value)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError
    return float(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _mapping(value: object) -> Document:
    if not isinstance(value, Mapping):
        raise TypeError
    return value


_TYPES: dict[str, tuple[Callable[[Any], object], str]] = {
    "Day": (_day, "a day such as '2024-05-31'"),
    "Document": (_mapping, "a mapping"),
    "float": (_number, "a number"),
    "float | None": (lambda value: None if value is None else _number(value), "a number or null"),
    "int": (_count, "a whole number of 0 or more"),
    "object": (lambda value: value, "a value"),
    "str": (_text, "a string"),
    "tuple[str, ...]": (_texts, "a list of strings"),
    **{e.__name__: (e, f"one of {', '.join(e)}") for e in (Role, DayState, Level, Outcome, Verdict)},
}
"""The types of fields as in the source: how a value is read, and what it must be."""
