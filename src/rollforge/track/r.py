"""``R``: Qlib's way to the recorder of the moment. A thin convenience over the session; nothing in the package reads it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from rollforge.errors import RecorderNotFound
from rollforge.session import current_session, using
from rollforge.track.base import Experiment, Recorder, Tracker, get_experiment, open_tracker

__all__ = ["QlibRecorder", "R"]

_active: ContextVar[Recorder | None] = ContextVar("rollforge_recorder", default=None)


class QlibRecorder:
    """The functions of Qlib's ``R``, each over the current session's tracking store."""

    @property
    def _tracker(self) -> Tracker:
        return open_tracker(current_session().tracking)

    @contextlib.contextmanager
    def start(
        self,
        *,
        experiment_id: str | None = None,
        experiment_name: str | None = None,
        recorder_id: str | None = None,
        recorder_name: str | None = None,
        uri: str | None = None,
        resume: bool = False,
    ) -> Iterator[Recorder]:
        """Run a ``with`` block under a new recorder, or with `resume` under one that is there.

        The recorder ends ``FINISHED``, or ``FAILED`` when the block raises.
        """
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
                self.end_exp(Recorder.STATUS_FA)
                raise
            self.end_exp(Recorder.STATUS_FI)

    def start_exp(
        self,
        *,
        experiment_id: str | None = None,
        experiment_name: str | None = None,
        recorder_id: str | None = None,
        recorder_name: str | None = None,
        uri: str | None = None,
        resume: bool = False,
    ) -> Recorder:
        """Start a recorder; :meth:`end_exp` ends it."""
        experiment = self.get_exp(experiment_id=experiment_id, experiment_name=experiment_name)
        if resume:
            recorder = experiment.get_recorder(recorder_id, recorder_name).start_run()
        else:
            recorder = experiment.create_recorder(recorder_name)
        _active.set(recorder)
        return recorder

    def end_exp(self, recorder_status: str = Recorder.STATUS_FI) -> None:
        """End the active recorder."""
        recorder = _active.get()
        if recorder is not None:
            _active.set(None)
            recorder.end_run(recorder_status)

    def get_exp(
        self, *, experiment_id: str | None = None, experiment_name: str | None = None, create: bool = True
    ) -> Experiment:
        """Return an experiment; by default the active recorder's, else the session's."""
        active = _active.get()
        if active is not None and experiment_id is None and experiment_name is None:
            experiment_id = active.experiment_id
        return get_experiment(
            self._tracker, experiment_id=experiment_id, experiment_name=experiment_name, create=create
        )

    def get_recorder(
        self,
        *,
        recorder_id: str | None = None,
        recorder_name: str | None = None,
        experiment_id: str | None = None,
        experiment_name: str | None = None,
    ) -> Recorder:
        """Return a recorder; by default the active one.

        Raises
        ------
        RecorderNotFound
            When nothing is named and none is active, or it is not there.
        """
        active = _active.get()
        if active is not None and recorder_id is None and recorder_name is None and experiment_name is None:
            return active
        if recorder_id is not None and experiment_id is None and experiment_name is None:
            return Recorder(self._tracker, self._tracker.read(recorder_id).info)
        if recorder_id is None and recorder_name is None and experiment_id is None and experiment_name is None:
            raise RecorderNotFound("No recorder is active. Start one: with R.start(experiment_name=…):")
        experiment = self.get_exp(experiment_id=experiment_id, experiment_name=experiment_name, create=False)
        return experiment.get_recorder(recorder_id, recorder_name)

    def list_experiments(self) -> dict[str, Experiment]:
        """Return the experiments by name."""
        tracker = self._tracker
        return {name: Experiment(tracker, one, name) for name, one in tracker.experiments().items()}

    def list_recorders(
        self, experiment_id: str | None = None, experiment_name: str | None = None
    ) -> dict[str, Recorder]:
        """Return the recorders of an experiment by id."""
        experiment = self.get_exp(experiment_id=experiment_id, experiment_name=experiment_name, create=False)
        found: dict[str, Recorder] = experiment.list_recorders()
        return found

    def search_records(self, experiment_ids: list[str] | None = None, **kwargs: Any) -> Any:
        """Return the runs of experiments as one frame."""
        import pandas as pd

        ids = experiment_ids or [self.get_exp().id]
        return pd.concat([self.get_exp(experiment_id=i).search_records(**kwargs) for i in ids], ignore_index=True)

    def delete_exp(self, experiment_id: str | None = None, experiment_name: str | None = None) -> None:
        """Delete an experiment with its runs."""
        experiment = self.get_exp(experiment_id=experiment_id, experiment_name=experiment_name, create=False)
        self._tracker.delete_experiment(experiment.id)

    def delete_recorder(self, recorder_id: str | None = None, recorder_name: str | None = None) -> None:
        """Delete a recorder."""
        self._tracker.delete_run(self.get_recorder(recorder_id=recorder_id, recorder_name=recorder_name).id)

    def get_uri(self) -> str:
        """Return the URI of the tracking store."""
        return self._tracker.uri

    @contextlib.contextmanager
    def uri_context(self, uri: str) -> Iterator[None]:
        """Use another tracking store inside a ``with`` block."""
        with using(current_session().with_(tracking=uri)):
            yield

    def log_params(self, **kwargs: Any) -> None:
        """Keep parameters in the active recorder."""
        self.get_recorder().log_params(**kwargs)

    def log_metrics(self, step: int | None = None, **kwargs: Any) -> None:
        """Keep metrics in the active recorder."""
        self.get_recorder().log_metrics(step=step, **kwargs)

    def set_tags(self, **kwargs: Any) -> None:
        """Keep tags in the active recorder."""
        self.get_recorder().set_tags(**kwargs)

    def log_artifact(self, local_path: str | Path, artifact_path: str | None = None) -> None:
        """Keep a file in the active recorder."""
        self.get_recorder().log_artifact(local_path, artifact_path)

    def save_objects(
        self, local_path: str | Path | None = None, artifact_path: str | None = None, **kwargs: Any
    ) -> None:
        """Keep objects in the active recorder."""
        self.get_recorder().save_objects(local_path, artifact_path, **kwargs)

    def load_object(self, name: str, *, trusted: bool = False) -> Any:
        """Return an object of the active recorder."""
        return self.get_recorder().load_object(name, trusted=trusted)

    def download_artifact(self, path: str, dst_path: str | Path | None = None) -> str:
        """Return a local file with an artifact of the active recorder."""
        return self.get_recorder().download_artifact(path, dst_path)


R = QlibRecorder()
