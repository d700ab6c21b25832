"""Missing and infinite values in models: one rule for all of them, and errors that name the cause."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.errors import DataError, ModelError
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.features.processor import Processor
from rollforge.models import (
    LGBModel,
    LinearModel,
    Model,
    Reweighter,
    XGBModel,
    prediction_features,
    training_samples,
)

SEGMENTS = {
    "train": ("2021-03-01", "2021-04-30"),
    "valid": ("2021-05-01", "2021-05-31"),
    "test": ("2021-06-01", "2021-06-30"),
}
MODELS: dict[str, Any] = {
    "lightgbm": lambda: LGBModel(num_boost_round=40, learning_rate=0.3, num_leaves=4, min_data_in_leaf=5),
    "xgboost": lambda: XGBModel(max_depth=2),
    "ols": lambda: LinearModel(fit_intercept=True),
    "ridge": lambda: LinearModel("ridge", alpha=0.01, fit_intercept=True),
    "nnls": lambda: LinearModel("nnls"),
    "ols with valid": lambda: LinearModel(fit_intercept=True, include_valid=True),
}
BOOSTED = ("lightgbm", "xgboost")


def market(codes: str = "ABCDEF", label: float = 0.1) -> pd.DataFrame:
    """Return two features of noise, positive for nnls, and labels of about 0.1."""
    days = pd.bdate_range("2021-03-01", "2021-06-30", name="datetime")
    index = pd.MultiIndex.from_product([days, list(codes)], names=["datetime", "instrument"])
    random = np.random.default_rng(0)
    columns = pd.MultiIndex.from_tuples([("feature", "a"), ("feature", "b"), ("label", "y")])
    values = random.uniform(1, 2, (len(index), 3)).astype(np.float32)
    frame = pd.DataFrame(values, index=index, columns=columns)
    frame[("label", "y")] = np.float32(label) + 0.001 * random.standard_normal(len(index)).astype(np.float32)
    return frame


def dataset(frame: pd.DataFrame, *learn: Any, segments: Any = None, infer: Any = ()) -> DatasetH:
    loader = {"class": "StaticDataLoader", "kwargs": {"config": frame}}
    handler = DataHandlerLP(data_loader=loader, learn_processors=list(learn), infer_processors=list(infer))
    return DatasetH(handler, SEGMENTS if segments is None else segments)


def spoil(frame: pd.DataFrame, column: tuple[str, str], value: float, *, codes: str = "ABC") -> pd.DataFrame:
    """Replace a column of some instruments in train and valid with another value."""
    out = frame.copy()
    rows = out.index.get_level_values("instrument").isin(list(codes))
    rows &= out.index.get_level_values("datetime") <= pd.Timestamp("2021-05-31")
    out.loc[rows, column] = value
    return out


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39], ids=["missing", "inf", "-inf", "beyond float32"])
@pytest.mark.parametrize("name", MODELS)
def test_rows_without_a_finite_label_are_left_out(name: str, value: float) -> None:
    """The model equals the one fitted on the other rows only, in train and in valid."""
    frame = market().astype(np.float64)
    spoilt, model = dataset(spoil(frame, ("label", "y"), value)), MODELS[name]()
    model.fit(spoilt)
    prediction = model.predict(spoilt)
    assert prediction.mean() == pytest.approx(0.1, abs=0.02)

    alone = frame[~frame.index.get_level_values("instrument").isin(list("ABC"))]
    expected = MODELS[name]()
    expected.fit(dataset(alone))
    np.testing.assert_allclose(prediction, expected.predict(spoilt), rtol=1e-6)


def test_rows_without_a_label_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """The warning has the number of missing and of infinite labels, and the position of the first infinite one."""
    frame = market()
    frame.loc[(pd.Timestamp("2021-03-01"), "A"), ("label", "y")] = np.nan
    frame.loc[(pd.Timestamp("2021-03-02"), "B"), ("label", "y")] = -np.inf
    training_samples(dataset(frame), model="Mine")
    assert (
        "Mine: 2 of the 270 rows of the 'train' segment have no finite label and are excluded: 1 missing, 1 infinite; "
        "the first infinite one is B on 2021-03-02"
    ) in caplog.text


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("name", MODELS)
def test_an_infinite_feature_counts_as_missing(name: str, value: float) -> None:
    """The same model and predictions as with NaN in its place, in fitting, early stopping and predicting."""
    predictions = []
    for spoilt in (value, np.nan):
        frame = spoil(market(), ("feature", "a"), spoilt, codes="A")
        frame.loc[(pd.Timestamp("2021-06-07"), "B"), ("feature", "b")] = spoilt
        model, data = MODELS[name](), dataset(frame)
        model.fit(data)
        predictions.append(model.predict(data))
    pd.testing.assert_series_equal(*predictions)
    assert np.isfinite(predictions[0]).all() or name not in BOOSTED
    assert not np.isinf(predictions[0]).any()


def test_infinite_features_are_reported_once_per_dataset(caplog: pytest.LogCaptureFixture) -> None:
    """A dataset's infinite features are reported once, not for each segment and each prediction."""
    data = dataset(spoil(market(), ("feature", "b"), np.inf, codes="A"))
    model = LGBModel(num_boost_round=2)
    model.fit(data)
    model.predict(data)
    model.predict(data, "train")
    said = [r.getMessage() for r in caplog.records if "infinite features" in r.getMessage()]
    assert said == [
        "LGBModel: infinite features are treated as missing: 45 values in 1 column ('b'), the first of A on 2021-03-01"
    ]


