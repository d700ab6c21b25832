"""The task manager: Qlib's method names and documents for a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rollforge.errors import ConfigError, LeaseLost, TaskNotFound, TaskNotSerializable
from rollforge.session import Session, using
from rollforge.store.manager import TaskManager
from rollforge.store.memory import MemoryStore
from rollforge.transitions import backoff


def test_the_backoff_doubles_up_to_a_minute() -> None:
    """The delay is random, between half and all of 1, 2, 4 … 60 seconds."""
    for attempt, longest in ((1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (99, 60)):
        drawn = [backoff(attempt) for _ in range(200)]
        assert longest / 2 <= min(drawn) < 0.6 * longest
        assert 0.9 * longest < max(drawn) <= longest


@pytest.fixture
def manager() -> TaskManager:
    """A manager of one pool in memory, with three tasks."""
    made = TaskManager("p", store=MemoryStore())
    made.create_task([{"x": 1}, {"x": 2}, {"x": 3}])
    return made


def test_the_pool_has_qlibs_name_too(manager: TaskManager) -> None:
    """Scripts read ``task_pool``; a manager without a pool says so."""
    assert (manager.pool, manager.task_pool) == ("p", "p")
    with pytest.raises(ConfigError, match="has no pool"):
        TaskManager(store=MemoryStore()).task_pool  # noqa: B018 - reading it raises


def test_documents_have_qlibs_keys(manager: TaskManager) -> None:
    """``_id``, ``def``, ``filter``, ``status``, ``res``, ``priority``."""
    task = manager.fetch_task()
    assert task is not None
    assert {"_id", "def", "filter", "status", "res", "priority"} <= set(task)
    assert (task["def"], task["status"]) == ({"x": 1}, TaskManager.STATUS_RUNNING)


def test_creating_returns_ids_in_order_and_a_dry_run_stores_nothing(manager: TaskManager) -> None:
    """Existing tasks keep their ids."""
    ids = manager.create_task([{"x": 3}, {"x": 9}], dry_run=True)
    assert manager.task_stat() == {"waiting": 3}
    assert manager.create_task([{"x": 3}, {"x": 9}]) == ids
    assert manager.task_stat() == {"waiting": 4}


@pytest.mark.parametrize("uri", ["memory://print", "sqlite:///{folder}/tasks.db", "mongodb"])
@pytest.mark.parametrize("dry_run", [True, False])
def test_new_tasks_are_printed_also_in_a_dry_run(
    uri: str, dry_run: bool, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each new definition is printed once, with its id; existing ones are not printed."""
    server = request.getfixturevalue("mongodb") + "/print_nt" if uri == "mongodb" else uri.format(folder=tmp_path)
    manager = TaskManager(f"p{dry_run}", session=Session(store_uri=server))
    manager.remove()
    manager.create_task([{"x": 1}], print_nt=False)
    assert capsys.readouterr().out == ""
    ids = manager.create_task([{"x": 1}, {"x": 2}, {"x": 2}, {"y": "a"}], dry_run=dry_run, print_nt=True)
    assert capsys.readouterr().out == f"new task {ids[1]}: {{'x': 2}}\nnew task {ids[3]}: {{'y': 'a'}}\n"
    assert manager.task_stat() == {"waiting": 1 if dry_run else 3}
    manager.create_task([{"x": 1}], dry_run=dry_run, print_nt=True)
    assert capsys.readouterr().out == ""


def test_a_dry_run_refuses_what_cannot_be_stored(manager: TaskManager) -> None:
    """A dry run raises the errors of a real run: for an object that cannot be stored, or an unknown dependency."""
    with pytest.raises(TaskNotSerializable):
        manager.create_task([{"x": object()}], dry_run=True, print_nt=True)
    with pytest.raises(TaskNotFound):
        manager.create_task([{"x": 9}], dry_run=True, depends_on={"status": "done"})


