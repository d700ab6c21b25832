"""A service whose ledger is in MongoDB, from its workflow file to entries, scores and files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from rollforge.cli.exit_codes import Exit
from rollforge.ledger.base import open_ledger
from rollforge.online import signal_files
from rollforge.track.frame import read_table

from ..documents.command_line import call
from ..documents.definitions import write_workflow
from ..documents.growing import BEGIN, DAYS, STEP, Market, prices, template
from ..documents.killed_routines import ended, start

FIRST = DAYS.index(BEGIN)


@pytest.fixture
def uri(mongodb: str) -> Iterator[str]:
    address, name = mongodb.rstrip("/"), f"rollforge_service_{os.getpid()}"
    yield f"{address}/{name}"
    with MongoClient(address) as client:
        client.drop_database(name)


def serve(uri: str, *arguments: object, code: int = 0) -> Any:
    result = call("serve", "--ledger", uri, *arguments)
    open_ledger(uri).close()  # a driver's client must not be used in a fork
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    return json.loads(result.stdout) if result.stdout.startswith("{") else result.stdout


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_whole_service(tmp_path: Path, uri: str) -> None:
    """Runs that are killed publish each day once; corrections and a rollback are entries; a newer ledger is refused."""
    market = Market(tmp_path / "data", prices())
    rollforge = {
        "data": str(market.folder),
        "store": uri,
        "tracking": f"folder:{tmp_path}/runs",
        "experiment": "served",
    }
    rolling = {"step": STEP, "rtype": "sliding", "trunc_days": "auto"}
    document = {"rollforge": rollforge, "task": template(), "rolling": rolling, "signals": {"table": True}}
    workflow = write_workflow(tmp_path / "job.yaml", document)
    market.show(BEGIN)
    assert call("serve", "init", workflow).exit_code == 0
    assert serve(uri, "status", "--json")["entries"] == 1

    run = DAYS[FIRST : FIRST + 6]
    kills = 0
    for place, day in enumerate(run):
        market.show(day)
        write = 1 + place
        while ended(start(lambda: serve(uri, "run"), write=write)) == "killed":
            kills, write = kills + 1, write + 7
    assert kills > 6
    status = serve(uri, "status", "--json")
    assert (status["last_published"], status["failed"], status["running"]) == (run[-1], [], None)
    published = [
        e["body"]["day"]["day"] for e in serve(uri, "history", "--json")["entries"] if e["body"].get("signals")
    ]
    assert published == run
    assert (
        len(
            {
                champion["recorder"]
                for day in run
                for champion in serve(uri, "history", "--day", day, "--json")["champions"]
            }
        )
        == 2
    )

    before = serve(uri, "signals", run[4], "--json")
    market.close.loc[run[4], "A"] *= 1.5
    market.show(run[-1])
    assert serve(uri, "check", "--json", code=Exit.CHECK_FAILED)["changed"] == [run[4]]
    corrected = serve(uri, "correct", "--reason", "wrong close of A", "--json")["corrected"]
    assert [(one["day"], one["version"]) for one in corrected] == [(run[4], 2), (run[5], 2)]
    after = serve(uri, "signals", run[4], "--json")
    assert after["signals"] != before["signals"]
    assert serve(uri, "signals", run[4], "--version", 1, "--json") == before
    assert "wrong close of A" in serve(uri, "history", "--day", run[4])

    (champion,) = status["champions"]
    serve(uri, "rollback", "--reason", "worse")
    market.show(DAYS[FIRST + 6])
    assert [day["state"] for day in serve(uri, "run")["days"]] == ["published"]
    found = serve(uri, "signals", DAYS[FIRST + 6], "--json")
    assert champion["recorder"] not in found["recorders"]

    with MongoClient(uri, tz_aware=True) as client:
        database = client.get_default_database()
        rows = list(database["rollforge_ledger"].find({"service": "served"}).sort("number", 1))
        kept = {
            (s["day"], s["version"]): dict(s["rows"])
            for s in database["rollforge_ledger_scores"].find({"entry": {"$lte": len(rows)}})
        }
        versions = database["rollforge_ledger_services"]
        versions.update_one({"_id": "/schema"}, {"$inc": {"version": 1}})
    assert [row["number"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["kind"] for row in rows].count("correction") == 2
    assert [row["kind"] for row in rows][-2:] == ["rollback", "day"]
    signals = [s for row in rows for s in json.loads(row["body"]).get("signals", [])]
    assert {(run[4], 1), (run[4], 2), (DAYS[FIRST + 6], 1)} <= {(s["day"], s["version"]) for s in signals}
    for signal in signals:
        table = signal_files.rows_of(read_table(tmp_path / "home/services/served" / signal["file"]), [signal["day"]])
        assert kept[signal["day"], signal["version"]] == dict(
            zip(table.index.get_level_values("instrument"), table, strict=True)
        )
    assert "newer Rollforge" in str(call("serve", "--ledger", f"{uri}?appname=other", "run").exception)
