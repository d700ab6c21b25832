"""Reports of all kinds in a real browser: readable with many windows, on a phone, in the dark, and in print."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rollforge.generate.timeline import SegmentSpan, Window
from rollforge.report.compare import compare, compared
from rollforge.report.files import write_text
from rollforge.report.html import render_comparison, write_report
from rollforge.report.inputs import ModelInputs, ReportInputs, TaskRow
from rollforge.report.summary import summarise

from .axe import NO_AXE, find_axe, violations
from .chromium import CONTRAST, MISSING, NAMELESS, Page, find_browser

pytest.importorskip("plotly", reason="pip install 'rollforge[report]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason=MISSING),
]

DAYS = pd.bdate_range("2016-01-04", periods=800)
MODELS = ("ridge", "lasso", "trees", "forest", "mean")


def segment(first: int, last: int) -> SegmentSpan:
    start, end = DAYS.to_numpy()[[first, last]].astype("M8[D]")
    return SegmentSpan(start, end, last - first + 1)


def windows(number: int, step: int, *, valid: bool = True) -> list[Window]:
    found = []
    for i in range(number):
        at = 200 + i * step
        segments = {"train": segment(at - 200, at - 41), "valid": segment(at - 40, at - 1)}
        if not valid:
            segments = {"train": segment(at - 200, at - 1)}
        found.append(Window(i, {**segments, "test": segment(at, min(at + step, len(DAYS)) - 1)}))
    return found


def frames(names: int = 8, *, constant: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return scores and labels of some instruments on the tested days."""
    index = pd.MultiIndex.from_product([DAYS[200:], [f"I{i}" for i in range(names)]], names=["datetime", "instrument"])
    random = np.random.default_rng(0)
    score = np.ones(len(index)) if constant else random.standard_normal(len(index))
    label = 0.02 * (0.2 * score + random.standard_normal(len(index)))
    return pd.DataFrame({"score": score}, index), pd.DataFrame({"LABEL0": label}, index)


def inputs(
    found: list[Window], *, models: tuple[str, ...] = (), names: int = 8, constant: bool = False
) -> ReportInputs:
    score, label = frames(names, constant=constant)
    rows = []
    for model in models or ("",):
        for window in found:
            failed = window.index == 1
            metrics = (
                {}
                if failed
                else {"IC": 0.02, "IC low": -0.01, "IC high": 0.05, "task_seconds": 2.0, "fit_seconds": 1.0}
            )
            importance = {} if failed else {"close": 3.0, "volume": 1.0}
            status, error = ("failed", "Traceback\nValueError: no rows") if failed else ("done", "")
            rows.append(TaskRow(window, status, metrics, error=error, model=model, importance=importance))
    made = ReportInputs("a report", rows, score, label, label_days=1, label_text="Ref($close, -2)/Ref($close, -1) - 1")
    each = [ModelInputs(m, score * (i + 1) + i * label.to_numpy(), label, label_days=1) for i, m in enumerate(models)]
    return replace(made, models=tuple(each))


