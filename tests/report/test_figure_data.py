"""Data of figures as CSV, from Python and from the page, and reports as Markdown."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from tests.report.test_comparison import MODELS, model, scores, summary_of

from rollforge.markup import join, tag
from rollforge.report.figure_data import COLUMNS, figure_csv, write_figures
from rollforge.report.figures import figures
from rollforge.report.html import render, render_markdown
from rollforge.report.markdown import to_markdown

NAMES = [
    *MODELS,
    model('=SUM(A1),"x"', scores(0.5, 1.0, 0.5, 0.5)),
    model("#ic", scores(1.0, 1.0, 1.0, 1.0)),
    model("<b> & &lt;", scores(1.0, 1.0, 0.5, 1.0)),
]


def rows(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def test_the_data_of_a_figure_are_the_points_of_its_curves(tmp_path: Path) -> None:
    """Missing points are empty, names that a spreadsheet would compute are quoted, and intervals have both ends."""
    summary = summary_of(NAMES)
    files = {file.stem: rows(file.read_text(encoding="utf-8")) for file in write_figures(summary, tmp_path / "new")}
    assert set(files) == set(figures(summary).figures)
    head, *points = files["compared"]
    assert head == list(COLUMNS)
    late = [row for row in points if row[1] == "late"]
    assert late[0] == ["cumulative IC", "late", "", "2024-01-01", "", "", ""]
    assert late[1] == ["cumulative IC", "late", "", "2024-01-02", "1", "", ""]
    assert {row[1] for row in points} >= {'\'=SUM(A1),"x"', "#ic", "<b> & &lt;"}
    same = next(row for row in files["differences"] if row[4] == "same")
    assert same[3:] == ["0", "same", "0", "0"]
    assert {row[0] for row in files["daily"][1:]} == {"IC", "Rank IC"}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser: apt-get install chromium")
def test_the_button_of_a_figure_saves_the_same_data(tmp_path: Path) -> None:
    """In a browser, the button of each figure saves the same file as Python, without a connection."""
    shares = {"=high": 3.0, "@low": 1.0, "none": 0.0}
    tasks = [replace(task, importance=shares if i < 2 else {}) for i, task in enumerate(summary_of(NAMES).tasks)]
    summary = replace(summary_of(NAMES), tasks=tuple(tasks))
    click = """<script>
      const saved = {}, make = URL.createObjectURL;
      URL.createObjectURL = blob => { blob.text().then(text => { saved[clicked] = text; }); return make(blob); };
      let clicked = "";
      HTMLAnchorElement.prototype.click = function () { saved.names = (saved.names || "") + this.download + " "; };
      const wait = setInterval(async () => {
        if (document.documentElement.dataset.plots !== "drawn") return;
        clearInterval(wait);
        for (const button of document.querySelectorAll("button.csv")) {
          clicked = button.dataset.plot; button.click(); await new Promise(done => setTimeout(done, 50));
        }
        const out = document.createElement("textarea");
        out.id = "saved"; out.textContent = JSON.stringify(saved); document.body.append(out);
      }, 50);
    </script></body>"""
    file = tmp_path / "report.html"
    file.write_text(render(summary).replace("</body>", click), encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]
    dom = subprocess.run([*command, file.as_uri()], capture_output=True, text=True, timeout=180, check=True).stdout
    found = re.search(r'<textarea id="saved">(.*?)</textarea>', dom, re.DOTALL)
    assert found is not None
    saved = json.loads(html.unescape(found.group(1)))
    plots = figures(summary)
    assert "share,'=high,steady,1,0.75,,\nshare,'@low,steady,1,0.25,,\nshare,none,steady,1,0,,\n" in saved["importance"]
    assert saved.pop("names").split() == [f"{name}.csv" for name in saved]
    assert saved == {name: figure_csv(figure, plots.series) for name, figure in plots.figures.items()}


def test_markdown_shows_text_as_it_is_written() -> None:
    """Names cannot make a table, a link or markup, and name no person and no issue."""
    bad = "a|b <b>x</b> *y* [z](u) @someone #12"
    text = to_markdown(join(tag("h2", bad), tag("table", tag("tr", tag("th", "x")), tag("tr", tag("td", bad)))))
    assert text.splitlines()[-1] == "| a\\|b \\<b\\>x\\</b\\> \\*y\\* \\[z\\](u) @\u200bsomeone #\u200b12 |"


def test_long_tables_are_cut_in_markdown() -> None:
    """Of more than forty rows the first forty are shown, with the number of the others; an empty table is nothing."""
    table = tag("table", tag("tr", tag("th", "x")), *(tag("tr", tag("td", i)) for i in range(50)))
    lines = to_markdown(table).splitlines()
    assert lines[:3] == ["| x |", "|---|", "| 0 |"]
    assert lines[-3:] == ["| 39 |", "", "10 more rows are on the page."]
    assert to_markdown(tag("table")) == "\n"


def test_markdown_has_the_sections_of_the_page() -> None:
    """Headline, models and differences have the numbers of the page; folded parts and plots are left out."""
    text = render_markdown(summary_of(NAMES))
    assert "- IC: 0.2500 mean of 4 days, Pearson\n" in text
    assert "## Models" in text
    assert re.search(r"^\| late \| 3 \| \+0\.3333 \| ", text, re.MULTILINE)
    assert not {"Dates of every segment", "plotly", "JavaScript"} & set(text.split())
