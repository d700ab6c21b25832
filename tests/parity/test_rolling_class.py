"""``qlib.contrib.rolling``: the joined prediction of our ``Rolling`` compared with pyqlib 0.9.7 on the same file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.rolling import Rolling
from rollforge.session import Session, using
from rollforge.track.base import Experiment, get_experiment, open_tracker

GOLDEN = Path(__file__).parents[1] / "golden" / "rolling"
CASES: dict[str, Any] = json.loads((GOLDEN / "rolling.json").read_text())


@pytest.fixture(scope="module", params=list(CASES))
def done(
    request: pytest.FixtureRequest, golden_market: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], pd.DataFrame, Any, list[Any]]:
    """Return the reference values of a case, pyqlib's prediction and label, our recorder, and our tasks."""
    name = request.param
    case = CASES[name]
    folder = tmp_path_factory.mktemp(name)
    session = Session(provider_uri=str(golden_market), tracking_uri=f"folder:{folder}", cache=str(folder / "cache"))
    rolling = Rolling(GOLDEN / f"{name}.yaml", "joined", rolling_exp="windows", session=session, **case["arguments"])
    rolling.run()
    with using(session):
        tracker = open_tracker(session.tracking_uri)
        recorder = get_experiment(tracker, experiment_name="joined").get_recorder(rolling._rid)
        parts = get_experiment(tracker, experiment_name="windows").list_recorders(Experiment.RT_L)
        tasks = [part.load_object("task") for part in parts]
    return case, pd.read_parquet(GOLDEN / f"{name}.parquet"), recorder, tasks


@pytest.mark.slow
def test_the_windows_are_those_of_pyqlib(done: Any) -> None:
    """The same train, valid and test days in every window, for every argument that changes them."""
    case, _, _, tasks = done
    spans = [
        {k: [str(pd.Timestamp(d).date()) for d in s] for k, s in t["dataset"]["kwargs"]["segments"].items()}
        for t in tasks
    ]
    assert sorted(spans, key=lambda s: s["test"]) == case["windows"]


@pytest.mark.slow
def test_the_joined_prediction_is_that_of_pyqlib(done: Any) -> None:
    """The same rows and labels, the last window cut at the handler's end; scores correlate by 0.99 in every window."""
    case, theirs, recorder, _ = done
    prediction, label = recorder.load_object("pred.pkl"), recorder.load_object("label.pkl")
    assert prediction.index.equals(theirs.index)
    assert list(label.columns) == [theirs.columns[1]]
    np.testing.assert_allclose(label.iloc[:, 0], theirs.iloc[:, 1], rtol=1e-6, atol=1e-8)
    days = prediction.index.get_level_values("datetime")
    for window in case["windows"]:
        here = (days >= window["test"][0]) & (days <= window["test"][1])
        assert prediction["score"][here].corr(theirs["score"][here]) >= 0.99, window


@pytest.mark.slow
def test_the_records_evaluate_the_joined_prediction(done: Any) -> None:
    """One recorder has all of the file's metrics, computed from its own prediction and label."""
    case, _, recorder, tasks = done
    metrics = recorder.list_metrics()
    assert set(metrics) == set(case["metrics"])
    assert recorder.list_params()["exp_name"] == "windows"
    assert recorder.status == "FINISHED"
    # Qlib treats a label over h days as one over a day; the label spans `horizon` days.
    days = case["arguments"]["horizon"]
    assert metrics["Long-Avg Ann Return"] == pytest.approx(case["metrics"]["Long-Avg Ann Return"] / days, rel=0.001)
    assert metrics["IC"] == pytest.approx(case["metrics"]["IC"], abs=0.005)
    name = "1day.excess_return_without_cost.annualized_return"
    assert metrics[name] == pytest.approx(case["metrics"][name], abs=0.05)
    assert {str(t["record"]) for t in tasks} == {"['qlib.workflow.record_temp.SignalRecord']"}
