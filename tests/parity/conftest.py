"""The exceptions to agreement with pyqlib that several tests share, each with its rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from rollforge.expressions.expression import parse
from rollforge.expressions.tree import Call, Number
from rollforge.features.engine import features
from rollforge.session import Session

CalmRows = Callable[[Path, str, pd.MultiIndex], pd.Series]


@pytest.fixture(scope="session")
def calm_to_pyqlib() -> CalmRows:
    """(market, ``Rsquare(…)`` or ``Corr(…)``, rows) -> where a standard deviation in the window is at most 2e-5.

    pyqlib has no value there, whatever the unit of the series. Rollforge treats only equal values as flat.
    """

    def calm(market: Path, expression: str, rows: pd.MultiIndex) -> pd.Series:
        tree = parse(expression)
        assert isinstance(tree, Call)
        *series, window = tree.args
        assert tree.name in ("Rsquare", "Corr")
        assert isinstance(window, Number)
        deviations = [f"Std({one}, {window})" for one in series]
        codes = sorted(rows.get_level_values("instrument").unique())
        frame = features(codes, deviations, session=Session(provider_uri=str(market)))
        frame.index = frame.index.set_names(["instrument", "datetime"])
        return (frame <= 2e-5).any(axis=1).reorder_levels(rows.names).reindex(rows)

    return calm
