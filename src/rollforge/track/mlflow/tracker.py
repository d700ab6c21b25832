"""Experiments and runs in MLflow."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rollforge.confidential import mask_secrets
from rollforge.errors import RecorderNotFound, TrackingError, TrackingUnavailable, shown
from rollforge.track.artifact_files import Files, LocalFiles, probe_folder
from rollforge.track.filters import matches, sort_runs
from rollforge.track.mlflow.connection import AlreadyExists, Connection
from rollforge.track.mlflow.files import RemoteFiles, local_folder
from rollforge.track.mlflow.names import (
    CUT,
    LONG_VALUES,
    MAX_PARAM,
    MAX_TAG,
    name_when_deleted,
    number,
    plain_key,
    safe_key,
    shortened,
)
from rollforge.track.mlflow.query import filter_text, order_text
from rollforge.track.mlflow.registry import Registry
from rollforge.track.mlflow.values import Metric as MetricValue, Param, RunStatus, Tag
from rollforge.track.tracker import Metric, RunData, RunInfo, RunQuery

__all__ = ["MLflowTracker"]

_PARAMS_PER_BATCH = 100  # the limit for tags is the same
_METRICS_PER_BATCH = 800  # the limit is 1000 including params and tags
log = logging.getLogger(__name__)

_PAGE = 1000
_REMOTE_KEPT = 64
_ATTEMPTS = 10
_ACTIVE_ONLY = 1
"""MLflow's ``ViewType.ACTIVE_ONLY``: what is not deleted."""
_CHECKED = "rollforge.checked"
"""Experiment tag: the last host that has checked that it can record runs there."""


