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


class Registry:
    """The registry of a tracking store, opened on first use: importing it takes a second.

    Parameters
    ----------
    connection : Connection
        The connection to the tracking store.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def check_owner(self, model: str, owner: str) -> None:
        """Raise an error if a registered model exists that others have created. A new database is not created.

        Raises
        ------
        ConfigError
            If there is.
        """
        database = self._connection.database
        if database is None or not is_new(database):
            self._model(model, owner)

    def owned_by(self, owner: str) -> list[str]:
        """Return the names of the registered models that an owner has created."""
        mark = '"' if "'" in owner else "'"
        names: list[str] = []
        token = None
        while True:
            page = self._call(
                "search_registered_models", f"tags.`{OWNER_TAG}` = {mark}{owner}{mark}", 100, ["name"], token
            )
            names += [str(one.name) for one in page]
            token = page.token
            if not token:
                return names

    def set_aliases(self, model: str, runs: Mapping[str, tuple[str, str] | None], owner: str) -> bool:
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

        Raises
        ------
        ConfigError
            If others have created the registered model.
        """
        found = self._model(model, owner)
        known: dict[str, Any] = {} if found is None else dict(found.aliases)
        if found is None:
            from mlflow.entities.model_registry import RegisteredModelTag

            # The tag is part of the creation, so a process that is killed leaves no model without it.
            tag = RegisteredModelTag(OWNER_TAG, owner)  # type: ignore[no-untyped-call]
            self._call("create_registered_model", model, [tag])
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

    def _model(self, model: str, owner: str) -> Any:
        """Return a registered model; None if there is none."""
        try:
            found = self._call("get_registered_model", model)
        except RecorderNotFound:
            return None
        made_by = dict(found.tags).get(OWNER_TAG)
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
