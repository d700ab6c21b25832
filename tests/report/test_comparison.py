"""Comparison of models with their ensemble: differences on common days, their intervals, and how the page shows them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.errors import ConfigError
from rollforge.generate.timeline import SegmentSpan, Window
from rollforge.record.persistence import bootstrap_interval
from rollforge.report.compare import Compared, compare, compared, definition_differences, paired_difference
from rollforge.report.comparison_tables import results_table
from rollforge.report.figures import figures
from rollforge.report.html import render, render_comparison
from rollforge.report.inputs import ModelInputs, ReportInputs, TaskRow
from rollforge.report.signal_figures import window_ic
from rollforge.report.summary import Summary, summarise

RANKS = {1.0: (1, 2, 3), 0.5: (1, 3, 2), -0.5: (2, 3, 1), -1.0: (3, 2, 1)}
"""IC -> scores of three instruments whose labels are 1, 2 and 3."""


def days(number: int, first: int = 0) -> pd.DatetimeIndex:
    return pd.bdate_range("2024-01-01", periods=first + number)[first:]


def scores(*ics: float, first: int = 0) -> pd.DataFrame:
    """Return a prediction whose IC and Rank IC are those given, from the day with the number `first`."""
    index = pd.MultiIndex.from_product([days(len(ics), first), ["A", "B", "C"]], names=["datetime", "instrument"])
    return pd.DataFrame({"score": [float(rank) for ic in ics for rank in RANKS[ic]]}, index)


def labels(number: int, *, down: bool = False) -> pd.DataFrame:
    index = pd.MultiIndex.from_product([days(number), ["A", "B", "C"]], names=["datetime", "instrument"])
    return pd.DataFrame({"LABEL0": [3.0, 2.0, 1.0] * number if down else [1.0, 2.0, 3.0] * number}, index)


def summary_of(
    models: list[ModelInputs], ensemble: tuple[float, ...] = (1.0, 0.5, 0.5, -1.0), h: int | None = 1
) -> Summary:
    test = SegmentSpan(np.datetime64("2024-01-01"), np.datetime64("2024-01-04"), 4)
    tasks = [TaskRow(Window(0, {"test": test}), "done", model=model.name) for model in models]
    truth = labels(len(ensemble))
    return summarise(
        ReportInputs("mine", tasks, scores(*ensemble), truth, models=models, label_text="gain", label_days=h)
    )


def model(
    name: str, prediction: pd.DataFrame | None, label: pd.DataFrame | None = None, h: int | None = 1, text: str = "gain"
) -> ModelInputs:
    return ModelInputs(name, prediction, labels(4) if label is None else label, text, h)


MODELS = [
    model("steady", scores(0.5, 0.5, 0.5, 0.5)),
    model("late", scores(1.0, 1.0, -1.0, first=1)),  # its first window failed
    model("same", scores(1.0, 0.5, 0.5, -1.0)),
    model("failed", None),
]


def test_differences_are_those_of_common_days() -> None:
    """The differences of steady are -0.5, 0, 0 and 1.5; late, whose first window failed, has three common days."""
    found = summary_of(MODELS).comparison
    assert found is not None
    ic = found.differences.xs("IC", level="figure")
    assert ic["days"].to_dict() == {"steady": 4, "late": 3, "same": 4}
    assert ic["difference"].tolist() == pytest.approx([0.25, 1 / 3, 0.0])
    assert ic["t"].tolist() == pytest.approx([0.25 / np.sqrt(0.75 / 4), 2.0, np.nan], nan_ok=True)
    assert ic.loc["same", ["low", "high"]].tolist() == [0.0, 0.0]
    assert found.differences.xs("Rank IC", level="figure")["difference"].tolist() == pytest.approx([0.25, 1 / 3, 0.0])
    assert found.figures["IC"].tolist() == pytest.approx([0.25, 0.5, 1 / 3, 0.25, np.nan], nan_ok=True)
    assert found.figures["days"].tolist() == [4, 4, 3, 4, 0]


def test_intervals_respect_the_overlap_of_labels() -> None:
    """With labels over two days, t has the autocovariances -0.0625 and -0.125 of the differences; over four days, no
    interval of four differences is known, and none without the days of the label."""
    two = summary_of([model("steady", scores(0.5, 0.5, 0.5, 0.5), h=2), MODELS[1]], h=2).comparison
    assert two is not None
    variance = 2.25 + 2 * (2 / 3 * -0.0625 + 1 / 3 * -0.125)
    assert two.differences.loc[("steady", "IC"), "t"] == pytest.approx(0.25 * 4 / np.sqrt(variance))
    for h in (4, None):
        found = summary_of([model("steady", scores(0.5, 0.5, 0.5, 0.5), h=h), MODELS[1]], h=h).comparison
        assert found is not None
        row = found.differences.loc[("steady", "IC")]
        assert row["difference"] == pytest.approx(0.25)
        assert row[["low", "high", "t"]].isna().all()


def test_the_interval_is_that_of_the_differences() -> None:
    """The interval is the block bootstrap of the daily differences, in blocks of at least the days of the label."""
    random = np.random.default_rng(1)
    left, right = (pd.Series(random.normal(size=60), days(60)) for _ in range(2))
    right = right.drop(days(60)[7])
    found = paired_difference(left, right, 10, scale=2.0)
    gaps = pd.Series([a - b for day, a in left.items() if (b := right.get(day)) is not None])
    assert found.days == 59
    assert found[1:4] == pytest.approx([2 * gaps.mean(), *(2 * end for end in bootstrap_interval(gaps, 10))])
    assert found[2:4] != pytest.approx([2 * end for end in bootstrap_interval(gaps, 1)])


def test_another_label_is_replaced_by_that_of_the_ensemble() -> None:
    """A model of another horizon keeps its own label in the figures; its difference is measured with the ensemble's."""
    other = model("month", scores(0.5, 0.5, 0.5, 0.5), labels(4, down=True), 20, "loss")
    found = summary_of([other, MODELS[0]]).comparison
    assert found is not None
    assert found.figures.loc["month", "IC"] == pytest.approx(-0.5)
    assert found.differences.loc[("month", "IC"), "difference"] == pytest.approx(0.25)


