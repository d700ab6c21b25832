"""Importing and calling mlflow without its noise."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from rollforge.errors import MissingDependency
from rollforge.importing import without_collections

__all__ = ["check_installed", "first_line", "import_mlflow", "installed_version", "our_call", "quiet"]

_NOISY = ("mlflow", "alembic", "alembic.runtime.migration", "mlflow.store.db.utils")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence MLflow and Alembic, which print migrations and deprecations that do not concern the user."""
    levels = {name: logging.getLogger(name).level for name in _NOISY}
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if root.handlers != before[1]:  # in older MLflow versions, Alembic's migrations reconfigure logging
            root.setLevel(before[0])
            root.handlers[:] = before[1]


class _OurCall(logging.Filter):
    """Drops log records while this module calls MLflow, which logs database errors in addition to raising them."""

    active = 0

    def filter(self, record: logging.LogRecord) -> bool:
        return not self.active


our_call = _OurCall()
"""The filter of MLflow's log of database errors."""


def _missing(package: str) -> MissingDependency:
    return MissingDependency(
        f"Tracking by MLflow needs {package}. Install it: pip install 'rollforge[mlflow]'; or use plain "
        "files: --tracking folder:PATH."
    )


def check_installed(packages: Sequence[str]) -> None:
    """Raise an error if a package is not installed, without importing any of them, which would take seconds."""
    for package in packages:
        try:
            found = importlib.util.find_spec(package)
        except ImportError:
            found = None
        if found is None:
            raise _missing(package)


@functools.cache
def installed_version() -> str:
    """Return the version of MLflow, without importing it; empty if that is not known."""
    for distribution in ("mlflow-skinny", "mlflow"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(distribution)
    return ""


def import_mlflow(*, database: bool = False) -> Any:
    """Import what opens MLflow's tracking stores, and return that module; with `database`, also what those in a database need."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    try:
        with quiet(), without_collections():
            from mlflow.tracking._tracking_service import utils

            if database:
                import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    except ImportError as exc:
        raise _missing(exc.name or "mlflow") from exc
    logger = logging.getLogger("mlflow.store.db.utils")
    if our_call not in logger.filters:
        logger.addFilter(our_call)
    return utils


def first_line(exc: BaseException) -> str:
    lines = str(exc).strip().splitlines()
    return lines[0] if lines else type(exc).__name__
