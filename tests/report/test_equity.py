"""Returns of backtests after costs, side by side: from two runs to the figure, the table and the page of the dashboard."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.dashboard.serving import serving
from tests.documents.command_line import run as command
from tests.documents.definitions import LINEAR, SIGNAL, SMALL_MARKET, TWO_WINDOWS, dataset, expressions, write_workflow


def workflow(folder: Path, market: Path, name: str, cost: float) -> Path:
    """Write a workflow whose tasks are backtested at a cost of each trade."""
    exchange = {"open_cost": cost, "close_cost": cost, "min_cost": 0}
    config = {
        "strategy": {
            "class": "TopkDropoutStrategy", "module_path": "rollforge.record.strategy",
            "kwargs": {"signal": "<PRED>", "topk": 5, "n_drop": 2},
        },
        "backtest": {"account": 1e6, "benchmark": None, "exchange_kwargs": exchange},
    }  # fmt: skip
    rollforge = {
        "data": str(market), "store": f"sqlite:///{folder}/tasks.db", "tracking": f"folder:{folder}/runs", "experiment": name,
        "cache": str(folder / "cache"),
    }  # fmt: skip
    handler = expressions({"change": "$close/Ref($close, 1)-1"}, **SMALL_MARKET)
    record = [SIGNAL, {"class": "PortAnaRecord", "module_path": "rollforge.record", "kwargs": {"config": config}}]
    task = {"model": LINEAR, "dataset": dataset(handler, TWO_WINDOWS), "record": record}
    document = {"rollforge": rollforge, "task": task, "rolling": {"step": 60, "rtype": "sliding", "trunc_days": "auto"}}
    return write_workflow(folder / f"{name}.yaml", document)


def curves(file: Path) -> dict[str, pd.Series]:
    """Read the curves of a figure's CSV file."""
    found: dict[str, dict[pd.Timestamp, float]] = {}
    with file.open(encoding="utf-8") as opened:
        for row in csv.DictReader(opened):
            if row["y"]:
                found.setdefault(row["series"], {})[pd.Timestamp(row["x"])] = float(row["y"])
    return {name: pd.Series(values) for name, values in found.items()}


@pytest.mark.slow
def test_equity_after_costs_is_compared(small_market: Path, tmp_path: Path) -> None:
    """A curve is the sum of the daily returns minus the fees, and the difference is that of the same days."""
    net: dict[str, pd.Series] = {}
    for name, cost in (("free", 0.0), ("dear", 0.005)):
        done = command("run", workflow(tmp_path, small_market, name, cost), "--output", tmp_path / name, "--jobs", "0")
        assert done.returncode == 0, done.stderr
        daily = pd.read_parquet(tmp_path / name / "backtest.parquet")
        net[name] = (daily["return"] - daily["cost"]).cumsum()
    assert net["dear"].iloc[-1] < net["free"].iloc[-1] - 0.1
    where = ("--store", f"sqlite:///{tmp_path}/tasks.db", "--tracking", f"folder:{tmp_path}/runs", "--output", tmp_path)
    done = command("report", "free", "dear", *where, "--csv", tmp_path / "csv")
    assert done.returncode == 0, done.stderr
    found = curves(tmp_path / "csv" / "equity.csv")
    assert found.keys() == net.keys()
    for name, expected in net.items():
        both = pd.concat([found[name], expected], axis=1, join="inner")
        assert len(both) == len(expected)
        np.testing.assert_allclose(both[0], both[1], atol=1e-5)
    with serving(f"sqlite:///{tmp_path}/tasks.db", f"folder:{tmp_path}/runs") as served:
        page: Any = served.get("/compare?e=free&e=dear")
    assert page.code == 200
    assert "return after costs" in page.text
