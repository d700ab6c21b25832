"""Train many models over time: generate, store, run, record, collect, serve."""

from __future__ import annotations

import lazy_loader

from rollforge import moved

__version__ = "0.1.0"

# Names are imported when they are first used, so that ``import rollforge`` costs next to nothing.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", *__all__]
moved.install()
