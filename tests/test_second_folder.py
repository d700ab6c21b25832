"""Features computed from bars in a second data folder: changes of these bars are noticed wherever those of days are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import rollforge
from command_line import call
from definitions import write_workflow
from growing import BEGIN, DAYS, Market, days_of, manager, prices, template
from rollforge.cli.exit_codes import Exit
from rollforge.features.handler import DataHandlerLP
from rollforge.features.loader import DataLoaderDH, NestedDataLoader, QlibDataLoader
from rollforge.features.panel_cache import list_panels
from rollforge.generate.data_read import frequencies_read
from rollforge.online import data_marks
from rollforge.online.corrections import changed_days
from rollforge.online.data_marks import changed_history
from rollforge.pipeline import collect
from rollforge.run.execute import data_tag
from rollforge.run.requirements import Admission, RequirementsCheck
from rollforge.run.submission import submission_info
from rollforge.session import Session, using
from rollforge.store.memory import MemoryStore
from rollforge.track.base import get_experiment, open_tracker
from second_folder import AT_HOUR, Folders

LATE = DAYS[61]


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Folders]:
    """Return folders up to the first day of the service, which are those of the session."""
    (tmp_path / "at_hour.py").write_text(AT_HOUR)
    made = Folders(tmp_path, Market(tmp_path / "days", prices()))
    made.show(BEGIN)
    rollforge.init(
        made.by_frequency, tracking_uri=f"folder:{tmp_path}/runs", store_uri=f"memory://{tmp_path.name}",
        cache=tmp_path / "cache", threads=1,
    )  # fmt: skip
    yield made
    rollforge.session.init()


# -- which frequencies are read ----------------------------------------------------------------------------------------


def test_the_frequencies_of_all_loaders_are_read(folders: Folders) -> None:
    """Groups of columns, nested loaders, handlers within loaders, and classes that declare what they read."""
    bars, days = QlibDataLoader(**folders.columns()), QlibDataLoader({"feature": (["$close"], ["A"])})

    class Own(QlibDataLoader):
        def frequencies(self) -> list[str]:
            return [*super().frequencies(), "30min"]

    assert bars.frequencies() == ["day", "60min"]
    assert NestedDataLoader([days, bars]).frequencies() == ["day", "60min"]
    assert DataLoaderDH(DataHandlerLP("all", data_loader=bars)).frequencies() == ["day", "60min"]
    assert DataHandlerLP("all", data_loader=Own({"feature": (["$close"], ["A"])})).frequencies() == ["day", "30min"]
    assert frequencies_read([folders.task(), template()]) == {"day", "60min"}
    broken = template()
    broken["dataset"]["kwargs"]["handler"]["class"] = "NoSuchHandler"
    assert frequencies_read([broken, {}]) == set()


# -- workers -----------------------------------------------------------------------------------------------------------


def admitted(folders: Folders, tmp_path: Path, info: dict[str, Any], data: dict[str, str]) -> RequirementsCheck:
    """Return whether a worker with data folders of its own may run tasks that were submitted."""
    store = MemoryStore()
    store.create("p", [folders.task()], submission=store.keep_submission("p", info))
    session = Session.from_mapping(
        {"provider_uri": data, "cache": str(tmp_path), "tracking_uri": f"folder:{tmp_path}/runs"}
    )
    one = Admission(store, "p", session, ("provider_uri", "tracking_uri"))
    one.refresh(idle=True)
    (found,) = one.checked.values()
    return found


@pytest.mark.parametrize("change", ["corrected", "appended", "missing"])
def test_a_worker_with_other_bars_claims_nothing(change: str, folders: Folders, tmp_path: Path) -> None:
    """The message names the folder and the frequency; a folder that the tasks do not read is not compared."""
    info = submission_info([folders.task()], rollforge.session.current_session())
    assert sorted(info["data"]["others"]) == ["60min"]  # type: ignore[index]
    copies = {freq: str(shutil.copytree(one, tmp_path / f"copy-{freq}")) for freq, one in folders.by_frequency.items()}
    folders.correct(DAYS[20], BEGIN, "30min")
    own = folders.by_frequency | {"day": copies["day"], "60min": copies["60min"]}
    assert admitted(folders, tmp_path, info, own).problems == ()
    if change == "missing":
        (problem,) = admitted(folders, tmp_path, info, {"day": copies["day"]}).problems
        assert "cannot read the data of the frequency '60min', from which the tasks compute features" in problem
        assert "--data 60min=FOLDER" in problem
        return
    if change == "corrected":
        folders.correct(DAYS[20], BEGIN)
        said = "values of the instrument b differ in 2024"
    else:
        folders.show(LATE, "60min")
        said = f"its calendar ends on {LATE}T15:30:00"
    (problem,) = admitted(folders, tmp_path, info, folders.by_frequency).problems
    assert f"The data folder {tmp_path}/60min (60min) differs from {tmp_path}/60min on" in problem
    assert said in problem


def test_tasks_submitted_by_an_earlier_version_are_claimed(folders: Folders, tmp_path: Path) -> None:
    """Bars whose content was not stored are not compared; nothing more is stored for tasks that read only days."""
    session = rollforge.session.current_session()
    info = submission_info([folders.task()], session)
    del info["data"]["others"]  # type: ignore[attr-defined]
    folders.correct(DAYS[20], BEGIN)
    assert admitted(folders, tmp_path, info, folders.by_frequency).problems == ()
    assert "others" not in submission_info([template()], session)["data"]  # type: ignore[operator]


def test_the_commands_notice_other_bars(folders: Folders, tmp_path: Path) -> None:
    """After a change of bars, collecting says which windows were trained on others, and a worker claims nothing."""
    stores = {"store": f"sqlite:///{tmp_path}/tasks.db", "tracking": f"folder:{tmp_path}/runs"}
    own = {"data": folders.by_frequency, **stores, "experiment": "x"}
    file = write_workflow(tmp_path / "w.yaml", {"rollforge": own, "task": folders.task()})
    assert call("run", file, "--jobs", 0, "--output", tmp_path / "results").exit_code == 0
    given = {"provider_uri": folders.by_frequency, "cache": str(tmp_path / "cache"), **stores}
    session = Session.from_mapping(given)
    (run,) = get_experiment(open_tracker(session.tracking_uri), experiment_name="x").list_recorders("list")
    assert data_tag("60min") in run.list_tags()
    assert data_tag("30min") not in run.list_tags()

    def warnings(session: Session) -> list[str]:
        return [text for text in collect(session, "x").warnings if "differ from those now" in text]

    assert warnings(session) == []
    assert call("submit", file, "--experiment", "y").exit_code == 0
    folders.correct(DAYS[20], BEGIN)
    (text,) = warnings(session)
    assert f"1 of 1 windows were trained on data that differ from those now in {tmp_path}/60min (60min)." in text
    assert warnings(session.with_(provider_uri=str(folders.days.folder), folders={})) == []
    worker = call("worker", "-t", "y", "--store", stores["store"], "--exit-when-empty", "--jobs", 1)
    assert f"The data folder {tmp_path}/60min (60min) differs from" in str(worker.exception)


def test_an_open_end_follows_both_folders(folders: Folders, tmp_path: Path) -> None:
    """A night with new days and bars is predicted from them, and is no change of the data of former windows."""
    places = {
        "data": folders.by_frequency,
        "store": f"sqlite:///{tmp_path}/tasks.db",
        "tracking": f"folder:{tmp_path}/runs",
    }
    output = {"rollforge": {**places, "experiment": "x"}, "task": folders.task(), "rolling": {"step": 4}}
    file = write_workflow(tmp_path / "w.yaml", output)
    found = []
    for day in (BEGIN, LATE, LATE):
        folders.show(day)
        result = call("run", file, "--jobs", 0, "--output", tmp_path / "results")
        assert result.exit_code == 0, result.stderr
        assert "trained on data" not in result.output
        found.append(pd.read_parquet(tmp_path / "results" / "prediction.parquet"))
        assert days_of(found[-1])[-1] == day
    assert found[-1].iloc[:, 0].groupby(level="datetime").nunique().min() == 4  # each instrument has a score of its own


# -- panels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nested", [False, True])
def test_a_panel_of_bars_is_computed_once_and_again_after_a_change(nested: bool, folders: Folders) -> None:
    """A change in the folder of the bars rebuilds it, and one in a folder that it does not read does not."""
    session = rollforge.session.current_session()

    def values() -> pd.DataFrame:
        with using(session):
            loader: Any = QlibDataLoader(**folders.columns())
            if nested:
                days = {"config": {"feature": [["$close"], ["A"]]}}
                loader = NestedDataLoader([QlibDataLoader(**days), loader])
            return DataHandlerLP("all", DAYS[3], DAYS[50], loader).fetch(col_set="__raw")

    def builds() -> list[str]:
        return sorted(file.read_text() for file in Path(session.cache).glob("panels/*/meta.json"))

    first, built = values(), builds()
    assert len(list_panels(session.cache)) == 1
    folders.correct(DAYS[20], BEGIN, "30min")
    pd.testing.assert_frame_equal(values(), first)
    assert builds() == built
    folders.correct(DAYS[20], BEGIN)
    other = values()
    assert len(list_panels(session.cache)) == 1
    assert builds() != built
    differs = (other != first).any(axis=1)
    assert {str(day.date()) for day in differs[differs].index.get_level_values("datetime")} == {DAYS[20], DAYS[21]}
    by_hand = folders.bars["60min"]["B"].loc[DAYS[20]].iloc[0] / folders.bars["60min"]["B"].loc[DAYS[19]].iloc[-1] - 1
    found = other["feature", "BAR"].loc[(pd.Timestamp(DAYS[20]), "B")]
    np.testing.assert_allclose(found, by_hand, rtol=1e-5)


# -- services ----------------------------------------------------------------------------------------------------------


def served(folders: Folders, days: Sequence[str]) -> Any:
    """Return a service after the routines of some days, with the data of each."""
    service = manager(templates=folders.task())
    for day in days:
        folders.show(day)
        if day == days[0]:
            service.first_train()
        service.routine(day)
    return service


def test_a_service_notices_changed_bars(folders: Folders, tmp_path: Path) -> None:
    """Bars of a published day and of a day before the first one count; those of a folder that it does not read do not."""
    own = {"data": folders.by_frequency, "tracking": f"folder:{tmp_path}/runs", "experiment": "x"}
    rolling = {"step": 4, "rtype": "sliding", "trunc_days": "auto"}
    file = write_workflow(tmp_path / "w.yaml", {"rollforge": own, "task": folders.task(), "rolling": rolling})

    def serve(*arguments: object, code: int = 0) -> Any:
        result = call("serve", "--ledger", f"sqlite:///{tmp_path}/ledger.db", *arguments)
        assert result.exit_code == code, (result.stderr, result.exception)
        return json.loads(result.stdout)

    def checked(code: int = Exit.CHECK_FAILED) -> tuple[list[str], list[str]]:
        found = serve("check", "--json", code=code)
        return found["changed"], found["changed_history"]

    serve("init", file, "--begin", DAYS[60], "--json")
    folders.show(DAYS[62])
    serve("run")
    folders.correct(DAYS[61], DAYS[62], "30min")
    folders.correct(DAYS[20], DAYS[62], "30min")
    assert checked(Exit.DONE) == ([], [])
    folders.correct(DAYS[61], DAYS[62])
    assert checked() == ([DAYS[61]], [])
    assert [signal["day"] for signal in serve("correct", "--json")["corrected"]] == DAYS[
        61:63
    ]  # features read the bar before
    assert checked(Exit.DONE) == ([], [])
    folders.correct(DAYS[20], DAYS[62])
    assert checked() == ([], [DAYS[20][:7]])
    serve("correct", "--json")
    assert checked(Exit.DONE) == ([], [])


def test_a_service_of_an_earlier_version_goes_on(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bars of the days that it published are not compared, because their marks are of days only; bars of later days are."""
    with monkeypatch.context() as earlier:
        for module in ("day", "day_checks", "corrections"):
            earlier.setattr(f"rollforge.online.{module}.service_frequencies", lambda service: [])
        running = served(folders, DAYS[60:62])
    known = running.state.days[DAYS[61]].data
    assert known == data_marks.mark_then(DAYS[61])
    models = running.service.state().latest_releases
    folders.show(DAYS[62])
    running.routine(DAYS[62])
    assert set(running.service.state().latest_releases) == set(models)
    assert (changed_days(running.service), changed_history(running.service)) == ([], [])
    folders.correct(DAYS[61], DAYS[62])
    assert changed_days(running.service) == []
    folders.correct(DAYS[62], DAYS[62])
    assert changed_days(running.service) == [DAYS[62]]


def test_the_data_up_to_a_bound_are_marked_with_their_bars(folders: Folders) -> None:
    """The bars after the bound do not count, and the mark of days alone is that of earlier versions."""
    with rollforge.session.bounded(DAYS[50]):
        days, both = data_marks.training_mark(), data_marks.training_mark(["60min"])
        folders.correct(DAYS[55], BEGIN)
        assert data_marks.training_mark_now(["60min"]) == both
        folders.correct(DAYS[20], BEGIN)
        assert data_marks.training_mark_now(["60min"]) != both
        assert data_marks.training_mark_now() == days