def test_inserting_returns_the_id_that_scripts_read(manager: TaskManager) -> None:
    """``.inserted_id`` is a plain string, equal to the returned value, for new and existing tasks, with and without a
    result."""
    for inserted in (
        manager.insert_task_def({"x": 1}), manager.insert_task_def({"x": 7}), manager.insert_task({"def": {"x": 8}}),
        manager.insert_task({"def": {"x": 9}, "status": "done", "res": 5}),
    ):  # fmt: skip
        assert type(inserted.inserted_id) is str
        assert inserted == inserted.inserted_id
        assert manager.re_query(inserted.inserted_id)["_id"] == inserted
        assert inserted.acknowledged
    assert manager.insert_task_def({"x": 1}).inserted_id == manager.create_task([{"x": 1}])[0]


def test_an_exception_gives_the_task_back(manager: TaskManager) -> None:
    """KeyboardInterrupt does so, too."""
    with pytest.raises(KeyboardInterrupt), manager.safe_fetch_task():
        raise KeyboardInterrupt
    assert manager.task_stat() == {"waiting": 3}


def test_the_iterator_ends_when_no_task_is_waiting(manager: TaskManager) -> None:
    """The iterator returns each task once."""
    for task in manager.task_fetcher_iter():
        manager.commit_task_res(task, task["def"]["x"] * 10)
    assert [t["res"] for t in manager.query()] == [10, 20, 30]
    assert manager.fetch_task() is None


def test_a_returned_task_can_get_another_status(manager: TaskManager) -> None:
    """By default it gets the status that it was fetched with."""
    task = manager.fetch_task({"x": 2})
    assert task is not None
    manager.return_task(task, TaskManager.STATUS_DONE)
    assert manager.re_query(task["_id"])["status"] == "done"
    with pytest.raises(LeaseLost):
        manager.return_task(task)


def test_resetting_and_prioritising(manager: TaskManager) -> None:
    """``reset_waiting`` resets running tasks, ``prioritize`` moves a task to the front, and ``reset_status`` sets any
    status."""
    manager.fetch_task()
    assert manager.reset_waiting() == 1
    manager.prioritize(next(manager.query({"x": 3})), 7)
    task = manager.fetch_task()
    assert task is not None
    assert task["def"]["x"] == 3
    manager.reset_status({"x": 1}, "done")
    assert manager.task_stat() == {"waiting": 1, "running": 1, "done": 1}
    with pytest.raises(ConfigError, match="is not a status"):
        manager.reset_status({}, "finished")


def test_replacing_inserting_and_removing(manager: TaskManager) -> None:
    """``replace_task`` replaces one task with another; ``insert_task`` accepts Qlib's form."""
    old = next(manager.query({"x": 1}))
    manager.replace_task(old, {"def": {"x": 10}})
    manager.insert_task({"def": {"x": 11}})
    manager.insert_task_def({"x": 12})
    assert {t["def"]["x"] for t in manager.query()} == {10, 2, 3, 11, 12}
    assert manager.remove({"x": {"$gte": 10}}) == 3
    assert manager.list() == ["p"]


def test_a_manager_without_a_pool_can_only_list_pools() -> None:
    """The other methods of a manager without a pool raise an error."""
    manager = TaskManager(store=MemoryStore())
    assert manager.list() == []
    with pytest.raises(ConfigError, match="has no pool"):
        manager.task_stat()


def test_dependencies_by_id_or_by_query(manager: TaskManager) -> None:
    """The tasks that they select must be done first; a query without matches is an error."""
    first = next(manager.query({"x": 1}))["_id"]
    manager.create_task([{"y": 1}], depends_on=[first], priority=9)
    (ensemble,) = manager.create_task([{"y": 2}], depends_on={"x": {"$gte": 1}})
    assert len(manager.re_query(ensemble)["depends_on"]) == 3
    order = []
    for task in manager.task_fetcher_iter():
        order.append(task["def"])
        manager.commit_task_res(task, 1)
    assert order == [{"x": 1}, {"y": 1}, {"x": 2}, {"x": 3}, {"y": 2}]
    with pytest.raises(TaskNotFound, match="depends_on"):
        manager.create_task([{"z": 1}], depends_on={"x": 77})


