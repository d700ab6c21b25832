"""``rollforge serve init``, ``run`` and ``check``: from a workflow file to rows in the ledger and signal files."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest
import yaml

from rollforge.cli.exit_codes import Exit
from rollforge.errors import LeakageError, ServiceBusy
from rollforge.ledger.base import SupportsScores, open_ledger
from rollforge.ledger.state import ServiceState
from rollforge.testing.postgres import PostgresServer
from rollforge.track.base import get_experiment, open_tracker

from ..documents.command_line import call
from ..documents.definitions import write_workflow
from ..documents.growing import BEGIN, DAYS, STEP, Market, template

FIRST = DAYS.index(BEGIN)


@pytest.fixture(params=["sqlite", "postgres"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return f"{server.uri}?schema=serve_run_{abs(hash(str(tmp_path))) % 10**9}"


def serve(uri: str, *arguments: object, code: int = 0) -> Any:
    result = call("serve", "--ledger", uri, *arguments)
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    return json.loads(result.stdout) if result.stdout.startswith("{") else result.stdout


def test_a_workflow_that_leaks_is_not_recorded(tmp_path: Path, workflow: Path, market: Market) -> None:
    """A service is checked for leakage before it is created, as a run is before it trains."""
    market.show(BEGIN)
    workflow.write_text(workflow.read_text().replace("trunc_days: auto", "trunc_days: null"))
    refused = call("serve", "--ledger", f"sqlite:///{tmp_path}/ledger.db", "init", workflow)
    assert isinstance(refused.exception, LeakageError)
    assert "the last 2 days" in str(refused.exception)
    assert not (tmp_path / "ledger.db").exists()
    warned = call("serve", "--ledger", f"sqlite:///{tmp_path}/ledger.db", "init", workflow, "--leakage", "warn")
    assert (warned.exit_code, "the last 2 days" in warned.stderr) == (0, True)


def test_from_a_workflow_file_to_rows_and_signal_files(uri: str, workflow: Path, market: Market) -> None:
    """Missed days are published in order, each once; new windows are trained when they are due."""
    market.show(BEGIN)
    assert "first day" in serve(uri, "init", workflow)
    first = serve(uri, "run")
    assert [day["day"] for day in first["days"]] == [BEGIN]
    begun = ServiceState.of(open_ledger(uri).entries("served"))
    assert first["days"][0]["trained"] == list(dict.fromkeys(r.recorder for _, r in begun.releases)) != []
    market.show(DAYS[FIRST + 6])
    line = serve(uri, "run")
    assert [(day["day"], day["state"]) for day in line["days"]] == [
        (d, "published") for d in DAYS[FIRST + 1 : FIRST + 7]
    ]
    assert serve(uri, "run")["days"] == []
    ledger = open_ledger(uri)
    state = ServiceState.of(ledger.entries("served"))
    assert list(state.signals()) == DAYS[FIRST : FIRST + 7] or list(state.signals())[-7:] == DAYS[FIRST : FIRST + 7]
    assert len({r.recorder for _, r in state.releases}) >= 2
    found = serve(uri, "signals", DAYS[FIRST + 3], "--json")
    assert sorted(found["signals"]) == ["A", "B", "C", "D"]
    assert serve(uri, "status", "--json")["last_published"] == DAYS[FIRST + 6]
    assert "none changed" in serve(uri, "check")


def test_signals_in_a_table(uri: str, workflow: Path, market: Market) -> None:
    """The view shows the values of the files, of each version, and joins with the others."""
    workflow.write_text(workflow.read_text() + "\nsignals: {table: true}\n")
    market.show(BEGIN)
    serve(uri, "init", workflow)
    serve(uri, "run")
    before = serve(uri, "signals", BEGIN, "--json")["signals"]
    market.close.loc[BEGIN, "A"] *= 1.5
    market.show(BEGIN)
    serve(uri, "correct")
    after = serve(uri, "signals", BEGIN, "--json")["signals"]
    text = (
        "SELECT s.version, c.instrument, c.score FROM {0}signal AS s JOIN {0}score AS c ON c.service = s.service AND "
        "c.day = s.day AND c.version = s.version AND c.entry = s.entry WHERE s.day = '" + BEGIN + "' ORDER BY 1, 2"
    )
    if uri.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as raw:
            rows = raw.execute(text.format("")).fetchall()
    else:
        address, _, schema = uri.partition("?schema=")
        with psycopg.connect(address) as server:
            rows = server.execute(text.format(f"{schema}.").encode()).fetchall()
    assert rows == [(1, *item) for item in sorted(before.items())] + [(2, *item) for item in sorted(after.items())]
    ledger = open_ledger(uri)
    assert isinstance(ledger, SupportsScores)
    assert dict(ledger.scores("served", BEGIN, 2)) == after


def test_exit_codes(tmp_path: Path, workflow: Path, market: Market) -> None:
    """3 if the data do not reach the day, 4 if data of published days have changed, 6 if the service is running."""
    uri = f"sqlite:///{tmp_path}/ledger.db"
    market.show(BEGIN)
    serve(uri, "init", workflow)
    line = serve(uri, "run", "--until", DAYS[FIRST + 1], code=Exit.NO_DATA_YET)
    assert (line["last_published"], line["data_until"]) == (BEGIN, BEGIN)
    market.close.loc[BEGIN, "A"] *= 1.5
    market.show(BEGIN)
    assert serve(uri, "check", "--json", code=Exit.CHECK_FAILED)["changed"] == [BEGIN]
    ledger = open_ledger(uri)
    lease = ledger.acquire("served", holder="host:7", seconds=60)
    assert isinstance(call("serve", "--ledger", uri, "run").exception, ServiceBusy)
    ledger.release(lease)


def test_a_correction_is_a_new_version(tmp_path: Path, workflow: Path, market: Market) -> None:
    """Only for days whose data have changed, in a separate file; the earlier version can still be read."""
    uri = f"sqlite:///{tmp_path}/ledger.db"
    market.show(BEGIN)
    serve(uri, "init", workflow)
    serve(uri, "run")
    assert "no signals have changed" in serve(uri, "correct")
    before = serve(uri, "signals", BEGIN, "--json")
    market.close.loc[BEGIN, "A"] *= 1.5
    market.show(BEGIN)
    (corrected,) = serve(uri, "correct", "--reason", "wrong close of A", "--json")["corrected"]
    assert (corrected["day"], corrected["version"], corrected["why"]) == (BEGIN, 2, "wrong close of A")
    after = serve(uri, "signals", BEGIN, "--json")
    assert (after["file"], after["sha256"]) == (corrected["file"], corrected["sha256"])
    assert after["file"] != before["file"]
    assert after["signals"] != before["signals"]
    assert serve(uri, "signals", BEGIN, "--version", 1, "--json") == before
    entry = serve(uri, "history", "--day", BEGIN, "--json")["entries"][-1]
    assert (entry["kind"], entry["body"]["signals"][0]) == ("correction", corrected)
    assert "none changed" in serve(uri, "check")
    assert serve(uri, "correct", BEGIN, "--json")["corrected"] == []
    market.close.loc[DAYS[FIRST - 1], "A"] *= 1.5
    market.show(BEGIN)
    alone = serve(uri, "correct", DAYS[FIRST - 1])
    assert f"1 other day from {BEGIN} on is not corrected yet" in alone
    refused = call("serve", "--ledger", uri, "correct", DAYS[FIRST + 1])
    assert "no signals" in str(refused.exception)
    ledger = open_ledger(uri)
    lease = ledger.acquire("served", holder="host:7", seconds=60)
    assert isinstance(call("serve", "--ledger", uri, "correct").exception, ServiceBusy)
    ledger.release(lease)


def test_a_changed_workflow_must_be_recorded(tmp_path: Path, workflow: Path, market: Market) -> None:
    """Nothing is run before that; recording it adds one entry, and recording it again adds none."""
    uri = f"sqlite:///{tmp_path}/ledger.db"
    market.show(BEGIN)
    serve(uri, "init", workflow)
    assert serve(uri, "init", workflow, "--json")["changed"] is False
    workflow.write_text(workflow.read_text() + "\n# a comment\n")
    assert "has changed" in str(call("serve", "--ledger", uri, "run").exception)
    assert serve(uri, "init", workflow, "--json") == {
        "service": "served", "begin": BEGIN, "changed": True, "ledger": uri,
    }  # fmt: skip
    assert [e.kind for e in open_ledger(uri).entries("served")] == ["service", "service"]


def test_windows_by_the_calendar_are_served(tmp_path: Path, market: Market) -> None:
    """A model is trained again on the first day of each week."""
    market.show(BEGIN)
    rollforge = {"data": str(market.folder), "tracking": f"folder:{tmp_path}/runs", "experiment": "served"}
    weekly = [{"CalendarGen": {"retrain": "week"}}]
    file = write_workflow(tmp_path / "job.yaml", {"rollforge": rollforge, "task": template(), "generate": weekly})
    uri = f"sqlite:///{tmp_path}/ledger.db"
    serve(uri, "init", file)
    serve(uri, "run")
    market.show(DAYS[FIRST + 5])
    assert [day["day"] for day in serve(uri, "run")["days"] if day["trained"]] == [DAYS[FIRST + 5]]  # a Monday


def test_a_workflow_without_rolling_windows_is_refused(tmp_path: Path, market: Market) -> None:
    """The message gives the reason, and nothing is recorded."""
    market.show(BEGIN)
    rollforge = {"data": str(market.folder), "experiment": "served"}
    file = write_workflow(tmp_path / "job.yaml", {"rollforge": rollforge, "task": template()})
    result = call("serve", "--ledger", f"sqlite:///{tmp_path}/ledger.db", "init", file)
    assert "rolling windows" in str(result.exception)
    assert not (tmp_path / "ledger.db").exists()


def test_a_changed_model_is_used_from_the_next_window_on(tmp_path: Path, workflow: Path, market: Market) -> None:
    """The following windows are those of the workflow that the ledger has recorded last, with its model."""
    uri = f"sqlite:///{tmp_path}/ledger.db"
    market.show(BEGIN)
    serve(uri, "init", workflow)
    serve(uri, "run")
    changed = yaml.safe_load(workflow.read_text())
    changed["task"]["model"]["kwargs"] = {"estimator": "ridge", "alpha": 0.5}
    workflow.write_text(yaml.safe_dump(changed))
    serve(uri, "init", workflow)
    market.show(DAYS[FIRST + 9])
    serve(uri, "run")
    tracker = open_tracker(f"folder:{tmp_path}/runs")
    tasks = [r.load_object("task") for r in get_experiment(tracker, experiment_name="served").list_recorders("list")]
    kept = {str(t["dataset"]["kwargs"]["segments"]["test"][0].date()): t["model"].get("kwargs") for t in tasks}
    windows = sorted(kept)
    assert [kept[day] for day in windows if day > BEGIN] == 2 * [{"estimator": "ridge", "alpha": 0.5}]
    assert [DAYS.index(day) for day in windows] == [DAYS.index(windows[0]) + STEP * i for i in range(len(windows))]
    assert [kept[day] for day in windows if day <= BEGIN] == len(windows[:-2]) * [{}]


def test_a_day_before_the_first_one_is_refused(tmp_path: Path, workflow: Path, market: Market) -> None:
    """The message names both days."""
    uri = f"sqlite:///{tmp_path}/ledger.db"
    market.show(BEGIN)
    serve(uri, "init", workflow)
    error = str(call("serve", "--ledger", uri, "run", "--until", DAYS[FIRST - 1]).exception)
    assert error == f"--until {DAYS[FIRST - 1]} is before {BEGIN}, the first day of the service."


def test_nothing_is_trained_before_a_first_day_in_the_future(tmp_path: Path, workflow: Path, market: Market) -> None:
    """The service waits for it."""
    uri = f"sqlite:///{tmp_path}/ledger.db"
    market.show(BEGIN)
    serve(uri, "init", workflow, "--begin", DAYS[FIRST + 2])
    for day in (BEGIN, DAYS[FIRST + 1]):
        market.show(day)
        assert serve(uri, "run")["days"] == []
        assert [e.kind for e in open_ledger(uri).entries("served")] == ["service"]
    market.show(DAYS[FIRST + 2])
    assert [day["day"] for day in serve(uri, "run")["days"]] == [DAYS[FIRST + 2]]


def test_a_service_that_has_begun_does_not_begin_earlier(tmp_path: Path, workflow: Path, market: Market) -> None:
    """A service that has begun has no model for the days before. Until its first day is run, the day can be changed;
    afterwards, a later day can be taken back."""
    uri = f"sqlite:///{tmp_path}/ledger.db"
    market.show(DAYS[FIRST + 2])
    serve(uri, "init", workflow, "--begin", BEGIN)
    serve(uri, "init", workflow)
    serve(uri, "init", workflow, "--begin", DAYS[FIRST + 1])
    serve(uri, "run")
    before = open_ledger(uri).entries("served")
    error = str(call("serve", "--ledger", uri, "init", workflow, "--begin", BEGIN).exception)
    assert error.startswith(
        f"The service 'served' began on {DAYS[FIRST + 1]}, and no model was released for an earlier"
    )
    assert open_ledger(uri).entries("served") == before
    assert serve(uri, "run")["days"] == []
    serve(uri, "init", workflow, "--begin", DAYS[FIRST + 2])
    assert str(call("serve", "--ledger", uri, "init", workflow, "--begin", BEGIN).exception) == error
    serve(uri, "init", workflow, "--begin", DAYS[FIRST + 1])
    assert serve(uri, "run")["days"] == []


def test_the_advice_about_a_changed_file_names_the_service(tmp_path: Path, workflow: Path, market: Market) -> None:
    """The name is left out if it is that of the experiment; an empty one is not taken for it."""
    uri = f"sqlite:///{tmp_path}/ledger.db"
    market.show(BEGIN)
    for name in ("served", "the second"):
        assert call("serve", "--ledger", uri, "--service", name, "init", workflow).exit_code == 0
    workflow.write_text(workflow.read_text() + "\n# changed\n")
    for name, option in (("served", ""), ("the second", "--service 'the second' ")):
        refused = call("serve", "--ledger", uri, "--service", name, "run").exception
        assert f"run 'rollforge serve {option}init {workflow}' again." in str(refused)
    refused = call("serve", "--ledger", uri, "--service", "", "init", workflow).exception
    assert "service: '' cannot be the name of a service" in str(refused)


def test_the_days_before_the_first_one_are_shown_like_others(tmp_path: Path, workflow: Path, market: Market) -> None:
    """The test segment begins before: these days have signals, models and a history, and their data are compared."""
    uri = f"sqlite:///{tmp_path}/ledger.db"
    market.show(BEGIN)
    serve(uri, "init", workflow)
    serve(uri, "run")
    day = DAYS[FIRST - 5]
    found = serve(uri, "signals", day, "--json")
    assert (sorted(found["signals"]), found["version"]) == (["A", "B", "C", "D"], 1)
    history = serve(uri, "history", "--day", day, "--json")
    assert [r["recorder"] for r in history["champions"]] == found["recorders"]
    assert len(history["entries"]) == 1
    market.close.loc[day, "A"] *= 1.5
    market.close.loc[DAYS[20], "A"] *= 1.5
    market.show(BEGIN)
    changed = serve(uri, "check", "--json", code=Exit.CHECK_FAILED)
    assert (changed["changed"], changed["changed_history"]) == ([day], sorted({DAYS[20][:7], day[:7]}))
    text = serve(uri, "check", code=Exit.CHECK_FAILED)
    assert f"{DAYS[20][:7]}: data before the first day, {BEGIN}, have changed since the models were trained" in text
    assert day in [signal["day"] for signal in serve(uri, "correct", "--json")["corrected"]]
    assert "none changed" in serve(uri, "check")


def test_the_folder_in_which_a_command_is_run_does_not_matter(
    tmp_path: Path, workflow: Path, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All signals of a service are in the folder that init has recorded, also if cron runs it elsewhere."""
    uri, one, other = f"sqlite:///{tmp_path}/ledger.db", tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
    monkeypatch.delenv("ROLLFORGE_HOME", raising=False)
    market.show(BEGIN)
    monkeypatch.chdir(one)
    serve(uri, "init", workflow)
    serve(uri, "run")
    market.show(DAYS[FIRST + 1])
    monkeypatch.chdir(other)
    assert serve(uri, "init", workflow, "--json")["changed"] is False
    serve(uri, "run")
    for day in DAYS[FIRST : FIRST + 2]:
        assert (one / f".rollforge/services/served/signals/{day}.v1.parquet").exists()
        assert len(serve(uri, "signals", day, "--json")["signals"]) == 4
    assert not (other / ".rollforge/services").exists()


