"""A template to tasks: rolling windows, horizons, grids, and the calendar arithmetic beneath them."""

from __future__ import annotations

from rollforge.generate.base import TaskGen, task_generator
from rollforge.generate.calendar import TimeAdjuster
from rollforge.generate.grid import GridGen
from rollforge.generate.horizon import MultiHorizonGenBase
from rollforge.generate.rolling import RollingGen, handler_mod

__all__ = ["GridGen", "MultiHorizonGenBase", "RollingGen", "TaskGen", "TimeAdjuster", "handler_mod", "task_generator"]
