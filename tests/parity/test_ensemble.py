"""Ensembles, groups, and functions on dicts compared with pyqlib 0.9.7."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.build import FLATTEN_TUPLE, fill_placeholder, flatten_dict
from rollforge.collect import AverageEnsemble, RollingEnsemble, RollingGroup, SingleKeyEnsemble

GOLDEN = Path(__file__).parents[1] / "golden"
FACTS: dict[str, Any] = json.loads((GOLDEN / "ensemble" / "README.json").read_text())
UTILS: dict[str, Any] = json.loads((GOLDEN / "utils.json").read_text())


def read(name: str) -> pd.DataFrame:
    return pd.read_parquet(GOLDEN / "ensemble" / f"{name}.parquet")


def test_rolling_windows_are_joined_as_in_pyqlib() -> None:
    """In any order, with overlapping rows from the later window."""
    windows = {i: read(f"rolling_in_{i}") for i in FACTS["rolling_order"]}
    pd.testing.assert_frame_equal(RollingEnsemble()(windows), read("rolling_out"))


def test_averaging_standardises_by_day_as_pyqlib_does() -> None:
    """Each result is standardised within each day, then averaged; nested dicts are flattened."""
    parts = {name: read(f"average_in_{name}") for name in "ABC"}
    theirs = read("average_out")
    for given in (parts, {"x": {"A": parts["A"], "B": parts["B"]}, "C": parts["C"]}):
        ours = AverageEnsemble()(given)
        assert ours.index.equals(theirs.index)
        np.testing.assert_allclose(ours.to_numpy(), theirs.iloc[:, 0].to_numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("case", FACTS["single_key"])
def test_single_keys_are_unwrapped_as_in_pyqlib(case: dict[str, Any]) -> None:
    """Dicts of one key become their value, at every depth."""
    assert SingleKeyEnsemble()(case["arg"]) == case["result"]


def test_rolling_groups_are_pyqlibs() -> None:
    """All parts of the key but the last name the group."""
    given = {("A", "B", 1): 1, ("A", "B", 2): 2, ("A", "C", 1): 1}
    groups = RollingGroup(ens=None).group(given)
    assert {str(k): list(v) for k, v in groups.items()} == FACTS["rolling_group"]["result"]


@pytest.mark.parametrize("case", [c for c in UTILS["flatten_dict"] if c["sep"] == "." and c["arg"] != {"m": {}}])
def test_flattening_with_dots_is_pyqlibs(case: dict[str, Any]) -> None:
    """Nested dicts become one dict with dotted keys."""
    assert flatten_dict(case["arg"]) == case["result"]


def test_flattening_keeps_what_pyqlib_loses() -> None:
    """An empty dict is kept (pyqlib drops it), and tuple keys are flat (pyqlib nests them)."""
    assert flatten_dict({"m": {}}) == {"m": {}}
    assert flatten_dict({"c": {"b": {"x": 5}}}, sep=FLATTEN_TUPLE) == {("c", "b", "x"): 5}


def revive(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple(map(revive, value["$tuple"])) if "$tuple" in value else {k: revive(v) for k, v in value.items()}
    return [revive(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize("case", UTILS["fill_placeholder"])
def test_placeholders_are_filled_as_pyqlib_does_and_in_tuples_too(case: dict[str, Any]) -> None:
    """Strings that are placeholders become their values; the argument is not modified (pyqlib modifies it)."""
    given = revive(case["arg"])
    before = copy.deepcopy(given)
    filled = fill_placeholder(given, {"<MODEL>": "M!", "<DATASET>": "D!"})
    assert given == before
    shown = json.dumps(filled)
    assert '"<MODEL>"' not in shown
    assert '"<DATASET>"' not in shown
    if "$tuple" not in json.dumps(case["arg"]):
        assert filled == revive(case["result"])
