"""The runs in MLflow's SQLite file, written and read as rows.

MLflow's own methods open a session for each kind of value, and load the run again in each. To create a run, write it once
and end it, they need forty statements of its object-relational mapper, which is most of what a small task costs. A
transaction of theirs that reads before it writes also fails at once if another process has written in between.

The methods of :class:`Rows` have the names, arguments and errors of MLflow's, and write the same rows, in one transaction
each. If MLflow's tables are not those that this module knows, :func:`rows_of` returns None, and MLflow does everything.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sqlite3
import sys
import uuid
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

__all__ = ["SWITCH", "Rows", "rows_of"]

log = logging.getLogger(__name__)

SWITCH = "ROLLFORGE_MLFLOW_ROWS"
"""Environment variable. ``off`` leaves the whole work to MLflow."""

_VALUE = {"key", "value", "run_uuid"}
_METRIC = _VALUE | {"timestamp", "step", "is_nan"}
_TABLES = {
    "runs": {
        "run_uuid", "name", "source_type", "source_name", "entry_point_name", "user_id", "status", "start_time", "end_time",
        "source_version", "lifecycle_stage", "artifact_uri", "experiment_id", "deleted_time",
    },
    "tags": _VALUE, "params": _VALUE, "metrics": _METRIC, "latest_metrics": _METRIC,
}  # fmt: skip
"""The tables of runs, with their columns."""
_NAME = "mlflow.runName"
"""The tag that repeats the name of a run."""


def rows_of(store: Any) -> Rows | None:
    """Return the rows of one of MLflow's stores; None if it is no SQLite file with the tables that this module knows."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    if os.environ.get(SWITCH) == "off" or type(store) is not SqlAlchemyStore or store.engine.name != "sqlite":
        return None
    rows = Rows(store.engine)
    if unknown := rows.unknown_table():
        log.info("Runs are written by MLflow alone: its table %r is not as expected.", unknown)
        return None
    return rows


class Rows:
    """The runs of one database, by methods of MLflow's tracking store.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        The store's connections.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def unknown_table(self) -> str:
        """Return the first table that is not as expected; empty if all are."""
        with self._transaction(writing=False) as database:
            for table, columns in _TABLES.items():
                found = {name for _, name, *_ in database.execute(f"PRAGMA table_info({table})")}
                triggers = "SELECT 1 FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ?"
                if found != columns or database.execute(triggers, (table,)).fetchone():
                    return table
        return ""

    @contextlib.contextmanager
    def _transaction(self, *, writing: bool = True) -> Iterator[sqlite3.Connection]:
        """Begin a transaction that is committed at the end of the block, or rolled back if an error is raised.

        It gets the lock for writing when it begins. If it read first, it could not write after another process has.
        """
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with contextlib.closing(
                self._engine.raw_connection()
            ) as borrowed:  # which rolls back what is not committed
                database: sqlite3.Connection = borrowed.driver_connection
                database.execute("BEGIN IMMEDIATE" if writing else "BEGIN")
                yield database
                database.commit()
        except (sqlite3.Error, SQLAlchemyError) as exc:  # the latter if all connections are in use
            raise MlflowException(f"({type(exc).__name__}) {exc}", TEMPORARILY_UNAVAILABLE) from exc
        except (OverflowError, TypeError, ValueError) as exc:
            if not writing:
                raise
            raise _invalid(f"A value cannot be stored: {exc}") from exc  # such as text that is not Unicode

    # -- MLflow's methods ----------------------------------------------------------------------------------------------

    def create_run(self, experiment_id: str, user_id: str, start_time: int, tags: Sequence[Any], run_name: str) -> Any:
        """Create a running run, and return it."""
        from mlflow.utils.name_utils import _generate_random_name
        from mlflow.utils.uri import append_to_uri_path

        values = {tag.key: tag.value for tag in tags}
        named = values.get(_NAME)
        if run_name and named and run_name != named:
            raise _invalid(f"The run has two names, {run_name!r} and, in the tag {_NAME!r}, {named!r}.")
        run_name = run_name or named or _generate_random_name()  # type: ignore[no-untyped-call]
        run_id = uuid.uuid4().hex
        with self._transaction() as database:
            query = "SELECT artifact_location, lifecycle_stage FROM experiments WHERE experiment_id = ?"
            found = database.execute(query, (int(experiment_id),)).fetchone()
            if found is None:
                raise _missing(f"No Experiment with id={experiment_id} exists")
            if found[1] != "active":
                raise _invalid(
                    f"The experiment {experiment_id} must be in the 'active' state. Current state is {found[1]}."
                )
            location = append_to_uri_path(found[0], run_id, "artifacts")  # type: ignore[no-untyped-call]
            database.execute(
                "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, "
                "source_version, lifecycle_stage, artifact_uri, experiment_id) "
                "VALUES (?, ?, 'UNKNOWN', '', '', ?, 'RUNNING', ?, '', 'active', ?, ?)",
                (run_id, run_name, user_id, start_time, location, int(experiment_id)),
            )
            _set_tags(database, run_id, {**values, _NAME: run_name})
        return _run(run_id, run_name, int(experiment_id), "RUNNING", start_time, None, "active", location)

    def update_run_info(self, run_id: str, run_status: int, end_time: int | None, run_name: str | None) -> None:
        """Set the status of a run, and its end and its name unless they are None."""
        from mlflow.entities import RunStatus

        with self._transaction() as database:
            _check_active(database, run_id)
            database.execute(
                "UPDATE runs SET status = ?, end_time = COALESCE(?, end_time) WHERE run_uuid = ?",
                (RunStatus.to_string(run_status), end_time, run_id),
            )
            if run_name:
                _set_tags(database, run_id, {_NAME: run_name})

    def set_tag(self, run_id: str, tag: Any) -> None:
        """Set a tag of a run."""
        self.log_batch(run_id, (), (), (tag,))

    def log_batch(self, run_id: str, metrics: Sequence[Any], params: Sequence[Any], tags: Sequence[Any]) -> None:
        """Write values of a run."""
        with self._transaction() as database:
            _check_active(database, run_id)
            if params:
                _add_params(database, run_id, {param.key: param.value for param in params})
            if metrics:
                _add_metrics(database, run_id, metrics)
            if tags:
                _set_tags(database, run_id, {tag.key: tag.value for tag in tags})

    def get_run(self, run_id: str) -> Any:
        """Return a run with its params, tags, and the latest value of each metric."""
        with self._transaction(writing=False) as database:
            query = (
                "SELECT name, experiment_id, status, start_time, end_time, lifecycle_stage, artifact_uri "
                "FROM runs WHERE run_uuid = ?"
            )
            found = database.execute(query, (run_id,)).fetchone()
            if found is None:
                raise _missing(f"Run with id={run_id} not found")
            run = _run(run_id, *found)
            of_run = "WHERE run_uuid = ?"
            run.data.params = dict(database.execute(f"SELECT key, value FROM params {of_run}", (run_id,)))
            run.data.tags = dict(database.execute(f"SELECT key, value FROM tags {of_run}", (run_id,)))
            latest = database.execute(f"SELECT key, value, is_nan FROM latest_metrics {of_run}", (run_id,))
            run.data.metrics = {key: math.nan if is_nan else value for key, value, is_nan in latest}
        run.info.run_name = run.info.run_name or run.data.tags.get(_NAME)
        return run


def _run(
    run_id: str, name: Any, experiment_id: Any, status: Any, start_time: Any, end_time: Any, stage: Any, location: Any
) -> Any:
    """Return a run with the attributes of MLflow's that the tracker reads."""
    info = SimpleNamespace(
        run_id=run_id, run_name=name, experiment_id=experiment_id, status=status, start_time=start_time, end_time=end_time,
        lifecycle_stage=stage, artifact_uri=location,
    )  # fmt: skip
    return SimpleNamespace(info=info, data=SimpleNamespace(params={}, metrics={}, tags={}))


