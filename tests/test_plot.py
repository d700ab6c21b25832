"""Figures for notebooks: every value is computed by hand, is the same as on the page, and is checked for every accepted
input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from sklearn.linear_model import Ridge

from rollforge import plot
from rollforge.collect.result import ModelResult
from rollforge.errors import ConfigError, DataError, DataNotFound, TrainingFailed
from rollforge.generate.label import Label
from rollforge.plot import ResultPlots
from rollforge.record.persistence import ic_decay
from rollforge.record.position import Position
from rollforge.report.figures import figures
from rollforge.session import Session, using
from rollforge.walk_forward import WalkForward, walk_forward

DAYS = pd.bdate_range("2020-01-01", "2020-12-31")
NAN = float("nan")


class FailsOnce(Ridge):
    """Fails in the window whose training data begin first."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> FailsOnce:  # noqa: N803 - scikit-learn's name
        if float(X.iloc[0, 0]) == 0.125:
            raise ValueError("the first window")
        super().fit(X, y, sample_weight)
        return self


def table() -> pd.DataFrame:
    """A table by store and week, in an order and with entities that differ from those of the prediction."""
    random = np.random.default_rng(0)
    index = pd.MultiIndex.from_product([DAYS, [30, 4, "x", 7, 5, 6]], names=["day", "store"])
    frame = pd.DataFrame(random.normal(size=(len(index), 2)), index, ["a", "b"])
    frame["sales"] = 0.01 * (0.3 * frame["a"] + random.normal(size=len(index)))
    frame.loc[random.random(len(index)) < 0.1, "sales"] = NAN
    frame.iloc[:6, 0] = 0.125
    return frame.rename(index=str, level="store").swaplevel().sort_index()


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> WalkForward:
    """A result of which the first of three windows failed."""
    place = tmp_path_factory.mktemp("plots")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROLLFORGE_HOME", str(place / "home"))
        patch.setenv("ROLLFORGE_CACHE", str(place / "cache"))
        session = Session(
            tracking_uri=f"folder:{place}/runs", store_uri=f"sqlite:///{place}/tasks.db", cache=str(place / "cache")
        )
        return walk_forward(
            FailsOnce(), table(), label="sales", train="3 months", step="quarter", horizon=2, jobs=0, session=session,
            allow_gaps=True, experiment_name="sales",
        )  # fmt: skip


def series_of(figure: Any, name: str, axis: str = "y") -> list[float]:
    """Return the values of the trace with this name on a y axis, without gaps."""
    (found,) = [t for t in figure.data if t.name == name and (t.yaxis or "y") == axis and t.visible is not False]
    values = found.x if found.orientation == "h" else found.y
    return [v for v in np.asarray(values, np.float64).tolist() if np.isfinite(v)]


def by_day(result: WalkForward) -> dict[pd.Timestamp, pd.DataFrame]:
    both = pd.DataFrame({"score": result.prediction, "label": result.label}).dropna()
    return {day: rows for day, rows in both.groupby(level="day") if len(rows) > 1}


def test_the_ic_is_that_of_each_day_and_its_sum(result: WalkForward) -> None:
    ics = [scipy.stats.pearsonr(rows["score"], rows["label"]).statistic for rows in by_day(result).values()]
    ranks = [scipy.stats.spearmanr(rows["score"], rows["label"]).statistic for rows in by_day(result).values()]
    figure = result.plot.ic(rolling=5)
    assert series_of(figure, "one day") == pytest.approx(ics)
    assert series_of(figure, "one day", "y2") == pytest.approx(ranks)
    means = pd.Series(ics).rolling(5, min_periods=2).mean().dropna()
    assert series_of(figure, "mean of the last 5 days") == pytest.approx(means.tolist())
    assert series_of(figure, "IC", "y3") == pytest.approx(np.cumsum(ics).tolist(), abs=1e-12)
    assert "sales, over 2 trading days" in figure.layout.title.text
    assert [a.text for a in figure.layout.annotations] == ["1", "2", "3"]


