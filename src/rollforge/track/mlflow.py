"""Tracking with MLflow: by default in an SQLite database, which ``mlflow ui`` can show, or on a tracking server.

This is the only module that imports mlflow. It uses MLflow's tracking store directly instead of the "fluent" API, which
keeps a global run, starts threads, and calls git three times per run.

Values and names that MLflow does not support are encoded. A value that is too long for its column is stored in the
artifact ``long_values/HASH.txt``, to which its shortened form refers. A character that is not allowed in a name becomes
``:xHEX:``.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import math
import os
import random
import re
import shutil
import socket
import sqlite3
import sys
import tempfile
import threading
import time
import uuid
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from rollforge.confidential import mask_secrets, private_file, private_folder
from rollforge.errors import MissingDependency, RecorderNotFound, TrackingError, TrackingUnavailable, shown
from rollforge.paths import read_path
from rollforge.session import current_session
from rollforge.track.artifact_files import Files, LocalFiles, inside, probe_folder
from rollforge.track.filters import Condition, matches, parse_filter, parse_order
from rollforge.track.tracker import Metric, RunData, RunInfo, RunQuery

__all__ = ["MLflowTracker", "plain_key", "safe_key"]

_MAX_PARAM = 6000  # characters of a value that MLflow 3 stores (the same in the database of MLflow 2)
_MAX_TAG = 5000  # 8000 since MLflow 2.17; 5000 works with older versions too
_MAX_KEY = 250
_LONG = "long_values"
_PARAMS_PER_BATCH = 100  # the limit for tags is the same
_METRICS_PER_BATCH = 800  # the limit is 1000 including params and tags
_PAGE = 1000
_BROKEN = (
    "readonly database", "unable to open", "malformed", "not a database", "disk is full", "disk I/O", "no such table",
    "no such column",
)  # fmt: skip
"""Parts of SQLite's messages for a database that is damaged or cannot be used."""
_BUSY_MS = 60_000


# -- names and long values ---------------------------------------------------------------------------------------------


def safe_key(name: str) -> str:
    """Return `name` in a form that MLflow accepts and that :func:`plain_key` decodes.

    Raises
    ------
    TrackingError
        If the result is too long.

    Examples
    --------
    >>> safe_key("l2@valid"), safe_key("/etc"), safe_key("model.kwargs.lr")
    ('l2:x40:valid', ':x2f:etc', 'model.kwargs.lr')
    """
    key = "".join(c if c.isalnum() or c in "_-. /" else f":x{ord(c):x}:" for c in name)
    normal = os.path.normpath(key)
    if normal != key or key.startswith(("/", "..")) or key == ".":  # MLflow 2 uses names as file names
        key = re.sub(r"^\.|[/ ]", lambda m: f":x{ord(m[0]):x}:", key)
    if len(key) > _MAX_KEY:
        raise TrackingError(f"The name {name[:60]!r}… is too long for MLflow, which takes {_MAX_KEY} characters.")
    return key


def plain_key(key: str) -> str:
    """Return the name that :func:`safe_key` encoded.

    Examples
    --------
    >>> plain_key("l2:x40:valid")
    'l2@valid'
    """
    return re.sub(r":x([0-9a-f]{1,6}):", lambda m: chr(int(m[1], 16)), key) if ":x" in key else key


_CUT = re.compile(r"… \[whole in artifact long_values/([0-9a-f]{40})\.txt\]\Z")


def _shortened(value: str, limit: int) -> tuple[str, str]:
    """Return a value cut to a length, with a mark, and the hash under which the full value is stored."""
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:40]
    mark = f"… [whole in artifact {_LONG}/{digest}.txt]"
    return value[: limit - len(mark)] + mark, digest


# -- opening -----------------------------------------------------------------------------------------------------------

