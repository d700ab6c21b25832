""":class:`Experiment`: a named set of runs, with its active recorder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload
from uuid import uuid4

from rollforge.errors import ConfigError, ExperimentNotFound, RecorderNotFound, nearest
from rollforge.markup import Markup
from rollforge.notebook import ROWS, html_repr, summary, table
from rollforge.session import current_session
from rollforge.track.provenance import context_tags, save_diff
from rollforge.track.recorder import Recorder
from rollforge.track.tracker import RunData, RunQuery, Tracker

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["JOINED_TAG", "PARENT_TAG", "Experiment", "activated", "active_recorders", "get_experiment", "search_frame"]

_METRICS = 8
"""Metrics of each recorder that a notebook shows."""

JOINED_TAG = "rollforge.joined"
"""Recorder tag that marks the joined result of several windows: the name of the pool whose result it is."""

PARENT_TAG = "mlflow.parentRunId"
"""Recorder tag: id of the run under which MLflow's user interface shows the recorder."""

# The active recorders of this thread or async task, innermost last.
_active: ContextVar[tuple[Recorder, ...]] = ContextVar("rollforge_recorders", default=())


def active_recorders() -> tuple[Recorder, ...]:
    """Return the recorders that have been started and not ended, innermost last."""
    return _active.get()


@contextlib.contextmanager
def activated(recorder: Recorder) -> Iterator[None]:
    """Make a running recorder the active one within a block, for code that logs with ``R``. It is not ended."""
    _enter(recorder)
    try:
        yield
    finally:
        _leave(recorder)


def _enter(recorder: Recorder) -> None:
    _active.set((*_active.get(), recorder))


def _leave(recorder: Recorder) -> None:
    _active.set(tuple(r for r in _active.get() if r is not recorder))


