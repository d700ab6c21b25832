"""MLflow's model registry: versions of registered models, and their aliases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rollforge.confidential import mask_secrets
from rollforge.errors import ConfigError, RecorderNotFound
from rollforge.track.mlflow.connection import Connection
from rollforge.track.mlflow.database import is_new

__all__ = ["Registry"]

OWNER_TAG = "rollforge.service"
"""Tag of a registered model: the name of the service that has created it."""
LEDGER_TAG = "rollforge.ledger"
"""Tag of a registered model: the ledger of the service, because another ledger may have a service of the same name. Earlier
versions did not set it."""


class Registry:
    """The registry of a tracking store, opened on first use: importing it takes a second.

    Parameters
    ----------
    connection : Connection
        The connection to the tracking store.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def check_owner(self, model: str, owner: str, ledger: str | None = None) -> None:
        """Raise an error if a registered model exists that others have created. A new database is not created.

        Raises
        ------
        ConfigError
            If there is.
        """
        database = self._connection.database
        if database is None or not is_new(database):
            self._model(model, owner, ledger)

    def owned_by(self, owner: str, ledger: str | None = None) -> list[str]:
        """Return the names of the registered models that an owner has created, in order; with a ledger, those with its mark."""
        marks = {OWNER_TAG: owner, **({LEDGER_TAG: ledger} if ledger is not None else {})}
        names: list[str] = []
        token = None
        while True:
            page = self._call("search_registered_models", _condition(owner), 100, ["name"], token)
            names += [str(one.name) for one in page if marks.items() <= dict(one.tags).items()]
            token = page.token
            if not token:
                return names

    def set_aliases(
        self, model: str, runs: Mapping[str, tuple[str, str] | None], owner: str, ledger: str | None = None
    ) -> bool:
        """Make aliases of a registered model point at versions of runs, and return whether anything has changed.

        The model, and a version for a run that has none, are created. If the process is killed in between, the next call
        uses the version that exists.

        Parameters
        ----------
        model : str
            Name of the registered model.
        runs : mapping
            Alias -> id of the run and URI of its artifacts; None removes the alias.
        owner : str
            The service whose models these are.
        ledger : str, optional
            The mark of its ledger, which a registered model without one is given.

        Raises
        ------
        ConfigError
            If others have created the registered model.
        """
        from mlflow.entities.model_registry import RegisteredModelTag

        found = self._model(model, owner, ledger)
        known: dict[str, Any] = {} if found is None else dict(found.aliases)
        marks = {OWNER_TAG: owner, **({LEDGER_TAG: ledger} if ledger is not None else {})}
        tags = [RegisteredModelTag(*mark) for mark in marks.items()]  # type: ignore[no-untyped-call]
        if found is None:
            # The tags are part of the creation, so a process that is killed leaves no model without them.
            self._call("create_registered_model", model, tags)
        elif ledger is not None and LEDGER_TAG not in dict(found.tags):
            self._call("set_registered_model_tag", model, tags[-1])
        changed = False
        for alias, run in runs.items():
            if run is None:
                if alias in known:
                    self._call("delete_registered_model_alias", model, alias)
                    changed = True
                continue
            version = self._version(model, *run)
            if str(known.get(alias)) != version:
                self._call("set_registered_model_alias", model, alias, version)
                changed = True
        return changed

    def _model(self, model: str, owner: str, ledger: str | None) -> Any:
        """Return a registered model; None if there is none."""
        try:
            found = self._call("get_registered_model", model)
        except RecorderNotFound:
            return None
        tags = dict(found.tags)
        made_by, its_ledger = tags.get(OWNER_TAG), tags.get(LEDGER_TAG)
        if made_by == owner and ledger is not None and its_ledger not in (None, ledger):
            raise ConfigError(
                f"The registered model {model!r} in {mask_secrets(self._connection.uri)} was created by a service "
                f"{owner!r} in another ledger, so this one does not change its aliases. Choose another name; or, if nothing "
                f"else uses it, delete its tag {LEDGER_TAG}.",
                path="registry",
            )
        if made_by != owner:
            others = "by others" if made_by is None else f"by the service {made_by!r}"
            raise ConfigError(
                f"The registered model {model!r} in {mask_secrets(self._connection.uri)} was created {others}, so the "
                f"service {owner!r} does not change its aliases. Choose another name; or, if nothing else uses it, set its "
                f"tag {OWNER_TAG} to {owner!r}.",
                path="registry",
            )
        return found

    def _version(self, model: str, run_id: str, artifacts: str) -> str:
        found = self._call("search_model_versions", f"run_id='{run_id}'", 1000)
        versions = [str(one.version) for one in found if one.name == model]
        return versions[0] if versions else str(self._call("create_model_version", model, artifacts, run_id).version)

    def _call(self, name: str, *arguments: object) -> Any:
        return self._connection.call(name, *arguments, registry=True)


def _condition(owner: str) -> str:
    """Return MLflow's filter for the registered models of an owner, or of more if its name has both kinds of quotes.

    MLflow cannot escape a quote, but a pattern can stand for it.
    """
    if "'" not in owner:
        return f"tags.`{OWNER_TAG}` = '{owner}'"
    if '"' not in owner:
        return f'tags.`{OWNER_TAG}` = "{owner}"'
    pattern = owner.replace("'", "_")
    return f"tags.`{OWNER_TAG}` LIKE '{pattern}'"
