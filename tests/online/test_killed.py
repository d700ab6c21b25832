"""A service whose process is killed between any two writes ends in the same signals as an undisturbed one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rollforge
from growing import DAYS, Market, equal, live, manager, start_of, strategy
from rollforge.errors import RollforgeError
from rollforge.ledger.entry import Verdict
from rollforge.ledger.sqlite import SQLiteLedger
from rollforge.online.manager import OnlineManager
from rollforge.online.policy import Policy
from rollforge.run.trainer import DelayTrainerR, Trainer, TrainerR
from rollforge.session import current_session
from rollforge.track.base import Recorder, get_experiment, open_tracker
from rollforge.track.frame import read_table

RUN = DAYS[60:66]
"""Windows begin on the first and on the fifth day."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def killed_at(work: Callable[[], object], write: int) -> bool:
    """Run `work` in a child process that is killed before its write with this number; return whether it was."""
    child = os.fork()
    if child == 0:
        count = 0

        def counted(function: Callable[..., Any]) -> Callable[..., Any]:
            def run(*args: Any, **kwargs: Any) -> Any:
                nonlocal count
                count += 1
                if count == write:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)

            return run

        os.replace, os.link = counted(os.replace), counted(os.link)
        SQLiteLedger.append = counted(SQLiteLedger.append)  # type: ignore[method-assign]
        try:
            work()
        except RollforgeError:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("trainer", [TrainerR, DelayTrainerR])
def test_killed_between_any_two_writes(market: Market, tmp_path: Path, trainer: Callable[[], Trainer]) -> None:
    """Each day is killed at every second write until it ends; the days, the rows and the windows are the same."""
    rollforge.init(
        market.folder, tracking_uri=f"folder:{tmp_path / 'runs'}", store_uri=f"sqlite:///{tmp_path}/tasks.db", threads=1
    )
    expected = live(market, manager(trainer(), name="undisturbed"), RUN).get_signals()
    served = manager(trainer(), service="killed")
    kills = 0
    for place, day in enumerate(RUN):
        market.show(day)
        write = 1 + place % 2
        while killed_at(lambda day=day: served.routine(day), write):
            kills, write = kills + 1, write + 2
    assert kills > 10
    equal(served.get_signals(), expected)
    experiment = get_experiment(open_tracker(current_session().tracking_uri), experiment_name="served")
    finished = experiment.list_recorders("list", status=Recorder.STATUS_FI)
    assert sorted(map(start_of, finished)) == [DAYS[i] for i in (52, 56, 60, 64)]
    assert {r.recorder for _, r in served.state.releases} == {r.id for r in finished}


def test_killed_between_any_two_writes_with_a_policy(market: Market, tmp_path: Path) -> None:
    """The candidate of the window that begins on the fifth day is promoted after the seventh, with the same figures."""
    rollforge.init(
        market.folder, tracking_uri=f"folder:{tmp_path / 'runs'}", store_uri=f"sqlite:///{tmp_path}/tasks.db", threads=1
    )
    policy, run = Policy(1, margin=2.0), DAYS[60:68]
    whole = OnlineManager(strategy("undisturbed"), begin_time=run[0], policy=policy)
    expected = live(market, whole, run).get_signals()
    served = live(market, OnlineManager(strategy(), begin_time=run[0], service="killed", policy=policy), run[:4])
    kills = 0
    for place, day in enumerate(run[4:]):
        market.show(day)
        write = 1 + place % 2
        while killed_at(lambda day=day: served.routine(day), write):
            kills, write = kills + 1, write + 2
    assert kills > 8
    equal(served.get_signals(), expected)
    for one, other in zip(served.state.shadows.values(), whole.state.shadows.values(), strict=True):
        assert (one.day, one.rows) == (other.day, other.rows)
        frames = [read_table(m.service.place / s.file) for m, s in ((served, one), (whole, other))]
        assert (frames[0].to_numpy() == frames[1].to_numpy()).all()
    changes = [[(r.role, r.from_day, r.reason) for _, r in m.state.releases] for m in (served, whole)]
    assert changes[0] == changes[1]
    assert [r.from_day for _, r in served.state.releases][-1] == "2024-04-03"
    assert [c.verdict for _, c in served.state.comparisons] == [Verdict.PROMOTED]
