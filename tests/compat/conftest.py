"""A checkout of Qlib's repository, if one is available."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def qlib_source() -> Path:
    """The checkout named by ``QLIB_SOURCE``."""
    named = os.environ.get("QLIB_SOURCE")
    if not named:
        pytest.skip("no checkout of Qlib's repository: git clone it, and QLIB_SOURCE=CHECKOUT make test slow")
    source = Path(named)
    assert (source / "qlib" / "__init__.py").is_file(), f"QLIB_SOURCE={named} is no checkout of Qlib's repository"
    return source