def test_services_of_one_experiment_with_other_data_are_independent(
    tmp_path: Path, workflow: Path, market: Market
) -> None:
    """The services are independent even while the data are the same: neither uses a model of the other one, or changes
    its tags."""
    uri = f"sqlite:///{tmp_path}/ledger.db"
    other = Market(tmp_path / "other", market.close)
    second = tmp_path / "second.yaml"
    second.write_text(workflow.read_text().replace(str(market.folder), str(other.folder)))
    market.show(BEGIN)
    other.show(BEGIN)
    for name, file in (("one", workflow), ("two", second)):
        serve(uri, "--service", name, "init", file)
    used: dict[str, set[str]] = {"one": set(), "two": set()}
    for day in (BEGIN, DAYS[FIRST + STEP]):
        market.show(day)
        other.show(day)
        for name, recorders in used.items():
            assert serve(uri, "--service", name, "run")["last_published"] == day
            recorders |= {r.recorder for _, r in ServiceState.of(open_ledger(uri).entries(name)).releases}
    assert not used["one"] & used["two"]
    champions = {serve(uri, "--service", name, "status", "--json")["champions"][0]["recorder"] for name in used}
    experiment = get_experiment(open_tracker(f"folder:{tmp_path}/runs"), experiment_name="served", create=False)
    assert {
        r for r, one in experiment.list_recorders().items() if one.list_tags().get("online_status") == "online"
    } == champions


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_service_begins_with_its_first_window(tmp_path: Path, workflow: Path, market: Market, ahead: int) -> None:
    """A service does not begin before its first window; if the data end on the day before, it waits, and is checked for
    leakage later."""
    uri, first = f"sqlite:///{tmp_path}/ledger.db", DAYS[52]
    market.show(DAYS[52 - ahead])
    refused = call("serve", "--ledger", uri, "init", "--begin", DAYS[51], workflow)
    assert f"The first day that can be published is {first}." in str(refused.exception)
    assert f"first day {first}" in serve(uri, "init", workflow)
    if ahead:
        assert serve(uri, "run")["days"] == []
        assert serve(uri, "init", workflow, "--json")["changed"] is False
        market.show(first)
    assert [(day["day"], day["state"]) for day in serve(uri, "run")["days"]] == [(first, "published")]
    assert serve(uri, "init", workflow, "--json") == {
        "service": "served",
        "begin": first,
        "changed": False,
        "ledger": uri,
    }