REPORTS = {
    "200 windows of five models": inputs(windows(200, 3), models=MODELS),
    "without a valid segment": inputs(windows(6, 100, valid=False)),
    "constant scores": inputs(windows(6, 100), constant=True),
    "one instrument": inputs(windows(6, 100), names=1),
    "one window": inputs(windows(1, 600)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reports, each in a file of its name."""
    folder = tmp_path_factory.mktemp("reports")
    for name, given in REPORTS.items():
        write_report(summarise(given), folder / f"{name}.html")
    return folder


def opened(page: Page, folder: Path, name: str) -> Page:
    page.open((folder / f"{name}.html").as_uri())
    page.wait("document.documentElement.dataset.plots === 'drawn'")
    return page


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_is_readable(page: Page, folder: Path, name: str) -> None:
    """Nothing is reported in the console, texts have contrast in both schemes, and only tables are wider than a phone."""
    for scheme in ("light", "dark"):
        page.scheme(scheme)
        opened(page, folder, name)
        assert page.run(CONTRAST) == []
        assert page.run(NAMELESS) == []
    assert page.problems == []
    assert not page.run("/\\b(nan|NaN|undefined|Infinity)\\b/.test(document.querySelector('main').innerText)")
    page.size(390, 844)
    opened(page, folder, name)
    assert page.run("document.documentElement.scrollWidth") <= 390


@pytest.mark.skipif(find_axe() is None, reason=NO_AXE)
def test_axe_finds_nothing_serious(page: Page, folder: Path) -> None:
    """A report, and a comparison of two, have no violations that axe-core calls serious or critical."""
    both = [REPORTS[name] for name in ("without a valid segment", "one window")]
    results = [compared(one, name) for one, name in zip(both, "ab", strict=True)]
    text = render_comparison(compare(results), {"a": {"seed": 1}, "b": {"seed": 2}})
    write_text(text, folder / "comparison.html")
    for name in ("without a valid segment", "comparison"):
        opened(page, folder, name)
        assert violations(page) == [], name
    page.run("document.querySelector('main').insertAdjacentHTML('beforeend', '<input>')")
    assert violations(page) == ["label: <input>"]


def test_many_windows_take_little_room(page: Page, folder: Path) -> None:
    """Five models that have the same 200 windows share the rows; a window in which one has failed can be seen."""
    opened(page, folder, "200 windows of five models")
    assert page.run("document.querySelectorAll('.timeline .row').length") == 200
    assert page.run("document.querySelector('.timeline').offsetHeight") <= 900
    assert page.run("document.querySelectorAll('.timeline .row .failed').length") == 1
    assert page.run("Math.min(...[...document.querySelectorAll('.timeline .row')].map(one => one.offsetHeight))") >= 2


def test_print_has_everything_on_the_page(page: Page, folder: Path) -> None:
    """All rows of the table of windows are printed, not only those that a screen shows at once."""
    opened(page, folder, "200 windows of five models")
    many = len(re.findall(rb"/Type\s*/Page\b", page.print()))
    opened(page, folder, "one window")
    few = len(re.findall(rb"/Type\s*/Page\b", page.print()))
    assert 2 <= few <= 12
    assert many > few + 10  # a thousand rows


def test_intervals_of_windows_can_be_told_apart(page: Page, folder: Path) -> None:
    """Few windows of several models stand side by side; of many, there are rolling means and the windows of one model."""
    write_report(summarise(inputs(windows(6, 100), models=MODELS)), folder / "few.html")
    places = (
        "[...document.querySelectorAll('#plot-window_ic .points path.point')].map(one => one.getBoundingClientRect().x)"
    )
    opened(page, folder, "few")
    found = page.run(places)
    assert len(found) == 25  # the second window has failed
    assert len({round(x) for x in found}) == 25
    opened(page, folder, "200 windows of five models")
    assert page.run("document.querySelectorAll('#plot-window_ic .errorbar').length") == 0
    assert page.run("document.querySelectorAll('#plot-window_ic .scatterlayer .js-line').length") == 5
    page.run("document.querySelector('.switch[data-plot=window_ic] button:nth-child(4)').click()")
    page.wait("document.querySelectorAll('#plot-window_ic .errorbar').length === 199")
    assert page.run("document.querySelector('.switch[data-plot=window_ic] button:nth-child(4)').textContent") == "trees"


def test_long_names_leave_room_for_the_figures(page: Page, folder: Path) -> None:
    """Results with names of 200 characters, on a phone too: the axis has most of the width, and nothing else is wider."""
    given = [replace(REPORTS["one window"], title=letter * 200) for letter in "ab"]
    results = [compared(one) for one in given]
    write_text(render_comparison(compare(results), {}), folder / "long.html")
    for width in (1200, 390):
        page.size(width, 844)
        opened(page, folder, "long")
        axis = page.run("document.querySelector('#plot-differences .gridlayer').getBoundingClientRect().width")
        assert axis > 0.3 * width
        assert page.run("document.documentElement.scrollWidth") <= width
