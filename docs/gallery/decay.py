"""How long a score stays useful: its IC with the returns of later days.

The score knows the sum of the next five days, so what it predicts of a single day ends after five of them.
"""

import numpy as np
import pandas as pd

from rollforge import plot

rng = np.random.default_rng(4)
days, stocks = pd.bdate_range("2021-01-01", "2022-12-30"), [f"S{number:02d}" for number in range(50)]
returns = pd.DataFrame(0.02 * rng.normal(size=(len(days), len(stocks))), days, stocks)
coming = sum(returns.shift(-ahead) for ahead in range(1, 6))
score = (coming + 0.1 * rng.normal(size=returns.shape)).stack().rename_axis(["datetime", "instrument"])
label = returns.shift(-1).stack().rename_axis(["datetime", "instrument"])

figure = plot.ic_decay(score, label, lags=[0, 1, 2, 3, 4, 5, 6, 8, 10], label_days=1)
