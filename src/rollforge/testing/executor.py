"""Conformance test suite for executors, including your own.

::

    class TestMine(ProcessesSuite):
        @pytest.fixture
        def executor(self):
            return Mine(jobs=1)

The executor must run one task at a time. :class:`ExecutorSuite` holds what all executors promise, :class:`ProcessesSuite`
also what those do whose tasks run in processes of their own, and :class:`ClusterSuite` what those on other machines do.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rollforge.errors import RequirementsNotMet
from rollforge.run.executor import Executor
from rollforge.run.job import Event, Job, ignore_event
from rollforge.session import Session
from rollforge.store.memory import MemoryStore
from rollforge.task import Cause, Status, TaskRecord
from rollforge.testing.actions import act, finish

__all__ = ["ClusterSuite", "ExecutorSuite", "ProcessesSuite", "RunTasks"]

Task = Mapping[str, Any]


class RunTasks:
    """Runs tasks with an executor, from a store in memory.

    Parameters
    ----------
    executor : Executor
        The executor under test.
    folder : path
        Folder for the runs and the cache of the session.
    """

    def __init__(self, executor: Executor, folder: Path) -> None:
        self.executor = executor
        self.folder = folder
        self.store = MemoryStore()
        self.session = Session(threads=1, tracking_uri=f"folder:{folder}/runs", cache=str(folder / "cache"))

    def __call__(
        self, *tasks: Task, max_attempts: int = 1, on_event: Callable[[Event], None] = ignore_event, **options: Any
    ) -> list[TaskRecord]:
        """Run tasks, and return them in the order in which they were passed.

        Parameters
        ----------
        *tasks : mapping
            Tasks for :func:`~rollforge.testing.actions.act`; each is given its place as ``i``.
        max_attempts : int
            Attempts at each task.
        on_event : callable
            Called with each event.
        **options
            Further options of the :class:`~rollforge.run.job.Job`.
        """
        self.store.create("p", [{**task, "i": i} for i, task in enumerate(tasks)], max_attempts=max_attempts)
        self.run(on_event, **options)
        return self.tasks()

    def run(self, on_event: Callable[[Event], None] = ignore_event, **options: Any) -> None:
        """Run the tasks that are in the store."""
        job = Job("p", **{"task_func": act, **options})
        self.executor.run(job, self.session, on_event, store=self.store)

    def tasks(self) -> list[TaskRecord]:
        """Return all tasks."""
        return sorted(self.store.query("p"), key=lambda task: task.definition["i"])


@contextmanager
def _once(condition: Callable[[], object], action: Callable[[], object]) -> Iterator[None]:
    """Call a function in another thread as soon as a condition is true, unless the block ends before."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            if condition():
                action()
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _interrupt(event: Event) -> None:
    """Raise what Ctrl-C does when the first task starts."""
    raise KeyboardInterrupt


