"""A workflow with an open test end brings itself up to date."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from command_line import call
from definitions import write_workflow
from growing import DAYS, Market, days_of, prices, template
from rollforge.pipeline import collect
from rollforge.session import Session
from rollforge.testing.postgres import PostgresServer


@pytest.mark.parametrize("form", [{}, {"rolling": {"step": 4}}, {"rolling": {"step": 4, "clip_test_end": False}}])
def test_new_days_are_predicted_by_the_next_run(
    form: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without windows, a night with new data trains what the data change; one without trains nothing."""
    monkeypatch.chdir(tmp_path)
    _check_nights(tmp_path, form, f"sqlite:///{tmp_path}/tasks.db", f"folder:{tmp_path}/runs")


@pytest.mark.slow
def test_the_same_with_a_database_server_and_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres: PostgresServer, tracking_in: Callable[[str], str]
) -> None:
    """A workflow with windows."""
    monkeypatch.chdir(tmp_path)
    store = f"{postgres.uri}?schema=open_{uuid.uuid4().hex[:12]}"
    _check_nights(tmp_path, {"rolling": {"step": 4}}, store, tracking_in("mlflow"))


def _check_nights(folder: Path, form: dict[str, object], store: str, tracking: str) -> None:
    """Check the results of four nights, of which the third has no new data."""
    market = Market(folder / "data", prices())
    market.show(DAYS[60])
    task = template()
    task["dataset"]["kwargs"]["segments"] = {"train": [DAYS[10], DAYS[49]], "test": [DAYS[52], None]}
    places = {"data": str(market.folder), "store": store, "tracking": tracking, "experiment": "x"}
    file = write_workflow(folder / "w.yaml", {"rollforge": places, **form, "task": task})
    for day in (DAYS[60], DAYS[61], DAYS[61], DAYS[64]):
        market.show(day)
        result = call("run", file, "--jobs", 0)
        assert result.exit_code == 0, result.stderr
        assert days_of(pd.read_parquet(folder / "results" / "x" / "prediction.parquet"))[-1] == day
    _check_report(folder, store, tracking, windows=4 if form else 1)


def _check_report(folder: Path, store: str, tracking: str, windows: int) -> None:
    """Check that a report by name has each window once: the earlier ones with fewer days are not further windows."""
    with_stores = ["--store", store, "--tracking", tracking]
    for command in (["collect", "x", *with_stores], ["report", "x", *with_stores]):
        result = call(*command)
        assert result.exit_code == 0, result.exception
        assert "overlap" not in result.stderr
    collected = collect(Session(provider_uri=str(folder / "data"), store_uri=store, tracking_uri=tracking), "x")
    assert len(collected.outcomes) == windows
    assert days_of(collected.prediction) == DAYS[52:65]
