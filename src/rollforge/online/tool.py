"""Mark which models are online, by a tag on their recorders."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from rollforge.dates import DayLike
from rollforge.errors import ArtifactNotFound, ConfigError, ExperimentNotFound, TrackingError, excerpt, nearest
from rollforge.moved import Alias, Aliased
from rollforge.online.update import PredUpdater
from rollforge.session import current_session
from rollforge.track.base import Recorder, get_experiment, open_tracker

if TYPE_CHECKING:
    from rollforge.online.service import Service

__all__ = ["OnlineTool", "OnlineToolR"]

log = logging.getLogger(__name__)

TAGS_NOT_WRITTEN = "strategy %s: its tags could not be written: %s"
"""A warning: the tags repeat the contents of the ledger, and the next day writes them again."""


class OnlineTool:
    """Manages which of the models of an experiment are online.

    Examples
    --------
    >>> class InMemory(OnlineTool):
    ...     def __init__(self):
    ...         self.online = []
    ...     def reset_online_tag(self, recorder):
    ...         self.online = list(recorder)
    ...     def online_models(self):
    ...         return self.online
    >>> tool = InMemory()
    >>> tool.reset_online_tag(["a model"])
    >>> tool.online_models()
    ['a model']
    """

    ONLINE_KEY = "online_status"
    ONLINE_TAG = "online"
    OFFLINE_TAG = "offline"

    _service: Service | None = None
    _strategy = ""

    def bind(self, service: Service, strategy: str) -> None:
        """Connect the tool to the ledger of a service, through which it changes the models of a strategy."""
        self._service, self._strategy = service, strategy

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name not in ("_service", "_strategy")}

    def set_online_tag(self, tag: str, recorder: Any) -> None:
        """Mark models as online or offline."""
        raise NotImplementedError(f"{type(self).__name__} must say how a model is marked.")

    def get_online_tag(self, recorder: Any) -> str:
        """Return whether a model is online."""
        raise NotImplementedError(f"{type(self).__name__} must say how a model is marked.")

    def reset_online_tag(self, recorder: Any) -> None:
        """Put these models online and all others offline."""
        raise NotImplementedError(f"{type(self).__name__} must say how models are marked.")

    def online_models(self) -> list[Any]:
        """Return the models that are online."""
        raise NotImplementedError(f"{type(self).__name__} must implement online_models().")

    def update_online_pred(self, to_date: DayLike | None = None) -> None:
        """Update the predictions of the online models to a day; None means the last day of the calendar."""
        raise NotImplementedError(f"{type(self).__name__} must implement update_online_pred().")


class OnlineToolR(Aliased, OnlineTool):
    """Manages which recorders of an experiment are online.

    Parameters
    ----------
    default_exp_name : str, optional
        Experiment to use if none is passed to a method.

    Examples
    --------
    >>> OnlineToolR("my_experiment").experiment_name
    'my_experiment'
    """

    default_exp_name = Alias("experiment_name")

    def __init__(self, default_exp_name: str | None = None) -> None:
        self.experiment_name = default_exp_name

    def _recorders(self, experiment_name: str | None, tags: dict[str, str] | None = None) -> list[Recorder]:
        experiment_name = experiment_name or self.experiment_name
        if experiment_name is None:
            raise ConfigError(
                "OnlineToolR needs an experiment. Give default_exp_name to the tool, or exp_name to the method."
            )
        tracker = open_tracker(current_session().tracking_uri)
        try:
            experiment = get_experiment(tracker, experiment_name=experiment_name, create=False)
        except ExperimentNotFound:
            if self._service is None:
                raise
            return []  # nothing is trained yet
        return list(experiment.list_recorders(tags=tags).values())

    def set_online_tag(self, tag: str, recorder: Recorder | list[Recorder]) -> None:
        """Mark recorders as online or offline.

        The tag of a model that belongs to a service only reflects its ledger, and is rewritten by the next routine;
        :meth:`reset_online_tag` changes the ledger.

        Raises
        ------
        ConfigError
            If `tag` is neither `ONLINE_TAG` nor `OFFLINE_TAG`, or if no model of the tool's strategy of a service would be
            online.
        """
        words = (self.ONLINE_TAG, self.OFFLINE_TAG)
        if tag not in words:
            raise ConfigError(f"A model is 'online' or 'offline', found {tag!r}.{nearest(str(tag), words)}", path="tag")
        listed = _as_list(recorder)
        if tag == self.OFFLINE_TAG and self._service is not None and not self._service.deciding:
            ids, online = {one.id for one in listed}, {one.id for one in self.tagged(self._strategy)}
            if online & ids and online <= ids:
                raise ConfigError(
                    f"No model of {self._strategy!r} would be online. Put others online with reset_online_tag, which puts "
                    "these offline.",
                    path="recorder",
                )
        for one in listed:
            one.set_tags(**{self.ONLINE_KEY: tag})

    def get_online_tag(self, recorder: Recorder) -> str:
        """Return the online tag of a recorder; offline if it was never marked."""
        return recorder.list_tags().get(self.ONLINE_KEY, self.OFFLINE_TAG)

    def reset_online_tag(self, recorder: Recorder | list[Recorder], exp_name: str | None = None) -> None:
        """Put these recorders online and all others of the experiment offline.

        If the tool belongs to a strategy of a service that has begun, this appends an entry to its ledger: the recorders
        are used from the next day on, until the next window begins.

        Raises
        ------
        ConfigError
            If there is no recorder: then no model would be online.
        """
        wanted = _as_list(recorder)
        if not wanted:
            raise ConfigError("There is no recorder to put online. At least one is needed.", path="recorder")
        experiment_name = exp_name or self.experiment_name
        service = self._service
        if service is not None and not service.deciding and experiment_name == self._strategy:
            service.replace_champions(self._strategy, wanted)
        if service is None or not service.deciding or experiment_name != self._strategy:
            self.mark(wanted, experiment_name)
            return
        service.put_online(self._strategy, wanted)
        try:
            self.mark(wanted, experiment_name)
        except TrackingError as exc:  # the entry of the day decides
            log.warning(TAGS_NOT_WRITTEN, self._strategy, exc)

    def mark(self, wanted: list[Recorder], experiment_name: str | None = None) -> None:
        """Write the tags, first those of the recorders that are online, so that there is always one online.

        The models of other services of workflow files that share the experiment keep their tags.
        """
        ids = {r.id for r in wanted}
        marked = self._recorders(experiment_name, {self.ONLINE_KEY: self.ONLINE_TAG})
        there = {r.id for r in marked}
        self.set_online_tag(self.ONLINE_TAG, [r for r in wanted if r.id not in there])
        former = [r for r in marked if r.id not in ids]
        others = (
            self._service.released_by_others(of_files=True) if self._service is not None and former else frozenset()
        )
        self.set_online_tag(self.OFFLINE_TAG, [r for r in former if r.id not in others])

    def online_models(self, exp_name: str | None = None) -> list[Recorder]:
        """Return the recorders of the experiment that are online; in a routine, those of the ledger or put online by it."""
        experiment_name = exp_name or self.experiment_name
        if self._service is not None and experiment_name == self._strategy:
            decided = self._service.put_online_now(self._strategy)
            if decided:
                return decided
        return self.tagged(experiment_name)

    def tagged(self, experiment_name: str | None = None) -> list[Recorder]:
        """Return the recorders of the experiment whose tag says that they are online."""
        return self._recorders(experiment_name, {self.ONLINE_KEY: self.ONLINE_TAG})

    def update_online_pred(
        self, to_date: DayLike | None = None, from_date: DayLike | None = None, exp_name: str | None = None
    ) -> None:
        """Update the predictions of the online recorders.

        Parameters
        ----------
        to_date : date-like, optional
            The last day to predict; by default the last day of the calendar.
        from_date : date-like, optional
            The first day to predict again; by default the day after the last prediction.
        exp_name : str, optional
            Name of the experiment.
        """
        for recorder in self.online_models(exp_name):
            try:
                updater = PredUpdater(recorder, to_date=to_date, from_date=from_date)
            except ArtifactNotFound:
                log.warning("recorder %s has no prediction yet and is not updated", recorder.id)
                continue
            updater.update()


def _as_list(recorder: Recorder | list[Recorder]) -> list[Recorder]:
    """Return the recorders as a list.

    Raises
    ------
    ConfigError
        If there is something else among them.
    """
    single = isinstance(recorder, (Recorder, str)) or not isinstance(recorder, Iterable)
    listed: list[Any] = [recorder] if single else list(cast("Iterable[object]", recorder))
    for one in listed:
        if not isinstance(one, Recorder):
            raise ConfigError(
                f"must be a recorder or a list of recorders, found {excerpt(repr(one))}.", path="recorder"
            )
    return listed