def test_finite_data_reach_the_model_without_a_copy(caplog: pytest.LogCaptureFixture) -> None:
    """Including features with missing values: the model gets the frame that the dataset returned."""

    class Given:
        """A dataset that returns a given frame."""

        def __init__(self, frame: pd.DataFrame) -> None:
            self.frame = frame

        def prepare(self, segment: str, col_set: Any, data_key: str) -> pd.DataFrame:
            return self.frame if isinstance(col_set, list) else self.frame[col_set]

    values = np.random.default_rng(0).standard_normal((100, 3)).astype(np.float32)
    values[5, 1] = np.nan
    index = market().index[:100]
    feature = pd.DataFrame(
        values, index=index, columns=pd.MultiIndex.from_product([["feature"], list("abc")]), copy=False
    )
    label = pd.DataFrame(values[:, :1], index=index, columns=pd.MultiIndex.from_tuples([("label", "y")]))
    samples = training_samples(Given(pd.concat([feature, label], axis=1)), model="Mine")
    assert np.shares_memory(samples.features.to_numpy(), values)
    assert np.shares_memory(prediction_features(Given(feature), model="Mine").to_numpy(), values)
    assert caplog.records == []


class Weights(Reweighter):
    """A reweighter that computes weights from the rows that it gets."""

    def __init__(self, weigh: Any) -> None:
        self.weigh = weigh

    def reweight(self, data: pd.DataFrame) -> Any:
        return self.weigh(data)


def at(frame: pd.DataFrame, value: float) -> np.ndarray:
    """Return ones, with another value in the fourth row."""
    weight = np.ones(len(frame))
    weight[3] = value
    return weight


@pytest.mark.parametrize(
    ("weigh", "message"),
    [
        (lambda d: at(d, np.nan), r"Weights gives 1 weight that .* cannot use .* first is nan for D on 2021-03-01"),
        (lambda d: at(d, np.inf), "first is inf for D on 2021-03-01"),
        (lambda d: at(d, -0.5), "first is -0.5 for D on 2021-03-01"),
        (lambda d: at(d, 1e300), r"first is 1e\+300 for D on 2021-03-01"),
        (lambda d: np.zeros(len(d)), "every row of the 'train' segment the weight 0"),
        (lambda d: np.ones(len(d) - 1), r"shape \(269,\) for the 270 rows"),
        (lambda d: np.ones((len(d), 2)), r"shape \(270, 2\) for the 270 rows"),
        (lambda d: 1.0, r"shape \(\) for the 270 rows"),
    ],
)
@pytest.mark.parametrize("name", [*BOOSTED, "ols"])
def test_invalid_weights_are_refused(name: str, weigh: Any, message: str) -> None:
    """Negative, missing and infinite weights, only zeros, and too few or too many weights."""
    with pytest.raises(ModelError, match=message):
        MODELS[name]().fit(dataset(market()), reweighter=Weights(weigh))


def test_a_reweighter_gets_the_rows_with_a_label() -> None:
    """A column of weights has one weight per row; weights in another order are matched by their index."""
    data = dataset(spoil(market(), ("label", "y"), np.nan))
    seen = []

    def weigh(frame: pd.DataFrame) -> pd.DataFrame:
        seen.append(frame)
        return pd.DataFrame({"weight": np.arange(len(frame), dtype=float)}, index=frame.index).iloc[::-1]

    samples = training_samples(data, model="Mine", reweighter=Weights(weigh))
    assert seen[0].notna().all().all()
    assert seen[0].index.equals(samples.features.index)
    np.testing.assert_array_equal(samples.weight, np.arange(len(samples.label)))


