"""Fixtures of online serving."""

from __future__ import annotations

from pathlib import Path

import pytest

import rollforge
from growing import Market, prices


@pytest.fixture
def market(tmp_path: Path) -> Market:
    """Return a market, of which nothing is written yet."""
    made = Market(tmp_path / "data", prices())
    rollforge.init(
        made.folder, tracking_uri=f"folder:{tmp_path / 'runs'}", store_uri=f"memory://{tmp_path.name}", threads=1
    )
    return made
