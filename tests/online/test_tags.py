"""Recorders are marked as online by their tags, without a service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import rollforge
from growing import DAYS, Market, days_of, template
from rollforge.errors import ConfigError, RecorderNotFound
from rollforge.online.model_updater import ModelUpdater
from rollforge.online.tool import OnlineToolR
from rollforge.run.execute import task_train
from rollforge.session import current_session
from rollforge.track.base import Recorder, get_experiment, open_tracker


@pytest.fixture
def recorded(tmp_path: Path) -> dict[str, Recorder]:
    """Three recorders of an experiment without models, by their names."""
    uri = f"folder:{tmp_path / 'runs'}"
    rollforge.init(tmp_path, tracking_uri=uri, store_uri=f"memory://{tmp_path.name}")
    experiment, found = get_experiment(open_tracker(uri), experiment_name="tagged"), {}
    for name in ("a", "b", "c"):
        with experiment.create_recorder(name) as recorder:
            found[name] = recorder
    return found


def names_of(recorders: Any) -> list[str]:
    return sorted(recorder.name for recorder in recorders)


def test_exactly_the_given_recorders_are_online(recorded: dict[str, Recorder]) -> None:
    """One or several of them; recorders that were never marked are offline."""
    tool, (a, b, c) = OnlineToolR("tagged"), recorded.values()
    assert (tool.online_models(), tool.get_online_tag(a)) == ([], "offline")
    tool.reset_online_tag(a)
    assert (names_of(tool.online_models()), tool.get_online_tag(a)) == (["a"], "online")
    tool.reset_online_tag([a, b])
    assert names_of(tool.online_models()) == ["a", "b"]
    OnlineToolR().reset_online_tag((c,), "tagged")
    assert names_of(OnlineToolR().online_models("tagged")) == ["c"]
    assert [tool.get_online_tag(r) for r in (a, b, c)] == ["offline", "offline", "online"]
    tool.set_online_tag("online", [a, b])
    tool.set_online_tag("offline", c)
    assert names_of(tool.tagged()) == ["a", "b"]
    tool.set_online_tag("offline", [a, b])  # no service would be left without a model
    assert tool.tagged() == []


@pytest.mark.parametrize(("given", "shown"), [("r1", "'r1'"), (["r1"], "'r1'"), (5, "5"), (None, "None")])
def test_only_recorders_are_marked(recorded: dict[str, Recorder], given: Any, shown: str) -> None:
    """Neither their ids nor other objects; at least one recorder stays online."""
    tool = OnlineToolR("tagged")
    tool.reset_online_tag(recorded["a"])
    for change in (tool.reset_online_tag, lambda one: tool.set_online_tag("online", one)):
        with pytest.raises(ConfigError) as info:
            change(given)
        assert str(info.value) == f"recorder: must be a recorder or a list of recorders, found {shown}."
    with pytest.raises(ConfigError, match="recorder: There is no recorder to put online"):
        tool.reset_online_tag([])
    with pytest.raises(ConfigError) as info:
        tool.set_online_tag("onlin", recorded["a"])
    assert str(info.value) == "tag: A model is 'online' or 'offline', found 'onlin'. Did you mean 'online'?"
    assert names_of(tool.online_models()) == ["a"]


def test_updating_skips_recorders_without_a_prediction(market: Market, caplog: pytest.LogCaptureFixture) -> None:
    """The others are updated, to the last day or to the given one."""
    market.show(DAYS[61])
    task = template()
    task["dataset"]["kwargs"]["segments"]["test"] = (DAYS[60], DAYS[61])
    trained = task_train(task, experiment_name="tagged")
    experiment = get_experiment(open_tracker(current_session().tracking_uri), experiment_name="tagged")
    with experiment.create_recorder("empty") as empty:
        pass
    tool = OnlineToolR("tagged")
    tool.reset_online_tag([empty, trained])
    market.show(DAYS[65])
    tool.update_online_pred(DAYS[63])
    assert days_of(trained.load_object("pred.pkl")) == DAYS[60:64]
    assert caplog.messages == [f"recorder {empty.id} has no prediction yet and is not updated"]
    tool.update_online_pred()
    assert days_of(trained.load_object("pred.pkl")) == DAYS[60:66]
    before = trained.load_object("pred.pkl")
    trained.save_objects(**{"pred.pkl": before + 1.0})
    OnlineToolR().update_online_pred(to_date=DAYS[62], from_date=DAYS[61], exp_name="tagged")
    changed = (trained.load_object("pred.pkl") - before).groupby("datetime").mean()["score"].round(6)
    assert changed.tolist() == [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]


def test_the_earlier_interface_has_its_own_tag(recorded: dict[str, Recorder]) -> None:
    """Recorders are given as such or by their ids; an unknown id and none at all are errors that change nothing."""
    updater, (a, b, c) = ModelUpdater("tagged"), recorded.values()
    OnlineToolR("tagged").reset_online_tag(c)
    updater.reset_online_model(a)
    assert names_of(updater.list_online_model().values()) == ["a"]
    updater.reset_online_model([b.id, c])
    assert set(updater.list_online_model()) == {b.id, c.id}
    updater.reset_online_model(c.id)
    assert set(updater.list_online_model()) == {c.id}
    for wrong, error in (([], ConfigError), (["0" * 32], RecorderNotFound), ([a, "0" * 32], RecorderNotFound)):
        with pytest.raises(error):
            updater.reset_online_model(wrong)
    assert set(updater.list_online_model()) == {c.id}
    assert [updater.online_filter(one) for one in (a, b, c)] == [False, False, True]
    updater.set_online_model(a)
    updater.cancel_online_model(c.id)
    assert set(updater.list_online_model()) == {a.id}
    updater.set_online_model(b.id)
    updater.cancel_all_online_model()
    assert updater.list_online_model() == {}
    assert names_of(OnlineToolR("tagged").online_models()) == ["c"]
