"""Two concurrent routines, killed and with a week missed, publish the same as an undisturbed service."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import rollforge
from growing import DAYS, TRAINERS, Market, equal, manager, prices, recorders, start_of
from killed_routines import decisions, serve, windows_of
from rollforge.session import Session, using
from rollforge.testing.postgres import PostgresServer
from rollforge.track.base import Recorder

RUN = DAYS[60:100]
"""40 days, with ten windows."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The signals and decisions of a simulation."""
    folder = tmp_path_factory.mktemp("undisturbed")
    market = Market(folder / "data", prices(8))
    market.show(DAYS[-1])
    session = Session(
        provider_uri=str(market.folder), tracking_uri=f"folder:{folder}/runs", store_uri="memory://undisturbed",
        cache=str(folder / "cache"), threads=1,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch, using(session):
        patch.setenv("ROLLFORGE_HOME", str(folder))
        simulated = manager()
        signals = simulated.simulate(RUN[-1])
        decided = decisions(simulated.state, windows_of(simulated))
    yield signals, decided
    shutil.rmtree(folder)


def check(served: Any, undisturbed: tuple[Any, dict[str, Any]], days: list[str]) -> None:
    """Check that a service has published the same signals by the same decisions, and trained each window once."""
    signals, decided = undisturbed
    equal(served.get_signals(), signals.loc[: days[-1]])
    found = decisions(served.state, windows_of(served))
    assert found["published"] == days
    assert found == {
        "published": days,
        "champions": {day: decided["champions"][day] for day in days},
        "signals": {day: said for day, said in decided["signals"].items() if day <= days[-1]},
    }
    finished = [start_of(r) for r in recorders(status=Recorder.STATUS_FI)]  # a killed one may have no task yet
    assert finished == [day for place, day in enumerate(DAYS) if day <= days[-1] and place in range(52, 120, 4)]


@pytest.mark.parametrize("trainer", TRAINERS)
def test_twenty_kills_in_forty_days(tmp_path: Path, undisturbed: tuple[Any, dict[str, Any]], trainer: str) -> None:
    """Kills before ten writes and at up to ten random times leave the same days, rows, windows and releases."""
    market = Market(tmp_path / "data", prices(8))
    rollforge.init(
        market.folder, tracking_uri=f"folder:{tmp_path}/runs", store_uri=f"sqlite:///{tmp_path}/tasks.db", threads=1
    )
    market.show(RUN[0])
    served = manager(TRAINERS[trainer]())
    counts = serve(market, served, RUN, writes=10, times=10, seconds=0.1)
    assert counts["writes"] >= 10
    assert counts["times"]  # how many of the random times are before the end depends on the machine
    check(served, undisturbed, RUN)


PLACES = [
    ("folder", "postgres", "TrainerR"),
    ("folder", "postgres", "TrainerRM"),
    ("folder", "postgres", "DelayTrainerR"),
    ("folder", "postgres", "DelayTrainerRM"),
    ("mlflow", "sqlite", "TrainerR"),
    ("mlflow", "sqlite", "DelayTrainerRM"),
]


@pytest.mark.parametrize(("tracker", "store", "trainer"), PLACES)
def test_kills_on_other_databases(
    tmp_path: Path,
    undisturbed: tuple[Any, dict[str, Any]],
    tracking_in: Callable[[str], str],
    request: pytest.FixtureRequest,
    tracker: str,
    store: str,
    trainer: str,
) -> None:
    """A ledger and a task store on PostgreSQL, and recorders in MLflow."""
    market = Market(tmp_path / "data", prices(8))
    uri = f"sqlite:///{tmp_path}/tasks.db"
    if store == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        uri = f"{server.uri}?schema=killed_{trainer.lower()}"
    rollforge.init(market.folder, tracking_uri=tracking_in(tracker), store_uri=uri, threads=1)
    days = RUN[:12]
    market.show(days[0])
    served = manager(TRAINERS[trainer]())
    counts = serve(market, served, days, writes=4, times=2, seconds=0.2)
    assert counts["writes"] >= 2
    check(served, undisturbed, days)
