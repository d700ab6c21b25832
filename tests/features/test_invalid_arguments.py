"""Invalid arguments of datasets, handlers and loaders: one message with the location, before anything is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.arguments import fetch_arguments
from rollforge.build import build
from rollforge.errors import ConfigError
from rollforge.features.alpha import check_transform_proc
from rollforge.features.loader import NestedDataLoader, QlibDataLoader
from rollforge.features.processor import DropCol
from rollforge.kinds import DATASET

HANDLER = {
    "class": "DataHandlerLP",
    "module_path": "qlib.data.dataset.handler",
    "kwargs": {"data_loader": {"class": "QlibDataLoader", "kwargs": {"config": ["$close"]}}},
}


def dataset(**kwargs: object) -> Any:
    arguments = {"handler": HANDLER, "segments": {"train": (None, None)}, **kwargs}
    config = {"class": "DatasetH", "module_path": "qlib.data.dataset", "kwargs": arguments}
    return build(config, kind=DATASET, where="task.dataset")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"foo": 1}, r"fetch_kwargs: DataHandlerLP\.fetch\(\) takes no argument 'foo'"),
        ({"selector": 1}, "takes no argument 'selector'"),
        ({1: 2}, "takes no argument 1"),
        ({"colset": "feature"}, "Did you mean 'col_set'"),
        ({"proc_func": "x"}, "fetch_kwargs.proc_func: must be a function, found 'x'"),
        ([1], "must be a mapping"),
    ],
)
def test_invalid_fetch_arguments_are_refused(given: object, message: str) -> None:
    """An unknown argument, or a ``proc_func`` that is not a function, is refused when the dataset is built."""
    with pytest.raises(ConfigError, match=r"^task\.dataset\.kwargs\.") as caught:
        dataset(fetch_kwargs=given)
    with pytest.raises(ConfigError, match=message):
        raise caught.value


def test_a_handler_that_takes_any_argument_gets_it() -> None:
    """The signature of the handler's own ``fetch`` decides."""

    class Open:
        def fetch(self, days: object, **kwargs: object) -> None: ...

    assert fetch_arguments(Open(), {"foo": 1}) == {"foo": 1}


def test_an_unknown_argument_of_a_dataset_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """Qlib's class ignores it, and so does this one, but with a warning."""
    dataset(fetch_kwarg={})
    assert "DatasetH ignores unknown arguments: fetch_kwarg" in caplog.text


def test_a_single_object_instead_of_a_list_is_refused() -> None:
    """A mapping or a string where a list is needed would otherwise be read key by key, or letter by letter."""
    for given in (5, "Fillna", {"class": "Fillna"}):
        with pytest.raises(ConfigError, match="infer_processors: expected a list of processors, found"):
            check_transform_proc(given, None, None, path="infer_processors")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="filter_pipe: expected a list of filters"):
        QlibDataLoader(["$close"], filter_pipe=5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="dataloader_l: expected a list of loaders"):
        NestedDataLoader(5)  # type: ignore[arg-type]


def test_columns_can_be_any_collection() -> None:
    """A script can pass an index, a set or an array, as with Qlib's processors."""
    frame = pd.DataFrame([[1.0, 2.0]], columns=pd.MultiIndex.from_tuples([("feature", "a"), ("feature", "b")]))
    for given in (pd.Index(["a"]), {"a"}, np.array(["a"]), (name for name in ["a"]), ["a"]):
        assert [c[1] for c in DropCol(col_list=given)(frame)] == ["b"]  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="col_list: expected a list of columns, found 'a'"):
        DropCol(col_list="a")


ALPHA = {"class": "Alpha158", "module_path": "qlib.contrib.data.handler"}
LOADER = {"class": "QlibDataLoader", "kwargs": {"config": ["$close"], "filter_pipe": 5}}


@pytest.mark.parametrize(
    ("handler", "place"),
    [
        ({**ALPHA, "kwargs": {"filter_pipe": 5}}, "filter_pipe: expected a list of filters"),
        ({**ALPHA, "kwargs": {"inst_processors": 5}}, "inst_processors: must be a list"),
        ({**ALPHA, "kwargs": {"label": 5}}, "label: expected a list of expressions"),
        ({**ALPHA, "kwargs": {"infer_processors": [{"clas": "Fillna"}]}}, "infer_processors.0: "),
        (
            {**ALPHA, "kwargs": {"infer_processors": ["ZScoreNorm"]}},
            "infer_processors.0: ZScoreNorm needs the handler's",
        ),
        ({**HANDLER, "kwargs": {"data_loader": LOADER}}, "data_loader.kwargs.filter_pipe: expected a list of filters"),
        (
            {**HANDLER, "kwargs": {"data_loader": {"class": "NestedDataLoader", "kwargs": {"dataloader_l": [LOADER]}}}},
            "data_loader.kwargs.dataloader_l.0.kwargs.filter_pipe: expected a list of filters",
        ),
    ],
)
def test_the_location_is_that_in_the_workflow(handler: dict[str, Any], place: str) -> None:
    """The location is the same whether the handler makes its loader itself or the workflow describes it, also inside
    another loader."""
    with pytest.raises(ConfigError) as caught:
        dataset(handler=handler)
    assert str(caught.value).startswith(f"task.dataset.kwargs.handler.kwargs.{place}")