def test_a_task_in_qlibs_form_is_stored_with_all_its_fields(manager: TaskManager) -> None:
    """The status, result and priority of the task are kept."""
    done = manager.insert_task({"def": {"y": 1}, "status": "part_done", "res": [1, 2]})
    manager.insert_task({"def": {"y": 2}, "priority": 4})
    second = manager.fetch_task(status="part_done")
    assert second is not None
    assert (second["_id"], second["res"]) == (done, [1, 2])
    task = manager.fetch_task()
    assert task is not None
    assert task["def"] == {"y": 2}


def test_pausing_and_cancelling(manager: TaskManager) -> None:
    """No task can be fetched from a paused pool; a cancelled task has the status `failed` and the cause `cancelled`."""
    manager.pause()
    assert manager.fetch_task() is None
    manager.resume()
    assert manager.cancel({"x": {"$gt": 1}}) == 2
    assert {d["cause"] for d in manager.query({"status": "failed"})} == {"cancelled"}


def test_pools_are_listed_on_the_class_too(manager: TaskManager) -> None:
    """Qlib's scripts call it on the class."""
    with using(Session(store_uri="memory://listed")):
        TaskManager("a pool").create_task([{"x": 1}])
        assert TaskManager.list() == ["a pool"]


@pytest.mark.parametrize("status", ["running", "waiting", "failed", "ready"])
def test_a_result_is_committed_as_done_or_part_done(manager: TaskManager, status: str) -> None:
    """Another status is refused before anything changes: a running task that nobody holds could never be fetched."""
    task = manager.fetch_task()
    assert task is not None
    with pytest.raises(ConfigError, match=f"{status}.*Valid values: (done, part_done|part_done, done)"):
        manager.commit_task_res(task, "result", status)
    manager.commit_task_res(task, "result")
    assert manager.re_query(task["_id"])["status"] == "done"


@pytest.mark.parametrize("status", ["running", "ready"])
def test_a_task_is_not_given_back_as_running(manager: TaskManager, status: str) -> None:
    task = manager.fetch_task()
    assert task is not None
    with pytest.raises(ConfigError, match=status):
        manager.return_task(task, status)
    manager.return_task(task)
    assert manager.fetch_task() is not None


def test_a_single_definition_is_one_task(manager: TaskManager) -> None:
    (created,) = manager.create_task({"model": 1})
    assert manager.re_query(created)["def"] == {"model": 1}
    assert manager.create_task({"model": 1}, dry_run=True) == [created]


@pytest.mark.parametrize("given", ["abc", b"abc", 5, None, [[1]], ["abc"], [{"a": 1}, 3]])
def test_what_is_not_a_definition_is_not_stored(manager: TaskManager, given: Any) -> None:
    with pytest.raises(ConfigError, match="dict"):
        manager.create_task(given)
    assert manager.task_stat() == {"waiting": 3}


@pytest.mark.parametrize("given", [{}, {"model": 1}, {"def": "abc"}, "abc"])
def test_a_task_in_qlibs_form_has_a_definition(manager: TaskManager, given: Any) -> None:
    (created,) = manager.create_task([{"k": 0}])
    with pytest.raises(ConfigError, match="dict"):
        manager.insert_task(given)
    with pytest.raises(ConfigError, match="dict"):
        manager.replace_task({"_id": created}, given)
    with pytest.raises(ConfigError, match="status"):
        manager.insert_task({"def": {"k": 1}, "status": "ready"})
    assert [task["def"] for task in manager.query()] == [{"x": 1}, {"x": 2}, {"x": 3}, {"k": 0}]
