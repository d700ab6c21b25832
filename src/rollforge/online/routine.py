"""The routine of a service: from its ledger and the data up to a day to one more entry of the ledger.

Days that were missed are due days like any other, so that catching up, simulating the past and serving day by day are the
same loop. A process can be killed anywhere: the next one finds the same entries and the trained models, and repeats the
day.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rollforge.collect.collector import MergeCollector
from rollforge.collect.ensemble import AverageEnsemble
from rollforge.dates import DayLike, day_after, read_day, read_timestamp
from rollforge.disk import sync_tree
from rollforge.errors import (
    ArtifactNotFound,
    ConfigError,
    DataNotFound,
    DayFailed,
    RollforgeError,
    TrackingError,
    TrainingFailed,
)
from rollforge.features.api import D
from rollforge.generate.task_view import TaskView
from rollforge.ledger.entry import (
    CheckResult,
    Comparison,
    DayResult,
    DayState,
    EntryKind,
    Event,
    Level,
    Outcome,
    Release,
    Role,
    Shadow,
    Signal,
    author,
    correction_body,
    day_body,
    event_body,
    service_body,
)
from rollforge.market.universe import resolve_instruments, session_provider
from rollforge.online import signal_files
from rollforge.online.check_rules import DATA_CHECKS, SCORE_CHECKS, Rules, described
from rollforge.online.data_checks import check_data, first_days, read_recent
from rollforge.online.data_marks import HISTORY, changed_history, data_mark, first_marks, history_marks, mark_then
from rollforge.online.policy import candidates_of, compared, decided, shadow_of
from rollforge.online.releases import of_windows, replaced_by
from rollforge.online.score_checks import drift_and_ic, equal_scores
from rollforge.online.service import Hold, Service, next_version, recorder_of
from rollforge.online.strategy import OnlineStrategy, RollingStrategy
from rollforge.online.tool import OnlineToolR
from rollforge.online.training import train_missing
from rollforge.online.update import PredUpdater
from rollforge.run.execute import DATA_UNTIL
from rollforge.session import bounded, current_session
from rollforge.task import Definition
from rollforge.track.base import Recorder

__all__ = ["Options", "catch_up", "correct", "first_train", "publish"]

log = logging.getLogger(__name__)

PrepareFunc = Callable[..., Any]
"""Makes signals from the collected results ``{(strategy, "pred"): {model: frame}}``."""


@dataclass(frozen=True)
class Options:
    """Arguments for the parts of a routine."""

    tasks: Mapping[str, Any] = field(default_factory=dict)
    """For ``prepare_tasks`` of the strategies."""
    models: Mapping[str, Any] = field(default_factory=dict)
    """For ``prepare_online_models`` of the strategies."""
    prepare_func: PrepareFunc | None = None
    """Makes the signals; by default the average of the models after standardising each day."""
    publish: bool = True
    """Whether the days are published; False leaves that to a manager with its own ``prepare_signals``."""
    stop: Callable[[], bool] = lambda: False
    """Whether to end before the next day."""
    adopt: bool = True
    """Whether a service without entries begins with the models that are tagged as online, if there are any."""
    fallback: bool = False
    """Whether the earlier models are used if training fails; by default the day fails."""
    rules: Rules = field(default_factory=lambda: Rules({}))
    """What is checked every day; by default nothing but that there are prices."""


def calendar_days(service: Service, first: DayLike | None, until: DayLike | None) -> list[str]:
    """Return trading days as text."""
    return [str(day.date()) for day in D.calendar(first, until, freq=service.freq)]


def first_train(
    service: Service, options: Options | None = None, strategies: Sequence[OnlineStrategy] | None = None
) -> None:
    """Train the first tasks of strategies with the data up to the service's first day, and release their models.

    Strategies that have already released models are skipped. Those that are added later begin on the last published day.

    Raises
    ------
    ServiceBusy
        If another process holds the lease of the service.
    TrainingFailed
        If a task fails.
    """
    options = options or Options(adopt=False)
    with service.hold() as held:
        _Day(service, held, options, _first_day(service, held)).begin(strategies or service.strategies)


def _first_day(service: Service, held: Hold) -> str:
    return held.state.last_published or str(service.begin_day.date())


def catch_up(service: Service, until: DayLike | None = None, options: Options | None = None) -> list[DayResult]:
    """Run the routine of every due day, oldest first, and return what happened.

    A day is due from the service's first day on, if it is not published. A day on which nothing can be published (no
    instrument has data) is recorded as failed and remains due; the following days are still run.

    Parameters
    ----------
    service : Service
        The service.
    until : date, optional
        The last day; by default the last of the calendar. Later data are not used.
    options : Options, optional
        Arguments for its parts.

    Raises
    ------
    ServiceBusy
        If another process holds the lease of the service.
    TrainingFailed
        If a task fails, and there is no earlier model or `options` do not allow using it. The day is recorded as failed.
    """
    options = options or Options()
    results = []
    with service.hold() as held:
        begun = {r.strategy for _, r in held.state.releases}
        missing = [s for s in service.strategies if s.experiment_name not in begun]
        days = calendar_days(service, service.begin_day, until)
        if missing and (begun or (days and not held.state.days)):  # before the first day, nothing is due
            _Day(service, held, options, _first_day(service, held)).begin(missing)
        for day in held.state.due(days):
            if options.stop():
                break
            results.append(_Day(service, held, options, day).run())
        _Day(service, held, options, "").mirror()
    return results


class _Day:
    """One day of a service, with the data up to it."""

    def __init__(self, service: Service, held: Hold, options: Options, day: str) -> None:
        self.service, self.held, self.options, self.day = service, held, options, day
        self.trained: list[str] = []
        self.releases: list[Release] = []
        self.written: dict[str, Recorder] = {}
        """The recorders whose predictions were written."""
        self.events: list[Event] = []
        self.fallbacks: list[str] = []
        self.checks: list[CheckResult] = []
        self.began = time.perf_counter()

    # -- the first training --------------------------------------------------------------------------------------------

    def begin(self, strategies: Sequence[OnlineStrategy]) -> None:
        """Release the first models of strategies."""
        begun = {r.strategy for _, r in self.held.state.releases}
        fresh = [s for s in strategies if s.experiment_name not in begun]
        if not self.held.state.entries:
            workflow = self.service.workflow or {s.experiment_name: type(s).__name__ for s in strategies}
            self.held.append(EntryKind.SERVICE, service_body(self.service.name, workflow, _document(self.service)))
        if not fresh:
            return
        with bounded(self.day):
            for strategy in fresh:
                there = strategy.tool.online_models() if self.options.adopt and _keeps_recorders(strategy) else []
                models = there or self._trained(strategy, strategy.first_tasks())
                online = strategy.prepare_online_models(models, **self.options.models)
                self._release(strategy, models, online, "was online before" if there else "first training")
            known = self.held.state.days.get(self.day)
            result = self._result(known.state if known else DayState.TRAINED)
            if known:
                result = replace(result, data=known.data, seconds=known.seconds, error=known.error)
            self._sync()
            self.held.append(EntryKind.DAY, day_body(result, releases=self.releases))
        self.mirror()

    # -- every day -----------------------------------------------------------------------------------------------------

    def run(self) -> DayResult:
        """Train what is due, release it, predict and publish; return the result, which is in the ledger."""
        log.info("service %s: %s", self.service.name, self.day)
        with bounded(self.day):
            try:
                body = self._body()
            except Exception as exc:
                self.held.forget()
                self._failed(str(exc))
                if not isinstance(exc, DayFailed):
                    raise
                return self._result(DayState.FAILED, str(exc))
            finally:
                self.held.forget()
            self._sync()
            self.held.append(EntryKind.DAY, body)
        return DayResult.of_document(body["day"])

    def _body(self) -> Mapping[str, Any]:
        """Return the entry of the day."""
        self._check_data()
        self._watch_data()
        self.mirror()
        for strategy in self.service.strategies:
            models = self._of_due_windows(strategy)
            if models:
                self._fill(strategy)
            if models or not _keeps_models(strategy):
                # With a policy, the models of new windows are candidates, which are not online.
                challenged = self.service.policy is not None and _keeps_models(strategy)
                online = [] if challenged else strategy.prepare_online_models(models, **self.options.models)
                self._release(strategy, models, online, "new window" if models else "")
        for strategy in self.service.strategies:
            self._predict(strategy)
        signals = self._signals() if self.options.publish else []
        shadows, comparisons = self._shadow()
        result = self._result(DayState.PUBLISHED)
        earlier = {s.day: mark_then(s.day) for s in signals if s.day < str(self.service.begin_day.date())}
        result = replace(result, history={**result.history, **earlier})
        return day_body(
            result,
            releases=self.releases,
            signals=signals,
            events=self.events,
            shadows=shadows,
            comparisons=comparisons,
            checks=self.checks,
        )

    def _of_due_windows(self, strategy: OnlineStrategy) -> list[Any]:
        """Return the models of the windows that are due; none if training fails and the earlier models are used."""
        tasks = strategy.prepare_tasks(read_timestamp(self.day), **self.options.tasks)
        if isinstance(strategy, RollingStrategy):
            tasks = strategy.used_windows(tasks, self._floor())
        try:
            return self._trained(strategy, tasks)
        except TrainingFailed as exc:
            name = strategy.experiment_name
            if not self.options.fallback or not self.service.champions(name, self.day):
                raise
            cause = exc.__cause__
            reason = str(exc).partition("\n")[0] if cause is None else f"{type(cause).__name__}: {cause}"
            text = f"training of {name} failed, and the earlier models were used: {' '.join(reason.split())}"
            log.warning("service %s: %s: %s", self.service.name, self.day, text)
            self.fallbacks.append(text)
            self.events.append(Event(Level.WARNING, text, {"error": str(exc), "strategy": name}))
            return []

    def _floor(self) -> str:
        """Return the first day whose models can still change: the one after the last published day."""
        last = self.held.state.last_published
        return "" if last is None else day_after(last)

    def _result(self, state: DayState, error: str = "") -> DayResult:
        seconds = round(time.perf_counter() - self.began, 3)
        used = "; ".join(self.fallbacks) if state is DayState.PUBLISHED else ""
        history = history_marks(self.service) if self.trained else {}
        trained = tuple(self.trained)
        return DayResult(self.day, state, data_mark(self.day), seconds, error, trained, fallback=used, history=history)

    def _update(self, release: Release, until: pd.Timestamp, *, again: bool = False) -> None:
        """Let a model predict up to a day; with `again`, also if it has a prediction for that day."""
        recorder = self.service.recorder(release)
        updater = PredUpdater(recorder, to_date=until)
        if again and updater.last_end >= updater.to_date:
            updater = PredUpdater(recorder, to_date=until, from_date=until)
        updater.update()
        self.written[recorder.id] = recorder

    def _sync(self) -> None:
        """Wait until the models that the next entry names, and their predictions, are on the disk."""
        released = [self.service.recorder(r) for r in self.releases if r.role is not Role.RETIRED]
        for recorder in {**self.written, **{r.id: r for r in released}}.values():
            recorder.flush()
            try:
                folder = recorder.get_local_dir()
            except ArtifactNotFound:  # on a server, which answers for it
                continue
            sync_tree(Path(folder))

    def _failed(self, error: str) -> None:
        """Record that the day has failed, unless the last entry about it says the same."""
        result = self._result(DayState.FAILED, error)
        known = self.held.state.days.get(self.day)
        log.warning("service %s: %s failed: %s", self.service.name, self.day, error)
        if known is None or (known.state, known.error, known.data) != (result.state, result.error, result.data):
            self.held.forget()
            self.held.append(EntryKind.DAY, day_body(result, events=self.events, checks=self.checks))

    def _check_data(self) -> None:
        """Raise an error if no instrument has a price on the day."""
        try:
            provider = session_provider()
        except DataNotFound:  # strategies with data of their own
            return
        place = int(np.searchsorted(provider.calendar(self.service.freq), read_day(self.day)))
        if "close" not in provider.fields():
            return
        for universe in self._universes():
            codes = list(resolve_instruments(provider, universe)[0])
            block = provider.read("close", codes, place, place + 1, self.service.freq)
            if not np.isfinite(block.values).any():
                raise DayFailed(
                    f"No instrument of {universe!r} has a price on {self.day}. Add the day's data, or remove the day from "
                    "the calendar, and run the routine again."
                )

    def _watch_data(self) -> None:
        """Check the data of the day and of the days before it.

        Raises
        ------
        DayFailed
            If a check fails.
        """
        if not self.options.rules.checks.keys() & DATA_CHECKS.keys():
            return
        try:
            provider = session_provider()
        except DataNotFound:  # strategies with data of their own
            return
        recent = read_recent(provider, self.day, self._universes())
        if recent is not None:
            self._take(check_data(recent, self.options.rules, self.held.state, mark_then, first_days(provider)))

    def _watch_scores(self, rows: Any) -> None:
        """Check the scores of the day, and those of earlier days whose labels have become known.

        Raises
        ------
        DayFailed
            If a check fails and the rules say that such a day is not published.
        """
        rules, service = self.options.rules, self.service
        if not rules.checks.keys() & SCORE_CHECKS.keys():
            return
        champions = [recorder_of(release) for release in service.state().champions(self.day)]
        calendar = session_provider().calendar(service.freq)
        found = equal_scores(rules, self.day, rows)
        try:
            found += drift_and_ic(rules, self.day, champions, self.held.state, service.place, calendar)
        except Exception as exc:  # noqa: BLE001 - the user's own classes; a day that cannot be watched is still published
            text = f"the checks of drift and IC could not be made: {type(exc).__name__}: {exc}"
            log.warning("service %s: %s: %s", service.name, self.day, text)
            self.events.append(Event(Level.WARNING, text))
        self._take(found, block=rules.block)

    def _take(self, found: Sequence[CheckResult], *, block: bool = True) -> None:
        """Add the results of checks to the entry of the day; with `block`, raise an error if one has failed."""
        self.checks += found
        for check in found:
            if check.outcome is not Outcome.OK:
                log.warning("service %s: %s: %s", self.service.name, self.day, described(check))
        failed = [check for check in found if check.outcome is Outcome.FAIL]
        if failed and block:
            raise DayFailed("; ".join(described(check) for check in failed))

    def _universes(self) -> list[Any]:
        found = []
        for strategy in self.service.strategies:
            for template in getattr(strategy, "task_template", []):
                kwargs = TaskView(template).handler_kwargs
                universe = (kwargs or {}).get("instruments")
                if universe is not None and universe not in found:
                    found.append(universe)
        return found

    def _trained(self, strategy: OnlineStrategy, tasks: Sequence[Definition]) -> list[Any]:
        until = current_session().data_until
        dated = [{**task, DATA_UNTIL: until} for task in tasks]
        trainer, name = self.service.trainer, strategy.experiment_name
        if _keeps_recorders(strategy):
            models = train_missing(trainer, dated, name)
        else:
            models = trainer.end_train(trainer.train(dated, experiment_name=name), experiment_name=name)
        self.trained += [model.id for model in models if isinstance(model, Recorder)]
        log.info("strategy %s: %d models of %d tasks", name, len(models), len(tasks))
        return models

    def _release(self, strategy: OnlineStrategy, models: Sequence[Any], online: Sequence[Any], reason: str) -> None:
        """Decide which recorders of a strategy are used from when on."""
        if isinstance(strategy, RollingStrategy):
            self.releases += self._of_windows(strategy, models, reason)
            self._decide()
            if type(strategy).prepare_online_models is RollingStrategy.prepare_online_models:
                return
        now = [model for model in online if isinstance(model, Recorder)]
        if now:
            released = self.service.released(strategy.experiment_name, now, self.day, reason)
            self.releases += replaced_by(self.service.state(), released, self.day, reason)
            self._decide()

    def _decide(self) -> None:
        self.held.decide(EntryKind.DAY, day_body(DayResult(self.day, DayState.DUE), releases=self.releases))

    def _of_windows(self, strategy: RollingStrategy, models: Sequence[Any], reason: str) -> list[Release]:
        """Return the releases of new windows: each is used from its first day on, if that is not published yet.

        A model without a template of the strategy, because it was removed or the model was put online by hand, is used until
        a window begins.
        """
        floor = self._floor()
        new = strategy.windows([m for m in models if isinstance(m, Recorder)])
        name, state = strategy.experiment_name, self.service.state()
        champions = {r.recorder: r for r in self.service.champions(name, self.day)}
        before = strategy.windows([self.service.recorder(r) for r in champions.values()])
        found: list[Release] = []
        firsts = []
        for template, windows in new.items():
            starts = {max(start, floor): recorder for start, recorder in windows}  # of several on a day, the latest
            releases = [self.service.released(name, [r], start, reason)[0] for start, r in sorted(starts.items())]
            former = [champions[r.id] for _, r in before.get(template, [])]
            found += of_windows(state, releases, former, shadow=self.service.policy is not None)
            firsts.append(releases[0].from_day)
        if firsts and -1 not in new:
            ended = [champions[r.id] for _, r in before.get(-1, [])]
            found += [replace(r, role=Role.RETIRED, from_day=min(firsts), by=author(), reason=reason) for r in ended]
        return found

    def _fill(self, strategy: OnlineStrategy) -> None:
        """Let the outgoing models predict up to the day before."""
        for release in self.service.champions(strategy.experiment_name, self.day):
            calendar = D.calendar(freq=self.service.freq)
            if len(calendar) > 1:
                self._update(release, calendar[-2])

    def _predict(self, strategy: OnlineStrategy) -> None:
        """Let the models of a strategy predict up to the day."""
        tool = strategy.tool
        if not _keeps_recorders(strategy) or type(tool).update_online_pred is not OnlineToolR.update_online_pred:
            tool.update_online_pred()
            return
        used = self.service.state().online(self.day)
        for release in [r for role in (Role.CHAMPION, Role.CANDIDATE) for r in used.get(role, ())]:
            if release.strategy != strategy.experiment_name or release.recorder in self.trained:
                continue
            try:
                self._update(release, read_timestamp(self.day), again=True)
            except Exception as exc:
                if release.role is Role.CHAMPION:
                    raise
                # A model that is not used must not prevent the publication.
                self._warn(f"the candidate {release.recorder} has no prediction for {self.day}: {exc}")

    # -- candidates ----------------------------------------------------------------------------------------------------

    def _shadow(self) -> tuple[list[Shadow], list[Comparison]]:
        """Store the predictions of the candidates, compare them with the champions, and promote or retire them."""
        policy, state = self.service.policy, self.service.state()
        pairs = [] if policy is None else candidates_of(state, self.day)
        last = self.held.state.last_published
        if (
            policy is None or not pairs or (last is not None and self.day < last)
        ):  # a day that is made up decides nothing
            return [], []
        try:
            today = shadow_of(self.service, self.day, pairs)
            comparisons = compared(self.service, policy, pairs, today)
        except RollforgeError as exc:  # the day is published all the same
            self._warn(f"the candidates were not compared: {exc}")
            return [], []
        self.releases += decided(state, policy, self.day, pairs, comparisons)
        return [today[0]] if today else [], comparisons

    def _warn(self, text: str) -> None:
        log.warning("service %s: %s: %s", self.service.name, self.day, text)
        self.events.append(Event(Level.WARNING, text))

    # -- signals -------------------------------------------------------------------------------------------------------

    def _signals(self) -> list[Signal]:
        """Write the signals of the day, and of earlier days that have predictions and no signals."""
        state = self.held.state
        first = not state.signals()
        made = _made(self.service, self.options.prepare_func, None if first else {self.day})
        ready = [day for day in signal_files.days_of(made) if day <= self.day and day not in state.signals()]
        if self.day not in ready:
            raise DayFailed(f"The models have no predictions for {self.day}.")
        self._watch_scores(signal_files.rows_of(made, [self.day]))
        return self._written(signal_files.rows_of(made, ready), "")

    def _written(self, rows: Any, why: str) -> list[Signal]:
        """Write rows as a file, and return the signals of its days."""
        days = signal_files.days_of(rows)
        versions = {day: next_version(self.held.state, day) for day in days}
        last = days[-1]
        file, mark = signal_files.write(self.service.place, f"{last}.v{versions[last]}", rows)
        counts = pd.DatetimeIndex(rows.index.get_level_values("datetime")).value_counts()
        return [
            Signal(day, versions[day], self._used(day), file, mark, int(counts[read_timestamp(day)]), why)
            for day in days
        ]

    def _used(self, day: str) -> tuple[str, ...]:
        return tuple(r.recorder for r in self.service.state().champions(day))

    # -- tags ----------------------------------------------------------------------------------------------------------

    def mirror(self) -> None:
        """Let the tags of the recorders show what the ledger says, so that they are right again after a crash.

        They decide nothing, so a tracking store that does not take them is a warning; the next day tries again.
        """
        state, day = self.held.state, self.day or self.service.next_day()
        for strategy in self.service.strategies:
            if not isinstance(strategy.tool, OnlineToolR):
                continue
            wanted = {r.recorder: r for r in state.champions(day) if r.strategy == strategy.experiment_name}
            try:
                if wanted and {r.id for r in strategy.tool.online_models()} != set(wanted):
                    log.info("strategy %s: the tags of its recorders are written again", strategy.experiment_name)
                    strategy.tool.mark([self.service.recorder(r) for r in wanted.values()])
            except TrackingError as exc:
                log.warning("strategy %s: its tags could not be written: %s", strategy.experiment_name, exc)


def _document(service: Service) -> Mapping[str, Any]:
    return {} if service.policy is None else service.policy.to_document()


def _keeps_recorders(strategy: OnlineStrategy) -> bool:
    return isinstance(strategy.tool, OnlineToolR)


def _keeps_models(strategy: OnlineStrategy) -> bool:
    """Return whether a strategy without new models keeps those of the ledger."""
    own = type(strategy).prepare_online_models is not RollingStrategy.prepare_online_models
    return _keeps_recorders(strategy) and not own


def _made(service: Service, prepare_func: PrepareFunc | None, days: set[str] | None) -> Any:
    """Return signals from the results of the strategies, by default of some days only."""
    service.days = days if prepare_func is None else None
    try:
        collectors = {s.experiment_name: s.get_collector(artifacts_key=["pred"]) for s in service.strategies}
        return (prepare_func or AverageEnsemble())(MergeCollector(collectors, process_list=[])())
    finally:
        service.days = None


# -- past days ---------------------------------------------------------------------------------------------------------


def publish(service: Service, prepare_func: PrepareFunc | None = None, *, over_write: bool = False) -> Any:
    """Make signals from the predictions that exist, without a routine, and return the new ones.

    Days after the last one with signals are added. With `over_write`, the signals of other days that differ are
    published as new versions too.
    """
    with service.hold() as held:
        made = _made(service, prepare_func, None)
        known = held.state.signals()
        days = signal_files.days_of(made)
        last = max(known, default="")
        fresh = [day for day in days if day > last]
        new = made if over_write else signal_files.rows_of(made, fresh)
        old = signal_files.read(service.place, known.values())
        changed = [day for day in days if over_write and day in known and not _same(old, made, day)]
        gone = [day for day, signal in known.items() if over_write and signal.rows and day not in days]
        day = _Day(service, held, Options(), last)
        signals = []
        wanted = sorted({*(days if over_write else fresh)} - ({*known} - {*changed}))
        if wanted:
            signals += day._written(signal_files.rows_of(made, wanted), "made again" if over_write else "")
        signals += [_withdrawn(held, one, "made again") for one in gone]
        if signals:
            held.append(EntryKind.CORRECTION, correction_body(signals, "made from the predictions that exist"))
        return new


def _withdrawn(held: Hold, day: str, why: str) -> Signal:
    """Return a version of a day's signals without rows."""
    known = held.state.signals()[day]
    return Signal(day, next_version(held.state, day), known.recorders, known.file, known.sha256, 0, why)


