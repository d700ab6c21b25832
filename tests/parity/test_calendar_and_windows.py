"""Calendar arithmetic and windows compared with pyqlib 0.9.7.

Where pyqlib raises on valid input, or has one of the faults listed in tests/golden/README.md, a rule in this file says
so, and Rollforge's own result is checked.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rollforge.errors import SegmentError
from rollforge.generate import MultiHorizonGenBase, RollingGen, TimeAdjuster

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module", params=["golden", "golden-sp500"])
def folder(request: pytest.FixtureRequest) -> Path:
    """Return the reference values of the synthetic market, and of the S&P table if it is available."""
    if request.param == "golden":
        return GOLDEN
    shared: Path = request.getfixturevalue("shared_folder")
    return shared / "golden-sp500"


def revive(value: Any) -> Any:
    if isinstance(value, dict):
        if "$ts" in value:
            return pd.Timestamp(value["$ts"])
        if "$tuple" in value:
            return tuple(revive(v) for v in value["$tuple"])
        return {k: revive(v) for k, v in value.items()}
    return [revive(v) for v in value] if isinstance(value, list) else value


def calendar_of(folder: Path) -> list[str]:
    found = json.loads((folder / "calendar.json").read_text())
    return list(found["calendar"] if isinstance(found, dict) else found)


def wraps(fn: str, args: list[Any], days: pd.DatetimeIndex) -> bool:
    """Return whether pyqlib's result comes from a date before the calendar, whose index -1 wraps to the last day."""
    first = days[0]
    if fn in ("align_idx", "align_time"):
        return args[1] == "end" and args[0] is not None and pd.Timestamp(args[0]) < first
    if fn == "align_seg":
        return args[0][1] is not None and pd.Timestamp(args[0][1]) < first
    if fn == "shift":
        start, end = args[0]
        step = args[1]
        start_wraps = start is not None and days.searchsorted(pd.Timestamp(start)) + step < 0 and args[2] == "sliding"
        end_wraps = end is not None and days.searchsorted(pd.Timestamp(end), "right") - 1 + step < 0
        return start_wraps or end_wraps or (end is not None and pd.Timestamp(end) < first)
    return False


def test_calendar_arithmetic_is_pyqlibs(folder: Path) -> None:
    """Every result is equal, except for dates before the calendar, which pyqlib wraps to its end."""
    days = pd.DatetimeIndex(calendar_of(folder))
    adjuster = TimeAdjuster(calendar=days)
    seen: Counter[str] = Counter()
    for case in json.loads((folder / "time_adjuster.json").read_text()):
        args = revive(case["args"])
        call = getattr(adjuster, case["fn"])
        if case.get("raises"):
            seen["raises"] += 1
            with pytest.raises(SegmentError):
                call(*args)
        elif wraps(case["fn"], args, days):
            seen["wraps"] += 1
            try:  # a start is clipped to the calendar; if no days remain, that is an error
                answer = call(*args)
            except SegmentError:
                continue
            assert answer[0] == days[0]
        else:
            seen["same"] += 1
            assert call(*args) == revive(case["result"]), case
    assert seen["same"] > 0.9 * seen.total()


def segments_of(task: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = task["dataset"]["kwargs"]["segments"]
    return found


def handler_end(task: dict[str, Any]) -> Any:
    end = task["dataset"]["kwargs"]["handler"]["kwargs"]["end_time"]
    return None if end is None else pd.Timestamp(end)


def run_case(case: dict[str, Any], days: pd.DatetimeIndex) -> list[dict[str, Any]]:
    generator = RollingGen(case["step"], case["rtype"], trunc_days=case["trunc_days"], calendar=days)
    template = revive(case["template"])
    if "following_until" in case:
        return list(generator.gen_following_tasks(template, revive(case["following_until"])))
    return generator.generate(template)


def test_windows_are_pyqlibs(folder: Path) -> None:
    """The segments of every window are equal, and so is the handler's end unless a test end is open (pyqlib ignores
    it).
    """
    days = pd.DatetimeIndex(calendar_of(folder))
    compared = 0
    for case in json.loads((folder / "rolling.json").read_text()):
        if case.get("raises"):
            continue
        tasks = run_case(case, days)
        expected = revive(case["result"])
        assert [segments_of(t) for t in tasks] == [e["segments"] for e in expected], case
        for task, wanted in zip(tasks, expected, strict=True):
            compared += 1
            template_end = case["template"]["dataset"]["kwargs"]["handler"]["kwargs"]["end_time"]
            if segments_of(task)["test"][1] is None and template_end is not None:
                assert handler_end(task) is None
            else:
                assert handler_end(task) == (
                    None if wanted["handler_end"] is None else pd.Timestamp(wanted["handler_end"])
                )
    assert compared > 500


def test_where_pyqlib_raises_rollforge_gives_windows_or_an_error(folder: Path) -> None:
    """pyqlib fails for a segment that reaches the first day or the calendar's end; here the windows simply end there."""
    days = pd.DatetimeIndex(calendar_of(folder))
    raised = [c for c in json.loads((folder / "rolling.json").read_text()) if c.get("raises")]
    assert {c["raises"] for c in raised} <= {"AssertionError", "TypeError"}
    for case in raised:
        tasks = run_case(case, days)
        assert tasks
        for task in tasks:
            segments = segments_of(task)
            assert segments["train"][1] < segments["test"][0]
            assert segments["test"][0] <= days[-1]


class Horizons(MultiHorizonGenBase):
    def set_horizon(self, task: dict[str, Any], hr: int) -> None:
        task["horizon"] = hr


def test_horizons_are_pyqlibs(folder: Path) -> None:
    """Each horizon's segments are cut as in pyqlib; where it raises on the first day, ours are cut nevertheless."""
    days = pd.DatetimeIndex(calendar_of(folder))
    same = 0
    for case in json.loads((folder / "multi_horizon.json").read_text()):
        tasks = Horizons(case["horizon"], case["label_leak_n"], calendar=days).generate(revive(case["template"]))
        assert [t["horizon"] for t in tasks] == case["horizon"]
        if case.get("raises"):
            assert all(segments_of(t)["train"][0] == days[0] for t in tasks)
            continue
        same += 1
        expected = [e.get("segments", e) for e in revive(case["result"])]
        assert [segments_of(t) for t in tasks] == [
            e["dataset"]["kwargs"]["segments"] if "dataset" in e else e for e in expected
        ]
    assert same
