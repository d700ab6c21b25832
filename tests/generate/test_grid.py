"""Grids with paths varied together and with conditions, and seeds."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, strategies as st

from rollforge.errors import ConfigError
from rollforge.generate import GridGen, SeedGen
from rollforge.limits import TooLarge

LR, ROUNDS, BOOSTING, DROP = (f"model.kwargs.{name}" for name in ("lr", "rounds", "boosting", "drop"))
TASK: dict[str, Any] = {"model": {"class": "LGBModel", "module_path": "m", "kwargs": {"boosting": "gbdt"}}}


def made(grid: GridGen | SeedGen, task: dict[str, Any] | None = None) -> list[tuple[str, dict[str, Any]]]:
    """Return the names and the model's arguments, after checking the count."""
    task = TASK if task is None else task
    before = repr(task)
    named = grid.named(task)
    assert grid.count(task) == len(named)
    assert grid.generate(task) == [one for _, one in named]
    assert repr(task) == before
    return [(name, one["model"]["kwargs"]) for name, one in named]


def test_paths_may_be_varied_together() -> None:
    """The first values, then the second ones; a value may appear twice if its row does not."""
    grid = GridGen({LR: [0.1, 0.01], "model.kwargs.depth": [4, 8], ROUNDS: [100, 1000]}, zip=[[LR, ROUNDS]])
    assert made(grid) == [
        (f"lr={lr}, depth={depth}, rounds={rounds}", {"boosting": "gbdt", "lr": lr, "depth": depth, "rounds": rounds})
        for lr, rounds in ((0.1, 100), (0.01, 1000))
        for depth in (4, 8)
    ]
    same = GridGen({LR: [0.1, 0.1, 0.2], ROUNDS: [1, 2, 2]}, zip=[[LR, ROUNDS]])
    assert [(k["lr"], k["rounds"]) for _, k in made(same)] == [(0.1, 1), (0.1, 2), (0.2, 2)]
    with pytest.raises(ConfigError, match=r"values\.model\.kwargs\.lr: has the values 0\.1, 1 twice"):
        GridGen({LR: [0.1, 0.1], ROUNDS: [1, 1]}, zip=[[LR, ROUNDS]])
    named = GridGen({LR: {"fast": 0.1, "slow": 0.01}, ROUNDS: [1, 2]}, zip=[[LR, ROUNDS]])
    assert [name for name, _ in made(named)] == ["fast", "slow"]


def test_a_path_may_be_set_only_under_conditions() -> None:
    """Elsewhere it stays as in the template, and its values make no further combinations."""
    values = {BOOSTING: ["gbdt", "dart", "rf"], DROP: [0.1, 0.5]}
    assert made(GridGen(values, when={DROP: {BOOSTING: "dart"}})) == [
        ("boosting=gbdt, drop=default", {"boosting": "gbdt"}),
        ("boosting=dart, drop=0.1", {"boosting": "dart", "drop": 0.1}),
        ("boosting=dart, drop=0.5", {"boosting": "dart", "drop": 0.5}),
        ("boosting=rf, drop=default", {"boosting": "rf"}),
    ]
    several = made(GridGen(values, when={DROP: {BOOSTING: ["dart", "rf"]}}))
    assert [k.get("drop") for _, k in several] == [None, 0.1, 0.5, 0.1, 0.5]


def test_a_condition_may_depend_on_another() -> None:
    """A path that is not set fulfils no condition on its values, but one on the template's."""
    values = {BOOSTING: ["gbdt", "dart"], DROP: [0.1, 0.5], "model.kwargs.skip": [1, 2]}
    when = {DROP: {BOOSTING: "dart"}, "model.kwargs.skip": {DROP: 0.5}}
    found = [(k["boosting"], k.get("drop"), k.get("skip")) for _, k in made(GridGen(values, when=when))]
    assert found == [("gbdt", None, None), ("dart", 0.1, None), ("dart", 0.5, 1), ("dart", 0.5, 2)]
    task = {"model": {"kwargs": {"drop": 0.5}}}
    found = [(k["boosting"], k.get("drop"), k.get("skip")) for _, k in made(GridGen(values, when=when), task)]
    assert found[:2] == [("gbdt", 0.5, 1), ("gbdt", 0.5, 2)]


def test_a_condition_may_ask_for_something_that_is_not_varied() -> None:
    """A condition on the class of the model lets one grid serve several models."""
    grid = GridGen({"model.kwargs.num_leaves": [4, 8]}, when={"model.kwargs.num_leaves": {"model.class": "LGBModel"}})
    assert [k.get("num_leaves") for _, k in made(grid)] == [4, 8]
    linear = {"model": {"class": "LinearModel", "kwargs": {}}}
    assert made(grid, linear) == [("", {})]
    assert made(grid, {"model": {"kwargs": {}}}) == [("", {})], "a path that is missing fulfils no condition"