def _missing(message: str) -> Exception:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

    return MlflowException(message, RESOURCE_DOES_NOT_EXIST)


def _invalid(message: str) -> Exception:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

    return MlflowException(message, INVALID_PARAMETER_VALUE)


def _check_active(database: sqlite3.Connection, run_id: str) -> None:
    """Check that a run exists and is not deleted."""
    found = database.execute("SELECT lifecycle_stage FROM runs WHERE run_uuid = ?", (run_id,)).fetchone()
    if found is None:
        raise _missing(f"Run with id={run_id} not found")
    if found[0] != "active":
        raise _invalid(f"The run {run_id} must be in the 'active' state. Current state is {found[0]}.")


def _set_tags(database: sqlite3.Connection, run_id: str, tags: dict[str, str]) -> None:
    if not tags.get(_NAME, _NAME):  # a run keeps its name
        tags = {key: value for key, value in tags.items() if key != _NAME}
    database.executemany(
        "INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?) "
        "ON CONFLICT (key, run_uuid) DO UPDATE SET value = excluded.value",
        [(key, value, run_id) for key, value in tags.items()],
    )
    if _NAME in tags:
        database.execute("UPDATE runs SET name = ? WHERE run_uuid = ?", (tags[_NAME], run_id))


def _add_params(database: sqlite3.Connection, run_id: str, params: dict[str, str]) -> None:
    """Add params; none of them may have another value already."""
    added = database.executemany(
        "INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?) ON CONFLICT (key, run_uuid) DO NOTHING",
        [(key, value, run_id) for key, value in params.items()],
    ).rowcount
    if added == len(params):
        return
    query = "SELECT key, value FROM params WHERE run_uuid = ? AND key IN (SELECT value FROM json_each(?))"
    for key, value in database.execute(query, (run_id, json.dumps(list(params)))):
        if value != params[key]:
            raise _invalid(
                f"Changing param values is not allowed. Param {key!r} of run {run_id} is {value[:80]!r} and cannot become "
                f"{params[key][:80]!r}."
            )


def _add_metrics(database: sqlite3.Connection, run_id: str, metrics: Sequence[Any]) -> None:
    """Add values of metrics, and update the latest value of each: that of the highest step, and of the last time in it."""
    rows = []
    for metric in metrics:
        if metric.timestamp < 0:
            raise _invalid(
                f"The metric {metric.key!r} has the time {metric.timestamp}, but times must not be negative."
            )
        # The column accepts neither NaN nor infinity.
        largest = math.copysign(sys.float_info.max, metric.value)
        value = 0.0 if math.isnan(metric.value) else largest if math.isinf(metric.value) else metric.value
        rows.append((metric.key, value, metric.timestamp, run_id, metric.step, math.isnan(metric.value)))
    columns = "(key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, ?)"
    database.executemany(f"INSERT INTO metrics {columns} ON CONFLICT DO NOTHING", rows)
    database.executemany(
        f"INSERT INTO latest_metrics {columns} ON CONFLICT (key, run_uuid) DO UPDATE SET value = excluded.value, "
        "timestamp = excluded.timestamp, step = excluded.step, is_nan = excluded.is_nan "
        "WHERE (excluded.step, excluded.timestamp, excluded.value) > "
        "(latest_metrics.step, latest_metrics.timestamp, latest_metrics.value)",
        rows,
    )
