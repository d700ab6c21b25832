"""The description of a model, from which each task builds an equal one, has all arguments that the model was given."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import pytest
from sklearn.linear_model import LogisticRegression, Ridge

import rollforge.models
from rollforge.build import build
from rollforge.models import HFLGBModel, LGBModel, Model, SklearnModel, TunedModel
from rollforge.models.sklearn import NotInModule, describe_model

LGB = {"class": "LGBModel", "module_path": "rollforge.models", "kwargs": {"num_boost_round": 5}}
GIVEN: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "LGBModel": ({"loss": "binary", "num_boost_round": 7, "early_stopping_rounds": 3, "num_leaves": 5},),
    "HFLGBModel": ({"loss": "binary", "num_boost_round": 7, "early_stopping_rounds": 3, "num_leaves": 5},),
    "XGBModel": ({"max_depth": 3, "eta": 0.5},),
    "CatBoostModel": ({"loss": "Logloss", "iterations": 9},),
    "DEnsembleModel": ({"num_models": 2, "epochs": 4, "sub_weights": [1.0, 0.5], "num_leaves": 5, "decay": 0.5},),
    "LinearModel": ({"estimator": "ridge", "alpha": 2.0, "fit_intercept": True, "include_valid": True},),
    "ConstantModel": ({"value": 3.0},),
    "SklearnModel": (
        {"estimator": Ridge(alpha=2.0), "weight_group": "weight"},
        {"estimator": LogisticRegression(), "classes": [0, 1, 2]},
    ),
    "TunedModel": (
        {"model": LGB, "space": {"num_leaves": [4, 8]}, "n_trials": 2, "metric": "mse", "seed": 3, "prune": False},
    ),
    "TorchModel": ({"module": "torch.nn.Linear", "module_kwargs": {"in_features": 3}, "n_epochs": 3, "lr": 0.5},),
    "GeneralPTNN": ({"pt_model_kwargs": {"d_feat": 3}, "n_epochs": 3, "seed": 4},),
    "DNNModelPytorch": ({"max_steps": 40, "pt_model_kwargs": {"input_dim": 3}, "weight_decay": 0.5},),
    "TabnetModel": ({"d_feat": 3, "n_epochs": 4, "pretrain": False, "clip": 1.0},),
    "TRAModel": (
        {
            "model_config": {"input_size": 3, "hidden_size": 4},
            "tra_config": {"num_states": 2},
            "n_epochs": 4,
            "lamb": 1.0,
            "clip": 1.0,
        },
    ),
    "TCTS": ({"d_feat": 3, "n_epochs": 4, "target_label": 1, "steps": 2, "clip": 1.0},),
}
"""Arguments of each model that are not the defaults. The other PyTorch models have those of :data:`NETWORK`."""
NETWORK = ({"d_feat": 3, "n_epochs": 4, "lr": 0.5, "seed": 2, "checkpoint_seconds": None},)
MODELS = [
    name
    for name in rollforge.models.__all__
    if name[0].isupper()
    and isinstance(kind := getattr(rollforge.models, name), type)
    and issubclass(kind, Model)
    and not inspect.isabstract(kind)
    and name != "KeptModel"  # itself the description of a model that has no other
]
NEEDED = ("estimator", "model", "space", "module", "model_config", "tra_config")
NEEDS = {"CatBoostModel": "catboost", "TunedModel": "optuna"}


class Deep(LGBModel):
    """A model whose constructor passes everything on."""

    def __init__(self, **kw: Any) -> None:
        self.scale = kw.pop("scale", 1.0) * 2
        super().__init__(**kw)


class Hidden(Model):
    """A model whose argument is not an attribute."""

    def __init__(self, k: int = 1) -> None:
        self._k = k

    def predict(self, dataset: Any, segment: str | slice = "test") -> Any:
        raise NotImplementedError


class Plain(Model):
    """A model without a constructor."""

    def predict(self, dataset: Any, segment: str | slice = "test") -> Any:
        raise NotImplementedError


def state(model: Model) -> str:
    """Return all that a model consists of before it is fitted."""
    return repr({name: vars(one) if isinstance(one, Model) else one for name, one in vars(model).items()})


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_built_again_with_all_its_arguments(name: str) -> None:
    """A model that is added and has no example in this file gets those of the networks, and fails if it lacks them."""
    if name in NEEDS and find_spec(NEEDS[name]) is None:
        pytest.skip(f"no {NEEDS[name]}: make .venv/{NEEDS[name]}")
    kind = getattr(rollforge.models, name)
    for given in GIVEN.get(name, NETWORK):
        model = kind(**given)
        described = describe_model(model)
        assert described["kwargs"].keys() == given.keys()
        built = build(described)
        assert type(built) is kind
        assert state(built) == state(model)
        assert state(built) != state(kind(**{k: v for k, v in given.items() if k in NEEDED}))
        assert describe_model(built) == described


def test_arguments_without_attributes_are_kept() -> None:
    """Those that go through ``**kw`` to a base class, are changed by the constructor, or are given by position."""
    assert describe_model(Deep(num_boost_round=3, num_leaves=4, scale=3.0))["kwargs"] == {
        "num_boost_round": 3, "num_leaves": 4, "scale": 3.0,
    }  # fmt: skip
    assert describe_model(Hidden(5))["kwargs"] == {"k": 5}
    assert describe_model(Hidden())["kwargs"] == describe_model(Plain())["kwargs"] == {}


def test_later_changes_are_described() -> None:
    """An attribute or a parameter set after the construction, but not a list that the program goes on using."""
    model = HFLGBModel(num_boost_round=3, max_depth=2)
    model.num_boost_round = 5
    model.params["max_depth"] = 4
    assert describe_model(model)["kwargs"] == {"num_boost_round": 5, "max_depth": 4}
    weights = [1.0, 0.5]
    ensemble = rollforge.models.DEnsembleModel(num_models=2, sub_weights=weights)
    weights.append(3.0)
    assert describe_model(ensemble)["kwargs"]["sub_weights"] == [1.0, 0.5]
    del model.params["verbosity"]
    with pytest.raises(NotInModule, match="'verbosity' was removed from its params"):
        describe_model(model)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_described_by_their_attributes_or_refused(copied: Any) -> None:
    """A copy does not know its arguments, and none is dropped."""
    model = HFLGBModel(num_boost_round=3, early_stopping_rounds=9, num_leaves=4)
    assert state(build(describe_model(copied(model)))) == state(model)
    model = SklearnModel(Ridge(alpha=2.0))
    assert describe_model(copied(model)) == describe_model(model)
    for lost in (Deep(num_boost_round=3, scale=3.0), Hidden(5)):
        with pytest.raises(NotInModule, match=r"copy|no attribute named after"):
            describe_model(copied(lost))
    if find_spec("optuna") is not None:
        with pytest.raises(NotInModule, match="is a copy or was read from a file"):
            describe_model(copied(TunedModel(LGB, {"num_leaves": [4, 8]})))


def test_a_class_without_constructor_takes_no_arguments() -> None:
    """The recording of arguments does not make a class accept them."""
    with pytest.raises(TypeError, match=r"Plain\(\) takes no arguments"):
        Plain(3)  # type: ignore[call-arg]
    assert str(inspect.signature(Plain)) == "()"
    assert list(inspect.signature(LGBModel).parameters) == [
        "loss",
        "early_stopping_rounds",
        "num_boost_round",
        "kwargs",
    ]
