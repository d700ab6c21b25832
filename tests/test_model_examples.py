"""The examples of models: one file per family, and a model of one's own from YAML and from ``walk_forward``."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge import pipeline, walk_forward
from rollforge.plan import Plan, make_plan
from rollforge.session import Session
from rollforge.workflow import load_workflow

FOLDER = Path(__file__).parents[1] / "examples" / "models"
LIBRARIES = {"lightgbm": "lightgbm", "double_ensemble": "lightgbm", "sklearn": "sklearn", "tuned": "optuna",
             "tabnet": "torch", "adarnn": "torch", "add": "torch", "tcts": "torch",
             "igmtf": "torch", "hist": "torch", "tra": "torch"}  # fmt: skip
EXAMPLES = sorted(file.stem for file in FOLDER.glob("*.yaml"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the features, which all examples share."""
    return tmp_path_factory.mktemp("cache")


def planned(name: str, market: Path, folder: Path, cache: Path) -> Plan:
    stores: dict[str, Any] = {"store": f"sqlite:///{folder}/tasks.db", "tracking": f"folder:{folder}/runs"}
    return make_plan(load_workflow(FOLDER / f"{name}.yaml", provider_uri=str(market), cache=str(cache), **stores))


@pytest.mark.filterwarnings("ignore:scipy.optimize:DeprecationWarning")  # of scikit-learn 1.5
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_trains_all_windows(
    name: str, small_market: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unchanged but for the folders; the windows are joined into one prediction."""
    library = LIBRARIES.get(name, name)
    if library in ("catboost", "optuna", "torch"):
        pytest.importorskip(library, reason=f"no {library}: pip install 'rollforge[{library}]'")
    plan = planned(name, small_market, tmp_path, cache)
    assert len(plan.tasks) == 2
    monkeypatch.chdir(FOLDER.parents[1])  # to which the paths in hist.yaml are relative
    pipeline.submit(plan)
    # The own model in two worker processes, which import its file.
    pipeline.train(plan, jobs=2 if name == "own" else 0)
    prediction = pipeline.collect(plan.workflow.session, plan.workflow.experiment_name, plan.ids).prediction
    assert prediction is not None
    assert np.isfinite(prediction["score"]).all()
    assert prediction["score"].nunique() > 10


def test_each_example_says_how_to_run_it() -> None:
    """The command has its own name; there is one for each family of models."""
    assert {
        "lightgbm",
        "xgboost",
        "catboost",
        "linear",
        "sklearn",
        "double_ensemble",
        "tuned",
        "tabnet",
        "adarnn",
        "add",
        "tcts",
        "igmtf",
        "hist",
        "tra",
        "own",
    } <= set(EXAMPLES)
    for name in EXAMPLES:
        text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
        assert re.findall(r"rollforge run (\S+)", text) == [f"examples/models/{name}.yaml"]


def test_an_own_model_in_walk_forward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is trained in worker processes: the prediction of a window is that of the model fitted on its training
    days."""
    monkeypatch.syspath_prepend(FOLDER)
    kind = import_module("own_model").MeanOfFeatures
    days = pd.bdate_range("2022-01-03", periods=200, name="day")
    index = pd.MultiIndex.from_product([days, list("ABCDE")], names=["day", "code"])
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(len(index), 3)), index, ["a", "b", "c"])
    frame["y"] = frame["a"] + 0.1 * rng.normal(size=len(index))
    session = Session(
        store_uri=f"sqlite:///{tmp_path}/tasks.db", tracking_uri=f"folder:{tmp_path}/runs", cache=str(tmp_path)
    )
    result = walk_forward(kind(count=1), frame, label="y", train=100, step=50, jobs=2, session=session)
    assert len(result.windows) > 1
    for window in result.windows.itertuples():
        train = frame["a"].loc[window.train_start : window.train_end].astype(np.float32)
        test = frame["a"].loc[window.test_start : window.test_end]
        np.testing.assert_allclose(result.prediction.loc[test.index], test / train.std(), rtol=1e-5)