_NOISY = ("mlflow", "alembic", "alembic.runtime.migration", "mlflow.store.db.utils")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence MLflow and Alembic, which print migrations and deprecations that do not concern the user."""
    levels = {name: logging.getLogger(name).level for name in _NOISY}
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if root.handlers != before[1]:  # in older MLflow versions, Alembic's migrations reconfigure logging
            root.setLevel(before[0])
            root.handlers[:] = before[1]


class _OurCall(logging.Filter):
    """Drops log records while this module calls MLflow, which logs database errors in addition to raising them."""

    active = 0

    def filter(self, record: logging.LogRecord) -> bool:
        return not self.active


_our_call = _OurCall()


def _missing(package: str) -> MissingDependency:
    return MissingDependency(
        f"Tracking by MLflow needs {package}. Install it: pip install 'rollforge[mlflow]'; or keep plain files: "
        "--tracking folder:PATH."
    )


def _check_installed(packages: Sequence[str]) -> None:
    """Raise an error if a package is not installed, without importing any of them, which would take seconds."""
    for package in packages:
        try:
            found = importlib.util.find_spec(package)
        except ImportError:
            found = None
        if found is None:
            raise _missing(package)


def _import_mlflow() -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    try:
        with _quiet():
            from mlflow.tracking._tracking_service import utils
    except ImportError as exc:
        raise _missing(exc.name or "mlflow") from exc
    logger = logging.getLogger("mlflow.store.db.utils")
    if _our_call not in logger.filters:
        logger.addFilter(_our_call)
    return utils


_REMOTE_KEPT = 64
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
        self._database: Path | None = None
        self._folder: Path | None = None
        if uri.startswith("sqlite:"):
            if not uri.startswith("sqlite:///") or uri == "sqlite:///":
                raise TrackingUnavailable(
                    f"{uri!r} names no database. Write sqlite:///PATH (sqlite:////PATH from the root)."
                )
            self._database = _absolute(uri.removeprefix("sqlite:///").partition("?")[0])
            uri = f"sqlite:///{self._database}"
        elif uri.startswith("file:"):
            self._folder = _absolute(uri.removeprefix("file:").removeprefix("//"))
            uri = f"file:{self._folder}"
        self.uri = uri
        _check_installed(["mlflow", *(["sqlalchemy", "alembic"] if self._database is not None else [])])
        self._opened: Any = None
        self._process = 0
        self._opening = threading.Lock()
        self._artifact_uris: dict[str, str] = {}
        # A file fetched from a server is deleted with its _RemoteFiles, so the latest of these are kept alive.
        self._remote: dict[str, _RemoteFiles] = {}

    @property
    def _store(self) -> Any:
        if self._opened is None or self._process != os.getpid():
            self._prepare()
        return self._opened

    def warm_up(self) -> None:
        _import_mlflow()

    def prepare(self) -> None:
        if self._folder is not None:  # only here: reading must not create a folder that does not exist
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as exc:
                raise self._unavailable(exc.strerror or str(exc)) from exc
        self._prepare()

    def check_writable(self, experiment: str) -> None:
        from mlflow.entities import ExperimentTag

        self.prepare()
        found = self.find_experiment(name=experiment)
        experiment_id = self.create_experiment(experiment) if found is None else found[0]
        self._call("set_experiment_tag", experiment_id, ExperimentTag(_CHECKED, socket.gethostname()))
        place = _local_folder(str(self._call("get_experiment", experiment_id).artifact_location))
        if place is None:
            return
        if self._folder is None and self._database is None and not place.parent.is_dir():
            raise self._unavailable(
                f"its server leaves artifacts to those who write them, in {place}, which this machine does not have. Start "
                "the server with --serve-artifacts"
            )
        try:
            place.mkdir(parents=True, exist_ok=True)
            probe_folder(place)
        except OSError as exc:
            raise self._unavailable(f"nothing can be written to {place} ({exc.strerror or exc})") from exc

    def _prepare(self) -> None:
        with self._opening:  # another thread must not use a store that is only partly set up
            if self._opened is None or self._process != os.getpid():
                self._opened = self._prepared()
                self._process = os.getpid()

    def _prepared(self) -> Any:
        if self._opened is not None and self._database is not None:
            self._opened.engine.dispose(close=False)  # after a fork, the connections belong to the parent
        if self._database is None:
            self._check_reachable()
            return self._open(None)
        _import_mlflow()  # before the lock: it takes two seconds
        try:
            self._database.parent.mkdir(parents=True, exist_ok=True)
            with self._lock():
                if _is_new(self._database):
                    self._create()
                _check_database(self._database)
                opened = self._open(str(self._database.parent / "mlartifacts"))
        except TrackingUnavailable:  # also an OSError, but already complete
            raise
        except OSError as exc:
            raise self._unavailable(exc.strerror or str(exc)) from exc
        except sqlite3.Error as exc:
            raise self._unavailable(str(exc)) from exc
        _tune(opened.engine)
        return opened

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Serialize opening: processes that open a new database at the same time crash in its migrations."""
        import fcntl

        assert self._database is not None
        with (self._database.parent / f".{self._database.name}.lock").open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _create(self) -> None:
        """Create the database under a temporary name and rename it, so that a killed process leaves no partial one."""
        assert self._database is not None
        draft = self._database.with_name(f".{self._database.name}.new")
        empty = self._empty_database()
        try:
            private_file(draft)
            shutil.copyfile(empty, draft)
            private_folder(self._database.parent / "mlartifacts")
            draft.replace(self._database)
        finally:
            if empty.parent == self._database.parent:
                empty.unlink()

    def _empty_database(self) -> Path:
        """Return the path of a database without runs.

        MLflow's migrations take a second, so the result is kept in the cache. If the cache is not writable, it is
        created next to its destination.
        """
        from mlflow.version import VERSION

        assert self._database is not None
        utils = _import_mlflow()
        folder = Path(current_session().cache) / "mlflow"
        kept = folder / f"empty-{VERSION}.db"
        if kept.exists():
            return kept
        try:
            folder.mkdir(parents=True, exist_ok=True)
            keeping = os.access(folder, os.W_OK)
        except OSError:
            keeping = False
        # MLflow caches the databases that it has opened by name, so the name must be new.
        made = (folder if keeping else self._database.parent) / f".{uuid.uuid4().hex}.db"
        try:
            with _quiet():
                utils._get_store(f"sqlite:///{made}", str(made.parent)).engine.dispose()
            with contextlib.closing(sqlite3.connect(str(made))) as connection:
                # The artifact location of MLflow's default experiment would be next to this temporary file.
                connection.execute("DELETE FROM experiments")
                connection.commit()
                # In WAL mode, readers and a writer do not block each other; four writers were twice as fast.
                connection.execute("PRAGMA journal_mode = WAL")
        except Exception as exc:
            for left in made.parent.glob(f"{made.name}*"):
                left.unlink()
            raise self._unavailable(_first_line(exc)) from exc  # MLflow raises errors of four libraries
        return made.replace(kept) if keeping else made

    def _open(self, artifacts: str | None) -> Any:
        utils = _import_mlflow()
        if self._folder is not None:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        try:
            with _quiet():
                return utils._get_store(self.uri, artifacts)
        except Exception as exc:  # see _create
            raise self._unavailable(_reason(exc)) from exc

    def _check_reachable(self) -> None:
        """Check that the server answers, as MLflow itself retries for minutes before it fails."""
        if self._folder is not None:
            if not self._folder.is_dir():
                raise self._unavailable("there is no such folder")
            return
        parts = urlsplit(self.uri)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname or "", port), timeout=10).close()
        except OSError as exc:
            raise self._unavailable(f"the server does not answer ({exc.strerror or exc})") from exc

    def _unavailable(self, why: str) -> TrackingUnavailable:
        return TrackingUnavailable(
            f"The tracking store {mask_secrets(self.uri)} cannot be opened: {why}. Name another by --tracking."
        )

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of MLflow's store, translate its errors, and retry while the database is locked."""
        from mlflow.exceptions import MlflowException

        store = self._store
        for attempt in range(20):
            _our_call.active += 1
            try:
                return getattr(store, name)(*args, **kwargs)
            except MlflowException as exc:
                message = _first_line(exc)
                if exc.error_code == "RESOURCE_DOES_NOT_EXIST":
                    raise RecorderNotFound(f"{message} (in {mask_secrets(self.uri)})") from exc
                if "database is locked" not in message:
                    raise self._translated(message) from exc
                last = exc
            except Exception as exc:  # a damaged file can raise anything in MLflow and its YAML parser
                raise TrackingError(
                    f"The tracking store {mask_secrets(self.uri)} holds what MLflow cannot read "
                    f"({type(exc).__name__}: {_first_line(exc)})."
                ) from exc
            finally:
                _our_call.active -= 1
            # SQLite fails at once, whatever its timeout, if a transaction that has read cannot become a write.
            time.sleep(random.uniform(0.01, 0.05) * (attempt + 1))
        raise self._unavailable("it stays locked by another process") from last

    def _translated(self, message: str) -> TrackingError:
        if any(sign in message for sign in _BROKEN):
            return self._unavailable(message)
        if message.startswith("The run ") and message.endswith("Current state is deleted."):
            return RecorderNotFound(f"{message} (in {mask_secrets(self.uri)})")
        return TrackingError(f"MLflow: {message} (in {mask_secrets(self.uri)})")

    # -- experiments ---------------------------------------------------------------------------------------------------

    def find_experiment(self, *, name: str | None = None, experiment_id: str | None = None) -> tuple[str, str] | None:
        if experiment_id is None:
            found = self._call("get_experiment_by_name", name)
        else:
            if not experiment_id.isalnum():
                return None
            try:
                found = self._call("get_experiment", experiment_id)
            except RecorderNotFound:
                return None
        if found is None or found.lifecycle_stage != "active":
            return None
        return str(found.experiment_id), str(found.name)

    def create_experiment(self, name: str) -> str:
        try:
            return str(self._call("create_experiment", name))
        except TrackingError:
            found = self._call("get_experiment_by_name", name)
            if found is None:
                raise
        if found.lifecycle_stage == "active":
            return str(found.experiment_id)  # another process has just created it
        # An experiment deleted in MLflow's user interface keeps its name; delete_experiment() frees it.
        self._call("restore_experiment", found.experiment_id)
        self.delete_experiment(str(found.experiment_id))
        return str(self._call("create_experiment", name))

    def experiments(self) -> dict[str, str]:
        from mlflow.entities import ViewType

        found: dict[str, str] = {}
        token = None
        while True:
            page = self._call("search_experiments", ViewType.ACTIVE_ONLY, max_results=_PAGE, page_token=token)
            found.update({e.name: str(e.experiment_id) for e in page})
            token = page.token
            if not token:
                return found

    def delete_experiment(self, experiment_id: str) -> None:
        name = self._call("get_experiment", experiment_id).name
        self._call("rename_experiment", experiment_id, f"{name} (deleted {experiment_id})")
        self._call("delete_experiment", experiment_id)

    # -- runs ----------------------------------------------------------------------------------------------------------

    def create_run(self, experiment_id: str, name: str, tags: Mapping[str, str]) -> RunInfo:
        from mlflow.entities import RunTag

        long = {k: v for k, v in tags.items() if len(v) > _MAX_TAG}
        run = self._call(
            "create_run",
            experiment_id=experiment_id,
            user_id=tags.get("mlflow.user", "unknown"),
            start_time=int(time.time() * 1000),
            tags=[RunTag(safe_key(k), v) for k, v in tags.items() if k not in long],
            run_name=name,
        )
        self._artifact_uris[run.info.run_id] = run.info.artifact_uri
        if long:
            self.write(run.info.run_id, {}, [], long)
        return _info(run.info)

    def update_run(self, run_id: str, status: str, end_time: float | None) -> None:
        from mlflow.entities import RunStatus

        ended = None if end_time is None else int(end_time * 1000)
        self._call("update_run_info", run_id, RunStatus.from_string(status), ended, None)

    def rename_run(self, run_id: str, name: str) -> None:
        from mlflow.entities import RunStatus

        info = self._call("get_run", run_id).info  # update_run_info writes status and end time too
        self._call("update_run_info", run_id, RunStatus.from_string(info.status), info.end_time, name)

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

        for tag in gone_tags:
            # The tag does not exist. If the run does not exist, the batch below raises the error.
            with contextlib.suppress(RecorderNotFound):
                self._call("delete_tag", run_id, safe_key(tag))
        listed_params = [entities.Param(safe_key(k), self._short(run_id, v, _MAX_PARAM)) for k, v in params.items()]
        listed_metrics = [entities.Metric(safe_key(m.name), m.value, round(m.time * 1000), m.step) for m in metrics]
        listed_tags = [entities.RunTag(safe_key(k), self._short(run_id, v, _MAX_TAG)) for k, v in tags.items()]
        if len(listed_tags) == 1 and not listed_params and not listed_metrics:
            self._call("set_tag", run_id, listed_tags[0])  # takes half the time of a batch
            return
        first = True
        while listed_params or listed_metrics or listed_tags or first:
            self._call(
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
        if len(value) <= limit and _CUT.search(value) is None:
            return value
        short, digest = _shortened(value, limit)
        with self.files(run_id).draft(f"{_LONG}/{digest}.txt") as draft:
            draft.write_text(value, encoding="utf-8", errors="surrogatepass", newline="")
        return short

    def _whole(self, run_id: str, value: str) -> str:
        match = _CUT.search(value)
        file = self.files(run_id).get(f"{_LONG}/{match[1]}.txt") if match is not None else None
        if file is None:
            return value  # short, or its artifact has been deleted and only the beginning is left
        return file.read_bytes().decode("utf-8", "surrogatepass")

    def read(self, run_id: str) -> RunData:
        return self._data(self._call("get_run", run_id))

    def _data(self, run: Any) -> RunData:
        run_id = str(run.info.run_id)
        if run.info.lifecycle_stage != "active":
            raise RecorderNotFound(f"The recorder {run_id!r} was deleted (in {mask_secrets(self.uri)}).")
        self._artifact_uris[run_id] = run.info.artifact_uri
        try:  # a damaged or foreign database may contain values of any type in any column
            return RunData(
                _info(run.info),
                {plain_key(k): self._whole(run_id, v) for k, v in run.data.params.items()},
                {plain_key(k): _number(v) for k, v in run.data.metrics.items()},
                {plain_key(k): self._whole(run_id, v) for k, v in run.data.tags.items()},
            )
        except (TypeError, ValueError, AttributeError, OverflowError) as exc:
            raise self._damaged_run(run_id, exc) from exc

    def _damaged_run(self, run_id: str, why: object) -> TrackingError:
        return TrackingError(f"The run {run_id!r} in {mask_secrets(self.uri)} is damaged: {why}.")

    def history(self, run_id: str, name: str) -> list[Metric]:
        found: list[Any] = []
        token = None
        while True:
            page = self._call("get_metric_history", run_id, safe_key(name), max_results=25_000, page_token=token)
            found.extend(page)
            token = getattr(page, "token", None)
            if not token:
                break
        try:
            values = [Metric(name, _number(m.value), int(m.step), m.timestamp / 1000) for m in found]
        except (TypeError, ValueError, OverflowError) as exc:
            raise self._damaged_run(run_id, exc) from exc
        return sorted(values, key=lambda m: (m.step, m.time))

    def search(self, experiment_ids: Sequence[str], query: RunQuery) -> list[RunData]:
        from mlflow.entities import ViewType

        asked = _filter(query)
        order = [_order(text) for text in query.order_by]
        found: list[RunData] = []
        token = None
        while query.limit is None or len(found) < query.limit:
            page = self._call(
                "search_runs",
                list(experiment_ids),
                asked,
                ViewType.ACTIVE_ONLY,
                max_results=_PAGE if query.limit is None else max(1, min(_PAGE, query.limit - len(found))),
                order_by=order,
                page_token=token,
            )
            # Conditions that MLflow's language cannot express (several statuses, long values, quotes) are checked here.
            found.extend(d for d in map(self._data, page) if matches(d, query))
            token = page.token
            if not token:
                break
        return found[: query.limit]

    # -- artifacts -----------------------------------------------------------------------------------------------------

    def files(self, run_id: str) -> Files:
        if run_id not in self._artifact_uris:
            self.read(run_id)
        uri = self._artifact_uris[run_id]
        if not isinstance(uri, str) or not uri.isprintable():
            raise self._damaged_run(run_id, f"its artifacts are in {shown(uri)}, which is no address")
        place = _local_folder(uri)
        if place is not None:
            return LocalFiles(place, uri=uri)
        if run_id not in self._remote:
            self._remote[run_id] = _RemoteFiles(uri, self.uri)
            while len(self._remote) > _REMOTE_KEPT:
                self._remote.pop(next(iter(self._remote)), None)
        return self._remote[run_id]


class _RemoteFiles:
    """Artifacts on a server or in a bucket, which MLflow uploads and downloads."""

    folder: Path | None = None

    def __init__(self, uri: str, tracking: str) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        self.uri = uri
        self._repository: Any = get_artifact_repository(uri, tracking_uri=tracking)
        self._fetched = Path(tempfile.mkdtemp(prefix="rollforge-"))
        weakref.finalize(self, shutil.rmtree, self._fetched, ignore_errors=True)

    @contextlib.contextmanager
    def draft(self, path: str) -> Iterator[Path]:
        folder, _, name = inside(path).rpartition("/")
        with tempfile.TemporaryDirectory(prefix="rollforge-") as place:
            yield Path(place) / name
            with self._translating(path):
                self._repository.log_artifact(str(Path(place) / name), folder or None)

    def list(self, folder: str = "") -> list[str]:
        with self._translating(folder):
            found = self._repository.list_artifacts(inside(folder) if folder else None)
        return sorted(Path(f.path).name + ("/" if f.is_dir else "") for f in found)

    def get(self, path: str) -> Path | None:
        folder, _, name = inside(path).rpartition("/")
        if name not in self.list(folder):
            return None
        with self._translating(path):
            return Path(self._repository.download_artifacts(path, dst_path=str(self._fetched)))

    def remove(self, path: str) -> None:
        with self._translating(path):
            self._repository.delete_artifacts(inside(path))

    @contextlib.contextmanager
    def _translating(self, path: str) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            with _quiet():
                yield
        except (MlflowException, OSError) as exc:
            raise TrackingUnavailable(f"The artifact {path!r} in {mask_secrets(self.uri)}: {_first_line(exc)}") from exc


# -- details -----------------------------------------------------------------------------------------------------------


def _local_folder(uri: str) -> Path | None:
    """Return the local folder of an artifact address; None if the artifacts are on a server or in a bucket."""
    if uri.startswith("file://"):
        return Path(unquote(urlsplit(uri).path))
    return Path(uri) if ":" not in uri.partition("/")[0] else None


def _tune(engine: Any) -> None:
    """Set up connections: in WAL mode, synchronous=NORMAL loses no committed batch if a process is killed."""
    from sqlalchemy import event

    def settings(connection: Any, record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.close()

    event.listen(engine, "connect", settings)
    engine.dispose()  # closes connections that were opened without these settings


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(read_path(unquote(path), "tracking")))


def _check_database(file: Path) -> None:
    """Check that the file is a readable database: MLflow retries a damaged one for a minute."""
    with contextlib.closing(
        sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=_BUSY_MS / 1000)
    ) as connection:
        connection.execute("SELECT name FROM sqlite_master LIMIT 1").fetchall()