def test_the_page_compares_models_with_their_ensemble() -> None:
    """The section shows all models, the differences with days, and the curves; a model without results has a row."""
    summary = summary_of(MODELS)
    page = render(summary)
    section = page[page.index('id="models"') :].split("</section>")[0]
    rows = {row.split("</th>")[0].rpartition(">")[2]: row for row in section.split("<tr>") if "</th>" in row}
    assert "no days" in section
    assert all(text in rows["late"] for text in (">3<", "+0.3333"))
    drawn = figures(summary).figures
    assert drawn["differences"]["data"][0]["x"] == pytest.approx([0.25, 0.33333, 0.0])
    curves = {trace["name"]: trace["y"] for trace in drawn["compared"]["data"]}
    assert curves["steady"] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert curves["late"] == [None, 1.0, 2.0, 1.0]
    assert curves["ensemble"] == pytest.approx([1.0, 1.5, 2.0, 1.0])


@pytest.mark.parametrize("flat", [True, False], ids=["equal scores", "one instrument"])
def test_results_without_an_ic_have_no_differences(flat: bool) -> None:
    """Constant scores and single instruments have no IC: the table says so, and nothing is drawn."""
    prediction = scores(1.0, 1.0, 1.0, 1.0)
    prediction = prediction * 0 if flat else prediction[::3]
    found = summarise(
        ReportInputs(
            "mine", [], prediction, labels(4), models=[model("a", prediction), model("b", prediction)], label_text="gain",
            label_days=1,
        )
    )  # fmt: skip
    assert found.comparison is not None
    assert found.comparison.differences.empty
    assert "compared" not in figures(found).figures
    assert render(found).count("no days") == 3


