"""Tracking by MLflow: its SQLite store by default, so that ``mlflow ui`` shows the runs, or a tracking server.

The only file that imports mlflow. It uses MLflow's tracking store directly, not its "fluent" functions: those keep a
global run, start threads, and call git three times a run.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import logging
import os
import shutil
import sqlite3
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from rollforge.errors import MissingDependency, RecorderNotFound, TrackingError, TrackingUnavailable
from rollforge.session import mask_secrets
from rollforge.track import artifact
from rollforge.track.base import Metric, RunData, RunInfo

__all__ = ["MLflowTracker"]

log = logging.getLogger(__name__)

_MAX_PARAM = 6000  # characters that MLflow's database keeps of a parameter
_LONG = "params.long"
_PER_BATCH = {"params": 100, "tags": 100, "metrics": 800}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """MLflow and Alembic announce migrations and deprecations on the terminal; they are not the user's business."""
    names = ("mlflow", "alembic", "alembic.runtime.migration")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def _import_store() -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    try:
        with _quiet():
            from mlflow.tracking._tracking_service import utils
    except ImportError as exc:
        raise MissingDependency(
            f"Tracking by MLflow needs {exc.name}. Install it: pip install 'rollforge[mlflow]'; "
            "or keep plain files: --tracking folder:PATH."
        ) from exc
    return utils


