"""Names of models: different for different models, the same for all windows of a model, and short."""

from __future__ import annotations

import datetime as dt
import json
import re
from typing import Any

import hypothesis.strategies as st
import pandas as pd
import pytest
from hypothesis import given, settings

from rollforge.errors import ConfigError, TaskNotSerializable
from rollforge.generate.naming import check_name, describe, differing_parts, model_names, short_name, variant
from rollforge.generate.task_view import TaskView


def task(model: Any, year: int = 2020, handler: Any = None, **more: Any) -> dict[str, Any]:
    segments = {"train": (f"{year - 1}-01-01", f"{year - 1}-12-31"), "test": (f"{year}-01-01", f"{year}-12-31")}
    handler = handler or {"class": "Alpha158", "kwargs": {"start_time": "2008-01-01", "end_time": f"{year}-12-31"}}
    return {"model": model, "dataset": {"kwargs": {"handler": handler, "segments": segments}}, **more}


def lgb(**kwargs: Any) -> dict[str, Any]:
    return {"class": "LGBModel", "module_path": "rollforge.models", "kwargs": kwargs}


LINEAR = {"class": "LinearModel", "module_path": "rollforge.models"}


def test_windows_of_a_model_have_the_same_model() -> None:
    """Segments and dates of the dataset and the records do not count; a parameter of the model does."""
    backtest = [{"class": "PortAnaRecord", "kwargs": {"config": {"backtest": {"start_time": "2020-01-01", "topk": 5}}}}]
    later = [{"class": "PortAnaRecord", "kwargs": {"config": {"backtest": {"start_time": "2021-01-01", "topk": 5}}}}]
    assert variant(task(lgb(), 2020, record=backtest)) == variant(task(lgb(), 2021, record=later))
    assert re.fullmatch("[0-9a-f]{12}", variant(task(lgb()))), "it is stored, so its length does not change"
    assert variant(task(lgb())) != variant(task(lgb(max_time=5)))
    assert variant(task(lgb())) != variant(task(lgb(), reweighter={"class": "Mine"}))


@pytest.mark.parametrize(
    ("models", "names"),
    [
        ([lgb(depth=4), lgb(depth=8)], ["depth=4", "depth=8"]),
        ([lgb(depth=4), lgb()], ["depth=4", "depth=default"]),
        ([lgb(depth=4), LINEAR], ["LGBModel", "LinearModel"]),
        ([lgb(depth=4), lgb(depth=8), LINEAR], ["LGBModel, depth=4", "LGBModel, depth=8", "LinearModel"]),
        (
            [lgb(depth=4, rate=0.1), lgb(depth=8, rate=0.2)],
            ["depth=4, rate=0.1", "depth=8, rate=0.2"],
        ),
        ([lgb(seed=None), lgb(seed=True), lgb(seed=[1, 2])], ["seed=none", "seed=true", "seed=[1, 2]"]),
        ([lgb(x="a" * 90), lgb(x="b" * 90)], ["x=" + "a" * 31 + "…", "x=" + "b" * 31 + "…"]),
        ([lgb(x="a\nb"), lgb(x="<b>")], ["x=a b", "x=<b>"]),
    ],
)
def test_a_name_consists_of_the_differences(models: list[Any], names: list[str]) -> None:
    """The class if classes differ, then the parameters that differ; an omitted value is the default."""
    assert model_names([task(m) for m in models]) == names


def test_differences_in_datasets_and_records_are_named() -> None:
    """A class is shown by its name; equal last parts of two paths are distinguished by what precedes them."""
    other = {"class": "Alpha360", "kwargs": {"start_time": "2008-01-01"}}
    assert model_names([task(lgb()), task(lgb(), handler=other)]) == ["Alpha158", "Alpha360"]
    both = [
        {"model": lgb(seed=1), "dataset": {"kwargs": {"seed": 1}}},
        {"model": lgb(seed=2), "dataset": {"kwargs": {"seed": 1}}},
        {"model": lgb(seed=2), "dataset": {"kwargs": {"seed": 3}}},
    ]
    assert differing_parts(both) == [
        "model.seed=1, dataset.seed=1",
        "model.seed=2, dataset.seed=1",
        "model.seed=2, dataset.seed=3",
    ]
    weighted = [task(lgb()), task(lgb(), reweighter={"class": "ByAge", "kwargs": {"half": 20}})]
    assert model_names(weighted) == ["reweighter=none", "reweighter=ByAge"]


