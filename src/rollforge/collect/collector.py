"""Collectors: gather objects from recorders, then group and ensemble them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

from rollforge.errors import ArtifactNotFound, ConfigError, CoverageError, nearest
from rollforge.session import current_session
from rollforge.track.base import Experiment, Recorder, Tracker, get_experiment, open_tracker

__all__ = ["Collector", "MergeCollector", "RecorderCollector"]

Process = Callable[..., object]
Objects = dict[str, Any]
"""Name of an object -> the object, as saved or combined."""
Key = TypeVar("Key")


def _as_list(value: object) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]


class Collector:
    """Collects ``{name: {key: object}}`` and passes each name's dict through a list of processes.

    Parameters
    ----------
    process_list : callable or sequence of callable
        For example :class:`~rollforge.collect.group.RollingGroup`. The first receives the collected dict, the next its
        result.

    Examples
    --------
    >>> class Numbers(Collector):
    ...     def collect(self):
    ...         return {"square": {1: 1, 2: 4}}
    >>> Numbers([lambda parts: sum(parts.values())])()
    {'square': 5}
    """

    def __init__(self, process_list: Process | Sequence[Process] = ()) -> None:
        self.process_list = _as_list(process_list)

    def collect(self) -> Objects:
        """Return the collected objects by name."""
        raise NotImplementedError(f"{type(self).__name__} must implement collect().")

    @staticmethod
    def process_collect(
        collected_dict: Mapping[Key, object],
        process_list: Process | Sequence[Process] = (),
        *args: Any,
        **kwargs: object,
    ) -> dict[Key, Any]:
        """Return each name's dict after applying the processes in order."""
        result = {}
        for name, value in collected_dict.items():
            for process in _as_list(process_list):
                value = process(value, *args, **kwargs)
            result[name] = value
        return result

    def __call__(self, *args: Any, **kwargs: Any) -> Objects:
        """Return the result of :meth:`collect` after applying the processes."""
        return self.process_collect(self.collect(), self.process_list, *args, **kwargs)


class MergeCollector(Collector):
    """Merges the results of several collectors: ``{(collector, name): object}``.

    Parameters
    ----------
    collector_dict : mapping
        Name -> collector.
    process_list : callable or sequence of callable
        See :class:`Collector`.
    merge_func : callable, optional
        ``(collector's name, object's name) -> key``; by default the key is the pair.

    Examples
    --------
    >>> class Numbers(Collector):
    ...     def collect(self):
    ...         return {"square": 4}
    >>> MergeCollector({"a": Numbers(), "b": Numbers()})()
    {('a', 'square'): 4, ('b', 'square'): 4}
    """

    def __init__(
        self,
        collector_dict: Mapping[str, Collector],
        process_list: Process | Sequence[Process] = (),
        merge_func: Callable[[str, str], object] | None = None,
    ) -> None:
        super().__init__(process_list)
        self.collector_dict = dict(collector_dict)
        self.merge_func = merge_func

    def collect(self) -> dict[Any, Any]:
        """Return the objects of all collectors."""
        collected = {}
        for name, collector in self.collector_dict.items():
            for key, value in collector().items():
                collected[self.merge_func(name, key) if self.merge_func else (name, key)] = value
        return collected

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        """Return the result of :meth:`collect` after applying the processes."""
        return super().__call__(*args, **kwargs)


