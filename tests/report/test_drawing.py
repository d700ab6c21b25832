"""Plots one below the other, days as text, and breaks in lines."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.generate.timeline import SegmentSpan, Window
from rollforge.report.drawing import day_texts, line, stacked, with_gaps
from rollforge.report.inputs import TaskRow
from rollforge.report.plotly_figure import to_plotly
from rollforge.report.timeline import timeline, window_bars


def part(name: str, *, axes: int = 1, **layout: Any) -> dict[str, Any]:
    """Return a plot with one line on each of its y axes, the first of which is at the top."""
    data = [
        line(["2020-01-01"], [i], f"{name}{i}", "@blue", **({"yaxis": f"y{i}"} if i > 1 else {}))
        for i in range(1, axes + 1)
    ]
    domains = {f"yaxis{i if i > 1 else ''}": {"domain": [1 - i / axes, 1 - (i - 1) / axes]} for i in range(1, axes + 1)}
    return {"data": data, "layout": {"height": 100, "xaxis": {"type": "date"}, **domains, **layout}}


def test_parts_have_their_own_axes_in_their_own_place() -> None:
    """From the top down, with gaps between the parts; the days of all parts are the same."""
    shape = {"type": "line", "x0": "2020-01-01", "x1": "2020-01-01", "y0": 0, "y1": 1, "yref": "paper"}
    mark = {"text": "1", "x": "2020-01-01", "y": 2}
    found = stacked(
        [part("a", axes=2, shapes=[shape]), part("b"), part("c", shapes=[shape], annotations=[mark])],
        [200, 100, 100], gap=50,
    )  # fmt: skip
    layout = found["layout"]
    assert layout["height"] == 500
    assert [(t["name"], t["xaxis"], t["yaxis"]) for t in found["data"]] == [
        ("a1", "x", "y"), ("a2", "x", "y2"), ("b1", "x2", "y3"), ("c1", "x3", "y4"),
    ]  # fmt: skip
    expected = {"yaxis": (0.8, 1.0), "yaxis2": (0.6, 0.8), "yaxis3": (0.3, 0.5), "yaxis4": (0.0, 0.2)}
    assert {name: tuple(layout[name]["domain"]) for name in expected} == {
        name: pytest.approx(domain) for name, domain in expected.items()
    }
    assert [layout[name]["anchor"] for name in ("xaxis", "xaxis2", "xaxis3")] == ["y2", "y3", "y4"]
    assert [layout[name]["anchor"] for name in ("yaxis", "yaxis2", "yaxis3", "yaxis4")] == ["x", "x", "x2", "x3"]
    assert [layout[name].get("matches") for name in ("xaxis", "xaxis2", "xaxis3")] == [None, "x", "x"]
    first, last = layout["shapes"]
    assert (first["xref"], first["y0"], first["y1"]) == ("x", pytest.approx(0.6), pytest.approx(1.0))
    assert (last["xref"], last["y0"], last["y1"]) == ("x3", pytest.approx(0.0), pytest.approx(0.2))
    (moved,) = layout["annotations"]
    assert (moved["xref"], moved["yref"], moved["y"]) == ("x3", "y4", 2)
    assert to_plotly(found, "title").layout.yaxis4.anchor == "x3"


def test_axes_that_match_another_still_do() -> None:
    lower = part("b", axes=2)
    lower["layout"]["yaxis2"]["matches"] = "y"
    found = stacked([part("a", xaxis={"type": "category"}), lower], [100, 100])
    assert found["layout"]["yaxis3"]["matches"] == "y2"
    assert "matches" not in found["layout"]["xaxis2"]


def test_days_have_a_time_only_if_there_are_times() -> None:
    assert day_texts(pd.DatetimeIndex(["2020-01-02", "2020-01-03"])) == ["2020-01-02", "2020-01-03"]
    moments = pd.DatetimeIndex(["2020-01-02", "2020-01-02 09:30"])
    assert day_texts(moments) == ["2020-01-02 00:00", "2020-01-02 09:30"]


def test_a_line_breaks_in_a_long_gap() -> None:
    """After a gap of 15 days it goes on, after one of 16 it does not; months are no gaps, except if one is left out."""
    days = pd.date_range("2019-12-20", "2020-01-01").union(pd.DatetimeIndex(["2020-01-16", "2020-02-01"]))
    assert with_gaps(days).difference(days).tolist() == [pd.Timestamp("2020-01-17")]
    months = pd.date_range("2020-01-01", periods=12, freq="MS")
    assert with_gaps(months).equals(months)
    assert with_gaps(months.delete([5, 6, 7])).difference(months).tolist() == [pd.Timestamp("2020-05-02")]


def test_windows_of_several_models_have_rows_of_their_own() -> None:
    """There is a bar for each interval of a segment; the colour of a test segment shows the status."""

    def span(*days: str) -> SegmentSpan:
        parts = tuple((np.datetime64(a), np.datetime64(b)) for a, b in zip(days[::2], days[1::2], strict=True))
        return SegmentSpan(parts[0][0], parts[-1][1], 5, parts if len(parts) > 1 else ())

    test = span("2020-02-03", "2020-02-07", "2020-03-02", "2020-03-02")
    window = Window(0, {"train": span("2020-01-01", "2020-01-31"), "test": test})
    tasks = [
        TaskRow(window, status, {"IC": 0.5}, model=model)
        for model, status in (("a", "done"), ("b", "failed"), ("c", "waiting"))
    ]
    found = window_bars(tasks)
    train, tested = found["data"]
    assert train["y"] == ["1 a", "1 b", "1 c"]
    assert tested["y"] == ["1 a", "1 a", "1 b", "1 b", "1 c", "1 c"]
    assert tested["base"] == ["2020-02-03", "2020-03-02"] * 3
    assert tested["x"] == [5 * 86_400_000, 86_400_000] * 3
    assert tested["marker"]["color"] == ["@test"] * 2 + ["@red"] * 2 + ["@line"] * 2
    assert set(train["marker"]["color"]) == {"@train"}
    assert tested["customdata"][0].endswith("5 trading days · done · IC 0.5000")
    assert found["layout"]["yaxis"]["categoryarray"] == ["1 c", "1 b", "1 a"]
    assert len(to_plotly(found, "Windows").data) == 2


def test_models_with_the_same_segments_share_the_rows_of_the_timeline() -> None:
    """A model that is trained on other days has rows of its own. A box says which of its models have failed."""

    def window(i: int, train: str) -> Window:
        first = np.datetime64("2020-03-02") + np.timedelta64(7 * i, "D")
        spans = {"train": SegmentSpan(np.datetime64(train), np.datetime64("2020-02-28"), 20)}
        return Window(i, {**spans, "test": SegmentSpan(first, first + np.timedelta64(4, "D"), 5)})

    tasks = [TaskRow(window(i, "2020-01-01"), "done", model=model) for model in ("a", "b") for i in (0, 1)]
    tasks[3] = TaskRow(window(1, "2020-01-01"), "failed", model="b")
    alone = TaskRow(window(0, "2020-02-03"), "waiting", model="c")
    page = str(timeline([*tasks, alone]))
    rows = page.split('class="row"')[1:]
    assert len(rows) == 3
    assert re.findall(r'class="name">([^<]*)<', page) == ["a, b", "c"]
    assert "window 1, test: 2020-03-02 to 2020-03-06 · 5 trading days · done" in rows[0]
    assert "5 trading days · a done; b failed" in rows[1]
    assert "box test failed" in rows[1]
    assert "c, window 1, test: 2020-03-02 to 2020-03-06 · 5 trading days · waiting" in rows[2]
    assert 'class="name"' not in str(timeline(tasks))
