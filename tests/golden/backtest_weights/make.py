"""Make the reference values of this folder with pyqlib 0.9.7: python make.py DATA_FOLDER QLIB_SOURCE (pyqlib installed).

DATA_FOLDER is the one that ../backtest_distinct/make.py writes, QLIB_SOURCE a checkout of Qlib's repository: the class
SoftTopkStrategy of pyqlib 0.9.7 cannot be built, so the one of the checkout is run on top of it. Scores are those of
../backtest_distinct, of instruments without a suspended day, because pyqlib's account turns NaN at a suspended holding.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pandas as pd

HERE = Path(__file__).parent
START, END = "2016-01-04", "2016-06-30"
COSTS = {"open_cost": 0.0005, "close_cost": 0.0015, "min_cost": 5}
CONFIGS: dict[str, dict[str, Any]] = {
    "equal_before": {"region": "us", "account": 1e6, "exchange_kwargs": {**COSTS}},
    "equal_during": {"region": "cn", "account": 1e6, "exchange_kwargs": {**COSTS, "limit_threshold": 0.03}},
    "soft": {"region": "us", "account": 1e6, "exchange_kwargs": {**COSTS}, "kwargs": {"topk": 6}},
    "soft_slow": {
        "region": "cn",
        "account": 3e6,
        "exchange_kwargs": {**COSTS, "limit_threshold": 0.03, "deal_price": ["$open", "$close"]},
        "kwargs": {"topk": 8, "trade_impact_limit": 0.04, "risk_degree": 0.9},
    },
}


def signal() -> pd.Series:
    """Scores of the instruments that have a close on every day."""
    spec = importlib.util.spec_from_file_location("distinct", HERE.parent / "backtest_distinct" / "make.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    scores = made.distinct(pd.read_parquet(HERE.parent / "rolling_prediction.parquet")).loc["2015-12-31":END]
    closes = pd.read_parquet(HERE.parent / "market.parquet").pivot(
        index="datetime", columns="instrument", values="close"
    )
    closes = closes.loc["2015-12-31":"2016-07-01"]
    whole = closes.columns[closes.notna().all()]
    return scores["score"][scores.index.get_level_values("instrument").isin(whole)]


def main() -> None:
    """Run every configuration."""
    import qlib
    from qlib.backtest import backtest
    from qlib.contrib.strategy.order_generator import OrderGenWInteract, OrderGenWOInteract
    from qlib.contrib.strategy.signal_strategy import WeightStrategyBase

    class Equal(WeightStrategyBase):
        def generate_target_weight_position(self, score, current, trade_start_time, trade_end_time):
            return dict.fromkeys(score.sort_values(ascending=False).index[:7], 1 / 7)

    source = (Path(sys.argv[2]) / "qlib/contrib/strategy/cost_control.py").read_text()
    names: dict[str, Any] = {}
    exec(source.replace("from .", "from qlib.contrib.strategy."), names)
    made = {
        "equal_before": lambda s, k: Equal(signal=s, order_generator_cls_or_obj=OrderGenWOInteract),
        "equal_during": lambda s, k: Equal(signal=s, order_generator_cls_or_obj=OrderGenWInteract),
        "soft": lambda s, k: names["SoftTopkStrategy"](signal=s, **k),
        "soft_slow": lambda s, k: names["SoftTopkStrategy"](signal=s, **k),
    }
    reports = []
    for name, config in CONFIGS.items():
        qlib.init(provider_uri=sys.argv[1], region=config["region"], kernels=1)
        executor = {"time_per_step": "day", "generate_portfolio_metrics": True}
        metrics, _ = backtest(
            start_time=START,
            end_time=END,
            strategy=made[name](signal(), config.get("kwargs", {})),
            executor={"class": "SimulatorExecutor", "module_path": "qlib.backtest.executor", "kwargs": executor},
            benchmark="X000",
            account=config["account"],
            exchange_kwargs={k: tuple(v) if isinstance(v, list) else v for k, v in config["exchange_kwargs"].items()},
        )
        reports.append(metrics["1day"][0].assign(config=name))
    pd.concat(reports).to_parquet(HERE / "reports.parquet")


if __name__ == "__main__":
    main()
