"""The windows that a rolling strategy makes, recognizes and uses. Nothing is trained."""

from __future__ import annotations

from typing import Any

import pytest

import rollforge
from growing import BEGIN, DAYS, STEP, Market, days_of, strategy, template
from rollforge.errors import CodeNotAllowed, ConfigError
from rollforge.generate.rolling import RollingGen
from rollforge.ledger.entry import Release, Role
from rollforge.online.strategy import RollingStrategy
from rollforge.run import TrainerR
from rollforge.session import amend, current_session
from rollforge.track.base import Recorder, get_experiment, open_tracker


def ridge(alpha: float) -> dict[str, Any]:
    return template(estimator="ridge", alpha=alpha)


def two(step: int = STEP, **options: Any) -> RollingStrategy:
    """Return a strategy with the templates a and b."""
    generator = RollingGen(step=step, rtype="sliding", **options)
    return RollingStrategy("served", [ridge(0.1), ridge(10.0)], generator, ["a", "b"])


def alpha_and_day(task: Any) -> tuple[float, int]:
    """Return the parameter of a task and the position of its first test day."""
    first = task["dataset"]["kwargs"]["segments"]["test"][0]
    return task["model"]["kwargs"].get("alpha"), DAYS.index(str(first.date()))


def recorded(*tasks: Any) -> list[Recorder]:
    """Return recorders with tasks as their only artifacts."""
    experiment, found = get_experiment(open_tracker(current_session().tracking_uri), experiment_name="served"), []
    for number, task in enumerate(tasks):
        with experiment.create_recorder(f"r{number}") as recorder:
            recorder.save_objects(task=task)
        found.append(recorder)
    return found


def released(template: str) -> Release:
    return Release("9f8a", "served", "r1", Role.CHAMPION, BEGIN, strategy="served", template=template)


def test_the_first_windows_are_those_that_have_begun(market: Market) -> None:
    """If the data end on the first day of a window, it has begun."""
    market.show(DAYS[61])
    assert [alpha_and_day(task) for task in two().first_tasks()] == [
        (alpha, first) for alpha in (0.1, 10.0) for first in (52, 56, 60)
    ]
    for until, expected in ((51, []), (52, [(0.1, 52), (10.0, 52)])):
        amend(data_until=DAYS[until])
        assert [alpha_and_day(task) for task in two().first_tasks()] == expected


def test_of_windows_that_have_begun_only_the_last_is_used(market: Market) -> None:
    """On the first day on which a model can be used, for each template; the order stays the same."""
    market.show(DAYS[69])
    made = two()
    tasks = made.first_tasks()
    for first, used in (
        (59, [56, 60, 64, 68]),
        (60, [60, 64, 68]),
        (61, [60, 64, 68]),
        (69, [68]),
        (0, [52, 56, 60, 64, 68]),
    ):
        kept = made.used_windows(tasks, DAYS[first])
        assert [alpha_and_day(task) for task in kept] == [(alpha, one) for alpha in (0.1, 10.0) for one in used]
        assert all(any(task is one for one in tasks) for task in kept)


def test_the_template_of_a_task_is_recognized(market: Market) -> None:
    """Another object of the strategy recognizes it, if no other template is the same in everything but its segments."""
    market.show(DAYS[61])
    tasks = two().first_tasks()
    made = two()
    assert [[made.belongs_to(task, name) for name in ("a", "b", "c")] for task in (tasks[0], tasks[-1])] == [
        [True, False, False],
        [False, True, False],
    ]
    other = strategy(templates=ridge(3.0)).first_tasks()[-1]
    assert [made.belongs_to(other, name) for name in ("a", "b", "served", "")] == [False] * 4
    alone = strategy(templates=ridge(3.0))
    assert (alone.belongs_to(tasks[0], "served"), alone.belongs_to(tasks[0], "a")) == (True, False)
    one, other_one, last = recorded(tasks[2], other, tasks[0])
    origins = [made.origin(recorder) for recorder in (one, other_one, last)]
    assert [name for name, _ in origins] == ["a", "", "a"]
    assert (origins[1], len(origins[0][1]), origins[0] == origins[2]) == (("", ""), 12, True)
    windows = made.windows([one, other_one, last])
    assert {place: [(day, r.id) for day, r in found] for place, found in windows.items()} == {
        0: [(DAYS[52], last.id), (DAYS[60], one.id)],
        -1: [(DAYS[60], other_one.id)],
    }


def test_purged_rows_do_not_change_the_template_of_a_task(market: Market) -> None:
    """Such rows are part of the tasks of windows with ``trunc_days: auto``, and not of the template."""
    market.show(DAYS[61])
    task, made = two().first_tasks()[-1], two()
    task["dataset"]["kwargs"]["purge_rows"] = 2
    assert [made.belongs_to(task, name) for name in ("a", "b")] == [False, True]


def test_a_definition_changes_with_its_template_and_the_rule_of_its_windows(market: Market) -> None:
    """A longer calendar does not change it."""
    market.show(DAYS[61])
    (recorder,) = recorded(two().first_tasks()[0])
    marks = [made.origin(recorder)[1] for made in (two(), two(step=5), two(clip_test_end=True))]
    changed = RollingStrategy("served", [ridge(0.1) | {"record": []}, ridge(10.0)], two().rg, ["a", "b"])
    marks.append(changed._definition(0))
    assert len(set(marks)) == 4
    market.show(DAYS[69])
    assert two().origin(recorder)[1] == marks[0]


