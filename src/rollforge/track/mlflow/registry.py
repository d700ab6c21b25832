"""MLflow's model registry: versions of registered models, and their aliases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rollforge.errors import RecorderNotFound
from rollforge.track.mlflow.connection import Connection

__all__ = ["Registry"]


class Registry:
    """The registry of a tracking store, opened on first use: importing it takes a second.

    Parameters
    ----------
    connection : Connection
        The connection to the tracking store.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def set_aliases(self, model: str, runs: Mapping[str, tuple[str, str] | None]) -> bool:
        """Make aliases of a registered model point at versions of runs, and return whether anything has changed.

        The model, and a version for a run that has none, are created. If the process is killed in between, the next call
        uses the version that exists.

        Parameters
        ----------
        model : str
            Name of the registered model.
        runs : mapping
            Alias -> id of the run and URI of its artifacts; None removes the alias.
        """
        try:
            known: dict[str, Any] = dict(self._call("get_registered_model", model).aliases)
        except RecorderNotFound:
            self._call("create_registered_model", model)
            known = {}
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

    def _version(self, model: str, run_id: str, artifacts: str) -> str:
        found = self._call("search_model_versions", f"run_id='{run_id}'", 1000)
        versions = [str(one.version) for one in found if one.name == model]
        return versions[0] if versions else str(self._call("create_model_version", model, artifacts, run_id).version)

    def _call(self, name: str, *arguments: object) -> Any:
        return self._connection.call(name, *arguments, registry=True)
