"""What a label that looks ahead does to a test without a gap.

The label is the return of twenty days, and the only feature is the number of the day, which predicts nothing. Nearest neighbours
that may learn from the days next to the test know most of each label already; after purging by the horizon, nothing is left.
"""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from sklearn.neighbors import KNeighborsRegressor

import rollforge

rng = np.random.default_rng(5)
days = pd.bdate_range("2021-01-01", "2022-12-30")
market = pd.Series(0.01 * rng.normal(size=len(days)), days)
frame = pd.DataFrame({"day_number": np.arange(len(days)), "y": market.rolling(20).sum().shift(-20)}).dropna()
frame.index.name = "day"

figure = go.Figure()
for name, horizon in {"no gap": 0, "purged by 20 days": 20}.items():
    result = rollforge.walk_forward(
        KNeighborsRegressor(n_neighbors=1),
        frame,
        label="y",
        train=120,
        step=15,
        horizon=horizon,
        label_periods=20,
        jobs=0,
    )
    r = result.metrics["correlation"]
    figure.add_bar(x=[name], y=[r], name=name, text=f"{r:.2f}")
figure.update_layout(title="Correlation of prediction and label", showlegend=False)
