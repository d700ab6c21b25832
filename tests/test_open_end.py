"""A workflow with an open test end brings itself up to date."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from command_line import call
from definitions import stores, write_workflow
from growing import DAYS, Market, days_of, prices, template
from rollforge.pipeline import collect
from rollforge.session import Session


@pytest.mark.parametrize("form", [{}, {"rolling": {"step": 4}}, {"rolling": {"step": 4, "clip_test_end": False}}])
def test_new_days_are_predicted_by_the_next_run(
    form: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without windows, a night with new data trains what the data change; one without trains nothing."""
    monkeypatch.chdir(tmp_path)
    market = Market(tmp_path / "data", prices())
    market.show(DAYS[60])
    task = template()
    task["dataset"]["kwargs"]["segments"] = {"train": [DAYS[10], DAYS[49]], "test": [DAYS[52], None]}
    file = write_workflow(
        tmp_path / "w.yaml", {"rollforge": stores(market.folder, tmp_path, "x"), **form, "task": task}
    )
    for day in (DAYS[60], DAYS[61], DAYS[61], DAYS[64]):
        market.show(day)
        result = call("run", file, "--jobs", 0)
        assert result.exit_code == 0, result.stderr
        assert days_of(pd.read_parquet(tmp_path / "results" / "x" / "prediction.parquet"))[-1] == day
    _check_report(tmp_path, windows=4 if form else 1)


def _check_report(folder: Path, windows: int) -> None:
    """Check that a report by name has each window once: the earlier ones with fewer days are not further windows."""
    with_stores = ["--store", f"sqlite:///{folder}/tasks.db", "--tracking", f"folder:{folder}/runs"]
    for command in (["collect", "x", *with_stores], ["report", "x", *with_stores]):
        result = call(*command)
        assert result.exit_code == 0, result.exception
        assert "overlap" not in result.stderr
    session = Session(provider_uri=str(folder / "data"), store_uri=with_stores[1], tracking_uri=with_stores[3])
    collected = collect(session, "x")
    assert len(collected.outcomes) == windows
    assert days_of(collected.prediction) == DAYS[52:65]