class RecorderCollector(Collector):
    """Collects artifacts of the recorders of an experiment: ``{"pred": {key of the recorder: frame}}``.

    Parameters
    ----------
    experiment : Experiment, str or callable
        Source of the recorders. A name is looked up in the session's tracking store; a callable returns recorders.
    process_list : callable or sequence of callable
        See :class:`Collector`.
    rec_key_func : callable, optional
        ``recorder -> key``; by default its id.
    rec_filter_func : callable, optional
        ``recorder -> bool``: whether to collect a recorder.
    artifacts_path : mapping
        Name -> path of the artifact.
    artifacts_key : str or sequence of str, optional
        Names to collect; by default all.
    list_kwargs : mapping
        Further arguments of ``list_recorders``.
    status : str, iterable of str, or None
        Collect only recorders with this status; None means any.
    coverage : {"strict", "allow_gaps"}
        ``allow_gaps`` skips recorders that lack the artifact and lists them in `missing`. An artifact that exists but
        cannot be read is always an error.
    jobs : int, optional
        Number of threads that load artifacts; by default that of the session.
    tracker : Tracker or str, optional
        The tracking store in which the name of an experiment is looked up, or its URI; by default the session's.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> experiment = get_experiment(open_tracker(f"folder:{folder.name}"), experiment_name="demo")
    >>> with experiment.create_recorder("first") as recorder:
    ...     recorder.save_objects(**{"pred.pkl": [1, 2]})
    >>> RecorderCollector(experiment, rec_key_func=lambda recorder: recorder.name)()
    {'pred': {'first': [1, 2]}}
    >>> folder.cleanup()
    """

    ART_KEY_RAW = "__raw"

    def __init__(
        self,
        experiment: Experiment | str | Callable[[], Iterable[Recorder]],
        process_list: Process | Sequence[Process] = (),
        rec_key_func: Callable[[Recorder], object] | None = None,
        rec_filter_func: Callable[[Recorder], bool] | None = None,
        artifacts_path: Mapping[str, str] | None = None,
        artifacts_key: str | Sequence[str] | None = None,
        list_kwargs: Mapping[str, Any] | None = None,
        status: str | Iterable[str] | None = Recorder.STATUS_FI,
        *,
        coverage: str = "strict",
        jobs: int | None = None,
        tracker: Tracker | str | None = None,
    ) -> None:
        super().__init__(process_list)
        if isinstance(experiment, str):
            opened = open_tracker(current_session().with_(tracker=tracker).tracking_uri)
            experiment = get_experiment(opened, experiment_name=experiment, create=False)
        if coverage not in ("strict", "allow_gaps"):
            raise CoverageError(f"coverage must be 'strict' or 'allow_gaps', found {coverage!r}.")
        self.experiment = experiment
        self.rec_key_func = rec_key_func or (lambda recorder: recorder.info["id"])
        self.rec_filter_func = rec_filter_func
        self.artifacts_path = {"pred": "pred.pkl"} if artifacts_path is None else dict(artifacts_path)
        self.artifacts_key = artifacts_key
        self.list_kwargs = dict(list_kwargs or {})
        self.status = status
        self.coverage = coverage
        self.jobs = jobs
        self.unfinished: list[str] = []
        """Recorders that the last collection skipped because of their status, with that status."""
        self.missing: list[str] = []
        """Recorders that lacked artifacts in the last collection, with the missing artifacts."""
        self.recorders: dict[object, Recorder] = {}
        """Recorders of the last collection, by key."""

    def recorders_now(self, rec_filter_func: Callable[[Recorder], bool] | None = None) -> list[Recorder]:
        """Return the recorders that would be collected.

        Parameters
        ----------
        rec_filter_func : callable, optional
            Overrides the collector's own filter.
        """
        if not isinstance(self.experiment, Experiment):
            found = self.experiment()
            listed = list(found.values()) if isinstance(found, Mapping) else list(found)
        else:
            listed = self.experiment.list_recorders(**{"rtype": Experiment.RT_L, **self.list_kwargs})
            listed = list(listed.values()) if isinstance(listed, Mapping) else listed
        wanted = None if self.status is None else {self.status} if isinstance(self.status, str) else set(self.status)
        left_out = [r for r in listed if wanted is not None and r.status not in wanted]
        self.unfinished = [f"recorder {r.id} is {r.status}" for r in left_out]
        there = [r for r in listed if wanted is None or r.status in wanted]
        chosen = rec_filter_func or self.rec_filter_func
        return [r for r in there if chosen is None or chosen(r)]

    def collect(
        self,
        artifacts_key: str | Sequence[str] | None = None,
        rec_filter_func: Callable[[Recorder], bool] | None = None,
        only_exist: bool = True,
    ) -> Objects:
        """Return ``{name: {key: object}}``.

        Parameters
        ----------
        artifacts_key : str or sequence of str, optional
            Overrides the collector's own names for this call.
        rec_filter_func : callable, optional
            Overrides the collector's own filter for this call only (pyqlib keeps it for later calls).
        only_exist : bool
            Accepted for compatibility with Qlib and ignored; use `coverage` to allow gaps.

        Raises
        ------
        ConfigError
            If an artifact name is unknown.
        CoverageError
            If recorders lack the artifact, or two recorders have the same key.
        ArtifactUnreadable
            If an artifact exists but cannot be read.
        """
        names = self._names(artifacts_key or self.artifacts_key)
        collected: Objects = {name: {} for name in names}
        for key, found in self._loaded(names, self.recorders_now(rec_filter_func)):
            for name, value in found.items():
                collected[name][key] = value
        self._require_all()
        return collected

    def stream(
        self, name: str = "pred", *, order: Callable[[Any], object] | None = None, ahead: int | None = None
    ) -> Iterator[tuple[Any, Any]]:
        """Yield ``(key, object)`` pairs one at a time, so that not all objects are in memory at once.

        Parameters
        ----------
        name : str
            The artifact.
        order : callable, optional
            ``key -> sort key``; by default the order of the recorders.
        ahead : int, optional
            Number of objects to load ahead; by default a few per thread.

        Raises
        ------
        CoverageError
            At the end, if recorders lack the artifact and gaps are not allowed.
        """
        for key, found in self._loaded(self._names(name), self.recorders_now(), order, ahead):
            if name in found:
                yield key, found[name]
        self._require_all()

    def _names(self, wanted: object) -> list[str]:
        names = _as_list(wanted) or list(self.artifacts_path)
        known = [*self.artifacts_path, self.ART_KEY_RAW]
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"the collector has no artifact {name!r}.{nearest(str(name), known)} "
                    f"It has: {', '.join(self.artifacts_path)}.",
                    path="artifacts_key",
                )
        return names

    def _require_all(self) -> None:
        if self.missing and self.coverage == "strict":
            listed = "\n  ".join(self.missing)
            raise CoverageError(f"{len(self.missing)} results are missing:\n  {listed}")

    def _loaded(
        self,
        names: Sequence[str],
        recorders: Sequence[Recorder],
        order: Callable[[Any], Any] | None = None,
        ahead: int | None = None,
    ) -> Iterator[tuple[object, Objects]]:
        """Load the artifacts of each recorder, a few recorders ahead of the consumer."""
        keyed: dict[object, Recorder] = {}
        for recorder in recorders:
            key = self.rec_key_func(recorder)
            key = tuple(key) if isinstance(key, list) else key
            if key in keyed:
                raise CoverageError(f"Recorders {keyed[key].id} and {recorder.id} have the same key, {key!r}.")
            keyed[key] = recorder
        chosen = keyed if order is None else {key: keyed[key] for key in sorted(keyed, key=order)}
        missing: list[
            str
        ] = []  # belongs to this call, even if another call starts before the stream has been read to its end
        self.missing, self.recorders = missing, chosen
        threads = self.jobs or current_session().threads
        waiting: deque[tuple[object, Future[tuple[Objects, list[str]]]]] = deque()
        with ThreadPoolExecutor(threads) as executor:
            for key, recorder in chosen.items():
                # Run each in a copy of this thread's context, which holds the session.
                waiting.append((key, executor.submit(copy_context().run, self._load_all, recorder, key, names)))
                if len(waiting) > (2 * threads if ahead is None else ahead):
                    yield _taken(missing, *waiting.popleft())
            while waiting:
                yield _taken(missing, *waiting.popleft())

    def _load_all(self, recorder: Recorder, key: object, names: Sequence[str]) -> tuple[Objects, list[str]]:
        found: Objects = {}
        missing = []
        for name in names:
            try:
                found[name] = self._load(recorder, name)
            except ArtifactNotFound as exc:
                missing.append(f"{key!r}: {exc}")
        return found, missing

    def _load(self, recorder: Recorder, name: str) -> object:
        if name == self.ART_KEY_RAW:
            return recorder
        return recorder.load_object(self.artifacts_path[name])

    def get_exp_name(self) -> str:
        """Return the name of the experiment."""
        return self.experiment.name if isinstance(self.experiment, Experiment) else "recorders"


def _taken(missing: list[str], key: object, loading: Future[tuple[Objects, list[str]]]) -> tuple[object, Objects]:
    found, lacking = loading.result()
    missing += lacking
    return key, found
