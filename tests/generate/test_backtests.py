"""Backtests among the records of rolling tasks: on each window's own days, or as in Qlib with a warning."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.generate.backtests import backtest_of, backtest_warnings, move_backtests
from rollforge.generate.rolling import RollingGen

DAYS = pd.bdate_range("2024-01-01", periods=40)
CALENDAR = DAYS.to_numpy().astype("datetime64[D]")


def _task(record: Any, test: tuple[Any, Any] = ("2024-01-22", "2024-02-16")) -> dict[str, Any]:
    segments = {"train": ("2024-01-01", "2024-01-12"), "test": test}
    return {"model": {}, "dataset": {"kwargs": {"segments": segments}}, "record": record}


def _record(start: Any = None, end: Any = None, name: str = "PortAnaRecord") -> dict[str, Any]:
    backtest = {"start_time": start, "end_time": end, "account": 1}
    return {"class": name, "kwargs": {"config": {"strategy": {}, "backtest": backtest}}}


def _dates(record: Any) -> tuple[Any, Any]:
    options = backtest_of(record)
    assert options is not None
    return options["start_time"], options["end_time"]


@pytest.mark.parametrize(
    ("dates", "expected"),
    [
        ((None, None), (None, None)),
        (("2024-01-22", "2024-02-16"), (None, None)),
        (("2023-01-01", "2025-01-01"), (None, None)),
        (("2024-01-29", "2024-02-09"), ("2024-01-29", "2024-02-09")),
        (("20240129", None), ("20240129", None)),
        (("2024-02-16", "2024-02-20"), ("2024-02-16", None)),
        (("2024-01-10", "2024-01-22"), (None, "2024-01-22")),
        (("2024-03-01", "2024-04-01"), (None, None)),
        (("2023-01-01", "2023-02-01"), (None, None)),
        (("<dataset.kwargs.segments.test.0>", None), ("<dataset.kwargs.segments.test.0>", None)),
    ],
)
def test_a_windows_own_days(dates: tuple[Any, Any], expected: tuple[Any, Any]) -> None:
    """Dates outside the test segment are removed; dates inside it, and references, are kept."""
    task = _task([_record(*dates), "SignalRecord"])
    before = copy.deepcopy(task)
    moved = move_backtests(task)
    assert _dates(moved[0]) == expected
    assert moved[1] == "SignalRecord"
    assert task == before


def test_a_single_record_is_not_made_a_list() -> None:
    """Tasks without records, and other records, are unchanged."""
    assert _dates(move_backtests(_task(_record("2020-01-01", "2030-01-01")))) == (None, None)
    assert move_backtests(_task(_record(name="qlib.workflow.record_temp.PortAnaRecord", end="2030-01-01")))["class"]
    assert move_backtests(_task([{"class": "PortAnaRecord"}, {"class": "MyRecord"}])) == [
        {"class": "PortAnaRecord"}, {"class": "MyRecord"},
    ]  # fmt: skip
    assert move_backtests(_task("SignalRecord")) == "SignalRecord"


def test_rolling_moves_backtests_on_request() -> None:
    """RollingGen keeps the dates as Qlib does, unless roll_backtest requests each window's own."""
    template = _task([_record("2024-01-22", "2024-02-16")])
    kept = RollingGen(step=5, rtype="sliding", calendar=DAYS).generate(template)
    assert {_dates(t["record"][0]) for t in kept} == {("2024-01-22", "2024-02-16")}
    moved = RollingGen(step=5, rtype="sliding", calendar=DAYS, roll_backtest=True).generate(template)
    assert len(moved) == len(kept) == 4
    assert {_dates(t["record"][0]) for t in moved} == {(None, None)}
    inside = RollingGen(step=5, rtype="sliding", calendar=DAYS, roll_backtest=True)
    half = inside.generate(_task([_record("2024-01-24", "2024-02-07")]))
    # The first window ends on 26 January, the third begins on 5 February.
    assert [_dates(t["record"][0]) for t in half] == [
        ("2024-01-24", None), (None, None), (None, "2024-02-07"), (None, None),
    ]  # fmt: skip


def test_backtests_over_the_days_of_other_windows_give_a_warning() -> None:
    """One warning says how many windows cover which days, and which option changes it; own days give none."""
    template = _task([_record("2024-01-22", "2024-02-16")])
    tasks = RollingGen(step=5, rtype="sliding", calendar=DAYS).generate(template)
    (warning,) = backtest_warnings(tasks, CALENDAR)
    assert warning.startswith("the backtest of 4 of 4 windows covers 2024-01-22 to 2024-02-16, which are not the days")
    assert "roll_backtest: true" in warning
    for quiet in (
        RollingGen(step=5, rtype="sliding", calendar=DAYS, roll_backtest=True).generate(template),
        RollingGen(step=5, rtype="sliding", calendar=DAYS).generate(_task([_record()])),
        [template],
        RollingGen(step=5, rtype="sliding", calendar=DAYS).generate(_task(["SignalRecord"])),
    ):
        assert backtest_warnings(quiet, CALENDAR) == []


def test_the_day_after_the_test_belongs_to_the_backtest() -> None:
    """A backtest that ends one trading day after the test segment covers only its own window."""
    tasks = [_task([_record(None, "2024-02-19")]), _task([_record("2024-01-22", "2024-02-19")])]
    assert backtest_warnings(tasks, CALENDAR) == []
    (warning,) = backtest_warnings([*tasks, _task([_record(None, "2024-02-20")])], CALENDAR)
    assert "1 of 3 windows" in warning
    assert np.datetime64("2024-02-20") in CALENDAR
