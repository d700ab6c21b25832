"""A damaged or foreign MLflow database: reading it raises one error that names the file, or returns a result."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rollforge.errors import RollforgeError, TrackingError
from rollforge.track.base import get_experiment
from rollforge.track.mlflow import MLflowTracker
from rollforge.track.tracker import RunQuery

TABLES = ["experiments", "runs", "params", "metrics", "latest_metrics", "tags", "experiment_tags", "alembic_version"]
HOSTILE: list[Any] = ["x\x1b[31m", b"\xff\xfe", 2**62, None, 1e308]


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The content of a database with an experiment and two runs."""
    folder = tmp_path_factory.mktemp("whole")
    tracker = MLflowTracker(f"sqlite:///{folder}/mlflow.db")
    experiment = get_experiment(tracker, experiment_name="e")
    for i in range(2):
        run = experiment.create_recorder()
        run.log_params(a=i, b="x")
        run.log_metrics(ic=0.5 + i)
        run.set_tags(z="t")
        run.end_run()
    tracker._connection.close()
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    return (folder / "mlflow.db").read_bytes()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Path]:
    """The path of the damaged database."""
    yield tmp_path / "mlflow.db"
    shutil.rmtree(tmp_path, ignore_errors=True)


def read(database: Path) -> int:
    """Read all data of all runs, and return the number of runs."""
    tracker = MLflowTracker(f"sqlite:///{database}")
    try:
        found = 0
        for experiment_id in tracker.experiments().values():
            for run in tracker.search([experiment_id], RunQuery()):
                found += 1
                tracker.history(run.info.id, "ic")
                tracker.files(run.info.id).list()
        return found
    finally:
        tracker._connection.close()


def one_error(database: Path) -> str | None:
    """Read a database and return the message of the error, which must contain the file name once, or None."""
    try:
        read(database)
    except RollforgeError as exc:
        message = str(exc)
        assert message.count(str(database)) == 1, message
        assert message.isprintable()
        return message
    return None


@pytest.mark.parametrize("cut", [50, 100, 4096, 4097, 0.25, 0.5, 0.9])
def test_a_truncated_database_is_one_error(cut: float, content: bytes, database: Path) -> None:
    database.write_bytes(content[: int(cut * len(content)) if cut < 1 else int(cut)])
    assert "cannot be opened" in (one_error(database) or "")


@pytest.mark.parametrize("what", [b"hello" * 1000, bytes(8192), b"SQLite format 3\0" * 512])
def test_a_file_that_is_not_a_database_is_one_error(what: bytes, database: Path) -> None:
    database.write_bytes(what)
    assert "cannot be opened" in (one_error(database) or "")


def test_an_empty_file_becomes_a_database(database: Path) -> None:
    """An empty file becomes a database as if there were no file."""
    database.touch()
    assert read(database) == 0
    assert database.stat().st_size > 4096


@pytest.mark.slow
def test_a_flipped_page_is_one_error_or_a_result(content: bytes, database: Path) -> None:
    """All bits of one page are inverted, for each page in use."""
    used = [i for i in range(0, len(content), 4096) if any(content[i : i + 4096])]
    for at in used[:: max(1, len(used) // 40)]:
        flipped = bytes(b ^ 255 for b in content[at : at + 4096])
        database.write_bytes(content[:at] + flipped + content[at + 4096 :])
        one_error(database)


@pytest.mark.parametrize("table", TABLES)
def test_a_missing_table_is_one_error_or_a_result(table: str, content: bytes, database: Path) -> None:
    database.write_bytes(content)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(f"DROP TABLE {table}")
        connection.commit()
    message = one_error(database)
    if table in ("experiments", "runs", "latest_metrics"):
        assert "cannot be opened" in (message or "")


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_any_value_in_any_column_is_one_error_or_a_result(table: str, content: bytes, database: Path) -> None:
    """SQLite stores values of any type in any column."""
    with closing(sqlite3.connect(":memory:")) as whole:
        whole.deserialize(content)
        columns = [row[1] for row in whole.execute(f"PRAGMA table_info({table})")]
    for column in columns:
        for value in HOSTILE:
            database.write_bytes(content)
            with closing(sqlite3.connect(database)) as connection:
                try:
                    connection.execute("PRAGMA ignore_check_constraints = ON")
                    connection.execute(f"UPDATE {table} SET {column} = ?", (value,))
                    connection.commit()
                except sqlite3.IntegrityError:
                    continue
            one_error(database)


def test_a_run_without_an_artifact_location_is_named(content: bytes, database: Path) -> None:
    database.write_bytes(content)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE runs SET artifact_uri = NULL")
        connection.commit()
    with pytest.raises(TrackingError, match=r"The run '\w+' in sqlite:.* is damaged: its artifacts are in None"):
        read(database)