def test_equal_values_are_not_a_difference() -> None:
    """Equal values need not be the same objects; values of different types differ, even if Python takes them for
    equal."""
    models = [json.loads(json.dumps(lgb(depth=depth, rate=0.125, names=["a", "b"]))) for depth in (4, 8, 8)]
    assert differing_parts(models) == ["depth=4", "depth=8", "depth=8"]
    assert differing_parts([lgb(x=1), lgb(x=True), lgb(x=1.0)]) == ["x=1", "x=true", "x=1.0"]


def test_an_index_is_not_a_name() -> None:
    """``label.0`` is shown, never ``0``; lists of different lengths are shown completely."""
    first, second, third = (task(lgb(), handler={"kwargs": {"label": [label]}}) for label in ("a", "b", "c"))
    third["dataset"]["kwargs"]["handler"]["kwargs"]["label"].append("d")
    assert model_names([first, second]) == ["label.0=a", "label.0=b"]
    assert model_names([first, third]) == ["label=[a]", "label=[c, d]"]


def test_one_model_needs_no_name() -> None:
    """However many windows it has; a given name is kept."""
    windows = [task(lgb(), year) for year in (2020, 2021)]
    assert model_names(windows) == ["", ""]
    assert model_names(windows, ["mine", "mine"]) == ["mine", "mine"]
    assert model_names([]) == []


def test_given_names_take_precedence() -> None:
    """A model without one is named by its differences; two with the same given name are also distinguished by them."""
    tasks = [task(lgb(depth=4)), task(lgb(depth=8)), task(LINEAR)]
    assert model_names(tasks, ["shallow", "deep", "ridge"]) == ["shallow", "deep", "ridge"]
    assert model_names(tasks, ["shallow", "", ""]) == ["shallow", "LGBModel, depth=8", "LinearModel"]
    assert model_names(tasks, ["lgb", "lgb", "ridge"]) == ["lgb, depth=4", "lgb, depth=8", "ridge"]


def test_windows_named_at_different_times_belong_to_one_model() -> None:
    """Windows stored before the model was named, or with another name: the first name is the model's."""
    windows = [task(lgb(), year) for year in (2020, 2021, 2022)]
    assert model_names(windows, ["", "lgb", ""]) == ["lgb", "lgb", "lgb"]
    assert model_names(windows, ["new", "old", "old"]) == ["new", "new", "new"]


def test_models_that_differ_only_in_segments_need_names() -> None:
    """With a grid over segments, the same days are tested under two names."""
    long, short = task(lgb()), task(lgb())
    short["dataset"]["kwargs"]["segments"]["train"] = ("2019-07-01", "2019-12-31")
    assert model_names([long, short, task(lgb(), 2021)], ["long", "short", "long"]) == ["long", "short", "long"]
    assert model_names([long, short]) == ["", ""]
    assert model_names([long, short, task(LINEAR)], ["long", "short", ""]) == ["long", "short", "LinearModel"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["A", "B"]),
            st.dictionaries(st.sampled_from("xyz"), st.one_of(st.integers(0, 2), st.text(max_size=60)), max_size=3),
            st.sampled_from(["", "", "a", "b"]),
        ),
        min_size=1,
        max_size=8,
    )
)
@settings(max_examples=200, deadline=None)
def test_names_and_models_are_one_to_one(drawn: list[tuple[str, dict[str, Any], str]]) -> None:
    """Different models have different names, printable and short; tasks of one model have the same."""
    tasks = [task({"class": c, "kwargs": kwargs}) for c, kwargs, _ in drawn]
    given_names = [name for _, _, name in drawn]
    names = model_names(tasks, given_names)
    by_model: dict[Any, set[str]] = {}
    for one, own, name in zip(tasks, given_names, names, strict=True):
        several = len({n for t, n in zip(tasks, given_names, strict=True) if n and variant(t) == variant(one)}) > 1
        by_model.setdefault((variant(one), own if several else ""), set()).add(name)
    assert all(len(n) == 1 for n in by_model.values())
    assert len({next(iter(n)) for n in by_model.values()}) == len(by_model)
    assert all(len(n) <= 80 and (not n or n.isprintable()) for n in names)
    assert all(names) or len(by_model) == 1


