"""Fixtures of online serving."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import rollforge
from growing import DAYS, Market, manager, prices
from rollforge.session import Session, using


@pytest.fixture
def market(tmp_path: Path) -> Market:
    """Return a market, of which nothing is written yet."""
    made = Market(tmp_path / "data", prices())
    rollforge.init(
        made.folder, tracking_uri=f"folder:{tmp_path / 'runs'}", store_uri=f"memory://{tmp_path.name}", threads=1
    )
    return made


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., pd.Series]:
    """Return a function that returns the signals of a service up to a day, if nothing disturbs it.

    The service is simulated once for each kind of windows: the signals of a day do not depend on later days.
    """
    known: dict[str, pd.Series] = {}

    def signals(until: str, **windows: object) -> pd.Series:
        key = repr(windows)
        if key not in known:
            place = tmp_path_factory.mktemp("undisturbed")
            made = Market(place / "data", prices())
            uris = {"tracking_uri": f"folder:{place / 'runs'}", "store_uri": f"memory://{place}"}
            with using(Session.from_mapping({"provider_uri": str(made.folder), "threads": 1, **uris})):
                made.show(DAYS[69])
                found = manager(**windows).simulate(DAYS[69])  # type: ignore[arg-type]
            assert isinstance(found, pd.Series)
            known[key] = found
        return known[key].loc[:until]  # type: ignore[misc]

    return signals
