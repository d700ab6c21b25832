"""Market data to matrices: the data folder, the expression engine, handlers, the panel cache, datasets."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
