"""Datasets whose bins are found in sorted samples are those that LightGBM builds alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from rollforge.models.lightgbm_data import SWITCH, dataset_class, sorted_samples

lightgbm = pytest.importorskip("lightgbm")

Kind = Callable[[np.random.Generator, int, Any], Any]

KINDS: dict[str, Kind] = {
    "normal": lambda rng, n, normal: normal,
    "ties": lambda rng, n, normal: np.round(normal, 1),
    "boolean": lambda rng, n, normal: (normal > 1).astype(float),
    "constant": lambda rng, n, normal: np.full(n, 3.5),
    "tiny": lambda rng, n, normal: normal * 1e-30,
    "infinite": lambda rng, n, normal: np.where(rng.random(n) < 0.05, rng.choice([np.inf, -np.inf], n), normal),
    "categories": lambda rng, n, normal: rng.integers(0, 12, n).astype(float),
    # The most frequent bin is not that of zero.
    "counts": lambda rng, n, normal: rng.choice([0.0, 2.0, 3.0, 7.0], n, p=[0.05, 0.75, 0.1, 0.1]),
    "zeros": lambda rng, n, normal: np.zeros(n),
    "sparse": lambda rng, n, normal: np.where(rng.random(n) < 0.95, 0.0, normal),
    "missing": lambda rng, n, normal: np.where(rng.random(n) < rng.choice([0.01, 0.3, 0.9]), np.nan, normal),
    "all missing": lambda rng, n, normal: np.full(n, np.nan),
    "missing and zeros": lambda rng, n, normal: rng.choice([np.nan, 0.0, -0.0, 1.0, 2.0], n, p=[0.2, 0.1, 0.1, 0.5, 0.1]),
    # LightGBM bundles features that differ from their most frequent value in different rows.
    "exclusive": lambda rng, n, normal: np.where(
        np.arange(n) % 20 == rng.integers(20), rng.choice([np.nan, 0.0, 5.0, 9.0], n, p=[0.4, 0.1, 0.2, 0.3]), 7.0
    ),
    # Around the limit below which LightGBM takes a value for zero.
    "almost zero": lambda rng, n, normal: rng.choice([1e-36, 1e-35, -1.1e-35, 9.9e-36, 1.0], n),
}  # fmt: skip
"""The values of a feature, from a random generator, the number of rows and values with Student's t distribution."""


PARAMETERS = st.fixed_dictionaries(
    {},
    optional={
        "max_bin": st.sampled_from([2, 3, 15, 255, 400]),
        "min_data_in_bin": st.sampled_from([1, 3, 50]),
        "bin_construct_sample_cnt": st.sampled_from([1, 20, 150, 200_000]),
        "data_random_seed": st.integers(0, 5),
        "feature_pre_filter": st.booleans(),
        "enable_bundle": st.booleans(),
        "use_missing": st.booleans(),
        "zero_as_missing": st.booleans(),
        "linear_tree": st.booleans(),
        "min_data_in_leaf": st.sampled_from([1, 20]),
        "is_enable_sparse": st.booleans(),
    },
)


def trained(kind: Any, parameters: dict[str, Any], x: Any, y: Any, valid: Any, **data: Any) -> tuple[str, str]:
    """Return the text of a model, and its metrics on the training rows and on others."""
    settings = {"verbosity": -1, "num_threads": 1, "min_data_in_leaf": 5, "num_leaves": 7, **parameters}
    train = kind(x, label=y, free_raw_data=False, **data)
    sets = [train]
    if valid is not None:
        sets.append(kind(valid, label=np.ones(len(valid)), reference=train, free_raw_data=False))
    if "group" in data:
        settings["objective"] = "lambdarank"
        sets = sets[:1]
    metrics: dict[str, Any] = {}
    callbacks = [lightgbm.record_evaluation(metrics)]
    booster = lightgbm.train(settings, train, num_boost_round=4, valid_sets=sets, callbacks=callbacks)
    return booster.model_to_string(), repr(metrics)  # a metric may be NaN


