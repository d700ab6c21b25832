"""The work for one task, window or model does not grow with their number."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.collect import coverage
from rollforge.collect.coverage import ExpectedWindow, check_coverage
from rollforge.generate.naming import model_names
from rollforge.store.base import TaskStore
from rollforge.store.memory import MemoryStore
from rollforge.task import Status

Prepare = Callable[[TaskStore, list[str]], object]
Work = Callable[[TaskStore, list[str]], object]


def steps(work: Callable[[], object]) -> int:
    """Return how many instructions of Python code a call executes, the same number on every machine."""
    number = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal number
        frame.f_trace_opcodes = True
        number += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return number


def pool_of(number: int) -> tuple[TaskStore, list[str]]:
    store = MemoryStore()
    made = store.create("p", [{"x": i} for i in range(number)], model_names=["m"] * number, batch="b")
    return store, [one.id for one in made]


def nothing(store: TaskStore, ids: list[str]) -> None: ...


def claim(store: TaskStore, ids: list[str], **arguments: Any) -> None:
    (task,) = store.claim("p", worker="w", lease=60, claim="c", avoid="elsewhere", **arguments)
    store.renew(task, 60)
    store.commit(task, None)


def fail(store: TaskStore, ids: list[str]) -> None:
    (task,) = store.claim("p", worker="w", lease=60)
    store.give_back(task)
    (task,) = store.claim("p", worker="w", lease=60)
    store.fail(task, "error")
    store.retry("p", {"_id": task.id})


def needed_by_one(store: TaskStore, ids: list[str]) -> None:
    store.create("p", [{"all": 1}], depends_on=ids)


def needing_one(store: TaskStore, ids: list[str]) -> None:
    store.create("p", [{"y": i} for i in range(len(ids))], depends_on=ids[:1])


def last_of_a_chain(store: TaskStore, ids: list[str]) -> None:
    for i in range(len(ids)):
        last = store.create("p", [{"y": i}], depends_on=ids[-1:])[0].id
        ids.append(last)


@pytest.mark.parametrize(
    ("prepare", "work"),
    [
        pytest.param(nothing, claim, id="claim and commit"),
        pytest.param(nothing, lambda s, ids: claim(s, ids, batch="b"), id="claim of a batch"),
        pytest.param(nothing, lambda s, ids: claim(s, ids, query={"model_name": "m"}), id="claim by name"),
        pytest.param(nothing, lambda s, ids: claim(s, ids, query={"x": {"$gte": 0}}), id="claim by definition"),
        pytest.param(needed_by_one, claim, id="claim and commit one that a task of many dependencies needs"),
        pytest.param(nothing, fail, id="fail"),
        pytest.param(nothing, lambda s, ids: s.has_free("p", Status.WAITING), id="has_free"),
        pytest.param(nothing, lambda s, ids: s.count("p", batch="b"), id="count a batch"),
        pytest.param(nothing, lambda s, ids: s.count("p", {"status": "waiting"}), id="count a status"),
        pytest.param(nothing, lambda s, ids: list(s.query("p", {"_id": ids[3]})), id="query of an id"),
        pytest.param(nothing, lambda s, ids: s.cancel("p", {"_id": {"$in": ids[3:5]}}), id="cancel"),
        pytest.param(nothing, lambda s, ids: s.prioritize("p", {"_id": ids[3]}, 7), id="prioritize"),
        pytest.param(nothing, lambda s, ids: s.remove("p", {"_id": ids[3]}), id="remove"),
        pytest.param(nothing, lambda s, ids: s.replace("p", ids[3], {"z": 1}), id="replace"),
        pytest.param(nothing, lambda s, ids: s.create("p", [{"x": -1}], batch="b", creation="c"), id="create"),
        pytest.param(needing_one, lambda s, ids: s.create("p", [{"z": 1}], depends_on=ids[:1]), id="create the same"),
        pytest.param(last_of_a_chain, lambda s, ids: s.create("p", [{"z": 1}], depends_on=ids[-1:]), id="chain"),
    ],
)
def test_work_for_one_task_does_not_grow_with_the_pool(prepare: Prepare, work: Work) -> None:
    """An operation on one task takes about as many steps among 400 tasks as among 50."""
    found = []
    for number in (50, 400):
        store, ids = pool_of(number)
        prepare(store, ids)
        found.append(steps(lambda store=store, ids=ids: work(store, ids)))  # type: ignore[misc]
    assert found[1] < 1.5 * found[0], found


@pytest.mark.parametrize("operator", ["$in", "$nin"])
def test_a_query_of_many_ids_looks_at_each_once(operator: str) -> None:
    """The steps of a query with a list of ids grow in proportion to the list."""
    found = []
    for number in (50, 400):
        store, ids = pool_of(number)
        found.append(steps(lambda store=store, ids=ids: list(store.query("p", {"_id": {operator: ids}}))))  # type: ignore[misc]
    assert found[1] < 12 * found[0], found


# -- windows -----------------------------------------------------------------------------------------------------------

DAYS = np.array(pd.bdate_range("1990-01-01", periods=2000), dtype="datetime64[D]")


def check_gaps(number: int) -> object:
    windows = [ExpectedWindow(f"w{i}", DAYS[5 * i], DAYS[5 * i + 3], "failed") for i in range(number)]
    return check_coverage(windows, DAYS, {})


def check_overlapping(number: int) -> object:
    windows = [ExpectedWindow(f"w{i}", DAYS[5 * i], DAYS[-1], "failed") for i in range(number)]
    return check_coverage(windows, DAYS, {})


def name(number: int) -> object:
    segments = [{"test": (str(DAYS[5 * i]), str(DAYS[5 * i + 4]))} for i in range(number)]
    tasks = [{"model": {"class": "A"}, "dataset": {"kwargs": {"segments": one}}} for one in segments]
    return model_names(tasks, [f"name {i}" for i in range(number)])


@pytest.mark.parametrize("work", [check_gaps, check_overlapping, name])
def test_the_work_for_a_window_does_not_grow(work: Callable[[int], object]) -> None:
    """Eight times as many windows take about eight times as many steps."""
    work(2)
    found = [steps(lambda number=number: work(number)) for number in (40, 320)]  # type: ignore[misc]
    assert found[1] < 12 * found[0], found


def test_days_are_compared_once_for_all_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """The days that the same models test are found once, and not for each model."""
    calls = []
    pattern = coverage._pattern
    monkeypatch.setattr(coverage, "_pattern", lambda tested: calls.append(tested.shape) or pattern(tested))
    check_coverage([ExpectedWindow(f"w{i}", DAYS[0], DAYS[9 - i], "failed", f"m{i}") for i in range(5)], DAYS, {})
    assert calls == [(5, len(DAYS))]
