"""A changed workflow applies from the next window on, separately for each template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from growing import DAYS, STEP, Market, live, manager, recorders, start_of, template
from rollforge.errors import ConfigError
from rollforge.generate.rolling import RollingGen
from rollforge.ledger.entry import EntryKind, release_body
from rollforge.models.linear import LinearModel
from rollforge.online.day import Options
from rollforge.online.manager import OnlineManager
from rollforge.online.routine import catch_up
from rollforge.online.strategy import RollingStrategy
from rollforge.session import current_session
from rollforge.track.base import Recorder, get_experiment, open_tracker

RUN = DAYS[60:63]
"""The window that begins on `DAYS[60]` ends on `DAYS[63]`."""


def ridge(alpha: float, **segments: Any) -> dict[str, Any]:
    made = template(estimator="ridge", alpha=alpha)
    made["dataset"]["kwargs"]["segments"].update(segments)
    return made


def again(
    served: OnlineManager, templates: Sequence[Any], names: Sequence[str] | None = None, step: int = STEP
) -> OnlineManager:
    """Return the same service with other templates or windows."""
    strategy = RollingStrategy("served", list(templates), RollingGen(step=step, rtype="sliding"), names)
    return OnlineManager(strategy, begin_time=RUN[0], service=served.service.name)


def named(*templates: Any, names: Sequence[str]) -> OnlineManager:
    strategy = RollingStrategy("served", list(templates), RollingGen(step=STEP, rtype="sliding"), names)
    return OnlineManager(strategy, begin_time=RUN[0])


def go_on(market: Market, served: OnlineManager, until: str) -> OnlineManager:
    market.show(until)
    served.routine()
    return served


def alpha(recorder: Recorder) -> Any:
    return recorder.load_object("task")["model"]["kwargs"].get("alpha")


def champions(served: OnlineManager, day: str) -> list[tuple[Any, int]]:
    """Return the parameter and the first test day of the champions, sorted."""
    found = {r.id: r for r in recorders()}
    used = [found[release.recorder] for release in served.state.champions(day)]
    return sorted((alpha(r), DAYS.index(start_of(r))) for r in used)


def test_one_of_two_changed_models_changes_from_its_next_window_on(market: Market) -> None:
    """Nothing is trained before that; then the new model replaces the old one, and the other one continues."""
    served = live(market, named(ridge(0.1), ridge(10.0), names=["a", "b"]), RUN)
    trained = len(recorders())
    served = go_on(market, again(served, [ridge(0.5), ridge(10.0)], ["a", "b"]), DAYS[63])
    assert len(recorders()) == trained
    go_on(market, served, DAYS[69])
    assert champions(served, DAYS[63]) == [(0.1, 60), (10.0, 60)]
    assert champions(served, DAYS[64]) == [(0.5, 64), (10.0, 64)]
    assert champions(served, DAYS[68]) == [(0.5, 68), (10.0, 68)]
    assert len(recorders()) == trained + 4


def test_the_window_that_begins_on_the_last_published_day_keeps_its_model(market: Market) -> None:
    """A definition that is changed after that day does not apply to the window any more."""
    served = live(market, manager(templates=ridge(1.0)), RUN[:1])
    trained = len(recorders())
    go_on(market, again(served, [ridge(2.0)]), DAYS[61])
    assert (len(recorders()), champions(served, DAYS[61])) == (trained, [(1.0, 60)])


def test_a_removed_and_an_added_model_change_with_the_next_window(market: Market) -> None:
    """The names of both models are those of other templates."""
    served = live(market, named(ridge(0.1), ridge(10.0), names=["a", "b"]), RUN)
    served = again(served, [ridge(10.0), ridge(3.0)], ["b", "c"])
    go_on(market, served, DAYS[65])
    assert champions(served, DAYS[63]) == [(0.1, 60), (10.0, 60)]
    assert champions(served, DAYS[64]) == [(3.0, 64), (10.0, 64)]


def test_models_without_names_are_those_of_their_parameters(market: Market) -> None:
    """A changed parameter is then a removed model and a new one."""
    templates = [ridge(0.1), ridge(10.0)]
    served = live(market, manager(templates=templates), RUN)
    served = go_on(market, again(served, [ridge(0.1), ridge(20.0)]), DAYS[65])
    assert champions(served, DAYS[63]) == [(0.1, 60), (10.0, 60)]
    assert champions(served, DAYS[64]) == [(0.1, 64), (20.0, 64)]


def test_a_window_that_could_not_be_trained_is_that_of_the_corrected_text(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The earlier model is used on the first day of the window, and the corrected one from the next day on."""
    served = live(market, manager(templates=ridge(1.0)), DAYS[60:64])
    market.show(DAYS[64])
    with monkeypatch.context() as patch:
        patch.setattr(LinearModel, "fit", failing)
        (result,) = catch_up(served.service, DAYS[64], Options(fallback=True))
    assert result.fallback
    go_on(market, again(served, [ridge(2.0)]), DAYS[65])
    assert [champions(served, day) for day in DAYS[64:66]] == [[(1.0, 60)], [(2.0, 64)]]


