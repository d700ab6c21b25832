"""One day of a service: train what is due, release it, predict and publish."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from rollforge.collect.collector import MergeCollector
from rollforge.collect.ensemble import AverageEnsemble
from rollforge.dates import ONE_DAY, day_after, read_day, read_timestamp
from rollforge.disk import sync_tree
from rollforge.errors import (
    ArtifactNotFound,
    ConfigError,
    CoverageError,
    DataChanged,
    DataError,
    DayFailed,
    RollforgeError,
    TrackingError,
    TrainingFailed,
    first_few,
)
from rollforge.features.api import D
from rollforge.ledger.entry import (
    Comparison,
    DayResult,
    DayState,
    EntryKind,
    Event,
    Level,
    Release,
    Role,
    Shadow,
    Signal,
    author,
    day_body,
    release_body,
    service_body,
)
from rollforge.ledger.state import ServiceState
from rollforge.market.universe import one_version
from rollforge.online import signal_files
from rollforge.online.check_rules import Rules
from rollforge.online.data_marks import (
    data_mark,
    history_marks,
    mark_then,
    service_frequencies,
    training_mark,
    training_mark_now,
)
from rollforge.online.day_checks import DayChecks
from rollforge.online.policy import candidates_of, compared, decided, shadow_of
from rollforge.online.registry import mirror_aliases
from rollforge.online.releases import of_challenger, of_windows, replaced_by
from rollforge.online.service import Hold, Service, next_version
from rollforge.online.strategy import OnlineStrategy, RollingStrategy
from rollforge.online.tool import TAGS_NOT_WRITTEN, OnlineToolR
from rollforge.online.training import train_missing, window_digest
from rollforge.online.update import PredUpdater
from rollforge.run.execute import DATA_MARK, DATA_UNTIL, TASK_TAG
from rollforge.session import bounded, current_session
from rollforge.task import Definition
from rollforge.track.base import Recorder

__all__ = ["DayRun", "Options", "PrepareFunc", "begin", "made_signals", "run_day"]

log = logging.getLogger(__name__)

T = TypeVar("T")
PrepareFunc = Callable[..., Any]
"""Computes signals from the collected results ``{(strategy, "pred"): {model: frame}}``."""


@dataclass(frozen=True)
class Options:
    """Arguments for the parts of a routine."""

    tasks: Mapping[str, Any] = field(default_factory=dict)
    """For ``prepare_tasks`` of the strategies."""
    models: Mapping[str, Any] = field(default_factory=dict)
    """For ``prepare_online_models`` of the strategies."""
    prepare_func: PrepareFunc | None = None
    """Computes the signals; by default the average of the models after standardizing each day."""
    publish: bool = True
    """Whether the days are published; False leaves that to a manager with its own ``prepare_signals``."""
    stop: Callable[[], bool] = lambda: False
    """Whether to end before the next day."""
    report: Callable[[], None] = lambda: None
    """Called after the entry of each day."""
    adopt: bool = True
    """Whether a service without entries begins with the models that are tagged as online, if there are any."""
    fallback: bool = False
    """Whether the earlier models are used if training fails; by default the day fails."""
    rules: Rules = field(default_factory=lambda: Rules({}))
    """The daily checks; by default it is only checked that there are prices."""


_ATTEMPTS = 3
"""How many times a day is attempted if its data change while models are trained."""


def begin(service: Service, held: Hold, options: Options, day: str, strategies: Sequence[OnlineStrategy]) -> None:
    """Release the first models of strategies; begin again if the data change meanwhile."""
    _repeated(lambda last: DayRun(service, held, options, day).begin(strategies))


def run_day(service: Service, held: Hold, options: Options, day: str) -> DayResult:
    """Run a day and return its result, which is in the ledger; run it again if the data change meanwhile."""
    return _repeated(lambda last: DayRun(service, held, options, day).run(last=last))


def _repeated(attempt: Callable[[bool], T]) -> T:
    """Repeat an attempt until the data do not change; its argument is whether it is the last one."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return attempt(False)
        except DataChanged as exc:
            log.warning("%s", exc)
    return attempt(True)


