"""Learned state of processors, which is kept when the range of a handler is changed, as on Qlib's page on serialization."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.errors import ConfigError
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.features.loader import QlibDataLoader, StaticDataLoader
from rollforge.features.processor import DropCol, MinMaxNorm, Processor, ZScoreNorm
from rollforge.session import Session, using

DAYS = pd.bdate_range("2024-01-01", periods=10)
WINDOW = {"fit_start_time": "2024-01-01", "fit_end_time": "2024-01-08"}
"""The first six days, whose x has the mean 5.5."""


class Centred(Processor):
    """Subtracts the mean of the data it was fitted to, whatever their days."""

    def fit(self, df: pd.DataFrame) -> None:
        """Learn the mean of x."""
        self.mean = df["feature", "x"].mean()

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        df["feature", "x"] = df["feature", "x"] - self.mean
        return df


def table() -> pd.DataFrame:
    """Return twenty rows whose x counts from 0; the label is minus x."""
    index = pd.MultiIndex.from_product([DAYS, ["A", "B"]], names=["datetime", "instrument"])
    x = np.arange(20.0)
    columns = pd.MultiIndex.from_tuples([("feature", "x"), ("label", "L")])
    return pd.DataFrame(np.column_stack([x, -x]), index=index, columns=columns)


def of_frame(*processors: Processor, learn: Any = (), **kwargs: Any) -> DataHandlerLP:
    options: Any = {"start_time": DAYS[0], "end_time": DAYS[5], **kwargs}
    loader = StaticDataLoader(table())
    return DataHandlerLP(data_loader=loader, infer_processors=list(processors), learn_processors=list(learn), **options)


def as_it_is(handler: DataHandlerLP) -> DataHandlerLP:
    return handler


def used(handler: DataHandlerLP) -> DataHandlerLP:
    handler.setup_data()
    return handler


def saved(handler: DataHandlerLP) -> DataHandlerLP:
    copy: DataHandlerLP = pickle.loads(pickle.dumps(used(handler)))
    return copy


@pytest.fixture
def session(small_market: Path, tmp_path: Path) -> Iterator[Session]:
    """Return a session with its own cache."""
    with using(Session(provider_uri=str(small_market), cache=str(tmp_path / "cache"), threads=1)) as opened:
        yield opened


@pytest.mark.parametrize("state", [as_it_is, used, saved])
@pytest.mark.parametrize("start", [DAYS[4], DAYS[7]])
def test_a_later_range_is_processed_with_what_was_learned(start: Any, state: Callable[..., DataHandlerLP]) -> None:
    """Also if it contains only a part of the fit window, or nothing of it, and whether or not data were computed."""
    handler = state(of_frame(Centred(), learn=["DropnaLabel"]))
    handler.config(start_time=start, end_time=DAYS[9])
    handler.setup_data(init_type="load_state")
    expected = np.arange(2.0 * list(DAYS).index(start), 20) - 5.5
    for key in ("infer", "learn"):
        assert handler.fetch(data_key=key)["x"].tolist() == expected.tolist()
    handler.config(start_time=DAYS[8])
    handler.setup_data(init_type="load_state")
    assert handler.fetch()["x"].tolist() == [10.5, 11.5, 12.5, 13.5]
    handler.setup_data()
    assert handler.fetch()["x"].tolist() == [-1.5, -0.5, 0.5, 1.5]


@pytest.mark.parametrize("state", [as_it_is, used, saved])
def test_a_dataset_of_later_days_has_the_scale_of_the_training(
    session: Session, state: Callable[..., DataHandlerLP]
) -> None:
    """The steps of Qlib's page: load the dataset, change range and segments, set it up from its state."""

    def make(end: str) -> DataHandlerLP:
        norm = ZScoreNorm("2022-02-01", "2022-03-31", "feature")
        loader = QlibDataLoader({"feature": ["$close", "$volume"], "label": ["Ref($close, -1)/$close-1"]})
        return DataHandlerLP(
            "all", "2022-02-01", end, loader, infer_processors=[norm], learn_processors=["DropnaLabel"]
        )

    expected = make("2022-06-30").fetch(slice("2022-06-01", "2022-06-30"))
    for start in ("2022-03-15", "2022-05-02"):
        dataset = DatasetH(state(make("2022-04-29")), {"train": ("2022-02-01", "2022-03-31")})
        dataset.config(
            handler_kwargs={"start_time": start, "end_time": "2022-06-30"},
            segments={"test": ("2022-06-01", "2022-06-30")},
        )
        dataset.setup_data(handler_kwargs={"init_type": DataHandlerLP.IT_LS})
        pd.testing.assert_frame_equal(dataset.prepare("test"), expected)


def test_a_processor_of_the_user_has_learned_although_its_panel_was_cached(session: Session) -> None:
    """What such a processor learns is not stored with the panel, so it learns from the former days again."""

    def make() -> DataHandlerLP:
        loader = QlibDataLoader({"feature": (["$close"], ["x"]), "label": (["$open"], ["L"])})
        return DataHandlerLP("all", "2022-02-01", "2022-03-31", loader, infer_processors=[Centred()])

    mean = make().fetch(data_key="raw")["x"].mean()
    for _ in range(2):  # the second handler finds the panel in the cache
        handler = used(make())
        handler.config(start_time="2022-05-02", end_time="2022-05-31")
        handler.setup_data(init_type="load_state")
        moved = handler.fetch(data_key="raw")["x"] - handler.fetch()["x"]
        np.testing.assert_allclose(moved.dropna(), mean, rtol=1e-5)


