"""Samples that remember: their windows are an instrument's own rows, and what they remember is known on their day."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.errors import ConfigError
from rollforge.features.handler import DataHandlerLP
from rollforge.features.memory import MTSDatasetH
from rollforge.features.timeseries import TSDatasetH

DAYS = pd.date_range("2020-01-01", periods=8)


def data(**kwargs: Any) -> MTSDatasetH:
    """Two instruments; the second one lacks a day, and has a missing feature on another."""
    index = pd.MultiIndex.from_product([DAYS, list("AB")], names=["datetime", "instrument"])
    values = np.arange(1.0, 17.0)
    frame = pd.DataFrame({("feature", "x"): values, ("label", "y"): values}, index, dtype=np.float32)
    frame.loc[(DAYS[5], "B"), ("feature", "x")] = np.nan
    segments = {"test": (DAYS[6], DAYS[7])}
    return MTSDatasetH(
        DataHandlerLP.from_df(frame.drop((DAYS[4], "B"))), segments, **{"seq_len": 4, "horizon": 1, **kwargs}
    )


def test_windows_are_rows_of_the_instrument() -> None:
    """A day without a row is no step, and a missing value is 0; no step is of another instrument."""
    samples = data(seq_len=7).prepare("test", "feature")
    assert samples["2020-01-08", "B"].ravel().tolist() == [2.0, 4.0, 6.0, 8.0, 0.0, 14.0, 16.0]
    assert data(seq_len=9).prepare("test", "feature")["2020-01-07", "B"].ravel().tolist() == [
        0.0, 0.0, 0.0, 2.0, 4.0, 6.0, 8.0, 0.0, 14.0,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_states": 2, "horizon": 0}, r"horizon: must be given, because the label's horizon is unknown"),
        ({"num_states": 2, "horizon": 4}, r"seq_len: must be greater than the horizon, 4 days, found 4"),
        ({"memory_mode": "daily", "batch_size": 5}, "batch_size: must be a negative number of days"),
        ({"batch_size": 0}, "batch_size: must be a number of samples, or a negative number of days, found 0"),
    ],
)
def test_mistakes(options: dict[str, Any], said: str) -> None:
    """The error names the argument."""
    with pytest.raises(ConfigError, match=said):
        data(**options)


def test_the_horizon_is_that_of_the_label() -> None:
    """A smaller one is an error, because labels would be read that are not known yet."""
    described: dict[str, Any] = {
        "handler": {"class": "Alpha158", "module_path": "qlib.contrib.data.handler"}, "segments": {}, "num_states": 2,
    }  # fmt: skip
    assert MTSDatasetH(**described).horizon == 2
    assert MTSDatasetH(**described, horizon=5).horizon == 5
    with pytest.raises(ConfigError, match=r"horizon: is 1, but the label reads 2 days ahead"):
        MTSDatasetH(**described, horizon=1)


def test_updates_read_what_is_remembered() -> None:
    """The days of the windows of the losses that are remembered, too."""
    assert TSDatasetH(handler=data().handler, segments={}, step_len=4).history == 3
    assert data().history == 3
    assert data(num_states=2).history == 6
    assert data(num_states=2, input_size=1).history == 3
    assert data(num_states=2, memory_mode="daily").history == 8