ONE = [
    ("CSRankNorm", {"fields_group": "label"}),
    ("CSZScoreNorm", {"fields_group": "label"}),
    ("CSZScoreNorm", {"fields_group": "label", "method": "robust"}),
]


@pytest.mark.parametrize("name", [*BOOSTED, "ols"])
@pytest.mark.parametrize(("processor", "kwargs"), ONE)
def test_one_instrument_alone_cannot_be_compared(name: str, processor: str, kwargs: Any) -> None:
    """The error names the processor and says why no rows are left."""
    described = {"class": processor, "kwargs": kwargs}
    with pytest.raises(ModelError, match=f"'train' segment are missing.*{processor} leaves no.*each day has only one"):
        MODELS[name]().fit(dataset(market("A"), {"class": "DropnaLabel"}, described))
    with pytest.raises(DataError, match=f"DropnaLabel drops all rows.*{processor} leaves no.*each day has only one"):
        MODELS[name]().fit(dataset(market("A"), described, {"class": "DropnaLabel"}))


def test_days_with_a_single_instrument_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """On these days nothing can be ranked, and their rows are counted."""
    frame = market("AB")
    days = frame.index.get_level_values("datetime")
    frame = frame[(days < "2021-04-01") | (frame.index.get_level_values("instrument") == "A")]
    samples = training_samples(
        dataset(frame, {"class": "CSRankNorm", "kwargs": {"fields_group": "label"}}), model="Mine"
    )
    assert samples.features.index.get_level_values("datetime").max() == pd.Timestamp("2021-03-31")
    assert "22 of the 68 rows" in caplog.text


@pytest.mark.parametrize("segment", ["train", "valid"])
@pytest.mark.parametrize("name", BOOSTED)
def test_a_segment_without_labels_names_the_loader(name: str, segment: str) -> None:
    """A segment for early stopping without labels names it too."""
    frame = market()
    days = frame.index.get_level_values("datetime")
    start, end = SEGMENTS[segment]
    frame.loc[(days >= start) & (days <= end), ("label", "y")] = np.inf
    message = f"all labels of the '{segment}' segment.*StaticDataLoader has no finite value of 'label' there"
    with pytest.raises(ModelError, match=message):
        MODELS[name]().fit(dataset(frame))
    with pytest.raises(
        DataError, match=f"the '{segment}' segment.*DropnaLabel drops all rows.*StaticDataLoader has no"
    ):
        MODELS[name]().fit(dataset(frame, {"class": "DropnaLabel"}))


@pytest.mark.parametrize("name", MODELS)
def test_a_segment_without_features_names_the_loader_or_processor(name: str) -> None:
    """The error names the loader or processor when fitting and when predicting."""
    frame = market()
    frame["feature"] = np.inf
    with pytest.raises(ModelError, match=r"features of the 'train' segment.*StaticDataLoader has no"):
        MODELS[name]().fit(dataset(frame))

    class Lose(Processor):
        """Removes the features of the test segment."""

        def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
            df.loc[df.index.get_level_values("datetime") > "2021-05-31", "feature"] = np.nan
            return df

    data, model = dataset(market(), infer=[Lose()]), MODELS[name]()
    model.fit(data)
    with pytest.raises(ModelError, match=r"features of the 'test' segment.*Lose leaves no finite value of 'feature'"):
        model.predict(data)
    with pytest.raises(ModelError, match=r"features of the days from 2021-06-01 to 2021-06-04"):
        model.predict(data, slice("2021-06-01", "2021-06-04"))


@pytest.mark.parametrize("name", ["ols", "ridge", "nnls"])
def test_a_linear_model_names_the_feature_that_every_row_lacks(name: str) -> None:
    """A single column without values removes every row."""
    frame = market()
    frame[("feature", "b")] = np.nan
    with pytest.raises(ModelError, match=r"every row of the 'train' segment lacks 'b'.*StaticDataLoader has no finite"):
        MODELS[name]().fit(dataset(frame))


