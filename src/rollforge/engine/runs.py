"""Runs that agents record: in a folder of the agent, from which they are sent to the driver's tracking store.

A run is written there when its task has ended, whatever the outcome; a task whose run could not be written is not done.
A task that continues a run of the driver (the second stage of a delayed trainer) is sent a copy of it.
"""

from __future__ import annotations

import io
import logging
import shutil
import socket
import tempfile
import threading
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rollforge.errors import RollforgeError, TrackingError
from rollforge.limits import check_archive
from rollforge.run.messages import Done, Failed, Outcome, failure
from rollforge.session import Session, using
from rollforge.store.codec import decode_result, encode_result
from rollforge.task import Cause, TaskRecord, encode
from rollforge.track.folder import FolderTracker
from rollforge.track.pool_references import open_pool_reference, pool_reference
from rollforge.track.recorder import Recorder
from rollforge.track.tracker import RunInfo, Tracker, local_path, open_tracker
from rollforge.track.transfer import deliver_runs, is_lent, keep_run, lend_run, settle_runs
from rollforge.transitions import expired_under

__all__ = ["Deliveries", "lend", "pack", "take", "travels"]

log = logging.getLogger(__name__)

_KEY = "recorder"


def travels(session: Session) -> bool:
    """Return whether the runs of a session must be sent to the driver: its tracking store is in files, not a server."""
    return local_path(session.tracking_uri) is not None


# -- on the machine of the agent -----------------------------------------------------------------------------------------


def pack(folder: Path) -> bytes | None:
    """Return the runs in a folder as an archive, and remove them; None if there are none."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    if not any(file.suffix == ".jsonl" for file in files):
        return None
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            archive.write(file, file.relative_to(folder))
    clear(folder)
    return buffer.getvalue()


def clear(folder: Path) -> None:
    """Remove all runs in a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)


def take(packed: bytes, task: TaskRecord, folder: Path) -> TaskRecord:
    """Unpack a lent run into the agent's folder, and return its task, which refers to it there."""
    _unpack(packed, folder)
    reference = _continued(task)
    assert reference is not None
    return _continuing(task, {**reference, "tracking": f"folder:{folder}", "host": socket.gethostname()})


def _continued(task: TaskRecord) -> Mapping[str, Any] | None:
    """Return the reference to the run that a task continues; None if it begins one.

    It is the result of its first stage, or the item of a trainer without a pool.
    """
    item = task.definition.get("item") if "place" in task.definition else None
    for kept in (task.result, item):
        if isinstance(kept, Mapping) and isinstance(kept.get(_KEY), Mapping):
            return dict(kept[_KEY])
    return None


def _continuing(task: TaskRecord, reference: Mapping[str, Any]) -> TaskRecord:
    """Return a task that continues another run instead."""
    if task.result is not None:
        return replace(task, result={_KEY: reference})
    definition = {**task.definition, "item": {_KEY: reference}}
    return replace(task, definition=definition, text=encode(definition))


def _unpack(packed: bytes, folder: Path) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            check_archive(archive, len(packed), "What an agent recorded", error=TrackingError)
            archive.extractall(folder)
    except zipfile.BadZipFile as exc:
        raise TrackingError(f"What an agent recorded cannot be read: {exc}") from exc


# -- on the driver -------------------------------------------------------------------------------------------------------


def lend(task: TaskRecord, session: Session) -> tuple[TaskRecord, bytes | None]:
    """Return a task that continues a run recorded here with a copy of the run; any other task as it is."""
    known = _continued(task)
    if known is None:
        return task, None
    with using(session):
        recorder = open_pool_reference(known)
    with tempfile.TemporaryDirectory(prefix="rollforge-lent-") as name:
        target = FolderTracker(f"folder:{name}")
        copy = lend_run(open_tracker(recorder.uri), recorder.id, target)
        reference = {**known, "experiment_id": copy.experiment_id, "recorder_id": copy.id}
        return _continuing(task, reference), pack(Path(name))