def test_many_models_are_drawn_in_grey() -> None:
    """More models than colours are grey lines without a legend, and with very many the differences are a table only."""
    many = [model(f"model {i}", scores(0.5, 0.5, 1.0, 0.5)) for i in range(45)]
    drawn = figures(summary_of(many)).figures
    assert "differences" not in drawn
    assert {trace["line"]["color"] for trace in drawn["compared"]["data"]} == {"@bar", "@blue"}
    assert "differences" in figures(summary_of(many[:12])).figures


def test_names_are_text() -> None:
    """A name that looks like a colour, a list of days or markup is drawn as it is written."""
    names = ["@blue", "#ic", "<b>x</b>", "%{y}"]
    drawn = figures(summary_of([model(name, scores(0.5, 0.5, 0.5, 0.5)) for name in names])).figures
    written = [text.replace("\u200b", "") for text in drawn["differences"]["data"][0]["y"]]
    assert written == ["@blue", "#ic", "&lt;b>x&lt;/b>", "%{y}"]
    assert not {text[0] for text in drawn["differences"]["data"][0]["y"]} & {"@", "#"}


def test_experiments_with_different_labels_are_compared_by_returns_only() -> None:
    """Signals with different labels are not subtracted; returns after costs are, on common days, per year of 238."""
    returns = pd.Series([0.01, 0.02, 0.03, 0.02], days(4))
    one = compared(ReportInputs("one", [], scores(1.0, 0.5, 0.5, -1.0), labels(4), label_text="gain", label_days=1))
    plain = replace(one, net=returns)
    other = summarise(ReportInputs("x", [], scores(1.0, 0.5), labels(2), label_text="other", label_days=5)).quality
    found = compare([plain, Compared(name="two", quality=other, net=returns[1:] + 0.01)])
    assert found.differences.index.tolist() == [("two", "Net return")]
    assert found.differences.iloc[0][["days", "difference"]].tolist() == pytest.approx([3, 0.01 * 238])
    assert found.notes == (
        "The signals of two and one cannot be compared: the label of two is other (days of the label: 5), that of one gain "
        "(days of the label: 1).",
    )
    assert found.figures.loc["one", "Net return"] == pytest.approx(0.02 * 238)
    with pytest.raises(ConfigError, match="'one'"):
        compare([plain, plain])


def test_definitions_differ_in_values_that_are_listed() -> None:
    """Only the paths whose values differ are listed, also those that only one definition has."""
    task = {"model": {"class": "LGBModel", "kwargs": {"lr": 0.1}}, "record": [{"class": "SignalRecord"}]}
    other = {"model": {"class": "LGBModel", "kwargs": {"lr": 0.2, "seed": 1}}, "record": []}
    found = definition_differences({"a": task, "b": other})
    assert found["a"].to_dict() == {
        "model.kwargs.lr": "0.1",
        "record[0].class": "SignalRecord",
        "model.kwargs.seed": "",
        "record": "",
    }
    assert found["b"].to_dict() == {
        "model.kwargs.lr": "0.2",
        "record[0].class": "",
        "model.kwargs.seed": "1",
        "record": "[]",
    }
    assert definition_differences({"a": task, "b": task}).empty


