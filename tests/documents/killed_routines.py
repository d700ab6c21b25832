"""Routines in child processes that are killed, always two of them at once."""

from __future__ import annotations

import os
import random
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pymongo.collection import Collection

from growing import start_of
from rollforge.errors import ServiceBusy
from rollforge.ledger.postgres import PostgresLedger
from rollforge.ledger.sqlite import SQLiteLedger
from rollforge.ledger.state import ServiceState
from rollforge.online.manager import OnlineManager
from rollforge.store.postgres import PostgresStore
from rollforge.store.sqlite import SQLiteStore
from rollforge.track.mlflow.connection import Connection

Work = Callable[[], object]

_BUSY, _ERROR = 6, 1
_DATABASES: list[tuple[Any, str]] = [
    *((kind, "_write") for kind in (SQLiteLedger, PostgresLedger, SQLiteStore, PostgresStore)),
    *((Collection, name) for name in ("insert_one", "update_one", "find_one_and_update", "delete_many")),
]
"""The functions through which a service writes to its ledger and task store."""
_WRITES = [(os, "replace"), (os, "rename"), (os, "link"), (Connection, "call"), *_DATABASES]
"""Those through which it writes, also to files and the tracking store."""


def _kill_at(write: int, *, files: bool, databases: bool) -> None:
    """Let this process be killed before its write with this number.

    With `files`, each change of a file counts as one; with `databases`, only writes to the ledger and the task store do.
    """
    count = 0

    def written() -> None:
        nonlocal count
        count += 1
        if count == write:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            written()
            return function(*args, **kwargs)

        return run

    def audited(event: str, arguments: Sequence[Any]) -> None:
        changes = event in ("os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.link", "os.truncate")
        if changes or (event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            written()

    for place, name in _DATABASES if databases else _WRITES:
        if not (files and place is os):
            setattr(place, name, counted(getattr(place, name)))
    if files:
        sys.addaudithook(audited)


def _kill_after(seconds: float) -> None:
    """Let this process be killed when it has used a processor for some seconds, however busy the machine is.

    The signal has no handler, so the kernel ends the process as SIGKILL does.
    """
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)


def start(
    work: Work,
    *,
    write: int | None = None,
    seconds: float | None = None,
    files: bool = False,
    databases: bool = False,
) -> int:
    """Run `work` in a fork of this process that is killed before a write or after some processor time; return its id.

    With `files`, creating, opening, renaming and deleting a file or a folder count as writes too; with `databases`, only
    writes to the ledger and the task store count.
    """
    child = os.fork()
    if child:
        return child
    code = 0
    try:
        if write is not None:
            _kill_at(write, files=files, databases=databases)
        if seconds is not None:
            _kill_after(seconds)
        work()
    except ServiceBusy:
        code = _BUSY
    except BaseException:  # noqa: BLE001 - the child must not continue as a second test process
        traceback.print_exc()
        code = _ERROR
    os._exit(code)


def ended(child: int) -> str:
    """Wait until a child process ends; return "done", "busy" or "killed".

    Raises
    ------
    AssertionError
        If it failed.
    """
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGPROF), os.WTERMSIG(status)
        return "killed"
    assert os.WEXITSTATUS(status) in (0, _BUSY), "the routine failed; its traceback is above"
    return "busy" if os.WEXITSTATUS(status) else "done"


def two_at_once(work: Work, *, write: int | None = None, seconds: float | None = None) -> Counter[str]:
    """Run `work` in two child processes at once, each of which may be killed; return how they ended."""
    children = [start(work, write=write, seconds=seconds) for _ in range(2)]
    return Counter(map(ended, children))


class Shown(Protocol):
    """A market whose data folder can be replaced by what is known on a day."""

    def show(self, until: str) -> None:
        """Write the days up to `until`."""


def serve(
    market: Shown,
    served: OnlineManager,
    days: Sequence[str],
    *,
    writes: int,
    times: int,
    seconds: float,
    seed: int = 0,
) -> Counter[str]:
    """Serve days by two routines at once, which are killed; a week is missed after a third of the days.

    The kills are spread over the days. If a day ends before it has had its share, the rest is moved to the following
    days, and the last day gets what remains at its beginning. The time of the kills adapts to the duration of the
    routines.

    Parameters
    ----------
    writes : int
        Number of kills before a write.
    times : int
        Number of kills at random times.
    seconds : float
        The processor time within which the first of these happen.

    Returns
    -------
    Counter
        Number of kills by kind, of routines that found another one at work ("busy"), and of different places of a
        write.
    """
    chance = random.Random(seed)
    third = len(days) // 3
    run = [*days[:third], *days[third + 5 :]]
    wanted = {"writes": writes, "times": times}
    counts: Counter[str] = Counter()
    places = set()
    reach = 20
    for number, day in enumerate(run, 1):
        market.show(day)
        work = lambda day=day: served.routine(day)  # noqa: E731
        share = {kind: -(-total * number // len(run)) for kind, total in wanted.items()}
        last, done = number == len(run), False
        while not done:
            missing = [kind for kind in wanted if counts[kind] < share[kind]]
            kind = max(missing, key=lambda kind: share[kind] - counts[kind], default="none")
            at, after = None, None
            if kind == "writes":
                at = chance.randint(1, 2 if last else reach)
            elif kind == "times":
                after = chance.uniform(0.0005, 0.005 if last else seconds)
            found = two_at_once(work, write=at, seconds=after)
            counts[kind] += found["killed"]
            counts["busy"] += found["busy"]
            done = bool(found["done"])
            if kind == "writes":
                places |= {at} if found["killed"] else set()
                reach = max(2, reach * 2 // 3) if done else reach + 1
            elif kind == "times":
                seconds *= 0.7 if done else 1.05
    return Counter({**counts, "places": len(places)})


def decisions(state: ServiceState, windows: dict[str, str]) -> dict[str, Any]:
    """Return what a service decided, with the first days of the windows instead of the ids of recorders.

    Parameters
    ----------
    windows : dict
        Id of a recorder -> first day of its window.
    """
    published = [c.day.day for c in state.contents if c.day is not None and c.day.state.value == "published"]
    return {
        "published": published,
        "champions": {day: sorted(windows[r.recorder] for r in state.champions(day)) for day in published},
        "signals": {day: (s.version, s.rows, [windows[r] for r in s.recorders]) for day, s in state.signals().items()},
    }


def windows_of(served: OnlineManager) -> dict[str, str]:
    """Return the first day of the window of each recorder that a service has released."""
    found = {release.recorder: served.service.recorder(release) for _, release in served.state.releases}
    return {recorder: start_of(one) for recorder, one in found.items()}
