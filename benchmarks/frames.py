"""Walk-forward on a table, compared with a loop of `fit` and `predict` over the same windows; and storing a table.

The windows are those of two years of training, three months of validation, and a new model each month. What does not depend
on the number of windows (storing the table, starting processes, joining) is the cost that remains when the cost of a window,
from all windows and from the last ones, is subtracted. The estimator uses one thread, so that processor time measures work,
and several processes can use several cores. Of the repeats, the shortest counts: other load on the machine, and memory that a
virtual machine has not used before, only add time.

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
FEW = 4
"""Number of windows at the end from which the cost of a window follows."""


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
    size = (60, 400, 20) if options.small else (100, 1226, 40)
    trees, train, valid = (20, "9M", "1M") if options.small else (200, "2y", "3M")
    frame, model, cores = table(*size), estimator(trees), len(os.sched_getaffinity(0))
    with setting.workplace() as folder:
        os.environ["ROLLFORGE_HOME"] = str(folder / "home")
        found: dict[str, Any] = {}

        def walk(name: str, jobs: int, start: Any = None) -> pd.Series | pd.DataFrame:
            session = rollforge.Session(tracking_uri=f"folder:{folder}/runs", store_uri=f"sqlite:///{folder}/{name}.db")
            result = rollforge.walk_forward(
                model, frame, label=LABEL, train=train, valid=valid, step="1M", horizon=5, start=start, jobs=jobs,
                experiment_name=name, session=session,
            )  # fmt: skip
            found["windows"] = result.windows
            return result.prediction

        measured: dict[str, list[tuple[float, float]]] = {}

        def measure(name: str, work: Callable[[], Any]) -> None:
            measured.setdefault(name, []).append(_times(work, name, found))

        walk("warm", 0, frame.index[-1][0] - pd.Timedelta(days=40))  # imports
        for repeat in range(options.repeats):
            measure("ours", functools.partial(walk, f"one{repeat}", 0))
            windows = found["windows"]
            last = windows["test_start"].iloc[-FEW]
            measure("theirs", functools.partial(loop, model, frame, windows))
            measure("several", functools.partial(walk, f"more{repeat}", cores))
            measure("ours_few", functools.partial(walk, f"one_few{repeat}", 0, last))
            measure("several_few", functools.partial(walk, f"more_few{repeat}", cores, last))
            for name in ("ours", "several"):
                if not found[name].equals(found["theirs"]):
                    raise SystemExit(f"the predictions differ: {name}")
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
            fixed_processor_seconds=_fixed(processor["ours"], processor["ours_few"], len(windows)),
            several_fixed_processor_seconds=_fixed(processor["several"], processor["several_few"], len(windows)),
            several_fixed_seconds=_fixed(clock["several"], clock["several_few"], len(windows)),
            panel_mb=wide.to_numpy().nbytes / 2**20,
        )  # fmt: skip


def _fixed(all_windows: float, few: float, windows: int) -> float:
    """Return the part of the seconds that does not depend on the number of windows."""
    return few - FEW * (all_windows - few) / (windows - FEW)


def _times(work: Callable[[], Any], name: str, found: dict[str, Any]) -> tuple[float, float]:
    """Return the seconds and the processor seconds of `work`, whose result becomes ``found[name]``."""
    clock: list[float] = []

    def run() -> None:
        found[name] = work()

    processor = setting.cpu_seconds(lambda: clock.append(setting.seconds(run)))
    return clock[0], processor


if __name__ == "__main__":
    main()