def test_a_service_that_waits_is_checked_for_leakage_on_its_first_day(
    tmp_path: Path, workflow: Path, market: Market
) -> None:
    """Nothing is trained if there is a leak, unless ``init`` was told to warn."""
    uri = f"sqlite:///{tmp_path}/ledger.db"
    workflow.write_text(workflow.read_text().replace("trunc_days: auto", "trunc_days: null"))
    market.show(DAYS[51])
    serve(uri, "init", workflow)
    serve(uri, "run")
    market.show(DAYS[52])
    assert isinstance(call("serve", "--ledger", uri, "run").exception, LeakageError)
    assert not (tmp_path / "runs").exists()
    market.show(DAYS[51])
    serve(uri, "init", "--leakage", "warn", workflow)
    market.show(DAYS[52])
    assert len(serve(uri, "run")["days"]) == 1


@pytest.mark.parametrize("damage", ["lost", "changed"])
def test_signals_that_cannot_be_read_are_found_and_published_again(
    tmp_path: Path, workflow: Path, market: Market, damage: str
) -> None:
    """``check`` names them, also after a change of data elsewhere; ``correct`` adds a version with the same values."""
    uri = f"sqlite:///{tmp_path}/ledger.db"
    market.show(BEGIN)
    serve(uri, "init", workflow)
    market.show(DAYS[FIRST + 2])
    serve(uri, "run")
    lost = [BEGIN, DAYS[FIRST + 1]]
    before = {day: serve(uri, "signals", day, "--json") for day in lost}
    for day in lost:
        file = tmp_path / "home/services/served" / before[day]["file"]
        file.unlink() if damage == "lost" else file.write_bytes(file.read_bytes()[:-1])
    found = serve(uri, "check", "--json", code=Exit.CHECK_FAILED)
    assert (found["changed"], set(lost) <= found["unreadable"].keys()) == ([], True)
    assert f"{len(found['unreadable'])} cannot be read" in serve(uri, "check", code=Exit.CHECK_FAILED)
    market.close.loc[DAYS[FIRST + 2], "A"] *= 1.5
    market.show(DAYS[FIRST + 2])
    corrected = {signal["day"]: signal for signal in serve(uri, "correct", "--json")["corrected"]}
    assert corrected.keys() == {*found["unreadable"], DAYS[FIRST + 2]}
    for day in lost:
        after = serve(uri, "signals", day, "--json")
        assert (after["version"], after["signals"]) == (2, before[day]["signals"])
        assert "cannot be read" in after["why"]
    assert "none changed\n" in serve(uri, "check")


