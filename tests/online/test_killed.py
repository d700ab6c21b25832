"""A service whose process is killed between any two writes ends in the same signals as an undisturbed one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rollforge
from growing import DAYS, Market, equal, live, manager, start_of, strategy, template
from rollforge.dates import day_after
from rollforge.errors import RollforgeError
from rollforge.generate.rolling import RollingGen
from rollforge.ledger.entry import Role, Verdict
from rollforge.ledger.sqlite import SQLiteLedger
from rollforge.online.manager import OnlineManager
from rollforge.online.policy import Policy
from rollforge.online.strategy import RollingStrategy
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


def with_policy(name: str, service: str | None = None) -> OnlineManager:
    """Return a service whose model of the fifth day is a candidate, and promoted after the seventh."""
    return OnlineManager(strategy(name), begin_time=RUN[0], service=service, policy=Policy(1, margin=2.0))


def with_challenger(name: str, service: str | None = None) -> OnlineManager:
    """Return a service whose second model is promoted after the sixth day, in the second window of both."""
    models = {"old": template(), "new": template(estimator="ridge", alpha=0.001)}
    rolled = RollingStrategy(name, [*models.values()], RollingGen(step=4, rtype="sliding"), [*models])
    policy = Policy(4, margin=2.0, challenger="new")
    return OnlineManager(rolled, begin_time=RUN[0], service=service, policy=policy)


@pytest.mark.parametrize(
    ("made", "verdicts", "promoted"),
    [
        (with_policy, [Verdict.PROMOTED], DAYS[67]),
        (with_challenger, [Verdict.SHADOW, Verdict.SHADOW, Verdict.SHADOW, Verdict.PROMOTED], DAYS[66]),
    ],
)
def test_killed_between_any_two_writes_with_a_policy(
    market: Market, tmp_path: Path, made: Callable[..., OnlineManager], verdicts: list[Verdict], promoted: str
) -> None:
    """The candidate is promoted on the same day, with the same figures."""
    rollforge.init(
        market.folder, tracking_uri=f"folder:{tmp_path / 'runs'}", store_uri=f"sqlite:///{tmp_path}/tasks.db", threads=1
    )
    run = DAYS[60:68]
    whole = made("undisturbed")
    expected = live(market, whole, run).get_signals()
    served = live(market, made("served", "killed"), run[:4])
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
    changes = [[(r.template, r.role, r.from_day, r.reason) for _, r in m.state.releases] for m in (served, whole)]
    named = [[change[1:] for change in found] if made is with_policy else found for found in changes]
    assert named[0] == named[1]
    first = next(r for _, r in served.state.releases if r.role is Role.CHAMPION and "rank IC" in r.reason)
    assert first.from_day == day_after(DAYS[DAYS.index(promoted) - 1])
    assert [c.verdict for _, c in served.state.comparisons] == verdicts
