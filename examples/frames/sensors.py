"""Hourly sensors: a Parquet file by (sensor, time), and a classifier that is trained again every week.

python examples/frames/sensors.py
"""

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import rollforge

AHEAD = 3  # hours


def make_frame() -> pd.DataFrame:
    """Return the readings of three sensors, and whether one gets hot within the next three hours."""
    rng = np.random.default_rng(3)
    hours = pd.date_range("2023-01-02", periods=24 * 7 * 10, freq="h", tz="UTC", name="time")
    parts = {}
    for sensor, offset in {"boiler": 2.0, "oven": 4.0, "pump": 0.0}.items():
        load = pd.Series(rng.normal(size=len(hours)), hours).ewm(span=12).mean()
        temperature = 60 + offset + 8 * load + 4 * np.sin(2 * np.pi * hours.hour / 24) + rng.normal(0, 1, len(hours))
        ahead = pd.concat([temperature.shift(-lag) for lag in range(1, AHEAD + 1)], axis=1)
        hot = (ahead.max(axis=1) > 66).astype(float).where(ahead.notna().all(axis=1))
        parts[sensor] = pd.DataFrame({"temperature": temperature, "load": load, "hour": hours.hour, "hot": hot})
    return pd.concat(parts, names=["sensor"])


frame = make_frame()
frame.to_parquet("sensors.parquet")
model = make_pipeline(StandardScaler(), LogisticRegression())
result = rollforge.walk_forward(model, "sensors.parquet", label="hot", train="4 weeks", step="week", horizon=AHEAD)
print(result.windows[["train_start", "train_end", "test_start", "test_end", "auc"]])
print(
    f"AUC {result.metrics['auc']:.4f}, Brier {result.metrics['brier']:.4f}, log loss {result.metrics['log_loss']:.4f}"
)
print(result.prediction.tail(3))
