"""A checkout of Qlib's repository, where one is at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def qlib_source() -> Path:
    """The checkout that ``QLIB_SOURCE`` names."""
    named = os.environ.get("QLIB_SOURCE")
    if not named:
        pytest.skip("no checkout of Qlib's repository: git clone it, and QLIB_SOURCE=CHECKOUT make test")
    source = Path(named)
    assert (source / "qlib" / "__init__.py").is_file(), f"QLIB_SOURCE={named} is no checkout of Qlib's repository"
    return source
