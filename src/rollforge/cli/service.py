"""The service that a workflow file describes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollforge.errors import ConfigError, RollforgeError

if TYPE_CHECKING:
    from rollforge.ledger.entry import ServiceDefinition
    from rollforge.online.service import Service
    from rollforge.workflow import Workflow

__all__ = ["definition_of", "read_workflow", "service_of"]


def definition_of(workflow: Workflow, begin: str, folder: Path) -> dict[str, Any]:
    """Return what the ledger records of a service: its workflow, its first day, its folder and that of its data."""
    data = workflow.session.provider_uri
    recorded = {"path": str(workflow.path.absolute()), "text": workflow.text, "begin": begin, "folder": str(folder)}
    return {**recorded, "data": os.path.abspath(Path(data).expanduser())} if data is not None else recorded


def read_workflow(definition: ServiceDefinition | None) -> tuple[Workflow, str]:
    """Return the workflow that the ledger has recorded for a service, and the first day to publish.

    Raises
    ------
    ConfigError
        If the service was not made by ``serve init``, or the file has changed since.
    """
    from rollforge.workflow import load_workflow

    recorded = definition.workflow if definition is not None else None
    if not isinstance(recorded, dict) or not {"path", "text", "begin"} <= recorded.keys():
        raise ConfigError(
            "The service was not made from a workflow file. Record one by 'rollforge serve init WORKFLOW.yaml'."
        )
    path = Path(str(recorded["path"]))
    try:
        workflow = load_workflow(path)
    except RollforgeError as exc:
        raise ConfigError(f"The workflow of the service cannot be read: {exc}") from exc
    if workflow.text != recorded["text"]:
        raise ConfigError(
            f"{path} has changed since it was recorded. If that is intended, run 'rollforge serve init {path}' again."
        )
    return workflow, str(recorded["begin"])


def service_of(name: str, workflow: Workflow, begin: str, ledger_uri: str, folder: Path) -> Service:
    """Return the service, to be used in the session of the workflow."""
    from rollforge.online.policy import read_policy
    from rollforge.online.service import Service
    from rollforge.online.strategy import RollingStrategy
    from rollforge.plan import rolling_templates
    from rollforge.run.trainer import TrainerR

    templates, windows = rolling_templates(workflow)
    strategy = RollingStrategy(workflow.experiment_name, templates, windows)
    return Service(
        name, [strategy], TrainerR(workflow.experiment_name), begin, ledger_uri=ledger_uri, folder=folder,
        workflow=definition_of(workflow, begin, folder), policy=read_policy(workflow.policy),
    )  # fmt: skip
