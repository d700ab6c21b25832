"""Every number of a report compared with plain loops over prediction and label: several models, days, ties, gaps."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from rich.console import Console

from rollforge.collect.trials import Trials
from rollforge.errors import DataError
from rollforge.generate.timeline import SegmentSpan, Window
from rollforge.record.overfitting import deflated_sharpe
from rollforge.record.position import Position
from rollforge.report.figures import figures
from rollforge.report.headline import HeadlineFigure, headline_figures
from rollforge.report.html import render
from rollforge.report.inputs import ModelInputs, ReportInputs, TaskRow
from rollforge.report.summary import Summary, summarise
from rollforge.report.terminal import backtest_table, headline_table, models_table, overfitting_table

ONE, FIVE = "Ref($close, -2)/Ref($close, -1) - 1", "Ref($close, -6)/Ref($close, -1) - 1"


def market(
    names: int = 12, days: int = 60, horizon: int = 1, *, ties: bool = False, gaps: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a prediction, and the returns over the `horizon` days that followed."""
    random = np.random.default_rng(names + days + horizon)
    index = pd.MultiIndex.from_product(
        [pd.bdate_range("2020-01-01", periods=days), [f"I{i:02}" for i in range(names)]],
        names=["datetime", "instrument"],
    )
    steps = random.normal(0, 0.02, (days + horizon, names))
    ahead = np.lib.stride_tricks.sliding_window_view(steps, horizon, axis=0)[:days].sum(axis=2)
    score = 0.02 * ahead + random.normal(0, 0.001, ahead.shape)
    if ties:
        score = np.round(score, 3)
        score[::7] = 0.0
    if gaps:
        ahead[random.random(ahead.shape) < 0.15] = np.nan
        score[random.random(score.shape) < 0.15] = np.nan
        ahead[-horizon:] = np.nan
    return (
        pd.DataFrame({"score": score.ravel()}, index),
        pd.DataFrame({"LABEL0": ahead.ravel()}, index),
    )


def one_task(status: str = "done") -> TaskRow:
    test = SegmentSpan(np.datetime64("2020-01-01"), np.datetime64("2020-03-24"), 60)
    return TaskRow(Window(0, {"test": test}), status)


def summary_of(prediction: pd.DataFrame, label: pd.DataFrame, days: int | None, **more: object) -> Summary:
    return summarise(
        ReportInputs("mine", [one_task()], prediction, label, label_text=FIVE, label_days=days, **more)  # type: ignore[arg-type]
    )


def texts_by_name(found: Sequence[HeadlineFigure]) -> dict[str, str]:
    return {f.name: f.text for f in found}


