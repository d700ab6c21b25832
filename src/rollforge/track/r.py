"""``R``: Qlib's access to the active recorder. A thin layer over the session; the package itself does not use it."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollforge.confidential import mask_secrets
from rollforge.errors import ConfigError, ExperimentNotFound, RecorderNotFound, RecorderUnreachable, TrackingError
from rollforge.session import current_session, init, using
from rollforge.track.experiment import Experiment, active_recorders, get_experiment, search_frame
from rollforge.track.pool_references import describe_unreachable_runs
from rollforge.track.recorder import Recorder
from rollforge.track.tracker import Tracker, folder_uri, open_tracker

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["QlibRecorder", "R"]

_NOT_STARTED = "No recorder is active. Start one: with R.start(experiment_name=…):"


class QlibRecorder:
    """The functions of Qlib's ``R``, applied to the current session's tracking store.

    The active recorder belongs to the thread or async task that started it. Recorders can be nested: the inner one
    ends first.

    Examples
    --------
    >>> import tempfile
    >>> from rollforge.session import Session, using
    >>> folder = tempfile.TemporaryDirectory()
    >>> with using(Session(tracking_uri=f"folder:{folder.name}")):
    ...     with R.start(experiment_name="demo", recorder_name="first"):
    ...         R.log_params(learning_rate=0.1)
    ...         R.save_objects(**{"notes": ["short"]})
    ...     recorder = R.get_recorder(experiment_name="demo", recorder_name="first")
    >>> recorder.status, recorder.list_params(), recorder.load_object("notes")
    ('FINISHED', {'learning_rate': '0.1'}, ['short'])
    >>> folder.cleanup()
    """

    def __init__(self) -> None:
        self._written: dict[str, str] = {}  # URI of a folder -> the spelling that a script used

    def __repr__(self) -> str:
        return f"R(uri={mask_secrets(current_session().tracking_uri)!r})"

    @property
    def _tracker(self) -> Tracker:
        return open_tracker(current_session().tracking_uri)

    @property
    def _active(self) -> Recorder | None:
        active = active_recorders()
        return active[-1] if active else None

    # -- starting and ending -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def start(
        self,
        *,
        experiment_id: str | None = None,
        experiment_name: str | None = None,
        recorder_id: str | None = None,
        recorder_name: str | None = None,
        uri: str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> Iterator[Recorder]:
        """Run a ``with`` block with a new active recorder, or with `resume` an existing one.

        The recorder ends as ``FINISHED``, or as ``FAILED`` if the block raises an exception, which is not suppressed.

        Parameters
        ----------
        experiment_id, experiment_name : str, optional
            Id or name of the experiment; by default the session's. A name that does not exist is created.
        recorder_id, recorder_name : str, optional
            Name of the new recorder, or id or name of the recorder to resume.
        uri : str, optional
            Another tracking store, used only inside the block. A path or ``file:PATH`` is an ``mlruns`` folder, which
            is created if it does not exist.
        resume : bool
            If True, resume the recorder with the id, or the latest with the name (created if there is none), or the
            latest.
        """
        if uri:
            folder_uri(uri, create=True)
        with self.uri_context(uri) if uri else contextlib.nullcontext():
            recorder = self.start_exp(
                experiment_id=experiment_id,
                experiment_name=experiment_name,
                recorder_id=recorder_id,
                recorder_name=recorder_name,
                resume=resume,
            )
            try:
                yield recorder
            except BaseException:
                self._end(recorder, Recorder.STATUS_FA)
                raise
            self._end(recorder, Recorder.STATUS_FI)

    def start_exp(
        self,
        *,
        experiment_id: str | None = None,
        experiment_name: str | None = None,
        recorder_id: str | None = None,
        recorder_name: str | None = None,
        uri: str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> Recorder:
        """Start a recorder, which :meth:`end_exp` ends. For the parameters, see :meth:`start`.

        A recorder that is still active when the program exits ends then, as ``FAILED`` after an uncaught exception.
        """
        if recorder_id is not None and not resume:
            raise ConfigError("A new recorder gets a new id. To continue an existing recorder, use resume=True.")
        tracker = self._tracker if uri is None else open_tracker(folder_uri(uri, create=True))
        experiment = get_experiment(tracker, experiment_id=experiment_id, experiment_name=experiment_name)
        return experiment.start(recorder_id=recorder_id, recorder_name=recorder_name, resume=resume)

    def end_exp(self, recorder_status: str = Recorder.STATUS_FI) -> None:
        """End the active recorder, if there is one."""
        active = self._active
        if active is not None:
            self._end(active, recorder_status)

    def _end(self, recorder: Recorder, status: str) -> None:
        if any(r is recorder for r in active_recorders()):  # the block may have ended it
            self._experiment_of(recorder).end(status)

    def _experiment_of(self, recorder: Recorder) -> Experiment:
        return Experiment(open_tracker(recorder.uri), recorder.experiment_id, "")

    # -- experiments ---------------------------------------------------------------------------------------------------

    def get_exp(
        self,
        *,
        experiment_id: str | None = None,
        experiment_name: str | None = None,
        create: bool = True,
        start: bool = False,
    ) -> Experiment:
        """Return an experiment; by default the active recorder's, else the session's.

        Parameters
        ----------
        experiment_id, experiment_name : str, optional
            Id or name of the experiment.
        create : bool
            If True, create an experiment with the name if there is none.
        start : bool
            If True, start a recorder in the experiment unless one is active there.

        Raises
        ------
        ExperimentNotFound
            If it does not exist and may not be created.
        """
        active = self._active
        tracker = self._tracker
        if active is not None and experiment_id is None and experiment_name is None:
            experiment_id, tracker = active.experiment_id, open_tracker(active.uri)
        found = get_experiment(tracker, experiment_id=experiment_id, experiment_name=experiment_name, create=create)
        if start and found.active_recorder is None:
            found.start()
        return found

    def list_experiments(self) -> dict[str, Experiment]:
        """Return the experiments by name."""
        tracker = self._tracker
        return {name: Experiment(tracker, one, name) for name, one in tracker.experiments().items()}

    def delete_exp(self, experiment_id: str | None = None, experiment_name: str | None = None) -> None:
        """Delete an experiment and its runs.

        Raises
        ------
        ConfigError
            If neither an id nor a name is given.
        """
        if experiment_id is None and experiment_name is None:
            raise ConfigError("delete_exp needs the id or the name of an experiment.")
        experiment = self.get_exp(experiment_id=experiment_id, experiment_name=experiment_name, create=False)
        self._tracker.delete_experiment(experiment.id)

    # -- recorders -----------------------------------------------------------------------------------------------------

    def get_recorder(
        self,
        *,
        recorder_id: str | None = None,
        recorder_name: str | None = None,
        experiment_id: str | None = None,
        experiment_name: str | None = None,
    ) -> Recorder:
        """Return a recorder; by default the active one, else the latest of the session's experiment.

        An id identifies a recorder without its experiment; a name is looked up in the experiment.

        Raises
        ------
        RecorderNotFound
            If it does not exist.
        RecorderUnreachable
            If a worker recorded it on another machine.
        """
        try:
            if experiment_id is None and experiment_name is None:
                if recorder_id is not None:
                    return Recorder(self._tracker, self._tracker.read(recorder_id).info)
                if recorder_name is None:
                    return self._active or self._latest()
            experiment = self.get_exp(experiment_id=experiment_id, experiment_name=experiment_name, create=False)
            return experiment.get_recorder(recorder_id, recorder_name, create=False)
        except (RecorderNotFound, ExperimentNotFound) as exc:
            session = current_session()
            pool = experiment_name or (None if recorder_id else session.experiment_name)
            message = describe_unreachable_runs(session, pool, recorder_id)
            if message:
                raise RecorderUnreachable(message) from exc
            raise

    def _latest(self) -> Recorder:
        try:
            latest = self.get_exp(create=False).list_recorders(max_results=1)
        except ExperimentNotFound:
            latest = {}
        if not latest:
            raise RecorderNotFound(_NOT_STARTED)
        found: Recorder = next(iter(latest.values()))
        return found

    @property
    def _started(self) -> Recorder:
        """The active recorder, in which values are logged."""
        if self._active is None:
            raise RecorderNotFound(_NOT_STARTED)
        return self._active

    def list_recorders(
        self, experiment_id: str | None = None, experiment_name: str | None = None, **filters: Any
    ) -> dict[str, Recorder]:
        """Return the recorders of an experiment by id, latest first; `filters` as in ``Experiment.list_recorders``."""
        experiment = self.get_exp(experiment_id=experiment_id, experiment_name=experiment_name, create=False)
        found: dict[str, Recorder] = experiment.list_recorders(**filters)
        return found

    def search_records(self, experiment_ids: Sequence[str] | None = None, **kwargs: Any) -> pd.DataFrame:
        """Return the runs of experiments (by default the active one) as one DataFrame with MLflow's columns.

        Keyword arguments are ``filter_string``, ``max_results`` and ``order_by``, such as ``["metrics.IC DESC"]``; see
        :func:`rollforge.track.experiment.search_frame`.
        """
        ids = list(experiment_ids) if experiment_ids is not None else [self.get_exp(create=False).id]
        return search_frame(self._tracker, ids, **kwargs)

    def delete_recorder(self, recorder_id: str | None = None, recorder_name: str | None = None) -> None:
        """Delete a recorder by id, or the latest with a name in the active (or the session's) experiment."""
        if recorder_id is None:
            self.get_exp(create=False).delete_recorder(recorder_name=recorder_name)
        else:
            self._tracker.delete_run(self.get_recorder(recorder_id=recorder_id).id)

    # -- tracking store ------------------------------------------------------------------------------------------------

    def get_uri(self) -> str:
        """Return the URI of the tracking store, in the spelling given to `set_uri` or `uri_context` if there is one."""
        return self._written.get(current_session().tracking_uri) or self._tracker.uri

    def set_uri(self, uri: str | os.PathLike[str] | None) -> None:
        """Use another tracking store in this process from now on; None selects the one given by the environment.

        A path or ``file:PATH`` is an ``mlruns`` folder, which is created if it does not exist.

        Raises
        ------
        TrackingError
            Inside ``uri_context`` or another session's block, as it would have no effect there.
        """
        named = folder_uri(uri, create=True) if uri else type(current_session())().tracking_uri
        session = current_session().with_(tracking_uri=named)
        before = {f.name: getattr(session, f.name) for f in fields(session)}
        init(**before)
        if current_session() != session:
            raise TrackingError("The tracking store cannot be changed inside this block. Use R.uri_context(uri).")
        self._written = {named: str(uri)} if uri else {}

    @contextlib.contextmanager
    def uri_context(self, uri: str | os.PathLike[str]) -> Iterator[None]:
        """Use another tracking store inside a ``with`` block; a path or ``file:PATH`` is an ``mlruns`` folder."""
        full = folder_uri(uri)
        before = self._written.get(full)
        self._written[full] = str(uri)
        try:
            with using(current_session().with_(tracking_uri=full)):
                yield
        finally:
            if before is None:
                self._written.pop(full, None)
            else:
                self._written[full] = before

    # -- values and artifacts of the active recorder -------------------------------------------------------------------

    def log_params(self, **kwargs: object) -> None:
        """Log parameters in the active recorder."""
        self._started.log_params(**kwargs)

    def log_metrics(self, step: int | None = None, **kwargs: object) -> None:
        """Log metrics in the active recorder."""
        self._started.log_metrics(step=step, **kwargs)

    def set_tags(self, **kwargs: object) -> None:
        """Set tags of the active recorder."""
        self._started.set_tags(**kwargs)

    def delete_tags(self, *keys: str) -> None:
        """Remove tags of the active recorder."""
        self._started.delete_tags(*keys)

    def log_artifact(self, local_path: str | Path, artifact_path: str | None = None) -> None:
        """Save a copy of a file or folder in the active recorder."""
        self._started.log_artifact(local_path, artifact_path)

    def save_objects(
        self, local_path: str | Path | None = None, artifact_path: str | None = None, **kwargs: object
    ) -> None:
        """Save objects in the active recorder."""
        self._started.save_objects(local_path, artifact_path, **kwargs)

    def load_object(self, name: str, *, trusted: bool = False) -> Any:
        """Return an object of the active recorder."""
        return self._started.load_object(name, trusted=trusted)

    def list_artifacts(self, artifact_path: str | None = None) -> list[str]:
        """Return the paths of the artifacts of the active recorder."""
        return self._started.list_artifacts(artifact_path)

    def download_artifact(self, path: str, dst_path: str | Path | None = None) -> str:
        """Return the path of a local file or folder with an artifact of the active recorder."""
        return self._started.download_artifact(path, dst_path)


R = QlibRecorder()

_process = os.getpid()


@atexit.register
def _end_active() -> None:
    """End recorders that are still active. Python stores an uncaught exception as ``sys.last_value``."""
    if os.getpid() != _process:
        return  # a forked process: the recorder belongs to its parent
    failed = getattr(sys, "last_value", None) is not None
    while active_recorders():
        R.end_exp(Recorder.STATUS_FA if failed else Recorder.STATUS_FI)
