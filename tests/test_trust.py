"""Reading pickles through the allow-list: data comes back, code does not run."""

from __future__ import annotations

import datetime as dt
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge import trust
from rollforge.data.alpha import Alpha158
from rollforge.data.dataset import DatasetH
from rollforge.errors import ArtifactUnreadable, UntrustedPickle
from rollforge.models import LinearModel

INDEX = pd.MultiIndex.from_product(
    [pd.date_range("2020-01-01", periods=2), ["A", "B"]], names=["datetime", "instrument"]
)


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 2.5, None, True], "b": ("x", b"y"), "c": {1, 2}, "d": frozenset({3})},
        dt.datetime(2020, 1, 2, 3, 4, tzinfo=dt.UTC),
        dt.date(2020, 1, 2),
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.float64(1.5),
        np.datetime64("2020-01-02"),
        pd.Timestamp("2020-01-02 03:04"),
        pd.Timedelta("2 days"),
        pd.Series([1.0, 2.0], index=pd.date_range("2020-01-01", periods=2), name="ic"),
        pd.DataFrame({"score": [1.0, 2.0, 3.0, 4.0]}, index=INDEX),
        pd.DataFrame({("feature", "a"): [1.0], ("label", "b"): ["x"]}),
    ],
    ids=lambda v: type(v).__name__,
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_data_comes_back(value: Any, protocol: int) -> None:
    """Containers, dates, numpy and pandas, in every protocol in use."""
    back = trust.loads(pickle.dumps(value, protocol))
    assert type(back) is type(value)
    if isinstance(value, (pd.DataFrame, pd.Series)):
        assert back.equals(value)
    else:
        np.testing.assert_equal(back, value)


def test_models_and_datasets_come_back() -> None:
    """What a recorder keeps: a model with its weights, a dataset as its definition, a LightGBM booster."""
    lightgbm = pytest.importorskip("lightgbm")
    model = LinearModel("ridge", alpha=2.0)
    model.coef_ = np.ones(3)
    assert trust.loads(pickle.dumps(model)).coef_.tolist() == [1, 1, 1]
    dataset = DatasetH(Alpha158("all"), {"train": ("2020-01-01", "2020-06-30")})
    back = trust.loads(pickle.dumps(dataset))
    assert back.segments == dataset.segments
    assert back.handler.instruments == "all"
    booster = lightgbm.train({"verbosity": -1}, lightgbm.Dataset(np.random.rand(60, 2), np.random.rand(60)), 2)
    assert trust.loads(pickle.dumps(booster)).num_trees() == 2


def call(module: str, name: str, argument: str) -> bytes:
    """A pickle that calls ``module.name(argument)``."""
    return f"c{module}\n{name}\n(S{argument!r}\ntR.".encode()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("subprocess", "check_output"),
        ("pandas", "eval"),
        ("pandas.io.pickle", "read_pickle"),
        ("pandas.core.frame", "os"),
        ("rollforge.trust", "load"),
        ("rollforge.build", "locate"),
        ("rollforge.models.linear", "MissingDependency"),
        ("rollforge.data.handler", "FeaturePlan"),
        ("numpy", "load"),
        ("numpy.core.multiarray", "fromfile"),
    ],
)
def test_anything_else_is_refused(module: str, name: str, tmp_path: Path) -> None:
    """Functions, modules' own imports, and readers of other files: nothing runs."""
    marker = tmp_path / "ran"
    for argument in (f"touch {marker}", f"open({str(marker)!r}, 'w')"):
        with pytest.raises(UntrustedPickle, match="trusted=True"):
            trust.loads(call(module, name, argument))
    assert not marker.exists()


@pytest.mark.parametrize("data", [b"", b"no pickle", pickle.dumps([1, 2, 3])[:-4]])
def test_what_is_no_pickle_is_said_to_be_unreadable(data: bytes) -> None:
    """Empty, of another kind, cut off: one error, which is not the refusal."""
    with pytest.raises(ArtifactUnreadable):
        trust.loads(data)
