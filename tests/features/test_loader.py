"""Loaders that use the data of other handlers, and the handlers of successive windows on top of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import rollforge
from rollforge.errors import BuildError, ConfigError
from rollforge.features.handler import DataHandler, DataHandlerLP
from rollforge.features.loader import DataLoaderDH, QlibDataLoader
from rollforge.features.processor import RobustZScoreNorm

FIELDS = {"feature": (["$close/Ref($close,1)-1", "$volume"], ["RET", "VOLUME"]), "label": (["$close"], ["LABEL"])}


@pytest.fixture
def source(small_market: Path) -> DataHandler:
    """Return a handler of raw data over all days."""
    rollforge.init(small_market)
    return DataHandler("all", "2022-01-03", "2023-12-29", QlibDataLoader(FIELDS))


def window(loader: Any, first: str, last: str) -> DataHandlerLP:
    """Return a handler whose processor is fitted on the first half year of `first`."""
    norm = RobustZScoreNorm(first, str(pd.Timestamp(first) + pd.DateOffset(months=6)), "feature")
    instruments = None if isinstance(loader, DataLoaderDH) else "all"
    return DataHandlerLP(instruments, first, last, loader, infer_processors=[norm])


def test_a_handler_of_a_handler_has_its_days(source: DataHandler) -> None:
    """The same columns, restricted to the requested days."""
    frame = DataLoaderDH(source).load(None, "2022-03-01", "2022-03-31")
    pd.testing.assert_frame_equal(frame, source.fetch(slice("2022-03-01", "2022-03-31"), col_set="__raw"))
    assert list(frame.columns) == [("feature", "RET"), ("feature", "VOLUME"), ("label", "LABEL")]


def test_each_of_several_handlers_becomes_a_group(source: DataHandler) -> None:
    """The mapping {group: handler} gives columns (group, name)."""
    loader = DataLoaderDH({"a": source, "b": source}, fetch_kwargs={"col_set": "feature"}, is_group=True)
    frame = loader.load(None, "2022-03-01", "2022-03-31")
    assert list(frame.columns) == [("a", "RET"), ("a", "VOLUME"), ("b", "RET"), ("b", "VOLUME")]
    pd.testing.assert_frame_equal(frame["a"], frame["b"])


def test_processing_over_a_handler_is_processing_over_its_data(source: DataHandler) -> None:
    """Loading from a handler that is computed once changes no number."""
    over = window(DataLoaderDH(source), "2022-02-01", "2023-01-31").fetch()
    pd.testing.assert_frame_equal(over, window(QlibDataLoader(FIELDS), "2022-02-01", "2023-01-31").fetch())


@pytest.mark.parametrize("over_handler", [True, False])
def test_a_handler_moved_by_config_equals_a_new_one(source: DataHandler, *, over_handler: bool) -> None:
    """Changing days and fit window with ``config`` gives the same data as a handler created with them."""
    loader = DataLoaderDH(source) if over_handler else QlibDataLoader(FIELDS)
    handler = window(loader, "2022-02-01", "2022-12-30")
    before = handler.fetch()
    fit = {"fit_start_time": "2023-01-03", "fit_end_time": "2023-07-03"}
    handler.config(start_time="2023-01-03", end_time="2023-12-29", processor_kwargs=fit)
    handler.setup_data(init_type=DataHandlerLP.IT_FIT_SEQ)
    pd.testing.assert_frame_equal(handler.fetch(), window(loader, "2023-01-03", "2023-12-29").fetch())
    assert before.index[-1][0] < pd.Timestamp("2023-01-01")


def test_invalid_handlers_and_universes_are_refused(source: DataHandler) -> None:
    """The error has the location in the document."""
    with pytest.raises(BuildError, match=r"handler_config.*QlibDataLoader is not a handler"):
        DataLoaderDH(
            {"class": "QlibDataLoader", "module_path": "rollforge.features.loader", "kwargs": {"config": FIELDS}}
        )
    with pytest.raises(ConfigError, match="universe of its handlers"):
        DataLoaderDH(source).load("all")