class DayRun:
    """One day of a service, with the data up to it.

    Parameters
    ----------
    service : Service
        The service.
    held : Hold
        Its lease, with which entries are appended.
    options : Options
        Arguments for the parts of the routine.
    day : str
        The day.
    """

    def __init__(self, service: Service, held: Hold, options: Options, day: str) -> None:
        self.service, self.held, self.options, self.day = service, held, options, day
        self.trained: list[str] = []
        self.releases: list[Release] = []
        self.written: dict[str, Recorder] = {}
        """The recorders whose predictions were written."""
        self.predicted: dict[str, signal_files.Signals] = {}
        """Their predictions for the day, by id."""
        self.events: list[Event] = []
        self.fallbacks: list[str] = []
        self.checks = DayChecks(service, held.state, options.rules, day)
        self.began = time.perf_counter()

    @property
    def others(self) -> list[str]:
        """The frequencies of the data that the tasks read besides that of their rows."""
        return service_frequencies(self.service)

    # -- the first training --------------------------------------------------------------------------------------------

    def begin(self, strategies: Sequence[OnlineStrategy]) -> None:
        """Release the first models of strategies."""
        begun = {r.strategy for _, r in self.held.state.releases}
        fresh = [s for s in strategies if s.experiment_name not in begun]
        self.define(strategies)
        if not fresh:
            return
        with bounded(self.day), one_version():
            for strategy in fresh:
                tasks = strategy.first_tasks()
                there = self._online_before(strategy, tasks)
                rest, in_shadow = self._split(strategy, tasks)
                models = there or self._trained(strategy, rest)
                online = strategy.prepare_online_models(models, **self.options.models)
                challenging = [] if there else self._trained_in_shadow(strategy, in_shadow)
                reason = "was online before" if there else "first training"
                self._release(strategy, [*models, *challenging], online, reason)
            known = self.held.state.days.get(self.day)
            result = self.result(known.state if known else DayState.TRAINED)
            if known:
                result = replace(result, data=known.data, seconds=known.seconds, error=known.error)
            self.sync()
            self.held.append(EntryKind.DAY, day_body(result, releases=self.releases))
        self.mirror()

    def _online_before(self, strategy: OnlineStrategy, tasks: Sequence[Definition]) -> list[Recorder]:
        """Return the models that were online before there was a ledger.

        None if a service of the ledger has released one of them, or this one has trained all of them: a process may have
        been killed after it had tagged its first models and before it recorded them.
        """
        if not self.options.adopt or not _keeps_recorders(strategy):
            return []
        there = strategy.tool.online_models()
        others = self.service.released_by_others()
        own = {window_digest(task) for task in self._dated(tasks)}
        if any(model.id in others for model in there):
            return []
        return [] if all(_digest_of(model) in own for model in there) else list(there)

    def define(self, strategies: Sequence[OnlineStrategy]) -> None:
        """Record the service if it is new, or its policy if that has changed."""
        known, policy = self.held.state.definition, _document(self.service)
        if known is None:
            workflow = self.service.workflow or {s.experiment_name: type(s).__name__ for s in strategies}
        elif dict(known.policy) != policy:
            workflow = known.workflow
        else:
            return
        self.held.append(EntryKind.SERVICE, service_body(self.service.name, workflow, policy))

    # -- every day -----------------------------------------------------------------------------------------------------

    def run(self, *, last: bool) -> DayResult:
        """Train what is due, release it, predict and publish; return the result, which is in the ledger.

        Raises
        ------
        DataChanged
            If the data change while models are trained, and this is not the `last` attempt.
        """
        log.info("service %s: %s", self.service.name, self.day)
        self.define(self.service.strategies)
        self.held.day = self.day
        with bounded(self.day), one_version():
            try:
                body = self._body()
            except Exception as exc:
                self.held.forget()
                if isinstance(exc, DataChanged) and not last:
                    raise
                self._failed(str(exc))
                if not isinstance(exc, DayFailed):
                    raise
                return self.result(DayState.FAILED, str(exc))
            finally:
                self.held.forget()
            self.sync()
            self.held.append(EntryKind.DAY, body)
        return DayResult.of_document(body["day"])

    def _body(self) -> Mapping[str, object]:
        """Return the entry of the day."""
        self.checks.prices()
        self.checks.data()
        self._restore()
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
        self._require_model()
        for strategy in self.service.strategies:
            self._predict(strategy)
        signals = self._signals() if self.options.publish else []
        shadows, comparisons = self._shadow()
        result = self.result(DayState.PUBLISHED)
        earlier = {s.day: mark_then(s.day, self.others) for s in signals if s.day < str(self.service.begin_day.date())}
        result = replace(result, history={**result.history, **earlier})
        return day_body(
            result,
            releases=self.releases,
            signals=signals,
            events=self.events,
            shadows=shadows,
            comparisons=comparisons,
            checks=self.checks.results,
        )

    def _restore(self) -> None:
        """Train the windows of champions again whose recorders no longer exist, and release them with a separate entry.

        That is not an entry of the day, because it begins no window: the next one follows from the latest that a day began.

        Raises
        ------
        DayFailed
            If the template of such a champion was removed.
        """
        released: list[Release] = []
        for strategy in [s for s in self.service.strategies if isinstance(s, RollingStrategy)]:
            for lost in self.service.champions(strategy.experiment_name, self.day):
                if strategy.recorder_of(lost) is not None:
                    continue
                window = strategy.window_of(lost, self._first_day(lost)) or strategy.window_of(lost, self.day)
                if window is None:
                    raise DayFailed(
                        f"The recorder {lost.recorder} of the champion no longer exists, and its template {lost.template!r} is "
                        "not in the workflow. Restore it from a backup, or choose another model with 'rollforge serve promote'."
                    )
                text = f"the recorder {lost.recorder} no longer exists, so its window was trained again"
                self._warn(text)
                (model,) = self._trained(strategy, [window[1]])
                self.written[model.id] = model
                common: dict[str, Any] = {"from_day": self.day, "by": author(), "reason": text}
                released.append(replace(lost, role=Role.RETIRED, **common))
                task = model.list_tags().get(TASK_TAG, "")
                released.append(replace(lost, task=task, recorder=model.id, definition=window[2], **common))
        if released:
            self.sync()
            self.held.append(EntryKind.PROMOTION, release_body(released, "recorders no longer exist"))

    def _first_day(self, release: Release) -> str:
        """Return the first day from which on a model was released; it may have been released again since."""
        return min(r.from_day for _, r in self.held.state.releases if r.recorder == release.recorder)

    def _require_model(self) -> None:
        """Raise an error if the models of the ledger are those to publish, and there is none for the day.

        Raises
        ------
        DayFailed
            If no window has begun.
        """
        if all(map(_keeps_models, self.service.strategies)) and not self.service.state().champions(self.day):
            raise DayFailed(
                f"No window has begun by {self.day}, so there is no model. The first day of a service must not be before "
                "that of its first window: create it with a later one, by 'rollforge serve init --begin DAY' or begin_time."
            )

    def _of_due_windows(self, strategy: OnlineStrategy) -> list[Recorder]:
        """Return the models of the windows that are due; none if training fails and the earlier models are used."""
        tasks = strategy.prepare_tasks(read_timestamp(self.day), **self.options.tasks)
        if isinstance(strategy, RollingStrategy):
            tasks = strategy.used_windows(tasks, self._floor())
        rest, in_shadow = self._split(strategy, tasks)
        return [*self._trained_or_earlier(strategy, rest), *self._trained_in_shadow(strategy, in_shadow)]

    def _split(
        self, strategy: OnlineStrategy, tasks: Sequence[Definition]
    ) -> tuple[Sequence[Definition], Sequence[Definition]]:
        """Return the tasks whose models are used, and those of the challenger while it is not the champion."""
        challenger = self.service.challenger
        if challenger is None or challenger.strategy != strategy.experiment_name:
            return tasks, []
        if not isinstance(strategy, RollingStrategy) or challenger.is_promoted(self.service.state(), self.day):
            return tasks, []
        own = [strategy.belongs_to(task, challenger.name) for task in tasks]
        return [t for t, it in zip(tasks, own, strict=True) if not it], [
            t for t, it in zip(tasks, own, strict=True) if it
        ]

    def _trained_in_shadow(self, strategy: OnlineStrategy, tasks: Sequence[Definition]) -> list[Any]:
        """Return the models of the challenger; none if training fails, which must not prevent the publication."""
        try:
            return self._trained(strategy, tasks) if tasks else []
        except TrainingFailed as exc:
            self._warn(f"the training of the challenger failed: {exc}")
            return []

    def _trained_or_earlier(self, strategy: OnlineStrategy, tasks: Sequence[Definition]) -> list[Any]:
        """Return the models of tasks; none if training fails and the earlier models are used."""
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

    def result(self, state: DayState, error: str = "") -> DayResult:
        """Return the result to record for the day with a given state."""
        seconds = round(time.perf_counter() - self.began, 3)
        used = "; ".join(self.fallbacks) if state is DayState.PUBLISHED else ""
        history: dict[str, str] = {}
        mark, trained = self.checks.mark, tuple(self.trained)
        try:
            mark = mark or data_mark(self.day, self.others)
            history = history_marks(self.service, self.others) if trained else {}
        except DataError:  # the folder was replaced while it was being read, which may be why the day has failed
            if state is not DayState.FAILED:
                raise
        return DayResult(self.day, state, mark, seconds, error, trained, fallback=used, history=history)

    def _update(self, release: Release, until: pd.Timestamp, *, again: bool) -> None:
        """Make a model predict up to a day; with `again`, even if it has a prediction for that day."""
        recorder = self.service.recorder(release)
        try:
            updater = PredUpdater(recorder, to_date=until, late=False)
        except ArtifactNotFound as exc:
            raise DayFailed(
                f"A model has no prediction: {exc} SignalRecord saves it: add it to 'record' of the template, and create a new "
                "service."
            ) from exc
        if again and updater.last_end >= updater.to_date:
            updater = PredUpdater(recorder, to_date=until, from_date=until, late=False)
        self._write(updater)

    def predict_again(self, release: Release) -> None:
        """Make a model predict the day again."""
        self._write(PredUpdater(self.service.recorder(release), to_date=self.day, from_date=self.day, late=False))

    def _write(self, updater: PredUpdater) -> None:
        updated, recorder = updater.update(ret_new=True), updater.record
        if updated is not None:
            self.predicted[recorder.id] = signal_files.rows_of(updated, [self.day])
        self.written[recorder.id] = recorder

    def sync(self) -> None:
        """Wait until the models that the next entry refers to, and their predictions, are on the disk."""
        released = [self.service.recorder(r) for r in self.releases if r.role is not Role.RETIRED]
        for recorder in {**self.written, **{r.id: r for r in released}}.values():
            recorder.flush()
            with contextlib.suppress(ArtifactNotFound):  # on a server, which is responsible for it
                sync_tree(Path(recorder.get_local_dir()))

    def _failed(self, error: str) -> None:
        """Record that the day has failed, unless the last entry about it already says so."""
        result = self.result(DayState.FAILED, error)
        known = self.held.state.days.get(self.day)
        log.warning("service %s: %s failed: %s", self.service.name, self.day, error)
        if known is None or (known.state, known.error, known.data) != (result.state, result.error, result.data):
            self.held.forget()
            self.held.append(EntryKind.DAY, day_body(result, events=self.events, checks=self.checks.results))

    def _trained(self, strategy: OnlineStrategy, tasks: Sequence[Definition]) -> list[Recorder]:
        mark = training_mark(self.others) if tasks else ""
        dated = self._dated(tasks, mark)
        trainer, name = self.service.trainer, strategy.experiment_name
        try:
            if _keeps_recorders(strategy):
                models = train_missing(trainer, dated, name)
            else:
                models = trainer.end_train(trainer.train(dated, experiment_name=name), experiment_name=name)
        except TrainingFailed as exc:
            self._require_unchanged(mark, exc)
            raise
        self._require_unchanged(mark)
        self.trained += [model.id for model in models if isinstance(model, Recorder)]
        log.info("strategy %s: %d models of %d tasks", name, len(models), len(tasks))
        return models

    def _require_unchanged(self, mark: str, cause: Exception | None = None) -> None:
        """Raise an error if the data no longer have a mark: worker processes may have read the changed data."""
        if mark and training_mark_now(self.others) != mark:
            raise DataChanged(
                f"The data up to {self.day} changed while models were being trained. Run the routine again when no process "
                "writes to the data folder."
            ) from cause

    @staticmethod
    def _dated(tasks: Sequence[Definition], mark: str = "") -> list[Definition]:
        """Return tasks with the last day of the data that they may use, and their mark, which are part of their digests."""
        until = current_session().data_until
        return [{**task, DATA_UNTIL: until, **({DATA_MARK: mark} if mark else {})} for task in tasks]

    def _release(
        self, strategy: OnlineStrategy, models: Sequence[object], online: Sequence[object], reason: str
    ) -> None:
        """Decide which recorders of a strategy are used, and from which day on."""
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

    def _of_windows(self, strategy: RollingStrategy, models: Sequence[object], reason: str) -> list[Release]:
        """Return the releases of new windows: each is used from its first day on, if that is not published yet.

        A model without a template of the strategy, because it was removed or the model was put online manually, is
        used until a window begins.
        """
        floor = self._floor()
        new = strategy.windows([m for m in models if isinstance(m, Recorder)])
        name, state = strategy.experiment_name, self.service.state()
        champions = {r.recorder: r for r in self.service.champions(name, self.day)}
        before = strategy.windows([self.service.recorder(r) for r in champions.values()])
        policy, challenger = self.service.policy, self.service.challenger
        shadow = policy is not None and challenger is None
        all_releases: list[Release] = []
        firsts = []
        for template, windows in new.items():
            starts = {max(start, floor): recorder for start, recorder in windows}  # of several on a day, the latest
            releases = [
                r for start, one in sorted(starts.items()) for r in self.service.released(name, [one], start, reason)
            ]
            former = [champions[r.id] for _, r in before.get(template, [])]
            if challenger is not None and challenger.of(releases[-1]) and not challenger.is_promoted(state, self.day):
                all_releases += of_challenger(state, releases[-1])
            else:
                all_releases += of_windows(state, releases, former, shadow=shadow)
                firsts.append(releases[0].from_day)
        if firsts and -1 not in new:
            ended = [champions[r.id] for _, r in before.get(-1, [])]
            all_releases += [
                replace(r, role=Role.RETIRED, from_day=min(firsts), by=author(), reason=reason) for r in ended
            ]
        return all_releases

    def _fill(self, strategy: OnlineStrategy) -> None:
        """Make the outgoing models predict up to the day before."""
        for release in self.service.champions(strategy.experiment_name, self.day):
            for before in D.calendar(freq=self.service.freq)[-2:-1]:  # none on the first day of the calendar
                self._update(release, before, again=False)

    def _predict(self, strategy: OnlineStrategy) -> None:
        """Make the models of a strategy predict up to the day."""
        if not _updates_predictions(strategy):
            strategy.tool.update_online_pred()
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
        pairs = [] if policy is None else candidates_of(state, self.day, self.service.challenger)
        last = self.held.state.last_published
        belated = (
            last is not None and self.day < last
        )  # later days have been published, so nothing is decided on this one
        if policy is None or not pairs or belated:
            return [], []
        try:
            today = shadow_of(self.service, self.day, pairs)
            comparisons = compared(self.service, policy, pairs, today)
        except RollforgeError as exc:  # the day is published without a comparison
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
        made = self.made(None if first else {self.day})
        ready = [day for day in signal_files.days_of(made) if day <= self.day and day not in state.signals()]
        if self.day not in ready:
            raise DayFailed(f"The models have no predictions for {self.day}.")
        self.checks.scores(signal_files.rows_of(made, [self.day]))
        return self.write(signal_files.rows_of(made, ready), "")

    def made(self, days: set[str] | None) -> Any:
        """Return signals from the predictions of the models, all of which have one for the day.

        Services that share an experiment share its recorders. If another process was updating the same prediction at the
        same time, the file is its version, which may lack the day or have an earlier prediction; then the model predicts
        again.

        Raises
        ------
        DayFailed
            If a model has no prediction for the day.
        """
        missing: list[Release] = []
        for _ in range(_ATTEMPTS):
            for release in missing:
                self._update(release, read_timestamp(self.day), again=True)
            made, error = None, None
            try:
                made = made_signals(self.service, self.options.prepare_func, days)
            except CoverageError as exc:  # there is no prediction at all
                error = exc
            missing = [r for r in self._own_champions() if not self._is_stored(r)]
            if not missing and error is not None:
                raise error
            if not missing:
                return made
            log.warning("service %s: %s: a prediction was overwritten, and is made again", self.service.name, self.day)
        raise DayFailed(f"The model {missing[0].recorder} has no prediction for {self.day}.")

    def _own_champions(self) -> list[Release]:
        """Return the champions whose predictions the routine itself updates."""
        own = {s.experiment_name for s in self.service.strategies if _updates_predictions(s)}
        return [release for release in self.service.state().champions(self.day) if release.strategy in own]

    def _is_stored(self, release: Release) -> bool:
        """Return whether the recorder of a model has its prediction for the day."""
        stored = signal_files.rows_of(self.service.recorder(release).load_object("pred.pkl"), [self.day])
        made = self.predicted.get(release.recorder)
        same = made is None or np.array_equal(made.to_numpy(np.float64), stored.to_numpy(np.float64), equal_nan=True)
        return len(stored) > 0 and same

    def write(self, rows: signal_files.Signals, why: str) -> list[Signal]:
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
        """Write the tags of the recorders, and the aliases of registered models, from the ledger, so that they are correct
        again after a crash.

        They have no effect themselves, so a tracking store that rejects them only causes a warning; the next day retries.
        """
        state, day = self.held.state, self.day or self.service.next_day()
        for strategy in self.service.strategies:
            if not isinstance(strategy.tool, OnlineToolR):
                continue
            wanted = {r.recorder: r for r in state.champions(day) if r.strategy == strategy.experiment_name}
            try:
                tagged = {r.id for r in strategy.tool.tagged()}
                if wanted and (set(wanted) - tagged or not self._of_others(tagged - set(wanted))):
                    self._report_tags(strategy, state, tagged - set(wanted))
                    strategy.tool.mark([self.service.recorder(r) for r in wanted.values()])
            except TrackingError as exc:
                log.warning(TAGS_NOT_WRITTEN, strategy.experiment_name, exc)
        if self.service.registry is not None:
            try:
                mirror_aliases(self.service, state, day, self.service.registry)
            except (ConfigError, TrackingError) as exc:  # the tracking store may have no registry
                log.warning(
                    "the aliases of the registered model %s could not be written: %s", self.service.registry, exc
                )

    def _report_tags(self, strategy: OnlineStrategy, state: ServiceState, tagged: set[str]) -> None:
        """Log that tags are written again, as a warning if somebody has put former models online by their tags alone."""
        known = {r.recorder for _, r in state.releases if r.strategy == strategy.experiment_name}
        before = {r.recorder for r in state.champions(str(read_day(self.day or self.service.next_day()) - ONE_DAY))}
        others = sorted(tagged & known - before)
        if not others:
            log.info("strategy %s: the tags of its recorders are written again", strategy.experiment_name)
            return
        log.warning(
            "strategy %s: the recorder %s was tagged as online, but is not the model of the service, so the tag is removed. Tags "
            "decide nothing: use reset_online_tag of the manager's strategy, or 'rollforge serve promote'.",
            strategy.experiment_name, first_few(others),
        )  # fmt: skip

    def _of_others(self, recorders: set[str]) -> bool:
        """Return whether all of some recorders are those of other services, which share the experiment."""
        return not recorders or recorders <= self.service.released_by_others(of_files=True)


