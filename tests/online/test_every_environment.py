"""A service under one disturbance after another, with every trainer, tracking store and database.

Each environment is simulated once. The tests check the result; the effects of single disturbances are tested in detail
in the other files of this folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from growing import DAYS, TRAINERS, Market, days_of, manager, prices, recorders, start_of, template
from killed_routines import ended, start
from rollforge.dates import read_day
from rollforge.errors import ConfigError, DayFailed, ExperimentNotFound, ServiceBusy
from rollforge.ledger.entry import DayState
from rollforge.models.linear import LinearModel
from rollforge.online.corrections import correct
from rollforge.online.manager import OnlineManager
from rollforge.online.strategy import RollingStrategy
from rollforge.online.tool import OnlineToolR
from rollforge.online.update import LabelUpdater, PredUpdater
from rollforge.session import Session, current_session, using
from rollforge.testing.postgres import PostgresServer
from rollforge.track.base import Recorder

ENVIRONMENTS = [
    ("TrainerR", "folder", "sqlite"),
    ("TrainerRM", "folder", "postgres"),
    ("DelayTrainerR", "folder", "postgres"),
    ("DelayTrainerRM", "folder", "sqlite"),
    ("TrainerR", "mlflow", "postgres"),
    ("TrainerRM", "mlflow", "sqlite"),
    ("DelayTrainerR", "mlflow", "sqlite"),
    ("DelayTrainerRM", "mlflow", "postgres"),
]
"""Each trainer with each tracking store and with each database."""

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@dataclass
class Life:
    """Observations in an environment."""

    signals: Any = None
    simulated: Any = None
    corrected: Any = None
    windows: list[str] = field(default_factory=list)
    """First days of the windows that were trained, once for each finished recorder."""
    online: dict[str, list[str]] = field(default_factory=dict)
    """Moment -> first days of the windows whose models are tagged as online."""
    signalled: dict[str, str] = field(default_factory=dict)
    """Moment -> last day with signals."""
    champions: dict[str, list[str]] = field(default_factory=dict)
    """Day -> first days of the windows of the champions."""
    fitted: list[tuple[str, str]] = field(default_factory=list)
    """(Day of a training, last day of its labels)."""
    trained: dict[str, set[str]] = field(default_factory=dict)
    """Moment -> ids of the finished recorders."""
    failures: list[str] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    published: list[str] = field(default_factory=list)
    versions: dict[str, int] = field(default_factory=dict)
    rows: dict[str, list[Any]] = field(default_factory=dict)
    """View of the ledger -> rows, read with SQL."""
    equal: list[float] = field(default_factory=list)
    """The signals of the day on which all scores were equal."""
    labels: dict[str, list[str]] = field(default_factory=dict)
    """Moment -> days of a window whose label is stored and not missing."""
    panels: dict[str, int] = field(default_factory=dict)
    """Moment -> number of panels in the cache."""
    removed: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Day -> version and rows of its signals after a day was removed from the calendar."""
    after_removal: Any = None
    unfinished: set[str] = field(default_factory=set)
    """Ids of the recorders that are running or prepared at the end."""


_PARAMS = [pytest.param(e, marks=pytest.mark.slow if "mlflow" in e else (), id="-".join(e)) for e in ENVIRONMENTS]


