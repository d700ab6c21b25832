"""``policy:`` in a workflow: from the file to rows that a user reads, and mistakes in it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from rollforge.errors import ConfigError
from rollforge.workflow import load_workflow

from ..documents.command_line import call
from ..documents.definitions import write_workflow
from ..documents.growing import BEGIN, DAYS, STEP, Market, prices, template

FIRST = DAYS.index(BEGIN)


def document(tmp_path: Path, market: Market, policy: Any) -> dict[str, Any]:
    rollforge = {"data": str(market.folder), "tracking": f"folder:{tmp_path}/runs", "experiment": "served"}
    rolling = {"step": STEP, "rtype": "sliding", "trunc_days": "auto"}
    return {"rollforge": rollforge, "task": template(), "rolling": rolling, "policy": policy}


def test_a_policy_from_the_file_to_the_rows(tmp_path: Path) -> None:
    """The candidate is shown with its figures, then its promotion with the reason, also to a program that reads SQL."""
    market = Market(tmp_path / "data", prices())
    market.show(BEGIN)
    given = {"shadow_days": 2, "margin": 2.0}
    file = write_workflow(tmp_path / "job.yaml", document(tmp_path, market, given))
    database = tmp_path / "ledger.db"

    def serve(*arguments: object) -> Any:
        result = call("serve", "--ledger", f"sqlite:///{database}", *arguments)
        assert result.exit_code == 0, (result.stderr, result.exception)
        return json.loads(result.stdout) if "--json" in arguments else result.stdout

    serve("init", file)
    market.show(DAYS[FIRST + 6])
    serve("run")
    found = serve("status", "--json")
    assert found["policy"] == {"shadow_days": 2, "metric": "rank_ic", "margin": 2.0, "lost": "retire"}
    ((candidate,), (comparison,)) = found["candidates"], found["comparisons"]
    assert (comparison["candidate"], comparison["days"]) == (candidate["recorder"], 1)
    assert f"{candidate['recorder']}: rank IC " in serve("status")
    market.show(DAYS[FIRST + 7])
    serve("run")
    text = serve("history", "--day", DAYS[FIRST + 7])
    assert f"{candidate['recorder']} promoted: rank IC" in text
    assert f"{candidate['recorder']} champion from" in text
    assert [r["recorder"] for r in serve("status", "--json")["champions"]] == [candidate["recorder"]]
    with closing(sqlite3.connect(database)) as raw:
        rows = raw.execute("SELECT day, candidate, days, verdict FROM comparison ORDER BY entry, place").fetchall()
        files = raw.execute("SELECT day, file FROM shadow ORDER BY entry").fetchall()
    assert rows == [
        (DAYS[FIRST + 6], candidate["recorder"], 1, "shadow"),
        (DAYS[FIRST + 7], candidate["recorder"], 2, "promoted"),
    ]
    assert [day for day, _ in files] == DAYS[FIRST + 4 : FIRST + 8]
    changed = yaml.safe_load(file.read_text())
    changed["policy"]["shadow_days"] = 3
    file.write_text(yaml.safe_dump(changed))
    serve("init", file)
    assert serve("status", "--json")["policy"]["shadow_days"] == 3


def test_a_challenger_from_the_file_to_the_rows(tmp_path: Path) -> None:
    """A second model runs in shadow over its windows. What is published is to the bit the prediction of the first one alone,
    and from the promotion on that of the challenger; a rollback brings the first one back.
    """
    market = Market(tmp_path / "data", prices())
    shared = document(tmp_path, market, None)
    models = {"linear": {}, "ridge": {"model": {"kwargs": {"estimator": "ridge", "alpha": 0.001}}}}
    database = tmp_path / "ledger.db"

    def serve(service: str, *arguments: object) -> Any:
        result = call("serve", "--ledger", f"sqlite:///{database}", "--service", service, *arguments)
        assert result.exit_code == 0, (result.stderr, result.exception)
        return json.loads(result.stdout) if "--json" in arguments else result.stdout

    def write(name: str, listed: Any, policy: Any = None) -> Path:
        own = {**shared, "rollforge": {**shared["rollforge"], "experiment": name}, "models": listed, "policy": policy}
        return write_workflow(tmp_path / f"{name}.yaml", own)

    market.show(BEGIN)
    policy = {"challenger": "ridge", "shadow_days": 3, "margin": 2.0}
    serve("both", "init", write("both", models, policy))
    for name, model in models.items():
        serve(name, "init", write(name, {name: model}))
    market.show(DAYS[FIRST + 7])
    for service in ("both", *models):
        serve(service, "run")
    found = serve("both", "history", "--json", "--day", DAYS[FIRST + 4])
    assert serve("both", "status", "--json")["policy"] == {**policy, "metric": "rank_ic", "lost": "retire"}
    used = {name: [serve(name, "signals", day) for day in DAYS[FIRST : FIRST + 8]] for name in ("both", *models)}
    assert used["linear"][0] != used["ridge"][0]
    assert used["both"] == [*used["linear"][:5], *used["ridge"][5:]]
    (promoted,) = (
        r["recorder"]
        for e in found["entries"]
        for r in e["body"]["releases"]
        if "rank IC" in r["reason"] and r["role"] == "champion"
    )
    assert f"{promoted} promoted: rank IC" in serve("both", "history", "--day", DAYS[FIRST + 4])
    with closing(sqlite3.connect(database)) as raw:
        rows = raw.execute("SELECT days, verdict FROM comparison WHERE service = 'both' ORDER BY entry").fetchall()
        places = raw.execute(
            "SELECT DISTINCT template, instead_of FROM release WHERE service = 'both' ORDER BY 1"
        ).fetchall()
    assert rows == [(1, "shadow"), (2, "shadow"), (3, "promoted")]
    assert places == [("linear", ""), ("ridge", "linear")]
    assert " is champion from " in serve("both", "rollback")
    market.show(DAYS[FIRST + 10])
    serve("both", "run")
    (champion,) = serve("both", "status", "--json")["champions"]
    assert (champion["template"], serve("both", "status", "--json")["candidates"]) == ("linear", [])


def test_a_challenger_that_is_no_model_is_refused(tmp_path: Path) -> None:
    """The message has its line in the file."""
    market = Market(tmp_path / "data", prices())
    market.show(BEGIN)
    given = {
        **document(tmp_path, market, {"challenger": "rigde", "shadow_days": 3}),
        "models": {"linear": {}, "ridge": {}},
    }
    file = write_workflow(tmp_path / "job.yaml", given)
    result = call("serve", "--ledger", f"sqlite:///{tmp_path}/ledger.db", "init", file)
    line = 1 + [*map(str.strip, file.read_text().splitlines())].index("challenger: rigde")
    assert isinstance(result.exception, ConfigError)
    assert f"job.yaml, line {line}: policy.challenger: must be the name of a model" in str(result.exception)
    assert "Did you mean 'ridge'?" in str(result.exception)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({}, "policy.shadow_days: is missing"),
        ({"shadow_dayz": 5}, "policy.shadow_days: is missing. Is 'shadow_dayz' a misspelling of it?"),
        ({"shadow_days": 0}, "policy.shadow_days: must be greater than or equal to 1, found 0."),
        ({"shadow_days": True}, "policy.shadow_days: must be a valid integer, found True."),
        ({"shadow_days": "5"}, "policy.shadow_days: must be a valid integer, found '5'."),
        ({"shadow_days": 5, "margin": -1}, "policy.margin: must be greater than or equal to 0, found -1"),
        ({"shadow_days": 5, "margin": float("inf")}, "policy.margin: must be a finite number, found inf."),
        ({"shadow_days": 5, "margin": "1%"}, "policy.margin: must be a valid number, found '1%'."),
        (
            {"shadow_days": 5, "metric": "rankic"},
            "policy.metric: must be 'rank_ic' or 'ic', found 'rankic'. Did you mean",
        ),
        ({"shadow_days": 5, "lost": "drop"}, "policy.lost: must be 'retire' or 'keep', found 'drop'."),
        (
            {"shadow_days": 5, "days": 3},
            "policy.days: unknown key. Allowed: shadow_days, metric, margin, lost, challenger, replaces.",
        ),
        ([5], "policy: "),
        ("always", "policy: "),
    ],
)
def test_each_mistake_is_one_message_with_its_line(tmp_path: Path, policy: Any, message: str) -> None:
    """Each mistake in the section ``policy`` has its own message."""
    market = Market(tmp_path / "data", prices())
    file = write_workflow(tmp_path / "job.yaml", document(tmp_path, market, policy))
    with pytest.raises(ConfigError) as caught:
        load_workflow(file)
    lines = str(caught.value).splitlines()
    found = [line.strip() for line in lines[1:]]
    assert any(message in line for line in found), found
    assert all(line.startswith("line ") for line in found), found
    assert len(found) == (2 if policy == {"shadow_dayz": 5} else 1)
