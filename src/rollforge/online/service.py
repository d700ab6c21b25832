"""A service: strategies, their trainer, and the ledger in which every decision about them is an entry."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pandas as pd

from rollforge.confidential import mask_secrets
from rollforge.dates import DayLike, read_timestamp
from rollforge.drivers import LEDGERS
from rollforge.errors import ConfigError, LeaseLost, StoreUnavailable
from rollforge.features.api import D
from rollforge.ledger.base import (
    Ledger,
    Score,
    ServiceLease,
    SupportsScores,
    checked_service,
    holding,
    open_ledger,
)
from rollforge.ledger.entry import Entry, EntryKind, Release, Role, Signal, author, release_body
from rollforge.ledger.state import ServiceState
from rollforge.online import signal_files
from rollforge.online.overview import read_as_of
from rollforge.online.policy import Policy, challenger_of
from rollforge.online.releases import replaced_by
from rollforge.run.execute import TASK_TAG
from rollforge.session import current_session, home
from rollforge.store.renewal import Renewal
from rollforge.store.sqlite_database import absolute_uri
from rollforge.track.base import Recorder, get_experiment, open_tracker

if TYPE_CHECKING:
    from rollforge.online.challenger import Challenger
    from rollforge.online.strategy import OnlineStrategy
    from rollforge.run.trainer import Trainer

__all__ = ["Hold", "Service"]

log = logging.getLogger(__name__)
T = TypeVar("T")

LEASE_SECONDS = 120.0
"""How long a lease lasts without renewal. It is renewed three times as often."""
_ATTEMPTS = 3


@dataclass(eq=False)
class Service:
    """Strategies that are kept online under one name.

    What it trained, released and published follows from its entries in the ledger alone, see
    :class:`~rollforge.ledger.state.ServiceState`. The object contains only the definition.

    Parameters
    ----------
    name : str
        Name of the service in the ledger.
    strategies : list of OnlineStrategy
        They determine what is trained, and which models are used.
    trainer : Trainer
        Trains the tasks of the strategies.
    begin : date
        The first day to publish.
    freq : str
        Name of the calendar.
    ledger_uri : str, optional
        URI of the ledger; by default that of the session's task store.
    folder : Path, optional
        Folder of the service's files; by default ``services/NAME`` in the project's folder ``.rollforge``.
    workflow : object
        Text or definition of the workflow, recorded in the ledger.
    policy : Policy, optional
        When the model of a new window replaces the champion; by default at once.
    signal_table : bool
        Whether the ledger also stores the rows of the signals, for programs that use SQL.
    registry : str, optional
        Name of a registered model in MLflow whose aliases ``champion`` and ``candidate`` follow the ledger. With several
        models in the workflow, there is a registered model for each, NAME.MODEL.
    """

    name: str
    strategies: list[OnlineStrategy]
    trainer: Trainer
    begin: DayLike
    freq: str = "day"
    ledger_uri: str | None = None
    folder: Path | None = None
    workflow: object = None
    policy: Policy | None = None
    signal_table: bool = False
    registry: str | None = None
    challenger: Challenger | None = field(default=None, init=False)
    """The challenger of the policy."""
    _state: ServiceState | None = field(default=None, init=False, repr=False)
    _hold: Hold | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.name = checked_service(self.name)
        self.ledger_uri = absolute_uri(self.ledger_uri or _default_ledger())
        self.folder = Path(self.folder).absolute() if self.folder else home() / "services" / self.name
        names = [s.experiment_name for s in self.strategies]
        check_names(names)
        self.challenger = challenger_of(self.policy, {s.experiment_name: s.template_keys() for s in self.strategies})
        for strategy in self.strategies:
            strategy.bind(self)

    @property
    def ledger(self) -> Ledger:
        """The ledger."""
        assert self.ledger_uri is not None
        return open_ledger(self.ledger_uri)

    @property
    def place(self) -> Path:
        """Folder of the service's files."""
        assert self.folder is not None
        return self.folder

    @property
    def begin_day(self) -> pd.Timestamp:
        """The first day to publish."""
        return read_timestamp(self.begin, "begin_time")

    def calendar_days(self, first: DayLike | None = None, until: DayLike | None = None) -> list[str]:
        """Return the trading days of a range as text."""
        days = D.calendar(None, until, freq=self.freq)
        # A first day after the last one of the data is not an error here: nothing is due until then.
        start = None if first is None else read_timestamp(first, "first")
        return [str(day.date()) for day in days if start is None or day >= start]

    def state(self) -> ServiceState:
        """Return the state of the service: what follows from its entries, including one that this thread is deciding."""
        hold = self._own_hold
        if hold is not None:
            return hold.pending
        known = self._state or ServiceState()
        for entry in self.ledger.entries(self.name, after=known.last):
            known = known.after(entry)
        self._state = known
        return known

    @property
    def _own_hold(self) -> Hold | None:
        """The lease if this thread holds it. One that another thread holds is like that of another process."""
        hold = self._hold
        return hold if hold is not None and hold.thread == threading.get_ident() else None

    @property
    def days(self) -> Collection[str] | None:
        """Days to which results are restricted while this thread collects them for a routine; None: all."""
        hold = self._own_hold
        return None if hold is None else hold.days

    @days.setter
    def days(self, days: Collection[str] | None) -> None:
        hold = self._own_hold
        if hold is not None:
            hold.days = days

    @property
    def deciding(self) -> bool:
        """Whether this thread is deciding about an entry."""
        return self._own_hold is not None

    @contextlib.contextmanager
    def hold(self, seconds: float = LEASE_SECONDS) -> Iterator[Hold]:
        """Hold the lease of the service in a ``with`` block.

        Raises
        ------
        ServiceBusy
            If another process or thread holds it. The lease of a process of this machine that has ended is taken over at once.
        """
        own = self._own_hold
        if own is not None:
            yield own
            return
        ledger = self.ledger
        with holding(ledger, self.name, seconds) as lease:
            held = Hold(self, ledger, lease, seconds)
            try:
                with held.renewed():
                    held.state.require_known()
                    signal_files.remove_drafts(self.place)
                    self._hold = held
                    yield held
            finally:
                self._hold = None
                self._state = held.state

    def remembered(self, key: tuple[str, ...], read: Callable[[], T]) -> T:
        """Return the result of `read`, which is called only once for each key while the lease is held.

        Use it for values that do not change: recorders of releases and the definitions of their tasks.
        """
        hold = self._own_hold
        if hold is None:
            return read()
        known = hold.known
        if key not in known:
            known[key] = read()
        value: T = known[key]
        return value

    # -- models --------------------------------------------------------------------------------------------------------

    def recorder(self, release: Release) -> Recorder:
        """Return the recorder of a release."""
        return self.remembered(("recorder", release.experiment_name, release.recorder), lambda: recorder_of(release))

    def champions(self, strategy: str, day: str) -> tuple[Release, ...]:
        """Return the models of a strategy whose predictions are published on a day."""
        return tuple(r for r in self.state().champions(day) if r.strategy == strategy)

    def windows_from(self, strategy: str, template: str, definition: str) -> str | None:
        """Return the first day of the windows of a template that are trained; None if it is no longer trained.

        This depends on the challenger, see :meth:`~rollforge.online.challenger.Challenger.windows_from`.
        """
        if self.challenger is None or self.challenger.strategy != strategy:
            return ""
        hold = self._own_hold
        day = hold.day if hold is not None and hold.day else self.next_day()
        return self.challenger.windows_from(self.state(), day, template, definition)

    def released_by_others(self, *, of_files: bool = False) -> frozenset[str]:
        """Return the ids of the recorders that other services of the ledger have released.

        With `of_files`, only those of services created from workflow files. Several of these can share an experiment, while
        a service created in Python may just be that of an earlier run of the same program.
        """
        return self.remembered(("released by others", str(of_files)), lambda: self._released_by_others(of_files))

    def _released_by_others(self, of_files: bool) -> frozenset[str]:
        ledger = self.ledger
        states = [ServiceState.of(ledger.entries(name)) for name in ledger.services() if name != self.name]
        if of_files:
            states = [
                s
                for s in states
                if s.definition and isinstance(s.definition.workflow, dict) and "path" in s.definition.workflow
            ]
        return frozenset(recorder for state in states for recorder in state.latest_releases)

    def put_online(self, strategy: str, recorders: Sequence[Recorder]) -> None:
        """Remember the models that a strategy puts online in the routine of a day, until its entry is appended."""
        hold = self._own_hold
        if hold is not None:
            hold.online[strategy] = list(recorders)

    def put_online_now(self, strategy: str) -> list[Recorder]:
        """Return the models that are online in the routine of a day: those just put online, or else the champions.

        Empty outside of a routine, and before a strategy has models.
        """
        hold = self._own_hold
        if hold is None or not hold.day:
            return []
        return hold.online.get(strategy) or [self.recorder(r) for r in self.champions(strategy, hold.day)]

    def spans(self, strategy: str) -> dict[str, list[tuple[str, str | None]]]:
        """Return when the models of a strategy were champions.

        Returns
        -------
        dict
            Id of the recorder -> spans of days; the first day is included, and the last is not. None: until today.
        """
        state = self.state()
        changes = sorted({r.from_day for _, r in state.releases if r.strategy == strategy})
        found: dict[str, list[tuple[str, str | None]]] = {}
        for first, after in zip_longest(changes, changes[1:]):
            for release in self.champions(strategy, first):
                spans = found.setdefault(release.recorder, [])
                if spans and spans[-1][1] == first:
                    spans[-1] = (spans[-1][0], after)
                else:
                    spans.append((first, after))
        return found

    def replace_champions(self, strategy: str, recorders: Sequence[Recorder], reason: str = "") -> list[Release]:
        """Make recorders the champions of a strategy from the next day on, with a separate entry.

        The entry is a rollback if all of them were champions before, else a promotion. A service without champions has
        not begun and is not changed.

        Returns
        -------
        list of Release
            The changes.
        """
        with self.hold() as held:
            day = self.next_day()
            now = self.champions(strategy, day)
            if not now:
                return []
            known = {r.recorder for _, r in held.state.releases if r.strategy == strategy}
            kind = EntryKind.ROLLBACK if {r.id for r in recorders} <= known else EntryKind.PROMOTION
            reason = reason or "set manually"
            models = self.released(strategy, recorders, day, reason)
            changed = replaced_by(held.state, models, day, reason)
            if changed:
                held.append(kind, release_body(changed, reason))
            return changed

    def released(self, strategy: str, recorders: Iterable[Recorder], day: str, reason: str) -> list[Release]:
        """Return recorders of a strategy as champions from a day on."""
        by, known = author(), {r.recorder: r for _, r in self.state().releases if r.strategy == strategy}
        own = next((s for s in self.strategies if s.experiment_name == strategy), None)
        found = []
        for recorder in recorders:
            earlier = known.get(recorder.id)
            origin = (earlier.template, earlier.definition) if earlier else own.origin(recorder) if own else ("", "")
            task = recorder.list_tags().get(TASK_TAG, "")
            made = Release(task, strategy, recorder.id, Role.CHAMPION, day, by, reason, strategy, *origin)
            if self.challenger is not None and self.challenger.of(made):
                made = replace(made, instead_of=self.challenger.rival)
            found.append(made)
        return found

    def next_day(self) -> str:
        """Return the day after the last published one as text; the first day if none is published."""
        return self.state().next_day(str(self.begin_day.date()))

    # -- signals -------------------------------------------------------------------------------------------------------

    def signals(self, as_of: float | int | None = None) -> pd.Series | pd.DataFrame | None:
        """Return the signals of all days as known now, or at an earlier time; None if there are none yet.

        Parameters
        ----------
        as_of : float, int or None
            A time in seconds since the epoch by the clock of the ledger, or the number of an entry; also as text.

        Raises
        ------
        ConfigError
            If there is no such entry yet, or the time is in the future.
        ArtifactUnreadable
            If a file is missing, or was changed since it was published.
        """
        state = self.state()
        known = None if as_of is None else read_as_of(as_of, state)
        return signal_files.read(self.place, state.signals(known).values())