def _is_new(file: Path) -> bool:
    """Return whether the database must be created. An empty file counts as missing unless there is a log next to it."""
    try:
        return file.stat().st_size == 0 and not any(os.path.exists(f"{file}{log}") for log in ("-wal", "-journal"))
    except FileNotFoundError:
        return True


def _first_line(exc: BaseException) -> str:
    lines = str(exc).strip().splitlines()
    return lines[0] if lines else type(exc).__name__


def _reason(exc: BaseException) -> str:
    message = _first_line(exc)
    if "Can't locate revision" in str(exc) or "out-of-date database schema" in message:
        found = re.search(r"found version (\w+)|identified by '(\w+)'", str(exc))
        version = next((g for g in found.groups() if g), "?") if found else "?"
        return (
            f"its tables have version {version}, which this MLflow does not know or has left behind. Update mlflow, or "
            "take a copy of the database and run 'mlflow db upgrade URI'"
        )
    return message


def _number(value: float) -> float:
    """Return a metric as it was logged: MLflow's database stores infinity as the largest float."""
    largest = sys.float_info.max
    return value if abs(value) != largest else math.copysign(math.inf, value)


def _info(info: Any) -> RunInfo:
    start, end = (None if t is None else float(t) / 1000 for t in (info.start_time, info.end_time))
    name, experiment = info.run_name or "", str(info.experiment_id)
    return RunInfo(str(info.run_id), str(name), experiment, str(info.status), start or 0.0, end)


