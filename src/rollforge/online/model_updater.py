"""Updating the models of an experiment, with the interface of Qlib's earlier documentation."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rollforge.collect.task_collector import TaskCollector
from rollforge.errors import ConfigError, excerpt
from rollforge.online.update import PredUpdater
from rollforge.track.base import Recorder, Tracker

__all__ = ["ModelUpdater"]


class ModelUpdater(TaskCollector):
    """Marks which recorders of an experiment are online, and updates their predictions.

    Qlib documented it before :class:`~rollforge.online.tool.OnlineToolR`, which uses a different tag.

    Parameters
    ----------
    experiment_name : str
        Name of the experiment.
    tracker : Tracker or str, optional
        The tracking store, or its URI; by default the session's.

    Examples
    --------
    >>> import tempfile
    >>> from rollforge.session import Session, using
    >>> from rollforge.track.base import get_experiment, open_tracker
    >>> folder = tempfile.TemporaryDirectory()
    >>> with using(Session(tracking_uri=f"folder:{folder.name}")) as session:
    ...     experiment = get_experiment(open_tracker(session.tracking_uri), experiment_name="demo")
    ...     with experiment.create_recorder("first") as recorder:
    ...         pass
    ...     updater = ModelUpdater("demo")
    ...     updater.set_online_model(recorder.id)
    ...     [r.name for r in updater.list_online_model().values()]
    ['first']
    >>> folder.cleanup()
    """

    ONLINE_TAG = "online_model"
    ONLINE_TAG_TRUE = "True"
    ONLINE_TAG_FALSE = "False"

    def __init__(self, experiment_name: str, *, tracker: Tracker | str | None = None) -> None:
        super().__init__(experiment_name, tracker=tracker)
        self._experiment()  # raises an error for a name that does not exist

    def _recorder(self, recorder: str | Recorder) -> Recorder:
        if isinstance(recorder, Recorder):
            return recorder
        if not isinstance(recorder, str):
            raise ConfigError(f"must be a recorder or its id, found {excerpt(repr(recorder))}.", path="recorder")
        return self._experiment().get_recorder(recorder_id=recorder)

    def set_online_model(self, recorder: str | Recorder) -> None:
        """Mark a recorder, or the one with an id, as online."""
        self._recorder(recorder).set_tags(**{self.ONLINE_TAG: self.ONLINE_TAG_TRUE})

    def cancel_online_model(self, recorder: str | Recorder) -> None:
        """Mark a recorder, or the one with an id, as not online."""
        self._recorder(recorder).set_tags(**{self.ONLINE_TAG: self.ONLINE_TAG_FALSE})

    def cancel_all_online_model(self) -> None:
        """Mark all recorders of the experiment as not online."""
        for recorder in self.list_online_model().values():
            self.cancel_online_model(recorder)

    def reset_online_model(self, recorders: str | Recorder | Iterable[str | Recorder]) -> None:
        """Mark these recorders as online, and all others as not online.

        Raises
        ------
        ConfigError
            If there is no recorder.
        """
        given = list(recorders) if isinstance(recorders, Iterable) and not isinstance(recorders, str) else [recorders]
        wanted = [self._recorder(recorder) for recorder in given]
        if not wanted:
            raise ConfigError("There is no recorder to put online. At least one is needed.", path="recorders")
        for recorder in wanted:
            self.set_online_model(recorder)
        ids = {recorder.id for recorder in wanted}
        for rid, recorder in self.list_online_model().items():
            if rid not in ids:
                self.cancel_online_model(recorder)

    def online_filter(self, recorder: Recorder) -> bool:
        """Return whether a recorder is online."""
        return recorder.list_tags().get(self.ONLINE_TAG) == self.ONLINE_TAG_TRUE

    def list_online_model(self) -> dict[str, Recorder]:
        """Return the online recorders by id."""
        return self.list_recorders(rec_filter_func=self.online_filter)

    def update_pred(self, recorder: str | Recorder, frequency: str = "day") -> None:
        """Update the prediction of a recorder, or of the one with an id, to the last day of the calendar.

        Parameters
        ----------
        recorder : str or Recorder
            The recorder or its id.
        frequency : str
            Name of the calendar.
        """
        PredUpdater(self._recorder(recorder), freq=frequency).update()

    def update_all_pred(self, rec_filter_func: Callable[[Recorder], bool] | None = None) -> int:
        """Update the predictions of all finished recorders that a filter accepts, and return their number.

        Parameters
        ----------
        rec_filter_func : callable, optional
            ``recorder -> bool``.
        """
        found = self.list_recorders(rec_filter_func=rec_filter_func)
        for recorder in found.values():
            self.update_pred(recorder)
        return len(found)

    def update_online_pred(self) -> int:
        """Update the predictions of the online recorders, and return their number."""
        return self.update_all_pred(self.online_filter)