class MLflowTracker:
    """Experiments and runs in one of MLflow's stores.

    Parameters
    ----------
    uri : str
        ``sqlite:///PATH``; ``http(s)://HOST:PORT``; ``file:PATH`` reads a folder written by Qlib.

    Raises
    ------
    TrackingUnavailable
        When the store cannot be opened.
    MissingDependency
        When mlflow is not installed.
    """

    def __init__(self, uri: str) -> None:
        self._database: Path | None = None
        if uri.startswith("sqlite:"):
            self._database = Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0])).expanduser().absolute()
            uri = f"sqlite:///{self._database}"
        self.uri = uri
        self._opened: Any = None
        self._artifact_folders: dict[str, str] = {}

    # -- opening -------------------------------------------------------------------------------------------------------

    @property
    def _store(self) -> Any:
        if self._opened is None:
            self.prepare()
        return self._opened

    def prepare(self) -> None:
        if self._opened is not None:
            return
        if self._database is None:
            self._opened = self._open()
            return
        try:
            self._database.parent.mkdir(parents=True, exist_ok=True)
            # Processes that open a fresh database at once crash in its migrations: one after the other.
            with (self._database.parent / f".{self._database.name}.lock").open("w") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX)
                fresh = not self._database.exists()
                if fresh:
                    self._create_database()
                self._opened = self._open()
        except OSError as exc:
            raise self._unavailable(exc.strerror or str(exc)) from exc
        except sqlite3.Error as exc:
            raise self._unavailable(str(exc)) from exc

    def _create_database(self) -> None:
        """An empty database in write-ahead mode, which doubles what four writers get done."""
        with contextlib.closing(sqlite3.connect(str(self._database))) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA user_version = 0")

    def _open(self) -> Any:
        utils = _import_store()
        artifacts = None if self._database is None else str(self._database.parent / "mlartifacts")
        if self.uri.startswith("file:"):
            # MLflow has retired its file store and asks for this word; Qlib's runs are in it.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        try:
            with _quiet():
                store = utils._get_store(self.uri, artifacts)
        except Exception as exc:
            raise self._unavailable(str(exc).strip().splitlines()[0]) from exc
        return store

    def _unavailable(self, why: str) -> TrackingUnavailable:
        return TrackingUnavailable(
            f"The tracking store {mask_secrets(self.uri)} cannot be opened: {why}. Name another by --tracking."
        )

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call MLflow's store; its errors become ours."""
        from mlflow.exceptions import MlflowException

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return getattr(self._store, name)(*args, **kwargs)
        except MlflowException as exc:
            message = str(exc).strip().splitlines()[0]
            if exc.error_code == "RESOURCE_DOES_NOT_EXIST":
                raise RecorderNotFound(f"{message} (in {mask_secrets(self.uri)})") from exc
            raise TrackingError(f"MLflow: {message}") from exc

    # -- experiments ---------------------------------------------------------------------------------------------------

    def find_experiment(self, *, name: str | None = None, experiment_id: str | None = None) -> tuple[str, str] | None:
        if experiment_id is not None:
            try:
                found = self._call("get_experiment", experiment_id)
            except (RecorderNotFound, TrackingError):
                return None
        else:
            found = self._call("get_experiment_by_name", name)
        if found is None or found.lifecycle_stage != "active":
            return None
        return str(found.experiment_id), str(found.name)

    def create_experiment(self, name: str) -> str:
        try:
            return str(self._call("create_experiment", name))
        except TrackingError:
            found = self.find_experiment(name=name)  # another process was faster
            if found is None:
                raise
            return found[0]

    def experiments(self) -> dict[str, str]:
        from mlflow.entities import ViewType

        found: dict[str, str] = {}
        token = None
        while True:
            page = self._call("search_experiments", ViewType.ACTIVE_ONLY, page_token=token)
            found.update({e.name: str(e.experiment_id) for e in page})
            token = page.token
            if not token:
                return found

    def delete_experiment(self, experiment_id: str) -> None:
        self._call("delete_experiment", experiment_id)

    # -- runs ----------------------------------------------------------------------------------------------------------

    def create_run(self, experiment_id: str, name: str | None, tags: Mapping[str, str]) -> RunInfo:
        from mlflow.entities import RunTag

        user = _user()
        listed = {"mlflow.user": user, "mlflow.source.name": "rollforge", "mlflow.source.type": "LOCAL", **tags}
        name = name or f"run-{uuid.uuid4().hex[:8]}"
        run = self._call(
            "create_run",
            experiment_id=experiment_id,
            user_id=user,
            start_time=int(time.time() * 1000),
            tags=[RunTag(k, v) for k, v in listed.items()],
            run_name=name,
        )
        self._artifact_folders[run.info.run_id] = run.info.artifact_uri
        return _info(run.info)

    def update_run(self, run_id: str, status: str, end_time: float | None) -> None:
        from mlflow.entities import RunStatus

        ended = None if end_time is None else int(end_time * 1000)
        self._call("update_run_info", run_id, RunStatus.from_string(status), ended, None)

    def delete_run(self, run_id: str) -> None:
        self._call("delete_run", run_id)

    def write(
        self,
        run_id: str,
        params: Mapping[str, str],
        metrics: Sequence[Metric],
        tags: Mapping[str, str],
        gone_tags: Sequence[str] = (),
    ) -> None:
        from mlflow import entities

        listed_params = [entities.Param(_key(k), v if len(v) <= _MAX_PARAM else _short(v)) for k, v in params.items()]
        listed_metrics = [entities.Metric(_key(m.name), m.value, int(m.time * 1000), m.step) for m in metrics]
        listed_tags = [entities.RunTag(_key(k), v) for k, v in tags.items()]
        while listed_params or listed_metrics or listed_tags:
            batch = {
                "params": listed_params[: _PER_BATCH["params"]],
                "metrics": listed_metrics[: _PER_BATCH["metrics"]],
                "tags": listed_tags[: _PER_BATCH["tags"]],
            }
            self._call("log_batch", run_id, **batch)
            listed_params = listed_params[_PER_BATCH["params"] :]
            listed_metrics = listed_metrics[_PER_BATCH["metrics"] :]
            listed_tags = listed_tags[_PER_BATCH["tags"] :]
        long = {k: v for k, v in params.items() if len(v) > _MAX_PARAM}
        if long:
            self.save_object(run_id, "", _LONG, {**self._long_params(run_id), **long})
        for tag in gone_tags:
            with contextlib.suppress(RecorderNotFound):  # it was not there
                self._call("delete_tag", run_id, tag)

    def _long_params(self, run_id: str) -> dict[str, str]:
        file = self.get_file(run_id, f"{_LONG}.plain.json")
        return dict(artifact.load_file(file)) if file is not None else {}

    def read(self, run_id: str) -> RunData:
        data = self._data(self._call("get_run", run_id))
        if any(v.endswith(_CUT) for v in data.params.values()):
            data.params.update(self._long_params(run_id))
        return data

    def _data(self, run: Any) -> RunData:
        self._artifact_folders[run.info.run_id] = run.info.artifact_uri
        return RunData(_info(run.info), dict(run.data.params), dict(run.data.metrics), dict(run.data.tags))

    def history(self, run_id: str, name: str) -> list[Metric]:
        found = self._call("get_metric_history", run_id, _key(name))
        values = [Metric(m.key, m.value, m.step, m.timestamp / 1000) for m in found]
        return sorted(values, key=lambda m: (m.step, m.time))

    def runs(
        self, experiment_id: str, *, status: str | None = None, name: str | None = None, limit: int | None = None
    ) -> list[RunData]:
        from mlflow.entities import ViewType

        conditions = []
        if status is not None:
            conditions.append(f"attributes.status = '{status}'")
        if name is not None:
            conditions.append("attributes.run_name = '{}'".format(name.replace("'", "''")))
        found: list[RunData] = []
        token = None
        while limit is None or len(found) < limit:
            page = self._call(
                "search_runs",
                [experiment_id],
                " and ".join(conditions),
                ViewType.ACTIVE_ONLY,
                max_results=min(1000, limit - len(found)) if limit is not None else 1000,
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            found.extend(self._data(run) for run in page)
            token = page.token
            if not token:
                break
        return found

    # -- artifacts -----------------------------------------------------------------------------------------------------

    def artifact_uri(self, run_id: str) -> str:
        if run_id not in self._artifact_folders:
            self._artifact_folders[run_id] = self._call("get_run", run_id).info.artifact_uri
        return self._artifact_folders[run_id]

    def _local(self, run_id: str) -> Path | None:
        """The artifacts' folder where it is on this machine's file system."""
        uri = self.artifact_uri(run_id)
        if uri.startswith("file://"):
            return Path(unquote(uri.removeprefix("file://")))
        return None if ":" in uri.partition("/")[0] else Path(uri)

    def _repository(self, run_id: str) -> Any:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return get_artifact_repository(self.artifact_uri(run_id), tracking_uri=self.uri)

    def put_file(self, run_id: str, file: Path, folder: str) -> None:
        local = self._local(run_id)
        if local is None:
            self._repository(run_id).log_artifact(str(file), folder or None)
            return
        target = local / folder
        target.mkdir(parents=True, exist_ok=True)
        draft = target / f".{uuid.uuid4().hex}"
        shutil.copy2(file, draft)
        draft.replace(target / file.name)

    def save_object(self, run_id: str, folder: str, name: str, value: Any) -> None:
        local = self._local(run_id)
        try:
            if local is not None:
                artifact.save_file(local / folder, name, value)
                return
            with tempfile.TemporaryDirectory(prefix="rollforge-") as draft:
                file = artifact.save_file(Path(draft), name, value)
                self._repository(run_id).log_artifact(str(file), folder or None)
        except OSError as exc:
            raise TrackingUnavailable(f"The artifact {name!r} cannot be written: {exc.strerror or exc}.") from exc

    def files(self, run_id: str, folder: str) -> list[str]:
        local = self._local(run_id)
        if local is None:
            listed = self._repository(run_id).list_artifacts(folder or None)
            return sorted(Path(f.path).name + ("/" if f.is_dir else "") for f in listed)
        root = local / folder
        if not root.is_dir():
            return []
        return sorted(e.name + ("/" if e.is_dir() else "") for e in os.scandir(root) if not e.name.startswith("."))

    def get_file(self, run_id: str, path: str) -> Path | None:
        local = self._local(run_id)
        if local is not None:
            file = local / path
            return file if file.is_file() else None
        folder, _, name = path.rpartition("/")
        if name not in self.files(run_id, folder):
            return None
        return Path(self._repository(run_id).download_artifacts(path))


_CUT = "… (whole in the artifact params.long)"


def _short(value: str) -> str:
    return value[: _MAX_PARAM - len(_CUT)] + _CUT


def _key(name: str) -> str:
    """A name that MLflow takes: letters, digits, and ``_-. /:``."""
    return "".join(c if c.isalnum() or c in "_-. /:" else "_" for c in name)[:250]


def _info(info: Any) -> RunInfo:
    end = None if info.end_time is None else info.end_time / 1000
    return RunInfo(info.run_id, info.run_name, str(info.experiment_id), info.status, info.start_time / 1000, end)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a user database
        return "unknown"
