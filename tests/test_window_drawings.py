"""The page about windows: its drawings are those of the generators, and its marks have the documented meaning."""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_spec = spec_from_file_location("window_drawings", Path(__file__).parent / "window_drawings.py")
assert _spec is not None
assert _spec.loader is not None
drawings = module_from_spec(_spec)
_spec.loader.exec_module(drawings)

TASK = {
    "dataset": {
        "kwargs": {
            "handler": {"class": "Alpha158", "kwargs": {"label": ["Ref($close, -2)/$close - 1"]}},
            "segments": {"train": ["2024-01-01", "2024-01-12"], "test": ["2024-01-15", "2024-01-19"]},
        }
    }
}


def test_the_drawings_are_those_of_the_generators() -> None:
    """'make tables' draws them again."""
    page = drawings.PAGE.read_text(encoding="utf-8")
    assert drawings.redrawn(page) == page
    assert len(re.findall("```text", page)) == len(drawings._PAIR.findall(page)) >= 9


def test_a_drawing_shows_each_trading_day() -> None:
    """Ten training days, of which the last two are left out, and five test days; below, what the last label reads."""
    drawn = drawings.drawing({"rolling": {"step": 5}}, TASK, label=True).splitlines()
    assert drawn[2] == f"window 1  {'░' * 8}··{'█' * 5}"
    assert drawn[3] == f"its label {' ' * 7}└─→"
    assert "window 1: train 2024-01-01 to 2024-01-10" in drawn


def test_purged_days_and_embargo_have_marks_of_their_own() -> None:
    """Two purged days on each side of the test, then three days of embargo."""
    task = {"dataset": {"kwargs": {**TASK["dataset"]["kwargs"], "segments": {"all": ["2024-01-01", "2024-03-29"]}}}}
    drawn = drawings.drawing({"generate": [{"PurgedKFoldGen": {"n_folds": 5, "embargo": 3}}]}, task).splitlines()
    assert drawn[3] == f"window 2  {'░' * 11}··{'█' * 13}··xxx{'░' * 34}"
