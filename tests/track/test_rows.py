"""Runs written as rows of MLflow's database: the same rows as MLflow's own methods write, and read back the same."""

from __future__ import annotations

import logging
import math
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings, strategies as st

from rollforge.errors import RecorderNotFound, TrackingError, TrackingUnavailable
from rollforge.track.base import get_experiment
from rollforge.track.mlflow import MLflowTracker, connection, database
from rollforge.track.mlflow.rows import SWITCH, Rows
from rollforge.track.tracker import Metric, RunData, RunQuery

TABLES = ("runs", "tags", "params", "metrics", "latest_metrics")


@pytest.fixture(scope="module")
def trackers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[MLflowTracker]]:
    """Two trackers with an experiment each: one writes rows, the other one leaves everything to MLflow."""
    found = []
    for name in ("rows", "mlflow"):
        folder = tmp_path_factory.mktemp(name)
        tracker = MLflowTracker(f"sqlite:///{folder}/mlflow.db")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(SWITCH, "off" if name == "mlflow" else "on")
            tracker.prepare()
        assert (tracker._connection.rows is None) == (name == "mlflow")
        tracker.create_experiment("e")
        found.append(tracker)
    yield found
    for tracker in found:
        tracker._connection.close()


def rows(tracker: MLflowTracker, run_id: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of a run in each table with their columns in one order, and RUN for its id."""
    found = {}
    with closing(sqlite3.connect(str(tracker._connection.database))) as database:
        for table in TABLES:
            columns = sorted(name for _, name, *_ in database.execute(f"PRAGMA table_info({table})"))
            typed = ", ".join(f'"{c}", typeof("{c}")' for c in columns)
            told = database.execute(f"SELECT {typed} FROM {table} WHERE run_uuid = ?", (run_id,)).fetchall()
            plain = [tuple(_plain(value, tracker, run_id) for value in row) for row in told]
            found[table] = sorted(plain, key=repr)
    return found


def _plain(value: Any, tracker: MLflowTracker, run_id: str) -> Any:
    database = tracker._connection.database
    assert database is not None
    return value.replace(run_id, "RUN").replace(str(database.parent), "FOLDER") if isinstance(value, str) else value


NAMES = st.sampled_from(["a", "b", "l2.valid", "model.kwargs.lr"])
TEXTS = st.sampled_from(["", "1", "two words", "Übung", "'); DROP TABLE runs; --"])
VALUES = st.sampled_from([0.0, -1.5, 1e-300, math.inf, -math.inf, math.nan])
METRICS = st.lists(
    st.builds(Metric, NAMES, VALUES, st.sampled_from([0, 1, -1, 2**62]), st.sampled_from([0.0, 1.5, 2.0]))
)
STEPS = st.one_of(
    st.tuples(
        st.just("write"), st.dictionaries(NAMES, TEXTS), METRICS, st.dictionaries(NAMES, TEXTS), st.lists(NAMES, max_size=2)
    ),
    st.tuples(st.just("update_run"), st.sampled_from(["FINISHED", "FAILED", "RUNNING"]), st.sampled_from([None, 7.25])),
    st.just(("write", {}, [], {"a": "1", "mlflow.runName": "from its tag"}, [])),
    st.just(("write", {}, [], {"a": "2", "mlflow.runName": ""}, [])),
    st.tuples(st.just("rename_run"), st.sampled_from(["new", "newer"])),
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(tags=st.dictionaries(NAMES, TEXTS), steps=st.lists(STEPS, max_size=6))
def test_the_same_calls_leave_the_same_rows(
    trackers: list[MLflowTracker], tags: dict[str, str], steps: list[tuple[Any, ...]]
) -> None:
    from mlflow.version import VERSION

    written = [metric for name, *arguments in steps if name == "write" for metric in arguments[1]]
    missing = [(metric.name, metric.step, metric.time) for metric in written if math.isnan(metric.value)]
    assume(
        not VERSION.startswith("2.") or len(missing) == len(set(missing))
    )  # MLflow 2 fails if it gets the same NaN twice
    outcomes: list[list[object]] = []
    for tracker in trackers:
        experiment_id = tracker.create_experiment("e")
        run = tracker.create_run(experiment_id, "first", tags, start_time=1.5)
        told: list[object] = []
        for name, *arguments in steps:
            try:
                getattr(tracker, name)(run.id, *arguments)
                told.append("done")
            except TrackingError as exc:
                told.append("refused" if "Changing param values is not allowed" in str(exc) else str(exc))
        told.append(rows(tracker, run.id))
        told.append(_comparable(tracker.read(run.id)))
        outcomes.append(told)
    assert outcomes[0] == outcomes[1]


def _comparable(data: RunData) -> tuple[object, ...]:
    info = data.info
    metrics = {name: repr(value) for name, value in data.metrics.items()}
    return info.name, info.status, info.start_time, info.end_time, dict(data.params), metrics, dict(data.tags)


def test_refused_params_leave_nothing_of_their_batch(trackers: list[MLflowTracker]) -> None:
    """Another process may have logged the param after this one has read the run."""
    tracker = trackers[0]
    run = tracker.create_run(tracker.create_experiment("e"), "first", {})
    tracker.write(run.id, {"lr": "0.1"}, [], {})
    with pytest.raises(TrackingError, match=r"Param 'lr' of run \w+ is '0.1' and cannot become '0.2'"):
        tracker.write(run.id, {"new": "1", "lr": "0.2"}, [Metric("ic", 0.5, 0, 1.0)], {"desk": "equities"})
    data = tracker.read(run.id)
    assert (data.params, data.metrics, data.tags.get("desk")) == ({"lr": "0.1"}, {}, None)


@pytest.mark.parametrize("of", [0, 1], ids=["rows", "mlflow"])
def test_a_run_has_a_name(trackers: list[MLflowTracker], of: int) -> None:
    """Without a name, a run has that of its tag or else a random one; two different names are refused."""
    tracker = trackers[of]
    experiment_id = tracker.create_experiment("e")
    named = {"mlflow.runName": "from its tag"}
    for name, tags, expected in (("", named, "from its tag"), ("from its tag", named, "from its tag"), ("", {}, "")):
        data = tracker.read(tracker.create_run(experiment_id, name, tags).id)
        assert data.info.name == (expected or data.info.name) != ""
        assert data.tags["mlflow.runName"] == data.info.name
    with pytest.raises(TrackingError, match=r"'other'.*'from its tag'"):
        tracker.create_run(experiment_id, "other", named)


@pytest.mark.parametrize("of", [0, 1], ids=["rows", "mlflow"])
@pytest.mark.parametrize(
    ("metrics", "tags", "words"),
    [
        ([], {"path": "caf\udce9"}, "surrogates not allowed"),
        ([Metric("ic", 0.5, 2**63, 1.0)], {}, "too large"),
        ([Metric("ic", 0.5, 0, -1.0)], {}, "negative"),
    ],
)
def test_values_that_cannot_be_stored_are_refused_with_their_batch(
    trackers: list[MLflowTracker], of: int, metrics: list[Metric], tags: dict[str, str], words: str
) -> None:
    """The message is about the value, and does not say that the database is damaged."""
    tracker = trackers[of]
    run = tracker.create_run(tracker.create_experiment("e"), "first", {})
    with pytest.raises(TrackingError, match=f"MLflow: .*{words}"):
        tracker.write(run.id, {}, [Metric("rank_ic", 0.25, 0, 1.0), *metrics], {"desk": "equities", **tags})
    if of == 0:
        assert tracker.read(run.id).metrics == {}
    assert "desk" not in tracker.read(run.id).tags


def test_a_database_that_stays_locked_while_it_is_opened_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database without a write-ahead log, such as MLflow's own, cannot be read while another program writes."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    first = MLflowTracker(uri)
    first.prepare()
    first._connection.close()
    for module in (connection, database):
        monkeypatch.setattr(module, "BUSY_MS", 100)
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = DELETE")

        def locked(rows: Rows) -> str:
            other.execute("BEGIN EXCLUSIVE")
            return revision(rows)

        revision = Rows.revision
        monkeypatch.setattr(Rows, "revision", locked)
        with pytest.raises(TrackingUnavailable, match=r"cannot be opened: .*database is locked"):
            MLflowTracker(uri).prepare()


def test_a_process_that_was_stopped_while_it_opened_the_database_is_not_awaited_forever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The error says how to find it. A process that was forked meanwhile, and has the file open, is not awaited at all."""
    monkeypatch.setattr(database, "_LOCKED_SECONDS", 0.3)
    monkeypatch.setattr(database, "_TELL_SECONDS", 0.1)
    with database.locked(tmp_path / "mlflow.db"):
        with pytest.raises(TrackingUnavailable, match=r"has been opening it for 0.3 s, .*fuser .*mlflow\.db\.lock"):
            MLflowTracker(f"sqlite:///{tmp_path}/mlflow.db").prepare()
        (number,) = (int(one) for one in os.listdir("/proc/self/fd") if _target(one).endswith("/.mlflow.db.lock"))
        forked = os.dup(number)
    assert "waiting for another process, which is opening" in caplog.text
    MLflowTracker(f"sqlite:///{tmp_path}/mlflow.db").prepare()
    os.close(forked)


def _target(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:  # the folder itself
        return ""


def test_missing_and_deleted_runs_are_not_found(trackers: list[MLflowTracker]) -> None:
    tracker = trackers[0]
    run = tracker.create_run(tracker.create_experiment("e"), "first", {})
    tracker.delete_run(run.id)
    for run_id, words in ((run.id, "deleted"), ("0" * 32, "not found")):
        with pytest.raises(RecorderNotFound, match=words):
            tracker.read(run_id)
        with pytest.raises(RecorderNotFound, match=words):
            tracker.write(run_id, {"a": "1"}, [], {})
        with pytest.raises(RecorderNotFound, match=words):
            tracker.update_run(run_id, "FINISHED", 1.0)
    gone = tracker.create_experiment("gone")
    tracker.delete_experiment(gone)
    with pytest.raises(TrackingError, match="must be in the 'active' state"):
        tracker.create_run(gone, "first", {})


def test_mlflow_itself_reads_the_run(trackers: list[MLflowTracker]) -> None:
    """MLflow's client, which its user interface is built on, finds the run by its metric and lists its history."""
    from mlflow import MlflowClient

    tracker = trackers[0]
    experiment_id = tracker.create_experiment("read by MLflow")
    run = tracker.create_run(experiment_id, "window 1", {"desk": "equities"})
    tracker.write(run.id, {"lr": "0.1"}, [Metric("ic", 0.5, step, float(step)) for step in range(3)], {})
    tracker.update_run(run.id, "FINISHED", 12.5)
    (found,) = MlflowClient(tracker.uri).search_runs([experiment_id], "metrics.ic > 0.4 and params.lr = '0.1'")
    assert (found.info.run_name, found.info.status, found.info.end_time) == ("window 1", "FINISHED", 12_500)
    assert found.data.tags == {"desk": "equities", "mlflow.runName": "window 1"}
    assert [m.step for m in MlflowClient(tracker.uri).get_metric_history(run.id, "ic")] == [0, 1, 2]


def test_a_write_waits_for_another_process(trackers: list[MLflowTracker]) -> None:
    """The lock is requested when the transaction begins, so it need not be tried again."""
    tracker = trackers[0]
    run = tracker.create_run(tracker.create_experiment("e"), "first", {})
    with closing(sqlite3.connect(str(tracker._connection.database), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE runs SET user_id = 'other' WHERE run_uuid = ?", (run.id,))
        writing = threading.Thread(target=tracker.write, args=(run.id, {"a": "1"}, [], {}))
        writing.start()
        time.sleep(0.3)
        assert writing.is_alive()
        assert tracker.read(run.id).params == {}  # reading does not wait
        other.execute("COMMIT")
        writing.join(10)
    assert tracker.read(run.id).params == {"a": "1"}


@pytest.mark.parametrize(
    ("change", "table"),
    [
        ("ALTER TABLE runs ADD COLUMN priority INTEGER", "runs"),
        ("ALTER TABLE latest_metrics RENAME COLUMN step TO round", "latest_metrics"),
        ("CREATE TRIGGER t AFTER INSERT ON tags BEGIN DELETE FROM params; END", "tags"),
    ],
)
def test_unknown_tables_are_left_to_mlflow(
    change: str, table: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    MLflowTracker(uri).create_experiment("e")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute(change)
        database.commit()
    tracker = MLflowTracker(uri)
    with caplog.at_level(logging.INFO):
        tracker.prepare()
    assert tracker._connection.rows is None
    assert [record.getMessage() for record in caplog.records if "MLflow alone" in record.getMessage()] == [
        f"Runs are written by MLflow alone: its table {table!r} is not as expected."
    ]
    if table != "latest_metrics":
        run = get_experiment(tracker, experiment_name="e").create_recorder("first")
        run.set_tags(desk="equities")
        run.end_run()
        assert tracker.read(run.id).tags["desk"] == "equities"


def test_a_database_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    tracker = MLflowTracker(f"sqlite:///{tmp_path}/mlflow.db")
    run = tracker.create_run(tracker.create_experiment("e"), "first", {})
    tracker._connection.close()
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("DROP TABLE tags")
        database.commit()
    with pytest.raises(TrackingUnavailable, match=r"cannot be opened: .*no such table: tags"):
        tracker.write(run.id, {}, [], {"desk": "equities"})


def test_experiments_are_the_same_as_those_of_mlflow(trackers: list[MLflowTracker]) -> None:
    """A new database has MLflow's default experiment, with the number 0 and artifacts in the database's own folder."""
    outcomes = []
    for tracker in trackers:
        experiment_id = tracker.create_experiment("same 100 %")
        tracker.check_writable("same 100 %")
        path = str(tracker._connection.database)
        folder = str(Path(path).parent)
        with closing(sqlite3.connect(path)) as database:
            names = "name IN ('Default', 'same 100 %')"
            columns = "name, artifact_location, lifecycle_stage, creation_time = last_update_time"
            told = database.execute(
                f"SELECT {columns} FROM experiments WHERE {names} ORDER BY experiment_id"
            ).fetchall()
            tags = database.execute("SELECT key, value FROM experiment_tags WHERE experiment_id = ?", (experiment_id,))
            told = [
                (name, place.replace(folder, "FOLDER").replace(f"/{experiment_id}", "/ID"), *rest)
                for name, place, *rest in told
            ]
            outcomes.append((told, tags.fetchall()))
        assert tracker.find_experiment(name="same 100 %") == (experiment_id, "same 100 %")
        assert tracker.find_experiment(experiment_id=experiment_id) == (experiment_id, "same 100 %")
        assert tracker.create_experiment("same 100 %") == experiment_id  # another process may have created it
        assert tracker.find_experiment(name="none") is None
        assert tracker.find_experiment(experiment_id="99999") is None
    assert trackers[0].find_experiment(experiment_id="x1") is None
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0][0] == ("Default", "FOLDER/mlartifacts/0", "active", 1)


def test_experiments_are_listed_in_the_same_order(trackers: list[MLflowTracker]) -> None:
    tracker = trackers[0]
    for name in ("third", "first", "second"):
        tracker.create_experiment(name)
    gone = tracker.create_experiment("to be deleted")
    tracker.delete_experiment(gone)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH, "off")
        other = MLflowTracker(tracker.uri)
        assert list(other.experiments().items()) == list(tracker.experiments().items())
        assert other._connection.rows is None
    assert "to be deleted" not in tracker.experiments()


LONG = "x" * 7000
QUERIES = st.builds(
    RunQuery,
    status=st.sampled_from([(), ("FINISHED",), ("FAILED", "RUNNING")]),
    name=st.sampled_from([None, "window 1", "window 2", ""]),
    params=st.sampled_from([{}, {"lr": "0.1"}, {"text": LONG}, {"lr": "0.1", "none": "1"}]),
    tags=st.sampled_from([{}, {"desk": "equities"}, {"desk": "'; DROP TABLE runs; --"}, {"l2@valid": "1"}]),
)


@pytest.fixture(scope="module")
def searched(trackers: list[MLflowTracker]) -> tuple[MLflowTracker, MLflowTracker, list[str]]:
    """The same database with rows and by MLflow alone, with some runs in two experiments, and their ids."""
    tracker = trackers[0]
    ids = [tracker.create_experiment(name) for name in ("searched 1", "searched 2")]
    for i in range(12):
        run = tracker.create_run(
            ids[i % 2], f"window {i % 3}", {"desk": "equities"} if i % 4 else {}, start_time=float(i // 2)
        )
        params = {"lr": "0.1"} if i % 3 else {"text": LONG}
        tracker.write(run.id, params, [Metric("ic", math.nan if i == 5 else i / 10, 0, 1.0)], {"l2@valid": str(i % 2)})
        if i % 4 != 3:
            tracker.update_run(run.id, "FINISHED" if i % 2 else "FAILED", 20.0)
        if i == 7:
            tracker.delete_run(run.id)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH, "off")
        other = MLflowTracker(tracker.uri)
        other.prepare()
    return tracker, other, ids


@settings(deadline=None, max_examples=40)
@given(query=QUERIES, of=st.sampled_from([[0], [1], [0, 1]]))
def test_the_same_runs_are_found_in_the_same_order(
    searched: tuple[MLflowTracker, MLflowTracker, list[str]], query: RunQuery, of: list[int]
) -> None:
    tracker, other, ids = searched
    asked = [ids[i] for i in of]
    found, expected = tracker.search(asked, query), other.search(asked, query)
    assert [data.info for data in found] == [data.info for data in expected]
    assert [_comparable(data) for data in found] == [_comparable(data) for data in expected]


def test_the_values_of_a_metric_are_the_same(trackers: list[MLflowTracker]) -> None:
    found = []
    for tracker in trackers:
        run = tracker.create_run(tracker.create_experiment("e"), "first", {})
        values = [
            Metric("ic", value, step, time)
            for value, step, time in ((0.5, 1, 2.0), (math.nan, 0, 3.0), (math.inf, 1, 1.5))
        ]
        tracker.write(run.id, {}, values, {})
        found.append(repr(tracker.history(run.id, "ic")))
        assert tracker.history(run.id, "none") == []
    assert found[0] == found[1]
    with pytest.raises(RecorderNotFound, match="not found"):
        trackers[0].history("0" * 32, "ic")


def test_a_database_of_another_version_is_opened_by_mlflow(tmp_path: Path) -> None:
    """MLflow refuses it, and says which version its tables have."""
    MLflowTracker(f"sqlite:///{tmp_path}/first.db").prepare()
    other = MLflowTracker(f"sqlite:///{tmp_path}/second.db")
    other.prepare()
    other._connection.close()
    with closing(sqlite3.connect(tmp_path / "second.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        database.commit()
    with pytest.raises(TrackingUnavailable, match="its tables have version ffffffffffff"):
        MLflowTracker(other.uri).prepare()


def test_a_database_below_a_file_is_reported(tmp_path: Path) -> None:
    """The message is the same if MLflow need not be imported to open it."""
    MLflowTracker(f"sqlite:///{tmp_path}/first.db").prepare()
    (tmp_path / "notes.txt").write_text("not a folder")
    tracker = MLflowTracker(f"sqlite:///{tmp_path}/notes.txt/mlflow.db")
    tracker.warm_up()
    with pytest.raises(TrackingUnavailable, match=r"cannot be opened: (Not a directory|File exists)"):
        tracker.prepare()


def test_a_database_that_was_replaced_while_it_was_created_is_whole(tmp_path: Path) -> None:
    """Files that a killed process has left beside the new database are removed."""
    MLflowTracker(f"sqlite:///{tmp_path}/first/mlflow.db").prepare()
    (tmp_path / "second").mkdir()
    for left in (".mlflow.db.new", ".mlflow.db.new-wal", ".mlflow.db.new-shm"):
        (tmp_path / "second" / left).write_bytes(b"left behind")
    tracker = MLflowTracker(f"sqlite:///{tmp_path}/second/mlflow.db")
    assert tracker.experiments() == {"Default": "0"}
    assert not list((tmp_path / "second").glob(".mlflow.db.new*"))


def test_threads_and_a_forked_process_have_connections_of_their_own(trackers: list[MLflowTracker]) -> None:
    tracker = trackers[0]
    run = tracker.create_run(tracker.create_experiment("e"), "first", {})

    def write(key: str) -> None:
        for i in range(20):
            tracker.write(run.id, {}, [Metric(key, float(i), i, float(i))], {})

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, ["m0", "m1", "m2", "m3"]))
    pid = os.fork()
    if not pid:
        write("forked")
        os._exit(0)
    write("m4")
    assert os.waitpid(pid, 0)[1] == 0
    assert tracker.read(run.id).metrics == dict.fromkeys(["m0", "m1", "m2", "m3", "m4", "forked"], 19.0)


def test_a_question_mark_in_a_path_leaves_everything_to_mlflow(tmp_path: Path) -> None:
    """To MLflow, it ends the name of the file: rows in another one would not be found."""
    tracker = MLflowTracker(f"sqlite:///{tmp_path}/q%3Fx/mlflow.db")
    run = tracker.create_run(tracker.create_experiment("e"), "first", {})
    assert tracker._connection.rows is None
    assert tracker.read(run.id).info.name == "first"


@pytest.mark.parametrize("damage", ["empty", "no database", "folder", "another version"])
def test_a_damaged_database_in_the_cache_is_replaced(damage: str, tmp_path: Path) -> None:
    """The new database is whole, and so are later ones."""
    MLflowTracker(f"sqlite:///{tmp_path}/first/mlflow.db").prepare()
    kept = database._kept()
    if damage == "another version":
        shared = kept.rename(tmp_path / "shared.db")  # with other tests
        shutil.copyfile(shared, kept)
        with closing(sqlite3.connect(kept)) as connection:
            connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
            connection.commit()
    else:
        kept.unlink()
        kept.mkdir() if damage == "folder" else kept.write_bytes(b"x" * 5000 if damage == "no database" else b"")
    for name in ("second", "third"):
        tracker = MLflowTracker(f"sqlite:///{tmp_path}/{name}/mlflow.db")
        assert tracker.create_experiment("e") == "1"
        assert tracker._connection.rows is not None


def test_an_interrupted_transaction_is_rolled_back(trackers: list[MLflowTracker]) -> None:
    """Whatever ends it, other processes can write at once."""
    tracker = trackers[0]
    rows = tracker._connection.rows
    assert rows is not None
    run = tracker.create_run(tracker.create_experiment("e"), "first", {})

    def interrupted() -> None:
        with rows._transaction() as connection:
            connection.execute("UPDATE runs SET status = 'KILLED' WHERE run_uuid = ?", (run.id,))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with closing(sqlite3.connect(str(tracker._connection.database), timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.rollback()
    assert tracker.read(run.id).info.status == "RUNNING"


def test_text_that_is_not_unicode_is_not_taken_for_damage(trackers: list[MLflowTracker]) -> None:
    tracker = trackers[0]
    for call in (
        lambda: tracker.create_experiment("\ud800"),
        lambda: tracker.search(["0"], RunQuery(tags={"a": "\ud800"})),
    ):
        with pytest.raises(TrackingError, match=r"MLflow: .*surrogates not allowed"):
            call()
    assert tracker.find_experiment(experiment_id="9" * 23) is None
    assert tracker.find_experiment(experiment_id="\uff11") is None
