"""Opening the dashboard's pages of 10,000 tasks, in a process that has read nothing yet.

python -m benchmarks.dashboard
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

from benchmarks import setting


def task(seed: int, window: int) -> dict[str, Any]:
    """Return a definition of about a kilobyte, as of a rolling LightGBM model."""
    first = dt.date(2005, 1, 3) + dt.timedelta(days=20 * window)
    segments = {
        "train": (first - dt.timedelta(days=2500), first - dt.timedelta(days=500)),
        "valid": (first - dt.timedelta(days=499), first - dt.timedelta(days=1)),
        "test": (first, first + dt.timedelta(days=19)),
    }
    clipped = {"class": "RobustZScoreNorm", "kwargs": {"fields_group": "feature", "clip_outlier": True}}
    ranked = {"class": "CSRankNorm", "kwargs": {"fields_group": "label"}}
    handler = {
        "class": "Alpha158", "module_path": "qlib.contrib.data.handler",
        "kwargs": {
            "instruments": "csi300", "start_time": "2000-01-03", "end_time": "2023-12-29", "infer_processors": [clipped],
            "learn_processors": [{"class": "DropnaLabel"}, ranked], "label": ["Ref($close, -2) / Ref($close, -1) - 1"],
        },
    }  # fmt: skip
    kwargs = {
        "loss": "mse",
        "learning_rate": 0.2,
        "seed": seed,
        "num_leaves": 210,
        "lambda_l1": 205.7,
        "lambda_l2": 581.0,
    }
    return {
        "model": {"class": "LGBModel", "module_path": "qlib.contrib.model.gbdt", "kwargs": kwargs},
        "dataset": {"class": "DatasetH", "kwargs": {"handler": handler, "segments": segments}},
        "record": [{"class": "SignalRecord"}, {"class": "SigAnaRecord", "kwargs": {"ana_long_short": False}}],
    }  # fmt: skip


def fill(uri: str, models: int, windows: int) -> None:
    """Store the tasks; most are done, some have failed or run."""
    from rollforge.store.base import open_store

    store = open_store(uri)
    grid = [(seed, window) for window in range(windows) for seed in range(models)]
    store.create("many", [task(*one) for one in grid], model_names=[f"seed {seed}" for seed, _ in grid], max_attempts=1)
    for i in range(len(grid) * 8 // 10):
        (claimed,) = store.claim("many", worker=f"gpu{i % 8}:17:ab-1", lease=3600)
        if i % 100 == 7:
            store.fail(claimed, f'Traceback\n  File "x.py", line 1\n    f()\nKeyError: {i % 3}')
        elif i < len(grid) * 8 // 10 - 16:
            store.commit(claimed, {"ic": 0.1})
    store.close()


def timed(page: Callable[[Any], str], made: Any) -> tuple[float, float]:
    """Return how long a page takes by the clock, and in processor time."""
    seconds: list[float] = []
    cpu = setting.cpu_seconds(lambda: seconds.append(setting.seconds(lambda: page(made))))
    return seconds[0], cpu


def main() -> None:
    """Print the seconds until each page is rendered, by the clock and by processor time."""
    options = setting.arguments(__doc__ or "")
    models, windows = (10, 20) if options.small else (50, 200)
    with setting.workplace() as folder:
        uri = f"sqlite:///{folder}/tasks.db"
        fill(uri, models, windows)

        def opened() -> Any:
            from rollforge.dashboard.pages import Pages
            from rollforge.dashboard.pools import PoolReader
            from rollforge.dashboard.runs import RunReader

            pools = PoolReader(uri)
            return Pages(pools, RunReader(pools.store, f"folder:{folder}/none", given=True))

        opened().experiments({})  # imports and compiles the templates
        figures: dict[str, float] = {"tasks": float(models * windows)}
        pages = {"list": lambda made: made.experiments({}), "experiment": lambda made: made.experiment("many", {})}
        for name, page in pages.items():
            first = [timed(page, opened()) for _ in range(options.repeats)]
            figures[f"{name}_seconds"], figures[f"{name}_cpu_seconds"] = map(
                setting.median, map(list, zip(*first, strict=True))
            )
    setting.report("dashboard", {}, small=options.small, **figures)


if __name__ == "__main__":
    main()
