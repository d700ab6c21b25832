"""Online strategies: which tasks to train next, and which models to put online."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from rollforge import trust
from rollforge.collect.collector import Collector, RecorderCollector
from rollforge.collect.group import RollingGroup
from rollforge.dates import DayLike, read_day, read_timestamp
from rollforge.errors import ConfigError
from rollforge.generate.base import task_generator
from rollforge.generate.calendar import TimeAdjuster
from rollforge.generate.rolling import RollingGen
from rollforge.generate.task_view import TaskView
from rollforge.moved import Alias, Aliased
from rollforge.online.tool import OnlineTool, OnlineToolR
from rollforge.task import Definition
from rollforge.track.base import Recorder

__all__ = ["OnlineStrategy", "RollingStrategy"]

log = logging.getLogger(__name__)


class OnlineStrategy(Aliased):
    """Base class of online strategies, which decide what is trained and what goes online.

    Parameters
    ----------
    name_id : str
        A unique name.

    Examples
    --------
    >>> class Once(OnlineStrategy):
    ...     def first_tasks(self):
    ...         return [{"model": {"class": "LinearModel"}}]
    ...     def prepare_tasks(self, cur_time, **kwargs):
    ...         return []
    >>> Once("demo").first_tasks()[0]["model"]["class"]
    'LinearModel'
    """

    name_id = Alias("experiment_name")

    def __init__(self, name_id: str) -> None:
        self.experiment_name = name_id
        self.tool: OnlineTool = OnlineTool()

    def prepare_tasks(self, cur_time: Any, **kwargs: Any) -> list[Definition]:
        """Return the new tasks to train at `cur_time`; None means the last day of the calendar."""
        raise NotImplementedError(f"{type(self).__name__} must implement prepare_tasks().")

    def prepare_online_models(self, trained_models: list[Any], cur_time: Any = None) -> list[Any]:
        """Put the trained models online, if there are any, and return the models that are online afterwards."""
        if not trained_models:
            return self.tool.online_models()
        self.tool.reset_online_tag(trained_models)
        return trained_models

    def first_tasks(self) -> list[Definition]:
        """Return the tasks of the first training."""
        raise NotImplementedError(f"{type(self).__name__} must implement first_tasks().")

    def get_collector(self, **kwargs: Any) -> Collector:
        """Return the collector of this strategy's results."""
        raise NotImplementedError(f"{type(self).__name__} must implement get_collector().")


def _model_and_test(recorder: Recorder) -> tuple[Any, Any]:
    task = TaskView(recorder.load_object("task"))
    return task.model_class, task.segments["test"]


class RollingStrategy(OnlineStrategy):
    """Puts the latest rolling models online.

    Parameters
    ----------
    name_id : str
        A unique name, which is also the name of the experiment.
    task_template : dict or list of dict
        Templates of the tasks to roll.
    rolling_gen : RollingGen
        Generator of the windows.

    Examples
    --------
    >>> template = {"model": {"class": "LinearModel"}, "dataset": {}}
    >>> RollingStrategy("demo", template, RollingGen(step=20, calendar=["2020-01-01"])).experiment_name
    'demo'
    """

    exp_name = Alias("experiment_name")

    def __init__(self, name_id: str, task_template: Definition | list[Definition], rolling_gen: RollingGen) -> None:
        super().__init__(name_id)
        if not isinstance(rolling_gen, RollingGen):
            raise ConfigError(
                f"rolling_gen must be a RollingGen, found {type(rolling_gen).__name__}.", path="rolling_gen"
            )
        self.task_template = task_template if isinstance(task_template, list) else [task_template]
        self.rg = rolling_gen
        self.tool: OnlineToolR = OnlineToolR(self.experiment_name)

    def get_collector(
        self,
        process_list: Sequence[Callable[..., Any]] | None = None,
        rec_key_func: Callable[[Recorder], Any] | None = None,
        rec_filter_func: Callable[[Recorder], bool] | None = None,
        artifacts_key: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Collector:
        """Return a collector of the experiment's results, joined over the windows.

        Parameters
        ----------
        process_list : sequence of callable, optional
            Processes applied to them; by default :class:`~rollforge.collect.group.RollingGroup`.
        rec_key_func : callable, optional
            Key of a recorder; by default (class of the model, test segment).
        rec_filter_func : callable, optional
            Whether to collect a recorder.
        artifacts_key : sequence of str, optional
            Artifacts to collect; by default all that the collector knows.
        """
        return RecorderCollector(
            experiment=self.experiment_name,
            process_list=[RollingGroup()] if process_list is None else list(process_list),
            rec_key_func=rec_key_func or _model_and_test,
            rec_filter_func=rec_filter_func,
            artifacts_key=artifacts_key,
            **kwargs,
        )

    def first_tasks(self) -> list[Definition]:
        """Return the windows of the templates."""
        return task_generator(tasks=self.task_template, generators=self.rg)

    def prepare_tasks(self, cur_time: DayLike | None = None, **kwargs: Any) -> list[Definition]:
        """Return the windows that follow the latest online ones and begin before `cur_time`."""
        latest, test = self._latest(self.tool.online_models())
        if test is None:
            log.warning("strategy %s has no online model yet, so there are no further tasks", self.experiment_name)
            return []
        until = _last_day(cur_time)
        return [t for recorder in latest for t in self.rg.gen_following_tasks(self._task_of(recorder), until)]

    def _task_of(self, recorder: Recorder) -> Definition:
        """Return the task of an online model after checking that it names no other code than the templates.

        Others may be able to write to its tracking store.
        """
        task: Definition = recorder.load_object("task")
        trust.check_names(task, self.task_template, f"The task of recorder {recorder.id}")
        return task

    def _latest(self, recorders: Sequence[Recorder]) -> tuple[list[Recorder], Any]:
        tests = [(r, _model_and_test(r)[1]) for r in recorders]
        if not tests:
            return [], None
        last = max((t for _, t in tests), key=lambda t: read_day(t[0]))
        return [r for r, t in tests if read_day(t[0]) == read_day(last[0])], last


def _last_day(cur_time: object) -> pd.Timestamp:
    """Return a time, at most the last day of the calendar; None gives that day."""
    last = TimeAdjuster(future=False).max()
    return last if cur_time is None else min(read_timestamp(cur_time, "cur_time"), last)
