"""Online strategies: which tasks to train next, and which models to put online."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd

from rollforge import trust
from rollforge.collect.collector import Collector, RecorderCollector
from rollforge.collect.group import RollingGroup
from rollforge.dates import DayLike, as_timestamp, day_after, read_day, read_timestamp
from rollforge.description import Description
from rollforge.errors import ArtifactNotFound, ConfigError, ExperimentNotFound, RecorderNotFound, TaskNotSerializable
from rollforge.frequency import is_intraday
from rollforge.generate.base import SupportsFollowing, TaskGen, task_generator
from rollforge.generate.calendar import TimeAdjuster
from rollforge.generate.naming import variant
from rollforge.generate.segments import bounds
from rollforge.generate.task_view import TaskView
from rollforge.ledger.entry import DayState, EntryKind, Release, Role
from rollforge.moved import Alias, Aliased
from rollforge.online.tool import OnlineTool, OnlineToolR
from rollforge.record.drift import without_reference
from rollforge.run.execute import DATA_MARK, DATA_UNTIL, TASK_TAG
from rollforge.run.trainer import default_names
from rollforge.session import current_session
from rollforge.task import Definition, digest
from rollforge.track.base import Experiment, Recorder, get_experiment, open_tracker

if TYPE_CHECKING:
    from rollforge.online.service import Service

__all__ = ["OnlineStrategy", "RollingStrategy"]

log = logging.getLogger(__name__)
T = TypeVar("T")

Span = tuple[str, str | None]
"""First day, and the day after the last; None: until today."""


class OnlineStrategy(Aliased):
    """Base class of online strategies, which determine what is trained and what goes online.

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
        self.experiment_name = _checked_name(name_id)
        self.tool: OnlineTool = OnlineTool()

    _service: Service | None = None

    def bind(self, service: Service) -> None:
        """Connect the strategy and its tool to a service, which determines the models that are online."""
        self._service = service
        self.tool.bind(service, self.experiment_name)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_service"}

    def template_keys(self) -> list[str]:
        """The names of the templates; empty if there are none."""
        return []

    def origin(self, recorder: Recorder) -> tuple[str, str]:
        """Return the name of the template of a model and the hash of its definition; empty if they are unknown."""
        return "", ""

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