def test_combinations_may_be_left_out() -> None:
    """Those that fulfil all conditions of an entry, given by values or by names; lists mean any of their values."""
    values: dict[str, Any] = {LR: {"fast": 0.1, "slow": 0.01}, ROUNDS: [1, 2, 3]}
    grid = GridGen(values, exclude=[{LR: "fast", ROUNDS: [2, 3]}, {LR: 0.01, ROUNDS: 1.0}])
    assert [(k["lr"], k["rounds"]) for _, k in made(grid)] == [(0.1, 1), (0.01, 2), (0.01, 3)]
    class_ = GridGen(values, exclude=[{"model.class": "LGBModel", LR: "fast"}])
    assert [k["lr"] for _, k in made(class_)] == [0.01] * 3
    flags = GridGen({"model.kwargs.flag": [True, 1]}, exclude=[{"model.kwargs.flag": True}])
    assert [k["flag"] for _, k in made(flags)] == [1]
    with pytest.raises(ConfigError, match="exclude: leaves out all combinations"):
        GridGen({LR: [1, 2]}, exclude=[{LR: [1, 2]}]).generate(TASK)


def test_a_list_of_a_list_is_a_value() -> None:
    """A list of a list is a value in a condition, too."""
    path = "model.kwargs.layers"
    grid = GridGen({path: [[64], [64, 32]], LR: [1, 2]}, exclude=[{path: [[64, 32]], LR: 2}])
    assert [(k["layers"], k["lr"]) for _, k in made(grid)] == [([64], 1), ([64], 2), ([64, 32], 1)]


def test_values_may_be_mappings() -> None:
    """Objects or arguments, in a list or with names; they are copied."""
    ridge = {"class": "LinearModel", "module_path": "m", "kwargs": {"alpha": 1}}
    grid = GridGen({"model": {"trees": TASK["model"], "ridge": ridge}})
    named = grid.named({"model": None})
    assert [name for name, _ in named] == ["trees", "ridge"]
    named[1][1]["model"]["kwargs"]["alpha"] = 2
    assert grid.generate({"model": None})[1]["model"]["kwargs"] == {"alpha": 1}
    listed = GridGen({"model": [TASK["model"], ridge]}).named({"model": None})
    assert [name for name, _ in listed] == ["LGBModel", "LinearModel"]


def test_missing_arguments_of_an_object_are_added() -> None:
    """If a model has no kwargs, or is given as a dotted path."""
    assert made(GridGen({LR: [0.1]}), {"model": {"class": "A", "module_path": "m"}}) == [("", {"lr": 0.1})]
    assert made(GridGen({LR: [0.1]}), {"model": {"class": "A", "module_path": "m", "kwargs": None}}) == [
        ("", {"lr": 0.1})
    ]
    ((_, task),) = GridGen({LR: [0.1]}).named({"model": "m.A"})
    assert task == {"model": {"class": "m.A", "kwargs": {"lr": 0.1}}}
    for path in ("model.kwrgs.lr", "modle.kwargs.lr", "model.class.lr", "model.module_path.kwargs.lr.x"):
        with pytest.raises(ConfigError, match=f"values.{path}: does not exist"):
            GridGen({path: [0.1]}).generate({"model": {"class": "A", "module_path": None}})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"values": [1]}, "values: must be a mapping of paths to values"),
        ({"zip": [LR, ROUNDS]}, "zip: must be a list of lists of paths"),
        (
            {"zip": [[LR, "model.kwargs.round"]]},
            "zip.0: 'model.kwargs.round' has no values. Did you mean 'model.kwargs.rounds'",
        ),
        (
            {"zip": [[LR, BOOSTING]]},
            "zip.0: needs the same number of values for each path, but model.kwargs.lr has 2, model.kwargs.boosting has 3",
        ),
        ({"zip": [[LR, ROUNDS], [ROUNDS]]}, "zip.1: 'model.kwargs.rounds' appears twice"),
        ({"zip": [[LR, LR]]}, "zip.0: 'model.kwargs.lr' appears twice"),
        ({"when": {DROP: {LR: 0.1}}}, "when.model.kwargs.drop: has no values"),
        (
            {"when": {LR: {BOOSTING: "drat"}}},
            "when.model.kwargs.lr.model.kwargs.boosting: 'drat' is not one of its values. Did you mean 'dart'? They are",
        ),
        ({"when": {LR: {}}}, "when.model.kwargs.lr: has no conditions"),
        ({"when": {LR: 5}}, "when.model.kwargs.lr: must be a mapping of paths, found 5"),
        ({"when": {LR: {LR: 0.1}}}, "when.model.kwargs.lr: depends on itself"),
        ({"when": {LR: {ROUNDS: 1}, ROUNDS: {LR: 0.1}}}, "when.model.kwargs.lr: depends on itself"),
        ({"exclude": {LR: 0.1}}, "exclude: must be a list of mappings"),
        ({"exclude": [{LR: 0.2}]}, "exclude.0.model.kwargs.lr: 0.2 is not one of its values"),
        (
            {"exclude": [{"model.kwargs.roundz": 1}]},
            "exclude.0.model.kwargs.roundz: has no values. Did you mean 'model.kwargs.rounds'",
        ),
        ({"exclude": [{}]}, "exclude.0: has no conditions"),
    ],
)
def test_a_mistake_in_a_group_or_condition_is_named(arguments: dict[str, Any], said: str) -> None:
    values = {LR: [0.1, 0.01], ROUNDS: [1, 2], BOOSTING: ["gbdt", "dart", "rf"]}
    with pytest.raises(ConfigError) as caught:
        GridGen(**{"values": values, **arguments}).generate(TASK)
    assert str(caught.value).startswith(said)


