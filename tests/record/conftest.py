"""Small markets whose results can be computed by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.market.folder_writer import write_folder
from rollforge.session import Session

FREE: dict[str, Any] = {"open_cost": 0, "close_cost": 0, "min_cost": 0, "trade_unit": None}
"""Options of an exchange without costs and trade units."""
nan = float("nan")

Fields = Mapping[str, Sequence[float]] | Sequence[float]
MakeMarket = Callable[..., Session]


def days_of(n: int) -> pd.DatetimeIndex:
    """Return the trading days of a small market, from Monday 1 March 2021 on."""
    return pd.bdate_range("2021-03-01", periods=n)


def scores(table: Mapping[str, Sequence[float]], n: int | None = None) -> pd.Series:
    """Return a signal from scores by code and day; NaN omits the row."""
    rows = {
        (day, code): value
        for code, values in table.items()
        for day, value in zip(days_of(len(values)), values, strict=True)
        if not np.isnan(value)
    }
    return pd.Series(rows, name="score").rename_axis(["datetime", "instrument"])


@pytest.fixture
def make_market(tmp_path: Path) -> MakeMarket:
    """Write ``{code: closes}`` or ``{code: {field: values}}`` as a data folder; series may end early or begin late."""

    def make(
        series: Mapping[str, Fields],
        *,
        n: int | None = None,
        first: Mapping[str, int] | None = None,
        universes: Mapping[str, Mapping[str, Any]] | None = None,
        **session: Any,
    ) -> Session:
        fields = {
            code: {k: np.asarray(v, float) for k, v in (f.items() if isinstance(f, Mapping) else [("close", f)])}
            for code, f in series.items()
        }
        starts = {code: (first or {}).get(code, 0) for code in fields}
        length = n or max(starts[c] + len(f["close"]) for c, f in fields.items())
        calendar = days_of(length).to_numpy().astype("datetime64[D]")
        spans = {c: [(calendar[starts[c]], calendar[starts[c] + len(f["close"]) - 1])] for c, f in fields.items()}
        for f in fields.values():
            f.setdefault("factor", np.where(np.isnan(f["close"]), np.nan, 1.0))
            f.setdefault("volume", np.full(len(f["close"]), 1e6))
        write_folder(
            tmp_path / "market",
            calendar,
            {code: (starts[code], f) for code, f in fields.items()},
            {"all": spans, **(universes or {})},
        )
        return Session(provider_uri=str(tmp_path / "market"), **session)

    return make
