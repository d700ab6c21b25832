"""The whole rolling job, trained and collected, compared with pyqlib 0.9.7's prediction for the same job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rollforge.collect import RecorderCollector, RollingGroup
from rollforge.generate import RollingGen
from rollforge.run.trainer import TrainerR
from rollforge.session import Session, using

GOLDEN = Path(__file__).parents[1] / "golden"


def template() -> dict[str, Any]:
    """Return the job of tests/golden/README.md."""
    handler = {
        "class": "Alpha158",
        "module_path": "qlib.contrib.data.handler",
        "kwargs": {
            "instruments": "all",
            "start_time": "2013-02-08",
            "end_time": "2018-02-07",
            "fit_start_time": "2013-02-08",
            "fit_end_time": "2014-12-31",
        },
    }
    segments = {
        "train": ("2013-02-08", "2014-12-31"),
        "valid": ("2015-01-01", "2015-06-30"),
        "test": ("2015-07-01", "2018-02-07"),
    }
    model = {
        "class": "LGBModel",
        "module_path": "qlib.contrib.model.gbdt",
        "kwargs": {
            "loss": "mse",
            "colsample_bytree": 0.8879,
            "learning_rate": 0.0421,
            "subsample": 0.8789,
            "lambda_l1": 205.6999,
            "lambda_l2": 580.9768,
            "max_depth": 8,
            "num_leaves": 210,
            "num_threads": 2,
        },
    }
    return {
        "model": model,
        "dataset": {
            "class": "DatasetH",
            "module_path": "qlib.data.dataset",
            "kwargs": {"handler": handler, "segments": segments},
        },
        "record": [
            {"class": "SignalRecord", "module_path": "qlib.workflow.record_temp"},
            {"class": "SigAnaRecord", "module_path": "qlib.workflow.record_temp"},
        ],
    }


def collected(market: Path, folder: Path, step: int, windows: int | None = None) -> pd.DataFrame:
    """Return the out-of-sample prediction of the job on a market."""
    session = Session(provider_uri=str(market), tracking_uri=f"folder:{folder / 'runs'}", experiment_name="parity")
    with using(session):
        tasks = RollingGen(step=step, rtype=RollingGen.ROLL_SD).generate(template())[:windows]
        trainer = TrainerR("parity")
        trainer(tasks)
        keys = {
            "rec_key_func": lambda r: ("LGBModel", r.load_object("task")["dataset"]["kwargs"]["segments"]["test"][0]),
            "artifacts_path": {"pred": "pred.pkl"},
        }
        frame: pd.DataFrame = RecorderCollector("parity", RollingGroup(), **keys)()["pred"][("LGBModel",)]
    return frame


def correlations(ours: pd.DataFrame, theirs: pd.DataFrame, step: int) -> list[float]:
    """Return the correlation of the scores in each window of `step` days."""
    assert ours.index.equals(theirs.index)
    days = ours.index.get_level_values("datetime")
    window = days.factorize(sort=True)[0] // step
    return [float(ours.iloc[:, 0][window == w].corr(theirs.iloc[:, 0][window == w])) for w in sorted(set(window))]


@pytest.mark.slow
def test_every_window_predicts_what_pyqlib_predicted(golden_market: Path, tmp_path: Path) -> None:
    """The same rows, and scores that correlate by at least 0.99 in every window."""
    theirs = pd.read_parquet(GOLDEN / "rolling_prediction.parquet")
    found = correlations(collected(golden_market, tmp_path, 150), theirs, 150)
    assert len(found) == 5
    assert min(found) >= 0.99, found


@pytest.mark.slow
@pytest.mark.sp500
def test_the_sp500_windows_predict_what_pyqlib_predicted(
    sp500_market: Path, shared_folder: Path, tmp_path: Path
) -> None:
    """The first four of eleven windows on the S&P table: the same rows, correlation at least 0.99 in each."""
    theirs = pd.read_parquet(shared_folder / "golden-sp500" / "rolling_prediction_first4.parquet")
    found = correlations(collected(sp500_market, tmp_path, 60, 4), theirs, 60)
    assert min(found) >= 0.99, found
