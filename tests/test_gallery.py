"""The gallery: every script runs and shows what its page says."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import gallery

SCRIPTS = sorted(gallery.GALLERY.glob("*.py"))


def test_the_page_shows_every_script() -> None:
    """Each script has a small picture and a section that links to both."""
    page = (gallery.GALLERY / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\[(\w+)\.py\]\(\1\.py\)", page, re.MULTILINE)) == [script.stem for script in SCRIPTS]
    for script in SCRIPTS:
        picture = script.with_suffix(".png")
        assert f"]({picture.name})" in page
        assert 2_000 < picture.stat().st_size < 100_000


def drawn(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the figure of a script that runs in an empty folder."""
    pytest.importorskip("plotly", reason="figures: pip install 'rollforge[report]'")
    monkeypatch.setenv("ROLLFORGE_HOME", str(folder / "home"))
    return gallery.figure_of(gallery.GALLERY / f"{name}.py", folder)


def test_the_quantiles_are_in_the_order_of_the_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bars of the mean returns ascend from the lowest to the highest scores."""
    bars = [trace for trace in drawn("quantiles", tmp_path, monkeypatch).data if trace.type == "bar"]
    assert bars
    for bar in bars:
        assert [int(x) for x in bar.x] == [1, 2, 3, 4, 5]
        assert list(bar.y) == sorted(bar.y)


def test_the_score_knows_five_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The IC is large for lags 0 to 4, and near zero from lag 5 on."""
    ic = drawn("decay", tmp_path, monkeypatch).data[0]
    assert min(ic.y[:5]) > 0.1
    assert max(map(abs, ic.y[5:])) < 0.03


@pytest.mark.slow
def test_there_are_six_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Days from January 2021 to June 2023, of which a year trains the first model: six quarters are tested."""
    figure = drawn("windows", tmp_path, monkeypatch)
    assert [len(set(trace.y)) for trace in figure.data] == [6, 6]


@pytest.mark.slow
def test_trees_predict_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line of the trees ends well above that of the linear model."""
    pytest.importorskip("lightgbm", reason="a model: pip install 'rollforge[lightgbm]'")
    linear, trees = drawn("two_models", tmp_path, monkeypatch).data
    assert trees.y[-1] > 1.3 * linear.y[-1] > 0


@pytest.mark.slow
def test_purging_removes_what_overlapping_labels_reveal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a gap the correlation is above 0.3; purged it is below 0.2 in either direction."""
    leaking, purged = drawn("purge", tmp_path, monkeypatch).data
    assert leaking.y[0] > 0.3
    assert abs(purged.y[0]) < 0.2
