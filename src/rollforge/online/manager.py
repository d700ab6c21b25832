"""The online manager: initial training, then a daily routine of new tasks, predictions and signals."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from rollforge.collect.collector import MergeCollector
from rollforge.collect.ensemble import AverageEnsemble
from rollforge.dates import DayLike, read_timestamp
from rollforge.errors import ConfigError
from rollforge.features.api import D
from rollforge.online.strategy import OnlineStrategy
from rollforge.pickling import Serializable
from rollforge.run.execute import DATA_UNTIL
from rollforge.run.trainer import Trainer, TrainerR
from rollforge.session import bounded, current_session

__all__ = ["OnlineManager"]

log = logging.getLogger(__name__)


class OnlineManager(Serializable):
    """Runs strategies over time, and records which models were online when.

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
    ) -> None:
        self.strategies = _as_list(strategies)
        if not self.strategies:
            raise ConfigError("An OnlineManager needs at least one strategy.", path="strategies")
        self.freq = freq
        self.begin_time = self._day(begin_time, "begin_time")
        self.cur_time = self.begin_time
        self.history: dict[pd.Timestamp, dict[OnlineStrategy, list[Any]]] = {}
        """Day -> strategy -> the models that were online from then on."""
        self.trainer = trainer if trainer is not None else TrainerR()
        self.signals: pd.Series | pd.DataFrame | None = None
        self.status = self.STATUS_ONLINE

    def _day(self, time: object, name: str) -> pd.Timestamp:
        return read_timestamp(D.calendar(freq=self.freq)[-1] if time is None else time, name)

    # -- day by day ----------------------------------------------------------------------------------------------------

    def first_train(
        self, strategies: list[OnlineStrategy] | None = None, model_kwargs: Mapping[str, object] | None = None
    ) -> None:
        """Train the first tasks of the strategies and put their models online.

        Parameters
        ----------
        strategies : list of OnlineStrategy, optional
            By default the manager's.
        model_kwargs : mapping, optional
            Arguments for `prepare_online_models`.
        """
        chosen = self.strategies if strategies is None else strategies
        with self._data():
            trained = [(s, self._train(s, s.first_tasks(), model_kwargs)) for s in chosen]
            self._end(trained)

    def routine(
        self,
        cur_time: DayLike | None = None,
        task_kwargs: Mapping[str, object] | None = None,
        model_kwargs: Mapping[str, object] | None = None,
        signal_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Run the routine of a day: train new tasks, update online models and predictions, and prepare signals.

        Parameters
        ----------
        cur_time : date-like, optional
            The day; by default the last of the calendar.
        task_kwargs, model_kwargs, signal_kwargs : mapping, optional
            Arguments for `prepare_tasks`, `prepare_online_models` and `prepare_signals`.
        """
        self.cur_time = self._day(cur_time, "cur_time")
        with self._data():
            trained = []
            for strategy in self.strategies:
                tasks = strategy.prepare_tasks(self.cur_time, **(task_kwargs or {}))
                if tasks:  # the outgoing models predict up to the day before
                    strategy.tool.update_online_pred()
                trained.append((strategy, self._train(strategy, tasks, model_kwargs)))
            self._end(trained)
            for strategy in self.strategies:
                strategy.tool.update_online_pred()
            self.prepare_signals(**(signal_kwargs or {}))

    @contextlib.contextmanager
    def _data(self) -> Iterator[None]:
        """In this block, the data end on the current day."""
        with bounded(self.cur_time):
            yield

    def _train(
        self, strategy: OnlineStrategy, tasks: list[dict[str, object]], model_kwargs: Mapping[str, object] | None
    ) -> list[Any]:
        until = current_session().data_until
        dated = [{**task, DATA_UNTIL: until} for task in tasks]
        models = self.trainer.train(dated, experiment_name=strategy.experiment_name)
        online = strategy.prepare_online_models(models, **(model_kwargs or {}))
        self.history.setdefault(self.cur_time, {})[strategy] = online
        log.info("strategy %s: %d models trained, %d online", strategy.experiment_name, len(models), len(online))
        return models

    def _end(self, trained: Sequence[tuple[OnlineStrategy, list[Any]]]) -> None:
        """Finish the training."""
        for strategy, models in trained:
            self.trainer.end_train(models, experiment_name=strategy.experiment_name)

    def add_strategy(self, strategies: OnlineStrategy | list[OnlineStrategy]) -> None:
        """Add strategies: train their first tasks and manage them from now on."""
        added = _as_list(strategies)
        self.first_train(added)
        self.strategies.extend(added)

    # -- results -------------------------------------------------------------------------------------------------------

    def get_collector(self, **kwargs: object) -> MergeCollector:
        """Return a collector of the results of all strategies: {(strategy, artifact): …}."""
        return MergeCollector({s.experiment_name: s.get_collector(**kwargs) for s in self.strategies}, process_list=[])

    def prepare_signals(
        self, prepare_func: Callable[..., Any] | None = None, over_write: bool = False
    ) -> pd.Series | pd.DataFrame:
        """Prepare the trading signals from the results so far, and return the new ones.

        Parameters
        ----------
        prepare_func : callable, optional
            Converts the collected results to signals; by default their average after standardising each day.
        over_write : bool
            Whether to replace earlier signals; if False, only later signals are added.
        """
        results = self.get_collector(artifacts_key=["pred"])()
        made = (prepare_func or AverageEnsemble())(results)
        new = made
        if self.signals is not None and not over_write:
            last = self.signals.index.get_level_values("datetime").max()
            new = made[made.index.get_level_values("datetime") > last]
            made = pd.concat([self.signals, new])
        log.info("%d new signals", len(new))
        self.signals = made
        return new

    def get_signals(self) -> pd.Series | pd.DataFrame | None:
        """Return the prepared signals, index (datetime, instrument); None if there are none yet."""
        return self.signals

    # -- simulation ----------------------------------------------------------------------------------------------------

    def simulate(
        self,
        end_time: DayLike | None = None,
        frequency: str = "day",
        task_kwargs: Mapping[str, object] | None = None,
        model_kwargs: Mapping[str, object] | None = None,
        signal_kwargs: Mapping[str, Any] | None = None,
    ) -> pd.Series | pd.DataFrame | None:
        """Run the first training and the routine of every day until `end_time`, and return the signals."""
        self.status = self.STATUS_SIMULATING
        try:
            days = D.calendar(start_time=self.cur_time, end_time=end_time, freq=frequency)
            self.first_train(model_kwargs=model_kwargs)
            for day in days:
                self.routine(day, task_kwargs, model_kwargs, signal_kwargs)
        finally:
            self.status = self.STATUS_ONLINE
        return self.get_signals()

    def delay_prepare(
        self, model_kwargs: Mapping[str, Any] | None = None, signal_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """Fit the models that a simulation has postponed, and prepare its signals.

        Parameters
        ----------
        model_kwargs : mapping, optional
            Arguments for the trainer's `end_train`.
        signal_kwargs : mapping, optional
            Arguments for `prepare_signals`.
        """
        before: dict[OnlineStrategy, set[object]] = {}
        for day, online in self.history.items():
            self.cur_time, changed = day, False
            for strategy, models in online.items():
                if before.get(strategy, set()) != set(models):
                    ended = self.trainer.end_train(
                        models, experiment_name=strategy.experiment_name, **(model_kwargs or {})
                    )
                    strategy.tool.reset_online_tag(ended)
                    changed = True
                before[strategy] = set(models)
            if changed:
                self.prepare_signals(**(signal_kwargs or {}))


def _as_list(strategies: OnlineStrategy | list[OnlineStrategy]) -> list[OnlineStrategy]:
    return list(strategies) if isinstance(strategies, (list, tuple)) else [strategies]