def _default_ledger() -> str:
    """Return the URI of the session's task store, or of a file of the project if its scheme has no ledger."""
    uri = current_session().store_uri
    scheme, separator, _ = uri.partition("://")
    known = not separator or LEDGERS.registered_object(uri) is not None or LEDGERS.find(scheme) is not None
    return uri if known else f"sqlite:///{home()}/ledger.db"


def check_names(names: Sequence[str]) -> None:
    """Raise an error if two strategies have the same name.

    Raises
    ------
    ConfigError
        If they do: their models would be in one experiment, and their results under one key.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"Two strategies are named {twice[0]!r}. It is also the name of the experiment, so each strategy needs its own name.",
            path="strategies",
        )


class Hold:
    """The lease of a service, held by this thread and renewed by another one."""

    def __init__(self, service: Service, ledger: Ledger, lease: ServiceLease, seconds: float) -> None:
        self.service, self.ledger, self.lease, self.seconds = service, ledger, lease, seconds
        self.thread = threading.get_ident()
        self.state = ServiceState.of(ledger.entries(service.name))
        self.pending = self.state
        """The state, including an entry that is not appended yet."""
        self.known: dict[tuple[str, ...], Any] = {}
        """See :meth:`Service.remembered`."""
        self.day = ""
        """The day whose routine is running."""
        self.online: dict[str, list[Recorder]] = {}
        """See :meth:`Service.put_online`."""
        self.days: Collection[str] | None = None
        """See :attr:`Service.days`."""

    def decide(self, kind: EntryKind, body: Mapping[str, object]) -> None:
        """Add an entry to the pending state before it is appended."""
        draft = Entry(self.service.name, self.state.last + 1, kind, dict(body), self.lease.token, self._now())
        self.pending = self.state.after(draft)

    def _now(self) -> float:
        return self.state.entries[-1].made_at if self.state.entries else 0.0

    def forget(self) -> None:
        """Drop entries that were not appended."""
        self.pending = self.state
        self.day, self.online = "", {}

    def append(self, kind: EntryKind, body: Mapping[str, object]) -> Entry:
        """Append an entry.

        Raises
        ------
        LeaseLost
            If another process has taken over.
        """
        number, by = self.state.last + 1, author()
        for attempt in range(_ATTEMPTS):
            try:
                if self.service.signal_table:
                    entry = self._scored().append(self.lease, number, kind, body, by=by, scores=self._scores(body))
                else:
                    entry = self.ledger.append(self.lease, number, kind, body, by=by)
                break
            except StoreUnavailable:  # the answer may have been lost: the same call returns the entry that is there
                if attempt == _ATTEMPTS - 1:
                    raise
        self.state = self.pending = self.state.after(entry)
        return entry

    def _scored(self) -> SupportsScores:
        if not isinstance(self.ledger, SupportsScores):
            raise ConfigError(
                f"The ledger {mask_secrets(self.ledger.uri)} cannot store the rows of signals. Remove 'table' from the "
                "section signals of the workflow."
            )
        return self.ledger

    def _scores(self, body: Mapping[str, object]) -> list[Score]:
        """Return the rows of the signals of an entry, from their files."""
        found = []
        for signal in (Signal.of_document(one) for one in cast(list[object], body.get("signals", []))):
            for code, score in signal_files.scores(self.service.place, signal):
                found.append(Score(signal.day, signal.version, code, score if math.isfinite(score) else None))
        return found

    @contextlib.contextmanager
    def renewed(self) -> Iterator[None]:
        """Renew the lease in a thread."""

        def renew() -> None:
            try:
                self.lease = self.ledger.renew(self.lease, self.seconds)
            except LeaseLost:
                log.warning("the lease of the service %s was lost", self.service.name)
                raise

        with Renewal(renew, self.seconds / 3, f"the lease of the service {self.service.name}"):
            yield


def recorder_of(release: Release) -> Recorder:
    """Return the recorder of a release.

    Raises
    ------
    RecorderNotFound
        If it no longer exists.
    """
    tracker = open_tracker(current_session().tracking_uri)
    return get_experiment(tracker, experiment_name=release.experiment_name, create=False).get_recorder(release.recorder)


def next_version(state: ServiceState, day: str) -> int:
    """Return the number of the next version of a day's signals."""
    return 1 + max((s.version for s in state.versions(day)), default=0)
