"""Updated predictions equal those of a handler over all days."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import rollforge
from rollforge.build import init_instance_by_config
from rollforge.online.update import LabelUpdater, PredUpdater
from rollforge.run.execute import task_train

NORM = [{"class": "RobustZScoreNorm", "kwargs": {"fields_group": "feature"}}, {"class": "Fillna"}]
UNTIL = "2023-06-30"


def template(end: str) -> dict[str, Any]:
    """Return a task whose features are normalised by the train segment."""
    handler = {
        "start_time": "2022-01-03", "end_time": end, "fit_start_time": "2022-01-03", "fit_end_time": "2022-10-31",
        "instruments": "all", "infer_processors": NORM,
    }  # fmt: skip
    segments = {
        "train": ("2022-01-03", "2022-10-31"), "valid": ("2022-11-01", "2022-12-30"), "test": ("2023-01-02", end),
    }  # fmt: skip
    return {
        "model": {
            "class": "LinearModel",
            "module_path": "rollforge.models.linear",
            "kwargs": {"estimator": "ridge", "alpha": 0.1},
        },
        "dataset": {
            "class": "DatasetH",
            "module_path": "rollforge.features.dataset",
            "kwargs": {
                "handler": {"class": "Alpha158", "module_path": "rollforge.features.alpha", "kwargs": handler},
                "segments": segments,
            },
        },
        "record": [{"class": "SignalRecord", "module_path": "rollforge.record"}],
    }


def test_new_days_are_normalised_by_the_old_fit_window(small_market: Path, tmp_path: Path) -> None:
    """The new days are after the fit window; the update equals a prediction over all days."""
    rollforge.init(small_market, tracking_uri=f"folder:{tmp_path / 'runs'}")
    recorder = task_train(template("2023-03-31"), experiment_name="served")
    before = recorder.load_object("pred.pkl")
    PredUpdater(recorder, to_date=UNTIL).update()
    LabelUpdater(recorder, to_date=UNTIL).update()
    after = recorder.load_object("pred.pkl")
    whole = recorder.load_object("params.pkl").predict(init_instance_by_config(template(UNTIL)["dataset"]))
    assert len(after) > len(before)
    assert after.index.equals(whole.index)
    np.testing.assert_allclose(after["score"], whole, rtol=0, atol=1e-6)
    assert after["score"].std() > 0
    assert recorder.load_object("label.pkl").index.get_level_values("datetime").max() == after.index[-1][0]
