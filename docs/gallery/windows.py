"""The windows of an experiment.

A ridge regression learns from a year of days and is trained again every quarter. The gap is the horizon of the label.
"""

import numpy as np
import pandas as pd
from sklearn.linear_model import Ridge

import rollforge

rng = np.random.default_rng(1)
days, stocks = pd.bdate_range("2021-01-01", "2023-06-30"), [f"S{number:02d}" for number in range(20)]
rows = pd.MultiIndex.from_product([days, stocks], names=["day", "stock"])
frame = pd.DataFrame(rng.normal(size=(len(rows), 3)), rows, ["value", "momentum", "y"])
frame["y"] += 0.1 * frame["value"]

result = rollforge.walk_forward(Ridge(), frame, label="y", train="1y", step="quarter", horizon=5, jobs=0)
figure = result.plot.windows()
