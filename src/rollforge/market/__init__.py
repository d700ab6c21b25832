"""Market data: data folders in Qlib's form, their calendars and universes; tables in; the made-up market."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
