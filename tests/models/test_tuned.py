"""Searching for parameters inside a window: trials, pruning, the study, and the whole way from YAML to a table of runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest

pytest.importorskip("optuna", reason="no optuna: pip install 'rollforge[optuna]'")

from definitions import SMALL_MARKET, TWO_WINDOWS, expressions, stores, task_definition, write_workflow
from rollforge import pipeline
from rollforge.errors import BuildError, ConfigError, ModelError, SegmentError
from rollforge.models import LGBModel, TunedModel
from rollforge.plan import make_plan
from rollforge.testing.model import ModelSuite
from rollforge.track.base import JOINED_TAG, get_experiment, open_tracker
from rollforge.workflow import load_workflow

LGB = {"class": "LGBModel", "module_path": "rollforge.models", "kwargs": {"num_boost_round": 15, "num_leaves": 8}}
RATE = {"learning_rate": {"low": 0.01, "high": 0.5, "log": True}}


class TestTunedModel(ModelSuite):
    def make_model(self) -> Any:
        return TunedModel(LGB, {"learning_rate": {"low": 0.2, "high": 0.4}}, n_trials=2)

    needs_valid: ClassVar[bool] = True
    importance: ClassVar[Mapping[str, Any]] = {"importance_type": "gain"}  # arguments are those of the best model

    def test_the_best_trial_is_kept(self) -> None:
        """The prediction of the best trial is that of a model with these parameters, and every other trial has a worse
        metric."""
        model = TunedModel(LGB, RATE, n_trials=6, metric="mse", prune=False)
        data = self.make_dataset(self.make_frame())
        model.fit(data)
        best = min(model.trials, key=lambda one: one["value"])
        expected = LGBModel(**LGB["kwargs"], **best["params"])
        expected.fit(data)
        pd.testing.assert_series_equal(model.predict(data), expected.predict(data))
        label = data.prepare("valid", col_set="label", data_key="raw").iloc[:, 0]
        assert best["value"] == pytest.approx(((model.predict(data, "valid") - label) ** 2).mean())
        assert model.study().best_params == best["params"]

    @pytest.mark.parametrize("kind", ["LGBModel", "XGBModel", "CatBoostModel"])
    def test_poor_trials_are_pruned(self, kind: str) -> None:
        """A trial that is worse than the median of the others at the same round stops there, and is not the result."""
        if kind == "CatBoostModel":
            pytest.importorskip("catboost", reason="no catboost: pip install 'rollforge[catboost]'")
        kwargs = {
            "LGBModel": {"num_boost_round": 60},
            "XGBModel": {"max_depth": 2},
            "CatBoostModel": {"iterations": 60},
        }
        described = {"class": kind, "module_path": "rollforge.models", "kwargs": kwargs[kind]}
        model = TunedModel(described, RATE, n_trials=9)
        data = self.make_dataset(self.make_frame())
        model.fit(data)
        pruned = [one for one in model.trials if one["state"] == "pruned"]
        complete = [one for one in model.trials if one["state"] == "complete"]
        assert len(pruned) + len(complete) == 9
        assert pruned
        assert max(len(one["rounds"]) for one in complete) > min(len(one["rounds"]) for one in pruned) > 0
        assert [one.state.name.lower() for one in model.study().trials] == [one["state"] for one in model.trials]
        assert model.model.on_round is None

    def test_only_train_and_valid_are_read(self) -> None:
        """Other rows of the test segment do not change the search."""
        frame = self.make_frame()
        changed = frame.copy()
        changed.loc[pd.Timestamp(self.segments["test"][0]) :] = 7.0
        found = []
        for one in (frame, changed):
            model = TunedModel(LGB, RATE, n_trials=3)
            model.fit(self.make_dataset(one))
            found.append(model.trials)
        assert found[0] == found[1]

    def test_others_decide_if_a_trial_fails(self) -> None:
        """A penalty that makes all predictions constant, and an error of the library, end a trial but not the search."""
        lasso = {"class": "LinearModel", "module_path": "rollforge.models", "kwargs": {"estimator": "lasso"}}
        data = self.make_dataset(self.make_frame())
        model = TunedModel(lasso, {"alpha": [0.001, 1000.0]}, n_trials=6)
        model.fit(data)
        states = {one["params"]["alpha"]: one["state"] for one in model.trials}
        assert states == {0.001: "complete", 1000.0: "failed"}
        reasons = {one["reason"] for one in model.trials if one["state"] == "failed"}
        assert all("predictions or labels are missing or constant" in one for one in reasons)
        assert [one.state.name for one in model.study().trials].count("FAIL") == sum(
            one["state"] == "failed" for one in model.trials
        )
        assert set(model.saved_objects()["trials.pkl"]["reason"].dropna()) == reasons
        with pytest.raises(ModelError, match="LinearModel has no importance of features"):
            model.get_feature_importance()
        neighbours = {"class": "KNeighborsRegressor", "module_path": "sklearn.neighbors"}
        nearest = {"class": "SklearnModel", "module_path": "rollforge.models", "kwargs": {"estimator": neighbours}}
        with pytest.raises(ModelError, match=r"Each trial of TunedModel failed; the first, with .*: KNeighborsReg"):
            TunedModel(nearest, {"estimator.kwargs.n_neighbors": [10**6]}, n_trials=2).fit(data)

    def test_an_error_in_the_data_ends_the_search(self) -> None:
        """Other parameters would not change it."""
        model = TunedModel(LGB, RATE, n_trials=3)
        with pytest.raises(SegmentError):
            model.fit(self.make_dataset(self.make_frame(), {"valid": self.segments["valid"]}))
        assert model.trials == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": {}}, "space.*must name the parameters"),
        ({"space": {"num_leaves": {"low": 3}}}, r"space\.num_leaves.*list of values, or a range"),
        ({"space": {"num_leaves": {"low": 9, "high": 3}}}, "low must not be above high"),
        ({"space": {"x": {"low": 0, "high": 3, "log": True}}}, "logarithmic scale low must be"),
        ({"space": {"x": [[1]]}}, "must list numbers or strings"),
        ({"metric": "rankic"}, "'rankic' is unknown. Did you mean 'rank_ic'"),
        ({"n_trials": 0}, "n_trials"),
        ({"model": "LGBModel"}, "must describe a model"),
    ],
)
def test_invalid_arguments_are_errors(change: dict[str, Any], message: str) -> None:
    """The errors name the argument."""
    with pytest.raises(ConfigError, match=message):
        TunedModel(**{"model": LGB, "space": RATE, **change})


def test_a_parameter_that_the_model_lacks_is_an_error() -> None:
    """The parameter is found when the model is built, before anything is trained."""
    linear = {"class": "LinearModel", "module_path": "rollforge.models"}
    with pytest.raises(BuildError, match="alhpa"):
        TunedModel(linear, {"alhpa": [1.0]})
    with pytest.raises(ModelError, match="unknown estimator"):
        TunedModel(linear, {"estimator": ["rigde"]})


def test_from_yaml_to_the_table_of_trials(
    tmp_path: Path, small_market: Path, tracking_in: Callable[[str], str]
) -> None:
    """The plan counts the fits; each window has its own search, whose trials are saved with its run."""
    model = {
        "class": "TunedModel",
        "module_path": "rollforge.models",
        "kwargs": {
            "model": {"class": "LinearModel", "module_path": "rollforge.models", "kwargs": {"estimator": "ridge"}},
            "space": {"alpha": {"low": 0.001, "high": 10.0, "log": True}},
            "n_trials": 3,
            "metric": "mse",
        },
    }
    handler = expressions({"A": "Ref($close, 1)/$close - 1", "B": "Ref($close, 5)/$close - 1"}, **SMALL_MARKET)
    document = {
        "rollforge": {**stores(small_market, tmp_path, "tuned"), "tracking": tracking_in("folder")},
        "task": task_definition(handler, TWO_WINDOWS, model=model),
        "rolling": {"step": 60, "rtype": "sliding"},
    }
    plan = make_plan(load_workflow(write_workflow(tmp_path / "workflow.yaml", document)))
    assert (len(plan.tasks), plan.fits) == (2, 6)
    pipeline.submit(plan)
    pipeline.train(plan, jobs=0)
    assert pipeline.collect(plan.workflow.session, "tuned", plan.ids).prediction is not None
    session = plan.workflow.session
    experiment = get_experiment(open_tracker(session.tracking_uri), experiment_name="tuned")
    runs = [run for run in experiment.list_recorders().values() if not run.list_tags().get(JOINED_TAG)]
    tables = [run.load_object("trials.pkl") for run in runs]
    assert [list(table.columns) for table in tables] == [["state", "mse", "alpha"]] * 2
    assert [len(table) for table in tables] == [3, 3]
    assert not tables[0]["mse"].equals(tables[1]["mse"])
    assert runs[0].load_object("params.pkl").study().best_trial.params["alpha"] in set(tables[0]["alpha"])
