"""The returns of five groups of stocks, by their score.

If a score orders stocks well, the lines of the quantiles are in its order, and fan out.
"""

import numpy as np
import pandas as pd

from rollforge import plot

rng = np.random.default_rng(3)
days, stocks = pd.bdate_range("2021-01-01", "2022-12-30"), [f"S{number:02d}" for number in range(50)]
rows = pd.MultiIndex.from_product([days, stocks], names=["datetime", "instrument"])
score = pd.Series(rng.normal(size=len(rows)), rows)
label = 0.001 * score + 0.02 * pd.Series(rng.normal(size=len(rows)), rows)

figure = plot.quantiles(score, label, label_days=1)
