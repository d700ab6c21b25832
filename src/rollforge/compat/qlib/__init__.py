"""Qlib's import paths, resolved to Rollforge's own objects, so that Qlib scripts run unchanged.

    python -m rollforge.compat.qlib SCRIPT [ARGS]
    python -m rollforge.compat.qlib -m qlib.workflow.task.manage -t POOL task_stat

or, in your own script, ``import rollforge.compat.qlib`` before ``import qlib``. The table :mod:`rollforge.qlib_names`
lists the names that are covered. If pyqlib is also installed, other names (for example its models) are loaded from
pyqlib and run on top of Rollforge.
"""

from __future__ import annotations

from rollforge.qlib_imports import install

__all__ = ["install"]

install()
