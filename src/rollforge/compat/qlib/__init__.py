"""Qlib's import paths, leading to Rollforge's own objects: other people's scripts run as they are.

    python -m rollforge.compat.qlib SCRIPT [ARGS]
    python -m rollforge.compat.qlib -m qlib.workflow.task.manage -t POOL task_stat

or, in a script of your own, ``import rollforge.compat.qlib`` before ``import qlib``. What is covered stands in one table,
:mod:`rollforge.qlib_names`. Where pyqlib is installed too, what the table does not have (its models, for example) is
loaded from there, on top of these.
"""

from __future__ import annotations

from rollforge.qlib_imports import install

__all__ = ["install"]

install()