def _same(old: Any, new: Any, day: str) -> bool:
    return old is not None and signal_files.rows_of(old, [day]).equals(signal_files.rows_of(new, [day]))


def correct(
    service: Service, day: DayLike | None = None, why: str = "", prepare_func: PrepareFunc | None = None
) -> list[Signal]:
    """Publish new versions of the signals of past days whose data have changed since, and return them.

    The models that were champions on the day predict it again, with the data up to the day as they are now. A day whose
    signals stay the same gets no new version; that they do is recorded, so that :func:`changed_days` omits the day. The
    signals of a day that is no longer a trading day are withdrawn by a version without rows. Earlier versions are never
    changed.

    Parameters
    ----------
    day : date, optional
        The day; by default all published days from the first one whose data have changed since: features of a day are
        computed from earlier days too.
    why : str
        The reason.
    """
    corrected: list[Signal] = []
    with service.hold() as held:
        calendar = set(calendar_days(service, None, None))
        changed = changed_days(service)
        months = changed_history(service) if day is None else []
        days = [str(read_day(day, "day"))] if day is not None else _from_first([*changed, *months], held)
        for one in days:
            known = held.state.signals().get(one)
            if known is None:
                raise ConfigError(f"There are no signals of {one} to correct.", path="day")
            if one not in calendar:
                if known.rows:
                    corrected.append(_corrected(held, [_withdrawn(held, one, why or "no longer a trading day")], None))
                continue
            with bounded(one):
                work = _Day(service, held, Options(prepare_func=prepare_func), one)
                for release in held.state.champions(one):
                    PredUpdater(service.recorder(release), to_date=one, from_date=one).update()
                    work.written[release.recorder] = service.recorder(release)
                work._sync()
                made = _made(service, prepare_func, {one})
                earlier = signal_files.read(service.place, [known])
                before = held.state.days.get(one)
                result = work._result(DayState.PUBLISHED)
                if before:
                    result = replace(result, trained=before.trained, history=before.history)
                if _same(earlier, made, one):
                    if one in changed:
                        event = Event(Level.INFO, why or "the data have changed, and the signals are the same")
                        held.append(EntryKind.DAY, day_body(result, events=[event]))
                    continue
                signals = work._written(signal_files.rows_of(made, [one]), why or "the data have changed")
                corrected.append(_corrected(held, signals, result))
        if months:
            text = why or "data before the first day have changed; the models are those trained before"
            event = Event(Level.INFO, text, {"months": months, HISTORY: history_marks(service)})
            held.append(EntryKind.EVENT, event_body([event]))
    return corrected


def _from_first(changed: Sequence[str], held: Hold) -> list[str]:
    """Return the days with signals from the first changed day on; of withdrawn days, only the changed ones."""
    first = min(changed, default=None)
    if first is None:
        return []
    return [day for day, signal in held.state.signals().items() if day in changed or (day > first and signal.rows)]


def _corrected(held: Hold, signals: Sequence[Signal], result: DayResult | None) -> Signal:
    held.append(EntryKind.CORRECTION, correction_body(signals, signals[0].why, day=result))
    return signals[0]


def changed_days(service: Service) -> list[str]:
    """Return the published days whose data have changed since, that are no longer trading days, or are again."""
    state = service.state()
    calendar = set(calendar_days(service, None, None))
    known = first_marks(state) | {day: result.data for day, result in state.days.items()}
    changed = []
    for day, signal in state.signals().items():
        withdrawn = not signal.rows
        if day not in calendar:
            changed += [] if withdrawn else [day]
        elif withdrawn or known.get(day, "") not in ("", mark_then(day)):
            changed.append(day)
    return changed