def _digest_of(model: Recorder) -> str:
    """Return the digest of a model's task, see :func:`window_digest`; empty if it has none."""
    try:
        return window_digest(model.load_object("task"))
    except ArtifactNotFound:
        return ""


def _document(service: Service) -> Mapping[str, object]:
    return {} if service.policy is None else service.policy.to_document()


def _keeps_recorders(strategy: OnlineStrategy) -> bool:
    return isinstance(strategy.tool, OnlineToolR)


def _updates_predictions(strategy: OnlineStrategy) -> bool:
    """Return whether the predictions of a strategy's models are updated here, and not by a tool of its own."""
    return _keeps_recorders(strategy) and type(strategy.tool).update_online_pred is OnlineToolR.update_online_pred


def _keeps_models(strategy: OnlineStrategy) -> bool:
    """Return whether a strategy without new models keeps those of the ledger."""
    own = type(strategy).prepare_online_models is not RollingStrategy.prepare_online_models
    return _keeps_recorders(strategy) and not own


def made_signals(service: Service, prepare_func: PrepareFunc | None, days: set[str] | None) -> signal_files.Signals:
    """Return signals from the results of the strategies, by default of some days only."""
    service.days = days if prepare_func is None else None
    try:
        collectors = {s.experiment_name: s.get_collector(artifacts_key=["pred"]) for s in service.strategies}
        made = (prepare_func or AverageEnsemble())(MergeCollector(collectors, process_list=[])())
        if not isinstance(made, (pd.Series, pd.DataFrame)) or not {"datetime", "instrument"} <= {*made.index.names}:
            raise ConfigError(
                f"must return signals as a Series or DataFrame with index (datetime, instrument), returned a "
                f"{type(made).__name__}.",
                path="prepare_func",
            )
        return made
    finally:
        service.days = None