def test_a_removed_trading_day_is_a_change(tmp_path: Path, workflow: Path, market: Market) -> None:
    """The check of the next day reports it once; after its signals are withdrawn, nothing is left to do."""
    uri = f"sqlite:///{tmp_path}/ledger.db"
    market.show(BEGIN)
    serve(uri, "init", workflow)
    market.show(DAYS[FIRST + 2])
    serve(uri, "run")
    market.close = market.close.drop(index=pd.Timestamp(DAYS[FIRST + 1]))
    for place, reported in ((3, [DAYS[FIRST + 1]]), (4, [])):
        market.show(DAYS[FIRST + place])
        (day,) = serve(uri, "run")["days"]
        changed = [check for check in day["checks"] if check["name"] == "changed"]
        assert [
            one for check in changed for one in check["data"]["days"] if check["data"]["days"][one] == ""
        ] == reported
    serve(uri, "correct")
    assert serve(uri, "status", "--json")["last_published"] == DAYS[FIRST + 4]
    assert "none changed" in serve(uri, "check")


def test_data_that_end_before_the_last_published_day(tmp_path: Path, workflow: Path, market: Market) -> None:
    """Nothing is published from an older copy of the folder, and each run says so; the days go on when it is whole again."""
    uri = f"sqlite:///{tmp_path}/ledger.db"
    market.show(BEGIN)
    serve(uri, "init", workflow)
    market.show(DAYS[FIRST + 2])
    serve(uri, "run")
    market.show(DAYS[FIRST + 1])
    line = serve(uri, "run", code=Exit.CHECK_FAILED)
    assert (line["days"], line["data_until"], line["last_published"]) == ([], DAYS[FIRST + 1], DAYS[FIRST + 2])
    assert f"The data end on {DAYS[FIRST + 1]}, and {DAYS[FIRST + 2]} is published" in line["error"]
    market.show(DAYS[FIRST + 3])
    assert [day["state"] for day in serve(uri, "run")["days"]] == ["published"]
    market.show(DAYS[FIRST + 2])
    serve(uri, "correct", DAYS[FIRST + 3])  # it was no trading day
    assert serve(uri, "run")["days"] == []
