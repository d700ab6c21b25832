"""Invalid rows in a pool that others can write to: a report omits a row that cannot be read, with a warning."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from tests.documents.command_line import run

STORES = ["--store", "sqlite:///tasks.db", "--tracking", "folder:runs"]


@pytest.fixture(scope="module")
def trained(small_market: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pool of two trained windows."""
    folder = tmp_path_factory.mktemp("trained")
    loader = {"feature": [["$close"], ["C"]], "label": [["Ref($close,-2)/Ref($close,-1)-1"], ["L"]]}
    handler = {
        "instruments": "all", "start_time": "2022-01-03", "end_time": "2023-09-29", "infer_processors": [{"class": "Fillna"}],
        "data_loader": {"class": "QlibDataLoader", "kwargs": {"config": loader}},
    }  # fmt: skip
    dataset = {
        "handler": {"class": "DataHandlerLP", "module_path": "qlib.data.dataset.handler", "kwargs": handler},
        "segments": {"train": ["2022-01-03", "2022-12-30"], "test": ["2023-01-02", "2023-03-31"]},
    }
    task = {
        "model": {"class": "LinearModel", "module_path": "qlib.contrib.model.linear"},
        "dataset": {"class": "DatasetH", "module_path": "qlib.data.dataset", "kwargs": dataset},
        "record": [{"class": "SignalRecord", "module_path": "qlib.workflow.record_temp"}],
    }
    where = {"data": str(small_market), "store": "sqlite:///tasks.db", "tracking": "folder:runs", "experiment": "p"}
    (folder / "own.yaml").write_text(yaml.safe_dump({"rollforge": where, "task": task, "rolling": {"step": 60}}))
    done = run("run", "own.yaml", "--jobs", "1", cwd=folder)
    assert done.returncode == 0, done.stderr
    with closing(sqlite3.connect(folder / "tasks.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        (
            "results",
            "plain",
            '{"recorder":{"experiment_id":"1","recorder_id":"../../etc","tracking":"folder:/nowhere/runs"}}',
        ),
        ("results", "plain", '{"recorder":{"experiment_id":"1","recorder_id":7,"tracking":{"a":1}}}'),
        ("results", "plain", '{"recorder":{"experiment_id":"1","recorder_id":"0000","tracking":"folder:{runs}"}}'),
        ("results", "plain", '{"$tuple": 5}'),
        ("results", "blob", b"cos\nsystem\n(S'true'\ntR."),
        ("tasks", "definition", "{"),
        ("tasks", "definition", '{"dataset": 5}'),
        ("tasks", "definition", '{"dataset":{"kwargs":{"segments":{"test":["x","y"]}}}}'),
    ],
)
def test_a_report_omits_an_invalid_row_with_a_warning(
    table: str, column: str, value: str | bytes, trained: Path, tmp_path: Path
) -> None:
    """The report omits the row whether the definition, the result, or the reference to the run is invalid."""
    shutil.copytree(trained, tmp_path / "copy")
    if isinstance(value, str):
        value = value.replace("{runs}", str(trained / "runs"))
    with closing(sqlite3.connect(tmp_path / "copy" / "tasks.db")) as connection, connection:
        (task_id,) = connection.execute("SELECT min(id) FROM results").fetchone()
        if column == "blob":
            connection.execute("UPDATE results SET plain = NULL")
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE id = ?", (value, task_id))
    done = run("report", "p", *STORES, cwd=tmp_path / "copy")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert task_id in done.stdout + done.stderr
    assert (tmp_path / "copy" / "results" / "p" / "report.html").exists()


@pytest.mark.slow
def test_a_missing_tracking_store_is_an_error(trained: Path, tmp_path: Path) -> None:
    """Since all runs are missing, there is one error, and no report without results."""
    shutil.copytree(trained, tmp_path / "copy")
    hidden = trained.with_name(trained.name + "-hidden")
    trained.rename(hidden)  # the results refer to the runs in this folder
    try:
        done = run(
            "report",
            "p",
            "--store",
            "sqlite:///tasks.db",
            "--tracking",
            f"folder:{trained}/runs",
            cwd=tmp_path / "copy",
        )
    finally:
        hidden.rename(trained)
    assert done.returncode == 2
    assert "There is no tracking store" in done.stderr
