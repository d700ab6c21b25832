"""The ledger of a service: the decisions of each day, as entries that are only ever appended."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
