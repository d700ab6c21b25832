"""Create tables of a synthetic market, as a data vendor would deliver them: a history, and one file for each later day.

    python examples/serve/make_days.py demo

docs/online.md serves the market made from them day by day.
"""

import sys
import tempfile
from pathlib import Path

import pandas as pd

import rollforge
from rollforge import D
from rollforge.market.demo import make_demo

HISTORY_ENDS = "2023-06-30"
LAST_DAY = "2023-07-12"
LATE_DAY = "2023-07-06"
"""First delivered without prices."""
WRONG_DAY = "2023-07-05"
"""Delivered with a wrong close of D0003, and corrected later."""
FIELDS = {f"${name}": name for name in ("open", "high", "low", "close", "volume")}


def market() -> pd.DataFrame:
    """Return the bars of eight instruments: columns instrument, datetime and the fields."""
    with tempfile.TemporaryDirectory() as folder:
        make_demo(folder, instruments=8, start="2023-01-02", end=LAST_DAY, seed=1)
        rollforge.init(provider_uri=folder)
        bars = D.features(D.instruments("all"), list(FIELDS)).rename(columns=FIELDS)
    return bars.dropna().round(4).reset_index()


def main(folder: Path) -> None:
    """Write ``history.csv``, one table for each later day, ``DAY-early.csv`` and ``DAY-corrected.csv``."""
    folder.mkdir(parents=True, exist_ok=True)
    bars = market()
    bars["datetime"] = bars["datetime"].dt.strftime("%Y-%m-%d")
    days = dict(list(bars[bars["datetime"] > HISTORY_ENDS].groupby("datetime")))
    days[f"{LATE_DAY}-early"] = days[LATE_DAY].assign(**dict.fromkeys(FIELDS.values()))
    correct = days[f"{WRONG_DAY}-corrected"] = days[WRONG_DAY]
    wrong = correct["close"].where(correct["instrument"] != "D0003", correct["low"])
    days[WRONG_DAY] = correct.assign(close=wrong)
    days["history"] = bars[bars["datetime"] <= HISTORY_ENDS]
    for name, rows in days.items():
        rows.to_csv(folder / f"{name}.csv", index=False)
    print(f"{folder}: history.csv until {HISTORY_ENDS}, and a table for each day until {LAST_DAY}")  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
