"""Weekly sales of stores: a table with columns, a region for each store, and one model for each of two horizons.

python examples/frames/stores.py
"""

import numpy as np
import pandas as pd
from sklearn.linear_model import LinearRegression

import rollforge

REGIONS = {101: "north", 102: "north", 205: "south", 206: "south", 309: "west"}


def make_frame() -> pd.DataFrame:
    """Return the sales of five stores, by week and store number, and the sales one and four weeks later."""
    rng = np.random.default_rng(11)
    weeks = pd.date_range("2019-01-04", "2022-12-30", freq="W-FRI")
    parts = []
    for store, region in REGIONS.items():
        season = 10 * np.sin(2 * np.pi * np.arange(len(weeks)) / 52)
        promotion = rng.random(len(weeks)) < 0.2
        sales = pd.Series(100 + store / 10 + season + 15 * promotion + rng.normal(0, 3, len(weeks)))
        parts.append(
            pd.DataFrame(
                {
                    "week": weeks,
                    "store": store,
                    "region": region,
                    "sales": sales,
                    "usual": sales.rolling(8, min_periods=1).mean(),
                    "promotion_next": np.roll(promotion, -1),
                    "in_1_week": sales.shift(-1),
                    "in_4_weeks": sales.shift(-4),
                }
            )
        )
    return pd.concat(parts).sort_values(["week", "store"]).reset_index(drop=True)


frame = make_frame()
result = rollforge.walk_forward(
    LinearRegression(), frame, entity="store", label={"in_1_week": 1, "in_4_weeks": 4}, groups="region",
    train=104, step=13,
)  # fmt: skip
print(result.metrics[["rmse", "mae", "r2"]])
print(result.group_metrics[["rows", "rmse"]])
print(result.prediction.tail(5))
