"""Wrong arguments of processors: one error with the location when the handler is built or checked, not during the run."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge import Session
from rollforge.build import build
from rollforge.errors import BuildError, ConfigError, RollforgeError
from rollforge.features import processor as module
from rollforge.features.alpha import Alpha158
from rollforge.features.handler import DataHandlerLP
from rollforge.features.inst_processor import InstProcessor
from rollforge.features.loader import QlibDataLoader
from rollforge.features.processor import Fillna, FilterCol, Processor, TimeRangeFlt, ZScoreNorm
from rollforge.session import using

FIT = {"fit_start_time": "2021-03-01", "fit_end_time": "2021-03-31"}
PROCESSORS: list[type] = [
    getattr(module, name)
    for name in module.__all__
    if inspect.isclass(getattr(module, name)) and name not in ("Processor", "TimeRangeFlt")
]
WRONG: dict[str, list[object]] = {
    "fields_group": [5, 1.5, True, {"a": 1}, [["feature"]], [None], {"feature"}, b"x"],
    "col_list": [5, "CLOSE0", {"a": 1}, [["a"]], [{"a": 1}], b"x"],
    "fill_value": ["x", None, [1], {"a": 1}, True, "0"],
    "fit_start_time": ["soon", 5, [1], {"a": 1}, True, "2021-13-01", ""],
    "fit_end_time": ["soon", 5, [1], {"a": 1}, True, "2021-02-30", "2021-02-01"],
    "method": ["mean", 5, None, ["zscore"], {"a": 1}, True],
    "start_time": ["soon", 5, [1]],
    "end_time": ["soon", 5, [1]],
    "freq": [5, None, ["day"], {"a": 1}, True],
}
FLAGS = (
    "clip_outlier", "fillna_feature", "fillna_label", "clip_feature_outlier", "shrink_feature_outlier",
    "clip_label_outlier",
)  # fmt: skip


WRONG |= {name: ["yes", "no", "", 5, 0.5, None, [True], {"a": 1}] for name in FLAGS}


def parameters(cls: type) -> list[str]:
    return [p.name for p in inspect.signature(cls).parameters.values() if p.kind is not p.VAR_KEYWORD]


CASES = [(cls, name, value) for cls in [*PROCESSORS, TimeRangeFlt] for name in parameters(cls) for value in WRONG[name]]


def handler_with(described: object, **kwargs: object) -> DataHandlerLP:
    """Return a handler of one feature and one label with a processor, as a workflow describes it."""
    loader = QlibDataLoader({"feature": ["$close"], "label": ["Ref($close, -1)"]})
    made = {"class": DataHandlerLP, "kwargs": {"data_loader": loader, "learn_processors": [described], **kwargs}}
    return build(made, where="h")  # type: ignore[no-any-return]


@pytest.mark.parametrize(("cls", "name", "value"), CASES, ids=lambda value: getattr(value, "__name__", repr(value)))
def test_a_wrong_value_of_any_argument_is_one_error_with_its_location(cls: type, name: str, value: object) -> None:
    """Every argument of every processor, with values of other types; the object is never made."""
    needed = {key: FIT[key] for key in FIT if key in parameters(cls)}
    described = {"class": cls.__name__, "kwargs": {**needed, name: value}}
    place = "learn_processors" if issubclass(cls, Processor) else "inst_processors"
    owner: dict[str, object] = {"class": Alpha158, "kwargs": {place: [described]}}
    with pytest.raises(ConfigError) as caught:
        build(owner, where="h")
    assert str(caught.value).startswith(f"h.kwargs.{place}.0.kwargs.{name}"), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cls", PROCESSORS)
def test_valid_arguments_are_accepted(cls: type) -> None:
    """Those of Qlib's examples, also as scripts write them: NumPy's numbers, tuples, Timestamps."""
    valid: dict[str, list[Any]] = {
        "fields_group": [None, "feature", ["feature", "label"], ("label",), []],
        "col_list": [[], ["a"], ("a", "b"), pd.Index(["a"]), [1]],
        "fill_value": [0, -1.5, np.float32(2), float("nan")],
        "fit_start_time": [pd.Timestamp("2021-03-01"), "2021-03-01", np.datetime64("2021-03-01")],
        "fit_end_time": [pd.Timestamp("2021-03-01"), "2021-03-31"],
        "method": ["zscore", "robust"],
    }
    needed = {key: FIT[key] for key in FIT if key in parameters(cls)}
    for name in parameters(cls):
        for value in valid.get(name, [True, False, 1, 0, np.bool_(True)]):
            handler_with({"class": cls.__name__, "kwargs": {**needed, name: value}})


@pytest.mark.parametrize("cls", PROCESSORS)
def test_kwargs_that_are_not_a_mapping_are_one_error(cls: type) -> None:
    """The processors to which Alpha158 adds the fit window have the same error."""
    for kwargs in (5, "fields_group", ["label"]):
        given = {"infer_processors": [{"class": cls.__name__, "kwargs": kwargs}], **FIT}
        with pytest.raises(BuildError, match=r"infer_processors\.0: kwargs must be a mapping, found"):
            build({"class": Alpha158, "kwargs": given}, where="h")


@pytest.mark.parametrize("cls", PROCESSORS)
def test_an_unknown_argument_is_named(cls: type) -> None:
    with pytest.raises(BuildError, match=r"learn_processors\.0\.kwargs: .* takes no argument 'field_group'"):
        handler_with({"class": cls.__name__, "kwargs": {"field_group": "label"}})


@pytest.mark.parametrize(
    "cls", [c for c in PROCESSORS if "fields_group" in parameters(c) and "Section" not in c.__name__]
)
def test_a_group_that_the_loader_lacks_is_found_by_the_check(cls: type, small_market: Path) -> None:
    """A misspelt group is found before anything is computed, with the nearest name."""
    needed = {key: FIT[key] for key in FIT if key in parameters(cls)}
    with using(Session(provider_uri=str(small_market))):
        for group in ("lable", ["feature", "lable"]):
            handler = handler_with({"class": cls.__name__, "kwargs": {**needed, "fields_group": group}})
            if cls is FilterCol:  # reads all groups
                continue
            with pytest.raises(
                ConfigError,
                match=r"^learn_processors\.0\.kwargs\.fields_group: 'lable' is not a group .* Did you mean 'label'\?",
            ):
                handler.check()
        handler_with({"class": cls.__name__, "kwargs": {**needed, "fields_group": ["feature", "label"]}}).check()


def test_groups_after_a_processor_of_the_user_are_not_checked(small_market: Path) -> None:
    """A processor of the user may add groups."""

    class Weighting(Processor):
        pass

    with using(Session(provider_uri=str(small_market))):
        handler = handler_with("Fillna")
        handler.learn_processors = [Weighting(), Fillna("weight")]
        handler.check()
        handler.learn_processors.reverse()
        with pytest.raises(ConfigError, match="'weight' is not a group"):
            handler.check()


def test_a_wrong_value_set_later_is_an_error_too() -> None:
    """``processor_kwargs`` of a dataset change the attributes of processors that exist."""
    handler = handler_with({"class": "ZScoreNorm", "kwargs": FIT})
    handler.config(processor_kwargs={"fields_group": 5})
    (processor,) = handler.learn_processors
    with pytest.raises(RollforgeError, match="fields_group: must be a group of columns or a list of groups, found 5"):
        processor.groups()


class Named(InstProcessor):
    """A user's processor of one instrument."""

    def __init__(self, column: str = "close") -> None:
        self.column = column

    def __call__(self, df: pd.DataFrame, instrument: str, *args: Any, **kwargs: Any) -> pd.DataFrame:
        return df


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            [{"class": "TimeRangeFlt", "kwargs": {"begin": 1}}],
            r"inst_processors\.0\.kwargs: TimeRangeFlt takes no argument",
        ),
        (
            [None, {"class": Named, "kwargs": {"colum": "a"}}],
            r"inst_processors\.\d\.kwargs: Named takes no argument 'colum'",
        ),
        ({"feature": [{"class": Named, "kwargs": {"x": 1}}]}, r"inst_processors\.feature\.0\.kwargs: Named takes no"),
        ([{"class": "TimeRangFlt"}], r"inst_processors\.0: .*Did you mean 'TimeRangeFlt'"),
        (
            ["Fillna"],
            r"inst_processors\.0: .*not a processor of single instruments: its __call__\(\) takes no argument 'instrument'",
        ),
        ({"feature": 5}, r"inst_processors\.feature: expected a list of processors, found 5"),
        ([5], r"inst_processors\.0: expected a mapping"),
        ([{"class": Named, "kwargs": 5}], r"inst_processors\.0: kwargs must be a mapping"),
        (
            [{"class": "TimeRangeFlt", "kwargs": {"start_time": "2021-03-02", "end_time": "2021-03-01"}}],
            r"inst_processors\.0\.kwargs\.end_time: is before the start_time 2021-03-02",
        ),
    ],
)
@pytest.mark.parametrize("cls", [Alpha158, QlibDataLoader])
def test_mistakes_in_inst_processors_are_found_when_the_handler_is_built(
    cls: type, given: object, message: str
) -> None:
    """Mistakes are found before the data are loaded, whether the handler makes its loader itself or not."""
    own = {"config": {"feature": ["$close"]}} if cls is QlibDataLoader else {}
    with pytest.raises(ConfigError, match=r"^h\.kwargs\.") as caught:
        build({"class": cls, "kwargs": {**own, "inst_processors": given}}, where="h")
    with pytest.raises(ConfigError, match=message):
        raise caught.value


def test_inst_processors_of_another_group_are_ignored_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """As in Qlib, which does not mention it."""
    QlibDataLoader({"feature": ["$close"]}, inst_processors={"lable": [Named()]})
    assert "inst_processors of the group 'lable' are ignored: the groups of columns are feature" in caplog.text


def test_a_fit_window_in_reverse_is_refused() -> None:
    """A fit window in reverse would leave no days to learn from."""
    with pytest.raises(ConfigError, match="fit_end_time: is before the fit_start_time 2021-03-02, found 2021-03-01"):
        ZScoreNorm("2021-03-02", "2021-03-01")
