"""Collecting the predictions of many recorders, compared with pyqlib's RecorderCollector and RollingGroup.

python -m benchmarks.collecting
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import setting

MODULE = "benchmarks.collecting"


def predictions(recorders: int, rows: int) -> Any:
    """Yield a frame for each of many consecutive windows."""
    codes = [f"I{i:04d}" for i in range(300)]
    days = pd.bdate_range("1990-01-01", periods=recorders * rows // 300)
    random = np.random.default_rng(1)
    per = rows // 300
    for i in range(recorders):
        index = pd.MultiIndex.from_product([days[i * per : (i + 1) * per], codes], names=["datetime", "instrument"])
        yield i, pd.DataFrame({"score": random.standard_normal(len(index))}, index=index)


def pyqlib(task: dict[str, Any]) -> None:
    """Save and collect the same frames with pyqlib."""
    with setting.quiet_pyqlib(task["provider"], exp_manager=setting.mlflow_in(task["folder"])):
        from qlib.model.ens.group import RollingGroup
        from qlib.workflow import R
        from qlib.workflow.task.collect import RecorderCollector

        for i, frame in predictions(task["recorders"], task["rows"]):
            with R.start(experiment_name="many"):
                R.save_objects(**{"pred.pkl": frame, "n": i})

        def key(recorder: Any) -> Any:
            return "model", recorder.load_object("n")

        def collect() -> Any:
            return RecorderCollector("many", RollingGroup(), rec_key_func=key, artifacts_path={"pred": "pred.pkl"})()

        took = setting.seconds(collect)
    print(json.dumps({"seconds": took}))


def child(task: dict[str, Any]) -> None:
    """Collect in a separate process, and measure its memory."""
    from rollforge.collect import RecorderCollector, RollingGroup
    from rollforge.session import Session, using

    def key(recorder: Any) -> Any:
        return "model", recorder.load_object("n")

    with using(Session(tracking_uri=task["tracking"])):
        RecorderCollector("many", RollingGroup(), rec_key_func=lambda recorder: None, rec_filter_func=lambda r: False)()
        before = setting.peak_memory()
        found: list[Any] = []
        took = setting.seconds(lambda: found.append(RecorderCollector("many", RollingGroup(), rec_key_func=key)()))
    (frame,) = next(iter(found[0].values())).values() if "pred" in found[0] else found[0].values()
    size = frame.memory_usage(deep=True).sum() / 2**20
    print(
        json.dumps({"seconds": took, "result_mb": size, "memory_over_result": (setting.peak_memory() - before) / size})
    )


def main() -> None:
    """Time both sides and print one line."""
    options = setting.arguments(__doc__ or "")
    if setting.ran_part(options, pyqlib=pyqlib, child=child):
        return
    from rollforge.session import Session, using
    from rollforge.track.base import get_experiment, open_tracker

    recorders, rows = (30, 3_000) if options.small else (1_000, 30_000)
    with setting.workplace() as folder, using(Session(tracking_uri=f"sqlite:///{folder}/ours.db")) as session:
        tracker = open_tracker(session.tracking_uri)
        tracker.prepare()
        experiment = get_experiment(tracker, experiment_name="many")
        for i, frame in predictions(recorders, rows):
            recorder = experiment.create_recorder()
            recorder.save_objects(**{"pred.pkl": frame, "n": i})
            recorder.end_run()

        runs = [setting.in_child(MODULE, {"tracking": session.tracking_uri}) for _ in range(options.repeats)]
        took = [one["seconds"] for one in runs]
        ours = setting.median(took)
        figures: dict[str, Any] = {
            "recorders": recorders,
            "rows_each": rows,
            "seconds": ours,
            "spread": max(took) / min(took),
        }
        figures |= {name: runs[0][name] for name in ("result_mb", "memory_over_result")}
        ratios: dict[str, float] = {}
        if setting.has_pyqlib(options):
            options.small = True
            task = {
                "folder": str(folder),
                "provider": str(setting.market(options, folder)),
                "recorders": recorders,
                "rows": rows,
            }
            theirs = setting.in_pyqlib(MODULE, task)["seconds"]
            figures["pyqlib_seconds"] = theirs
            ratios = {"faster": theirs / ours}
        setting.report("collecting", ratios, **figures)


if __name__ == "__main__":
    main()