@settings(max_examples=60)
@given(
    kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=20),
    rows=st.sampled_from([2, 30, 200, 1000]),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 10_000),
    parameters=PARAMETERS,
    described=st.sampled_from(["plain", "weight", "group", "categorical", "reference"]),
)
@example(["missing and zeros", "exclusive"], 30, np.float32, 0, {"feature_pre_filter": False}, "plain")
def test_models_are_the_same(
    kinds: list[str], rows: int, dtype: Any, seed: int, parameters: dict[str, Any], described: str
) -> None:
    """Whatever the features and the parameters are, the trees are those of a dataset that LightGBM built alone."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([KINDS[kind](rng, rows, rng.standard_t(3, rows)) for kind in kinds]).astype(dtype)
    y = np.nan_to_num(x[:, 0], posinf=1, neginf=-1) + rng.normal(size=rows)
    more: dict[str, Any] = {}
    match described:
        case "weight":
            more["weight"] = rng.random(rows)
        case "group":
            y = rng.integers(0, 3, rows)
            more["group"] = [rows // 2, rows - rows // 2]
        case "categorical":
            more["categorical_feature"] = [i for i, kind in enumerate(kinds) if kind in ("categories", "counts")]
    if "linear_tree" in parameters and more:
        parameters = {name: value for name, value in parameters.items() if name != "linear_tree"}
    valid = x[: rows // 2] if described == "reference" else None
    expected = _or_error(lightgbm.Dataset, parameters, x, y, valid, more)
    found = _or_error(dataset_class(lightgbm), parameters, x, y, valid, more)
    assert found == expected


def _or_error(kind: Any, parameters: dict[str, Any], x: Any, y: Any, valid: Any, more: dict[str, Any]) -> Any:
    try:
        return trained(kind, parameters, x, y, valid, **more)
    except lightgbm.basic.LightGBMError as exc:
        return str(exc)


def test_the_rows_of_a_large_dataset_are_sampled(caplog: pytest.LogCaptureFixture) -> None:
    """LightGBM looks at 200,000 rows for the bins unless told otherwise; the same ones are chosen."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(201_000, 2)).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    y = np.nan_to_num(x[:, 0])
    assert trained(dataset_class(lightgbm), {}, x, y, x[:100]) == trained(lightgbm.Dataset, {}, x, y, x[:100])


def test_samples_are_in_ascending_order() -> None:
    """Zeros are left out, and the last elements stay where they are if values are missing."""
    nan = np.nan
    x = np.array([[3.0, 5.0], [0.0, nan], [1.0, 4.0], [2.0, 1.0], [-1.0, 2.0]])
    (first, places), (second, every) = sorted_samples(x, np.arange(5, dtype=np.int32))
    assert (first.tolist(), places.tolist()) == ([-1.0, 1.0, 2.0, 3.0], [0, 2, 3, 4])
    assert str(second.tolist()) == "[1.0, 4.0, 5.0, nan, 2.0]"
    assert every.tolist() == [0, 1, 2, 3, 4]


def test_other_layouts_are_left_to_lightgbm() -> None:
    """Arrays in column order or of whole numbers give the same models too."""
    rng = np.random.default_rng(1)
    x = rng.integers(0, 50, (300, 3))
    for values in (x, np.asfortranarray(x.astype(np.float32)), x.astype(np.float64)[:, ::-1]):
        found = trained(dataset_class(lightgbm), {}, values, x[:, 0], None)
        assert found == trained(lightgbm.Dataset, {}, values, x[:, 0], None)


@pytest.mark.parametrize("parameters", [{"max_bin": 1}, {"min_data_in_bin": 0}, {"max_bin_by_feature": [3]}])
def test_errors_are_those_of_lightgbm(parameters: dict[str, Any]) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(50, 2))
    messages = []
    for kind in (lightgbm.Dataset, dataset_class(lightgbm)):
        with pytest.raises(lightgbm.basic.LightGBMError) as error:
            trained(kind, parameters, x, x[:, 0], None)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


@pytest.fixture
def fresh() -> Iterator[None]:
    """Let the class be chosen anew, also by the tests that follow."""
    dataset_class.cache_clear()
    yield
    dataset_class.cache_clear()


def test_the_models_of_rollforge_use_it(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment can switch it off."""
    assert dataset_class(lightgbm) is not lightgbm.Dataset
    assert issubclass(dataset_class(lightgbm), lightgbm.Dataset)
    monkeypatch.setenv(SWITCH, "plain")
    dataset_class.cache_clear()
    assert dataset_class(lightgbm) is lightgbm.Dataset


@pytest.mark.parametrize("missing", ["_Dataset__init_from_np2d", "LGBM_SampleIndices"])
def test_a_lightgbm_without_the_functions_is_used_as_it_is(
    missing: str, fresh: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line of the log says what it has not."""
    if missing.startswith("LGBM"):
        library = lightgbm.basic._LIB

        class Library:
            def __getattr__(self, name: str) -> Any:
                if name == missing:
                    raise AttributeError(name)
                return getattr(library, name)

        monkeypatch.setattr(lightgbm.basic, "_LIB", Library())
    else:
        monkeypatch.delattr(lightgbm.Dataset, missing)
    with caplog.at_level(logging.INFO, logger="rollforge.models.lightgbm_data"):
        assert dataset_class(lightgbm) is lightgbm.Dataset
        dataset_class(lightgbm)
    (line,) = caplog.messages
    assert missing in line
