"""Collecting by task, with the interface of Qlib's earlier documentation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from rollforge.collect.ensemble import RollingEnsemble
from rollforge.errors import ArtifactNotFound
from rollforge.generate.segments import bounds
from rollforge.generate.task_view import TaskView
from rollforge.moved import Alias, Aliased
from rollforge.session import current_session
from rollforge.task import Definition
from rollforge.track.base import Experiment, Recorder, Tracker, get_experiment, open_tracker

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TaskCollector"]

Key = TypeVar("Key")


class TaskCollector(Aliased):
    """Collects by task, as Qlib documented it before :class:`RecorderCollector`.

    Parameters
    ----------
    experiment_name : str
        Name of the experiment; its recorders must contain their tasks.
    tracker : Tracker or str, optional
        The tracking store, or its URI; by default the session's.

    Examples
    --------
    >>> import tempfile
    >>> from rollforge.session import Session, using
    >>> folder = tempfile.TemporaryDirectory()
    >>> with using(Session(tracking_uri=f"folder:{folder.name}")) as session:
    ...     experiment = get_experiment(open_tracker(session.tracking_uri), experiment_name="demo")
    ...     with experiment.create_recorder("first") as recorder:
    ...         recorder.save_objects(task={"model": {"class": "Linear"}})
    ...     [r.name for r in TaskCollector("demo").list_recorders(only_have_task=True).values()]
    ['first']
    >>> folder.cleanup()
    """

    exp_name = Alias("experiment_name")

    def __init__(self, experiment_name: str, *, tracker: Tracker | str | None = None) -> None:
        self.experiment_name = experiment_name
        self.tracker = tracker

    def _experiment(self) -> Experiment:
        """Return the experiment; an error if it does not exist."""
        tracker = open_tracker(current_session().with_(tracker=self.tracker).tracking_uri)
        return get_experiment(tracker, experiment_name=self.experiment_name, create=False)

    def list_recorders(
        self,
        rec_filter_func: Callable[[Recorder], bool] | None = None,
        task_filter_func: Callable[[Definition], bool] | None = None,
        only_finished: bool = True,
        only_have_task: bool = False,
    ) -> dict[str, Recorder]:
        """Return the recorders by id.

        Parameters
        ----------
        rec_filter_func : callable, optional
            ``recorder -> bool``.
        task_filter_func : callable, optional
            ``task -> bool``.
        only_finished : bool
            Whether to skip unfinished recorders.
        only_have_task : bool
            Whether to skip recorders without a task; implied by `task_filter_func`.
        """
        found: dict[str, Recorder] = self._experiment().list_recorders(
            status=Recorder.STATUS_FI if only_finished else None
        )
        kept = {}
        for rid, recorder in found.items():
            if rec_filter_func is not None and not rec_filter_func(recorder):
                continue
            if only_have_task or task_filter_func is not None:
                try:
                    task = recorder.load_object("task")
                except ArtifactNotFound:
                    continue
                if task_filter_func is not None and not task_filter_func(task):
                    continue
            kept[rid] = recorder
        return kept

    def collect_predictions(
        self,
        get_key_func: Callable[[Definition], Key],
        task_filter_func: Callable[[Definition], bool] | None = None,
    ) -> dict[Key, pd.DataFrame]:
        """Return ``{key: prediction}``; predictions with the same key are joined over their windows.

        Parameters
        ----------
        get_key_func : callable
            ``task -> key``.
        task_filter_func : callable, optional
            ``task -> bool``.
        """
        groups: dict[Key, dict[str, pd.DataFrame]] = {}
        for rid, recorder in self.list_recorders(task_filter_func=task_filter_func, only_have_task=True).items():
            groups.setdefault(get_key_func(recorder.load_object("task")), {})[rid] = recorder.load_object("pred.pkl")
        return {key: RollingEnsemble()(parts) for key, parts in groups.items()}

    def collect_latest_records(
        self, task_filter_func: Callable[[Definition], bool] | None = None
    ) -> dict[str, Recorder]:
        """Return the recorders with the latest start of the test segment."""
        tasks = {
            rid: (recorder, bounds("test", TaskView(recorder.load_object("task")).segments["test"]).start)
            for rid, recorder in self.list_recorders(task_filter_func=task_filter_func, only_have_task=True).items()
        }
        last = max((start for _, start in tasks.values() if start is not None), default=None)
        return {rid: recorder for rid, (recorder, start) in tasks.items() if start == last}
