"""Values that the dashboard computes of a pool: the grid, the expected end, the lanes of workers, groups of failures."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollforge.dashboard.grid import Cell, level_of, levels, make_grid, matching, page_of, useful_dimensions
from rollforge.dashboard.lanes import timeline
from rollforge.dashboard.outline import NO_OUTLINE, outline
from rollforge.dashboard.pools import PoolReader, PoolTask, Snapshot
from rollforge.dashboard.progress import durations, progress, running
from rollforge.store.base import TaskState, open_store
from rollforge.store.memory import MemoryStore
from rollforge.task import Attempt, Ending, Status, encode

from .serving import definition


def task(
    name: str, status: Status, model: str = "m", start: float | None = None, end: float | None = None, **more: object
) -> PoolTask:
    """Return a task of worker ``w`` with times."""
    state = TaskState(name, status, model, worker="w" if start is not None else None, started_at=start, finished_at=end)
    return PoolTask(state, NO_OUTLINE, model, **more)  # type: ignore[arg-type]


def test_the_outline_of_a_definition() -> None:
    """Class, seed, loss and test segment are read; the variant is the same for all windows and differs between seeds."""
    first, second, other = (outline(encode(definition(*one))) for one in ((7, 1), (7, 2), (8, 1)))
    assert (first.model_class, first.seed, first.loss, first.window) == (
        "LGBModel",
        "7",
        "mse",
        "2020-01-01 to 2020-01-31",
    )
    assert first.variant == second.variant != other.variant


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"model": 7, "dataset": []}', "[" * 100_000, '{"dataset": {"kwargs": 1}}']
)
def test_a_damaged_definition_has_an_empty_outline(text: str) -> None:
    """Others may have written a pool, so any text is accepted."""
    assert outline(text).window == ""


@pytest.mark.parametrize(
    ("segment", "window"),
    [
        ('["2020-01-02", null]', "2020-01-02 to the end"),
        ('[["2020-01-02", "2020-01-31"], ["2020-03-01", "2020-03-31"]]', "2020-01-02 to 2020-03-31"),
        ('{"$slice": ["2020-01-02", "2020-02-03", null]}', "2020-01-02 to the end"),
        ("[]", ""),
        ("7", ""),
    ],
)
def test_the_forms_of_a_test_segment(segment: str, window: str) -> None:
    """A segment can be open, have several intervals, or be no segment at all."""
    assert outline(f'{{"dataset": {{"kwargs": {{"segments": {{"test": {segment}}}}}}}}}').window == window


def pool(tmp_path: Path) -> PoolReader:
    """Return a pool of two seeds and three windows, one of which has failed."""
    uri = f"sqlite:///{tmp_path}/tasks.db"
    store = open_store(uri)
    store.create("p", [definition(seed, month) for month in (2, 1, 3) for seed in (7, 8)], max_attempts=1)
    (one,) = store.claim("p", worker="host:17", lease=60)
    store.fail(one, 'Traceback\n  File "x.py", line 1\n    f()\nKeyError: 1')
    store.close()
    return PoolReader(uri)


def test_the_grid_of_a_pool(tmp_path: Path) -> None:
    """Windows are sorted by their days, and models without names are named after their differences."""
    tasks = pool(tmp_path).snapshot("p").tasks
    grid = make_grid(tasks, "model", {tasks[1].id: 0.5})
    assert grid.windows == ("2020-01-01 to 2020-01-31", "2020-02-01 to 2020-02-29", "2020-03-01 to 2020-03-31")
    assert [row.name for row in grid.rows] == ["seed=7", "seed=8"]
    cells = [[cell.status if cell else None for cell in row.cells] for row in grid.rows]
    assert cells == [["waiting", "failed", "waiting"], ["waiting"] * 3]
    assert [cell.value for cell in grid.rows[1].cells if cell] == [None, 0.5, None]
    assert useful_dimensions(tasks) == ["model", "seed"]


def test_a_cell_of_several_tasks_shows_what_needs_attention() -> None:
    """Of several tasks in a cell, a failed one is shown, then a running one; the value is the mean."""
    tasks = (task("a", Status.DONE), task("b", Status.RUNNING), task("c", Status.WAITING))
    assert Cell(tasks).status == "running"
    assert Cell((*tasks, task("d", Status.FAILED))).status == "failed"
    (row,) = make_grid(tasks, "class", {"a": 1.0, "b": 3.0, "c": float("nan")}).rows
    assert row.cells == (Cell(tasks, 2.0),)


def test_a_large_grid_is_shown_in_parts(tmp_path: Path) -> None:
    """Parts together contain each window once; a page beyond the last one is the last one."""
    grid = make_grid(pool(tmp_path).snapshot("p").tasks)
    parts = [page_of(grid, page, 4) for page in (1, 2, 3)]
    assert [(part.windows, page, pages) for part, page, pages in parts] == [
        (grid.windows[:2], 1, 2), (grid.windows[2:], 2, 2), (grid.windows[2:], 2, 2),
    ]  # fmt: skip
    assert [len(row.cells) for row in parts[0][0].rows] == [2, 2]
    assert [row.name for row in page_of(grid, 6, 1)[0].rows] == ["seed=8"]


def test_tasks_are_filtered(tmp_path: Path) -> None:
    """All conditions must be met; the part of a name matches in any case."""
    tasks = pool(tmp_path).snapshot("p").tasks
    assert len(matching(tasks)) == 6
    assert [t.model for t in matching(tasks, status="failed")] == ["seed=7"]
    assert len(matching(tasks, part="SEED=8")) == 3
    assert len(matching(tasks, dimension="seed", value="8", window="2020-01-01 to 2020-01-31")) == 1


def test_colours_of_values() -> None:
    """The strongest colour belongs to the 90 % quantile of the sizes, so that an outlier does not make the others pale."""
    assert levels([0.01 * i for i in range(1, 11)] + [5.0]) == pytest.approx(0.1)
    assert [level_of(v, 0.1) for v in (0.02, -0.05, 0.3, None)] == [1, -2, 3, 0]
    assert levels([]) == 0.0
    assert level_of(0.2, 0.0) == 0


def test_the_expected_end() -> None:
    """Two tasks run; the rest of both, and one waiting task of each model, are divided between two lanes.

    Model a takes 10 s and b 30 s. At 100 s, a task of a has run for 4 s and one of b for 20 s: 6 + 10 s are left of them, and
    10 + 30 s of the waiting ones. 56 s of work in two lanes are 28 s.
    """
    tasks = (
        task("1", Status.DONE, "a", 0, 8), task("2", Status.DONE, "a", 8, 20), task("3", Status.DONE, "b", 0, 30),
        task("4", Status.RUNNING, "a", 96), task("5", Status.RUNNING, "b", 80),
        task("6", Status.WAITING, "a"), task("7", Status.WAITING, "b"), task("8", Status.FAILED, "b", 0, 1),
    )  # fmt: skip
    found = progress(Snapshot(100.0, tasks))
    assert durations(tasks) == {"a": 10.0, "b": 30.0, "": pytest.approx(50 / 3)}
    assert (found.left_seconds, found.expected_end, found.begun, found.last_change) == (28.0, 128.0, 0, 96)
    assert [(one.task.id, one.seconds, one.share) for one in running(Snapshot(100.0, tasks))] == [
        ("5", 20.0, pytest.approx(2 / 3)), ("4", 4.0, 0.4),
    ]  # fmt: skip


def test_no_end_is_expected_without_workers_or_finished_tasks() -> None:
    """Nothing is known before the first task is done, or while nothing runs; a lost task counts as waiting."""
    done, waiting = task("1", Status.DONE, start=0, end=8), task("2", Status.WAITING)
    assert progress(Snapshot(9.0, (done, waiting))).left_seconds is None
    assert progress(Snapshot(9.0, (task("3", Status.RUNNING, start=1), waiting))).left_seconds is None
    assert progress(Snapshot(9.0, (done, task("3", Status.RUNNING, start=1, is_lost=True)))).left_seconds is None
    assert progress(Snapshot(9.0, (done, task("3", Status.RUNNING, start=8)))).left_seconds == 7.0
    assert progress(Snapshot(9.0, ())).expected_end is None


def test_lanes_of_a_worker() -> None:
    """Tasks that overlap are in different lanes; a lane without a task is idle while tasks wait and others run."""
    tasks = (
        task("a", Status.DONE, start=0, end=40), task("b", Status.DONE, start=10, end=60),
        task("c", Status.RUNNING, start=40), task("d", Status.WAITING),
    )  # fmt: skip
    found = timeline(Snapshot(100.0, tasks))
    assert found is not None
    assert (found.start, found.end) == (0, 100.0)
    assert [[bar.tasks[0].id for bar in lane.bars] for lane in found.lanes] == [["a", "c"], ["b"]]
    assert [(lane.busy, lane.idle_since) for lane in found.lanes] == [(1.0, None), (pytest.approx(50 / 90), 60)]
    # A worker has claimed two short tasks at once, and ran one after the other.
    together = (task("x", Status.DONE, start=0, end=1), task("y", Status.DONE, start=0, end=1.5), *tasks[2:])
    short = timeline(Snapshot(100.0, together))
    assert short is not None
    assert [lane.idle_since for lane in short.lanes] == [None, None]
    finished = timeline(Snapshot(100.0, tasks[:2]))
    assert finished is not None
    assert (finished.end, [lane.idle_since for lane in finished.lanes]) == (60, [None, None])


def test_short_tasks_that_were_claimed_at_once_are_in_one_lane() -> None:
    """A task ran for as long as its run says, and not since it was claimed; a run cannot have begun before that."""
    tasks = tuple(task(name, Status.DONE, start=0, end=end) for name, end in (("a", 10), ("b", 20), ("c", 30)))
    found = timeline(Snapshot(100.0, tasks), {"a": 11.0, "b": 9.5, "c": 9.5})
    assert found is not None
    (lane,) = found.lanes
    assert [(bar.tasks[0].id, bar.start, bar.end) for bar in lane.bars] == [
        ("a", 0, 10),
        ("b", 10.5, 20),
        ("c", 20.5, 30),
    ]
    side_by_side = timeline(Snapshot(100.0, tasks), {"a": 10.0, "b": 20.0})
    assert side_by_side is not None
    assert len(side_by_side.lanes) == 3


def test_lanes_have_the_earlier_attempts_at_a_task() -> None:
    """A task that failed on one worker and succeeded on another is in both lanes. A task that waits after an attempt, or was
    cancelled later, is only where it ran, and until that attempt ended."""
    tasks = (
        task("a", Status.DONE, start=50, end=80),
        task("b", Status.FAILED, start=0, end=99),
        task("c", Status.WAITING),
    )
    ended = ((0, 10, 40, "u", Ending.FAILED), (1, 0, 20, "w", Ending.RETURNED), (1, 25, 45, "w", Ending.FAILED))
    past = tuple(
        (tasks[i], Attempt(number=1, ending=ending, worker=worker, started_at=start, ended_at=end))
        for i, start, end, worker, ending in ended
    )
    found = timeline(Snapshot(100.0, tasks, past))
    assert found is not None
    assert (found.start, found.end) == (0, 80)
    shown = {
        lane.worker: [(bar.tasks[0].id, bar.start, bar.end, bar.status) for bar in lane.bars] for lane in found.lanes
    }
    assert shown == {
        "u": [("a", 10, 40, "failed")],
        "w": [("b", 0, 20, "returned"), ("b", 25, 45, "failed"), ("a", 50, 80, "done")],
    }
    assert [lane.busy for lane in found.lanes] == [pytest.approx(30 / 70), pytest.approx(70 / 80)]


def test_short_tasks_of_a_lane_are_one_bar() -> None:
    """Thousands of tasks that are shorter than what can be drawn become one bar, which keeps all of them."""
    tasks = tuple(task(str(i), Status.DONE, start=float(i), end=i + 0.9) for i in range(5000))
    found = timeline(Snapshot(6000.0, tasks))
    assert found is not None
    (lane,) = found.lanes
    assert len(lane.bars) <= 1500
    assert sum(len(bar.tasks) for bar in lane.bars) == 5000
    assert lane.busy == pytest.approx(0.9, abs=1e-3)


def test_a_pool_without_attempts_has_no_timeline() -> None:
    """Waiting tasks have no times."""
    assert timeline(Snapshot(9.0, (task("a", Status.WAITING),))) is None


def test_failures_are_grouped_by_the_line_of_their_error(tmp_path: Path) -> None:
    """Each cause is listed once, with its tasks and the traceback of one of them."""
    reader = pool(tmp_path)
    found = reader.failures("p")
    assert [(group.reason, len(group.tasks)) for group in found.groups] == [("KeyError: 1", 1)]
    assert (found.grouped, found.total) == (1, 1)
    assert found.groups[0].error.startswith("Traceback")


def test_a_store_without_states_is_read_by_queries() -> None:
    """A store that is not SQL gives the same tasks as one that reads states without definitions."""
    store = MemoryStore()
    store.create("p", [definition(7, 1)], model_names=["trees"])
    (found,) = PoolReader("memory://", store).snapshot("p").tasks
    assert (found.model, found.outline.window, found.status) == ("trees", "2020-01-01 to 2020-01-31", Status.WAITING)
    assert found.horizon == "2"


def test_a_lost_task_is_recognized_by_its_lease(tmp_path: Path) -> None:
    """The dashboard does not end expired leases; it compares them with the clock of the store."""
    uri, now = f"sqlite:///{tmp_path}/tasks.db", [1000.0]
    store = open_store(uri, clock=lambda: now[0])
    store.create("p", [definition(7, 1), definition(7, 2)])
    store.claim("p", worker="dead:1", lease=60)
    now[0] += 61
    store.claim("p", worker="other:1", lease=60, query={"_id": store.states("p")[1].id})  # type: ignore[attr-defined]
    assert [t.is_lost for t in PoolReader(uri, store).snapshot("p").tasks] == [False, False]  # claiming ends the lease
    now[0] += 61
    assert [t.is_lost for t in PoolReader(uri, store).snapshot("p").tasks] == [False, True]
