"""``registry:`` in a workflow: aliases in MLflow's registry of models follow the ledger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rollforge.errors import ConfigError, TrackingError
from rollforge.track.base import open_tracker
from rollforge.track.mlflow.tracker import MLflowTracker

from ..documents.command_line import call
from ..documents.definitions import write_workflow
from ..documents.growing import BEGIN, DAYS, STEP, Market, prices, template

FIRST = DAYS.index(BEGIN)
MODELS = {"linear": {}, "ridge": {"model": {"kwargs": {"estimator": "ridge", "alpha": 0.001}}}}


def document(tmp_path: Path, market: Market, **sections: Any) -> dict[str, Any]:
    rollforge = {"data": str(market.folder), "tracking": f"sqlite:///{tmp_path}/runs.db", "experiment": "served"}
    rolling = {"step": STEP, "rtype": "sliding", "trunc_days": "auto"}
    return {"rollforge": rollforge, "task": template(), "rolling": rolling, "registry": "ranking", **sections}


@pytest.fixture
def market(tmp_path: Path) -> Market:
    """A market that ends on the first day of the service."""
    made = Market(tmp_path / "data", prices())
    made.show(BEGIN)
    return made


def serve(tmp_path: Path, *arguments: object) -> Any:
    result = call("serve", "--ledger", f"sqlite:///{tmp_path}/ledger.db", *arguments)
    assert result.exit_code == 0, (result.stderr, result.exception)
    return json.loads(result.stdout) if "--json" in arguments else result.stdout


def client_of(tmp_path: Path) -> Any:
    """Return a client of the registry, as other programs use it."""
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{tmp_path}/runs.db", f"sqlite:///{tmp_path}/runs.db")


def aliases(tmp_path: Path, model: str = "ranking") -> dict[str, str]:
    """Return alias -> id of the run, as a program that uses MLflow reads it."""
    client = client_of(tmp_path)
    found = client.get_registered_model(model).aliases
    return {alias: client.get_model_version_by_alias(model, alias).run_id for alias in found}


def released(tmp_path: Path, role: str) -> list[str]:
    return [r["recorder"] for r in serve(tmp_path, "status", "--json")[f"{role}s"]]


def test_the_aliases_are_the_models_of_the_ledger(tmp_path: Path, market: Market) -> None:
    """Through the days of a candidate, its promotion, and a rollback; the version leads to the files of the run."""
    policy = {"shadow_days": 2, "margin": 2.0}
    serve(tmp_path, "init", write_workflow(tmp_path / "job.yaml", document(tmp_path, market, policy=policy)))
    serve(tmp_path, "run")
    (first,) = released(tmp_path, "champion")
    assert aliases(tmp_path) == {"champion": first}
    market.show(DAYS[FIRST + 6])
    serve(tmp_path, "run")
    (candidate,) = released(tmp_path, "candidate")
    assert aliases(tmp_path) == {"champion": first, "candidate": candidate}
    market.show(DAYS[FIRST + 7])
    serve(tmp_path, "run")
    assert aliases(tmp_path) == {"champion": candidate}
    serve(tmp_path, "rollback", "--reason", "a test")
    market.show(DAYS[FIRST + 8])
    serve(tmp_path, "run")
    (next_candidate,) = released(tmp_path, "candidate")
    assert aliases(tmp_path) == {"champion": first, "candidate": next_candidate}
    client = client_of(tmp_path)
    assert (Path(client.get_model_version_by_alias("ranking", "champion").source) / "params.pkl").is_file()
    assert len(client.search_model_versions("name='ranking'")) == 3


def test_several_models_are_registered_by_their_names(tmp_path: Path, market: Market) -> None:
    """A challenger is the candidate of the model that it would replace."""
    policy = {"challenger": "ridge", "shadow_days": 50}
    serve(
        tmp_path,
        "init",
        write_workflow(tmp_path / "job.yaml", document(tmp_path, market, models=MODELS, policy=policy)),
    )
    serve(tmp_path, "run")
    ((champion,), (candidate,)) = released(tmp_path, "champion"), released(tmp_path, "candidate")
    assert aliases(tmp_path, "ranking.linear") == {"champion": champion, "candidate": candidate}


def test_a_registry_that_cannot_be_written_is_a_warning(
    tmp_path: Path, market: Market, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The day is published, and the next run writes the aliases, also if only the version had been created."""
    serve(tmp_path, "init", write_workflow(tmp_path / "job.yaml", document(tmp_path, market)))
    written = MLflowTracker.set_model_aliases

    def fails(self: MLflowTracker, model: str, runs: Any, owner: str, ledger: str) -> bool:
        if not caplog.records:
            written(self, model, {}, owner, ledger)
        raise TrackingError("the registry is gone")

    monkeypatch.setattr(MLflowTracker, "set_model_aliases", fails)
    serve(tmp_path, "run")
    assert "the aliases of the registered model ranking could not be written: the registry is gone" in caplog.text
    assert aliases(tmp_path) == {}
    monkeypatch.setattr(MLflowTracker, "set_model_aliases", written)
    serve(tmp_path, "run")
    assert aliases(tmp_path) == dict.fromkeys(["champion"], *released(tmp_path, "champion"))


