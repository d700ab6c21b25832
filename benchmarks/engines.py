"""The cost of running tasks through an engine on this machine, compared with local worker processes.

python -m benchmarks.engines [--only dask,ray]

The engine is up, and its agents and the local worker processes have run tasks before the time is taken: starting them is
reported separately.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import setting
from rollforge.engine.executors import Dask, Ray
from rollforge.run.executor import Executor, LocalProcesses
from rollforge.run.job import Event, Job
from rollforge.session import Session
from rollforge.store.base import open_store
from rollforge.testing.actions import act

PROCESSES = 2


@contextlib.contextmanager
def dask() -> Iterator[Executor]:
    """Start a Dask cluster with one worker for each process."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=PROCESSES, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield Dask(cluster.scheduler_address, jobs=PROCESSES)


@contextlib.contextmanager
def ray() -> Iterator[Executor]:
    """Start Ray on this machine."""
    import ray as engine

    engine.init(num_cpus=PROCESSES, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        yield Ray(jobs=PROCESSES)
    finally:
        engine.shutdown()


@contextlib.contextmanager
def local() -> Iterator[Executor]:
    """Use the processes of this machine."""
    yield LocalProcesses(PROCESSES)


def run(executor: Executor, tasks: list[dict[str, Any]]) -> tuple[float, float]:
    """Run tasks, and return the seconds until the first two of them were done, and from then to the last outcome.

    The first two, which are additional, start the processes.
    """
    ends: list[float] = []

    def note(event: Event) -> None:
        if event.kind == "done":
            ends.append(time.perf_counter())

    with setting.workplace() as folder:
        store = open_store(f"sqlite:///{folder}/tasks.db")
        session = Session(threads=1, tracking_uri=f"folder:{folder}/runs", cache=str(Path(folder) / "cache"))
        first = [{"i": -i, "do": "sleep", "seconds": 1.0} for i in range(1, PROCESSES + 1)]
        store.create("p", first + tasks)
        began = time.perf_counter()
        executor.run(Job("p", act), session, note, store=store)
        assert len(ends) == len(tasks) + PROCESSES, len(ends)
        return ends[PROCESSES - 1] - began, ends[-1] - ends[PROCESSES - 1]


def measure(
    start: Callable[[], contextlib.AbstractContextManager[Executor]], empty: int, long: int
) -> dict[str, float]:
    """Return the figures of one engine."""
    with start() as executor:
        starting, seconds = run(executor, [{"i": i, "do": "sleep", "seconds": 2.0} for i in range(long)])
        _, short = run(executor, [{"i": i} for i in range(empty)])
    return {"starting_seconds": starting - 1.0, "long_seconds": seconds, "ms_per_empty_task": 1000 * short / empty}


def main() -> None:
    """Measure and print one line for each engine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="dask,ray", help="engines")
    parser.add_argument("--small", action="store_true", help="fewer tasks")
    options = parser.parse_args()
    sizes = (200, 6) if options.small else (1000, 40)
    work = partial(measure, empty=sizes[0], long=sizes[1])
    here = work(local)
    for name in options.only.split(","):
        found = work({"dask": dask, "ray": ray}[name])
        setting.report(
            f"engines_{name}",
            {
                "long_tasks": here["long_seconds"] / found["long_seconds"],
                "empty_tasks": here["ms_per_empty_task"] / found["ms_per_empty_task"],
            },
            small=options.small, **found, **{f"local_{key}": value for key, value in here.items()},
        )  # fmt: skip


if __name__ == "__main__":
    main()