@pytest.mark.parametrize("name", [*BOOSTED, "ols"])
def test_tables_without_groups_or_with_text_are_refused(name: str) -> None:
    """Ungrouped columns, and text among the numbers; every numeric type is accepted."""
    flat = market().set_axis(["a", "b", "y"], axis=1)
    with pytest.raises(ModelError, match=r"groups of columns 'feature' and 'label', but the dataset has: a, b, y\."):
        MODELS[name]().fit(dataset(flat))
    text = market()
    text[("feature", "sector")] = "IT"
    with pytest.raises(ModelError, match="the column 'sector' contains 'IT'"):
        MODELS[name]().fit(dataset(text.sort_index(axis=1)))
    plain = MODELS[name]()
    plain.fit(dataset(market()))
    for kind in ("Float64", object):
        frame, model = market().astype(kind), MODELS[name]()
        frame.iloc[0, 2] = pd.NA
        model.fit(dataset(frame))
        np.testing.assert_allclose(model.predict(dataset(frame)), plain.predict(dataset(market())), atol=1e-3)


def test_equal_labels_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    """There is nothing to learn from them, and every prediction will be that value."""
    frame = market()
    frame[("label", "y")] = 1.73
    LGBModel(num_boost_round=2).fit(dataset(frame, segments={"train": SEGMENTS["train"]}))
    assert "LGBModel: every label of the 'train' segment is 1.73" in caplog.text


def test_the_lasso_follows_the_rule() -> None:
    """The rule holds if scikit-learn is installed."""
    pytest.importorskip("sklearn", reason="the lasso needs scikit-learn: pip install scikit-learn")
    frame = spoil(spoil(market(), ("label", "y"), np.inf), ("feature", "a"), np.inf, codes="D")
    model, data = LinearModel("lasso", alpha=1e-9, fit_intercept=True), dataset(frame)
    model.fit(data)
    whole = market()
    alone = LinearModel(fit_intercept=True)
    alone.fit(dataset(whole[whole.index.get_level_values("instrument").isin(list("EF"))]))
    np.testing.assert_allclose(model.predict(data), alone.predict(data), atol=1e-5)


def test_finetuning_follows_the_rule() -> None:
    """``finetune`` leaves out rows without a label, too."""
    data = dataset(spoil(market(), ("label", "y"), np.nan))
    model = LGBModel(num_boost_round=5, learning_rate=0.3, min_data_in_leaf=5)
    model.fit(data)
    model.finetune(data, num_boost_round=30)
    assert model.predict(data).mean() == pytest.approx(0.1, abs=0.01)


def test_a_users_model_can_follow_the_rule(caplog: pytest.LogCaptureFixture) -> None:
    """With the same two functions, for one label or several."""

    class Mean(Model):
        def fit(self, dataset: Any, reweighter: Any = None) -> None:
            self.mean = training_samples(dataset, model="Mean", several_labels=True).label.mean(axis=0)

        def predict(self, dataset: Any, segment: Any = "test") -> pd.Series:
            return prediction_features(dataset, segment, model="Mean").notna().sum(axis=1) * self.mean[0]

    frame = spoil(market(), ("label", "y"), np.nan)
    frame[("label", "z")] = 1.0
    frame.loc[(pd.Timestamp("2021-03-01"), "D"), ("label", "z")] = np.inf
    frame.loc[(pd.Timestamp("2021-06-01"), "D"), ("feature", "a")] = np.inf
    data, model = dataset(frame), Mean()
    model.fit(data)
    np.testing.assert_allclose(model.mean, [0.1, 1.0], atol=0.001)
    assert model.predict(data).loc[("2021-06-01", "D")] == pytest.approx(0.1, abs=0.001)
    assert "136 of the 270 rows" in caplog.text
    with pytest.raises(ModelError, match="Mean accepts one label, but the dataset has 2: y, z"):
        training_samples(data, model="Mean")


def test_a_dataset_without_a_handler_is_named() -> None:
    """A user's dataset that only has prepare()."""

    class Bare:
        def prepare(self, segment: str, col_set: Any, data_key: str) -> pd.DataFrame:
            frame = market("A")
            frame[("label", "y")] = np.nan
            return frame

    with pytest.raises(ModelError, match=r"They come from Bare\.prepare\(\)"):
        training_samples(Bare(), model="Mine")


def test_clean_data_give_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Warnings are logged only with a reason."""
    for make in MODELS.values():
        model, data = make(), dataset(market())
        model.fit(data)
        model.predict(data)
    assert caplog.records == []
