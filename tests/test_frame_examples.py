"""The examples of tables (stocks, stores, sensors) end to end: what they print is what a loop written by hand computes."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.base import clone
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import (
    brier_score_loss,
    log_loss,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
    root_mean_squared_error,
)

pytestmark = pytest.mark.filterwarnings("ignore:scipy.optimize:DeprecationWarning")  # of scikit-learn 1.5

EXAMPLES = Path(__file__).parents[1] / "examples" / "frames"


def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run an example in an empty folder, and return its variables."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ROLLFORGE_HOME", str(folder / "home"))
    monkeypatch.setenv("ROLLFORGE_TRACKING", f"folder:{folder}/runs")
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def loop(
    model: Any, frame: pd.DataFrame, features: list[str], label: str, spans: list[tuple[slice, slice]], time: str
) -> pd.DataFrame:
    """Return the predictions and labels of windows: positions of (training, test) among the times."""
    times, parts = frame.index.get_level_values(time), []
    distinct = times.unique().sort_values()
    for train, test in spans:
        known = frame[times.isin(distinct[train])].dropna(subset=label).sort_index(level=time, sort_remaining=True)
        fitted = clone(model).fit(known[features], known[label])
        rows = frame[times.isin(distinct[test])]
        method = fitted.predict_proba if hasattr(fitted, "predict_proba") else fitted.predict
        found = method(rows[features])
        parts.append(rows[[label]].assign(prediction=found if found.ndim == 1 else found[:, 1]))
    return pd.concat(parts).set_axis(["label", "prediction"], axis=1)


def by_period(
    days: pd.DatetimeIndex, freq: str, first: str, length: pd.DateOffset, purged: int
) -> list[tuple[slice, slice]]:
    """Return the windows that test the periods from `first` on, each after a training segment of `length`."""
    spans = []
    for period in days[days >= first].to_period(freq).unique():
        begin = max(period.start_time, pd.Timestamp(first))
        start, stop = int(days.searchsorted(begin)), int(days.searchsorted(period.end_time))
        spans.append((slice(int(days.searchsorted(begin - length)), start - purged), slice(start, stop)))
    return spans


def printed(text: str, name: str) -> float:
    """Return the number that is printed after a name."""
    found = re.search(rf"{name} (-?[\d.]+)", text)
    assert found, text
    return float(found[1])


def test_stocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The IC is the mean over the days of the correlation across stocks, and the frame's index comes back."""
    found = run("stocks", tmp_path, monkeypatch)
    frame, result, text = found["frame"], found["result"], capsys.readouterr().out
    days = frame.index.unique("day")
    assert frame["y"].isna().sum() == 5 * 12
    spans = by_period(days, "Q", "2022-02-01", pd.DateOffset(years=1), 5)
    expected = loop(Ridge(), frame, ["value", "momentum"], "y", spans, "day")
    assert result.prediction.index.equals(expected.index)
    assert result.prediction.index.names == ["day", "stock"]
    np.testing.assert_allclose(result.prediction, expected["prediction"], rtol=1e-12)
    by_day = expected.dropna().groupby(level="day")
    ic = by_day.apply(lambda d: np.corrcoef(d["prediction"], d["label"])[0, 1])
    rank = by_day.apply(lambda d: spearmanr(d["prediction"], d["label"]).statistic)
    assert len(ic) == len(days[days >= "2022-02-01"]) - 5
    assert printed(text, "IC") == pytest.approx(ic.mean(), abs=5e-5)
    assert printed(text, "rank IC") == pytest.approx(rank.mean(), abs=5e-5)
    for _, window in result.windows.iterrows():
        assert window["ic"] == pytest.approx(ic.loc[window["test_start"] : window["test_end"]].mean(), rel=1e-9)
        assert f"{window['ic']:.6f}" in text


def test_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each horizon has a model, a gap and errors of its own; store numbers and regions come back."""
    found = run("stores", tmp_path, monkeypatch)
    frame, result, text = found["frame"], found["result"], capsys.readouterr().out
    indexed = frame.set_index(["week", "store"])
    assert result.prediction.index.names == ["week", "store"]
    assert list(result.prediction) == ["in_1_week", "in_4_weeks"]
    weeks = len(frame["week"].unique())
    features = ["sales", "usual", "promotion_next"]
    for label, horizon in (("in_1_week", 1), ("in_4_weeks", 4)):
        spans = [(slice(at - 104, at - horizon), slice(at, min(at + 13, weeks))) for at in range(104, weeks, 13)]
        expected = loop(LinearRegression(), indexed, features, label, spans, "week")
        assert result.prediction.index.equals(expected.index)
        np.testing.assert_allclose(result.prediction[label], expected["prediction"], rtol=1e-9)
        known = expected.dropna()
        row = result.metrics.loc[horizon]
        assert row["rmse"] == pytest.approx(root_mean_squared_error(known["label"], known["prediction"]), rel=1e-9)
        assert row["mae"] == pytest.approx(mean_absolute_error(known["label"], known["prediction"]), rel=1e-9)
        assert row["r2"] == pytest.approx(r2_score(known["label"], known["prediction"]), rel=1e-9)
        regions = known.index.get_level_values("store").map(found["REGIONS"])
        for region, rows in known.groupby(regions):
            rmse = root_mean_squared_error(rows["label"], rows["prediction"])
            assert result.group_metrics.loc[(horizon, region), "rmse"] == pytest.approx(rmse, rel=1e-9)
            assert f"{rmse:.6f}" in text
        assert f"{row['rmse']:.6f}" in text


def test_sensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Windows of weeks, purged by hours; the file's order, names and time zone come back."""
    found = run("sensors", tmp_path, monkeypatch)
    frame, result, text = found["frame"], found["result"], capsys.readouterr().out
    hours = frame.index.unique("time")
    week = 24 * 7
    spans = [(slice(at - 4 * week, at - 3), slice(at, at + week)) for at in range(4 * week, len(hours), week)]
    expected = loop(found["model"], frame, ["temperature", "load", "hour"], "hot", spans, "time").loc[
        frame.index[frame.index.get_level_values("time") >= hours[4 * week]]
    ]
    assert result.prediction.index.equals(expected.index)
    assert result.prediction.index.names == ["sensor", "time"]
    assert str(result.prediction.index.get_level_values("time").tz) == "UTC"
    np.testing.assert_allclose(result.prediction, expected["prediction"], rtol=1e-9)
    known = expected.dropna()
    assert len(expected) - len(known) == 3 * 3
    assert printed(text, "AUC") == pytest.approx(roc_auc_score(known["label"], known["prediction"]), abs=5e-5)
    assert printed(text, "Brier") == pytest.approx(brier_score_loss(known["label"], known["prediction"]), abs=5e-5)
    assert printed(text, "log loss") == pytest.approx(log_loss(known["label"], known["prediction"]), abs=5e-5)