def test_each_window_has_the_interval_of_its_own_days() -> None:
    """The interval of a window is that of the IC of its test days; a window that failed, has too few days, or logged
    another IC has none."""
    ics = (1.0, 0.5, -0.5, 0.5, 1.0, -1.0, 0.5, 0.5, 1.0)
    starts = (0, 4, 8)

    def task(i: int, metrics: dict[str, float], state: str = "done") -> TaskRow:
        dates = days(len(ics))[starts[i] : (*starts, len(ics))[i + 1]]
        span = SegmentSpan(dates[0].to_datetime64(), dates[-1].to_datetime64(), len(dates))
        return TaskRow(Window(i, {"test": span}), state, metrics)

    def found(*tasks: TaskRow) -> Summary:
        return summarise(ReportInputs("mine", tasks, scores(*ics), labels(len(ics)), label_text="gain", label_days=1))

    summary = found(task(0, {}), task(1, {}), task(2, {}))
    first, second, third = (t.metrics for t in summary.tasks)
    for metrics, values in ((first, ics[:4]), (second, ics[4:8])):
        low, high = bootstrap_interval(pd.Series(values), 1)
        assert (metrics["IC"], metrics["IC low"], metrics["IC high"]) == pytest.approx((np.mean(values), low, high))
    assert "IC low" not in third
    drawn = figures(summary).figures["window_ic"]["data"][0]
    assert drawn["y"] == pytest.approx([0.375, 0.25])
    assert drawn["error_y"]["array"] == pytest.approx([first["IC high"] - 0.375, second["IC high"] - 0.25], abs=1e-5)
    section = render(summary).split('id="windows"')[1].split("</section>")[0]
    assert f"{first['IC low']:.4f} to {first['IC high']:.4f}".replace("-", "−") in section
    other = found(task(0, {"IC": 0.3}), task(1, {}, "failed"), task(2, {}))
    assert not any("IC low" in t.metrics for t in other.tasks)
    assert "window_ic" not in figures(other).figures


def test_the_difference_of_returns_is_that_of_the_fifths() -> None:
    """Ten instruments, of which the two with the highest and the two with the lowest scores are the fifths: the annual
    difference and its interval follow from the daily ones, divided by the days of the label. A result without a backtest has no
    return after costs, on the page too."""
    random = np.random.default_rng(4)
    index = pd.MultiIndex.from_product([days(30), list("ABCDEFGHIJ")], names=["datetime", "instrument"])
    truth, one, other = (pd.DataFrame({"score": random.normal(size=300)}, index) for _ in range(3))
    given = [
        compared(ReportInputs(name, [], scores_of, truth, label_text="gain", label_days=2))
        for name, scores_of in (("one", one), ("other", other))
    ]
    given[1] = replace(given[1], net=pd.Series(0.01, days(30)))
    found = compare(given)

    def spread(scores_of: pd.DataFrame, day: pd.Timestamp) -> float:
        order = scores_of["score"].xs(day).sort_values().index
        gains = truth["score"].xs(day)
        return float(gains[order[-2:]].mean() - gains[order[:2]].mean())

    gaps = pd.Series([spread(other, day) - spread(one, day) for day in days(30)])
    ends = bootstrap_interval(gaps, 2)
    assert found.differences.loc[("other", "Return")].tolist()[:4] == pytest.approx(
        [30, *(126 * value for value in (gaps.mean(), *ends))]
    )
    assert ("other", "Net return") not in found.differences.index
    rows = render_comparison(found, {}).split("<tbody>")[1].split("</tr>")
    assert rows[0].count(">–<") == 4  # with the number of windows, which is not known
    assert ">238.0%<" in rows[1]


