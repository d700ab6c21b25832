"""Experiments and runs in MLflow's SQLite file, written and read as rows.

MLflow's own methods open a session for each kind of value, and load the run again in each. To create a run, write it once
and end it, they need forty statements of its object-relational mapper, which is most of what a small task costs. A
transaction of theirs that reads before it writes also fails at once if another process has written in between. Importing
MLflow takes more than a second of processor time in every process; nothing here needs it.

The methods of :class:`Rows` have the names, arguments and errors of MLflow's, and write the same rows, in one transaction
each. If MLflow's tables are not those that this module knows, MLflow does everything.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sqlite3
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rollforge.store.sqlite_database import Connected
from rollforge.track.mlflow.names import CUT, MAX_PARAM, MAX_TAG, name_when_deleted, safe_key
from rollforge.track.mlflow.values import Metric, Param, RunStatus, Tag
from rollforge.track.tracker import RunQuery

__all__ = ["SWITCH", "Declined", "Refused", "Rows", "are_allowed"]

SWITCH = "ROLLFORGE_MLFLOW_ROWS"
"""Environment variable. ``off`` leaves the whole work to MLflow."""

_VALUE = {"key", "value", "run_uuid"}
_METRIC = _VALUE | {"timestamp", "step", "is_nan"}
_EXPERIMENT = {"experiment_id", "name", "artifact_location", "lifecycle_stage", "creation_time", "last_update_time"}
_WORKSPACE = "workspace"
"""A column that the table of experiments has in newer versions of MLflow."""
_TABLES = {
    "runs": {
        "run_uuid", "name", "source_type", "source_name", "entry_point_name", "user_id", "status", "start_time", "end_time",
        "source_version", "lifecycle_stage", "artifact_uri", "experiment_id", "deleted_time",
    },
    "tags": _VALUE, "params": _VALUE, "metrics": _METRIC, "latest_metrics": _METRIC, "experiments": _EXPERIMENT,
    "experiment_tags": {"key", "value", "experiment_id"},
}  # fmt: skip
"""The tables of experiments and runs, with their columns."""
_NAME = "mlflow.runName"
"""The tag that repeats the name of a run."""
_STATUSES = ("RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED")
_LONGEST_NAME = 200


class Refused(Exception):
    """A call is refused, as by MLflow's ``MlflowException``.

    Parameters
    ----------
    message : str
        What is wrong.
    error_code : str
        One of MLflow's codes.
    """

    def __init__(self, message: str, error_code: str) -> None:
        super().__init__(message)
        self.error_code = error_code


class Declined(Exception):
    """A call is left to MLflow: its arguments are unusual."""


def are_allowed(database: Path) -> bool:
    """Return whether a database may be changed without MLflow, by the user's choice, and as MLflow is set up.

    In MLflow's address of a database, a question mark ends its name, so that MLflow uses another file.
    """
    workspaces = os.environ.get("MLFLOW_ENABLE_WORKSPACES", "").lower() in ("true", "1")
    return os.environ.get(SWITCH) != "off" and not workspaces and "?" not in str(database)


class Rows:
    """The experiments and runs of one database, by methods of MLflow's tracking store.

    Parameters
    ----------
    database : Path
        The file.
    busy_ms : int
        How long to wait for a lock, in milliseconds.
    """

    def __init__(self, database: Path, busy_ms: int) -> None:
        self._file = database
        self._busy_ms = busy_ms
        self._local = threading.local()

    def unknown_table(self) -> str:
        """Return the first table that is not as expected; empty if all are."""
        with self._transaction(writing=False) as database:
            for table, columns in _TABLES.items():
                found = {name for _, name, *_ in database.execute(f"PRAGMA table_info({table})")}
                triggers = "SELECT 1 FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ?"
                apart = found - {_WORKSPACE} if table == "experiments" else found
                if apart != columns or database.execute(triggers, (table,)).fetchone():
                    return table
                if (
                    apart != found
                    and database.execute(f"SELECT 1 FROM {table} WHERE workspace <> 'default'").fetchone()
                ):
                    return table
        return ""

    def revision(self) -> str:
        """Return the version of the tables; empty if there is none."""
        with self._transaction(writing=False) as database:
            if not database.execute("PRAGMA table_info(alembic_version)").fetchone():
                return ""
            found = database.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(found[0]) if found else ""

    def _connection(self) -> sqlite3.Connection:
        """Return the connection of this thread and process."""
        opened: Connected | None = getattr(self._local, "opened", None)
        if opened is None or opened.pid != os.getpid():
            self._inherited = opened  # closing the connection of a parent process would release its locks
            connection = sqlite3.connect(
                f"{self._file.as_uri()}?mode=rw", uri=True, timeout=self._busy_ms / 1000, isolation_level=None,
                check_same_thread=False,
            )  # fmt: skip
            opened = self._local.opened = Connected(connection, time.time, str(self._file))
            # In WAL mode, synchronous=NORMAL loses no committed batch if a process is killed.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA foreign_keys = ON")
        return opened.connection

    def close(self) -> None:
        """Close the connection of this thread."""
        opened: Connected | None = getattr(self._local, "opened", None)
        if opened is not None and opened.pid == os.getpid():
            opened.connection.close()
        self._local.opened = None

    @contextlib.contextmanager
    def _transaction(self, *, writing: bool = True) -> Iterator[sqlite3.Connection]:
        """Begin a transaction that is committed at the end of the block, or rolled back if an error is raised.

        It gets the lock for writing when it begins. If it read first, it could not write after another process has.
        """
        try:
            database = self._connection()
            try:
                database.execute("BEGIN IMMEDIATE" if writing else "BEGIN")
                yield database
                database.execute("COMMIT")
            finally:  # of an interrupted transaction too, whose lock would stop all other processes
                if database.in_transaction:
                    self._roll_back(database)
        except sqlite3.Error as exc:
            raise Refused(f"({type(exc).__name__}) {exc}", "TEMPORARILY_UNAVAILABLE") from exc
        except (OverflowError, UnicodeEncodeError) as exc:
            raise _invalid(f"A value cannot be stored: {exc}") from exc  # such as text that is not Unicode
        except (TypeError, ValueError) as exc:
            if not writing:
                raise
            raise _invalid(f"A value cannot be stored: {exc}") from exc

    def _roll_back(self, database: sqlite3.Connection) -> None:
        try:
            database.execute("ROLLBACK")
        except sqlite3.Error:
            self.close()

    # -- experiments ---------------------------------------------------------------------------------------------------

    def get_experiment(self, experiment_id: str) -> Any:
        """Return an experiment, which may be deleted."""
        found = self._experiments("experiment_id = ?", _number(experiment_id))
        if not found:
            raise _missing(f"No Experiment with id={experiment_id} exists")
        return found[0]

    def get_experiment_by_name(self, name: str) -> Any:
        """Return an experiment, which may be deleted; None if there is none."""
        return next(iter(self._experiments("name = ?", name)), None)

    def search_experiments(self, view_type: int, max_results: int, page_token: str | None) -> Any:
        """Return the experiments that are not deleted, latest first, all of them."""
        return _Page(self._experiments("lifecycle_stage = ?", "active"))

    def _experiments(self, condition: str, value: object) -> list[Any]:
        query = (
            "SELECT experiment_id, name, artifact_location, lifecycle_stage FROM experiments "
            f"WHERE {condition} ORDER BY creation_time DESC, experiment_id"
        )
        with self._transaction(writing=False) as database:
            found = database.execute(query, (value,)).fetchall()
        return [
            SimpleNamespace(experiment_id=str(i), name=name, artifact_location=place, lifecycle_stage=stage)
            for i, name, place, stage in found
        ]

    def create_experiment(self, name: str) -> str:
        """Create an experiment, and return its id."""
        root = str(self._file.parent / "mlartifacts")
        if not 0 < len(name) <= _LONGEST_NAME or not _is_plain(root):
            raise Declined
        now = time.time_ns() // 1_000_000
        with self._transaction() as database:
            if database.execute("SELECT 1 FROM experiments WHERE name = ?", (name,)).fetchone():
                raise Refused(f"Experiment(name={name}) already exists.", "RESOURCE_ALREADY_EXISTS")
            query = "INSERT INTO experiments (name, lifecycle_stage, creation_time, last_update_time) VALUES (?, 'active', ?, ?)"
            experiment_id = database.execute(query, (name, now, now)).lastrowid
            database.execute(
                "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?",
                (f"{root}/{experiment_id}", experiment_id),
            )
        return str(experiment_id)

    def rename_deleted(self, experiment_id: str) -> None:
        """Rename an experiment if it is deleted, so that its name can be given to another one."""
        with self._transaction() as database:
            query = "SELECT name FROM experiments WHERE experiment_id = ? AND lifecycle_stage = 'deleted'"
            for (name,) in database.execute(query, (_number(experiment_id),)).fetchall():
                database.execute(
                    "UPDATE experiments SET name = ?, last_update_time = ? WHERE experiment_id = ?",
                    (name_when_deleted(name, experiment_id), time.time_ns() // 1_000_000, _number(experiment_id)),
                )

    def set_experiment_tag(self, experiment_id: str, tag: Tag) -> None:
        """Set a tag of an experiment."""
        with self._transaction() as database:
            _location(database, experiment_id)
            database.execute(
                "INSERT INTO experiment_tags (key, value, experiment_id) VALUES (?, ?, ?) "
                "ON CONFLICT (key, experiment_id) DO UPDATE SET value = excluded.value",
                (tag.key, tag.value, _number(experiment_id)),
            )

    # -- runs ----------------------------------------------------------------------------------------------------------

    def create_run(self, experiment_id: str, user_id: str, start_time: int, tags: Sequence[Tag], run_name: str) -> Any:
        """Create a running run, and return it."""
        values = {tag.key: tag.value for tag in tags}
        named = values.get(_NAME)
        if run_name and named and run_name != named:
            raise _invalid(f"The run has two names, {run_name!r} and, in the tag {_NAME!r}, {named!r}.")
        run_name = run_name or named or ""
        if not run_name:  # MLflow makes one
            raise Declined
        run_id = uuid.uuid4().hex
        with self._transaction() as database:
            location = f"{_location(database, experiment_id)}/{run_id}/artifacts"
            database.execute(
                "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, "
                "source_version, lifecycle_stage, artifact_uri, experiment_id) "
                "VALUES (?, ?, 'UNKNOWN', '', '', ?, 'RUNNING', ?, '', 'active', ?, ?)",
                (run_id, run_name, user_id, start_time, location, int(experiment_id)),
            )
            _set_tags(database, run_id, {**values, _NAME: run_name})
        return _run(run_id, run_name, int(experiment_id), "RUNNING", start_time, None, "active", location)

    def update_run_info(self, run_id: str, run_status: RunStatus, end_time: int | None, run_name: str | None) -> None:
        """Set the status of a run, and its end and its name unless they are None."""
        if run_status.name not in _STATUSES:
            raise Declined
        with self._transaction() as database:
            _check_active(database, run_id)
            database.execute(
                "UPDATE runs SET status = ?, end_time = COALESCE(?, end_time) WHERE run_uuid = ?",
                (run_status.name, end_time, run_id),
            )
            if run_name:
                _set_tags(database, run_id, {_NAME: run_name})

    def set_tag(self, run_id: str, tag: Tag) -> None:
        """Set a tag of a run."""
        self.log_batch(run_id, (), (), (tag,))

    def delete_tag(self, run_id: str, key: str) -> None:
        """Delete a tag of a run."""
        with self._transaction() as database:
            _check_active(database, run_id)
            if not database.execute("DELETE FROM tags WHERE run_uuid = ? AND key = ?", (run_id, key)).rowcount:
                raise _missing(f"No tag with name: {key} in run with id {run_id}")

    def log_batch(self, run_id: str, metrics: Sequence[Metric], params: Sequence[Param], tags: Sequence[Tag]) -> None:
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
            found = _runs(database, "run_uuid = ?", (run_id,))
        if not found:
            raise _missing(f"Run with id={run_id} not found")
        return found[0]

    def runs(self, experiment_ids: Sequence[str], query: RunQuery) -> list[Any]:
        """Return runs that are not deleted, with their values, in any order: all that match a query, and maybe more.

        Parameters
        ----------
        experiment_ids : sequence of str
            Their experiments.
        query : RunQuery
            Its statuses, name, params and tags are looked for; its filter, order and limit are ignored.
        """
        conditions = ["lifecycle_stage = 'active'", "experiment_id IN (SELECT value FROM json_each(?))"]
        values: list[object] = [json.dumps([_number(i) for i in experiment_ids])]
        if query.status:
            conditions.append("status IN (SELECT value FROM json_each(?))")
            values.append(json.dumps(query.status))
        if query.name is not None:
            conditions.append("COALESCE(NULLIF(name, ''), ?) = ?")
            values += [query.name, query.name]
        for table, wanted, most in (("params", query.params, MAX_PARAM), ("tags", query.tags, MAX_TAG)):
            for key, value in wanted.items():
                if len(value) <= most and CUT.search(value) is None:  # others are stored in a shortened form
                    conditions.append(f"run_uuid IN (SELECT run_uuid FROM {table} WHERE key = ? AND value = ?)")
                    values += [safe_key(key), value]
        with self._transaction(writing=False) as database:
            return _runs(database, " AND ".join(conditions), values)

    def get_metric_history(self, run_id: str, metric_key: str, max_results: int, page_token: str | None) -> Any:
        """Return all values of a metric of a run."""
        where = "WHERE run_uuid = ? AND key = ? ORDER BY timestamp, step, value"
        query = f"SELECT value, timestamp, step, is_nan FROM metrics {where}"
        with self._transaction(writing=False) as database:
            if not database.execute("SELECT 1 FROM runs WHERE run_uuid = ?", (run_id,)).fetchone():
                raise _missing(f"Run with id={run_id} not found")
            found = database.execute(query, (run_id, metric_key)).fetchall()
        return _Page(
            Metric(metric_key, math.nan if is_nan else value, when, step) for value, when, step, is_nan in found
        )


class _Page(list[Any]):
    """A list that is complete, as MLflow's ``PagedList``."""

    token = None