def test_the_window_of_a_release_without_its_recorder(market: Market) -> None:
    """The last window that has begun by a day is used; templates are recognized by their names unless there is only one."""
    market.show(DAYS[69])
    made, alone = two(), strategy()
    for day, expected in ((69, 68), (60, 60), (59, 56), (52, 52)):
        for name, number, alpha in (("a", 0, 0.1), ("b", 1, 10.0)):
            found = made.window_of(released(name), DAYS[day])
            assert found is not None
            place, task, definition = found
            assert (place, alpha_and_day(task), len(definition)) == (number, (alpha, expected), 12)
    assert made.window_of(released("a"), DAYS[51]) is made.window_of(released("c"), DAYS[69]) is None
    found = alone.window_of(released("former"), DAYS[60])
    assert found is not None
    assert (found[0], alpha_and_day(found[1])) == (0, (None, 60))


def test_the_latest_window_of_each_template_is_put_online(market: Market) -> None:
    """The models of other templates stay online; those of removed ones do not. Without new models nothing changes."""
    market.show(DAYS[69])
    made = two()
    a, b = (
        {alpha_and_day(task)[1]: task for task in made.first_tasks() if alpha_and_day(task)[0] == alpha}
        for alpha in (0.1, 10.0)
    )
    other = strategy(templates=ridge(3.0)).first_tasks()[-1]
    a60, a64, a68, b60, b64, twice, removed = recorded(a[60], a[64], a[68], b[60], b[64], a[68], other)

    def online(*trained: Recorder) -> list[str]:
        found = made.prepare_online_models(list(trained))
        assert {one.id for one in found} == {one.id for one in made.tool.online_models()}
        return sorted(one.name for one in found)

    assert online() == []
    assert online(b60, a64, a60) == ["r1", "r3"]
    assert online(b64) == ["r1", "r4"]
    assert online() == ["r1", "r4"]
    assert online(a68, twice) == ["r4", "r5"]  # of two models of a window, it is the one that was trained last
    made.tool.reset_online_tag([a68, b64, removed])
    assert online(a64) == ["r1", "r4"]
    assert online(a64, removed) == ["r1", "r6"]


def test_the_following_windows_are_those_after_the_latest_online(market: Market) -> None:
    """For each template; one without an online model has none."""
    market.show(DAYS[65])
    made = two()
    tasks = {alpha_and_day(task): task for task in made.first_tasks()}
    recorders = recorded(tasks[0.1, 60], tasks[0.1, 56])
    made.tool.reset_online_tag(recorders)
    assert [alpha_and_day(task) for task in made.prepare_tasks()] == [(0.1, 64)]
    assert made.prepare_tasks(DAYS[63]) == []
    made.tool.reset_online_tag(recorded(tasks[10.0, 60]))
    market.show(DAYS[69])
    assert [alpha_and_day(task) for task in two().prepare_tasks("2030-01-01")] == [(10.0, 64), (10.0, 68)]


def test_the_task_of_a_recorder_names_no_other_code(market: Market) -> None:
    """Others may be able to write to the tracking store."""
    market.show(DAYS[61])
    made = two()
    task = made.first_tasks()[0]
    task["model"] = {"class": "Popen", "module_path": "subprocess", "kwargs": {}}
    with pytest.raises(CodeNotAllowed, match="names 'Popen' of 'subprocess'"):
        made.windows(recorded(task))


def test_a_strategy_is_refused_without_what_it_needs(market: Market) -> None:
    """A generator that makes only windows. Names are used if there is one for each template."""
    for generator in ([1], rollforge.GridGen({"model.kwargs.alpha": [0.1, 1.0]})):
        with pytest.raises(ConfigError, match="rolling_gen must be a generator that makes only windows"):
            RollingStrategy("served", template(), generator)  # type: ignore[arg-type]
    for names in (None, ["", ""], ["a", ""]):
        assert two_named(names).template_keys() == ["alpha=0.1", "alpha=10.0"]


def two_named(names: Any) -> RollingStrategy:
    return RollingStrategy("served", [ridge(0.1), ridge(10.0)], RollingGen(step=STEP), names)


def test_models_of_one_class_are_named_after_what_differs(market: Market) -> None:
    """Templates that differ only in their segments are numbered, and those of different classes have its name."""
    short = ridge(0.1)
    short["dataset"]["kwargs"]["segments"]["train"] = (DAYS[32], DAYS[51])
    other = ridge(0.1)
    other["model"] = {"class": "LGBModel", "module_path": "qlib.contrib.model.gbdt", "kwargs": {}}
    for templates, expected in (
        ([ridge(0.1), other], ["LinearModel", "LGBModel"]),
        ([ridge(0.1), short], ["LinearModel 1", "LinearModel 2"]),
        ([short], ["served"]),
    ):
        assert RollingStrategy("served", templates, RollingGen(step=STEP)).template_keys() == expected


def test_of_two_runs_of_a_window_the_later_is_collected(market: Market) -> None:
    """Without a service, which knows which of them was online."""
    market.show(DAYS[60])
    task = template()
    task["dataset"]["kwargs"]["segments"]["test"] = (DAYS[58], DAYS[60])
    for value in (1.0, 2.0):
        (recorder,) = TrainerR("served")([task])
        recorder.save_objects(**{"pred.pkl": recorder.load_object("pred.pkl") * 0 + value})
    (collected,) = strategy().get_collector()()["pred"].values()
    assert (collected["score"].unique().tolist(), days_of(collected)) == ([2.0], DAYS[58:61])