def test_models_that_differ_in_many_values_have_all_of_them_in_their_names() -> None:
    """The first four differences suffice only if no other model shares them."""
    tasks = [task(lgb(a=1, b=1, c=1, d=1, e=e)) for e in (1, 2)] + [task(lgb(a=2, b=2, c=2, d=2, e=2))]
    assert model_names(tasks) == ["a=1, b=1, c=1, d=1, e=1", "a=1, b=1, c=1, d=1, e=2", "a=2, b=2, c=2, d=2"]


def test_a_long_name_is_shortened_in_the_middle() -> None:
    """Always in the same way, and never to the name of another model, even if only the removed part differs."""
    whole = [f"{'a' * 100}{i}{'b' * 100}, seed 7" for i in range(50)]
    short = [short_name(name) for name in whole]
    assert len(set(short)) == 50
    assert all(len(name) == 80 and name.startswith("aaaa") and ", seed 7 (" in name for name in short)
    assert short == [short_name(name) for name in whole]
    assert [short_name(name) for name in short] == short, "what is short stays as it is"
    assert short_name("x" * 80) == "x" * 80


@pytest.mark.parametrize(
    ("test", "shown"),
    [
        (("2020-01-02", "2020-02-28"), "2020-01-02 to 2020-02-28"),
        (("20200102", "2020/2/28"), "2020-01-02 to 2020-02-28"),
        ((pd.Timestamp("2020-01-02"), pd.Timestamp("2020-02-28")), "2020-01-02 to 2020-02-28"),
        ([dt.date(2020, 1, 2), None], "2020-01-02 to the end"),
        ((None, dt.datetime(2020, 2, 28, 9, 30)), "the beginning to 2020-02-28 09:30"),
        (slice("2020-01-02", "2020-02-28"), "2020-01-02 to 2020-02-28"),
        ("2020", ""),
    ],
)
def test_a_task_is_described_by_model_and_days(test: Any, shown: str) -> None:
    """Days in ISO format, however they were given; a time of day is that of a bar."""
    definition = {"model": lgb(), "dataset": {"kwargs": {"segments": {"test": test}}}}
    assert TaskView(definition).days_tested == shown
    assert describe(definition, "trees") == f"trees {shown}".strip()
    assert describe(definition) == f"LGBModel {shown}".strip()
    assert describe({"x": 1}) == ""


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 81, None, True, {"a": 1}, "\x00"])
def test_invalid_names_are_refused(name: Any) -> None:
    """The message has the location."""
    with pytest.raises(ConfigError, match=r"models\.x: .*cannot be the name"):
        check_name(name, "models.x")


def test_names_are_plain_text() -> None:
    """Numbers read from YAML are names too; surrounding spaces are removed."""
    assert [check_name(n) for n in (" ridge ", 4, 0.5, "Größe 2", "a/b")] == ["ridge", "4", "0.5", "Größe 2", "a/b"]


def test_a_definition_that_is_much_larger_than_its_objects_is_refused() -> None:
    """Lists that contain another one twice, thirty levels deep, would be a billion values as text."""
    value: object = 1
    for _ in range(30):
        value = [value, value]
    tasks = [{"model": {"class": "LGBModel", "kwargs": {"value": value}}}] * 2
    with pytest.raises(TaskNotSerializable, match="larger than"):
        variant(tasks[0])
    assert model_names(tasks, ["a", "b"]) == ["a", "b"]