def _runs(database: sqlite3.Connection, condition: str, values: Sequence[object]) -> list[Any]:
    """Return runs with their params, tags, and the latest value of each metric."""
    query = (
        "SELECT run_uuid, name, experiment_id, status, start_time, end_time, lifecycle_stage, artifact_uri FROM runs"
    )
    found = {row[0]: _run(*row) for row in database.execute(f"{query} WHERE {condition}", values)}
    one = next(iter(found.values())) if len(found) == 1 else None
    own = "= ?" if one is not None else f"IN (SELECT run_uuid FROM runs WHERE {condition})"
    given: Sequence[object] = (one.info.run_id,) if one is not None else values
    for table in ("params", "tags") if found else ():
        for run_id, key, value in database.execute(
            f"SELECT run_uuid, key, value FROM {table} WHERE run_uuid {own}", given
        ):
            getattr(found[run_id].data, table)[key] = value
    latest = f"SELECT run_uuid, key, value, is_nan FROM latest_metrics WHERE run_uuid {own}"
    for run_id, key, value, is_nan in database.execute(latest, given) if found else ():
        found[run_id].data.metrics[key] = math.nan if is_nan else value
    for run in found.values():
        run.info.run_name = run.info.run_name or run.data.tags.get(_NAME)
    return list(found.values())


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
    return Refused(message, "RESOURCE_DOES_NOT_EXIST")


