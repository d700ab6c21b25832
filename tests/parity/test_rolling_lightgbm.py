"""The whole rolling job, trained and collected, compared with pyqlib 0.9.7's prediction for the same job."""

from __future__ import annotations

import json
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
    """Return the job whose prediction pyqlib computed."""
    job: dict[str, Any] = json.loads((GOLDEN / "rolling_job.json").read_text(encoding="utf-8"))
    return job


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
