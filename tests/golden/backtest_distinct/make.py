"""Make the reference values of this folder with pyqlib 0.9.7: python make.py DATA_FOLDER (from here, pyqlib installed).

DATA_FOLDER is rewritten from ../market.parquet: as the other reference values were made, plus the field `change`,
without which pyqlib's price limits are without effect. The scores are those of ../rolling_prediction.parquet, a little
shifted so that no two of a day are equal: pyqlib's order among equal scores depends on the machine.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).parent


def distinct(pred: pd.DataFrame) -> pd.DataFrame:
    """Shift the scores by less than a millionth, by their row."""
    row = np.arange(len(pred))
    return pred + (1e-6 * ((row * 7919) % 10007) / 10007)[:, None]


def write(folder: Path) -> None:
    """Write the market as a data folder."""
    table = pd.read_parquet(HERE.parent / "market.parquet")
    days = np.sort(table["datetime"].unique())
    (folder / "calendars").mkdir(parents=True)
    (folder / "instruments").mkdir()
    (folder / "calendars" / "day.txt").write_text("".join(f"{pd.Timestamp(d).date()}\n" for d in days))
    lines = []
    for code, rows in table.groupby("instrument"):
        rows = rows.set_index("datetime")
        life = days[(days >= rows.index.min()) & (days <= rows.index.max())]
        rows = rows.reindex(life)
        lines.append(f"{code}\t{pd.Timestamp(life[0]).date()}\t{pd.Timestamp(life[-1]).date()}\n")
        close = rows["close"].to_numpy(np.float32)
        rows["factor"] = np.where(np.isnan(close), np.nan, 1.0)
        rows["change"] = np.concatenate([[np.nan], close[1:] / close[:-1] - np.float32(1)])
        place = folder / "features" / str(code).lower()
        place.mkdir(parents=True)
        first = np.searchsorted(days, life[0])
        for name in ("open", "high", "low", "close", "volume", "vwap", "factor", "change"):
            np.concatenate([[first], rows[name]]).astype("<f4").tofile(place / f"{name}.day.bin")
    (folder / "instruments" / "all.txt").write_text("".join(lines))


def main() -> None:
    """Run every configuration of configs.json."""
    import qlib
    from qlib.backtest import backtest

    folder = Path(sys.argv[1])
    write(folder)
    pred = distinct(pd.read_parquet(HERE.parent / "rolling_prediction.parquet"))
    configs = json.loads((HERE / "configs.json").read_text())
    reports, lasts, indicators = [], {}, []
    for name, config in configs.items():
        qlib.init(provider_uri=str(folder), region=config["region"], kernels=1)
        executor = {"time_per_step": "day", "generate_portfolio_metrics": True}
        metrics, made = backtest(
            start_time=config["start"],
            end_time=config["end"],
            strategy={
                "class": "TopkDropoutStrategy",
                "module_path": "qlib.contrib.strategy",
                "kwargs": {"signal": pred, **config["strategy"]},
            },
            executor={"class": "SimulatorExecutor", "module_path": "qlib.backtest.executor", "kwargs": executor},
            benchmark=config["benchmark"],
            account=config["account"],
            exchange_kwargs=config["exchange_kwargs"],
        )
        report, positions = metrics["1day"]
        reports.append(report.assign(config=name))
        indicators.append(made["1day"][0].astype(float).rename_axis("datetime").assign(config=name))
        lasts[name] = positions[max(positions)].position
    pd.concat(reports).to_parquet(HERE / "reports.parquet")
    pd.concat(indicators).to_parquet(HERE / "indicators.parquet")
    (HERE / "last_positions.json").write_text(json.dumps(lasts, indent=1, default=float) + "\n")


if __name__ == "__main__":
    main()
