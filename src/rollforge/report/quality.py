"""The quality of one prediction, evaluated against one label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from rollforge.errors import DataError
from rollforge.record.analysis import calc_ic, calc_long_short_return, mean_to_std, newey_west_t, quantile_returns
from rollforge.record.performance import RETURNS, daily_returns, performance
from rollforge.record.periods import YEAR, backtest_periods
from rollforge.report.inputs import ModelInputs

__all__ = ["QUANTILES", "Quality", "evaluated", "portfolio_returns", "quantiles_by_day", "score_column"]

QUANTILES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Quality of a prediction, evaluated against a label. Series and frames are sorted by day."""

    name: str
    label_text: str
    label_days: int | None
    days: int
    """Number of days of the prediction."""
    ic: pd.Series
    """Daily IC; like `rank_ic`, without days that have none."""
    rank_ic: pd.Series
    returns: pd.DataFrame
    """Mean label of each quintile, columns 1 to 5, and of all, column ``mean``; over the days of the label."""
    backtest: pd.Series | None = None
    """Figures of the backtest of a path, after costs: those of ``strategy, after costs`` in `portfolio_risk`."""
    per_year: float = YEAR
    """Number of days, or of the calendar's other periods, in a year."""

    @property
    def long_short(self) -> pd.Series:
        """Return of the highest minus the lowest quintile on days with both, over the days of the label."""
        spread: pd.Series = (self.returns[QUANTILES] - self.returns[1]).dropna()
        return spread

    @property
    def ic_t(self) -> float:
        """t statistic of the mean IC; NaN if the days of the label are unknown."""
        return float("nan") if self.label_days is None else newey_west_t(self.ic, self.label_days)

    def annual(self, returns: pd.Series) -> float:
        """Return the mean of returns over the days of the label, per year."""
        return float(returns.mean()) * self._periods

    def sharpe(self, returns: pd.Series) -> float:
        """Return the Sharpe ratio of returns over the days of the label, per year."""
        return mean_to_std(returns) * float(np.sqrt(self._periods))

    @property
    def _periods(self) -> float:
        return float("nan") if self.label_days is None else self.per_year / self.label_days


def evaluated(given: ModelInputs, per_year: float) -> Quality | None:
    """Return the quality of a prediction; None without a prediction or labels.

    Parameters
    ----------
    given : ModelInputs
        Prediction and label.
    per_year : float
        Number of days, or of the calendar's other periods, in a year.

    Raises
    ------
    DataError
        If the index of a table lacks the levels datetime and instrument, or contains a row twice, or if the days of the
        label are below 1.
    """
    if given.label_days is not None and given.label_days < 1:
        raise DataError(f"label_days must be at least 1 trading day, found {given.label_days}.")
    scores, truth = score_column(given.prediction, "prediction"), score_column(given.label, "label")
    if scores is None or truth is None:
        return None
    ic, rank_ic = calc_ic(scores, truth, dropna=True)
    portfolio = portfolio_returns(given.portfolio)
    return Quality(
        name=given.name,
        label_text=given.label_text,
        label_days=given.label_days,
        days=int(scores.index.get_level_values("datetime").nunique()),
        ic=ic,
        rank_ic=rank_ic,
        returns=quantiles_by_day(scores, truth, QUANTILES),
        backtest=None
        if given.portfolio is None or portfolio is None
        else performance(given.portfolio, per_year=backtest_periods(per_year)).T[RETURNS["strategy"]],
        per_year=per_year,
    )


def quantiles_by_day(scores: pd.Series, truth: pd.Series, n: int) -> pd.DataFrame:
    """Return the mean label of each of `n` quantiles and, in the column ``mean``, of all, by day."""
    _, mean = calc_long_short_return(scores, truth, dropna=True)
    return quantile_returns(scores, truth, n).assign(mean=mean)


def score_column(frame: pd.DataFrame | None, what: str) -> pd.Series | None:
    """Return the first column of a prediction or label; None if there are no rows."""
    if frame is None or not len(frame):
        return None
    missing = [name for name in ("datetime", "instrument") if name not in frame.index.names]
    if missing:
        raise DataError(
            f"The {what} needs an index with the levels datetime and instrument, found {list(frame.index.names)}."
        )
    column: pd.Series = frame.iloc[:, 0]
    return column


def portfolio_returns(report: pd.DataFrame | None) -> pd.DataFrame | None:
    """Return the daily returns of a backtest; None if there are no days."""
    return None if report is None or not len(report) else daily_returns(report)