class ExecutorSuite:
    """Subclass it and provide the fixture `executor`, which runs one task at a time."""

    large_bytes = 20_000_000
    """Size of a large result."""
    many_tasks = 1000
    """How many short tasks are run one after the other."""

    @pytest.fixture
    def executor(self) -> Executor:
        """The executor under test."""
        raise NotImplementedError("a suite needs the fixture 'executor'")

    @pytest.fixture
    def run(self, executor: Executor, tmp_path: Path) -> RunTasks:
        """Runs tasks with the executor under test."""
        return RunTasks(executor, tmp_path)

    def test_results_are_stored(self, run: RunTasks) -> None:
        assert [(t.status, t.result) for t in run({}, {}, {})] == [(Status.DONE, i) for i in range(3)]

    def test_tasks_with_a_higher_priority_run_first(self, run: RunTasks, tmp_path: Path) -> None:
        at = str(tmp_path / "order")
        run.store.create("p", [{"i": 0, "at": at}, {"i": 1, "at": at}])
        run.store.create("p", [{"i": 2, "at": at}], priority=5)
        run.run()
        assert Path(at).read_text(encoding="utf-8").split() == ["2", "0", "1"]

    def test_the_second_stage_is_given_the_result_of_the_first(self, run: RunTasks) -> None:
        run({"do": "fill", "bytes": 2}, {}, after=Status.PART_DONE)
        run.run(task_func=finish, before=Status.PART_DONE)
        assert [(t.status, t.result) for t in run.tasks()] == [
            (Status.DONE, ["xx", "finished"]),
            (Status.DONE, [1, "finished"]),
        ]

    def test_a_task_that_raises_has_failed_and_the_others_continue(self, run: RunTasks) -> None:
        done = run({"do": "raise"}, {}, {"do": "leave"})
        assert [(t.status, t.cause) for t in done] == [
            (Status.FAILED, Cause.RAISED), (Status.DONE, None), (Status.FAILED, Cause.RAISED),
        ]  # fmt: skip
        assert "ValueError: task 0 cannot be done" in str(done[0].error)
        assert "SystemExit" in str(done[2].error)

    def test_a_failed_attempt_is_followed_by_another(self, run: RunTasks, tmp_path: Path) -> None:
        (done,) = run({"do": "raise once", "file": str(tmp_path / "tried")}, max_attempts=2)
        assert (done.status, len(done.failed_by)) == (Status.DONE, 1)

    def test_a_task_that_cannot_run_here_is_left_without_an_attempt(self, run: RunTasks) -> None:
        with pytest.raises(RequirementsNotMet, match="No module named 'absent'"):
            run({"do": "need", "module": "absent"}, {})
        left, done = run.tasks()
        assert (left.status, left.attempt, done.status) == (Status.WAITING, 0, Status.DONE)

    def test_what_a_task_logs_is_stored_with_it(self, run: RunTasks) -> None:
        logged, silent = run({"do": "print"}, {})
        assert "logged 0" in logged.log
        assert "logged 0" not in silent.log

    def test_a_large_result_is_stored(self, run: RunTasks) -> None:
        (done,) = run({"do": "fill", "bytes": self.large_bytes})
        assert len(done.result) == self.large_bytes

    def test_many_short_tasks(self, run: RunTasks) -> None:
        assert [t.result for t in run(*[{}] * self.many_tasks)] == list(range(self.many_tasks))

    def test_events_are_reported_in_order(self, run: RunTasks) -> None:
        events: list[Event] = []
        done = run({}, {"do": "raise"}, on_event=events.append)
        places = {task.id: task.definition["i"] for task in done}
        assert [(places[e.task_id], e.kind) for e in events] == [
            (0, "started"), (0, "done"), (1, "started"), (1, "failed"),
        ]  # fmt: skip
        assert "cannot be done" in events[-1].error
        assert len({e.worker for e in events}) == 1

    def test_after_an_interrupt_no_task_is_held(self, run: RunTasks) -> None:
        """Neither the task that was about to start nor one that was claimed ahead, and no attempt was counted."""
        with pytest.raises(KeyboardInterrupt):
            run({}, {}, on_event=_interrupt)
        assert [(t.status, t.attempt) for t in run.tasks()] == [(Status.WAITING, 0)] * 2

    def test_data_are_prepared_before_the_first_task(self, executor: Executor, run: RunTasks) -> None:
        seen: list[str] = []
        run.store.create("p", [{"i": 0}])
        executor.run(
            Job("p", act), run.session, lambda event: seen.append(event.kind), store=run.store,
            while_starting=lambda: seen.append("prepared"),
        )  # fmt: skip
        assert seen == ["prepared", "started", "done"]


