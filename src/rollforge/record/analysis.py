"""How good a prediction is: information coefficients, long-short returns, risk figures.

All of them go day by day over blocks of the sorted rows, without a Python call a day.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.record.base import ACRecordTemp
from rollforge.record.signal import SignalRecord
from rollforge.track.base import Recorder

__all__ = ["SigAnaRecord", "calc_ic", "calc_long_short_return", "daily_correlation", "risk_analysis"]

log = logging.getLogger(__name__)


def _pairs(pred: pd.Series, label: pd.Series, dropna: bool = True) -> pd.DataFrame:
    both = pd.DataFrame({"pred": pred, "label": label})
    return both.dropna() if dropna else both


def daily_correlation(both: pd.DataFrame, date_col: str = "datetime") -> pd.Series:
    """Return the Pearson correlation of the columns pred and label within each day; NaN below two pairs."""
    days = both.groupby(level=date_col)
    centred = both - days.transform("mean")
    products = pd.DataFrame(
        {
            "pl": centred["pred"] * centred["label"],
            "pp": centred["pred"] ** 2,
            "ll": centred["label"] ** 2,
        }
    )
    sums = products.groupby(level=date_col).sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        values: pd.Series = sums["pl"] / np.sqrt(sums["pp"] * sums["ll"])
    return values.where(days.size() > 1)


def calc_ic(
    pred: pd.Series, label: pd.Series, date_col: str = "datetime", dropna: bool = False
) -> tuple[pd.Series, pd.Series]:
    """Return the daily IC (Pearson) and Rank IC (Spearman) of a prediction.

    Parameters
    ----------
    pred, label : Series
        Index (datetime, instrument).
    date_col : str
        Name of the index level with the days.
    dropna : bool
        True leaves out the days without a value.

    Returns
    -------
    (Series, Series)
        By day; NaN on a day with fewer than two pairs, or without any spread.
    """
    both = _pairs(pred.astype(np.float64), label.astype(np.float64))
    ic = daily_correlation(both, date_col)
    ric = daily_correlation(both.groupby(level=date_col).rank(), date_col)
    days = pd.Index(pred.index.get_level_values(date_col).unique(), name=date_col)
    ic, ric = ic.reindex(days), ric.reindex(days)
    return (ic.dropna(), ric.dropna()) if dropna else (ic, ric)


def calc_long_short_return(
    pred: pd.Series, label: pd.Series, date_col: str = "datetime", quantile: float = 0.2, dropna: bool = False
) -> tuple[pd.Series, pd.Series]:
    """Return the daily return of half long the best, half short the worst, and that of everything.

    Parameters
    ----------
    pred, label : Series
        Index (datetime, instrument).
    quantile : float
        Share of the instruments on each side.

    Returns
    -------
    (Series, Series)
        Long-short (half the difference of the sides' means), and the mean label, by day.
    """
    both = _pairs(pred, label, dropna).astype(np.float64)
    days = both.groupby(level=date_col)
    size = days["pred"].transform("size")
    side = (size * quantile).astype(int)
    ascending = days["pred"].rank(method="first")
    # nlargest takes the first of equals, and so does the descending rank.
    descending = days["pred"].rank(method="first", ascending=False)
    long_r = both["label"].where(descending <= side).groupby(level=date_col).mean()
    short_r = both["label"].where(ascending <= side).groupby(level=date_col).mean()
    return (long_r - short_r) / 2, days["label"].mean()


# Qlib counts 238 trading days a year, those of the Chinese exchanges.
_PERIODS = {"day": 238, "1day": 238, "week": 50, "month": 12, "min": 240 * 238}


def risk_analysis(
    r: pd.Series,
    N: int | None = None,
    freq: str | None = "day",
    mode: Literal["sum", "product"] = "sum",
) -> pd.DataFrame:
    """Return mean, std, annualised return, information ratio and maximal drawdown of a series of returns.

    Parameters
    ----------
    r : Series
        Returns by period.
    N : int, optional
        Periods a year; by default those of `freq` (238 days, as Qlib counts).
    freq : str, optional
        Frequency of the returns.
    mode : str
        ``sum``: returns add up, on a fixed amount; ``product``: they compound.

    Returns
    -------
    DataFrame
        Index: the names; column ``risk``.
    """
    periods = N if N is not None else _PERIODS[freq or "day"]
    if mode == "sum":
        mean, std = r.mean(), r.std(ddof=1)
        annual = mean * periods
        curve = r.cumsum()
        drawdown = (curve - curve.cummax()).min()
    else:
        curve = (1 + r).cumprod()
        mean = curve.iloc[-1] ** (1 / len(r)) - 1
        std = np.log(1 + r).std(ddof=1)
        annual = (1 + mean) ** periods - 1
        drawdown = (curve / curve.cummax() - 1).min()
    ratio = mean / std * np.sqrt(periods)
    values = {
        "mean": mean, "std": std, "annualized_return": annual, "information_ratio": ratio, "max_drawdown": drawdown,
    }  # fmt: skip
    return pd.Series(values).to_frame("risk")


def _ratio(values: pd.Series) -> float:
    std = float(values.std())
    return float(values.mean()) / std if std else float("nan")


class SigAnaRecord(ACRecordTemp):
    """Saves the daily IC and Rank IC, and logs IC, ICIR, Rank IC, Rank ICIR; on request long-short figures too.

    Parameters
    ----------
    recorder : Recorder
        A run with ``pred.pkl`` and ``label.pkl``.
    ana_long_short : bool
        Whether long-short returns are analysed.
    ann_scaler : int
        Periods a year.
    label_col : int
        Which label, if there are several.
    skip_existing : bool
        True computes nothing when it is there.
    """

    artifact_path = "sig_analysis"
    depend_cls = SignalRecord

    def __init__(
        self,
        recorder: Recorder | None = None,
        ana_long_short: bool = False,
        ann_scaler: int = 252,
        label_col: int = 0,
        skip_existing: bool = False,
    ) -> None:
        super().__init__(recorder, skip_existing)
        self.ana_long_short = ana_long_short
        self.ann_scaler = ann_scaler
        self.label_col = label_col

    def _generate(self, label: pd.DataFrame | None = None, **kwargs: Any) -> dict[str, Any] | None:
        pred = self.load("pred.pkl")
        label = self.load("label.pkl") if label is None else label
        if label is None or label.empty:
            log.warning("%s: there is no label to judge the prediction by", self.recorder)
            return None
        scores, truth = pred.iloc[:, 0], label.iloc[:, self.label_col]
        ic, ric = calc_ic(scores, truth)
        metrics: dict[str, Any] = {
            "IC": float(ic.mean()), "ICIR": _ratio(ic), "Rank IC": float(ric.mean()), "Rank ICIR": _ratio(ric),
        }  # fmt: skip
        made = {"ic.pkl": ic, "ric.pkl": ric}
        if self.ana_long_short:
            long_short, average = calc_long_short_return(scores, truth)
            for name, values in (("Long-Short", long_short), ("Long-Avg", average)):
                metrics[f"{name} Ann Return"] = float(values.mean()) * self.ann_scaler
                metrics[f"{name} Ann Sharpe"] = _ratio(values) * self.ann_scaler**0.5
            made |= {"long_short_r.pkl": long_short, "long_avg_r.pkl": average}
        self.recorder.log_metrics(**metrics)
        return made

    def list(self) -> Any:
        """Return the names of the artifacts."""
        return ["ic.pkl", "ric.pkl", *(["long_short_r.pkl", "long_avg_r.pkl"] if self.ana_long_short else [])]


def quantile_returns(pred: pd.Series, label: pd.Series, n: int = 5, date_col: str = "datetime") -> pd.DataFrame:
    """Return the mean label of each quantile of the prediction by day: columns 1 (lowest scores) to `n`."""
    both = _pairs(pred, label).astype(np.float64)
    days = both.groupby(level=date_col)
    place = (days["pred"].rank(method="first") - 1) / days["pred"].transform("size")
    group: NDArray[np.int64] = np.minimum(np.asarray(place * n).astype(int), n - 1) + 1
    frame = pd.DataFrame(
        {"day": both.index.get_level_values(date_col), "group": group, "label": both["label"].to_numpy()}
    )
    return frame.pivot_table(index="day", columns="group", values="label", aggfunc="mean")