def by_hand(prediction: pd.DataFrame, label: pd.DataFrame, horizon: int) -> dict[str, str]:
    """Compute the headline's numbers day by day and instrument by instrument."""
    ics, rank_ics, spreads = [], [], []
    score, truth = prediction["score"].to_dict(), label["LABEL0"].to_dict()
    for day in sorted({day for day, _ in score}):
        found = [(score[key], truth[key]) for key in score if key[0] == day]
        pairs = sorted(pair for pair in found if np.isfinite(pair).all())
        scores, returns = [s for s, _ in pairs], [r for _, r in pairs]
        if len(set(scores)) < 2:
            continue
        ics.append(scipy.stats.pearsonr(scores, returns).statistic)
        rank_ics.append(scipy.stats.spearmanr(scores, returns).statistic)
        if len(pairs) >= 5:
            # A tied instrument counts as the mean of all with its score.
            means = [np.mean([r for other, r in pairs if other == s]) for s in scores]
            fifth = [place * 5 // len(pairs) for place in range(len(pairs))]
            top, bottom = ([m for m, f in zip(means, fifth, strict=True) if f == k] for k in (4, 0))
            spreads.append(np.mean(top) - np.mean(bottom))
    ic, spread = np.array(ics), np.array(spreads)
    n, e = len(ic), ic - ic.mean()
    lags = range(1, horizon + 1 if horizon > 1 else 1)
    variance = e @ e / n + 2 * sum((1 - j / (horizon + 1)) * (e[j:] @ e[:-j]) / n for j in lags)
    t = ic.mean() / np.sqrt(variance / n) if horizon > 1 else ic.mean() / ic.std(ddof=1) * n**0.5
    return {
        "IC": f"{ic.mean():.4f}",
        "ICIR": f"{ic.mean() / ic.std(ddof=1):.3f}",
        "Rank IC": f"{np.mean(rank_ics):.4f}",
        "Rank ICIR": f"{np.mean(rank_ics) / np.std(rank_ics, ddof=1):.3f}",
        "IC t-stat": f"{t:.2f}",
        "days with IC > 0": f"{(ic > 0).mean():.1%}",
        "annual long-short return": f"{spread.mean() / horizon * 252:.1%}",
        "long-short Sharpe": f"{spread.mean() / spread.std(ddof=1) * (252 / horizon) ** 0.5:.2f}",
    }


@pytest.mark.parametrize("horizon", [1, 5, 20])
@pytest.mark.parametrize(("ties", "gaps"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("names", [12, 5, 7])
def test_the_headline_is_right(names: int, ties: bool, gaps: bool, horizon: int) -> None:
    """With labels over one and several days, tied scores, missing values, few instruments; in any order of rows."""
    prediction, label = market(names, 60, horizon, ties=ties, gaps=gaps)
    expected = by_hand(prediction, label, horizon)
    shown = texts_by_name(headline_figures(summary_of(prediction, label, horizon).headline))
    assert {k: shown[k] for k in expected} == expected
    shuffled = summary_of(prediction.sample(frac=1, random_state=1), label.sample(frac=1, random_state=2), horizon)
    assert texts_by_name(headline_figures(shuffled.headline)) == shown


@pytest.mark.parametrize(
    ("missing", "text"),
    [
        ([], "420 (60 days, 7 instruments)"),
        ([3], "419 (60 days, 7 instruments); 1 row has no score"),
        ([0, 7, 8], "417 (60 days, 7 instruments); 3 rows have no score"),
    ],
)
def test_rows_without_a_score_are_no_predictions(missing: list[int], text: str) -> None:
    """A model may have no score for an instrument, or an infinite one."""
    prediction, label = market(7, 60, 1)
    prediction.iloc[missing] = np.nan
    prediction.iloc[missing[1:2]] = np.inf
    headline = summary_of(prediction, label, 1).headline
    assert texts_by_name(headline_figures(headline))["predictions"] == text
    assert (headline.rows, headline.unscored) == (420, len(missing))


def test_the_quantile_table_is_right() -> None:
    """Mean label, annual return, excess over the mean of all instruments, Sharpe ratio and share of days, for each
    fifth.
    """
    prediction, label = market(7, 30, 5, ties=True, gaps=True)
    summary = summary_of(prediction, label, 5)
    days = []
    for _, rows in prediction.join(label).dropna().groupby(level="datetime"):
        if len(rows) < 5 or rows["score"].nunique() < 2:
            continue
        rows = rows.assign(mean=rows.groupby("score")["LABEL0"].transform("mean")).sort_values("score")
        fifth = np.arange(len(rows)) * 5 // len(rows)
        days.append([*(rows["mean"].to_numpy()[fifth == k].mean() for k in range(5)), rows["LABEL0"].mean()])
    table = pd.DataFrame(days)
    assert summary.quantile_table is not None
    for k, values in {"1": table[0], "3": table[2], "5": table[4], "5 - 1": table[4] - table[0]}.items():
        excess = values if k == "5 - 1" else values - table[5]
        expected = {
            "label": values.mean(),
            "annual": values.mean() / 5 * 252,
            "excess": excess.mean() / 5 * 252,
            "sharpe": values.mean() / values.std() * (252 / 5) ** 0.5,
            "positive": (values > 0).mean(),
        }
        assert summary.quantile_table.loc[k].to_dict() == pytest.approx(expected)
    assert summary.quantiles is not None
    assert summary.quantiles[5].dropna().tolist() == pytest.approx((table[4] / 5).tolist())


def test_unknown_label_days_are_reported_and_never_assumed() -> None:
    """No annual return, Sharpe ratio or t; IC and mean labels are shown, on the page and on the terminal."""
    prediction, label = market()
    summary = summary_of(prediction, label, None)
    shown = texts_by_name(headline_figures(summary.headline))
    assert [shown[k] for k in ("IC t-stat", "annual long-short return", "long-short Sharpe")] == ["n/a"] * 3
    assert shown["IC"] == by_hand(prediction, label, 1)["IC"]
    assert shown["label"] == f"{FIVE}, over an unknown number of days"
    assert summary.quantiles is None
    assert summary.quantile_table is not None
    assert summary.quantile_table["annual"].isna().all()
    assert summary.quantile_table["label"].notna().all()
    assert "quantiles" not in figures(summary).figures
    page = render(summary)
    assert "the number of days that the label spans is unknown: set label_days" in page
    assert ">annual return<" not in page
    assert ">nan" not in page
    with pytest.raises(DataError, match="at least 1 trading day, found 0"):
        summary_of(prediction, label, 0)


def test_a_constant_score_has_no_figures() -> None:
    """A day with a constant score has neither an IC nor fifths, and the other days are as without it."""
    prediction, label = market()
    shown = texts_by_name(headline_figures(summary_of(prediction * 0 + 0.1, label, 1).headline))
    assert "IC" not in shown
    assert shown["evaluated on"].startswith("0 of 60 days: an IC needs two instruments")
    assert "annual long-short return" not in shown
    first = prediction.index.get_level_values(0)[0]
    partly = prediction.copy()
    partly.loc[first] = 0.1
    mixed = summary_of(partly, label, 1).headline
    without = summary_of(prediction.drop(first, level=0), label, 1).headline
    assert (mixed.days, mixed.ic_days) == (60, 59)
    assert (mixed.ic, mixed.long_short_sharpe) == (without.ic, without.long_short_sharpe)


@pytest.mark.parametrize("names", [1, 2, 4])
def test_too_few_instruments_for_fifths(names: int) -> None:
    """One instrument has no IC; two and four have one, and no long-short return."""
    summary = summary_of(*market(names), 1)
    shown = texts_by_name(headline_figures(summary.headline))
    assert ("IC" in shown) is (names > 1)
    assert shown.get("annual long-short return", "n/a") == "n/a"
    assert summary.quantile_table is None
    assert "Returns by quantile" not in render(summary)


def test_each_model_is_evaluated_by_its_own_label() -> None:
    """On its own days, over its own label days; the headline is that of the average."""
    short, long = market(12, 60, 1), market(12, 40, 5, ties=True)
    models = [
        ModelInputs("lgb", *short, ONE, 1),
        ModelInputs("ridge", *long, FIVE, 5),
        ModelInputs("failed", None, None),
    ]
    summary = summarise(
        ReportInputs("mine", [one_task()], *short, label_text=ONE, label_days=1, models=models)  # type: ignore[arg-type]
    )
    assert [m.name for m in summary.models] == ["lgb", "ridge"]
    for model, data, horizon in zip(summary.models, (short, long), (1, 5), strict=True):
        expected = by_hand(*data, horizon)
        assert f"{model.ic.mean():.4f}" == expected["IC"]
        assert f"{model.ic_t:.2f}" == expected["IC t-stat"]
        assert f"{model.annual(model.long_short):.1%}" == expected["annual long-short return"]
        assert f"{model.sharpe(model.long_short):.2f}" == expected["long-short Sharpe"]
    assert texts_by_name(headline_figures(summary.headline))["models"] == "average of 3: lgb, ridge, failed"
    console = Console(width=100, record=True, color_system=None)
    console.print(models_table(summary))
    (ridge,) = [line for line in console.export_text().splitlines() if line.startswith("ridge")]
    expected = by_hand(*long, 5)
    for text in ("5 d", expected["IC t-stat"], expected["annual long-short return"], expected["long-short Sharpe"]):
        assert text in ridge
    page = render(summary)
    assert "Each model is evaluated with its own label" in page
    assert FIVE in page
    assert models_table(summary_of(*short, 1)) is None


@pytest.mark.parametrize("days", [1, 5, None])
def test_every_figure_names_its_days_its_label_and_its_costs(days: int | None) -> None:
    """On the page, and in 80 columns on the terminal."""
    prediction, label = market(gaps=True)
    summary = summary_of(prediction, label, days)
    console = Console(width=80, record=True, color_system=None)
    console.print(headline_table(summary))
    shown, page = " ".join(console.export_text().split()), render(summary)
    judged = f"{summary.headline.ic_days} of 60 days, {summary.headline.first_evaluated} to {summary.headline.last_evaluated}"
    for text in (judged, FIVE):
        assert text in shown
        assert text in page
    for figure in headline_figures(summary.headline):
        if figure.quality:
            assert "day" in figure.hint or "√" in figure.hint
            assert figure.hint in shown
            assert figure.hint in page
    hints = {f.name: f.hint for f in headline_figures(summary.headline)}
    assert ("before costs" in hints["annual long-short return"]) is (days is not None)
    assert ("before costs" in hints["long-short Sharpe"]) is (days is not None)


def test_warnings_are_on_the_page(tmp_path: Path) -> None:
    """Next to the notes on coverage, escaped; long lists are folded."""
    prediction, label = market()
    many = [f"warning {i} <b>" for i in range(20)]
    page = render(summary_of(prediction, label, 1, warnings=many, notes=["window 2 is failed"]))
    assert "This result is incomplete" in page
    assert "Notes on this result" in page
    assert "warning 19 &lt;b&gt;" in page
    assert "8 more" in page
    assert "Notes on this result" not in render(summary_of(prediction, label, 1))


def test_the_drawn_drawdown_begins_on_the_first_day() -> None:
    """A backtest that only falls has its whole loss as drawdown, in the table and in the plot."""
    days = pd.bdate_range("2020-01-01", periods=3)
    report = pd.DataFrame({"return": [-0.1, 0.0, 0.05], "bench": 0.0, "cost": 0.0}, days)
    summary = summarise(ReportInputs("mine", [one_task()], None, None, portfolio=report))
    assert summary.portfolio_risk is not None
    assert summary.portfolio_risk.loc["strategy, after costs", "max_drawdown"] == pytest.approx(-0.1)
    (down,) = [t for t in figures(summary).figures["portfolio"]["data"] if t["name"] == "drawdown, after costs"]
    assert down["y"] == pytest.approx([-0.1, -0.1, -0.05])


def test_months_and_exposure_of_a_backtest_are_on_the_page() -> None:
    """Returns after costs, summed by month and year; what is held and traded as means over the days."""
    days = pd.DatetimeIndex(["2019-12-31", "2020-01-02", "2020-01-03"])
    report = pd.DataFrame(
        {
            "return": [-0.1, 0.02, 0.05],
            "bench": [0.0, 0.01, 0.01],
            "cost": [0.0, 0.01, 0.0],
            "turnover": [0.9, 0.0, 0.3],
        },
        days,
    )
    held = {"A": {"amount": 1, "price": 30.0}, "B": {"amount": 2, "price": 10.0}}
    positions = {day: Position(50.0, held if i else {}) for i, day in enumerate(days)}
    summary = summarise(ReportInputs("mine", [one_task()], None, None, portfolio=report, positions=positions))
    page = render(summary)
    for words in (
        'title="Return by month, after costs, Dec 2019: −0.1000">−10.0%<',
        'title="Return by month, after costs, Jan 2020: 0.0600">6.0%<',
        'title="Return by month, after costs, Feb 2020: no days"',
        'title="Excess over the benchmark by month, after costs, 2020: 0.0400">4.0%<',
        f"40.0% of the account per day, {0.4 * 238:.1f} times per year",
        "<dt>gross exposure</dt><dd>33.3%, at most 50.0%</dd>",
        "<dt>net exposure</dt><dd>33.3%, from 0.0% to 50.0%</dd>",
        "<dt>positions</dt><dd>1.3, at most 2</dd>",
        "<dt>largest position</dt><dd>20.0% of the account, at most 30.0%</dd>",
    ):
        assert words in page
    alone = summarise(ReportInputs("mine", [one_task()], None, None, portfolio=report.assign(bench=0.0)))
    assert "Excess over the benchmark by month" not in render(alone)
    assert "gross exposure" not in render(alone)


def test_a_backtest_of_weeks_has_52_a_year() -> None:
    """Annual figures use the number of periods that the calendar has in a year; the texts say weeks."""
    weeks = pd.date_range("2020-01-03", periods=8, freq="W-FRI")
    gained = np.array([0.01, -0.02, 0.03, 0.0, 0.01, 0.02, -0.01, 0.02])
    report = pd.DataFrame({"return": gained, "bench": 0.0, "cost": 0.001, "turnover": 0.4}, weeks)
    positions = {week: Position(50.0, {"A": {"amount": 1, "price": 30.0}}) for week in weeks}
    inputs = ReportInputs("m", [one_task()], None, None, portfolio=report, positions=positions, calendar=weeks)
    summary = summarise(inputs)
    assert summary.portfolio_risk is not None
    after = summary.portfolio_risk.loc["strategy, after costs"]
    net = gained - 0.001
    assert after["annualized_return"] == pytest.approx(net.mean() * 52)
    assert after["information_ratio"] == pytest.approx(net.mean() / net.std(ddof=1) * 52**0.5)
    page = " ".join(render(summary).split())
    for words in (
        "Returns of single weeks are summed",
        "these figures use 52 weeks per year.",
        f"40.0% of the account per week, {0.4 * 52:.1f} times per year",
        "means over 8 weeks",
        "std of a week",
        "turnover of a week",
    ):
        assert words in page
    console = Console(record=True, width=100)
    console.print(backtest_table(summary))
    assert "returns are summed; 52 weeks per year" in console.export_text()


def test_ties_are_the_mean_over_their_orders() -> None:
    """Two tied instruments at the border of the highest fifth: the mean over both orders of the rows."""
    index = pd.MultiIndex.from_product(
        [pd.bdate_range("2020-01-01", periods=3), list("abcde")], names=["datetime", "instrument"]
    )
    scores, returns = [1.0, 2.0, 3.0, 4.0, 4.0], [0.01, 0.0, 0.0, 0.02, 0.06]
    prediction = pd.DataFrame({"score": scores * 3}, index)
    label = pd.DataFrame({"LABEL0": returns * 3}, index)
    tops = [order[-1] for order in permutations((0.02, 0.06))]
    summary = summary_of(prediction, label, 1)
    assert summary.headline.long_short_return == pytest.approx((np.mean(tops) - 0.01) * 252)
    assert np.isnan(summary.headline.long_short_sharpe or 0.0)  # equal spreads have no deviation


@pytest.mark.parametrize("horizon", [1, 5])
def test_the_page_says_of_which_days_a_sharpe_ratio_is(horizon: int) -> None:
    """Of all days among the models, and of days whose labels do not overlap among the variants: the same number for the best
    variant in both places there, and everywhere if labels span a day."""
    made = {name: market(10, 80, horizon) for name in ("a", "b")}
    made["b"][0]["score"] += np.random.default_rng(0).normal(0, 0.01, len(made["b"][0]))
    spreads = {}
    for name, (prediction, label) in made.items():
        both = prediction.join(label).sort_values("score").groupby(level="datetime")["LABEL0"]
        spreads[name] = both.apply(lambda day: day.tail(2).mean() - day.head(2).mean())
    returns = pd.DataFrame(spreads).iloc[::horizon] / horizon
    trials = Trials(2, returns, horizon, deflated_sharpe(returns), per_year=252.0)
    models = [ModelInputs(name, *both, FIVE, horizon) for name, both in made.items()]
    summary = summary_of(*made["a"], horizon, models=models, trials=trials)
    year = (252 / horizon) ** 0.5
    every = {name: f"{s.mean() / s.std() * year:.2f}" for name, s in spreads.items()}
    some = {name: f"{s[::horizon].mean() / s[::horizon].std() * year:.2f}" for name, s in spreads.items()}
    assert (every == some) == (horizon == 1)
    page = render(summary)
    among_models, variants = (
        page.partition(f'<section id="{name}"')[2].partition("</section>")[0] for name in ("models", "overfitting")
    )
    for section, numbers in ((among_models, every), (variants, some)):
        for name, number in numbers.items():
            row = section.partition(f'class="text">{name}<')[2].partition("</tr>")[0]
            assert f">{number}</td>" in row
    suffix = "per year, without overlap" if horizon > 1 else "per year"
    assert (">Sharpe, all days<" in among_models) == (horizon > 1)
    assert ("Sharpe ratios of these days alone differ" in variants) == (horizon > 1)
    assert f">Sharpe {suffix}<" in variants
    assert f"Sharpe {some['a']} {suffix}<" in variants
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(overfitting_table(summary))
    suffix = "per year, of days without overlap" if horizon > 1 else "per year"
    assert f"Sharpe {some['a']} {suffix} " in console.export_text()


def test_names_of_models_with_commas_are_kept_apart() -> None:
    """The names of a grid contain its values, separated by commas."""
    pair = market(12, 20, 1)
    models = [ModelInputs(name, *pair, ONE, 1) for name in ("small, seed=1", "small, seed=2")]
    summary = summarise(
        ReportInputs("mine", [one_task()], *pair, label_text=ONE, label_days=1, models=models)  # type: ignore[arg-type]
    )
    assert texts_by_name(headline_figures(summary.headline))["models"] == "average of 2: small, seed=1; small, seed=2"


@pytest.mark.parametrize("days", [1, 5, None])
def test_the_persistence_of_a_signal_is_shown(days: int | None) -> None:
    """Lag 0 is the headline; other lags and the turnover are counted on the calendar, which spans a failed window."""
    prediction, label = market(days=60, horizon=days or 1, gaps=True)
    calendar = pd.bdate_range("2019-12-02", periods=100)
    kept = ~prediction.index.get_level_values("datetime").isin(calendar[40:55])
    prediction, label = prediction[kept], label[kept]
    summary = summary_of(prediction, label, days, calendar=calendar)
    found = summary.persistence
    assert found is not None
    assert found.by_lag.loc[0, "IC"] == pytest.approx(summary.headline.ic)
    wide = prediction["score"].unstack().reindex(calendar)
    days_of_pairs = (wide.notna() & wide.shift(5).notna()).sum(axis=1) > 1
    pairs = (pd.concat([wide.loc[d], wide.shift(5).loc[d]], axis=1).dropna() for d in calendar[days_of_pairs])
    correlations = [scipy.stats.spearmanr(pair).statistic for pair in pairs]
    assert found.by_lag.loc[5, "autocorrelation"] == pytest.approx(np.mean(correlations))
    assert calendar[55] not in found.turnover.index  # the first day after the gap
    page = render(summary)
    assert "Persistence of the signal" in page
    assert ("95 % interval of the mean IC" in page) == (days is not None)
    assert f"{found.turnover['highest'].mean():.1%}, mean share that was not in it on the previous day" in page
    if days is not None:
        low, high = found.interval
        assert low < (summary.headline.ic or 0.0) < high
        assert f"{low:.4f} to {high:.4f}".replace("-", "−") in page
    other = summary_of(prediction, label, days, calendar=calendar[:30]).persistence
    assert other is not None
    assert len(other.turnover) == len(found.turnover) + 1  # by the days of the prediction