class ProcessesSuite(ExecutorSuite):
    """The further promises of executors whose tasks run in processes of their own."""

    hold_seconds = 2.0
    """Longer than a lease or a time limit after which the executor would consider a silent task lost, if it is short."""

    @pytest.mark.parametrize(
        ("do", "cause", "error"),
        [
            ("exit", Cause.EXITED, "exited with code 7"),
            ("kill", Cause.KILLED, "SIGKILL"),
            ("crash", Cause.KILLED, "SIGSEGV"),
        ],
    )
    def test_the_death_of_a_process_is_the_failure_of_its_task(
        self, run: RunTasks, do: str, cause: Cause, error: str
    ) -> None:
        died, other = run({"do": do}, {})
        assert (died.status, died.cause, other.status) == (Status.FAILED, cause, Status.DONE)
        assert error in str(died.error)

    def test_a_task_whose_process_is_killed_has_another_attempt(self, run: RunTasks, tmp_path: Path) -> None:
        (done,) = run({"do": "kill once", "file": str(tmp_path / "tried")}, max_attempts=2)
        assert (done.status, len(done.failed_by)) == (Status.DONE, 1)

    def test_a_task_that_takes_too_long_is_ended(self, run: RunTasks) -> None:
        slow, other = run({"do": "sleep", "seconds": 600}, {}, timeout=1.0)
        assert (slow.cause, other.status) == (Cause.TIMED_OUT, Status.DONE)
        assert "more than 1 s" in str(slow.error)

    def test_a_task_that_needs_too_much_memory_fails(self, run: RunTasks) -> None:
        large, other = run({"do": "allocate", "bytes": 2**33}, {}, memory=2**32)
        assert (large.cause, other.status) == (Cause.OUT_OF_MEMORY, Status.DONE)

    def test_a_cancelled_task_is_ended(self, run: RunTasks) -> None:
        def cancel(event: Event) -> None:
            if event.kind == "started":
                run.store.cancel("p", {"do": "sleep"})

        cancelled, other = run({"do": "sleep", "seconds": 600}, {}, on_event=cancel)
        assert (cancelled.cause, other.status) == (Cause.CANCELLED, Status.DONE)

    def test_a_task_is_kept_while_c_code_holds_the_interpreter(self, run: RunTasks) -> None:
        """Nothing in the process of the task can run in this time: it cannot send signs of life."""
        held, other = run({"do": "hold", "seconds": self.hold_seconds}, {})
        assert [(t.status, t.attempt) for t in (held, other)] == [(Status.DONE, 0)] * 2

    def test_what_a_task_prints_is_stored_with_it(self, run: RunTasks) -> None:
        printed, silent = run({"do": "print"}, {})
        assert "printed 0" in printed.log
        assert "printed 0" not in silent.log

    def test_tasks_share_a_process_unless_each_is_to_have_its_own(self, run: RunTasks) -> None:
        first, second = (t.result for t in run({"do": "pid"}, {"do": "pid"}))
        assert first == second != os.getpid()
        assert len({t.result for t in run({"do": "pid", "x": 0}, {"do": "pid", "x": 1}, force_release=True)}) == 3

    def test_libraries_use_the_threads_of_a_task(self, run: RunTasks) -> None:
        assert [t.result for t in run({"do": "threads"})] == ["1"]

    def test_a_running_task_that_is_interrupted_is_given_back(self, run: RunTasks, tmp_path: Path) -> None:
        """Ctrl-C in the main thread of this process, while a task runs elsewhere."""
        at = tmp_path / "began"
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs that ignore it
        try:
            with pytest.raises(KeyboardInterrupt), _once(at.exists, lambda: os.kill(os.getpid(), signal.SIGINT)):
                run({"do": "sleep", "seconds": 600, "at": str(at)}, {})
        finally:
            signal.signal(signal.SIGINT, before)
        assert [(t.status, t.attempt) for t in run.tasks()] == [(Status.WAITING, 0)] * 2


class ClusterSuite(ProcessesSuite):
    """The further promises of executors whose tasks run on other machines. Provide the fixture `lose_machine` too."""

    @pytest.fixture
    def lose_machine(self) -> Callable[[], None]:
        """Returns a function that kills the machine, or the process, on which the task runs; another one must follow."""
        raise NotImplementedError("a suite needs the fixture 'lose_machine'")

    @pytest.mark.parametrize("attempts", [1, 2])
    def test_the_task_of_a_lost_machine_has_failed_once(
        self, run: RunTasks, lose_machine: Callable[[], None], tmp_path: Path, attempts: int
    ) -> None:
        at, tried = tmp_path / "began", tmp_path / "tried"
        task = {"do": "sleep once", "at": str(at), "file": str(tried)}
        # The number of its process is the last that the task writes.
        with _once(lambda: tried.exists() and tried.read_text(encoding="utf-8"), lose_machine):
            lost, other = run(task, {}, max_attempts=attempts)
        assert other.status is Status.DONE
        assert (lost.status, lost.cause) == ((Status.FAILED, Cause.LOST) if attempts == 1 else (Status.DONE, None))
        assert len(lost.failed_by) == 1
        assert at.read_text(encoding="utf-8").split() == ["0"] * attempts