@pytest.fixture(scope="module", params=_PARAMS)
def life(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    """What a service went through in an environment."""
    trainer, tracker, store = request.param
    folder = tmp_path_factory.mktemp("-".join(request.param))
    market = Market(folder / "data", prices())
    runs, uri = f"folder:{folder}/runs", f"sqlite:///{folder}/tasks.db"
    if tracker == "mlflow":
        request.getfixturevalue("kept_database")(folder / "cache")
        runs = f"sqlite:///{folder}/mlflow.db"
    if store == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        # A parallel run may set an environment up a second time in the same process, with the same server.
        uri = f"{server.uri}?schema=life_{uuid.uuid4().hex[:12]}"
    session = Session(
        provider_uri=str(market.folder), tracking_uri=runs, store_uri=uri, cache=str(folder / "cache"), threads=1
    )
    with pytest.MonkeyPatch.context() as patch, using(session):
        patch.setenv("ROLLFORGE_HOME", str(folder))
        found = Life()
        patch.setattr(LinearModel, "fit", _watched(folder / "fitted.txt", LinearModel.fit))
        live(found, market, manager(TRAINERS[trainer](), service="served", templates=open_ended()), trainer)
        lines = (folder / "fitted.txt").read_text().splitlines()
        found.fitted = [(day, last) for day, last in map(str.split, lines)]
    yield found
    shutil.rmtree(folder)


def _watched(file: Path, fit: Any) -> Any:
    """Return a function that fits a model, and notes the day and the last day of the labels that it is given."""

    def watched(self: LinearModel, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        rows = dataset.prepare("train", col_set="label", data_key="learn").dropna()
        with file.open("a") as lines:  # also in a process that is killed
            lines.write(f"{current_session().data_until} {days_of(rows)[-1]}\n")
        return fit(self, dataset, *args, **kwargs)

    return watched


def open_ended() -> dict[str, Any]:
    """Return a template whose windows go on as days arrive."""
    made = template()
    made["dataset"]["kwargs"]["segments"]["test"] = (DAYS[52], None)
    return made


def live(found: Life, market: Market, served: OnlineManager, trainer: str) -> None:
    """Live through days 60 to 72. Windows of four days begin on the days 60, 64, 68 and 72."""

    def noted(moment: str) -> None:
        found.online[moment] = sorted(start_of(r) for r in served.strategies[0].tool.online_models())
        found.trained[moment] = {r.id for r in recorders(status=Recorder.STATUS_FI)}
        found.signalled[moment] = days_of(served.get_signals())[-1]

    # The first day. The calendar has future days, as those of data vendors do.
    market.show(DAYS[60])
    (market.folder / "calendars" / "day_future.txt").write_text("\n".join(DAYS) + "\n")
    served.first_train()
    served.first_train()
    served.routine(DAYS[60])
    noted("first day")

    # All tags are lost, as if a process had been killed between two of them; then three days are missed.
    for recorder in recorders():
        recorder.set_tags(**{OnlineToolR.ONLINE_KEY: OnlineToolR.OFFLINE_TAG})
    market.show(DAYS[61])
    served.routine(DAYS[61])
    noted("tags lost")

    # The routine of the next window is killed while it fits, and then before its model is released.
    market.show(DAYS[64])
    _killed(served, DAYS[64], LinearModel, "fit")
    noted("killed while fitting")
    _killed(served, DAYS[64], RollingStrategy, "prepare_online_models")
    noted("killed before the release")

    # Later data arrive before the routine runs again, for an earlier day than the last.
    market.show(DAYS[67])
    served.routine(DAYS[66])
    noted("caught up")
    again = manager(TRAINERS[trainer](), service="simulated", templates=open_ended())
    found.simulated = again.simulate(DAYS[66])
    noted("simulated")

    # A former model is put online by hand.
    former = next(r for r in recorders(status=Recorder.STATUS_FI) if start_of(r) == DAYS[60])
    served.strategies[0].tool.reset_online_tag([former])
    with pytest.raises(ConfigError, match="no recorder to put online"):
        served.strategies[0].tool.reset_online_tag([])
    with served.service.hold(), pytest.raises(ServiceBusy) as busy:
        manager(TRAINERS[trainer](), service="served", templates=open_ended()).routine(DAYS[67])
    found.errors["two at once"] = str(busy.value)
    served.routine("2024-04-04 17:00:00+08:00")  # in the evening of the last day
    noted("rolled back")

    # The data of a day are missing, and come later; one bar is late; a price is corrected.
    full = market.close.copy()
    market.close.loc[DAYS[68]] = np.nan
    market.show(DAYS[68])
    with pytest.raises(DayFailed) as failed:
        served.routine(DAYS[68])
    found.failures.append(str(failed.value))
    market.close = full.copy()
    market.close.loc[DAYS[69], "A"] = np.nan
    market.show(DAYS[69])
    served.routine()
    noted("late bar")
    market.close = full.copy()
    market.close.loc[DAYS[66], "B"] *= 1.1
    market.show(DAYS[69])
    found.signals = served.get_signals()
    correct(served.service)
    found.corrected = served.get_signals()

    # All scores of a day are equal.
    market.show(DAYS[70])
    with pytest.MonkeyPatch.context() as patch:
        predict = LinearModel.predict
        patch.setattr(LinearModel, "predict", lambda *args, **kwargs: 0 * predict(*args, **kwargs) + 0.5)
        served.routine()
    found.equal = served.get_signals().loc[DAYS[70]].tolist()
    last = next(r for r in recorders(status=Recorder.STATUS_FI) if start_of(r) == DAYS[68])
    labelled(found, last, "at first")
    found.panels["before"] = panels_kept()

    # Times that are not on trading days, and a last day.
    market.show(DAYS[72])
    served.routine("2030-01-01")
    for wrong in (1.5, "2024-13-01", DAYS[59]):
        with pytest.raises(ConfigError):
            served.routine(wrong)
    noted("last day")

    found.windows = [start_of(r) for r in recorders(status=Recorder.STATUS_FI)]
    starts = {r.id: start_of(r) for r in recorders(status=Recorder.STATUS_FI)}
    state = served.state
    found.published = [day for day, result in state.days.items() if result.state is DayState.PUBLISHED]
    found.champions = {day: [starts[r.recorder] for r in state.champions(day)] for day in found.published}
    found.versions = {day: one.version for day, one in state.signals().items()}
    for view, columns in (("day", "day, state"), ("signal", "day, version"), ("release", "recorder, role, from_day")):
        found.rows[view] = _selected(f"SELECT {columns} FROM {view} WHERE service = 'served' ORDER BY entry")
    found.rows["release"] = [(starts[r], role, day) for r, role, day in found.rows["release"]]

    found.panels["after"] = panels_kept()

    # A mistyped experiment, and an updater for another artifact.
    found.unfinished = {r.id for status in (Recorder.STATUS_R, Recorder.STATUS_S) for r in recorders(status=status)}
    with pytest.raises(ExperimentNotFound) as unknown:
        OnlineToolR("serve").online_models()
    found.errors["mistyped"] = str(unknown.value)
    with pytest.raises(ConfigError) as mixed:
        PredUpdater(last, fname="label.pkl", from_date=DAYS[68]).update()
    found.errors["mixed"] = str(mixed.value)

    # The labels of the last days are known later; a day turns out to be a holiday.
    LabelUpdater(last, to_date=DAYS[72]).update()
    labelled(found, last, "later")
    before = served.get_signals()
    market.close = market.close.drop(pd.Timestamp(DAYS[71]))
    market.show(DAYS[72])
    correct(served.service)
    found.removed = {day: (one.version, one.rows) for day, one in served.state.signals().items() if day >= DAYS[70]}
    found.after_removal = (before, served.get_signals())


def labelled(found: Life, recorder: Recorder, moment: str) -> None:
    """Note which days of a window have a label."""
    found.labels[moment] = days_of(recorder.load_object("label.pkl").dropna())


def panels_kept() -> int:
    """Return the number of panels in the cache."""
    return len([*Path(current_session().cache).rglob("meta.json")])


def _killed(served: OnlineManager, day: str, place: Any, name: str) -> None:
    """Run the routine of a day in a child process that is killed when it calls a function."""

    def work() -> None:
        setattr(place, name, lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL))
        served.routine(day)

    assert ended(start(work)) == "killed"


def _selected(statement: str) -> list[tuple[Any, ...]]:
    """Return the result of a query, as in an interactive session."""
    uri = current_session().store_uri
    if uri.startswith("sqlite:///"):
        import sqlite3

        with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as file:
            return file.execute(statement).fetchall()
    import psycopg

    address, _, schema = uri.partition("?schema=")
    with psycopg.connect(address, options=f"-c search_path={schema}") as server:
        return server.execute(statement).fetchall()  # type: ignore[arg-type]


def test_windows_are_trained_on_their_first_day(life: Life) -> None:
    """Each once, also with a calendar of future days, after the first training was repeated, the routine was killed in
    its stages, and the service was simulated in the same experiment.
    """
    assert life.windows == [DAYS[i] for i in (52, 56, 60, 64, 68, 72)]
    assert life.trained["caught up"] == life.trained["simulated"]


def test_labels_are_known_on_the_day_of_a_training(life: Life) -> None:
    """The label of a day is the return from the next day to the one after it."""
    assert {day for day, _ in life.fitted} == {DAYS[60], DAYS[64], DAYS[68], DAYS[72]}
    for day, last in life.fitted:
        assert DAYS.index(last) + 2 <= DAYS.index(day), (day, last)


def test_the_tags_follow_the_ledger(life: Life) -> None:
    """Lost tags are written again, and no model is online before it is fitted and released."""
    online = {moment: [DAYS.index(day) for day in days] for moment, days in life.online.items()}
    assert online == {
        "first day": [60], "tags lost": [60], "killed while fitting": [60], "killed before the release": [60],
        "caught up": [64], "simulated": [64], "rolled back": [60], "late bar": [68], "last day": [72],
    }  # fmt: skip


def test_missed_days_are_made_up_until_the_day_of_the_routine(life: Life) -> None:
    """Nothing is published for later days whose data are there, and killed routines publish nothing."""
    signalled = {moment: DAYS.index(day) for moment, day in life.signalled.items()}
    assert signalled == {
        "first day": 60, "tags lost": 61, "killed while fitting": 63, "killed before the release": 63, "caught up": 66,
        "simulated": 66, "rolled back": 67, "late bar": 69, "last day": 72,
    }  # fmt: skip
    assert life.published == DAYS[60:73]


def test_the_outgoing_model_predicts_the_missed_days_of_its_window(life: Life) -> None:
    """A model that was put online manually is used until the next window."""
    used = {DAYS.index(day): [DAYS.index(one) for one in models] for day, models in life.champions.items()}
    windows = [*[60] * 4, *[64] * 3, 60, *[68] * 4, 72]
    assert used == {60 + place: [window] for place, window in enumerate(windows)}


def test_a_simulation_gives_what_was_published(life: Life) -> None:
    """To the last bit, and it ends on the day that was asked for."""
    known = life.signals.loc[: DAYS[66]]
    pd.testing.assert_series_equal(life.simulated, known, check_exact=True, check_freq=False)


def test_late_and_corrected_data_are_new_versions(life: Life) -> None:
    """The days whose signals they change get one; a bar that is late has no score at first."""
    assert [DAYS.index(day) for day, version in life.versions.items() if version == 2] == [66, 67, 68, 69]
    before, after = (one.unstack().loc[DAYS[69]] for one in (life.signals, life.corrected))
    assert (np.isnan(before.get("A", np.nan)), np.isfinite(after["A"])) == (True, True)
    assert life.corrected.loc[: DAYS[65]].equals(life.signals.loc[: DAYS[65]])


def test_a_day_without_data_fails_with_its_reason(life: Life) -> None:
    """The day is published when its data have arrived."""
    assert [f"has a price on {DAYS[68]}" in failure for failure in life.failures] == [True]
    assert DAYS[68] in life.published


def test_a_day_of_equal_scores_has_signals(life: Life) -> None:
    """The signals of a day of equal scores are 0, because the scores rank nothing, and not missing."""
    assert life.equal == [0.0] * 4


def test_late_labels_are_stored(life: Life) -> None:
    """A label is known two days later."""
    assert {moment: [DAYS.index(day) for day in days] for moment, days in life.labels.items()} == {
        "at first": [], "later": [68, 69, 70],
    }  # fmt: skip


def test_panels_grow_and_do_not_pile_up(life: Life) -> None:
    """Two more days and a window use the panels that are there."""
    assert life.panels["before"] == life.panels["after"] > 0


def test_a_day_that_is_removed_from_the_calendar_is_withdrawn(life: Life) -> None:
    """The day after it is predicted anew, without its prices; the days before it stay as they were."""
    assert life.removed == {DAYS[70]: (1, 4), DAYS[71]: (2, 0), DAYS[72]: (2, 4)}
    before, after = life.after_removal
    assert days_of(after)[-2:] == [DAYS[70], DAYS[72]]
    assert after.loc[: DAYS[70]].equals(before.loc[: DAYS[70]])
    assert not after.loc[DAYS[72]].equals(before.loc[DAYS[72]])


def test_two_routines_at_once_detect_each_other(life: Life) -> None:
    """The error contains the name of the service and its holder."""
    assert "served" in life.errors["two at once"]
    assert f":{os.getpid()}" in life.errors["two at once"]


def test_no_killed_training_stays_unfinished(life: Life) -> None:
    """The next training closes the recorders of processes that have ended."""
    assert life.unfinished == set()


def test_mistakes_change_nothing(life: Life) -> None:
    """A mistyped experiment is not created, and scores are not written into labels."""
    assert "There is no experiment 'serve'. Did you mean 'served'?" in life.errors["mistyped"]
    assert "LABEL0" in life.errors["mixed"]


def test_what_happened_can_be_read_with_sql(life: Life) -> None:
    """Days, versions and releases, as the ledger gives them."""
    assert dict(life.rows["day"]) == dict.fromkeys(life.published, "published")
    latest: dict[str, int] = dict(life.rows["signal"])
    assert latest == life.versions
    first = [day for _, role, day in life.rows["release"] if role == "champion"]
    assert [DAYS.index(day) for day in first] == [52, 56, 60, 64, 67, 68, 72]
    assert all(read_day(day) for _, _, day in life.rows["release"])
