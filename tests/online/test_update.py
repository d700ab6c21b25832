"""Updated predictions equal those of a handler over all days."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import rollforge
from growing import DAYS, Market, template as template_of_market
from rollforge.build import init_instance_by_config
from rollforge.errors import ConfigError
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


@pytest.mark.parametrize("absent", [False, True], ids=["NaN", "no row"])
def test_prices_that_arrive_late_are_predicted(market: Market, absent: bool) -> None:
    """The day of such a price and all later ones are computed again, once; a suspended instrument causes no computation."""
    run, late = DAYS[60:66], DAYS[62]
    processors = [{"class": "DropnaProcessor", "kwargs": {"fields_group": "feature"}}] if absent else []
    whole = market.close.copy()
    market.close.loc[late, "B"] = market.close.loc[DAYS[55] :, "D"] = np.nan
    market.show(run[3])
    task = template_of_market(processors)
    task["dataset"]["kwargs"]["segments"]["test"] = (run[0], run[3])
    recorder = task_train(task, experiment_name="served")
    before = recorder.load_object("pred.pkl")
    assert ((pd.Timestamp(late), "B") in before.dropna().index, (pd.Timestamp(late), "B") in before.index) == (
        False,
        not absent,
    )
    PredUpdater(recorder).update()  # B has a price on the next day, but no change
    assert PredUpdater(recorder).update(ret_new=True) is None
    assert recorder.load_object("pred.pkl").equals(before)
    market.close["B"] = whole["B"]
    market.show(run[5])
    assert PredUpdater(recorder, late=False).last_end == pd.Timestamp(run[3])
    PredUpdater(recorder, to_date=run[1]).update()  # the day is after it
    assert recorder.load_object("pred.pkl").equals(before)
    PredUpdater(recorder).update()
    after = recorder.load_object("pred.pkl").score
    task["dataset"]["kwargs"]["segments"]["test"] = (run[0], run[5])
    dataset = init_instance_by_config(task["dataset"])
    expected = recorder.load_object("params.pkl").predict(dataset)
    np.testing.assert_allclose(after.unstack(), expected.unstack(), rtol=0, atol=1e-6)
    assert np.isfinite(after.unstack()["B"]).all()
    assert PredUpdater(recorder).update(ret_new=True) is None


def test_instruments_that_cannot_be_predicted_are_computed_once(market: Market) -> None:
    """An instrument with a price but no earlier one has no feature: this is recorded, until another one is missing too."""
    market.begins["B"] = DAYS[62]
    market.show(DAYS[63])
    task = template_of_market([{"class": "DropnaProcessor", "kwargs": {"fields_group": "feature"}}])
    task["dataset"]["kwargs"]["segments"]["test"] = (DAYS[60], DAYS[63])
    recorder = task_train(task, experiment_name="served")
    assert (pd.Timestamp(DAYS[62]), "B") not in recorder.load_object("pred.pkl").index
    assert PredUpdater(recorder).update(ret_new=True) is not None
    assert PredUpdater(recorder).update(ret_new=True) is None
    market.show(DAYS[64])
    assert PredUpdater(recorder).last_end == pd.Timestamp(DAYS[63])
    PredUpdater(recorder).update()
    assert PredUpdater(recorder).update(ret_new=True) is None
    predicted = recorder.load_object("pred.pkl")
    recorder.save_objects(**{"pred.pkl": predicted.drop(index=(pd.Timestamp(DAYS[61]), "A"))})
    assert PredUpdater(recorder).last_end == pd.Timestamp(DAYS[60])


@pytest.mark.parametrize("wrong", [-1, 1.5, "3", True])
def test_the_days_of_history_are_a_number(market: Market, wrong: Any) -> None:
    """Anything else is refused before anything is computed."""
    market.show(DAYS[61])
    task = template_of_market()
    task["dataset"]["kwargs"]["segments"]["test"] = (DAYS[60], DAYS[61])
    recorder = task_train(task, experiment_name="served")
    with pytest.raises(ConfigError, match="hist_ref: must be a number of trading days, at least 0; found"):
        PredUpdater(recorder, hist_ref=wrong)
