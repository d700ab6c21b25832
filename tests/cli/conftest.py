"""A small market and a workflow that is served on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..documents.definitions import write_workflow
from ..documents.growing import STEP, Market, prices, template


@pytest.fixture
def market(tmp_path: Path) -> Market:
    """A market of four instruments, without a data folder until :meth:`Market.show` is called."""
    return Market(tmp_path / "data", prices())


@pytest.fixture
def workflow(tmp_path: Path, market: Market) -> Path:
    """A workflow with a linear model and windows of four days."""
    rollforge = {"data": str(market.folder), "tracking": f"folder:{tmp_path}/runs", "experiment": "served"}
    rolling = {"step": STEP, "rtype": "sliding", "trunc_days": "auto"}
    return write_workflow(tmp_path / "job.yaml", {"rollforge": rollforge, "task": template(), "rolling": rolling})
