"""Walk-forward on a table, compared with a loop of `fit` and `predict` over the same windows; and storing the table.

The estimator uses one thread, so that processor time measures work, and several processes can use several cores. Of the
repeats, the shortest counts: other load on the machine, and memory that a virtual machine has not used before, only add time.

python -m benchmarks.frames
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import setting

MODULE = "benchmarks.frames"
LABEL = "y"


def table(instruments: int, days: int, features: int) -> pd.DataFrame:
    """Return a table of float32 columns by (day, instrument)."""
    rng = np.random.default_rng(0)
    dates = pd.bdate_range("2013-02-08", periods=days, name="day")
    index = pd.MultiIndex.from_product([dates, [f"S{i:04d}" for i in range(instruments)]], names=["day", "stock"])
    values = rng.normal(size=(len(index), features + 1)).astype(np.float32)
    values[:, -1] += 0.1 * values[:, 0]
    return pd.DataFrame(values, index, [*(f"f{i}" for i in range(features)), LABEL], copy=False)


def estimator(trees: int) -> Any:
    """Return the estimator, which uses one thread."""
    from lightgbm import LGBMRegressor

    return LGBMRegressor(n_estimators=trees, num_leaves=31, verbose=-1, n_jobs=1)


def loop(model: Any, frame: pd.DataFrame, windows: pd.DataFrame) -> pd.Series:
    """Return the predictions of the windows, fitted one after the other."""
    from sklearn.base import clone

    features, parts = [name for name in frame if name != LABEL], []
    for _, window in windows.iterrows():
        train = frame.loc[window["train_start"] : window["train_end"]]
        test = frame.loc[window["test_start"] : window["test_end"]]
        fitted = clone(model).fit(train[features], train[LABEL])
        parts.append(pd.Series(fitted.predict(test[features]), test.index))
    return pd.concat(parts).rename("prediction")


def store(task: dict[str, Any]) -> None:
    """Store a Parquet file as a panel in this process, and print the seconds and the memory that it takes."""
    import pyarrow.parquet as pq

    from rollforge.features.frame_folder import write_frame_folder
    from rollforge.market.user_table import check_columns, open_table, read_keys

    features = [name for name in pq.read_schema(task["file"]).names if name not in ("day", "stock", LABEL)]
    parts = {"feature": features, "label": [LABEL]}
    before = setting.peak_memory()

    def write() -> None:
        opened = open_table(task["file"])
        keys = read_keys(opened)
        check_columns(opened, parts, keys)
        write_frame_folder(opened, keys, parts, Path(task["folder"]) / "frames")

    took = [setting.cpu_seconds(write) for _ in range(task["repeats"])]
    print(json.dumps({"seconds": min(took), "first": took[0], "memory": setting.peak_memory() - before}))


def main() -> None:
    """Time all, and print one line."""
    import rollforge

    options = setting.arguments(__doc__ or "")
    if setting.ran_part(options, child=store):
        return
    size = (60, 400, 20) if options.small else (505, 1226, 40)
    frame, model, cores = table(*size), estimator(20 if options.small else 100), len(os.sched_getaffinity(0))
    with setting.workplace() as folder:
        os.environ["ROLLFORGE_HOME"] = str(folder / "home")

        def walk(name: str, jobs: int) -> pd.Series | pd.DataFrame:
            session = rollforge.Session(tracking_uri=f"folder:{folder}/runs", store_uri=f"sqlite:///{folder}/{name}.db")
            result = rollforge.walk_forward(
                model, frame, label=LABEL, train=size[1] // 2, step=size[1] // 10, horizon=2, jobs=jobs, session=session
            )
            found["windows"] = result.windows
            return result.prediction

        found: dict[str, Any] = {}
        walk("warm", 0)
        windows = found["windows"]
        measured: dict[str, list[tuple[float, float]]] = {"ours": [], "theirs": [], "several": []}
        for repeat in range(options.repeats):
            works: dict[str, Callable[[], Any]] = {
                "ours": functools.partial(walk, f"one{repeat}", 0),
                "theirs": functools.partial(loop, model, frame, windows),
                "several": functools.partial(walk, f"more{repeat}", cores),
            }
            for name, work in works.items():
                measured[name].append(_times(work, name, found))
            if not found["ours"].equals(found["theirs"]) or not found["several"].equals(found["theirs"]):
                raise SystemExit("the predictions differ")
        clock = {name: min(one for one, _ in both) for name, both in measured.items()}
        processor = {name: min(one for _, one in both) for name, both in measured.items()}
        file = folder / "table.parquet"
        wide = frame if options.small else table(505, 1226, 158)
        wide.to_parquet(file)
        repeats = max(5, options.repeats)  # the later ones write to memory that the machine has already provided
        stored = setting.in_child(MODULE, {"file": str(file), "folder": str(folder), "repeats": repeats})
        ratios = {
            "one_process": processor["theirs"] / processor["ours"],
            "several": clock["theirs"] / clock["several"],
            "several_processor": processor["theirs"] / processor["several"],
        }
        setting.report(
            "frames", ratios, small=options.small, windows=len(windows), rows=len(frame),
            processor_seconds=processor["ours"], loop_processor_seconds=processor["theirs"],
            several_processor_seconds=processor["several"], seconds=clock["ours"], loop_seconds=clock["theirs"],
            several_seconds=clock["several"], processes=cores, store_rows=len(wide),
            store_processor_seconds=stored["seconds"], store_first_processor_seconds=stored["first"],
            store_memory_mb=stored["memory"],
            panel_mb=wide.to_numpy().nbytes / 2**20,
        )  # fmt: skip


def _times(work: Callable[[], Any], name: str, found: dict[str, Any]) -> tuple[float, float]:
    """Return the seconds and the processor seconds of `work`, whose result becomes ``found[name]``."""
    clock: list[float] = []

    def run() -> None:
        found[name] = work()

    processor = setting.cpu_seconds(lambda: clock.append(setting.seconds(run)))
    return clock[0], processor


if __name__ == "__main__":
    main()
