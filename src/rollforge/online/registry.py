"""Aliases in a registry of models, which name the models that a service uses."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rollforge.errors import ConfigError
from rollforge.ledger.entry import Release, Role
from rollforge.ledger.state import ServiceState
from rollforge.session import current_session
from rollforge.track.base import open_tracker
from rollforge.track.tracker import ModelAliases

if TYPE_CHECKING:
    from rollforge.online.service import Service

__all__ = ["mirror_aliases", "registry_of"]


def registry_of(tracking_uri: str, name: str) -> ModelAliases:
    """Return the tracking store with the registry.

    Raises
    ------
    ConfigError
        If the store has no registry.
    """
    tracker = open_tracker(tracking_uri)
    if not isinstance(tracker, ModelAliases):
        raise ConfigError(
            f"{name!r} is a model in MLflow's registry, but the runs are in {tracker.uri}, which has none. Use MLflow "
            "(--tracking sqlite:///PATH or http://HOST:PORT), or remove 'registry'.",
            path="registry",
        )
    return tracker


def mirror_aliases(service: Service, state: ServiceState, day: str, name: str) -> None:
    """Make the aliases point at the models that are used on a day according to the ledger."""
    slots = [(one.experiment_name, template) for one in service.strategies for template in one.template_keys()]
    online = state.online(day)
    registry = registry_of(current_session().tracking_uri, name)
    for strategy, template in slots:
        runs = {
            role.value: _latest(online.get(role, ()), strategy, template, alone=len(slots) == 1)
            for role in (Role.CHAMPION, Role.CANDIDATE)
        }
        if any(runs.values()):
            own = re.sub("[/:]", "_", template)  # MLflow refuses these characters
            registry.set_model_aliases(name if len(slots) == 1 else f"{name}.{own}", runs)


def _latest(releases: tuple[Release, ...], strategy: str, template: str, *, alone: bool) -> str | None:
    """Return the recorder that was released last for a model of the workflow."""
    own = [r for r in releases if alone or (r.strategy in ("", strategy) and (r.instead_of or r.template) == template)]
    return own[-1].recorder if own else None