def test_quantiles_are_divided_by_the_days_of_a_label(result: WalkForward) -> None:
    """Halves; a day with an odd number of rows has the larger half below. The failed window counts as 0."""
    low, high = [], []
    for rows in by_day(result).values():
        labels = rows.sort_values("score")["label"].to_numpy()
        cut = -(-len(labels) // 2)
        low.append(labels[:cut].mean() / 2)
        high.append(labels[cut:].mean() / 2)
    figure = result.plot.quantiles(n=2)
    bars = [t for t in figure.data if t.type == "bar"]
    center = np.mean([rows["label"].mean() / 2 for rows in by_day(result).values()])
    assert list(bars[1].y) == pytest.approx([np.mean(low), np.mean(high)])
    assert list(bars[0].y) == pytest.approx([np.mean(low) - center, np.mean(high) - center])
    absolute = [t for t in figure.data if t.visible is False and t.name == "2, highest scores"]
    assert absolute[0].y[-1] == pytest.approx(np.sum(high))
    spread = [t for t in figure.data if str(t.name).startswith("2 − 1")]
    assert [t.y[-1] for t in spread] == pytest.approx([np.sum(high) - np.sum(low)] * 2)
    shown = [list(button.args[0]["visible"]) for button in figure.layout.updatemenus[0].buttons]
    assert [sum(s) for s in shown] == [len(figure.data) / 2] * 2
    assert not any(a and b for a, b in zip(*shown, strict=True))


def test_without_the_days_of_a_label_returns_are_not_summed(result: WalkForward) -> None:
    scores, label = result.collected.prediction, result.collected.label
    figure = plot.quantiles(scores, label, n=2)
    assert {t.type for t in figure.data} == {"bar"}
    known = plot.quantiles(scores, label, n=2, label_days=2)
    assert known.data[0].y == pytest.approx(np.asarray(figure.data[0].y) / 2)
    assert known.data[3].y == pytest.approx(result.plot.quantiles(n=2).data[3].y)


def test_figures_and_page_are_the_same(result: WalkForward) -> None:
    """The traces of the page are those of the figures, rounded to five places."""
    page = figures(result.summary).figures
    drawn: dict[str, list[Any]] = {
        "histogram": [result.plot.ic_histogram()],
        "decay": [result.plot.ic_decay()],
        "autocorrelation": [result.plot.autocorrelation()],
        "turnover": [result.plot.turnover()],
        "quantiles": [result.plot.quantiles()],
    }
    for name, (figure,) in drawn.items():
        assert len(page[name]["data"]) == len(figure.data)
        for trace, found in zip(page[name]["data"], figure.data, strict=True):
            expected = [NAN if v is None else v for v in trace["y"]]
            assert np.asarray(found.y, np.float64) == pytest.approx(expected, abs=6e-6, nan_ok=True)


def test_a_result_its_experiment_and_its_tables_give_the_same_figures(result: WalkForward) -> None:
    """The figures are the same in any order of rows; a table of one column does too."""
    scores, label = result.collected.prediction, result.collected.label
    assert scores is not None
    assert label is not None
    with using(result.session):
        named: Callable[..., Any] = plot.ic_decay
        expected = named(result.plot.collected).to_dict()["data"]
        assert named("sales").to_dict()["data"] == expected
    given = named(scores.sample(frac=1, random_state=0), label.iloc[::-1, 0], label_days=2)
    lags = ic_decay(scores, label, (0, 1, 2, 5, 10, 20))["IC"]  # without the calendar, the failed window is no gap
    assert series_of(given, "IC") == pytest.approx(lags.tolist())
    named_so = scores.set_axis(["collected"], axis=1)
    assert plot.ic(named_so, label).data[0].y == plot.ic(result).data[0].y
    for figure in (plot.ic, plot.turnover):
        with pytest.raises(ConfigError, match="rolling: must be a whole number of days, at least 1; found 0"):
            figure(result, rolling=0)
    with pytest.raises(ConfigError, match=r"label_days: must be a whole number of days, at least 1; found 1\.5"):
        plot.ic_decay(scores, label, label_days=1.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="label: is used with tables of predictions"):
        plot.ic(result, label)
    with pytest.raises(DataNotFound, match="pass them as the second argument"):
        plot.ic(scores)


def test_each_model_is_drawn_with_its_own_label(result: WalkForward) -> None:
    one = result.collected
    assert one.prediction is not None
    other = ModelResult("other", one.prediction * -1, one.label, Label("minus", 3))
    several = replace(one, models=(*one.models, other))
    assert series_of(plot.ic_decay(several, model="other"), "IC") == pytest.approx(
        [-v for v in series_of(plot.ic_decay(several), "IC")]
    )
    assert "minus, over 3 trading days" in plot.ic(several, model="other").layout.title.text
    with pytest.raises(
        ConfigError, match=r"model: there is no model 'othr'\. Did you mean 'other'\? Known: '', 'other'"
    ):
        plot.ic(several, model="othr")


def test_groups_have_the_names_of_the_table(result: WalkForward, tmp_path: Path) -> None:
    """A group is given by entity, or by row of the prediction; both are those of the user's table."""
    kinds = {"30": "big", "4": "small", "x": "big", "7": "small", "5": "big", "6": "small"}
    figure = plot.ic_by_group(result, groups=pd.Series(kinds))
    both = pd.DataFrame({"score": result.prediction, "label": result.label}).dropna()
    both["kind"] = both.index.get_level_values("store").map(kinds)
    expected = []
    for _, rows in both.groupby("kind"):
        daily = [d for _, d in rows.groupby(level="day") if len(d) > 1]
        expected.append(np.mean([scipy.stats.pearsonr(d["score"], d["label"]).statistic for d in daily]))
    assert list(figure.data[0].y) == ["big", "small"]
    assert list(figure.data[0].x) == pytest.approx(expected)
    page = result.report(tmp_path / "report.html", groups=pd.Series(kinds, name="kind")).read_text(encoding="utf-8")
    section = page.partition('id="groups"')[2]
    assert "within each group by kind" in section
    assert [f'class="figure">{v:.4f}<'.replace("-", "−") in section for v in expected] == [True, True]
    rows = both["kind"].sample(frac=1, random_state=0)
    assert list(result.plot.ic_by_group(groups=rows).data[0].x) == pytest.approx(expected)
    with pytest.raises(DataNotFound, match="This result has no groups: pass groups="):
        result.plot.ic_by_group()
    with pytest.raises(DataError, match="groups has two rows for 'x'"):
        result.plot.ic_by_group(groups=pd.Series(["a", "b"], ["x", "x"]))
    with pytest.raises(DataNotFound, match="No instrument of the prediction has a group"):
        result.plot.ic_by_group(groups=pd.Series({"unknown": "a"}))


def test_windows_show_their_days_status_and_ic(result: WalkForward) -> None:
    figure = result.plot.windows()
    (test,) = [t for t in figure.data if t.name == "test"]
    first = result.windows.iloc[0]
    assert test.base[0] == str(first["test_start"].date())
    assert test.x[0] == ((first["test_end"] - first["test_start"]).days + 1) * 86_400_000
    assert len(set(test.marker.color)) == 2
    assert "failed" in test.customdata[0]
    assert "IC" not in test.customdata[0]
    assert f"done · IC {result.windows['ic'].iloc[1]:.4f}" in test.customdata[1]


def backtested() -> tuple[pd.DataFrame, dict[pd.Timestamp, Position]]:
    """A backtest across the end of a year, and positions at the end of each day."""
    days = pd.bdate_range("2019-12-30", periods=4)
    report = pd.DataFrame(
        {
            "return": [-0.10, 0.20, 0.05, -0.02], "cost": [0.01, 0.0, 0.01, 0.0], "bench": [0.01, 0.01, -0.02, 0.0],
            "turnover": [0.5, 0.0, 0.2, 0.0],
        },
        days,
    )  # fmt: skip
    held = {"A": {"amount": 3, "price": 10.0}, "B": {"amount": 1, "price": 20.0}}
    return report, {day: Position(50.0, held if i else {}) for i, day in enumerate(days)}


def test_a_backtest_is_drawn_before_and_after_costs() -> None:
    report, positions = backtested()
    figure = plot.equity(report.iloc[::-1])
    assert series_of(figure, "strategy, before costs") == pytest.approx([-0.10, 0.10, 0.15, 0.13])
    assert series_of(figure, "strategy, after costs") == pytest.approx([-0.11, 0.09, 0.13, 0.11])
    assert series_of(figure, "benchmark") == pytest.approx([0.01, 0.02, 0.0, 0.0])
    assert series_of(figure, "excess, after costs") == pytest.approx([-0.12, 0.07, 0.13, 0.11])
    compounded = series_of(plot.equity(report, mode="product"), "strategy, after costs")
    assert compounded == pytest.approx((np.cumprod([0.89, 1.2, 1.04, 0.98]) - 1).tolist())
    down = plot.drawdown(report)
    assert series_of(down, "drawdown, after costs") == pytest.approx([-0.11, 0, 0, -0.02])
    assert series_of(down, "drawdown of the excess, after costs") == pytest.approx([-0.12, 0, 0, -0.02])
    for none in (0.0, NAN):
        assert {t.name for t in plot.equity(report.assign(bench=none)).data} == {
            "strategy, before costs", "strategy, after costs",
        }  # fmt: skip

    months = plot.monthly(report).data[0]
    assert list(months.y) == ["2019", "2020"]
    assert months.z[0][11:] == pytest.approx([0.09, 0.09])
    assert months.z[1][0] == pytest.approx(0.02)
    assert months.z[1][1] is None or np.isnan(months.z[1][1])
    assert plot.monthly(report, excess=True).data[0].z[0][12] == pytest.approx(0.07)

    shown = plot.exposure(report, positions)
    assert series_of(shown, "gross exposure") == pytest.approx([0, 0.5, 0.5, 0.5])
    assert series_of(shown, "net exposure") == pytest.approx([0, 0.5, 0.5, 0.5])
    assert series_of(shown, "positions", "y2") == [0, 2, 2, 2]
    assert series_of(shown, "turnover of a day", "y3") == [0.5, 0.0, 0.2, 0.0]


def test_what_cannot_be_drawn_is_an_error(result: WalkForward) -> None:
    report, _ = backtested()
    single = result.collected.prediction.xs("x", level=1, drop_level=False)  # type: ignore[union-attr]
    label = result.collected.label
    for figure, message in (
        (lambda: result.plot.equity(), "This result has no backtest. A PortAnaRecord among the records"),
        (lambda: plot.equity([0.1]), "the name of an experiment, or a daily report .* found a list"),
        (lambda: plot.exposure(report), "needs the positions of the backtest"),
        (lambda: plot.equity(report * NAN), "The backtest has no returns"),
        (lambda: plot.ic(single, label), "There is no IC: on no day"),
        (lambda: plot.ic_decay(single, label), "There is no IC: on no day"),
        (lambda: plot.performance(single, label), "There is no IC: on no day"),
        (lambda: plot.autocorrelation(single), "There is no autocorrelation: on no two days"),
        (lambda: plot.monthly(report.assign(bench=NAN), excess=True), "no benchmark, so there is no excess"),
        (lambda: plot.quantiles(single, label), "No day has 5 quantiles"),
        (lambda: plot.turnover(single), "There is no turnover: no two days, 1 apart, have 5 quantiles"),
        (lambda: plot.windows(report), "Windows are those of a result or an experiment; found a DataFrame"),
    ):
        with pytest.raises((DataError, TrainingFailed), match=message):
            figure()  # type: ignore[no-untyped-call]
    empty = replace(result.collected, prediction=None)
    with pytest.raises(DataNotFound, match="No window is done"):
        plot.ic(empty)


def test_type_checkers_know_what_the_methods_of_a_result_return() -> None:
    """Each figure of a result is annotated as Plotly's."""
    methods = {name: one for name, one in vars(ResultPlots).items() if name in plot.__all__}
    assert len(methods) == len(plot.__all__) - 2  # besides the class itself, and what compares several results
    for name, method in methods.items():
        expected = "list[go.Figure]" if name == "performance" else "go.Figure"
        assert method.__annotations__["return"] == expected, name


# -- several models and results ----------------------------------------------------------------------------------------


def scored(noise: float, seed: int, days: pd.DatetimeIndex = DAYS[:6]) -> pd.Series:
    index = pd.MultiIndex.from_product([days, list("ABCDE")], names=["datetime", "instrument"])
    random = np.random.default_rng(seed)
    return pd.Series(np.tile(np.arange(5.0), len(days)) + noise * random.normal(size=len(index)), index)


LABEL = pd.Series(scored(0.0, 0).to_numpy() ** 2, scored(0.0, 0).index)


def daily_ics(scores: pd.Series) -> list[float]:
    both = pd.DataFrame({"score": scores, "label": LABEL}).dropna()
    return [np.corrcoef(rows["score"], rows["label"])[0, 1] for _, rows in both.groupby(level=0)]


def with_models(result: WalkForward, **scores: pd.Series) -> Any:
    """Return a result with these models and one label; the joined prediction is the first model's."""
    made = tuple(
        ModelResult(name, one.to_frame("score"), LABEL.to_frame("label"), Label("Ref($close, -1)", 1))
        for name, one in scores.items()
    )
    first = made[0].prediction
    return replace(result.collected, models=made, prediction=first, label=LABEL.to_frame("label"))


def test_cumulative_draws_each_model_and_the_joined_prediction(result: WalkForward) -> None:
    """The last value of each line is the sum of the daily ICs, by hand."""
    collected = with_models(result, ridge=scored(1.0, 1), trees=scored(3.0, 2))
    figure = plot.cumulative(collected)
    assert [trace.name for trace in figure.data] == ["ridge", "trees", "joined"]
    assert series_of(figure, "ridge") == pytest.approx(np.cumsum(daily_ics(scored(1.0, 1))).tolist())
    assert series_of(figure, "trees") == pytest.approx(np.cumsum(daily_ics(scored(3.0, 2))).tolist())
    assert series_of(figure, "joined") == series_of(figure, "ridge")
    ranks = [scipy.stats.spearmanr(rows, LABEL[rows.index]).statistic for _, rows in scored(3.0, 2).groupby(level=0)]
    assert series_of(plot.cumulative(collected, rank=True), "trees") == pytest.approx(np.cumsum(ranks).tolist())


def test_cumulative_of_one_model_and_of_tables(result: WalkForward) -> None:
    """The line of a single model is that of plot.ic; a table needs its label."""
    assert series_of(result.plot.cumulative(), "IC") == pytest.approx(series_of(result.plot.ic(), "IC", "y3"))
    drawn = plot.cumulative(scored(1.0, 1), LABEL)
    assert series_of(drawn, "IC") == pytest.approx(np.cumsum(daily_ics(scored(1.0, 1))).tolist())
    with pytest.raises(DataNotFound, match="second argument"):
        plot.cumulative(scored(1.0, 1))


def test_compare_draws_the_days_that_all_results_have(result: WalkForward) -> None:
    """A result that begins later, or has a day on which all scores are equal, shortens the lines of the others."""
    short = scored(3.0, 2, DAYS[2:6])
    short[DAYS[4]] = 1.0
    figure = plot.compare({"ridge": scored(1.0, 1), "late": short}, LABEL)
    expected = [ic for day, ic in zip(DAYS[:6], daily_ics(scored(1.0, 1)), strict=True) if day in DAYS[[2, 3, 5]]]
    assert series_of(figure, "ridge") == pytest.approx(np.cumsum(expected).tolist())
    assert list(figure.data[0].x) == [f"{day:%Y-%m-%d}" for day in DAYS[[2, 3, 5]]]
    own = plot.compare({"a": result, "b": result.collected})
    assert series_of(own, "a") == series_of(own, "b") == pytest.approx(series_of(result.plot.cumulative(), "IC"))
    with pytest.raises(DataNotFound, match="no day on which all results"):
        plot.compare({"a": scored(1.0, 1, DAYS[:3]), "b": scored(1.0, 1, DAYS[3:6])}, LABEL)
    with pytest.raises(ConfigError, match="at least two"):
        plot.compare({"a": result})
    with pytest.raises(ConfigError, match="at least two"):
        plot.compare("sales")


def test_heatmap_has_a_cell_for_each_window(result: WalkForward) -> None:
    """The failed window is blank; the others have the metric of the report's table."""
    figure = result.plot.heatmap("Rank IC")
    (cells,) = figure.data
    assert list(cells.x) == ["window 1", "window 2", "window 3"]
    assert cells.z[0][0] is None
    expected = [row.metrics["Rank IC"] for row in result.summary.tasks[1:]]
    assert list(cells.z[0][1:]) == pytest.approx(expected)
    with pytest.raises(ConfigError, match=r"no window has the metric 'RankIC'\. Did you mean 'Rank IC'"):
        result.plot.heatmap("RankIC")
    with pytest.raises(DataError, match="Windows are those of a result"):
        plot.heatmap(scored(1.0, 1))