def test_a_store_without_a_registry_is_refused(tmp_path: Path, market: Market) -> None:
    """Before anything is recorded; so is a name that MLflow refuses."""
    given = document(tmp_path, market)
    given["rollforge"]["tracking"] = f"folder:{tmp_path}/runs"
    result = call("serve", "init", write_workflow(tmp_path / "job.yaml", given))
    assert isinstance(result.exception, ConfigError)
    assert "registry: 'ranking' is a model in MLflow's registry, but the runs are in folder:" in str(result.exception)
    given["registry"] = "a/b"
    result = call("serve", "init", write_workflow(tmp_path / "job.yaml", given))
    assert isinstance(result.exception, ConfigError)
    assert "registry: must be a name without / and :, found 'a/b'" in str(result.exception)


def test_a_registered_model_of_others_is_refused(tmp_path: Path, market: Market) -> None:
    """Before anything is recorded, unless its owner gives it to the service; a challenger has no registered model."""
    open_tracker(f"sqlite:///{tmp_path}/runs.db").prepare()
    client, ledger = client_of(tmp_path), f"sqlite:///{tmp_path}/ledger.db"
    several = {"models": MODELS, "policy": {"challenger": "ridge", "shadow_days": 50}}
    client.create_registered_model("ranking.ridge")
    for name, sections in {"ranking": {}, "ranking.linear": several}.items():
        client.create_registered_model(name)
        workflow = write_workflow(tmp_path / "job.yaml", document(tmp_path, market, **sections))
        result = call("serve", "--ledger", ledger, "init", workflow)
        assert isinstance(result.exception, ConfigError)
        text = f"The registered model '{name}' in sqlite:///{tmp_path}/runs.db was created by others"
        assert text in str(result.exception)
    assert not (tmp_path / "ledger.db").exists()
    client.set_registered_model_tag("ranking.linear", "rollforge.service", "served")
    serve(tmp_path, "init", workflow)
    result = call("serve", "--ledger", ledger, "--service", "second", "init", workflow)
    assert "was created by the service 'served'" in str(result.exception)


def test_a_registered_model_of_others_never_stops_a_day(
    tmp_path: Path, market: Market, caplog: pytest.LogCaptureFixture
) -> None:
    """The aliases of others stay as they are, also if the registered model was created after the service; those of the
    other models are up to date."""
    workflow = write_workflow(tmp_path / "job.yaml", document(tmp_path, market, models=MODELS))
    serve(tmp_path, "init", workflow)
    open_tracker(f"sqlite:///{tmp_path}/runs.db").prepare()
    client_of(tmp_path).create_registered_model("ranking.linear")
    serve(tmp_path, "run")
    assert serve(tmp_path, "status", "--json")["last_published"] == BEGIN
    assert "The registered model 'ranking.linear' in " in caplog.text
    assert aliases(tmp_path, "ranking.linear") == {}
    assert aliases(tmp_path, "ranking.ridge")["champion"] in released(tmp_path, "champion")


@pytest.mark.slow
def test_models_that_leave_the_workflow_lose_their_aliases(tmp_path: Path, market: Market) -> None:
    """On the first day on which they are not used any more; those of a former `registry` lose them at once."""
    workflow = tmp_path / "job.yaml"
    serve(tmp_path, "init", write_workflow(workflow, document(tmp_path, market, models=MODELS)))
    serve(tmp_path, "run")
    before = {model: aliases(tmp_path, f"ranking.{model}") for model in MODELS}
    only = {"linear": {}, "huber": {"model": {"kwargs": {"estimator": "ridge", "alpha": 0.1}}}}
    serve(tmp_path, "init", write_workflow(workflow, document(tmp_path, market, models=only)))
    market.show(DAYS[FIRST + 1])
    serve(tmp_path, "run")
    assert {model: aliases(tmp_path, f"ranking.{model}") for model in MODELS} == before
    market.show(DAYS[FIRST + 4])
    serve(tmp_path, "run")
    assert aliases(tmp_path, "ranking.ridge") == {}
    used = sorted(aliases(tmp_path, f"ranking.{model}")["champion"] for model in only)
    assert used == sorted(released(tmp_path, "champion"))
    serve(tmp_path, "init", write_workflow(workflow, document(tmp_path, market, models=only, registry="other")))
    serve(tmp_path, "run")
    assert [aliases(tmp_path, f"ranking.{model}") for model in only] == [{}, {}]
    assert sorted(aliases(tmp_path, f"other.{model}")["champion"] for model in only) == used


