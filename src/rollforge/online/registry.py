"""Aliases in a registry of models, which name the models that a service uses."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from rollforge.errors import ConfigError
from rollforge.ledger.entry import Release, Role
from rollforge.ledger.state import ServiceState
from rollforge.session import current_session
from rollforge.track.base import open_tracker
from rollforge.track.tracker import ModelAliases

if TYPE_CHECKING:
    from rollforge.online.service import Service

__all__ = ["check_registry", "ledger_mark", "mirror_aliases"]

_ALIASES: tuple[str, ...] = (Role.CHAMPION.value, Role.CANDIDATE.value)


def ledger_mark(state: ServiceState) -> str:
    """Return a mark that tells the ledger of a service from others; empty if the service has no entries.

    It is computed from the time of the first entry, so ledgers of earlier versions have one, and a ledger that is moved keeps
    it.
    """
    if not state.entries:
        return ""
    first = state.entries[0]
    return hashlib.blake2b(f"{first.service}\0{first.made_at!r}".encode(), digest_size=16).hexdigest()


def check_registry(tracking_uri: str, name: str, service: str, models: Sequence[str], ledger: str) -> None:
    """Check that a service can use a registered model for each of its models.

    Parameters
    ----------
    tracking_uri : str
        URI of the tracking store.
    name : str
        The name of the registered model, or its beginning if the service has several models.
    service : str
        Name of the service.
    models : sequence of str
        Names of its models; empty if there is only one.
    ledger : str
        The mark of its ledger, see :func:`ledger_mark`.

    Raises
    ------
    ConfigError
        If the store has no registry, others have created the registered model, or two models would have the same one.
    """
    registry = _registry_of(tracking_uri, name)
    registered = [_registered(name, model) for model in models] or [name]
    for place, one in enumerate(registered):
        if one in registered[:place]:
            twice = " and ".join(repr(model) for model in models if _registered(name, model) == one)
            raise ConfigError(f"The models {twice} would both be registered as {one!r}. Rename one.", path="registry")
        registry.check_model_owner(one, service, ledger)


def _registry_of(tracking_uri: str, name: str) -> ModelAliases:
    tracker = open_tracker(tracking_uri)
    if not isinstance(tracker, ModelAliases):
        raise ConfigError(
            f"{name!r} is a model in MLflow's registry, but the runs are in {tracker.uri}, which has none. Use MLflow "
            "(--tracking sqlite:///PATH or http://HOST:PORT), or remove 'registry'.",
            path="registry",
        )
    return tracker


def mirror_aliases(service: Service, state: ServiceState, day: str, name: str) -> None:
    """Make the aliases point at the models that are used on a day according to the ledger.

    The aliases of registered models that the service no longer uses are removed.

    Raises
    ------
    ConfigError
        If the store has no registry, or others have created a registered model; the other ones are up to date then.
    """
    keys = [key for strategy in service.strategies for key in strategy.template_keys()]
    several = keys if len(keys) > 1 else ()
    wanted = _wanted(state.online(day), name, several, single=len(service.strategies) == 1)
    if not wanted:
        return
    registry, ledger = _registry_of(current_session().tracking_uri, name), ledger_mark(state)
    refused = []
    for model, runs in wanted.items():
        try:
            registry.set_model_aliases(model, runs, service.name, ledger)
        except ConfigError as exc:
            refused.append(str(exc))
    for model in registry.models_of_owner(service.name, ledger):
        if model not in wanted:
            registry.set_model_aliases(model, dict.fromkeys(_ALIASES), service.name, ledger)
    if refused:
        raise ConfigError(" ".join(refused))


def _wanted(
    online: Mapping[Role, tuple[Release, ...]], name: str, several: Collection[str], *, single: bool
) -> dict[str, dict[str, str | None]]:
    """Return the registered models with their aliases, which are those of the models that were released last.

    Parameters
    ----------
    online : mapping
        Role -> the models that are used.
    name : str
        The name of the registered model, or its beginning if the service has several models.
    several : collection of str
        The names of the models of a service that has several.
    single : bool
        Whether the service has only one strategy.
    """
    wanted: dict[str, dict[str, str | None]] = {}
    for alias in _ALIASES:
        for release in online.get(Role(alias), ()):
            model = release.instead_of or release.template
            # A workflow's only model has the name of its strategy, which one of several may have too.
            alone = single and model not in several and model in ("", release.strategy or release.experiment_name)
            runs = wanted.setdefault(name if alone else _registered(name, model), dict.fromkeys(_ALIASES))
            runs[alias] = release.recorder
    return wanted


def _registered(name: str, model: str) -> str:
    return f"{name}.{re.sub('[/:]', '_', model)}"  # MLflow refuses these characters