class MLflowTracker:
    """Experiments and runs in one of MLflow's stores.

    Parameters
    ----------
    uri : str
        ``sqlite:///PATH``: a database, with the artifacts in the folder ``mlartifacts`` next to it.
        ``http(s)://HOST:PORT``: a tracking server. ``file:PATH``: an ``mlruns`` folder as written by Qlib. Current
        MLflow versions refuse such a folder unless ``MLFLOW_ALLOW_FILE_STORE=true`` is in the environment; opening it
        here sets that variable for this process.

    Raises
    ------
    TrackingUnavailable
        If the store cannot be opened.
    MissingDependency
        If mlflow is not installed.
    """

    def __init__(self, uri: str) -> None:
        self._connection = Connection(uri)
        self.uri = self._connection.uri
        self._artifact_uris: dict[str, str] = {}
        # A file fetched from a server is deleted with its RemoteFiles, so the latest of these are kept alive.
        self._remote: dict[str, RemoteFiles] = {}
        self._registry = Registry(self._connection)

    def warm_up(self) -> None:
        self._connection.warm_up()

    def prepare(self) -> None:
        if self._connection.folder is not None:  # only here: reading must not create a folder that does not exist
            try:
                self._connection.folder.mkdir(parents=True, exist_ok=True)
            except OSError as exc:
                raise self._connection.unavailable(exc.strerror or str(exc)) from exc
        self._connection.open()

    def check_writable(self, experiment_name: str) -> None:
        self.prepare()
        found = self.find_experiment(name=experiment_name)
        experiment_id = self.create_experiment(experiment_name) if found is None else found[0]
        self._connection.call("set_experiment_tag", experiment_id, Tag(_CHECKED, socket.gethostname()))
        place = local_folder(str(self._connection.call("get_experiment", experiment_id).artifact_location))
        if place is None:
            return
        if self._connection.folder is None and self._connection.database is None and not place.parent.is_dir():
            raise self._connection.unavailable(
                f"its server expects clients to write artifacts to {place}, which this machine does not have. "
                "Start the server with --serve-artifacts"
            )
        try:
            place.mkdir(parents=True, exist_ok=True)
            probe_folder(place)
        except OSError as exc:
            raise self._connection.unavailable(f"nothing can be written to {place} ({exc.strerror or exc})") from exc

    # -- experiments ---------------------------------------------------------------------------------------------------

    def find_experiment(self, *, name: str | None = None, experiment_id: str | None = None) -> tuple[str, str] | None:
        if experiment_id is None:
            found = self._connection.call("get_experiment_by_name", name)
        else:
            if not experiment_id.isalnum():
                return None
            try:
                found = self._connection.call("get_experiment", experiment_id)
            except RecorderNotFound:
                return None
        if found is None or found.lifecycle_stage != "active":
            return None
        return str(found.experiment_id), str(found.name)

    def create_experiment(self, name: str) -> str:
        for _ in range(_ATTEMPTS):
            try:
                return str(self._connection.call("create_experiment", name))
            except TrackingUnavailable:
                raise
            except TrackingError as exc:
                found = self._connection.call("get_experiment_by_name", name)
                if found is None and not isinstance(exc, AlreadyExists):
                    raise
            if found is None:
                continue  # another process has just freed the name
            if found.lifecycle_stage == "active":
                return str(found.experiment_id)  # another process has just created it
            self._free_name(str(found.experiment_id))
        raise TrackingError(f"The experiment {name!r} is created and deleted by other processes again and again.")

    def _free_name(self, experiment_id: str) -> None:
        """Rename an experiment that was deleted in MLflow's user interface, where it keeps its name."""
        if self._connection.rows is not None:
            self._connection.call("rename_deleted", experiment_id)
            return
        try:
            self._connection.call("restore_experiment", experiment_id)
            self.delete_experiment(experiment_id)
        except TrackingUnavailable:
            raise
        except TrackingError as exc:  # another process may do the same
            log.info("the deleted experiment %s was not renamed: %s", experiment_id, exc)

    def experiments(self) -> dict[str, str]:
        found: dict[str, str] = {}
        token = None
        while True:
            page = self._connection.call("search_experiments", _ACTIVE_ONLY, max_results=_PAGE, page_token=token)
            found.update({e.name: str(e.experiment_id) for e in page})
            token = page.token
            if not token:
                return found

    def delete_experiment(self, experiment_id: str) -> None:
        name = self._connection.call("get_experiment", experiment_id).name
        self._connection.call("rename_experiment", experiment_id, name_when_deleted(name, experiment_id))
        self._connection.call("delete_experiment", experiment_id)

    # -- runs ----------------------------------------------------------------------------------------------------------

    def create_run(
        self, experiment_id: str, name: str, tags: Mapping[str, str], start_time: float | None = None
    ) -> RunInfo:
        long = {k: v for k, v in tags.items() if len(v) > MAX_TAG}
        run = self._connection.call(
            "create_run",
            experiment_id=experiment_id,
            user_id=tags.get("mlflow.user", "unknown"),
            start_time=int((time.time() if start_time is None else start_time) * 1000),
            tags=[Tag(safe_key(k), v) for k, v in tags.items() if k not in long],
            run_name=name,
        )
        self._artifact_uris[run.info.run_id] = run.info.artifact_uri
        if long:
            self.write(run.info.run_id, {}, [], long)
        return _info(run.info)

    def update_run(self, run_id: str, status: str, end_time: float | None) -> None:
        ended = None if end_time is None else int(end_time * 1000)
        self._connection.call("update_run_info", run_id, RunStatus(status), ended, None)

    def rename_run(self, run_id: str, name: str) -> None:
        info = self._connection.call("get_run", run_id).info  # update_run_info writes status and end time too
        self._connection.call("update_run_info", run_id, RunStatus(info.status), info.end_time, name)

    def delete_run(self, run_id: str) -> None:
        self._connection.call("delete_run", run_id)

    def write(
        self,
        run_id: str,
        params: Mapping[str, str],
        metrics: Sequence[Metric],
        tags: Mapping[str, str],
        gone_tags: Sequence[str] = (),
    ) -> None:
        for tag in gone_tags:
            # The tag does not exist. If the run does not exist, the batch below raises the error.
            with contextlib.suppress(RecorderNotFound):
                self._connection.call("delete_tag", run_id, safe_key(tag))
        listed_params = [Param(safe_key(k), self._short(run_id, v, MAX_PARAM)) for k, v in params.items()]
        listed_metrics = [MetricValue(safe_key(m.name), m.value, round(m.time * 1000), m.step) for m in metrics]
        listed_tags = [Tag(safe_key(k), self._short(run_id, v, MAX_TAG)) for k, v in tags.items()]
        if len(listed_tags) == 1 and not listed_params and not listed_metrics:
            self._connection.call("set_tag", run_id, listed_tags[0])  # takes half the time of a batch
            return
        first = True
        while listed_params or listed_metrics or listed_tags or first:
            self._connection.call(
                "log_batch",
                run_id,
                metrics=listed_metrics[:_METRICS_PER_BATCH],
                params=listed_params[:_PARAMS_PER_BATCH],
                tags=listed_tags[:_PARAMS_PER_BATCH],
            )
            listed_params = listed_params[_PARAMS_PER_BATCH:]
            listed_metrics = listed_metrics[_METRICS_PER_BATCH:]
            listed_tags = listed_tags[_PARAMS_PER_BATCH:]
            first = False

    def _short(self, run_id: str, value: str, limit: int) -> str:
        """Return a value that MLflow can store; save a longer one under its hash, so that writers cannot conflict."""
        if len(value) <= limit and CUT.search(value) is None:
            return value
        short, digest = shortened(value, limit)
        with self.files(run_id).draft(f"{LONG_VALUES}/{digest}.txt") as draft:
            draft.write_text(value, encoding="utf-8", errors="surrogatepass", newline="")
        return short

    def _whole(self, run_id: str, value: str) -> str:
        match = CUT.search(value)
        file = self.files(run_id).get(f"{LONG_VALUES}/{match[1]}.txt") if match is not None else None
        if file is None:
            return value  # short, or its artifact has been deleted and only the beginning is left
        return file.read_bytes().decode("utf-8", "surrogatepass")

    def read(self, run_id: str) -> RunData:
        return self._data(self._connection.call("get_run", run_id))

    def _data(self, run: Any) -> RunData:
        run_id = str(run.info.run_id)
        if run.info.lifecycle_stage != "active":
            raise RecorderNotFound(f"The recorder {run_id!r} was deleted (in {mask_secrets(self.uri)}).")
        self._artifact_uris[run_id] = run.info.artifact_uri
        try:  # a damaged or foreign database may contain values of any type in any column
            return RunData(
                _info(run.info),
                {plain_key(k): self._whole(run_id, v) for k, v in run.data.params.items()},
                {plain_key(k): number(v) for k, v in run.data.metrics.items()},
                {plain_key(k): self._whole(run_id, v) for k, v in run.data.tags.items()},
            )
        except (TypeError, ValueError, AttributeError, OverflowError) as exc:
            raise self._damaged_run(run_id, exc) from exc

    def _damaged_run(self, run_id: str, reason: object) -> TrackingError:
        return TrackingError(f"The run {run_id!r} in {mask_secrets(self.uri)} is damaged: {reason}.")

    def history(self, run_id: str, name: str) -> list[Metric]:
        found: list[Any] = []
        token = None
        while True:
            page = self._connection.call(
                "get_metric_history", run_id, safe_key(name), max_results=25_000, page_token=token
            )
            found.extend(page)
            token = getattr(page, "token", None)
            if not token:
                break
        try:
            values = [Metric(name, number(m.value), int(m.step), m.timestamp / 1000) for m in found]
        except (TypeError, ValueError, OverflowError) as exc:
            raise self._damaged_run(run_id, exc) from exc
        return sorted(values, key=lambda m: (m.step, m.time))

    def search(self, experiment_ids: Sequence[str], query: RunQuery) -> list[RunData]:
        if self._connection.rows is not None and not (query.filter_string or query.order_by or query.limit is not None):
            found = map(self._data, self._connection.call("runs", experiment_ids, query))
            return sort_runs([data for data in found if matches(data, query)], ())
        asked = filter_text(query)
        order = [order_text(text) for text in query.order_by]
        runs: list[RunData] = []
        token = None
        while query.limit is None or len(runs) < query.limit:
            page = self._connection.call(
                "search_runs",
                list(experiment_ids),
                asked,
                _ACTIVE_ONLY,
                max_results=_PAGE if query.limit is None else max(1, min(_PAGE, query.limit - len(runs))),
                order_by=order,
                page_token=token,
            )
            # Conditions that MLflow's language cannot express (several statuses, long values, quotes) are checked here.
            runs.extend(d for d in map(self._data, page) if matches(d, query))
            token = page.token
            if not token:
                break
        return runs[: query.limit]

    # -- model registry ------------------------------------------------------------------------------------------------

    def check_model_owner(self, model: str, owner: str, ledger: str | None = None) -> None:
        self._registry.check_owner(model, owner, ledger)

    def models_of_owner(self, owner: str, ledger: str | None = None) -> list[str]:
        return self._registry.owned_by(owner, ledger)

    def set_model_aliases(
        self, model: str, runs: Mapping[str, str | None], owner: str, ledger: str | None = None
    ) -> bool:
        versions = {alias: None if run is None else (run, self.files(run).uri) for alias, run in runs.items()}
        return self._registry.set_aliases(model, versions, owner, ledger)

    # -- artifacts -----------------------------------------------------------------------------------------------------

    def files(self, run_id: str) -> Files:
        if run_id not in self._artifact_uris:
            self.read(run_id)
        uri = self._artifact_uris[run_id]
        if not isinstance(uri, str) or not uri.isprintable():
            raise self._damaged_run(run_id, f"its artifacts are in {shown(uri)}, which is not a valid address")
        place = local_folder(uri)
        if place is not None:
            return LocalFiles(place, uri=uri)
        if run_id not in self._remote:
            self._remote[run_id] = RemoteFiles(uri, self.uri)
            while len(self._remote) > _REMOTE_KEPT:
                self._remote.pop(next(iter(self._remote)), None)
        return self._remote[run_id]


def _info(info: Any) -> RunInfo:
    start, end = (None if t is None else float(t) / 1000 for t in (info.start_time, info.end_time))
    name, experiment_id = info.run_name or "", str(info.experiment_id)
    return RunInfo(str(info.run_id), str(name), experiment_id, str(info.status), start or 0.0, end)