class Deliveries:
    """Writes the runs of agents into the driver's tracking store, one task at a time.

    Parameters
    ----------
    session : Session
        The driver's session, with the tracking store.
    is_stored : callable, optional
        Asks the pool whether the outcome of an attempt is stored.
    """

    def __init__(self, session: Session, is_stored: Callable[[TaskRecord], bool] = lambda task: False) -> None:
        self._session = session
        self._is_stored = is_stored
        self._lock = threading.Lock()
        self._open: dict[tuple[str, int], tuple[TaskRecord, list[str]]] = {}
        """Runs that were created for attempts whose outcome is not stored yet: task and token -> task, ids of runs."""
        self._closed = False

    def begin(self, task: TaskRecord) -> None:
        """Prepare for an attempt at a task that was just claimed: remove what a killed driver has written for it.

        Such a driver may have been killed before it stored the outcome, or after that and before :meth:`settle`. Only the
        claim tells: if the one before it expired, the driver that held it stored nothing. If that is not known, because
        the task was reset since then, the runs are kept.
        """
        if task.cause is not Cause.LEASE_LOST:
            return
        try:
            with self._lock:
                tracker = open_tracker(self._session.tracking_uri)
                if removed := settle_runs(tracker, task.id, lambda worker: expired_under(task, worker)):
                    log.info("%d runs that a killed driver has left for task %s were removed", removed, task.id)
        except (RollforgeError, OSError) as exc:
            log.warning("runs that a killed driver may have left for task %s could not be removed: %s", task.id, exc)

    def deliver(self, packed: bytes, outcome: Outcome, task: TaskRecord) -> Outcome:
        """Write runs, and return the outcome of their task, whose result refers to the run in the tracking store.

        If they cannot be written, the task has failed.
        """
        try:
            with self._lock, tempfile.TemporaryDirectory(prefix="rollforge-runs-") as name:
                if self._closed:
                    raise TrackingError("The driver was interrupted before it wrote the run.")
                _unpack(packed, Path(name))
                tracker = open_tracker(self._session.tracking_uri)
                source = FolderTracker(f"folder:{name}")
                delivered = deliver_runs(source, tracker, task.id, task.worker or "")
                made = [run.id for i, run in delivered.items() if not is_lent(source, i)]
                self._open[task.id, task.token] = (task, made)
            return self._with_reference(outcome, tracker, delivered)
        except (RollforgeError, OSError) as exc:
            if isinstance(outcome, Done):
                return failure(exc)
            return outcome

    def settle(self, task: TaskRecord, *, stored: bool) -> None:
        """Keep the runs of an attempt if its outcome is stored in the pool, else remove them."""
        with self._lock:
            self._settle((task.id, task.token), stored)

    def close(self) -> None:
        """Remove the runs of attempts whose outcome is not stored, and write no others.

        The pool is asked, since Ctrl-C may come after an outcome was stored and before :meth:`settle`.
        """
        with self._lock:
            self._closed = True
            for attempt, (task, _) in list(self._open.items()):
                try:
                    stored = self._is_stored(task)
                except RollforgeError as exc:
                    log.warning("runs of task %s are kept, since the pool does not say how it ended: %s", task.id, exc)
                else:
                    self._settle(attempt, stored)

    def _settle(self, attempt: tuple[str, int], stored: bool) -> None:
        _, runs = self._open.pop(attempt, (None, []))
        tracker = open_tracker(self._session.tracking_uri) if runs else None
        for run_id in runs:
            assert tracker is not None
            try:
                keep_run(tracker, run_id) if stored else tracker.delete_run(run_id)
            except (RollforgeError, OSError) as exc:
                log.warning(
                    "run %s of task %s could not be %s: %s", run_id, attempt[0], "kept" if stored else "removed", exc
                )

    def _with_reference(self, outcome: Outcome, tracker: Tracker, delivered: Mapping[str, RunInfo]) -> Outcome:
        if not isinstance(outcome, Done) or outcome.result.plain is None:
            return outcome
        result = decode_result(outcome.result)
        if not (isinstance(result, Mapping) and isinstance(result.get(_KEY), Mapping)):
            return outcome
        info = delivered.get(str(result[_KEY].get("recorder_id")))
        if info is None:
            return Failed(
                "The task returned a recorder whose run its machine did not send.",
                "the run of its recorder was not sent", failure(TrackingError("")).cause,
            )  # fmt: skip
        return Done(encode_result({_KEY: pool_reference(Recorder(tracker, info))}))
