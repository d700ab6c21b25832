"""Records: what is kept of a trained model - its prediction, its analysis, a backtest."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "RecordTemp": "base", "ACRecordTemp": "base", "SignalRecord": "signal", "SigAnaRecord": "analysis",
    "PortAnaRecord": "portfolio",
}  # fmt: skip

__all__ = ["ACRecordTemp", "PortAnaRecord", "RecordTemp", "SigAnaRecord", "SignalRecord"]


def __getattr__(name: str) -> Any:
    """Import a record's module when the record is first used."""
    if name not in _HOME:
        raise AttributeError(f"module 'rollforge.record' has no attribute {name!r}")
    return getattr(importlib.import_module(f"rollforge.record.{_HOME[name]}"), name)
