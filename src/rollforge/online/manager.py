"""The online manager: Qlib's interface to a service, with initial training and a daily routine."""

from __future__ import annotations

import contextlib
import logging
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from rollforge.collect.collector import MergeCollector
from rollforge.dates import DayLike, read_day, read_timestamp
from rollforge.errors import ConfigError, DayFailed, excerpt
from rollforge.features.api import D
from rollforge.ledger.entry import DayResult, DayState, EntryKind, Signal, day_body, service_body
from rollforge.ledger.state import ServiceState
from rollforge.online import signal_files
from rollforge.online.corrections import publish
from rollforge.online.day import Options
from rollforge.online.policy import Policy
from rollforge.online.releases import replaced_by
from rollforge.online.routine import catch_up, first_train
from rollforge.online.service import Service, check_names, recorder_of
from rollforge.online.strategy import OnlineStrategy
from rollforge.pickling import Serializable
from rollforge.run.trainer import Trainer, TrainerR
from rollforge.track.base import Recorder

__all__ = ["OnlineManager"]

log = logging.getLogger(__name__)

_MAX_NAME_LENGTH = 60


class OnlineManager(Serializable):
    """Runs strategies over time, and records which models were online at which time.

    What was trained, released and published is in the ledger of its :class:`~rollforge.online.service.Service`. The
    manager and its file contain only the definition; a manager that is loaded from a file finds its ledger again.

    Parameters
    ----------
    strategies : OnlineStrategy or list of them
        One or more strategies.
    trainer : Trainer, optional
        By default a :class:`~rollforge.run.trainer.TrainerR`.
    begin_time : date-like, optional
        The first day; by default the last of the calendar.
    freq : str
        Name of the calendar.
    service : str, optional
        Name of the service in the ledger; by default a new one, so that two managers are two services.
    ledger : str, optional
        URI of the ledger; by default that of the session's task store.
    folder : path, optional
        Folder of the signals' files; by default ``services/NAME`` in the project's folder ``.rollforge``.
    policy : Policy, optional
        When the model of a new window replaces the champion; by default at once, see
        :class:`~rollforge.online.policy.Policy`.

    Examples
    --------
    >>> manager = OnlineManager(OnlineStrategy("demo"), begin_time="2020-01-02")
    >>> manager.status, manager.cur_time
    ('online', Timestamp('2020-01-02 00:00:00'))
    """

    STATUS_SIMULATING = "simulating"
    STATUS_ONLINE = "online"

    def __init__(
        self,
        strategies: OnlineStrategy | list[OnlineStrategy],
        trainer: Trainer | None = None,
        begin_time: DayLike | None = None,
        freq: str = "day",
        *,
        service: str | None = None,
        ledger: str | None = None,
        folder: str | Path | None = None,
        policy: Policy | None = None,
    ) -> None:
        listed = _as_list(strategies)
        if not listed:
            raise ConfigError("An OnlineManager needs at least one strategy.", path="strategies")
        for one in listed:
            if not isinstance(one, OnlineStrategy):
                raise ConfigError(
                    f"must be a strategy or a list of strategies, found {excerpt(repr(one))}.", path="strategies"
                )
        if trainer is not None and (isinstance(trainer, type) or not callable(getattr(trainer, "train", None))):
            raise ConfigError(f"must be a trainer, such as TrainerR(), found {trainer!r}.", path="trainer")
        self.freq = freq
        self.begin_time = read_timestamp(D.calendar(freq=freq)[-1] if begin_time is None else begin_time, "begin_time")
        self.cur_time = self.begin_time
        self.status = self.STATUS_ONLINE
        self.service = Service(
            service or _new_name(listed), listed, trainer if trainer is not None else TrainerR(), self.begin_time, freq,
            ledger, None if folder is None else Path(folder), policy=policy,
        )  # fmt: skip
        self._online: dict[pd.Timestamp, dict[OnlineStrategy, list[object]]] = {}

    @property
    def strategies(self) -> list[OnlineStrategy]:
        """The strategies."""
        return self.service.strategies

    @property
    def trainer(self) -> Trainer:
        """The trainer."""
        return self.service.trainer

    @trainer.setter
    def trainer(self, trainer: Trainer) -> None:
        self.service.trainer = trainer

    # -- files ---------------------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, object]:
        service = self.service
        return {
            "strategies": service.strategies, "trainer": service.trainer, "begin_time": self.begin_time, "freq": self.freq,
            "cur_time": self.cur_time, "status": self.status, "service": service.name, "ledger": service.ledger_uri,
            "folder": service.folder, "policy": service.policy,
        }  # fmt: skip

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.freq, self.begin_time = state["freq"], state["begin_time"]
        self.cur_time, self.status = state["cur_time"], state["status"]
        self.service = Service(
            state.get("service") or _new_name(state["strategies"]), state["strategies"], state["trainer"],
            self.begin_time, self.freq, state.get("ledger"), state.get("folder"), policy=state.get("policy"),
        )  # fmt: skip
        self._online = {}
        if state.get("history") or state.get("signals") is not None:  # saved by an earlier version
            self._import(state.get("history") or {}, state.get("signals"))

    def _import(self, history: Mapping[pd.Timestamp, Mapping[OnlineStrategy, list[Any]]], signals: Any) -> None:
        """Add to the ledger what an earlier version kept in the manager's file."""
        with self.service.hold() as held:
            held.append(EntryKind.SERVICE, service_body(self.service.name, {"strategies": self._names()}))
            for time, online in sorted(history.items(), key=lambda item: item[0]):
                day = str(time.date())
                releases = []
                for strategy, models in online.items():
                    now = [model for model in models if isinstance(model, Recorder)]
                    if now:
                        reason = "from the manager's file"
                        models = self.service.released(strategy.experiment_name, now, day, reason)
                        releases += replaced_by(held.state, models, day, reason)
                held.append(EntryKind.DAY, day_body(DayResult(day, DayState.PUBLISHED), releases=releases))
            if signals is not None and len(signals):
                days = signal_files.days_of(signals)
                rows = signal_files.rows_of(signals, days)
                file, mark = signal_files.write(self.service.place, f"{days[-1]}.v1", rows)
                counts = pd.DatetimeIndex(rows.index.get_level_values("datetime")).value_counts()
                made = [Signal(d, 1, (), file, mark, int(counts[read_timestamp(d)]), "") for d in days]
                held.append(EntryKind.DAY, day_body(DayResult(days[-1], DayState.PUBLISHED), signals=made))

    def _names(self) -> list[str]:
        return [strategy.experiment_name for strategy in self.strategies]

    # -- state ---------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> ServiceState:
        """The state that follows from the entries of the ledger."""
        return self.service.state()

    @property
    def history(self) -> dict[pd.Timestamp, dict[OnlineStrategy, list[Any]]]:
        """Day of a routine -> strategy -> the models that were online from then on."""
        state = self.state
        found: dict[pd.Timestamp, dict[OnlineStrategy, list[object]]] = {}
        for day, result in state.days.items():
            if result.state is DayState.FAILED:
                continue
            online = found.setdefault(read_timestamp(day), {})
            for strategy in self.strategies:
                releases = self.service.champions(strategy.experiment_name, day)
                online[strategy] = [recorder_of(release) for release in releases]
        return found

    @property
    def signals(self) -> pd.Series | pd.DataFrame | None:
        """The published signals, see :meth:`get_signals`."""
        return self.get_signals()

    # -- day by day ----------------------------------------------------------------------------------------------------

    def first_train(
        self, strategies: list[OnlineStrategy] | None = None, model_kwargs: Mapping[str, object] | None = None
    ) -> None:
        """Train the first tasks of the strategies with the data up to the first day, and put their models online.

        Tasks that are already trained are not trained again, and a strategy that has begun is not changed.

        Parameters
        ----------
        strategies : list of OnlineStrategy, optional
            By default the manager's.
        model_kwargs : mapping, optional
            Arguments for `prepare_online_models`.
        """
        first_train(self.service, Options(models=model_kwargs or {}, adopt=False), strategies)

    def routine(
        self,
        cur_time: DayLike | None = None,
        task_kwargs: Mapping[str, object] | None = None,
        model_kwargs: Mapping[str, object] | None = None,
        signal_kwargs: Mapping[str, object] | None = None,
    ) -> None:
        """Run the routine of a day, and before it those of earlier days that are not published yet.

        The routine of a day trains new tasks, puts their models online, updates the predictions and publishes the
        signals. It uses the data up to its day. For a day that is already published, nothing changes.

        Parameters
        ----------
        cur_time : date-like, optional
            The day; by default the last of the calendar. If it is not a trading day, the previous one is used.
        task_kwargs, model_kwargs, signal_kwargs : mapping, optional
            Arguments for `prepare_tasks`, `prepare_online_models` and `prepare_signals`.

        Raises
        ------
        ConfigError
            If there is no trading day up to `cur_time`, or it is before the first day.
        DayFailed
            If nothing can be published for the day, because its data are missing.
        ServiceBusy
            If another process runs the routine.
        """
        day = self._trading_day(cur_time)
        self._catch_up(day, task_kwargs, model_kwargs, signal_kwargs, adopt=True)

    def _catch_up(
        self,
        day: pd.Timestamp,
        task_kwargs: Mapping[str, object] | None,
        model_kwargs: Mapping[str, object] | None,
        signal_kwargs: Mapping[str, Any] | None,
        *,
        adopt: bool,
    ) -> None:
        given = dict(signal_kwargs or {})
        own = getattr(self.prepare_signals, "__func__", None) is not OnlineManager.prepare_signals
        options = Options(
            task_kwargs or {}, model_kwargs or {}, given.get("prepare_func"), publish=not own, adopt=adopt
        )  # fmt: skip
        self.cur_time = day
        catch_up(self.service, day, options)
        last = self.state.days.get(str(day.date()))
        if last is not None and last.state is DayState.FAILED:
            raise DayFailed(last.error)
        if own or given.get("over_write"):
            self.prepare_signals(**given)

    def _trading_day(self, time: DayLike | None) -> pd.Timestamp:
        """Return the last trading day up to a time."""
        calendar = D.calendar(freq=self.freq)
        if time is None:
            day = read_timestamp(calendar[-1])
        else:
            until = read_timestamp(time, "cur_time")
            known = calendar[calendar <= until]
            if not len(known):
                raise ConfigError(f"There is no trading day up to {read_day(until)}.", path="cur_time")
            day = read_timestamp(known[-1])
        first = [d for d in calendar if d >= self.begin_time]
        if first and day < first[0]:
            asked = "" if time is None or until == day else f", the last trading day up to {read_day(until)},"
            message = f"{read_day(day)}{asked} is before the first day, {read_day(self.begin_time)}."
            raise ConfigError(message, path="cur_time")
        return day

    def add_strategy(self, strategies: OnlineStrategy | list[OnlineStrategy]) -> None:
        """Add strategies: train their first tasks with the data up to the last published day, and manage them from now on.

        Raises
        ------
        ConfigError
            If a strategy has the name of another one.
        """
        added = _as_list(strategies)
        check_names([*self._names(), *(s.experiment_name for s in added)])
        for strategy in added:
            strategy.bind(self.service)
        self.first_train(added)
        self.strategies.extend(added)

    # -- results -------------------------------------------------------------------------------------------------------

    def get_collector(self, **kwargs: object) -> MergeCollector:
        """Return a collector of the results of all strategies: {(strategy, artifact): …}."""
        return MergeCollector({s.experiment_name: s.get_collector(**kwargs) for s in self.strategies}, process_list=[])

    def prepare_signals(
        self, prepare_func: Callable[..., object] | None = None, over_write: bool = False
    ) -> pd.Series | pd.DataFrame:
        """Compute the trading signals from the predictions so far without a routine, and return the new ones.

        Parameters
        ----------
        prepare_func : callable, optional
            Converts the collected results to signals; by default their average after standardizing each day.
        over_write : bool
            Whether earlier signals that differ get a new version; if False, only later days are added. Earlier versions
            are kept in the ledger.
        """
        new: pd.Series | pd.DataFrame = publish(self.service, prepare_func, over_write=over_write)
        log.info("%d new signals", len(new))
        return new

    def get_signals(self) -> pd.Series | pd.DataFrame | None:
        """Return the latest version of the published signals, index (datetime, instrument); None if there are none yet."""
        return self.service.signals()

    # -- simulation ----------------------------------------------------------------------------------------------------

    def simulate(
        self,
        end_time: DayLike | None = None,
        frequency: str = "day",
        task_kwargs: Mapping[str, object] | None = None,
        model_kwargs: Mapping[str, object] | None = None,
        signal_kwargs: Mapping[str, object] | None = None,
    ) -> pd.Series | pd.DataFrame | None:
        """Run the first training and the routine of every day until `end_time`, and return the signals.

        Each day uses the data up to it, so the result is the same as serving day by day. Days after `end_time` that
        the service has published before are not returned.

        Raises
        ------
        ConfigError
            If `end_time` is before the first day.
        """
        if end_time is not None and read_timestamp(end_time, "end_time") < self.begin_time:
            raise ConfigError(
                f"{read_day(end_time)} is before the first day, {read_day(self.begin_time)}.", path="end_time"
            )
        with self._simulating():
            self.first_train(model_kwargs=model_kwargs)
            days = [day for day in D.calendar(end_time=end_time, freq=frequency) if day >= self.begin_time]
            if days:
                self._catch_up(read_timestamp(days[-1]), task_kwargs, model_kwargs, signal_kwargs, adopt=False)
        signals = self.get_signals()
        if signals is None or end_time is None:
            return signals
        return signals[signals.index.get_level_values("datetime") <= read_timestamp(end_time, "end_time")]

    @contextlib.contextmanager
    def _simulating(self) -> Iterator[None]:
        self.status = self.STATUS_SIMULATING
        try:
            yield
        finally:
            self.status = self.STATUS_ONLINE

    def delay_prepare(
        self, model_kwargs: Mapping[str, object] | None = None, signal_kwargs: Mapping[str, object] | None = None
    ) -> None:
        """Do nothing: a simulation fits each model on the day on which it is needed, with any trainer.

        Exists for compatibility with Qlib, where a simulation with a delayed trainer postpones fitting.
        """


def _new_name(strategies: list[OnlineStrategy]) -> str:
    """Return a name for a new service, without the slashes that names of experiments may have."""
    named = re.sub(r"^[.]|[/\\]", "-", "+".join(strategy.experiment_name for strategy in strategies))[:_MAX_NAME_LENGTH]
    return f"{named}-{uuid.uuid4().hex[:8]}"


def _as_list(strategies: OnlineStrategy | list[OnlineStrategy]) -> list[OnlineStrategy]:
    return list(strategies) if isinstance(strategies, (list, tuple)) else [strategies]