_ATTRIBUTES = {"name": "run_name", "id": "run_id"}


def _filter(query: RunQuery) -> str:
    """Return a query in MLflow's filter language, without the conditions that it cannot express."""
    wanted = list(parse_filter(query.filter_string))
    if len(query.status) == 1:
        wanted.append(Condition("attributes", "status", "=", query.status[0]))
    if query.name is not None:
        wanted.append(Condition("attributes", "name", "=", query.name))
    for kind, values in (("params", query.params), ("tags", query.tags)):
        wanted.extend(Condition(kind, k, "=", v) for k, v in values.items())
    return " and ".join(text for text in map(_said, wanted) if text is not None)


def _key(kind: str, key: str) -> str:
    return f"attributes.{_ATTRIBUTES.get(key, key)}" if kind == "attributes" else f"{kind}.`{safe_key(key)}`"


def _said(condition: Condition) -> str | None:
    kind, op, value = condition.kind, condition.op, condition.value
    key = _key(kind, condition.key)
    texts = [value] if isinstance(value, str) else value if isinstance(value, tuple) else []
    if kind == "attributes" and condition.key == "experiment_id":
        return None
    if any(len(t) > _MAX_TAG or "'" in t or '"' in t or "\\" in t for t in texts):
        return None
    if value is None:
        return f"{key} {op}"
    if isinstance(value, tuple):
        # MLflow supports IN only for attributes.
        return f"{key} {op} ({', '.join(repr(v) for v in value)})" if kind == "attributes" else None
    if isinstance(value, str):
        return f"{key} {op} '{value}'"
    number = int(value) if kind == "attributes" and value.is_integer() else value
    return f"{key} {op} {number!r}" if abs(value) < float("inf") else None


def _order(text: str) -> str:
    kind, key, descending = parse_order(text)
    return f"{_key(kind, key)} {'DESC' if descending else 'ASC'}"