class Experiment:
    """A named set of runs.

    Parameters
    ----------
    tracker : Tracker
        Tracking store of the experiment.
    id, name : str
        Id and name of the experiment.

    Examples
    --------
    >>> import tempfile
    >>> from rollforge.track.base import get_experiment, open_tracker
    >>> folder = tempfile.TemporaryDirectory()
    >>> experiment = get_experiment(open_tracker(f"folder:{folder.name}"), experiment_name="demo")
    >>> for value in (0.01, 0.03):
    ...     with experiment.create_recorder("run") as recorder:
    ...         recorder.log_metrics(IC=value)
    >>> [r.list_metrics()["IC"] for r in experiment.list_recorders("list", filter_string="metrics.IC > 0.02")]
    [0.03]
    >>> folder.cleanup()
    """

    RT_D: ClassVar[Literal["dict"]] = "dict"
    RT_L: ClassVar[Literal["list"]] = "list"

    def __init__(self, tracker: Tracker, id: str, name: str) -> None:
        self._tracker = tracker
        self.id = id
        self.name = name

    def __repr__(self) -> str:
        return f"Experiment(name={self.name!r}, id={self.id!r})"

    @html_repr
    def _repr_html_(self) -> Markup:
        runs = self.list_recorders("list")
        metrics = {run.id: run.list_metrics() for run in (*runs[:ROWS], *runs[-ROWS:])}  # no more than these are shown
        names = sorted({name for found in metrics.values() for name in found})[:_METRICS]
        rows = (
            [run.name, run.id[:8], run.status, run.start_time, *(metrics.get(run.id, {}).get(name) for name in names)]
            for run in runs
        )
        recorders = table(["recorder", "id", "status", "started", *names], rows, of="recorder")
        return summary(self.name, {"id": self.id, "recorders": len(runs)}, recorders)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Experiment) and (self._tracker.uri, self.id) == (other._tracker.uri, other.id)

    def __hash__(self) -> int:
        return hash((self._tracker.uri, self.id))

    def _owns(self, recorder: Recorder) -> bool:
        return (recorder.uri, recorder.experiment_id) == (self._tracker.uri, self.id)

    @property
    def active_recorder(self) -> Recorder | None:
        """The last recorder of this experiment that was started and has not ended, or None."""
        return next((r for r in reversed(_active.get()) if self._owns(r)), None)

    @property
    def info(self) -> dict[str, Any]:
        """Description of the experiment under Qlib's keys; `recorders` is a list of ids."""
        active = self.active_recorder
        return {
            "class": "Experiment", "id": self.id, "name": self.name,
            "active_recorder": None if active is None else active.id, "recorders": list(self.list_recorders()),
        }  # fmt: skip

    # -- one recorder --------------------------------------------------------------------------------------------------

    def start(
        self, *, recorder_id: str | None = None, recorder_name: str | None = None, resume: bool = False
    ) -> Recorder:
        """Start a new recorder, or with `resume` an existing one, and return it. It becomes the active recorder.

        With `resume`, the recorder with the id, or else the latest with the name, is started. Without id and name it is
        the latest recorder. If there is none with the name, or none at all, it is created.

        Raises
        ------
        RecorderNotFound
            If a recorder is to be resumed by an id that does not exist.
        """
        if resume:
            if recorder_id is None and recorder_name is None:
                found = self._search(RunQuery(limit=1))
                recorder = Recorder(self._tracker, found[0].info) if found else self.create_recorder()
            else:
                recorder = self.get_recorder(recorder_id, recorder_name)
        else:
            recorder = self.create_recorder(recorder_name)
        _enter(recorder.start_run())
        return recorder

    def end(self, recorder_status: str = Recorder.STATUS_FI) -> None:
        """End the active recorder."""
        recorder = self.active_recorder
        if recorder is not None:
            _leave(recorder)
            recorder.end_run(recorder_status)

    def create_recorder(self, recorder_name: str | None = None, tags: Mapping[str, object] | None = None) -> Recorder:
        """Return a new, running recorder. It does not become the active recorder."""
        name = recorder_name or f"run-{uuid4().hex[:8]}"
        info = self._tracker.create_run(self.id, name, {**context_tags(), **_texts(tags)})
        save_diff(self._tracker.files(info.id))
        return Recorder(self._tracker, info, created=True)

    def get_recorder(
        self,
        recorder_id: str | None = None,
        recorder_name: str | None = None,
        create: bool = True,
        start: bool = False,
    ) -> Recorder:
        """Return a recorder by id, or the latest with a name; without id and name the active recorder.

        Parameters
        ----------
        recorder_id, recorder_name : str, optional
            Id or name of the recorder. An unknown id is an error even with `create`, as a new recorder gets a new id.
        create : bool
            If True, create a recorder if none is found.
        start : bool
            If True, a created recorder becomes the active recorder.

        Raises
        ------
        RecorderNotFound
            If no recorder is found and none may be created.
        """
        if recorder_id is not None:
            data = self._tracker.read(recorder_id)
            if data.info.experiment_id != self.id:
                raise RecorderNotFound(f"Recorder {recorder_id!r} does not belong to experiment {self.name!r}.")
            return Recorder(self._tracker, data.info)
        if recorder_name is None and self.active_recorder is not None:
            return self.active_recorder
        if recorder_name is not None:
            found = self._tracker.search([self.id], RunQuery(name=recorder_name, limit=1))
            if found:
                return Recorder(self._tracker, found[0].info)
        if not create:
            raise self._not_found(recorder_name)
        recorder = self.create_recorder(recorder_name)
        if start:
            _enter(recorder)
        return recorder

    def _not_found(self, recorder_name: str | None) -> RecorderNotFound:
        if recorder_name is None:
            return RecorderNotFound(f"No recorder of experiment {self.name!r} is active. Give the id or name of one.")
        known = sorted({d.info.name for d in self._tracker.search([self.id], RunQuery(limit=1000))})
        return RecorderNotFound(
            f"Experiment {self.name!r} has no recorder {recorder_name!r}.{nearest(recorder_name, known)} "
            f"Known: {', '.join(known[:20]) or 'none'}."
        )

    def delete_recorder(self, recorder_id: str | None = None, recorder_name: str | None = None) -> None:
        """Delete a recorder by id, or the latest with a name.

        Raises
        ------
        ConfigError
            If neither is given.
        RecorderNotFound
            If there is no such recorder.
        """
        if recorder_id is None and recorder_name is None:
            raise ConfigError("delete_recorder needs the id or the name of a recorder.")
        self._tracker.delete_run(self.get_recorder(recorder_id, recorder_name, create=False).id)

    # -- many ----------------------------------------------------------------------------------------------------------

    @overload
    def list_recorders(
        self,
        rtype: Literal["dict"] = "dict",
        max_results: int | None = None,
        status: str | Sequence[str] | None = None,
        filter_string: str = "",
        *,
        name: str | None = None,
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, object] | None = None,
        order_by: Sequence[str] = (),
        joined: bool = False,
    ) -> dict[str, Recorder]: ...

    @overload
    def list_recorders(
        self,
        rtype: Literal["list"],
        max_results: int | None = None,
        status: str | Sequence[str] | None = None,
        filter_string: str = "",
        *,
        name: str | None = None,
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, object] | None = None,
        order_by: Sequence[str] = (),
        joined: bool = False,
    ) -> list[Recorder]: ...

    def list_recorders(
        self,
        rtype: str = RT_D,
        max_results: int | None = None,
        status: str | Sequence[str] | None = None,
        filter_string: str = "",
        *,
        name: str | None = None,
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, object] | None = None,
        order_by: Sequence[str] = (),
        joined: bool = False,
    ) -> dict[str, Recorder] | list[Recorder]:
        """Return the recorders that match, latest first. The store does the filtering.

        Recorders of joined results are left out by default, so that the same predictions are not collected twice.

        Parameters
        ----------
        rtype : str
            ``dict`` (id -> recorder) or ``list``.
        max_results : int, optional
            Maximum number of recorders.
        status : str or sequence of str, optional
            Only recorders with one of these statuses.
        filter_string : str
            MLflow's filter language: ``params.model = 'lgb' and metrics.IC > 0.02``.
        name : str, optional
            Only recorders with this name.
        params, tags : mapping, optional
            Only recorders with these values.
        order_by : sequence of str
            ``["metrics.IC DESC"]``.
        joined : bool
            If True, include the recorders of joined results.

        Raises
        ------
        ConfigError
            If `filter_string`, `order_by` or `rtype` is invalid.
        """
        if rtype not in (self.RT_D, self.RT_L):
            raise ConfigError(f"rtype must be 'dict' or 'list', found {rtype!r}.")
        query = RunQuery(
            status=(status,) if isinstance(status, str) else tuple(status or ()),
            name=name,
            params=_texts(params),
            tags=_texts(tags),
            filter_string=filter_string or "",
            order_by=tuple(order_by),
            limit=max_results,
        )
        found = self._tracker.search([self.id], query) if joined else self._search(query)
        recorders = [Recorder(self._tracker, d.info) for d in found]
        return recorders if rtype == self.RT_L else {r.id: r for r in recorders}

    def _search(self, query: RunQuery) -> list[RunData]:
        """Return the runs that match, without those of joined results."""
        limit, more = query.limit, 0
        while True:
            found = self._tracker.search([self.id], replace(query, limit=None if limit is None else limit + more))
            kept = [d for d in found if JOINED_TAG not in d.tags]
            left_out = len(found) - len(kept)
            if limit is None or len(kept) >= limit or left_out <= more:
                return kept[:limit]
            more = left_out

    def search_records(
        self,
        filter_string: str | None = None,
        run_view_type: int | None = None,
        max_results: int | None = None,
        order_by: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Return the runs as a DataFrame, see :func:`search_frame`."""
        return search_frame(self._tracker, [self.id], filter_string, run_view_type, max_results, order_by)


def _texts(wanted: Mapping[str, object] | None) -> dict[str, str]:
    return {k: str(v) for k, v in (wanted or {}).items()}


def get_experiment(
    tracker: Tracker, *, experiment_id: str | None = None, experiment_name: str | None = None, create: bool = True
) -> Experiment:
    """Return an experiment by id or name; by default the session's.

    Raises
    ------
    ExperimentNotFound
        If it does not exist and `create` is False, or if an id does not exist. The message suggests the nearest name.
    ConfigError
        If the name is empty.
    """
    if experiment_id is None and experiment_name is None:
        experiment_name = current_session().experiment_name
    if experiment_id is None and not str(experiment_name).strip():
        raise ConfigError("must not be empty.", path="experiment_name")
    found = tracker.find_experiment(name=experiment_name, experiment_id=experiment_id)
    if found is not None:
        return Experiment(tracker, *found)
    if create and experiment_id is None and experiment_name is not None:
        return Experiment(tracker, tracker.create_experiment(experiment_name), experiment_name)
    known = tracker.experiments()
    wanted = experiment_name if experiment_id is None else experiment_id
    raise ExperimentNotFound(
        f"There is no experiment {wanted!r}.{nearest(str(wanted), known)} Known: {', '.join(known) or 'none'}."
    )


def search_frame(
    tracker: Tracker,
    experiment_ids: Sequence[str],
    filter_string: str | None = None,
    run_view_type: int | None = None,
    max_results: int | None = None,
    order_by: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return the runs of some experiments as a DataFrame with the columns of ``mlflow.search_runs``.

    The columns are ``run_id``, ``experiment_id``, ``status``, ``artifact_uri``, ``start_time`` and ``end_time`` (UTC),
    ``run_name``, then ``metrics.NAME`` (NaN if a run has no value), ``params.NAME`` and ``tags.NAME`` (None if it has
    no value).

    Raises
    ------
    ConfigError
        If `filter_string` or `order_by` is invalid, or `run_view_type` is not 1 (runs that are not deleted).
    """
    import pandas as pd

    if run_view_type not in (None, 1):
        raise ConfigError(f"run_view_type {run_view_type!r}: only runs that are not deleted (1) can be searched.")
    query = RunQuery(filter_string=filter_string or "", order_by=tuple(order_by or ()), limit=max_results)
    runs = tracker.search(experiment_ids, query)
    columns: dict[str, object] = {
        "run_id": [d.info.id for d in runs],
        "experiment_id": [d.info.experiment_id for d in runs],
        "status": [d.info.status for d in runs],
        "artifact_uri": [tracker.files(d.info.id).uri for d in runs],
        "start_time": _times([d.info.start_time for d in runs]),
        "end_time": _times([d.info.end_time for d in runs]),
        "run_name": [d.info.name for d in runs],
    }
    for name, values in _spread(runs, "metrics"):
        columns[f"metrics.{name}"] = [float("nan") if v is None else v for v in values]
    for kind in ("params", "tags"):
        for name, values in _spread(runs, kind):
            columns[f"{kind}.{name}"] = pd.Series(values, dtype=object)
    return pd.DataFrame(columns)


def _times(seconds: Sequence[float | None]) -> pd.DatetimeIndex:
    import pandas as pd

    return pd.DatetimeIndex(
        [pd.NaT if s is None else pd.Timestamp(round(s * 1000), unit="ms", tz="UTC") for s in seconds],
        dtype="datetime64[ns, UTC]",
    )


def _spread(found: Sequence[RunData], kind: str) -> Iterator[tuple[str, list[object]]]:
    """Yield each name of a kind of values, in order of appearance, with the value of every run (None if missing)."""
    values: list[Mapping[str, object]] = [getattr(d, kind) for d in found]
    for name in dict.fromkeys(n for v in values for n in v):
        yield name, [v.get(name) for v in values]
