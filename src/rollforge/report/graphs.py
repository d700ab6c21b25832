"""Figures for notebooks, with the names of Qlib's ``contrib.report``.

Each function shows its figures, or returns them with ``show_notebook=False``. Returns are summed, not compounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rollforge.dates import read_timestamp
from rollforge.errors import ConfigError, DataError, nearest
from rollforge.record.analysis import calc_ic, quantile_returns, risk_analysis

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = [
    "GRAPH_NAME_LIST",
    "cumulative_return_graph",
    "get_position_data",
    "ic_figure",
    "model_performance_graph",
    "parse_position",
    "rank_label_graph",
    "report_graph",
    "risk_analysis_graph",
    "score_ic_graph",
]

GRAPH_NAME_LIST = [
    "analysis_position.report_graph",
    "analysis_position.score_ic_graph",
    "analysis_position.cumulative_return_graph",
    "analysis_position.risk_analysis_graph",
    "analysis_position.rank_label_graph",
    "analysis_model.model_performance_graph",
]
"""Names of all graphs, as listed by Qlib."""

Figures = list["go.Figure"]
_MIN_DAYS_OF_MONTH = 3  # days; figures of months with fewer days are meaningless
_STATUS = {"buy": 1, "sell": -1, "hold": 0}


def _show(figures: Figures, show_notebook: bool) -> Figures | None:
    if not show_notebook:
        return figures
    for figure in figures:
        figure.show()
    return None


def _needs(frame: pd.DataFrame, columns: Iterable[str], what: str) -> None:
    missing = [c for c in columns if c not in frame]
    if missing:
        raise DataError(f"{what} needs the column {missing[0]!r}; it has {', '.join(map(str, frame.columns))}.")


def _breaks(days: pd.DatetimeIndex) -> list[dict[str, object]]:
    """Return the days without data, which are omitted from a date axis."""
    if not len(days):
        return []
    missing = pd.date_range(days.min(), days.max()).difference(days)
    return [{"values": missing.strftime("%Y-%m-%d").tolist()}]


def _curves(frame: pd.DataFrame, title: str, kind: str = "scatter", **axis: object) -> go.Figure:
    """Return a figure with one line (or bar series) per column, over the index."""
    import plotly.graph_objects as go

    figure = go.Figure(layout={"title": {"text": title}, "xaxis": {"tickangle": 45, **axis}})
    for name in frame:
        trace = go.Bar if kind == "bar" else go.Scatter
        more = {} if kind == "bar" else {"mode": "lines+markers" if len(frame) < 400 else "lines"}
        figure.add_trace(trace(x=frame.index, y=frame[name], name=str(name), **more))
    return figure


def _over_days(frame: pd.DataFrame, title: str, kind: str = "scatter", **style: object) -> go.Figure:
    return _curves(frame, title, kind, rangebreaks=style.get("rangebreaks", _breaks(pd.DatetimeIndex(frame.index))))


# -- a backtest --------------------------------------------------------------------------------------------------------


def report_graph(report_df: pd.DataFrame, show_notebook: bool = True) -> Figures | None:
    """Draw a backtest's daily report: cumulative returns, drawdowns, and excess returns over the benchmark.

    The shaded ranges are the maximum drawdowns before costs, of the return (top) and the excess return (bottom).

    Parameters
    ----------
    report_df : DataFrame
        By day: return, cost, bench, turnover.
    show_notebook : bool
        Whether to show the figure; False returns it in a list.

    Raises
    ------
    DataError
        If a column is missing, or there are no days.
    """
    from plotly.subplots import make_subplots

    _needs(report_df, ("return", "cost", "bench", "turnover"), "A report")
    if report_df.empty:
        raise DataError("The report has no days.")
    report = report_df.sort_index()
    curves = {
        "cum bench": report["bench"], "cum return wo cost": report["return"],
        "cum return w cost": report["return"] - report["cost"],
        "cum ex return wo cost": report["return"] - report["bench"],
        "cum ex return w cost": report["return"] - report["bench"] - report["cost"],
    }  # fmt: skip
    total = {name: values.fillna(0).cumsum() for name, values in curves.items()}
    down = {name: values - values.cummax().clip(lower=0) for name, values in total.items()}  # from the first day
    rows: list[dict[str, pd.Series]] = [
        {n: total[n] for n in ("cum bench", "cum return wo cost", "cum return w cost")},
        {"return wo mdd": down["cum return wo cost"]},
        {"return w cost mdd": down["cum return w cost"]},
        {n: total[n] for n in ("cum ex return wo cost", "cum ex return w cost")},
        {"turnover": report["turnover"]},
        {"cum ex return w cost mdd": down["cum ex return w cost"]},
        {"cum ex return wo cost mdd": down["cum ex return wo cost"]},
    ]
    figure = make_subplots(
        rows=len(rows), cols=1, shared_xaxes=True, vertical_spacing=0.01, row_heights=[3, 1, 1, 3, 1, 1, 1]
    )
    for place, lines in enumerate(rows, 1):
        for name, values in lines.items():
            fill = {"fill": "tozeroy"} if name.endswith("mdd") else {}
            figure.add_scatter(x=values.index, y=values, name=name, mode="lines", row=place, col=1, **fill)
    spans = [("cum return wo cost", 0.55, 1.0), ("cum ex return wo cost", 0.0, 0.55)]
    for name, low, high in spans:
        end = down[name].idxmin()
        begin = total[name][:end].idxmax()
        figure.add_shape(
            type="rect", xref="x", yref="paper", x0=begin, x1=end, y0=low, y1=high, fillcolor="#d3d3d3", opacity=0.3,
            line_width=0,
        )  # fmt: skip
    figure.update_layout(height=1200)
    figure.update_xaxes(rangebreaks=_breaks(pd.DatetimeIndex(report.index)))
    return _show([figure], show_notebook)


def _excess(report: pd.DataFrame) -> dict[str, pd.Series]:
    excess = report["return"] - report["bench"]
    return {"excess_return_without_cost": excess, "excess_return_with_cost": excess - report["cost"]}


def risk_analysis_graph(
    analysis_df: pd.DataFrame | None = None,
    report_normal_df: pd.DataFrame | None = None,
    report_long_short_df: pd.DataFrame | None = None,
    show_notebook: bool = True,
) -> Figures | None:
    """Draw the figures of a risk analysis, overall and by month.

    Parameters
    ----------
    analysis_df : DataFrame, optional
        Index (analysed return, figure), column ``risk``, as returned by :func:`risk_analysis`.
    report_normal_df : DataFrame, optional
        A backtest's daily report, for the figures by month; months of less than three days are omitted.
    report_long_short_df : DataFrame, optional
        Ignored, as in Qlib.
    show_notebook : bool
        Whether to show the figures; False returns them: one of all, and four by month.

    Raises
    ------
    DataError
        If a column is missing.
    """
    from plotly.subplots import make_subplots

    figures: Figures = []
    names = ["annualized_return", "max_drawdown", "information_ratio", "std"]
    if analysis_df is not None:
        _needs(analysis_df, ["risk"], "A risk analysis")
        table = analysis_df["risk"].unstack()
        figure = make_subplots(rows=1, cols=len(names), subplot_titles=sorted(names))
        for place, name in enumerate(sorted(names), 1):
            figure.add_bar(x=table.index, y=table[name], name=name, row=1, col=place)
        figures.append(figure)
    if report_normal_df is not None:
        _needs(report_normal_df, ("return", "bench", "cost"), "A report")
        months = pd.DatetimeIndex(report_normal_df.index).strftime("%Y-%m")
        by_month = {
            month: {n: risk_analysis(r)["risk"] for n, r in _excess(days).items()}
            for month, days in report_normal_df.groupby(months)
            if len(days) >= _MIN_DAYS_OF_MONTH
        }
        for name in names:
            values = {m: {f"{n}_{name}": risk[name] for n, risk in by.items()} for m, by in by_month.items()}
            figures.append(_curves(pd.DataFrame.from_dict(values, orient="index"), name, type="category"))
    return _show(figures, show_notebook)


# -- positions ---------------------------------------------------------------------------------------------------------


def parse_position(position: Mapping[Any, Any]) -> pd.DataFrame:
    """Return the positions of a backtest as one frame.

    Parameters
    ----------
    position : mapping
        Day -> position, as returned by a backtest.

    Returns
    -------
    DataFrame
        Index (instrument, datetime); amount, price, weight, cash, … of each holding. ``status`` is 1 on its first day,
        0 afterwards, and -1 on the first day without it, whose row repeats that of its last day.
    """
    rows: list[dict[str, object]] = []
    before: dict[str, dict[str, object]] = {}
    for day in sorted(position):
        entry = getattr(position[day], "position", position[day])
        held = {
            str(code): {**values, "cash": entry["cash"]}
            for code, values in entry.items()
            if isinstance(values, Mapping)
        }
        for code, values in held.items():
            rows.append({"instrument": code, "datetime": day, **values, "status": int(code not in before)})
        for code in before.keys() - held.keys():
            rows.append({"instrument": code, "datetime": day, **before[code], "status": -1})
        before = held
    if not rows:
        raise DataError("The positions are empty on every day.")
    return pd.DataFrame(rows).set_index(["instrument", "datetime"]).sort_index()


def get_position_data(
    position: Mapping[object, object],
    label_data: pd.DataFrame,
    report_normal: pd.DataFrame | None = None,
    calculate_label_rank: bool = False,
    start_date: object = None,
    end_date: object = None,
) -> pd.DataFrame:
    """Return the positions of a backtest with the subsequent returns.

    Parameters
    ----------
    position : mapping
        Day -> position, as returned by a backtest.
    label_data : DataFrame
        One column: the return from each day to the next; index (instrument, datetime) in any order.
    report_normal : DataFrame, optional
        The backtest's daily report; adds ``bench``, the benchmark's return from each day to the next.
    calculate_label_rank : bool
        True adds ``rank_ratio`` (the rank of the return on its day, in percent: the best is near 0),
        ``rank_label_mean`` (its mean over the instruments bought, held or sold that day) and ``excess_return`` (over
        the day's mean return).
    start_date, end_date
        First and last day; all days by default.

    Returns
    -------
    DataFrame
        Index (instrument, datetime): all instruments that have a return, from the first day held to the last.
    """
    if label_data.shape[1] != 1:
        raise DataError(f"The returns must be one column, found {label_data.shape[1]}.")
    held = parse_position(position)
    days = held.index.get_level_values("datetime")
    label = label_data.set_axis(["label"], axis=1)
    if label.index.names[0] == "datetime":
        label = label.swaplevel()
    label = label.sort_index().loc[pd.IndexSlice[:, days.min() : days.max()], :]
    positions = label.join(held, how="left")
    if calculate_label_rank:
        by_day = positions.groupby(level="datetime", group_keys=False)["label"]
        positions["rank_ratio"] = by_day.rank(ascending=False) / by_day.transform("size") * 100
        positions["rank_label_mean"] = positions.groupby(["datetime", "status"])["rank_ratio"].transform("mean")
        positions["excess_return"] = positions["label"] - by_day.transform("mean")
    if report_normal is not None:
        _needs(report_normal, ["bench"], "A report")
        following = report_normal["bench"].sort_index().shift(-1).rename("bench")
        positions = positions.join(following.rename_axis("datetime"), on="datetime")
    days = positions.index.get_level_values("datetime")
    first = days.min() if start_date is None else read_timestamp(start_date, "start_date")
    last = days.max() if end_date is None else read_timestamp(end_date, "end_date")
    return positions[(days >= first) & (days <= last)]


def _by_status(data: pd.DataFrame) -> pd.DataFrame:
    """Return the results of bought, held and sold instruments by day: value (sum of weight x return), weight, mean."""
    columns = {}
    for name, status in _STATUS.items():
        part = data[data["status"] == status]
        by_day = part.assign(value=part["label"] * part["weight"]).groupby(level="datetime")[["value", "weight"]].sum()
        columns[f"{name}_value"], columns[f"{name}_weight"] = by_day["value"], by_day["weight"]
        columns[f"{name}_mean"] = by_day["value"] / by_day["weight"].where(by_day["weight"] != 0)
    found = pd.DataFrame(columns).fillna(0.0).sort_index()
    found["buy_minus_sell_value"] = found["buy_value"] - found["sell_value"]
    found["buy_minus_sell_mean"] = found["buy_mean"] - found["sell_mean"]
    found["buy_plus_sell_weight"] = found["buy_weight"] + found["sell_weight"]
    return found


def cumulative_return_graph(
    position: Mapping[object, object],
    report_normal: pd.DataFrame,
    label_data: pd.DataFrame,
    show_notebook: bool = True,
    start_date: object = None,
    end_date: object = None,
) -> Figures | None:
    """Draw the next day's excess returns of instruments bought, sold, bought or sold, and held.

    Top left: the cumulative weighted mean return of that day. Bottom left: their weight. Right: the distribution of the
    daily contributions, with a red line at their mean. Sold instruments should fall.

    Parameters
    ----------
    position, report_normal, label_data, start_date, end_date
        See :func:`get_position_data`.
    show_notebook : bool
        Whether to show the figures; False returns the four.
    """
    from plotly.subplots import make_subplots

    data = get_position_data(position, label_data, report_normal, False, start_date, end_date)
    data = data.assign(label=data["label"] - data["bench"]).dropna(subset=["label", "status", "weight"])
    by_day = _by_status(data)
    figures: Figures = []
    for name in ("buy", "sell", "buy_minus_sell", "hold"):
        weight, value = f"{name.replace('minus', 'plus')}_weight", by_day[f"{name}_value"]
        figure = make_subplots(
            rows=2, cols=2, vertical_spacing=0.03, row_heights=[2, 1], column_widths=[3, 1],
            specs=[[{}, {"rowspan": 2}], [{}, None]],
        )  # fmt: skip
        figure.add_scatter(x=by_day.index, y=by_day[f"{name}_mean"].cumsum(), name=f"cum {name}", row=1, col=1)
        figure.add_scatter(x=by_day.index, y=by_day[weight], name=weight.replace("_", " "), row=2, col=1)
        figure.add_histogram(x=value, name=f"{name} value".replace("_", " "), row=1, col=2)
        figure.add_vline(x=float(value.mean()), line_color="red", line_width=1, row=1, col=2)
        figure.update_layout(height=500, title={"text": name.replace("_", " ")})
        figures.append(figure)
    return _show(figures, show_notebook)


def rank_label_graph(
    position: Mapping[object, object],
    label_data: pd.DataFrame,
    start_date: object = None,
    end_date: object = None,
    show_notebook: bool = True,
) -> Figures | None:
    """Draw the percentile ranks of the next day's returns of instruments held, bought and sold.

    0 is the best return of the day and 100 the worst; 50 is expected by chance.

    Parameters
    ----------
    position, label_data, start_date, end_date
        See :func:`get_position_data`.
    show_notebook : bool
        Whether to show the figures; False returns the three.
    """
    data = get_position_data(position, label_data, None, True, start_date, end_date)
    figures: Figures = []
    for name in ("hold", "buy", "sell"):
        part = data[data["status"] == _STATUS[name]].groupby(level="datetime")["rank_label_mean"].first()
        figure = _over_days(part.to_frame(name.capitalize()), name.capitalize())
        figure.update_yaxes(title={"text": "rank of the return: %"})
        figures.append(figure)
    return _show(figures, show_notebook)


# -- a prediction ------------------------------------------------------------------------------------------------------


def _daily_ic(pred_label: pd.DataFrame) -> pd.DataFrame:
    _needs(pred_label, ("score", "label"), "A prediction with its label")
    ic, rank_ic = calc_ic(pred_label["score"], pred_label["label"], dropna=True)
    return pd.DataFrame({"ic": ic, "rank_ic": rank_ic})


def score_ic_graph(pred_label: pd.DataFrame, show_notebook: bool = True, **kwargs: Any) -> Figures | None:
    """Draw the daily IC and Rank IC of a prediction.

    Parameters
    ----------
    pred_label : DataFrame
        Columns score and label; index (instrument, datetime) in any order.
    show_notebook : bool
        Whether to show the figure; False returns it in a list.
    **kwargs
        ``rangebreaks`` of Plotly; by default the days without data.
    """
    return _show([_over_days(_daily_ic(pred_label), "Score IC", **kwargs)], show_notebook)


def ic_figure(ic_df: pd.DataFrame, show_nature_day: bool = True, **kwargs: object) -> go.Figure:
    """Return a bar chart of daily ICs.

    Parameters
    ----------
    ic_df : DataFrame
        One column per kind of IC, by day.
    show_nature_day : bool
        Whether to include non-trading days.
    **kwargs
        ``rangebreaks`` of Plotly; by default the days without data.
    """
    days = pd.DatetimeIndex(ic_df.index)
    shown = ic_df.reindex(pd.date_range(days.min(), days.max())) if show_nature_day else ic_df
    return _over_days(shown, "Information Coefficient (IC)", "bar", **kwargs)


def _group_return(pred_label: pd.DataFrame, *, groups: int, reverse: bool, **style: Any) -> Figures:
    """Draw cumulative returns of groups, the first with the best scores, and histograms of two differences."""
    from plotly.subplots import make_subplots

    _needs(pred_label, ("score", "label"), "A prediction with its label")
    score = -pred_label["score"] if reverse else pred_label["score"]
    by_rank = quantile_returns(score, pred_label["label"], groups)
    table = by_rank[by_rank.columns[::-1]].set_axis([f"Group{i + 1}" for i in range(groups)], axis=1)
    everything = pred_label["label"].groupby(level="datetime").mean()
    table["long-short"] = table["Group1"] - table[f"Group{groups}"]
    table["long-average"] = table["Group1"] - everything
    table = table.dropna(how="all")
    figure = make_subplots(rows=1, cols=2, subplot_titles=["long-short", "long-average"])
    for place, name in enumerate(("long-short", "long-average"), 1):
        figure.add_histogram(x=table[name], name=name, histnorm="probability density", nbinsx=20, row=1, col=place)
    return [_over_days(table.fillna(0).cumsum(), "Cumulative Return", **style), figure]


def _pred_ic(pred_label: pd.DataFrame, *, rank: bool, show_nature_day: bool, **style: object) -> Figures:
    """Draw the daily IC, its monthly mean, its histogram, and a Q-Q plot against the normal distribution."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    daily = _daily_ic(pred_label)
    ic = daily["rank_ic" if rank else "ic"].dropna()
    bars = ic_figure(daily.set_axis(["IC", "Rank IC"], axis=1), show_nature_day, **style)
    days = pd.DatetimeIndex(ic.index)
    monthly = ic.groupby([days.year, days.month]).mean().unstack().reindex(columns=range(1, 13))
    heat = go.Figure(
        go.Heatmap(z=monthly.to_numpy(), x=list(monthly.columns), y=list(monthly.index), colorscale="RdBu", zmid=0),
        layout={"title": {"text": "Monthly IC"}, "xaxis": {"dtick": 1}, "yaxis": {"dtick": 1, "tickformat": "04d"}},
    )
    name = "Rank IC" if rank else "IC"
    both = make_subplots(rows=1, cols=2, subplot_titles=[name, f"{name} Normal Dist. Q-Q"])
    both.add_histogram(x=ic, name=name, histnorm="probability density", nbinsx=20, row=1, col=1)
    observed = np.sort(ic.to_numpy(np.float64))
    spread = observed.std() if len(observed) > 1 else 0.0
    if spread > 0:
        normal = NormalDist()
        expected = [normal.inv_cdf((i + 0.5) / len(observed)) for i in range(len(observed))]
        both.add_scatter(
            x=expected, y=(observed - observed.mean()) / spread, mode="markers", name="quantiles", row=1, col=2
        )
        ends = [expected[0], expected[-1]]
        both.add_scatter(x=ends, y=ends, mode="lines", name="normal", row=1, col=2)
    both.update_xaxes(title={"text": "Normal Distribution Quantile"}, row=1, col=2)
    both.update_yaxes(title={"text": "Observed Quantile"}, row=1, col=2)
    return [bars, heat, both]


def _scores(pred_label: pd.DataFrame, lag: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return scores as a table of days by instruments, and those of `lag` days before."""
    now = pred_label["score"].unstack("instrument").sort_index()
    return now, now.shift(lag)


def _pred_autocorr(pred_label: pd.DataFrame, *, lag: int, **style: Any) -> Figures:
    """Draw the rank correlation of the scores of a day with those of `lag` days before."""
    now, before = _scores(pred_label, lag)
    there = now.notna() & before.notna()
    value = now.where(there).rank(axis=1).corrwith(before.where(there).rank(axis=1), axis=1)
    return [_over_days(value.to_frame("value"), "Auto Correlation", **style)]


def _pred_turnover(pred_label: pd.DataFrame, *, groups: int, lag: int, **style: Any) -> Figures:
    """Draw the share of the best (and the worst) group that was not in it `lag` days before."""
    now, before = _scores(pred_label, lag)
    there = now.notna() & before.notna()
    count = there.sum(axis=1) // groups

    def changed(ascending: bool) -> pd.Series:
        chosen, then = (
            x.where(there).rank(axis=1, ascending=ascending, method="first").le(count, axis=0) for x in (now, before)
        )
        return 1 - (chosen & then).sum(axis=1) / count.where(count > 0)

    table = pd.DataFrame({"Top": changed(False), "Bottom": changed(True)})
    return [_over_days(table, "Top-Bottom Turnover", **style)]


_GRAPHS = ("group_return", "pred_ic", "pred_autocorr", "pred_turnover")


def model_performance_graph(
    pred_label: pd.DataFrame,
    lag: int = 1,
    N: int = 5,  # noqa: N803 - Qlib's name
    reverse: bool = False,
    rank: bool = False,
    graph_names: Sequence[str] = ("group_return", "pred_ic", "pred_autocorr"),
    show_notebook: bool = True,
    show_nature_day: bool = False,
    **kwargs: object,
) -> Figures | None:
    """Draw performance figures of a prediction.

    Parameters
    ----------
    pred_label : DataFrame
        Columns score and label; index (instrument, datetime) in any order.
    lag : int
        Lag in days for ``pred_autocorr`` and ``pred_turnover``.
    N : int
        Number of groups of scores per day; instruments with equal scores at a boundary share it.
    reverse : bool
        True treats the lowest scores as the best.
    rank : bool
        True shows monthly means and distribution of the Rank IC.
    graph_names : sequence of str
        Names among ``group_return``, ``pred_ic``, ``pred_autocorr``, ``pred_turnover``.
    show_notebook : bool
        Whether to show the figures; False returns them.
    show_nature_day : bool
        Whether to include non-trading days in the bar chart of the IC.
    **kwargs
        ``rangebreaks`` of Plotly; by default the days without data.

    Raises
    ------
    ConfigError
        If the name of a graph is unknown.
    DataError
        If a column is missing.
    """
    drawings: dict[str, Callable[[], Figures]] = {
        "group_return": lambda: _group_return(pred_label, groups=N, reverse=reverse, **kwargs),
        "pred_ic": lambda: _pred_ic(pred_label, rank=rank, show_nature_day=show_nature_day, **kwargs),
        "pred_autocorr": lambda: _pred_autocorr(pred_label, lag=lag, **kwargs),
        "pred_turnover": lambda: _pred_turnover(pred_label, groups=N, lag=lag, **kwargs),
    }
    for name in graph_names:
        if name not in drawings:
            raise ConfigError(
                f"unknown graph {name!r}.{nearest(name, _GRAPHS)} Known: {', '.join(_GRAPHS)}.",
                path="graph_names",
            )
    return _show([figure for name in graph_names for figure in drawings[name]()], show_notebook)
