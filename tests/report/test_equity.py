"""Returns of backtests after costs, side by side: from two runs to the figure, the table and the page of the dashboard."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.dashboard.serving import serving
from tests.documents.command_line import run as command
from tests.documents.definitions import (
    LINEAR,
    SIGNAL,
    SMALL_MARKET,
    TWO_WINDOWS,
    dataset,
    expressions,
    lightgbm,
    write_workflow,
)

from rollforge.cli.exit_codes import Exit
from rollforge.record.persistence import bootstrap_interval


def workflow(folder: Path, market: Path, name: str, cost: float, models: dict[str, Any] | None = None) -> Path:
    """Write a workflow whose tasks are backtested at a cost of each trade, with one linear model or with several models."""
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
    task = {"dataset": dataset(handler, TWO_WINDOWS), "record": record, **({} if models else {"model": LINEAR})}
    document = {"rollforge": rollforge, "task": task, "rolling": {"step": 60, "rtype": "sliding", "trunc_days": "auto"}}
    document |= {"models": models} if models else {}
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


@pytest.mark.slow
def test_a_model_is_backtested_alone(small_market: Path, tmp_path: Path) -> None:
    """A model of an experiment earns what it earns in an experiment of its own, and not what the ensemble earns; its experiment
    can be named by the workflow file."""
    trees = lightgbm(num_boost_round=5, num_leaves=4, early_stopping_rounds=None)
    pair = workflow(tmp_path, small_market, "pair", 0.001, {"linear": LINEAR, "trees": trees})
    for name, file in (("pair", pair), ("single", workflow(tmp_path, small_market, "single", 0.001))):
        done = command("run", file, "--output", tmp_path / name, "--jobs", "0")
        assert done.returncode == 0, done.stderr
    where = ("--store", f"sqlite:///{tmp_path}/tasks.db", "--tracking", f"folder:{tmp_path}/runs", "--output", tmp_path)
    names = ("single", f"{pair}:linear", f"{pair}:trees", str(pair))
    done = command("report", *names, *where, "--csv", tmp_path / "csv", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found["experiments"]) == ["single", "pair: linear", "pair: trees", "pair"]
    net = {}
    for name in ("single", "pair"):
        daily = pd.read_parquet(tmp_path / name / "backtest.parquet")
        net[name] = daily["return"] - daily["cost"]
    same = {"days": len(net["single"]), "difference": 0, "low": 0, "high": 0, "t": None}
    assert found["differences"]["pair: linear"]["Net return"] == same
    drawn = curves(tmp_path / "csv" / "equity.csv")
    for name, expected in (("single", "single"), ("pair: linear", "single"), ("pair", "pair")):
        np.testing.assert_allclose(drawn[name].to_numpy(), net[expected].cumsum().to_numpy(), atol=1e-5)
    apart = net["pair"] - net["single"]
    low, high = bootstrap_interval(apart, 1)
    difference = found["differences"]["pair"]["Net return"]
    assert difference["days"] == len(apart)
    assert [difference[name] for name in ("difference", "low", "high")] == pytest.approx(
        [238 * apart.mean(), 238 * low, 238 * high]
    )
    assert abs(drawn["pair: trees"].iloc[-1] - drawn["pair"].iloc[-1]) > 1e-4
    twice = command("report", "pair", pair, *where)
    assert twice.returncode == Exit.USAGE
    assert "'pair' is given twice" in twice.stderr
