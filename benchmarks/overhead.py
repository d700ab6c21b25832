"""The cost of a task apart from its model: an empty task through pool, recorder and commit, with both trackers.

python -m benchmarks.overhead
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import setting

MODULE = "benchmarks.overhead"


def tasks(n: int) -> list[dict[str, Any]]:
    """Return `n` tasks with a model that does nothing."""
    return [
        {
            "model": {"class": "ConstantModel", "module_path": "rollforge.models", "kwargs": {"value": float(i)}},
            "dataset": {"class": "EmptyDataset", "module_path": "rollforge.models.constant"},
            "record": [{"class": "SignalRecord", "module_path": "rollforge.record"}],
        }
        for i in range(n)
    ]


Cost = dict[str, float]
"""Milliseconds per task: wall-clock time and processor time."""


def cost(parts: list[Any], train: Callable[[Any], Any]) -> Cost:
    """Train lists of tasks, and return the cost of one task: the median over the lists."""
    clock: list[float] = []
    processor: list[float] = []
    for part in parts:
        processor.append(setting.cpu_seconds(lambda part=part: clock.append(setting.seconds(lambda: train(part)))))  # type: ignore[misc]
    n = len(parts[0])
    return {"ms": setting.median(clock) / n * 1000, "cpu_ms": setting.median(processor) / n * 1000}


def ours(folder: Path, tracking: str, n: int, repeats: int, *, pool: bool) -> Cost:
    """Return the cost of a task with TrainerR, or with TrainerRM and a worker in this process."""
    from rollforge.run.pool_trainer import TrainerRM
    from rollforge.run.trainer import TrainerR
    from rollforge.session import Session, using
    from rollforge.track.base import open_tracker

    session = Session(store_uri=f"sqlite:///{folder}/{tracking[:6]}.db", tracking_uri=tracking, experiment_name="empty")
    with using(session):
        open_tracker(session.tracking_uri).prepare()
        trainer = TrainerRM("empty") if pool else TrainerR("empty")
        trainer(tasks(3))  # imports everything and creates the experiment
        all_tasks = tasks(3 + n * repeats)[3:]  # a pool does not train a task twice
        return cost([all_tasks[i * n : (i + 1) * n] for i in range(repeats)], trainer)


def pyqlib(task: dict[str, Any]) -> None:
    """Time pyqlib's TrainerR on MLflow's SQLite store, with a model that does nothing."""
    with setting.quiet_pyqlib(task["provider"], exp_manager=setting.mlflow_in(task["folder"])):
        from qlib.model.trainer import TrainerR

        trainer = TrainerR("empty")
        config = {
            "model": {"class": "Nothing", "module_path": "benchmarks.nothing"},
            "dataset": {"class": "NoData", "module_path": "benchmarks.nothing"},
            "record": [{"class": "SignalRecord", "module_path": "qlib.workflow.record_temp"}],
        }
        trainer([config] * 3)
        took = cost([[config] * task["n"]] * task["repeats"], trainer)
    print(json.dumps(took))


def main() -> None:
    """Time all variants and print one line."""
    options = setting.arguments(__doc__ or "")
    if setting.ran_part(options, pyqlib=pyqlib):
        return
    n = 30 if options.small else 100
    with setting.workplace() as folder:
        figures: dict[str, Any] = {}
        ratios: dict[str, float] = {}
        for kind, tracking in (("mlflow", f"sqlite:///{folder}/mlflow.db"), ("folder", f"folder:{folder}/runs")):
            for name, pool in (("r", False), ("rm", True)):
                found = ours(folder, tracking, n, options.repeats, pool=pool)
                figures |= {f"{kind}_{name}_{unit}": value for unit, value in found.items()}
        if setting.has_pyqlib(options):
            options.small = True
            provider = setting.market(options, folder)
            task = {"folder": str(folder), "provider": str(provider), "n": n, "repeats": options.repeats}
            # Both are compared with its TrainerR: its TrainerRM does the same and needs a MongoDB server.
            theirs = setting.in_pyqlib(MODULE, task)
            for unit, value in theirs.items():
                figures[f"pyqlib_r_{unit}"] = value
                ratios |= {f"{name}_{unit}": value / figures[f"mlflow_{name}_{unit}"] for name in ("r", "rm")}
        setting.report("overhead", ratios, tasks=n, **figures)


if __name__ == "__main__":
    main()
