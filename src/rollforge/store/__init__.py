"""Tasks to a pool: a store that keeps them, and a manager with Qlib's method names in front of it."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
