"""The report: correct numbers, a single self-contained file, safe with any text, readable in every state."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import rollforge.report
from rollforge.generate.timeline import SegmentSpan, Window
from rollforge.record.analysis import calc_ic
from rollforge.report.headline import headline_figures
from rollforge.report.html import write_report
from rollforge.report.inputs import ReportInputs, TaskRow
from rollforge.report.summary import Summary, summarise
from rollforge.report.terminal import headline_table, windows_table

REPORT = Path(rollforge.report.__file__).parent


def span(start: str, end: str, days: int) -> SegmentSpan:
    return SegmentSpan(np.datetime64(start), np.datetime64(end), days)


def task(i: int, status: str = "done", **more: object) -> TaskRow:
    month = f"2020-{i + 1:02d}"
    segments = {"train": span("2019-01-01", "2019-12-30", 260), "test": span(f"{month}-01", f"{month}-28", 20)}
    metrics = {"IC": 0.05 - 0.03 * i, "Rank IC": 0.04, "fit_seconds": 1.5, "task_seconds": 2.0}
    return TaskRow(Window(i, segments), status, metrics if status == "done" else {}, **more)  # type: ignore[arg-type]


def inputs(**changes: object) -> ReportInputs:
    random = np.random.default_rng(0)
    index = pd.MultiIndex.from_product(
        [pd.bdate_range("2020-01-01", "2020-03-28"), [f"I{i}" for i in range(30)]], names=["datetime", "instrument"]
    )
    pred = pd.DataFrame({"score": random.standard_normal(len(index))}, index)
    label = pd.DataFrame({"LABEL0": 0.1 * pred["score"] + random.standard_normal(len(index))}, index)
    given = {
        "title": "mine",
        "tasks": [task(0), task(1), task(2)],
        "prediction": pred,
        "label": label,
        "config": "a: 1",
        "label_text": "Ref($close, -2)/Ref($close, -1) - 1",
        "label_days": 1,
    }
    return ReportInputs(**{**given, **changes})  # type: ignore[arg-type]


def test_the_headline_is_computed_from_the_prediction() -> None:
    """IC and Rank IC are those of the analysis; times are sums over the tasks."""
    given = inputs()
    assert given.prediction is not None
    assert given.label is not None
    summary = summarise(given)
    ic, ric = calc_ic(given.prediction["score"], given.label["LABEL0"])
    assert summary.headline.ic == pytest.approx(ic.mean())
    assert summary.headline.rank_ic == pytest.approx(ric.mean())
    assert summary.headline.ic_t == pytest.approx(ic.mean() / ic.std() * len(ic) ** 0.5)
    said = {f.name: f.text for f in headline_figures(summary.headline)}
    assert said["IC"] == f"{ic.mean():.4f}"
    assert said["windows"] == "3 of 3 done"
    assert said["task time"] == "6.0 s, of which model fitting 4.5 s (75%)"


def page(tmp_path: Path, summary: Summary) -> str:
    return write_report(summary, tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_page_is_self_contained(tmp_path: Path) -> None:
    """No element loads anything; windows, figures and configuration are included."""
    text = page(tmp_path, summarise(inputs()))
    outside = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)""", outside)
    assert "@import" not in outside
    assert "url(" not in outside
    for words in ("Windows", "IC by month", "Returns by quantile", "2020-03-01 – 2020-03-28", "a: 1"):
        assert words in outside
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]


def test_text_is_shown_not_run(tmp_path: Path) -> None:
    """Names, errors and configuration from any source are escaped, in the page and in its data."""
    bad = "</script><script>alert(1)</script>"
    failed = task(1, "failed", error=f"Traceback\nValueError: {bad}", attempt=3)
    text = page(tmp_path, summarise(inputs(title=bad, tasks=[task(0), failed], config=bad, notes=[bad])))
    assert "<script>alert(1)" not in text
    assert "ValueError: &lt;/script&gt;" in text
    assert "3 attempts" in text


@pytest.mark.parametrize(
    "changes",
    [
        {"label": None},
        {"prediction": None, "label": None},
        {"tasks": [task(0)]},
        {"tasks": [task(i, "failed", error="boom") for i in range(3)], "prediction": None, "label": None},
        {"tasks": []},
    ],
    ids=["no label", "no prediction", "one window", "all failed", "no task"],
)
def test_every_state_gives_a_page(changes: dict[str, object], tmp_path: Path) -> None:
    """Numbers that do not exist are left out."""
    text = page(tmp_path, summarise(inputs(**changes)))
    assert "Configuration" in text
    assert ">nan<" not in text


def test_the_terminal_shows_the_same_headline() -> None:
    """The terminal shows the headline of the report in 80 columns, without colour."""
    summary = summarise(inputs())
    console = Console(width=80, record=True, color_system=None)
    console.print(headline_table(summary))
    console.print(windows_table(summary))
    shown = console.export_text()
    for figure in headline_figures(summary.headline):
        assert figure.name in shown
        assert figure.text[:20] in shown
    assert "2020-03-01 … 2020-03-28" in shown


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser: apt-get install chromium")
def test_a_browser_draws_every_plot(tmp_path: Path) -> None:
    """Each plot's element contains a drawing after the scripts have run."""
    summary = summarise(inputs())
    file = write_report(summary, tmp_path / "report.html")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--dump-dom"]
    dom = subprocess.run([*command, file.as_uri()], capture_output=True, text=True, timeout=120, check=True).stdout
    assert dom.count('class="main-svg"') >= 6


def test_every_class_of_the_page_has_a_style(tmp_path: Path) -> None:
    """Every class of an element occurs in the style sheet or in the page's own script."""
    made = inputs(tasks=[task(0), task(1, "failed", error="ValueError: no"), task(2, "waiting")], notes=["a note"])
    text = page(tmp_path, summarise(made))
    body = re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    used = {name for names in re.findall(r'class="([^"]*)"', body) for name in names.split()}
    known = {name for file in REPORT.glob("page.*") for name in re.findall(r"[.\"']([a-z][\w-]*)", file.read_text())}
    assert {"facts", "failed"} <= used
    assert used - known <= {"done", "waiting"}  # statuses that contain arbitrary text