def test_two_models_with_one_registered_name_are_refused(tmp_path: Path, market: Market) -> None:
    """MLflow allows neither / nor : in names, and both become an underscore."""
    models = {"a/b": {}, "a:b": {"model": {"kwargs": {"estimator": "ridge", "alpha": 0.1}}}}
    result = call("serve", "init", write_workflow(tmp_path / "job.yaml", document(tmp_path, market, models=models)))
    assert isinstance(result.exception, ConfigError)
    assert "The models 'a/b' and 'a:b' would both be registered as 'ranking.a_b'. Rename one." in str(result.exception)


def test_aliases_of_a_run_are_set_once(tmp_path: Path) -> None:
    """The second call changes nothing; None removes an alias. Other owners neither change nor find the model."""
    tracker = open_tracker(f"sqlite:///{tmp_path}/runs.db")
    assert isinstance(tracker, MLflowTracker)
    tracker.prepare()
    run = tracker.create_run(tracker.create_experiment("e"), "r", {}).id
    names = {
        "m": "served",
        "n": "o'brien",
        "o": 'the "new" one',
        """p'"q""": """a 'b' "c" %_\\""",
        "r": """a _b_ "c" %_\\""",
    }
    for model, owner in names.items():
        assert tracker.set_model_aliases(model, {"champion": run, "candidate": None}, owner)
        assert not tracker.set_model_aliases(model, {"champion": run, "candidate": None}, owner)
        with pytest.raises(ConfigError, match="was created by the service"):
            tracker.set_model_aliases(model, {"champion": None}, "other")
        assert (tracker.models_of_owner(owner), tracker.models_of_owner("other")) == ([model], [])
        assert tracker.set_model_aliases(model, {"champion": None}, owner)
        assert aliases(tmp_path, model) == {}


def test_services_of_one_name_in_two_ledgers_leave_each_others_aliases(tmp_path: Path, market: Market) -> None:
    """The second one needs another registered model. Those that an earlier version has tagged are marked by the next
    run that uses them, and no other one changes them."""
    client = client_of(tmp_path)
    ledgers = [f"sqlite:///{tmp_path}/{name}.db" for name in ("one", "two")]

    def named(registry: str) -> Path:
        return write_workflow(tmp_path / f"{registry}.yaml", document(tmp_path, market, registry=registry))

    def run(ledger: str) -> None:
        result = call("serve", "--ledger", ledger, "run")
        assert (result.exit_code, "could not be written" in result.stderr) == (0, False), result.exception

    assert call("serve", "--ledger", ledgers[0], "init", named("ranking")).exit_code == 0
    run(ledgers[0])
    refused = call("serve", "--ledger", ledgers[1], "init", named("ranking")).exception
    assert isinstance(refused, ConfigError)
    assert "was created by a service 'served' in another ledger" in str(refused)
    assert not (tmp_path / "two.db").exists()
    assert call("serve", "--ledger", ledgers[0], "init", named("ranking")).exit_code == 0
    assert call("serve", "--ledger", ledgers[1], "init", named("other")).exit_code == 0
    run(ledgers[1])
    before = {model: aliases(tmp_path, model) for model in ("ranking", "other")}
    assert all(before.values())
    marks = {model: client.get_registered_model(model).tags["rollforge.ledger"] for model in before}
    assert marks["ranking"] != marks["other"]
    for model in before:
        client.delete_registered_model_tag(model, "rollforge.ledger")  # as an earlier version leaves it
    for ledger in (*ledgers, ledgers[0]):
        run(ledger)
        assert {model: aliases(tmp_path, model) for model in before} == before
    assert {model: client.get_registered_model(model).tags["rollforge.ledger"] for model in before} == marks
    assert call("serve", "--ledger", ledgers[0], "init", named("another")).exit_code == 0
    run(ledgers[0])
    assert (aliases(tmp_path), aliases(tmp_path, "other")) == ({}, before["other"])


def test_one_of_several_models_may_be_named_like_the_experiment(tmp_path: Path, market: Market) -> None:
    """The name of its registered model is made like those of the others, as `init` has checked."""
    models = {"served": {}, "ridge": MODELS["ridge"]}
    open_tracker(f"sqlite:///{tmp_path}/runs.db").prepare()
    client_of(tmp_path).create_registered_model("ranking")
    serve(tmp_path, "init", write_workflow(tmp_path / "job.yaml", document(tmp_path, market, models=models)))
    serve(tmp_path, "run")
    used = sorted(aliases(tmp_path, f"ranking.{model}")["champion"] for model in models)
    assert used == sorted(released(tmp_path, "champion"))
    assert aliases(tmp_path) == {}
