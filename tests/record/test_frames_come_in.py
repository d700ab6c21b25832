"""Users' signals and benchmarks: other index level names, time zones, tables of other libraries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from rollforge.errors import DataError
from rollforge.features.api import D
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.features.loader import QlibDataLoader
from rollforge.models.linear import LinearModel
from rollforge.record.analysis import SigAnaRecord
from rollforge.record.backtest import run_backtest
from rollforge.record.scores import SignalWCache
from rollforge.record.signal import SignalRecord
from rollforge.session import Session, using
from rollforge.track.base import get_experiment, open_tracker

DAYS = ("2023-03-01", "2023-03-31")


@pytest.fixture(autouse=True)
def session(small_market: Path) -> Iterator[None]:
    with using(Session(provider_uri=str(small_market))):
        yield


def _signal() -> pd.DataFrame:
    return D.features("all", ["$close"], *DAYS).swaplevel().sort_index().dropna()


def _zoned(frame: pd.DataFrame) -> pd.DataFrame:
    days = frame.index.get_level_values("datetime").tz_localize("Asia/Shanghai")
    return frame.set_axis(pd.MultiIndex.from_arrays([days, frame.index.get_level_values("instrument")]))


FORMS: dict[str, Any] = {
    "names": lambda f: f.rename_axis(index=["date", "symbol"]),
    "no names": lambda f: f.rename_axis(index=[None, None]),
    "other order": lambda f: f.swaplevel(),
    "zone": _zoned,
    "series": lambda f: f["$close"].rename_axis(index=["date", "code"]),
    "columns": lambda f: f.reset_index(),
    "arrow": lambda f: pa.Table.from_pandas(f.reset_index()),
    "texts": lambda f: f.set_axis(
        pd.MultiIndex.from_arrays(
            [f.index.get_level_values(0).strftime("%Y%m%d"), f.index.get_level_values(1).str.lower()]
        )
    ),
}


def _backtest(signal: Any, **options: Any) -> Any:
    strategy = {"class": "TopkDropoutStrategy", "module_path": "rollforge.record.backtest",
                "kwargs": {"signal": signal, "topk": 3, "n_drop": 1}}  # fmt: skip
    return run_backtest(strategy, account=1e6, end_time="2023-03-31", **options).report


@pytest.mark.parametrize("form", FORMS)
def test_a_signal_in_any_form_trades_alike(form: str) -> None:
    """The backtest is the same whatever the names of the levels and the library of the table."""
    pd.testing.assert_frame_equal(_backtest(FORMS[form](_signal())), _backtest(_signal()))


@pytest.mark.parametrize(
    "benchmark",
    [
        lambda r: r,
        lambda r: r.tz_localize("Asia/Tokyo"),
        lambda r: r.rename_axis("date").to_frame("bench"),
        lambda r: r.set_axis(r.index.strftime("%Y/%m/%d")),
        lambda r: r.set_axis(r.index + pd.Timedelta(hours=15)),
    ],
)
def test_a_benchmark_of_returns_in_any_form(benchmark: Any) -> None:
    """A series of returns is matched by day: with a time zone, with days as strings, or as a frame of one column."""
    returns = pd.Series(np.linspace(-0.01, 0.01, 23), pd.bdate_range(*DAYS))
    found = _backtest(_signal(), benchmark=benchmark(returns))["bench"]
    np.testing.assert_allclose(found, returns.reindex(found.index))


@pytest.mark.parametrize(
    ("benchmark", "words"),
    [
        (3.5, "found a float"),
        (_signal, "found a function"),
        (pd.DataFrame({"a": [1.0], "b": [2.0]}, pd.DatetimeIndex(["2023-03-01"])), "one return for each day"),
        (pd.Series([1.0, 2.0]), "The benchmark needs an index"),
    ],
)
def test_an_invalid_benchmark_is_refused(benchmark: Any, words: str) -> None:
    """The one-line error has its type, not its contents."""
    with pytest.raises(DataError, match=words) as caught:
        _backtest(_signal(), benchmark=benchmark)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("day", ["20230315", 20230315, "2023-03-15 15:00", pd.Timestamp("2023-03-15", tz="Asia/Tokyo")])
def test_scores_are_looked_up_by_day_in_any_notation(day: Any) -> None:
    """A user's strategy may look up any form of a date."""
    signal = SignalWCache(_signal())
    expected = signal.get_signal("2023-03-15", "2023-03-15")
    assert expected is not None
    pd.testing.assert_frame_equal(pd.DataFrame(signal.get_signal(day, day)), pd.DataFrame(expected))


class _Renaming(LinearModel):
    """A user's model whose prediction has its own index names."""

    def __init__(self, form: Any) -> None:
        super().__init__(estimator="ols")
        self.form = form

    def predict(self, dataset: Any, segment: Any = "test") -> Any:
        return self.form(super().predict(dataset, segment))


PREDICTIONS: dict[str, Any] = {
    "no names": lambda p: p.rename_axis(index=[None, None]),
    "frame": lambda p: p.to_frame("x").rename_axis(index=["date", "code"]),
    "swapped": lambda p: p.swaplevel(),
    "arrow": lambda p: pa.Table.from_pandas(p.rename("score").reset_index()),
}


def _kept(form: Any, folder: Path) -> pd.DataFrame:
    loader = QlibDataLoader({"feature": ["$close/$open"], "label": ["Ref($close, -1)/$close-1"]})
    learn = [{"class": "DropnaProcessor"}]
    dataset = DatasetH(
        DataHandlerLP("all", data_loader=loader, learn_processors=learn),
        {"train": ("2022-01-03", "2022-12-30"), "valid": ("2023-01-02", "2023-02-28"), "test": DAYS},
    )
    model = _Renaming(form)
    model.fit(dataset)
    recorder = get_experiment(open_tracker(f"folder:{folder}"), experiment_name="mine").create_recorder("run")
    SignalRecord(model, dataset, recorder).generate()
    SigAnaRecord(recorder).generate()
    assert recorder.list_metrics()["IC"] != 0
    frame: pd.DataFrame = recorder.load_object("pred.pkl")
    return frame


@pytest.mark.parametrize("form", PREDICTIONS)
def test_a_model_may_predict_in_any_form(form: str, tmp_path: Path) -> None:
    """The prediction of a user's model is saved with the index (datetime, instrument), and evaluated."""
    kept, expected = _kept(PREDICTIONS[form], tmp_path / "a"), _kept(lambda p: p, tmp_path / "b")
    np.testing.assert_allclose(kept.iloc[:, 0].sort_index(), expected["score"])
    assert list(kept.index.names) == ["datetime", "instrument"]


@pytest.mark.parametrize(
    ("form", "found"), [(lambda p: p.to_numpy(), "ndarray"), (lambda p: p.droplevel(0), "'instrument'")]
)
def test_a_prediction_without_days_is_one_message(form: Any, found: str, tmp_path: Path) -> None:
    """The message names the model."""
    with pytest.raises(DataError, match=f"The prediction of _Renaming .*found .*{found}"):
        _kept(form, tmp_path)


@pytest.mark.parametrize(
    "form", [lambda p: p.map(lambda x: "up" if x > 0 else "down"), lambda p: p.astype(str), lambda p: p + 0j]
)
def test_a_prediction_that_is_not_of_numbers_is_refused_when_the_task_runs(form: Any, tmp_path: Path) -> None:
    """Nothing is saved, and the message names the model."""
    with pytest.raises(DataError, match=r"The prediction of _Renaming.*not all values are real numbers"):
        _kept(form, tmp_path)
    assert not list(tmp_path.rglob("pred*"))
