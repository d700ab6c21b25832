"""The stress test of online serving runs, and its check of labels finds labels that were not known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from audited import FIRST, LAST, checked
from growing import DAYS, prices

CLOSE = prices()
LABELS = (CLOSE.shift(-LAST) / CLOSE.shift(-FIRST) - 1).stack()
PROGRAM = Path(__file__).parents[1] / "storm_online.py"


def labels(first: str, last: str) -> tuple[Any, np.ndarray]:
    """Return the labels of some days."""
    rows = LABELS.loc[first:last].rename_axis(["datetime", "instrument"])
    return rows.index, rows.to_numpy(np.float32)


def test_labels_up_to_the_day_are_known() -> None:
    """The last one needs the price of the day itself."""
    day = DAYS[60]
    index, values = labels(DAYS[20], DAYS[60 - LAST])
    found = checked(index, values, day, CLOSE)
    assert found == {"rows": 4 * (41 - LAST), "reach": day, "wrong": 0}


@pytest.mark.parametrize("days", [1, 3])
def test_labels_that_look_past_the_day_are_found(days: int) -> None:
    """Each row of them, although their values are right."""
    index, values = labels(DAYS[20], DAYS[60 - LAST + days])
    found = checked(index, values, DAYS[60], CLOSE)
    assert (found["wrong"], found["reach"]) == (4 * days, DAYS[60 + days])


def test_labels_from_other_prices_are_found() -> None:
    """Examples are a price that was corrected later, and one that is missing."""
    index, values = labels(DAYS[20], DAYS[50])
    later = CLOSE.copy()
    later.loc[DAYS[40], "B"] *= 1.01
    later.loc[DAYS[30], "C"] = np.nan
    assert checked(index, values, DAYS[60], later)["wrong"] == 4


@pytest.mark.slow
def test_the_program_at_its_smallest(tmp_path: Path) -> None:
    """Each result is a line, and all are right."""
    sizes = ["--days", "9", "--step", "3", "--instruments", "4", "--writes", "3", "--times", "2", "--seconds", "0.1"]
    done = subprocess.run(
        [sys.executable, PROGRAM, *sizes, "--trainer", "DelayTrainerR", "--trunc", "none"],
        env={**os.environ, "ROLLFORGE_SHARED": "", "TMPDIR": str(tmp_path)}, capture_output=True, text=True, check=False,
        timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(line["ok"] for line in lines)
    compared = [
        line["result"]
        for line in lines
        if line["result"] in ("kills", "day by day and anew", "day by day and simulated")
    ]
    assert compared == ["kills", "day by day and anew", "day by day and simulated"]
    assert pd.DataFrame(lines).trainings.max() >= 3
