"""MLflow's tracking server for tests, without the 500 MB of packages that only other parts of MLflow need."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from rollforge.testing.server import free_port

__all__ = ["MLflowServer"]

_SERVE = """
import sys
from mlflow.server import app
from werkzeug.serving import make_server
make_server("127.0.0.1", int(sys.argv[1]), app, threaded=True).serve_forever()
"""


class MLflowServer:
    """Context manager that runs a tracking server over a backend store.

    Parameters
    ----------
    store_uri : str
        URI of MLflow's backend store: ``sqlite:///…``.
    folder : path
        Folder for artifacts and the server's log.

    Raises
    ------
    RuntimeError
        If a package that the server needs is not installed.
    """

    def __init__(self, store_uri: str, folder: Path) -> None:
        missing = [n for n in ("flask", "flask_cors", "graphene") if importlib.util.find_spec(n) is None]
        if missing:
            raise RuntimeError("MLflow's server needs more: pip install flask flask-cors graphene")
        self._folder = folder
        self._port = free_port()
        self._environment = {
            **os.environ,
            "_MLFLOW_SERVER_FILE_STORE": store_uri,
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """URI of the server."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> MLflowServer:
        log = self._folder / "server.log"
        with log.open("wb") as out:
            command = [sys.executable, "-c", _SERVE, str(self._port)]
            self._process = subprocess.Popen(command, stdout=out, stderr=out, env=self._environment)
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return self
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"MLflow's server did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)

    def __exit__(self, *exc: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def ask(self, path: str, **body: object) -> dict[str, object]:
        """Return the response of the REST API to a POST request."""
        request = urllib.request.Request(
            f"{self.uri}/api/2.0/mlflow/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: dict[str, object] = json.load(answer)
            return found

    def look(self, path: str) -> dict[str, object]:
        """Return the response of the REST API to a GET request."""
        with urllib.request.urlopen(f"{self.uri}/api/2.0/mlflow/{path}", timeout=30) as answer:
            found: dict[str, object] = json.load(answer)
            return found
