"""A template to tasks: rolling windows, horizons, grids, and the calendar arithmetic beneath them."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
