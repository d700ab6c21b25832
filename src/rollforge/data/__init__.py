"""The public names of ``market`` and ``features`` in one place."""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    "rollforge.features.alpha": "Alpha158 Alpha158DL Alpha158vwap Alpha360 Alpha360DL Alpha360vwap",
    "rollforge.features.dataset": "Dataset DatasetH",
    "rollforge.market.demo": "make_demo",
    "rollforge.features.api": "D",
    "rollforge.market.filters": "BaseDFilter ExpressionDFilter NameDFilter SeriesDFilter",
    "rollforge.features.handler": "DataHandler DataHandlerLP",
    "rollforge.market.importer": "import_table",
    "rollforge.features.inst_processor": "InstProcessor",
    "rollforge.features.loader": "DataLoader DataLoaderDH NestedDataLoader QlibDataLoader StaticDataLoader",
    "rollforge.features.processor_base": "Processor",
    "rollforge.market.provider": "Provider open_provider",
    "rollforge.features.memory": "MTSDatasetH",
    "rollforge.features.timeseries": "TSDataSampler TSDatasetH",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
