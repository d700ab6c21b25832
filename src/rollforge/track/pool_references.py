"""References to runs as a pool keeps them, and messages about runs that only another machine has.

If a worker records runs in a file on its own machine, the reference in the pool also contains the name of the host.
"""

from __future__ import annotations

import shlex
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from rollforge.confidential import mask_secrets, without_secrets
from rollforge.errors import RecorderUnreachable, RollforgeError, TrackingError
from rollforge.session import Session, current_session
from rollforge.store.base import open_store
from rollforge.task import Status
from rollforge.track.recorder import COPIED_FROM, Recorder, RunReference, check_reference, open_reference
from rollforge.track.tracker import RunQuery, Tracker, known_address, local_path, open_tracker

__all__ = ["describe_unreachable_runs", "open_pool_reference", "pool_reference"]

_MAX_TASKS = 10_000
"""Maximum number of tasks of a pool that are searched for a missing run."""


def pool_reference(recorder: Recorder) -> RunReference:
    """Return the reference to a recorder that a pool keeps: without secrets, but with the host of a local store."""
    kept: RunReference = {**recorder.reference(), "tracking": without_secrets(recorder.uri)}
    if local_path(recorder.uri) is not None:
        kept["host"] = socket.gethostname()
    return kept


def open_pool_reference(kept: Mapping[str, object]) -> Recorder:
    """Return the recorder of a reference from a pool. One that should be on this machine is not read yet.

    Raises
    ------
    RecorderUnreachable
        If only another machine has it, and the current session's tracking store has no copy.
    """
    known = check_reference(kept)
    reference: RunReference = {**known, "tracking": known_address(known["tracking"], current_session().tracking_uri)}
    host = known.get("host")
    if host is None or host == socket.gethostname() or (place := local_path(known["tracking"])) is None:
        return open_reference(reference, read=False)
    if place.exists():  # the machines may share a disk
        try:
            return open_reference(reference)
        except TrackingError:  # a different store at the same path
            pass
    copy = _copy_of(known["recorder_id"])
    if copy is None:
        raise RecorderUnreachable(_message(1, host, known["tracking"]))
    return copy


def _copy_of(run_id: str) -> Recorder | None:
    tracking_uri = current_session().tracking_uri
    place = local_path(tracking_uri)
    if place is not None and not place.exists():
        return None
    try:
        tracker: Tracker = open_tracker(tracking_uri)
        found = tracker.search(list(tracker.experiments().values()), RunQuery(tags={COPIED_FROM: run_id}, limit=1))
    except TrackingError:
        return None
    return Recorder(tracker, found[0].info) if found else None


def _message(count: int, host: str, tracking_uri: str) -> str:
    address = mask_secrets(tracking_uri)
    what = "The run was" if count == 1 else f"{count} runs were"
    return (
        f"{what} recorded on {host}, in {address}, which this machine ({socket.gethostname()}) does not have. Copy "
        f"{'it' if count == 1 else 'them'} on {host} to a tracking store that both can reach, and pass that store here with "
        f"--tracking: rollforge track copy {shlex.quote(address)} http://HOST:5000. To record runs there "
        "directly, start workers with --tracking."
    )


def describe_unreachable_runs(session: Session, pool: str | None, run_id: str | None = None) -> str:
    """Return a message about runs that are only on another machine; empty if there are none.

    Parameters
    ----------
    session : Session
        Provides the task store.
    pool : str, optional
        Name of a pool; by default all pools.
    run_id : str, optional
        Only this run.
    """
    try:
        found = list(_unreachable(session, pool, run_id))
    except RollforgeError:  # the caller is about to report another error
        return ""
    return _message(len(found), found[0].get("host", ""), found[0]["tracking"]) if found else ""


def _unreachable(session: Session, pool: str | None, run_id: str | None) -> Iterator[Mapping[str, str]]:
    scheme, _, path = session.store_uri.partition(":///")
    if scheme == "sqlite" and not Path(path.partition("?")[0]).expanduser().exists():
        return
    store = open_store(session.store_uri)
    for name in [p for p in store.pools() if pool in (None, p)]:
        done: dict[str, object] = {"status": Status.DONE.value}
        if sum(store.count(name, done).values()) > _MAX_TASKS:
            continue
        for task in store.query(name, done):
            kept = task.result.get("recorder") if isinstance(task.result, Mapping) else None
            if not isinstance(kept, Mapping) or kept.get("host") in (None, socket.gethostname()):
                continue
            if run_id is not None and kept.get("recorder_id") != run_id:
                continue
            try:
                open_pool_reference(kept)
            except RecorderUnreachable:
                yield kept
            except TrackingError:
                continue  # the pool contains something else in its place
