"""A workflow with an open test end brings itself up to date."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from command_line import call
from definitions import stores, write_workflow
from growing import DAYS, Market, days_of, prices, template


@pytest.mark.parametrize("form", [{}, {"rolling": {"step": 4}}, {"rolling": {"step": 4, "clip_test_end": False}}])
def test_new_days_are_predicted_by_the_next_run(
    form: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without windows: a night with new data trains what the data change; one without trains nothing."""
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
