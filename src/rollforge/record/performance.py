"""Returns, drawdown, monthly returns and exposure of a backtest, from its daily report and its positions.

The rules are those of the report: returns are summed, not compounded, and a year has 238 days. ``mode="product"``
compounds returns instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd

from rollforge.dates import read_timestamp
from rollforge.errors import ConfigError, DataError, nearest, shown
from rollforge.record.analysis import by_time, risk_analysis

__all__ = [
    "cumulative_returns",
    "daily_returns",
    "drawdown",
    "exposure",
    "has_benchmark",
    "monthly_returns",
    "performance",
]

Mode = Literal["sum", "product"]
_MODES = ("sum", "product")
RETURNS: Mapping[str, str] = {
    "before_costs": "strategy, before costs",
    "strategy": "strategy, after costs",
    "bench": "benchmark",
    "excess": "excess return, before costs",
    "excess_with_cost": "excess return, after costs",
}
"""Column of :func:`daily_returns` -> row of :func:`performance`."""


def daily_returns(report: pd.DataFrame) -> pd.DataFrame:
    """Return the daily returns of a backtest, before and after costs, and those of its benchmark.

    Parameters
    ----------
    report : DataFrame
        By day, columns return (before costs), cost and bench, for example the report of ``PortAnaRecord``
        (``portfolio_analysis/report_normal_1day.pkl``) or a result's ``backtest.parquet``.

    Returns
    -------
    DataFrame
        Sorted by day. Columns: before_costs, strategy (after costs), bench, excess (before costs, over the benchmark),
        excess_with_cost.

    Raises
    ------
    DataError
        If a column is missing, or a day occurs twice.

    Examples
    --------
    >>> report = pd.DataFrame({"return": [0.03], "cost": [0.01], "bench": [0.01]}, [pd.Timestamp("2020-01-02")])
    >>> [round(value, 4) for value in daily_returns(report).iloc[0]]
    [0.03, 0.02, 0.01, 0.02, 0.01]
    """
    missing = [name for name in ("return", "bench", "cost") if name not in report]
    if missing:
        raise DataError(f"The report of a backtest lacks {', '.join(missing)}; it has {', '.join(map(str, report))}.")
    if report.index.has_duplicates:
        day = report.index[report.index.duplicated()][0]
        raise DataError(f"The report of a backtest has the day {day} more than once.")
    found = report[["return", "bench", "cost"]].astype(np.float64).sort_index()
    excess = found["return"] - found["bench"]
    return pd.DataFrame(
        {
            "before_costs": found["return"],
            "strategy": found["return"] - found["cost"],
            "bench": found["bench"],
            "excess": excess,
            "excess_with_cost": excess - found["cost"],
        }
    )


def performance(report: pd.DataFrame, *, mode: Mode = "sum", per_year: float | None = None) -> pd.DataFrame:
    """Return the risk figures of a backtest before and after costs, of its benchmark, and of the excess over it.

    Parameters
    ----------
    report : DataFrame
        See :func:`daily_returns`.
    mode : str
        See :func:`~rollforge.record.analysis.risk_analysis`.
    per_year : float, optional
        Number of periods in a year; by default 238, as in Qlib.

    Returns
    -------
    DataFrame
        Index: strategy, before and after costs; and if there is a benchmark, whose returns are not all 0 or missing,
        benchmark, and excess return, before and after costs. Columns: mean, std, annualized_return, information_ratio,
        max_drawdown.
    """
    returns = daily_returns(report)
    columns = list(RETURNS)[: None if has_benchmark(returns) else 2]
    with np.errstate(invalid="ignore", divide="ignore"):  # without trades the standard deviation is 0
        risk = {RETURNS[column]: risk_analysis(returns[column], per_year, mode=mode)["risk"] for column in columns}
    return pd.DataFrame(risk).T


def has_benchmark(returns: pd.DataFrame) -> bool:
    """Return whether a backtest has a benchmark: a return of it that is neither missing nor 0.

    Parameters
    ----------
    returns : DataFrame
        See :func:`daily_returns`.
    """
    return bool((returns["bench"].fillna(0.0) != 0).any())


def cumulative_returns(returns: pd.Series, *, mode: Mode = "sum") -> pd.Series:
    """Return the return since the start, at the end of each day.

    Parameters
    ----------
    returns : Series
        Daily returns, which are sorted by day. Missing and infinite values count as 0.
    mode : str
        ``sum`` adds returns, as if a fixed amount were invested; ``product`` compounds them.

    Raises
    ------
    ConfigError
        If the mode is unknown.

    Examples
    --------
    >>> cumulative_returns(pd.Series([0.5, -0.5])).tolist(), cumulative_returns(pd.Series([0.5, -0.5]), mode="product").tolist()
    ([0.5, 0.0], [0.5, -0.25])
    """
    there = _finite(returns).fillna(0.0)
    if _checked(mode) == "sum":
        return there.cumsum()
    return (1 + there).cumprod() - 1


def drawdown(returns: pd.Series, *, mode: Mode = "sum") -> pd.Series:
    """Return how far the cumulative return is below its highest value so far, which includes the initial value.

    Parameters
    ----------
    returns : Series
        See :func:`cumulative_returns`.
    mode : str
        ``sum``: the difference of summed returns. ``product``: relative to the highest value of the account.

    Returns
    -------
    Series
        By day; 0 or negative. Its minimum is the ``max_drawdown`` of :func:`~rollforge.record.analysis.risk_analysis`.

    Examples
    --------
    >>> drawdown(pd.Series([-0.25, 0.5, -0.125])).tolist()
    [-0.25, 0.0, -0.125]
    """
    curve = cumulative_returns(returns, mode=mode)
    peak = curve.cummax().clip(lower=0.0)
    return curve - peak if mode == "sum" else (1 + curve) / (1 + peak) - 1


def monthly_returns(returns: pd.Series, *, mode: Mode = "sum") -> pd.DataFrame:
    """Return the return of each month and year.

    Parameters
    ----------
    returns : Series
        See :func:`cumulative_returns`; its index holds days.
    mode : str
        See :func:`cumulative_returns`.

    Returns
    -------
    DataFrame
        Index: years. Columns: 1 to 12, then ``year``. NaN without a return.

    Examples
    --------
    >>> days = pd.DatetimeIndex(["2020-01-02", "2020-01-03", "2020-02-03"])
    >>> monthly_returns(pd.Series([0.25, 0.5, -0.5], days)).dropna(axis=1).loc[2020].to_dict()
    {1: 0.75, 2: -0.5, 'year': 0.25}
    """
    compounded = _checked(mode) == "product"
    there = _finite(returns).dropna()
    days = pd.DatetimeIndex(there.index)

    def total(values: pd.Series) -> float:
        there = values.to_numpy(np.float64)
        return float(np.prod(1 + there) - 1 if compounded else there.sum())

    grouped = {
        (year, month): total(values) for (year, month), values in there.groupby([days.year, days.month], sort=True)
    }
    years = {year: total(values) for year, values in there.groupby(days.year, sort=True)}
    table = pd.DataFrame(
        [[grouped.get((year, month), np.nan) for month in range(1, 13)] for year in years],
        index=pd.Index(list(years), name="year", dtype=np.int64),
        columns=pd.Index(range(1, 13), dtype=object),
        dtype=np.float64,
    )
    return table.assign(year=pd.Series(years, dtype=np.float64))


def exposure(positions: Mapping[object, object]) -> pd.DataFrame:
    """Return how much of the account is invested at the end of each day.

    Parameters
    ----------
    positions : mapping
        Day -> position, such as ``portfolio_analysis/positions_normal_1day.pkl`` of ``PortAnaRecord``.

    Returns
    -------
    DataFrame
        Sorted by day. Columns: gross (value of the holdings, without their signs, divided by that of the account), net
        (with their signs), largest (share of the largest holding), positions (number of instruments held).

    Raises
    ------
    DataError
        If a position is none.

    Examples
    --------
    >>> from rollforge.record.position import Position
    >>> held = Position(cash=50.0, position_dict={"A": {"amount": 10, "price": 4.0}, "B": {"amount": 1, "price": 10.0}})
    >>> exposure({"2020-01-02": held}).iloc[0].to_dict()
    {'gross': 0.5, 'net': 0.5, 'largest': 0.4, 'positions': 2.0}
    """
    if not isinstance(positions, Mapping):
        raise DataError(f"Positions must map days to positions, found a {type(positions).__name__}.")
    rows = {}
    for day, position in positions.items():
        entry = getattr(position, "position", position)
        if not isinstance(entry, Mapping) or "cash" not in entry:
            raise DataError(
                f"The position of {day} must be a Position, or a dict with the key cash; found {shown(position)}."
            )
        held = np.array([v["amount"] * v["price"] for v in entry.values() if isinstance(v, Mapping)], np.float64)
        account = float(held.sum()) + entry["cash"] + entry.get("cash_delay", 0.0)
        shares = held / account if account else np.full(len(held), np.nan)
        size = np.abs(shares)
        rows[read_timestamp(day)] = {
            "gross": float(size.sum()), "net": float(shares.sum()), "largest": float(size.max(initial=0.0)),
            "positions": float(np.count_nonzero(held)),
        }  # fmt: skip
    columns = ["gross", "net", "largest", "positions"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("datetime").sort_index()


def _checked(mode: str) -> str:
    if mode not in _MODES:
        raise ConfigError(f"must be 'sum' or 'product', found {mode!r}.{nearest(str(mode), _MODES)}", path="mode")
    return mode


def _finite(returns: pd.Series) -> pd.Series:
    values = by_time(returns.astype(np.float64))
    return values.where(np.isfinite(values))
