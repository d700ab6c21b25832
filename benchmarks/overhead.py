"""What a task costs besides its model: an empty task through pool, recorder and commit, with both trackers.

python -m benchmarks.overhead
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import setting

MODULE = "benchmarks.overhead"


def tasks(n: int) -> list[dict[str, Any]]:
    """`n` tasks with a model that does nothing."""
    return [
        {
            "model": {"class": "ConstantModel", "module_path": "rollforge.models", "kwargs": {"value": float(i)}},
            "dataset": {"class": "EmptyDataset", "module_path": "rollforge.models.constant"},
            "record": [{"class": "SignalRecord", "module_path": "rollforge.record"}],
        }
        for i in range(n)
    ]


def milliseconds(folder: Path, tracking: str, n: int) -> float:
    """Return what one task costs in a running worker."""
    from rollforge.run.trainer import TrainerRM
    from rollforge.session import Session, using
    from rollforge.track.base import open_tracker

    session = Session(store=f"sqlite:///{folder}/{n}-{tracking[:6]}.db", tracking=tracking, experiment="empty")
    with using(session):
        open_tracker(session.tracking).prepare()
        trainer = TrainerRM("empty")
        trainer(tasks(3))  # everything imported, the experiment made
        return setting.seconds(lambda: trainer(tasks(n + 3)[3:])) / n * 1000


def pyqlib(task: dict[str, Any]) -> None:
    """pyqlib's TrainerR on MLflow's SQLite store with a model that does nothing."""
    manager = {
        "class": "MLflowExpManager",
        "module_path": "qlib.workflow.expm",
        "kwargs": {"uri": f"sqlite:///{task['folder']}/theirs.db", "default_exp_name": "Experiment"},
    }
    with setting.quiet_pyqlib(task["provider"], exp_manager=manager):
        from qlib.model.trainer import TrainerR

        trainer = TrainerR("empty")
        config = {
            "model": {"class": "Nothing", "module_path": "benchmarks.nothing"},
            "dataset": {"class": "NoData", "module_path": "benchmarks.nothing"},
            "record": [{"class": "SignalRecord", "module_path": "qlib.workflow.record_temp"}],
        }
        trainer([config] * 3)
        took = setting.seconds(lambda: trainer([config] * task["n"])) / task["n"] * 1000
    print(json.dumps({"milliseconds": took}))


def main() -> None:
    """Time all and print one line."""
    options = setting.arguments(__doc__ or "")
    if options.as_pyqlib:
        pyqlib(json.loads(options.as_pyqlib))
        return
    n = 30 if options.small else 100
    with setting.workplace() as folder:
        figures: dict[str, Any] = {
            "mlflow_ms": milliseconds(folder, f"sqlite:///{folder}/mlflow.db", n),
            "folder_ms": milliseconds(folder, f"folder:{folder}/runs", n),
        }
        if setting.has_pyqlib(options):
            options.small = True
            provider = setting.market(options, folder)
            theirs = setting.in_pyqlib(MODULE, {"folder": str(folder), "provider": str(provider), "n": n})
            figures["pyqlib_ms"] = theirs["milliseconds"]
            figures["times_cheaper"] = theirs["milliseconds"] / figures["mlflow_ms"]
        setting.report("overhead", tasks=n, **figures)


if __name__ == "__main__":
    main()