def test_a_huge_grid_with_conditions_is_refused_before_it_is_enumerated() -> None:
    values = {f"model.kwargs.x{i}": list(range(100)) for i in range(8)}
    grid = GridGen(values, exclude=[{"model.kwargs.x0": 1}])
    assert grid.count(TASK) == 100**8
    with pytest.raises(TooLarge):
        grid.generate(TASK)


@given(
    left_out=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=6),
    needed=st.sets(st.integers(0, 2), min_size=1),
)
def test_the_combinations_are_those_of_the_conditions(left_out: list[tuple[int, int]], needed: set[int]) -> None:
    """Enumerating them gives the same: c is set where a is among `needed`, and pairs of a and b are left out."""
    a, b, c = (f"model.kwargs.{name}" for name in "abc")
    grid = GridGen(
        {path: [0, 1, 2] for path in (a, b, c)},
        when={c: {a: sorted(needed)}},
        exclude=[{a: x, b: y} for x, y in left_out],
    )
    expected = [
        {"a": x, "b": y} | ({"c": z} if x in needed else {})
        for x, y, z in itertools.product(range(3), repeat=3)
        if (x, y) not in left_out and (x in needed or z == 0)
    ]
    if expected:
        assert [kwargs for _, kwargs in made(grid, {"model": {"kwargs": {}}})] == expected
    else:
        assert grid.count({"model": {"kwargs": {}}}) == 0


def test_seeds_are_set_at_each_path() -> None:
    """By default at the model's seed, which need not be in the template. One seed has no name."""
    assert made(SeedGen([3, 1])) == [(f"seed {s}", {"boosting": "gbdt", "seed": s}) for s in (3, 1)]
    assert [k["seed"] for _, k in made(SeedGen(3))] == [0, 1, 2]
    assert made(SeedGen([5], paths=["model.kwargs.a", "model.kwargs.b"])) == [
        ("", {"boosting": "gbdt", "a": 5, "b": 5})
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"seeds": []}, "seeds: needs at least one seed"),
        ({"seeds": 0}, "seeds: needs at least one seed"),
        ({"seeds": [1, 2, 1]}, "seeds: has the seed 1 twice"),
        ({"seeds": [1, "2"]}, "seeds.1: must be a whole number, at least 0; found '2'"),
        ({"seeds": [True]}, "seeds.0: must be a whole number"),
        ({"seeds": [-1]}, "seeds.0: must be a whole number, at least 0; found -1"),
        ({"seeds": "12"}, "seeds: must be a list of whole numbers, or a number of seeds; found '12'"),
        ({"seeds": 10**9}, "seeds: there are 1,000,000,000 tasks"),
        ({"seeds": [1], "paths": []}, "paths: must be a path or a list of paths"),
        ({"seeds": [1], "paths": [5]}, "paths: must be a path or a list of paths"),
    ],
)
def test_wrong_seeds_are_named(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SeedGen(**arguments)
    assert str(caught.value).startswith(said)


def test_a_path_of_seeds_that_does_not_exist_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"paths: 'modle.kwargs.seed' does not exist: there is no 'modle'\. Did you mean 'model'"
    ):
        SeedGen([1], "modle.kwargs.seed").generate(TASK)
