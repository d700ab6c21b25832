"""Daily returns of stocks: a table by (day, stock), and a ridge regression that is trained again every quarter.

python examples/frames/stocks.py
"""

import numpy as np
import pandas as pd
from sklearn.linear_model import Ridge

import rollforge

HORIZON = 5  # trading days


def make_frame() -> pd.DataFrame:
    """Return two features of twelve stocks, and their return over the next five days."""
    rng = np.random.default_rng(7)
    days = pd.bdate_range("2021-01-04", "2023-12-29", name="day")
    stocks = pd.Index([f"S{number:02d}" for number in range(12)], name="stock")
    value = rng.normal(size=(len(days), len(stocks)))
    returns = 0.02 * rng.normal(size=value.shape)
    returns[1:] += 0.004 * value[:-1]  # what is cheap today rises tomorrow
    price = pd.DataFrame(100 * np.exp(returns.cumsum(axis=0)), days, stocks)
    table = pd.DataFrame(
        {
            "value": pd.DataFrame(value, days, stocks).stack(),
            "momentum": price.pct_change(20).stack(),
            "y": (price.shift(-HORIZON) / price - 1).stack(),
        }
    )
    return table.dropna(subset="momentum")  # the last days have no label yet: they are predicted, not trained on


frame = make_frame()
result = rollforge.walk_forward(Ridge(), frame, label="y", train="1y", step="quarter", horizon=HORIZON)
print(result.windows[["train_start", "train_end", "test_start", "test_end", "ic"]])
print(f"IC {result.metrics['ic']:.4f}, rank IC {result.metrics['rank_ic']:.4f}")
print(result.prediction.tail(3))
