"""Routines in child processes that are killed, always two of them at once."""

from __future__ import annotations

import os
import random
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

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
_WRITES: list[tuple[Any, str]] = [
    (os, "replace"), (os, "rename"), (os, "link"), (Connection, "call"),
    *((kind, "_write") for kind in (SQLiteLedger, PostgresLedger, SQLiteStore, PostgresStore)),
]  # fmt: skip
"""The functions through which a service writes: files, tracking store, ledger and task store."""


def _kill_at(write: int) -> None:
    """Let this process be killed before its write with this number."""
    count = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == write:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return run

    for place, name in _WRITES:
        setattr(place, name, counted(getattr(place, name)))


def _kill_after(seconds: float) -> None:
    """Let this process be killed when it has used a processor for some seconds, however busy the machine is.

    The signal has no handler, so the kernel ends the process as SIGKILL does.
    """
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)


def start(work: Work, *, write: int | None = None, seconds: float | None = None) -> int:
    """Run `work` in a fork of this process that is killed before a write or after some processor time; return its id."""
    child = os.fork()
    if child:
        return child
    code = 0
    try:
        if write is not None:
            _kill_at(write)
        if seconds is not None:
            _kill_after(seconds)
        work()
    except ServiceBusy:
        code = _BUSY
    except BaseException:  # noqa: BLE001 - the child must not go on as a second test process
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
    """Serve days by two routines at once, which are killed; a week in the middle is missed.

    The kills are spread over the days. A day that ends before it has had its share leaves it to the next days.

    Parameters
    ----------
    writes : int
        Number of kills before a write. The place moves on with each kill.
    times : int
        Number of kills at random times.
    seconds : float
        The processor time within which these happen.

    Returns
    -------
    Counter
        Number of kills by kind, and of routines that found another one at work ("busy").
    """
    chance = random.Random(seed)
    half = len(days) // 2
    run = [*days[:half], *days[half + 5 :]]
    wanted = {"writes": writes, "times": times}
    counts: Counter[str] = Counter()
    place = 1
    for number, day in enumerate(run, 1):
        market.show(day)
        work = lambda day=day: served.routine(day)  # noqa: E731
        share = {kind: -(-total * number // len(run)) for kind, total in wanted.items()}
        done = False
        while not done:
            missing = [kind for kind in wanted if counts[kind] < share[kind]]
            if not missing:
                kind, found = "none", two_at_once(work)
            elif max(missing, key=lambda kind: share[kind] - counts[kind]) == "writes":
                kind, found = "writes", two_at_once(work, write=place)
                place = 1 + (place + 4) % 23
            else:
                kind, found = "times", two_at_once(work, seconds=chance.uniform(0.001, seconds))
            counts[kind] += found["killed"]
            counts["busy"] += found["busy"]
            done = bool(found["done"])
    return counts


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
