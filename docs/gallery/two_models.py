"""Two models on the same windows: the sum of their daily ICs.

A tree model finds the product of two features, which a linear model cannot. The lines differ by what that is worth.
"""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from lightgbm import LGBMRegressor
from sklearn.linear_model import Ridge

import rollforge
from rollforge.record.analysis import calc_ic

rng = np.random.default_rng(2)
days, stocks = pd.bdate_range("2021-01-01", "2022-12-30"), [f"S{number:02d}" for number in range(20)]
rows = pd.MultiIndex.from_product([days, stocks], names=["datetime", "instrument"])
frame = pd.DataFrame(rng.normal(size=(len(rows), 3)), rows, ["value", "momentum", "y"])
frame["y"] += 0.1 * frame["value"] + 0.2 * frame["value"] * frame["momentum"]

figure = go.Figure()
for name, model in {"linear": Ridge(), "trees": LGBMRegressor(n_estimators=30, num_leaves=8, verbose=-1)}.items():
    result = rollforge.walk_forward(model, frame, label="y", train="1y", step="quarter", horizon=1, jobs=0)
    ic, _ = calc_ic(result.prediction, result.label)
    figure.add_scatter(x=ic.index, y=ic.cumsum(), name=f"{name}, mean {ic.mean():.3f}")
figure.update_layout(title="Sum of the daily IC")
