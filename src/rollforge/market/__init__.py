"""Market data: data folders in Qlib's format, calendars, universes, importers, and the demo market."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
