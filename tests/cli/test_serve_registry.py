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


def aliases(tmp_path: Path, model: str = "ranking") -> dict[str, str]:
    """Return alias -> id of the run, as a program that uses MLflow reads it."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/runs.db", f"sqlite:///{tmp_path}/runs.db")
    found = client.get_registered_model(model).aliases
    return {alias: client.get_model_version_by_alias(model, alias).run_id for alias in found}


def released(tmp_path: Path, role: str) -> list[str]:
    return [r["recorder"] for r in serve(tmp_path, "status", "--json")[f"{role}s"]]


def test_the_aliases_are_the_models_of_the_ledger(tmp_path: Path, market: Market) -> None:
    """Through the days of a candidate, its promotion, and a rollback; the version leads to the files of the run."""
    from mlflow import MlflowClient

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
    client = MlflowClient(f"sqlite:///{tmp_path}/runs.db", f"sqlite:///{tmp_path}/runs.db")
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


@pytest.mark.parametrize("error", [TrackingError, ConfigError])
def test_a_registry_that_cannot_be_written_is_a_warning(
    tmp_path: Path,
    market: Market,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: type[Exception],
) -> None:
    """The day is published, and the next run writes the aliases, also if only the version had been created."""
    serve(tmp_path, "init", write_workflow(tmp_path / "job.yaml", document(tmp_path, market)))
    written = MLflowTracker.set_model_aliases

    def fails(self: MLflowTracker, model: str, runs: Any) -> bool:
        if not caplog.records:
            self._registry._call("create_registered_model", model)
        raise error("the registry is gone")

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


def test_aliases_of_a_run_are_set_once(tmp_path: Path) -> None:
    """The second call changes nothing; None removes an alias."""
    tracker = open_tracker(f"sqlite:///{tmp_path}/runs.db")
    assert isinstance(tracker, MLflowTracker)
    tracker.prepare()
    run = tracker.create_run(tracker.create_experiment("e"), "r", {}).id
    assert tracker.set_model_aliases("m", {"champion": run, "candidate": None})
    assert not tracker.set_model_aliases("m", {"champion": run, "candidate": None})
    assert tracker.set_model_aliases("m", {"champion": None})
    assert aliases(tmp_path, "m") == {}