def test_data_stay_in_the_cache_if_the_same_would_be_learned(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same start, and both ends after the fit window, only the end of the data changes."""
    handler = DataHandlerLP(
        "all", "2022-02-01", "2022-04-29", QlibDataLoader({"feature": ["$close"]}),
        infer_processors=[ZScoreNorm("2022-02-01", "2022-03-31", "feature")],
    )  # fmt: skip
    before = used(handler).fetch()
    monkeypatch.setattr(ZScoreNorm, "fit", None)
    handler.config(end_time="2022-05-31")
    handler.setup_data(init_type="load_state")
    pd.testing.assert_frame_equal(handler.fetch(slice(None, "2022-04-29")), before)
    assert len(handler.fetch()) > len(before)


@pytest.mark.parametrize("state", [as_it_is, used, saved])
@pytest.mark.parametrize("fit_end", ["2022-03-31", "2030-01-01", None])
def test_an_open_range_has_grown_since_it_was_set_up(
    fit_end: str | None, session: Session, state: Callable[..., DataHandlerLP]
) -> None:
    """Later days are processed with what was learned from the former ones, also if the fit window has not ended."""

    def make() -> DataHandlerLP:
        processor = Centred() if fit_end is None else ZScoreNorm("2022-02-01", fit_end, "feature")
        loader = QlibDataLoader({"feature": (["$close"], ["x"]), "label": (["$open"], ["L"])})
        return DataHandlerLP("all", "2022-02-01", None, loader, infer_processors=[processor])

    with using(session.with_(data_until="2022-04-29")):
        handler = state(make())
        before = handler.fetch()
    handler.setup_data(init_type="load_state")
    after = handler.fetch()
    assert after.index[-1][0] > pd.Timestamp("2022-05-01")
    pd.testing.assert_frame_equal(after.loc[:"2022-04-29"], before)
    relearned = used(make()).fetch()
    assert np.allclose(relearned["x"], after["x"], equal_nan=True) == (fit_end == "2022-03-31")


def test_a_changed_fit_window_counts_from_the_next_set_up(session: Session) -> None:
    """Data that are set up from the state have the scale of the former fit window."""
    norm = ZScoreNorm("2022-02-01", "2022-03-31", "feature")
    handler = DataHandlerLP(
        "all", "2022-02-01", "2022-04-29", QlibDataLoader({"feature": ["$close"]}), infer_processors=[norm]
    )
    before = used(handler).fetch()
    handler.config(processor_kwargs={"fit_start_time": "2022-03-01"})
    handler.setup_data(init_type="load_state")
    pd.testing.assert_frame_equal(handler.fetch(), before)
    handler.setup_data()
    assert not np.allclose(handler.fetch(), before, equal_nan=True)


@pytest.mark.parametrize("by_name", [True, False])
def test_each_processor_is_fitted_to_the_raw_data(by_name: bool) -> None:
    """With ``fit_ind``, or ``fit()`` and ``process_data()``: the second one learns from 0 to 11, not from -1.6 to
    1.6."""
    handler = of_frame(ZScoreNorm(fields_group="feature", **WINDOW), MinMaxNorm(fields_group="feature", **WINDOW))
    if by_name:
        handler.setup_data(init_type="fit_ind")
    else:
        handler.fit()
        handler.process_data()
    z = (np.arange(12) - 5.5) / np.arange(12).std()
    np.testing.assert_allclose(handler.fetch()["x"], z / 11)
    handler.fit_process_data()
    np.testing.assert_allclose(handler.fetch()["x"], np.arange(12) / 11)


def test_an_error_is_explained_with_what_was_learned() -> None:
    """An explanation of missing rows does not change it."""
    handler = of_frame(Centred(), learn=["DropnaLabel"])
    handler.config(start_time=DAYS[4], end_time=DAYS[9])
    handler.setup_data(init_type="load_state")
    assert handler.explain_missing("feature", ("2024-02-01", None), "infer").startswith("StaticDataLoader has no")
    assert handler.explain_missing("feature", (DAYS[9], None), "infer") == ""
    assert handler.explain_missing("feature", (DAYS[4], None), "learn") == ""
    assert handler.fetch()["x"].iloc[0] == 8 - 5.5
    assert handler.get_all_processors()[0].mean == 5.5  # type: ignore[attr-defined]


def test_columns_are_those_of_the_state_that_is_asked_for() -> None:
    """By default those for inference, as ``fetch`` returns them."""
    data = table()
    data.insert(1, ("feature", "y"), 1.0)
    handler = DataHandlerLP(data_loader=StaticDataLoader(data), infer_processors=[DropCol(["y"])])
    assert handler.get_cols() == ["x", "L"] == list(handler.fetch())
    assert handler.get_cols("feature", data_key="raw") == ["x", "y"]
    assert handler.get_cols("feature", DataHandlerLP.DK_L) == ["x"]


def test_an_unknown_set_up_is_refused() -> None:
    """The message lists the known ones."""
    with pytest.raises(ConfigError, match="init_type: must be one of fit_seq, fit_ind, load_state, found 'load'"):
        of_frame().setup_data(init_type="load")
