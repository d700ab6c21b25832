"""Walk-forward on a table, compared with a loop of `fit` and `predict` over the same windows; and storing the table.

python -m benchmarks.frames
"""

from __future__ import annotations

import os
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
    """Return the estimator, which uses as many threads as the session."""
    from lightgbm import LGBMRegressor

    return LGBMRegressor(n_estimators=trees, num_leaves=31, verbose=-1, n_jobs=len(os.sched_getaffinity(0)))


def loop(model: Any, frame: pd.DataFrame, windows: pd.DataFrame) -> pd.Series:
    """Return the predictions of the windows, fitted one after the other."""
    from sklearn.base import clone

    features, parts = [name for name in frame if name != LABEL], []
    for _, window in windows.iterrows():
        train = frame.loc[window["train_start"] : window["train_end"]]
        test = frame.loc[window["test_start"] : window["test_end"]]
        fitted = clone(model).fit(train[features], train[LABEL])
        parts.append(pd.Series(fitted.predict(test[features]), test.index))
    return pd.concat(parts)


def store(folder: Path, frame: pd.DataFrame, repeats: int) -> dict[str, float]:
    """Time storing a Parquet file as a panel."""
    from rollforge.features.frame_folder import write_frame_folder
    from rollforge.market.user_table import check_columns, open_table, read_keys

    file = folder / "table.parquet"
    frame.to_parquet(file)
    features = [name for name in frame if name != LABEL]

    def write() -> None:
        opened = open_table(file)
        keys = read_keys(opened)
        check_columns(opened, {"features": features, "label": [LABEL]}, keys)
        write_frame_folder(opened, keys, {"feature": features, "label": [LABEL]}, folder / "frames")

    return setting.timed(write, repeats)


def main() -> None:
    """Time all, and print one line."""
    import rollforge

    options = setting.arguments(__doc__ or "")
    size = (60, 400, 20) if options.small else (505, 1226, 40)
    frame, model = table(*size), estimator(20 if options.small else 100)
    with setting.workplace() as folder:
        os.environ["ROLLFORGE_HOME"] = str(folder / "home")

        def walk(name: str, jobs: int) -> Any:
            session = rollforge.Session(tracking_uri=f"folder:{folder}/runs", store_uri=f"sqlite:///{folder}/{name}.db")
            return rollforge.walk_forward(
                model, frame, label=LABEL, train=size[1] // 2, step=size[1] // 10, horizon=2, jobs=jobs, session=session
            )

        walk("warm", 0)
        ours, theirs, several = [], [], []
        for repeat in range(options.repeats):
            result: list[Any] = []
            ours.append(setting.seconds(lambda repeat=repeat, kept=result: kept.append(walk(f"one{repeat}", 0))))  # type: ignore[misc]
            prediction: list[Any] = []
            theirs.append(
                setting.seconds(lambda kept=prediction, by=result: kept.append(loop(model, frame, by[0].windows)))  # type: ignore[misc]
            )
            several.append(setting.seconds(lambda repeat=repeat: walk(f"more{repeat}", len(os.sched_getaffinity(0)))))  # type: ignore[misc]
            if not result[0].prediction.equals(prediction[0].rename("prediction")):
                raise SystemExit("the predictions differ")
        wide = frame if options.small else table(505, 1226, 158)
        stored = store(folder, wide, options.repeats)
        ratios = {
            "one_process": setting.median(theirs) / setting.median(ours),
            "several": setting.median(theirs) / setting.median(several),
        }
        setting.report(
            "frames", ratios, small=options.small, windows=len(result[0].windows), rows=len(frame),
            seconds=setting.median(ours), spread=max(ours) / min(ours), loop_seconds=setting.median(theirs),
            several_seconds=setting.median(several), store_rows=len(wide), store_seconds=stored["seconds"],
        )  # fmt: skip


if __name__ == "__main__":
    main()
