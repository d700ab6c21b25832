"""Checks of a service: from thresholds in a workflow file to rows, messages and exit codes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rollforge.cli.exit_codes import Exit
from rollforge.ledger.base import open_ledger
from rollforge.ledger.entry import CheckResult, Outcome
from rollforge.ledger.state import ServiceState
from rollforge.record.drift import REFERENCE
from rollforge.session import Session, using

from ..documents.command_line import call
from ..documents.definitions import write_workflow
from ..documents.growing import BEGIN, DAYS, STEP, Market, prices, recorders, template

FIRST = DAYS.index(BEGIN)
NAMED = (("plain", "ols"), ("penalized", "ridge"))
Serve = Callable[..., Any]


@pytest.fixture
def market(tmp_path: Path) -> Market:
    return Market(tmp_path / "data", prices())


@pytest.fixture
def serve(tmp_path: Path, market: Market) -> Serve:
    """Runs a command of a service, and returns its line of JSON or its text; ``init`` writes the workflow first."""
    uri = f"sqlite:///{tmp_path}/ledger.db"

    def run(*words: object, code: int = 0, checks: Any = None, model: Any = None, models: Any = None) -> Any:
        if words[0] == "init":
            rollforge = {"data": str(market.folder), "tracking": f"folder:{tmp_path}/runs", "experiment": "served"}
            rolling = {"step": STEP, "rtype": "sliding", "trunc_days": "auto"}
            task = {**template(), **({"model": model} if model else {})}
            content = {"rollforge": rollforge, "task": task, "rolling": rolling, "checks": checks}
            if models:
                content["models"] = models
            words = ("init", write_workflow(tmp_path / "job.yaml", content))
        result = call("serve", "--ledger", uri, *words)
        assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
        return json.loads(result.stdout) if result.stdout.startswith("{") else result.stdout

    return run


def state(tmp_path: Path) -> ServiceState:
    return ServiceState.of(open_ledger(f"sqlite:///{tmp_path}/ledger.db").entries("served"))


def rows(tmp_path: Path, name: str) -> list[tuple[Any, ...]]:
    """Return the rows about a check, read with SQL."""
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        text = "SELECT day, outcome, value FROM check_result WHERE name = ? ORDER BY entry, place"
        return connection.execute(text, (name,)).fetchall()


def test_every_published_day_has_its_checks(tmp_path: Path, serve: Serve, market: Market) -> None:
    """By default all of them, as part of the entry of the day; there are no findings."""
    market.show(BEGIN)
    serve("init")
    (day,) = serve("run")["days"]
    assert day["checks"] == []
    names = ["universe", "missing", "jumps", "stale", "gap", "changed", "constant"]
    known = state(tmp_path)
    assert [c.name for c in known.checks_made_on(BEGIN) if c.name != "score_psi"][:7] == names
    assert {c.outcome for c in known.checks_made_on(BEGIN) if c.name in names} == {Outcome.OK}
    assert rows(tmp_path, "universe") == [(BEGIN, "ok", 1.0)]
    assert "checks ok: universe 1, missing 0, " in serve("history", "--day", BEGIN)
    assert "checks ok" not in serve("history")


def test_a_check_that_fails_keeps_the_day_from_being_published(tmp_path: Path, serve: Serve, market: Market) -> None:
    """The day is published when its data have arrived. The result is a row of the failed day, and repeating the run
    adds none."""
    market.show(BEGIN)
    serve("init", checks={"universe": {"limit": 0.9, "level": "fail"}})
    serve("run")
    late, day = market.close.copy(), DAYS[FIRST + 1]
    market.close.loc[day, ["A", "B"]] = np.nan
    market.show(day)
    (line,) = serve("run", code=Exit.CHECK_FAILED)["days"]
    reason = f"check universe of {day}: 0.5, limit 0.9 (2 of 4 instruments have a price)"
    assert (line["state"], line["error"], [c["name"] for c in line["checks"]]) == ("failed", reason, ["universe"])
    assert rows(tmp_path, "universe") == [(BEGIN, "ok", 1.0), (day, "fail", 0.5)]
    entries = state(tmp_path).last
    serve("run", code=Exit.CHECK_FAILED)
    assert state(tmp_path).last == entries
    assert f"fail: {reason}" in serve("status")
    assert serve("status", "--json")["checks"][0]["outcome"] == "fail"
    assert f"fail: {reason}" in serve("history", "--day", day)
    market.close = late
    market.show(day)
    assert [d["state"] for d in serve("run")["days"]] == ["published"]
    assert rows(tmp_path, "universe")[-1] == (day, "ok", 1.0)


def test_a_check_that_warns_does_not_keep_the_day_from_being_published(
    tmp_path: Path, serve: Serve, market: Market
) -> None:
    """A price that nearly doubles; the warning is in the line, the status, the history and the view."""
    market.show(BEGIN)
    serve("init", checks={"jumps": 0.8, "feature_psi": False, "score_psi": False})
    serve("run")
    day = DAYS[FIRST + 1]
    market.close.loc[day:, "B"] *= 1.9
    market.show(day)
    (line,) = serve("run")["days"]
    assert (line["state"], [(c["name"], c["outcome"]) for c in line["checks"]]) == ("published", [("jumps", "warn")])
    assert line["checks"][0]["data"] == {"instruments": ["B"]}
    for words in (("status",), ("history", "--day", day), ("history",)):
        assert f"warn: check jumps of {day}: " in serve(*words)
    assert [row[:2] for row in rows(tmp_path, "jumps")] == [(BEGIN, "ok"), (day, "warn")]
    assert rows(tmp_path, "feature_psi") == []


def test_a_changed_past_is_reported_once(tmp_path: Path, serve: Serve, market: Market) -> None:
    """A changed past is reported on the next day; correcting it is up to the user."""
    market.show(BEGIN)
    serve("init", checks={"score_psi": False, "feature_psi": False})
    serve("run")
    market.close.loc[BEGIN, "A"] *= 1.01
    market.show(DAYS[FIRST + 1])
    ((check,),) = [day["checks"] for day in serve("run")["days"]]
    assert (check["name"], list(check["data"]["days"])) == ("changed", [BEGIN])
    market.show(DAYS[FIRST + 2])
    ((day),) = serve("run")["days"]
    assert day["checks"] == []
    serve("correct")
    assert "none changed" in serve("check")


def test_a_changed_past_that_fails_a_day_does_so_until_it_is_corrected(
    tmp_path: Path, serve: Serve, market: Market
) -> None:
    """The result of a failed attempt is not a report after which the change is known."""
    market.show(BEGIN)
    serve("init", checks={"changed": {"level": "fail"}, "score_psi": False, "feature_psi": False})
    serve("run")
    market.close.loc[BEGIN, "A"] *= 1.01
    market.show(DAYS[FIRST + 1])
    for _ in range(3):
        (day,) = serve("run", code=Exit.CHECK_FAILED)["days"]
        assert [check["name"] for check in day["checks"]] == ["changed"]
    serve("correct")
    assert [day["state"] for day in serve("run")["days"]] == ["published"]


@pytest.mark.parametrize("block", [False, True])
def test_scores_that_are_all_equal(tmp_path: Path, serve: Serve, market: Market, block: bool) -> None:
    """The check fails; the day is published all the same unless the workflow says otherwise."""
    (tmp_path / "same.py").write_text(
        "import pandas as pd\nfrom rollforge.models.base import Model\n\n\nclass Same(Model):\n"
        "    def fit(self, dataset, **kwargs):\n        pass\n\n"
        "    def predict(self, dataset, segment='test'):\n"
        "        return pd.Series(0.5, dataset.prepare(segment, col_set='label', data_key='raw').index)\n"
    )
    market.show(BEGIN)
    model = {"class": "Same", "module_path": str(tmp_path / "same.py")}
    serve("init", checks={"constant": {"level": "fail"}, "block": block}, model=model)
    (line,) = serve("run", code=Exit.CHECK_FAILED)["days"]
    assert line["state"] == ("failed" if block else "published")
    assert [(c["name"], c["value"], c["outcome"]) for c in line["checks"] if c["name"] == "constant"] == [
        ("constant", 1.0, "fail")
    ]
    assert (BEGIN in state(tmp_path).signals()) is not block
    if not block:
        assert serve("run")["days"] == []


def test_scores_and_features_are_compared_with_the_training(tmp_path: Path, serve: Serve, market: Market) -> None:
    """The reference is saved by the training; prices that no longer resemble those of the training are found."""
    market.close.iloc[FIRST + 1 :] = (
        market.close.iloc[FIRST].to_numpy() * np.linspace(1.3, 8, len(DAYS) - FIRST - 1)[:, None]
    )
    market.show(BEGIN)
    serve(
        "init",
        checks={"feature_psi": {"limit": 0.25, "days": 25}, "score_psi": {"limit": 0.25, "days": 25}, "ic": False},
    )
    serve("run")
    with using(Session(tracking_uri=f"folder:{tmp_path}/runs")):
        assert all(REFERENCE in recorder.list_artifacts() for recorder in recorders())
    assert [row[:2] for row in rows(tmp_path, "feature_psi")] == [(BEGIN, "ok")]
    market.show(DAYS[FIRST + 15])
    last = serve("run")["days"][-1]
    found = {check["name"]: check for check in last["checks"]}
    assert {"score_psi", "feature_psi"} <= found.keys()
    assert found["feature_psi"]["text"].startswith("2 of 2 features beyond the limit: ")
    (model,) = found["feature_psi"]["data"]["models"].values()
    assert (model["rows"], model["beyond"]) == (100, 2)


def test_the_ic_of_a_day_belongs_to_the_day_on_which_its_label_is_known(
    tmp_path: Path, serve: Serve, market: Market
) -> None:
    """The label of a day looks two days ahead. After 20 days the mean has an interval, which has a limit."""
    market.show(BEGIN)
    serve("init", checks={"ic": {"limit": 1, "days": 25}})
    serve("run")
    assert (rows(tmp_path, "daily_ic"), rows(tmp_path, "ic")) == ([], [])
    market.show(DAYS[FIRST + 1])
    serve("run")
    known = state(tmp_path)
    assert [c.day for c in known.checks_made_on(DAYS[FIRST + 1]) if c.name == "daily_ic"] == DAYS[52:FIRST]
    market.show(DAYS[FIRST + 14])
    days = serve("run")["days"]
    known = state(tmp_path)
    for place in range(FIRST + 2, FIRST + 15):
        made = [c for c in known.checks_made_on(DAYS[place]) if c.name == "daily_ic"]
        assert [c.day for c in made] == [DAYS[place - 2]], place
    (mean,) = [c for c in known.checks_made_on(DAYS[FIRST + 14]) if c.name == "ic"]
    daily = [c.value for c in known.checks_made_on(DAYS[FIRST + 1]) if c.name == "daily_ic"]
    daily += [
        c.value for p in range(FIRST + 2, FIRST + 15) for c in known.checks_made_on(DAYS[p]) if c.name == "daily_ic"
    ]
    assert (mean.day, mean.outcome, mean.value) == (DAYS[FIRST + 12], Outcome.WARN, pytest.approx(np.mean(daily)))
    assert (mean.data["days"], mean.data["low"] < mean.value < mean.data["high"] < 1) == (len(daily), True)
    assert [c["name"] for c in days[-1]["checks"] if c["name"] == "ic"] == ["ic"]
    text = serve("history", "--day", DAYS[FIRST + 5])
    assert text.count("checks ok: daily_ic ") == 1
    assert DAYS[FIRST + 7] not in text
    assert_ic(tmp_path, serve, market, known.checked(DAYS[FIRST + 5])["daily_ic"])
    market.close.loc[DAYS[FIRST + 10], "A"] *= 1.3
    market.show(DAYS[FIRST + 14])
    serve("correct")
    corrected = state(tmp_path)
    for place in (
        FIRST + 5,
        FIRST + 8,
        FIRST + 9,
        FIRST + 10,
        FIRST + 11,
    ):  # 8 and 9 by their labels, later ones by scores
        assert_ic(tmp_path, serve, market, corrected.checked(DAYS[place])["daily_ic"])
    same = [
        corrected.checked(DAYS[p])["daily_ic"] == known.checked(DAYS[p])["daily_ic"] for p in (FIRST + 5, FIRST + 8)
    ]
    assert same == [True, False]
    assert serve("history", "--day", DAYS[FIRST + 5]).count("replaced in entry") == 0
    replaced = [line for line in serve("history", "--day", DAYS[FIRST + 8]).splitlines() if "daily_ic" in line]
    number = next(
        e.number
        for e, c in corrected.checks
        if (c.name, c.day) == ("daily_ic", DAYS[FIRST + 8]) and e.number > known.last
    )
    assert [f"(replaced in entry {number})" in line for line in replaced] == [True, False]
    shown = {check["name"]: check for check in serve("status", "--json")["checks"]}
    assert shown["daily_ic"]["value"] == corrected.checked(DAYS[FIRST + 12])["daily_ic"].value
    daily = [corrected.checked(day)["daily_ic"].value for day in DAYS[52 : FIRST + 13]]
    assert shown["ic"]["value"] == pytest.approx(np.mean(daily))
    assert shown["ic"]["value"] != mean.value


def test_an_ic_that_fails_a_day_does_so_at_every_attempt(tmp_path: Path, serve: Serve, market: Market) -> None:
    """The ICs of the failed attempt do not count as known; otherwise nothing would be checked afterwards. The check may
    cover more days than the calendar has."""
    market.show(BEGIN)
    serve("init", checks={"ic": {"limit": 1, "days": 1000, "level": "fail"}, "block": True})
    market.show(DAYS[FIRST + 13])
    for _ in range(2):
        day = serve("run", code=Exit.CHECK_FAILED)["days"][-1]
        assert (day["day"], day["state"]) == (DAYS[FIRST + 13], "failed")
        assert [check["name"] for check in day["checks"] if check["outcome"] == "fail"] == ["ic"]
    assert max(state(tmp_path).signals()) == DAYS[FIRST + 12]


def test_two_models_have_their_names_and_one_ic(tmp_path: Path, serve: Serve, market: Market) -> None:
    """The releases have the names of ``models``; the IC is that of the published signals, once for each day."""
    market.show(BEGIN)
    models = {name: {"model": {**template()["model"], "kwargs": {"estimator": kind}}} for name, kind in NAMED}
    serve("init", checks={"ic": {"limit": 1, "days": 25}}, models=models)
    serve("run")
    market.show(DAYS[FIRST + 1])
    serve("run")
    known = state(tmp_path)
    assert {release.template for _, release in known.releases} == {name for name, _ in NAMED}
    assert len(known.champions(BEGIN)) == 2
    for words in (("status",), ("history", "--day", BEGIN)):
        shown = serve(*words).splitlines()
        assert all(
            any(r.recorder in line and line.endswith(f"  {r.template}") for line in shown)
            for r in known.champions(BEGIN)
        )
    assert "(model penalized) first training" in serve("history")
    assert "(model p" in serve("promote", next(r.recorder for _, r in known.releases if r.role == "retired"))
    made = known.checks_made_on(DAYS[FIRST + 1])
    assert [check.day for check in made if check.name == "daily_ic"] == DAYS[52:FIRST]


def test_models_trained_without_a_reference_are_left_out(tmp_path: Path, serve: Serve, market: Market) -> None:
    """The other model is still compared with its training, whichever of the two has no stored distribution. If one cannot
    be read, the other model may exceed a limit, but does not show that all of them are within it. Of several models, the
    one that differs most counts."""
    market.show(BEGIN)
    models = {name: {"model": {**template()["model"], "kwargs": {"estimator": kind}}} for name, kind in NAMED}
    drift = {name: {"limit": limit, "days": 25} for name, limit in (("score_psi", 9), ("feature_psi", 0))}
    serve("init", checks={**drift, "ic": False}, models=models)
    serve("run")
    champions = [release.recorder for release in state(tmp_path).champions(BEGIN)]
    for number, (without, other) in enumerate([champions, champions[::-1]], 1):
        with using(Session(tracking_uri=f"folder:{tmp_path}/runs")):
            (recorder,) = (r for r in recorders() if r.id == without)
            reference = recorder.load_object(REFERENCE)
            recorder.delete_objects(REFERENCE)
        day = DAYS[FIRST + number]
        market.show(day)
        (line,) = serve("run")["days"]
        checks = {check.name: check for check in state(tmp_path).checks_made_on(day)}
        assert list(checks["score_psi"].data["models"]) == list(checks["feature_psi"].data["models"]) == [other]
        with using(Session(tracking_uri=f"folder:{tmp_path}/runs")):
            recorder.save_objects(**{REFERENCE: reference})
    assert line["state"] == "published"
    with using(Session(tracking_uri=f"folder:{tmp_path}/runs")):
        recorder.save_objects(**{REFERENCE: "damaged"})
    market.show(DAYS[FIRST + 3])
    serve("run")
    checks = {check.name: check for check in state(tmp_path).checks_made_on(DAYS[FIRST + 3])}
    assert (checks["score_psi"].outcome, checks["feature_psi"].outcome) == (Outcome.UNKNOWN, Outcome.WARN)
    assert list(checks["feature_psi"].data["models"]) == [champions[0]]
    market.show(DAYS[FIRST + 4])
    serve("run")
    champions = [release.recorder for release in state(tmp_path).champions(DAYS[FIRST + 4])]
    with using(Session(tracking_uri=f"folder:{tmp_path}/runs")):
        (recorder,) = (r for r in recorders() if r.id == champions[1])
        reference = recorder.load_object(REFERENCE)
        # As if the scores had been distributed like one of the features.
        recorder.save_objects(**{REFERENCE: {**reference, "score": next(iter(reference["features"].values()))}})
    market.show(DAYS[FIRST + 5])
    serve("run")
    (check,) = (check for check in state(tmp_path).checks_made_on(DAYS[FIRST + 5]) if check.name == "score_psi")
    first, second = (check.data["models"][recorder]["psi"] for recorder in champions)
    assert check.value == second > first


def assert_ic(tmp_path: Path, serve: Serve, market: Market, check: CheckResult) -> None:
    """Compare an IC with the rank correlation of the published scores with the returns of the prices."""
    place = DAYS.index(check.day)
    scores = serve("signals", check.day, "--json")["signals"]
    returns = market.close.iloc[place + 2] / market.close.iloc[place + 1] - 1
    ranks = [np.argsort(np.argsort([values[code] for code in "ABCD"])) for values in (scores, returns)]
    assert check.value == pytest.approx(np.corrcoef(*ranks)[0, 1])


@pytest.mark.parametrize(("level", "block"), [("warn", True), ("fail", False), ("fail", True)])
def test_a_check_that_cannot_be_computed_is_unknown(
    tmp_path: Path, serve: Serve, market: Market, level: str, block: bool
) -> None:
    """The reason is given; the other checks are computed. It counts as a failure if the level of the check says so."""
    market.show(BEGIN)
    serve("init", checks={"score_psi": {"limit": 9, "level": level}, "ic": {"days": 25, "limit": -1}, "block": block})
    serve("run")
    with using(Session(tracking_uri=f"folder:{tmp_path}/runs")):
        for recorder in recorders():
            recorder.save_objects(**{REFERENCE: "damaged"})
    day = DAYS[FIRST + 1]
    market.show(day)
    (line,) = serve("run", code=Exit.CHECK_FAILED if level == "fail" else Exit.DONE)["days"]
    assert line["state"] == ("failed" if (level, block) == ("fail", True) else "published")
    assert {c["name"]: (c["value"], c["outcome"]) for c in line["checks"]} == dict.fromkeys(
        ("score_psi", "feature_psi"), (None, "unknown")
    )
    assert "TypeError" in line["checks"][0]["text"]
    assert [row[:2] for row in rows(tmp_path, "score_psi")][-1] == (day, "unknown")
    assert [row[0] for row in rows(tmp_path, "daily_ic")] == DAYS[52:FIRST]
    assert f"unknown: check score_psi of {day}: no value" in serve("status")


@pytest.mark.parametrize("damage", ["lost", "changed"])
def test_a_signal_file_that_cannot_be_read_is_left_out_of_the_ic(
    tmp_path: Path, serve: Serve, market: Market, damage: str
) -> None:
    """Only its own day has no value, is reported once, and has one again after a correction; drift is checked all the same."""
    market.show(BEGIN)
    psi = {"limit": 9, "days": 25}
    ic = {"limit": 1, "days": 25, "level": "fail"}
    serve("init", checks={"score_psi": psi, "feature_psi": psi, "ic": ic, "block": True})
    day, last = DAYS[FIRST + 1], DAYS[FIRST + 3]
    market.show(DAYS[FIRST + 2])
    serve("run")
    file = tmp_path / "home/services/served" / state(tmp_path).signals()[day].file
    file.unlink() if damage == "lost" else file.write_bytes(file.read_bytes()[:-1])
    market.show(last)
    (line,) = serve("run")["days"]
    assert line["state"] == "published"
    assert [(c["name"], c["day"], c["outcome"]) for c in line["checks"]] == [("daily_ic", day, "unknown")]
    assert str(file) in line["checks"][0]["text"]
    assert state(tmp_path).checked(last)["score_psi"].value is not None
    market.show(DAYS[FIRST + 4])
    assert serve("run")["days"][0]["checks"] == []


def test_without_checks_nothing_is_checked(tmp_path: Path, serve: Serve, market: Market) -> None:
    """The training saves no reference either."""
    market.show(BEGIN)
    serve("init", checks=False)
    serve("run")
    assert state(tmp_path).checks == ()
    with using(Session(tracking_uri=f"folder:{tmp_path}/runs")):
        assert not any(REFERENCE in recorder.list_artifacts() for recorder in recorders())