class RollingStrategy(OnlineStrategy):
    """Puts the latest rolling models online.

    Parameters
    ----------
    name_id : str
        A unique name, which is also the name of the experiment.
    task_template : dict or list of dict
        Templates of the tasks to roll.
    rolling_gen : TaskGen
        Generator of the windows, which can continue from the last one (:class:`~rollforge.generate.base.SupportsFollowing`):
        a :class:`~rollforge.generate.rolling.RollingGen` or a
        :class:`~rollforge.generate.calendar_windows.CalendarGen`.
    names : sequence of str, optional
        Names of the templates. A service recognizes a template by its name when its definition has changed: the change
        applies from the template's next window on. By default a template is named after its model's class or, if several
        templates share it, after what differs between them; a single template is always recognized.

    Examples
    --------
    >>> template = {"model": {"class": "LinearModel"}, "dataset": {}}
    >>> from rollforge.generate.rolling import RollingGen
    >>> RollingStrategy("demo", template, RollingGen(step=20, calendar=["2020-01-01"])).experiment_name
    'demo'
    """

    exp_name = Alias("experiment_name")

    def __init__(
        self,
        name_id: str,
        task_template: Definition | list[Definition],
        rolling_gen: TaskGen,
        names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(name_id)
        windows = isinstance(rolling_gen, TaskGen) and rolling_gen.only_windows
        if not windows or not isinstance(rolling_gen, SupportsFollowing):
            raise ConfigError(
                "rolling_gen must be a generator that makes only windows (only_windows) and can continue from the last one "
                f"(gen_following_tasks), such as RollingGen or CalendarGen, found {type(rolling_gen).__name__}. Give several "
                "models as several templates.",
                path="rolling_gen",
            )
        self.task_template = task_template if isinstance(task_template, list) else [task_template]
        freq = next((freq for one in self.task_template if (freq := TaskView(one).freq) and is_intraday(freq)), None)
        if freq is not None:
            raise ConfigError(
                f"A service decides and publishes once a day, so it needs daily data; the frequency of these is {freq!r}.",
                path="task_template",
            )
        self.rg = rolling_gen
        self.template_names = None if names is None or not all(names) else list(names)
        if self.template_names is not None and len(set(self.template_names)) != len(self.task_template):
            raise ConfigError(
                f"must be a different name for each of the {len(self.task_template)} templates, found {list(names or ())}.",
                path="names",
            )
        marks = [_task_mark(one) or str(id(one)) for one in self.task_template]
        twice = next((i for i, mark in enumerate(marks) if mark in marks[:i]), None)
        if twice is not None:
            raise ConfigError(
                f"Templates {marks.index(marks[twice]) + 1} and {twice + 1} are the same, so each window would have two equal "
                "models. Remove one.",
                path="task_template",
            )
        self._made: dict[str, int] = {}
        self.tool: OnlineToolR = OnlineToolR(self.experiment_name)

    @property
    def _test_key(self) -> str:
        """Name of the test segment, which some generators let users choose."""
        return str(getattr(self.rg, "test_key", "test"))

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
        named = self._remembered(("names", self.experiment_name), self._names)
        return _Released(
            experiment=self._recorders,
            spans=self._spans,
            in_routine=lambda: self._service is not None and self._service.days is not None,
            process_list=[RollingGroup()] if process_list is None else list(process_list),
            rec_key_func=rec_key_func
            or (lambda recorder: self._remembered(("key", recorder.id), partial(self._key, recorder, named))),
            rec_filter_func=rec_filter_func,
            artifacts_key=artifacts_key,
            **kwargs,
        )

    def _remembered(self, key: tuple[str, ...], read: Callable[[], T]) -> T:
        """Return the result of `read`, which a service calls only once while it holds its lease."""
        return read() if self._service is None else self._service.remembered(key, read)

    def _spans(self) -> dict[str, list[Span]] | None:
        """Return the days on which each recorder was online; None outside of a service."""
        service = self._service
        if service is None:
            return None
        if service.days is None:
            return service.spans(self.experiment_name) or None
        found: dict[str, list[Span]] = {}
        for day in sorted(service.days):
            for release in service.champions(self.experiment_name, day):
                found.setdefault(release.recorder, []).append((day, day_after(day)))
        return found

    def _recorders(self) -> list[Recorder]:
        """Return the recorders to collect: those that were online, or else one per window of the experiment."""
        experiment = self._remembered(("experiment", self.experiment_name), self._experiment)
        spans = self._spans()
        if spans is not None:
            return [
                self._remembered(("recorder", self.experiment_name, one), partial(experiment.get_recorder, one))
                for one in spans
            ]
        windows: dict[Any, Recorder] = {}
        for recorder in experiment.list_recorders(Experiment.RT_L, status=Recorder.STATUS_FI):  # latest first
            windows.setdefault(recorder.list_tags().get(TASK_TAG, recorder.id), recorder)
        return list(windows.values())

    def _experiment(self) -> Experiment:
        tracker = open_tracker(current_session().tracking_uri)
        return get_experiment(tracker, experiment_name=self.experiment_name, create=False)

    def _names(self) -> list[str]:
        """Return the key of each template's model: its class, or if templates share it, what differs between them."""
        classes = [TaskView(template).model_class for template in self.task_template]
        distinct = default_names(self.task_template)
        return [
            c if classes.count(c) == 1 else n or f"{c} {i}"
            for i, (c, n) in enumerate(zip(classes, distinct, strict=True), 1)
        ]

    def _key(self, recorder: Recorder, names: Sequence[str]) -> tuple[Any, Any]:
        definition = recorder.load_object("task")
        task = TaskView(definition)
        place = self._template_of(definition, recorder.id)
        return (task.model_class if place is None else names[place]), task.segments[self._test_key]

    def template_keys(self) -> list[str]:
        """The names of the templates in the ledger."""
        if len(self.task_template) == 1:
            return [self.experiment_name]
        return self.template_names or self._names()

    def _template_of(self, task: Definition, recorder: str = "") -> int | None:
        """Return the number of the template of a model; None if it is unknown.

        It is known for tasks that this strategy has created. Otherwise it is the template with the name in the ledger, or
        the one from which the task was created.
        """
        if len(self.task_template) == 1:
            return 0
        made = self._made.get(_task_mark(task))
        if made is not None:
            return made
        released = self._service.state().latest_releases.get(recorder) if self._service is not None else None
        if released is not None and released.template:
            names = self.template_keys()
            if released.template in names:
                return names.index(released.template)
            if released.template != self.experiment_name:
                return None
            # It was the only template, which is named after the strategy.
            same = (i for i in range(len(names)) if released.definition == self._definition(i) != "")
            return next(same, None)
        mark = _mark(task)
        return next((i for i, template in enumerate(self.task_template) if mark and _mark(template) == mark), None)

    def origin(self, recorder: Recorder) -> tuple[str, str]:
        """Return the name of a model's template, and the hash of the template and of the generator of its windows."""
        place = self._place_of(recorder)
        return ("", "") if place is None else (self.template_keys()[place], self._definition(place))

    def _definition(self, place: int) -> str:
        """Return a hash of a template and of the generator of its windows; empty if they contain live objects."""
        rule = {name: value for name, value in vars(self.rg).items() if name != "ta" and not name.startswith("_")}
        plain = {name: getattr(value, "__qualname__", str(value)) for name, value in rule.items()}
        try:
            return digest({"template": self.task_template[place], "rule": {**plain, "class": type(self.rg).__name__}})[
                :12
            ]
        except TaskNotSerializable:
            return ""

    def first_tasks(self) -> list[Definition]:
        """Return the windows of the templates: those that have begun, if the data end before the last."""
        return [task for place in range(len(self.task_template)) for task in self._begun(place)]

    def _begun(self, place: int) -> list[Definition]:
        until = current_session().data_until
        template = self.task_template[place]
        if until is not None and self._start(template) > read_day(until):
            return []
        return self._noted(place, task_generator(tasks=template, generators=self.rg))

    def _noted(self, place: int, tasks: Iterable[Definition]) -> list[Definition]:
        """Remember the template of tasks, which may differ from others only in its segments."""
        listed = list(tasks)
        self._made.update((mark, place) for task in listed if (mark := _task_mark(task)))
        return listed

    def prepare_tasks(self, cur_time: DayLike | None = None, **kwargs: Any) -> list[Definition]:
        """Return the windows that follow the latest ones and begin on `cur_time` or before.

        The latest windows are those of the models that were put online last: in a service those of its ledger, else those
        of the recorders that are tagged as online. In a service, the windows of a template that is new, or whose definition
        or generator of windows has changed, are those that begin after the last published day.
        """
        until = _last_day(cur_time)
        latest = self._latest()
        if self._service is None and not latest:
            log.warning("strategy %s has no online model yet, so there are no further tasks", self.experiment_name)
            return []
        tasks: list[Definition] = []
        for place, template in enumerate(self.task_template):
            first = self._windows_from(place)
            if first is None:
                continue
            task, definition = latest.get(place, (None, ""))
            known = self._service is None or (
                task is not None and _mark(task) == _mark(template) and definition in ("", self._definition(place))
            )
            if task is not None and known:
                following = self.rg.gen_following_tasks(task, until)
                tasks += self._noted(place, (one for one in following if str(self._start(one)) >= first))
            elif self._service is not None:
                tasks += self._next_windows(place, until)
        return tasks

    def _windows_from(self, place: int) -> str | None:
        """Return the first day of the windows of a template that are trained; None if it is no longer trained."""
        service = self._service
        if service is None or service.challenger is None:
            return ""
        return service.windows_from(self.experiment_name, self.template_keys()[place], self._definition(place))

    def _next_windows(self, place: int, until: pd.Timestamp) -> list[Definition]:
        """Return the windows of a new or changed template that begin after the last published day, up to a day."""
        assert self._service is not None
        days = self._service.state().days.values()
        # A window whose training has failed is due until it succeeds.
        done = [r.day for r in days if r.state is DayState.PUBLISHED and not r.fallback]
        published = max(done, default=None)
        if published is None:
            return self._begun(place)
        template = self.task_template[place]
        start = self._start(template)
        if start > read_day(until):
            return []
        segments = {**TaskView(template).segments, self._test_key: (as_timestamp(start), until)}
        made = task_generator(tasks=TaskView(template).with_segments(segments), generators=self.rg)
        following = [task for task in made if self._start(task) > read_day(published)]
        if following:
            log.info("strategy %s: a template is new or has changed; its windows begin", self.experiment_name)
        return self._noted(place, following)

    def prepare_online_models(self, trained_models: list[Any], cur_time: Any = None) -> list[Any]:
        """Put the model of the latest trained window of each template online, and return the models that are online."""
        if not trained_models:
            return self.tool.online_models()
        latest: dict[int | None, tuple[Any, Any]] = {}
        for model in trained_models:
            place, start = self._place_of(model), self._start(self._task_of(model))
            if place not in latest or latest[place][0] <= start:
                latest[place] = (start, model)
        kept = [] if len(latest) == len(self.task_template) else self._others_online({None, *latest})
        online = [*kept, *(model for _, model in latest.values())]
        self.tool.reset_online_tag(online)
        return online

    def _others_online(self, places: Collection[int | None]) -> list[Recorder]:
        """Return the online models of templates other than those with these numbers."""
        return [model for model in self.tool.online_models() if self._place_of(model) not in places]

    def _start(self, task: Definition) -> np.datetime64:
        """Return the first day of a task's test segment."""
        start = bounds(self._test_key, TaskView(task).segments[self._test_key]).start
        if start is None:
            raise ConfigError("a rolling strategy needs the first day of the test segment.", path="task_template")
        return start

    def used_windows(self, tasks: Sequence[Definition], first: str) -> list[Definition]:
        """Return tasks without those whose model would be replaced by that of a later window on its first day.

        Parameters
        ----------
        tasks : sequence of dict
            Tasks of windows, in order.
        first : str
            The first day on which a model can be used. If training has failed for longer than a window, several windows
            of a template have begun before that day, and only the last one is used.
        """
        used = {(self._template_of(task), max(str(self._start(task)), first)): task for task in tasks}
        return [task for task in tasks if any(task is kept for kept in used.values())]

    def belongs_to(self, task: Definition, name: str) -> bool:
        """Return whether a task was created from the template of a name."""
        place = self._template_of(task)
        return place is not None and self.template_keys()[place] == name

    def windows(self, recorders: Sequence[Recorder]) -> dict[int, list[tuple[str, Recorder]]]:
        """Return the recorders by the number of their template, with the first days of their windows, in order."""
        found: dict[int, list[tuple[str, Recorder]]] = {}
        for recorder in recorders:
            place, start = self._place_of(recorder), self._start(self._task_of(recorder))
            found.setdefault(-1 if place is None else place, []).append((str(start), recorder))
        return {place: sorted(held, key=lambda w: w[0]) for place, held in found.items()}

    def _latest(self) -> dict[int, tuple[Definition, str]]:
        """Return the task of the latest window of each template and the hash of its definition, by the template's number."""
        latest: dict[int, tuple[Definition, str]] = {}
        for place, task, definition in self._known():
            if place is not None and (place not in latest or self._start(latest[place][0]) < self._start(task)):
                plain = copy.deepcopy(_undated(task))
                latest[place] = plain, definition
            if self._service is not None and len(latest) == len(self.task_template):
                break  # the ledger has the latest windows first
        return latest

    def _known(self) -> Iterator[tuple[int | None, Definition, str]]:
        """Yield the numbers of the templates, the tasks and the definitions of models that are or were online.

        In a service, the latest windows come first. The task of a recorder that no longer exists is that of its window; a
        window of an earlier definition is not known without its recorder, and is not continued either.
        """
        if self._service is None:
            yield from (
                (self._place_of(recorder), self._task_of(recorder), "") for recorder in self.tool.online_models()
            )
            return
        first: dict[str, Release] = {}  # the entry of its day is that of its window; it may be released again
        for entry, release in self._service.state().releases:
            decided = entry.kind == EntryKind.DAY and release.role is not Role.RETIRED
            if release.strategy == self.experiment_name and decided:
                first.setdefault(release.recorder, release)
        for release in reversed(first.values()):
            recorder = self.recorder_of(release)
            if recorder is not None:
                yield self._place_of(recorder), self._task_of(recorder), release.definition
                continue
            window = self.window_of(release, release.from_day)
            if window is not None and window[2] == release.definition:
                yield window

    def recorder_of(self, release: Release) -> Recorder | None:
        """Return the recorder of a release of this strategy's service; None if it or its task no longer exists."""
        assert self._service is not None
        try:
            recorder = self._service.recorder(release)
            self._task_of(recorder)
        except (ArtifactNotFound, ExperimentNotFound, RecorderNotFound):
            return None
        return recorder

    def window_of(self, release: Release, day: str) -> tuple[int, Definition, str] | None:
        """Return the window of a release's template that contains a day, without reading its recorder.

        Returns
        -------
        tuple or None
            The number of the template, the task of the window, and the hash of the current definition. None if the template
            was removed, or no window has begun by the day.
        """
        names = self.template_keys()
        if len(names) > 1 and release.template not in names:
            return None
        place = 0 if len(names) == 1 else names.index(release.template)
        windows = [task for task in self._begun(place) if str(self._start(task)) <= day]
        return (place, max(windows, key=self._start), self._definition(place)) if windows else None

    def _task_of(self, recorder: Recorder) -> Definition:
        """Return the task of an online model after checking that it refers to no code other than that of the templates.

        Others may be able to write to its tracking store.
        """

        def read() -> Definition:
            task: Definition = recorder.load_object("task")
            trust.check_names(task, self.task_template, f"The task of recorder {recorder.id}")
            return task

        return self._remembered(("task", recorder.id), read)

    def _place_of(self, recorder: Recorder) -> int | None:
        """Return the number of the template of an online model; None if it is unknown."""
        return self._remembered(
            ("template", recorder.id), lambda: self._template_of(self._task_of(recorder), recorder.id)
        )


class _Released(RecorderCollector):
    """Collects recorders, each on the days on which it was online."""

    def __init__(
        self,
        *args: Any,
        spans: Callable[[], dict[str, list[Span]] | None],
        in_routine: Callable[[], bool],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._spans = spans
        self._in_routine = in_routine

    def collect(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return ``{name: {key: object}}``."""
        self._online = self._spans()
        found = super().collect(*args, **kwargs)
        if self._online is None or self._in_routine():
            return found
        # A strategy that was added today has models, which will first be online tomorrow. A routine reports such a model.
        return {
            name: {key: one for key, one in of_name.items() if not _is_empty(one)} for name, of_name in found.items()
        }

    _online: dict[str, list[Span]] | None = None

    def _load(self, recorder: Recorder, name: str) -> object:
        found = super()._load(recorder, name)
        spans = None if self._online is None else self._online.get(recorder.id)
        if spans is None or not isinstance(found, (pd.DataFrame, pd.Series)) or "datetime" not in found.index.names:
            return found
        days = found.index.get_level_values("datetime")
        inside = np.zeros(len(found), bool)
        for first, after in spans:
            inside |= (days >= read_timestamp(first)) & (days < (read_timestamp(after) if after else pd.Timestamp.max))
        return found if inside.all() else found[inside]


def _is_empty(found: object) -> bool:
    return isinstance(found, (pd.DataFrame, pd.Series)) and found.empty


def _checked_name(experiment_name: object) -> str:
    if not isinstance(experiment_name, str) or not experiment_name.strip():
        raise ConfigError(f"must be the name of the experiment, found {experiment_name!r}.", path="name_id")
    return experiment_name


def _mark(task: Definition) -> str:
    """Return a hash of a task that is the same for all windows of a template; empty if it has live objects."""
    if "dataset" in task:
        task = {**task, "dataset": Description(task["dataset"]).without("purge_rows")}
    try:
        return variant(without_reference(task))
    except TaskNotSerializable:
        return ""


def _undated(task: Definition) -> Definition:
    """Return a task as the strategy created it, without the data on which it was trained."""
    return {key: value for key, value in task.items() if key not in (DATA_UNTIL, DATA_MARK)}


def _task_mark(task: Definition) -> str:
    """Return the digest of a task, regardless of the data on which it was trained; empty if it has live objects."""
    try:
        return digest(_undated(task))
    except TaskNotSerializable:
        return ""


def _last_day(cur_time: object) -> pd.Timestamp:
    """Return a time, at most the last day of the calendar; None gives that day."""
    last = TimeAdjuster(future=False).max()
    return last if cur_time is None else min(read_timestamp(cur_time, "cur_time"), last)