def _invalid(message: str) -> Exception:
    return Refused(message, "INVALID_PARAMETER_VALUE")


def _number(experiment_id: str) -> int:
    if not (experiment_id.isascii() and experiment_id.isdigit() and len(experiment_id) < 19):
        raise _missing(f"No Experiment with id={experiment_id} exists")
    return int(experiment_id)


def _location(database: sqlite3.Connection, experiment_id: str) -> str:
    """Return the folder of the artifacts of an experiment, after checking that it exists and is not deleted."""
    query = "SELECT artifact_location, lifecycle_stage FROM experiments WHERE experiment_id = ?"
    found = database.execute(query, (_number(experiment_id),)).fetchone()
    if found is None:
        raise _missing(f"No Experiment with id={experiment_id} exists")
    if found[1] != "active":
        raise _invalid(f"The experiment {experiment_id} must be in the 'active' state. Current state is {found[1]}.")
    if not isinstance(found[0], str) or not _is_plain(found[0]):
        raise Declined
    return found[0]


def _is_plain(location: str) -> bool:
    """Return whether a folder is written as an absolute path, to which names can be appended."""
    return (
        location.startswith("/")
        and not location.endswith("/")
        and location.isprintable()
        and not set(location) & set("?#;")
    )


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


def _add_metrics(database: sqlite3.Connection, run_id: str, metrics: Sequence[Metric]) -> None:
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