def failing(*args: object, **kwargs: object) -> None:
    raise ValueError("no memory")


def test_other_windows_are_those_that_the_new_text_makes(market: Market) -> None:
    """A longer step applies from the first of its windows that begins after the last published day."""
    served = live(market, manager(templates=ridge(1.0)), RUN)
    go_on(market, again(served, [ridge(1.0)], step=6), DAYS[77])
    windows = [segments(recorder) for recorder in recorders()]
    assert [w["test"][0] for w in windows] == [52, 56, 60, 64, 70, 76]
    assert [w["train"] for w in windows] == [(10, 51), (14, 55), (18, 59), (22, 63), (28, 69), (34, 75)]
    assert [champions(served, day)[0][1] for day in (DAYS[63], DAYS[64], DAYS[69], DAYS[70])] == [60, 64, 64, 70]


def test_other_lengths_of_segments_are_used_from_the_next_window_on(market: Market) -> None:
    """The training segment of the new text is shorter."""
    served = live(market, manager(templates=ridge(1.0)), RUN)
    changed = ridge(1.0, train=(DAYS[32], DAYS[51]))
    served = go_on(market, again(served, [changed]), DAYS[69])
    windows = [segments(recorder) for recorder in recorders()]
    assert [w["train"] for w in windows] == [(10, 51), (14, 55), (18, 59), (44, 63), (48, 67)]
    assert [w["test"][0] for w in windows] == [52, 56, 60, 64, 68]


def test_two_models_that_differ_in_their_segments_only_are_two(market: Market) -> None:
    """Each keeps its windows."""
    templates = [ridge(1.0), ridge(1.0, train=(DAYS[32], DAYS[51]))]
    served = named(*templates, names=["long", "short"])
    live(market, served, RUN)
    go_on(market, served, DAYS[65])
    assert len(recorders()) == 8
    assert champions(served, DAYS[64]) == [(1.0, 64), (1.0, 64)]
    assert {r.template for r in served.state.champions(DAYS[64])} == {"long", "short"}
    again_served = again(served, templates, ["long", "short"])
    go_on(market, again_served, DAYS[69])
    assert len(recorders()) == 10


def test_a_model_belongs_to_the_template_with_its_name(market: Market) -> None:
    """A renamed template is a removed and a new one. The only template of a service has the name of its strategy; if others
    are added, the model belongs to the one with the same definition."""
    two, one = live(market, named(ridge(0.1), ridge(10.0), names=["a", "b"]), RUN[:1]), ridge(0.1)
    model = next(r for r in recorders() if (alpha(r), start_of(r)) == (0.1, DAYS[60]))

    def places(templates: Sequence[Any], names: Sequence[str], of: OnlineManager = two) -> list[int]:
        return list(again(of, templates, names).strategies[0].windows([model]))

    assert places([ridge(10.0), ridge(0.5)], ["b", "a"]) == [1]
    assert places([one, ridge(10.0)], ["c", "b"]) == [-1]
    alone = manager(templates=one)
    with alone.service.hold() as held:
        released = alone.service.released("served", [model], DAYS[60], "a test")
        assert [r.template for r in released] == ["served"]
        held.append(EntryKind.PROMOTION, release_body(released, "a test"))
    assert places([ridge(10.0), one], ["a", "b"], alone) == [1]
    assert places([ridge(10.0), ridge(0.2)], ["a", "b"], alone) == [-1]


def test_the_next_window_follows_that_of_a_deleted_model(market: Market) -> None:
    """The window is known from the ledger and the template."""
    served = live(market, manager(templates=ridge(1.0)), RUN[:1])
    experiment = get_experiment(open_tracker(current_session().tracking_uri), experiment_name="served", create=False)
    experiment.delete_recorder(recorders()[-1].id)
    market.show(DAYS[69])
    following = served.strategies[0].prepare_tasks()
    starts = [str(task["dataset"]["kwargs"]["segments"]["test"][0].date()) for task in following]
    assert starts == [DAYS[64], DAYS[68]]


def test_names_are_distinct(market: Market) -> None:
    """There is one for each template."""
    for names in (["a"], ["a", "a"]):
        with pytest.raises(ConfigError, match="a different name for each of the 2 templates"):
            RollingStrategy("served", [ridge(1.0), ridge(2.0)], RollingGen(step=4), names)


def segments(recorder: Recorder) -> dict[str, tuple[int, ...]]:
    """Return the segments of a task as positions in `DAYS`; an open end is left out."""
    found = recorder.load_object("task")["dataset"]["kwargs"]["segments"]
    return {name: tuple(DAYS.index(str(d.date())) for d in span if d is not None) for name, span in found.items()}