def test_windows_of_many_models_have_views() -> None:
    """Two models stand side by side. Of seven, for which there are not enough colours, all are drawn without intervals, and each
    can be chosen; of 100 windows, the means of five neighbouring ones are drawn, in the order of their test days. The numbers are
    those of the windows."""

    def figure(models: int, windows: int) -> dict[str, Any]:
        rows = []
        for m in range(models):
            for i in reversed(range(windows)):
                start = np.datetime64("2020-01-01") + np.timedelta64(7 * i, "D")
                metrics = {"IC": 0.01 * i + m, "IC low": 0.01 * i + m - 0.1, "IC high": 0.01 * i + m + 0.2}
                rows.append(
                    TaskRow(Window(i, {"test": SegmentSpan(start, start, 1)}), "done", metrics, model=f"model {m}")
                )
        found = window_ic(rows)
        assert found is not None
        return found

    two = figure(2, 5)
    assert "views" not in two
    assert two["layout"]["scattermode"] == "group"
    assert two["data"][1]["y"] == pytest.approx([1.04, 1.03, 1.02, 1.01, 1.0])
    assert two["data"][1]["error_y"]["array"] == pytest.approx([0.2] * 5)
    assert two["data"][1]["error_y"]["arrayminus"] == pytest.approx([0.1] * 5)
    seven = figure(7, 1)
    assert seven["views"] == ["all models", *(f"model {m}" for m in range(7))]
    assert [trace["y"] for trace in seven["data"][:7]] == [[float(m)] for m in range(7)]
    assert seven["data"][8]["error_y"]["array"] == pytest.approx([0.2])
    many = figure(2, 100)
    assert many["views"] == ["means of 5 windows", "model 0", "model 1"]
    first = many["data"][0]
    assert first["x"][:2] == ["2020-01-01", "2020-01-08"]
    assert first["y"][:4] == [None] * 4
    assert first["y"][4:] == pytest.approx([0.01 * (i - 2) for i in range(4, 100)])
    assert figure(20, 5)["views"] == ["all models"]


def test_labels_are_the_same_by_their_expression_or_their_values() -> None:
    """Spaces do not matter; the number of days does, also if the values are equal; other values under another name are another
    label. Unknown rows are taken to be the same if the expressions are."""

    def given(name: str, text: str, h: int = 1, *, down: bool = False) -> Compared:
        truth = labels(4, down=down)
        return compared(ReportInputs(name, [], scores(1.0, 0.5, 0.5, -1.0), truth, label_text=text, label_days=h), name)

    first = given("first", "a + b")
    cases = {
        "spaces": (given("spaces", "a +b", down=True), True),
        "words": (given("words", "gain"), True),
        "days": (given("days", "a + b", 2), False),
        "other": (given("other", "gain", down=True), False),
        "weeks": (replace(given("weeks", "a + b"), per_year=52.0), False),
        "unknown rows": (replace(given("unknown rows", "a+b", down=True), scores=None), True),
        "unknown rows, other": (replace(given("unknown rows, other", "gain"), scores=None), False),
    }
    for name, (other, alike) in cases.items():
        found = compare([first, other])
        assert (found.difference(name) is not None) == alike, name
        assert ("cannot be compared" in "".join(found.notes)) != alike, name
    apart = compare([first, cases["spaces"][0]])
    assert apart.difference("spaces") == (4, 0.0, 0.0, 0.0, pytest.approx(np.nan, nan_ok=True))
    assert "8 of the 12 labels of spaces differ" in apart.notes[0]


def test_what_all_results_have_in_common_is_below_their_table() -> None:
    """The same label and days are said once; those that differ are columns."""

    def result(name: str, text: str, number: int) -> Compared:
        ics = [1.0, 0.5] * number
        return compared(ReportInputs(name, [], scores(*ics), labels(len(ics)), label_text=text, label_days=1))

    def shown(*results: Compared) -> tuple[list[str], str]:
        page = str(results_table(compare(results)))
        heads = re.findall(r">([^<>]+)</(?:button|th)>", page.partition("</thead>")[0])
        return heads, " ".join(re.sub("<[^>]+>", " ", page).split())

    heads, text = shown(result("a", "gain", 1), result("b", "gain", 1))
    assert heads[-1] == "Sharpe"
    common = (
        "All results have the label gain, over 1 trading day and are evaluated on 2 days, 2024-01-01 to 2024-01-02."
    )
    assert text.endswith(common)
    heads, text = shown(result("a", "gain", 1), result("b", "gain", 2))
    assert heads[-1] == "evaluated on"
    assert "All results have the label gain, over 1 trading day." in text
    assert "4 days, 2024-01-01 to 2024-01-04" in text
    heads, text = shown(result("a", "gain", 1), result("b", "loss", 2))
    assert heads[-2:] == ["label", "evaluated on"]
    assert "All results" not in text
