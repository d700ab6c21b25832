"""Invalid parameters of models: one message that names the parameter, if possible before anything is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rollforge.build import build
from rollforge.errors import BuildError, ConfigError, ModelError
from rollforge.kinds import MODEL
from rollforge.models.lightgbm import LGBModel
from rollforge.models.linear import LinearModel
from rollforge.models.parameters import library_error, threads_of
from rollforge.models.xgboost import XGBModel, _reason


@pytest.mark.parametrize(
    ("model", "name", "value"),
    [
        (LGBModel, "objective", {"a": 1}),
        (LGBModel, "objective", 5),
        (LGBModel, "metric", {"a": 1}),
        (LGBModel, "anything", {"a": 1}),
        (LGBModel, "num_threads", "four"),
        (LGBModel, "num_boost_round", "5"),
        (LGBModel, "num_boost_round", 0),
        (LGBModel, "num_boost_round", True),
        (LGBModel, "early_stopping_rounds", "x"),
        (LGBModel, "early_stopping_rounds", {}),
        (XGBModel, "objective", {"a": 1}),
        (XGBModel, "eval_metric", {"a": 1}),
        (XGBModel, "nthread", [1]),
        (XGBModel, "nthread", 1.5),
        (XGBModel, "booster", 3),
        (LinearModel, "alpha", -1.0),
        (LinearModel, "alpha", float("nan")),
        (LinearModel, "alpha", float("inf")),
        (LinearModel, "alpha", 10**400),
        (LinearModel, "alpha", np.complex64(1)),
        (LinearModel, "alpha", True),
        (LinearModel, "alpha", "0.1"),
        (LinearModel, "fit_intercept", "no"),
        (LinearModel, "include_valid", None),
    ],
)
def test_a_parameter_of_the_wrong_type_is_refused_with_its_location(model: type, name: str, value: Any) -> None:
    """The error names the parameter with its place in the workflow, and the value."""
    kwargs = {name: value, **({"estimator": "ridge"} if model is LinearModel else {})}
    with pytest.raises(ConfigError, match=r"^task\.model\.kwargs\." + name + ": must be .*found") as caught:
        build({"class": model, "kwargs": kwargs}, kind=MODEL, where="task.model")
    assert caught.value.path == f"task.model.kwargs.{name}"


def test_valid_parameters_are_accepted() -> None:
    """Names, numbers, lists, functions as objectives, and mappings where XGBoost has them."""
    LGBModel(objective="mae", metric=["l1", "l2"], num_threads="2", early_stopping_rounds=None)
    LGBModel(objective=lambda scores, data: (scores, scores))
    XGBModel(objective="reg:squarederror", monotone_constraints={"f": 1}, n_jobs=2)
    LinearModel("ridge", alpha=0, fit_intercept=True)
    assert threads_of({"n_jobs": None, "nthread": 3}, ("n_jobs", "nthread")) == 3


def test_what_a_library_reports_is_one_line() -> None:
    """Time, source file and stack trace of XGBoost's own message are removed; the parameters are added."""
    raw = ValueError("[17:08:11] /workspace/src/metric.cc:49: Unknown metric function x\nStack trace:\n  [bt] (0)")
    error = library_error("XGBModel", "XGBoost", _reason(raw), {"eval_metric": "x"})
    assert isinstance(error, ModelError)
    assert str(error) == (
        "XGBModel cannot be fitted. XGBoost reports: Unknown metric function x. The parameters are {'eval_metric': 'x'}."
    )


def test_an_argument_that_a_base_class_refuses_is_named() -> None:
    """The arguments that a class passes on to its base class are listed, with the nearest name."""
    handler = {"class": "Alpha158", "module_path": "qlib.contrib.data.handler"}
    with pytest.raises(BuildError, match=r"^h\.kwargs: Alpha158 takes no argument 'lable'\. Did you mean 'label'\?"):
        build({**handler, "kwargs": {"lable": ["$close"]}}, where="h")
    fit = {"fit_start_time": "2021-01-01", "fit_end_time": "2021-02-01"}  # Alpha360 standardises its features
    for name in ("Alpha158", "Alpha360", "Alpha158vwap"):
        with pytest.raises(BuildError, match="takes no argument 'lable'") as caught:
            build({**handler, "class": name, "kwargs": {"lable": ["$close"], **fit}}, where="h")
        listed = str(caught.value).partition("Its arguments: ")[2].rstrip(".").split(", ")
        assert {"instruments", "label", "learn_processors", "shared_processors", "label_days"} <= set(listed)
        assert "data_loader" not in listed  # which the class sets itself
    with pytest.raises(BuildError, match="Alpha158 sets the argument 'data_loader' itself"):
        build({**handler, "kwargs": {"data_loader": "QlibDataLoader"}}, where="h")
