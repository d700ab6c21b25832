"""Many lanes of one machine, and how busy they are: everything is real, except for fits that sleep.

python -m benchmarks.lanes [--lanes 16,64,256] [--seconds 5] [--rounds 5] [--store sqlite,postgres] [--tracking folder,mlflow]

Each lane is a worker process with its own connection to the tracking store, driven by the usual worker pool with claims, leases,
commits and the progress display of a terminal. Tasks have an empty dataset, and a model whose fit sleeps for half to one and a
half times the mean. The processes are forked from one that has imported everything, because as many new interpreters would
need more memory and time than a small machine has. A lane is busy while it fits. This is measured from when all lanes fit for
the first time until the first of them ends its last fit, so that neither the start nor the end counts.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import setting


def tasks(count: int, seconds: float, notes: Path) -> list[dict[str, Any]]:
    """Return tasks whose fits sleep."""
    draw = random.Random(0)
    return [
        {
            "model": {
                "class": "SleepingModel", "module_path": "benchmarks.sleeping",
                "kwargs": {"seconds": seconds * draw.uniform(0.5, 1.5), "notes": str(notes)},
            },
            "dataset": {"class": "EmptyDataset", "module_path": "rollforge.models.constant"},
            "record": [{"class": "SignalRecord", "module_path": "rollforge.record"}],
            "number": i,
        }
        for i in range(count)
    ]  # fmt: skip


@contextlib.contextmanager
def store_in(kind: str, folder: Path) -> Iterator[str]:
    """Yield the URI of an empty store."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/tasks.db"
        return
    from rollforge.testing.postgres import PostgresServer

    with PostgresServer() as server:
        yield server.uri


def measure(lanes: int, seconds: float, rounds: int, store_kind: str, tracking_kind: str) -> dict[str, Any]:
    """Run `rounds` tasks per lane, and return the share of time in which the lanes were busy."""
    from rich.console import Console

    from benchmarks.sleeping import open_everything
    from rollforge.cli.progress import RunProgress
    from rollforge.run.execute import task_train
    from rollforge.run.job import Job
    from rollforge.run.runners import LocalRunners
    from rollforge.run.worker_pool import WorkerPool
    from rollforge.session import Session, using
    from rollforge.store.base import open_store
    from rollforge.track.base import get_experiment, open_tracker

    with setting.workplace() as folder, store_in(store_kind, folder) as store_uri:
        tracking = f"sqlite:///{folder}/mlflow.db" if tracking_kind == "mlflow" else f"folder:{folder}/runs"
        session = Session(
            threads=1, store_uri=store_uri, tracking_uri=tracking, cache=str(folder / "cache"), experiment_name="lanes"
        )
        (notes := folder / "notes").mkdir()
        with using(session):
            tracker = open_tracker(tracking)
            tracker.prepare()
            get_experiment(tracker, experiment_name="lanes")
            store = open_store(store_uri)
            listed = store.create("p", tasks(lanes * rounds, seconds, notes))
            job = Job("p", task_train, preload=open_everything, kwargs={"experiment_name": "lanes"}, own=True)
            runners = LocalRunners(session, job, lanes)
            for process in runners.current():
                process._context = multiprocessing.get_context("forkserver")  # type: ignore[attr-defined]
            console = Console(file=io.StringIO(), force_terminal=True, width=120)
            progress = RunProgress(
                {task.id: f"task {i}" for i, task in enumerate(listed)}, done=0, jobs=lanes, console=console,
                log_file=folder / "log.txt",
            )  # fmt: skip
            used = os.times()
            began = time.monotonic()
            with progress:
                WorkerPool(store, job, session, lanes, progress, runners=runners).run()
            took = time.monotonic() - began
            now = os.times()
        done = {status.value: number for status, number in store.count("p").items()}
        fits = [[json.loads(line) for line in file.read_text().splitlines()] for file in notes.iterdir()]
    start, stop = max(lane[0][0] for lane in fits), min(lane[-1][1] for lane in fits)
    fitting = sum(max(0.0, min(end, stop) - max(begin, start)) for lane in fits for begin, end, _ in lane)
    pauses = sorted(b[0] - a[1] for lane in fits for a, b in itertools.pairwise(lane) if a[1] > start and b[0] < stop)
    own = [(lane[-1][2] - lane[0][2]) / (len(lane) - 1) for lane in fits if len(lane) > 1]
    driver = (now.user + now.system - used.user - used.system) / len(listed)
    return {
        "lanes": lanes, "fit_seconds": seconds, "tasks": len(listed), "done": done, "took_seconds": took,
        "measured_seconds": stop - start, "busy": fitting / (len(fits) * (stop - start)),
        "median_pause_ms": 1000 * setting.median(pauses), "longest_pause_ms": 1000 * pauses[-1],
        "driver_cpu_ms_per_task": 1000 * driver, "lane_cpu_ms_per_task": 1000 * setting.median(own),
        "load": os.getloadavg()[0],
    }  # fmt: skip


def main() -> None:
    """Measure and print one line for each combination."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lanes", default="16,64,256", help="numbers of lanes")
    parser.add_argument("--seconds", type=float, default=5.0, help="mean duration of a fit")
    parser.add_argument("--rounds", type=int, default=5, help="tasks per lane")
    parser.add_argument("--store", default="sqlite,postgres", help="task stores")
    parser.add_argument("--tracking", default="folder,mlflow", help="tracking stores")
    options = parser.parse_args()
    multiprocessing.set_forkserver_preload(["__main__", "benchmarks.sleeping"])
    for lanes in map(int, options.lanes.split(",")):
        for store in options.store.split(","):
            for tracking in options.tracking.split(","):
                found = measure(lanes, options.seconds, options.rounds, store, tracking)
                setting.report("lanes", {"busy": found.pop("busy")}, store=store, tracking=tracking, **found)


if __name__ == "__main__":
    main()
