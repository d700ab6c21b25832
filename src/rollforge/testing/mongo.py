"""A MongoDB server for tests: a real one where its URI is given, else the most faithful stand-in that can be installed.

``ROLLFORGE_TEST_MONGODB=mongodb://…`` names a real server. The stand-in, ``nx-27017``, speaks MongoDB's wire protocol (the
real driver talks to it, from several processes) and keeps its documents in SQLite. It shows neither replica sets, write
concerns, failover nor change streams, nor how a real server behaves under contention or when it is killed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

__all__ = ["MongoServer", "real_mongodb"]


def real_mongodb() -> str | None:
    """Return the URI of the real server to test with, if one is named."""
    return os.environ.get("ROLLFORGE_TEST_MONGODB")


class MongoServer:
    """The stand-in, for as long as a ``with`` block lasts.

    Raises
    ------
    RuntimeError
        When it is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("nx_27017") is None:
            raise RuntimeError("There is no stand-in for MongoDB: pip install nx-27017")
        self._folder = tempfile.TemporaryDirectory(prefix="rollforge-mongo-", ignore_cleanup_errors=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Where it answers, without a database."""
        return f"mongodb://127.0.0.1:{self._port}"

    def __enter__(self) -> MongoServer:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        self._folder.cleanup()

    def start(self) -> None:
        """Start it, and return when it answers."""
        folder = Path(self._folder.name)
        data = folder / "data"
        data.mkdir(exist_ok=True)
        options = ["--data-dir", str(data), "--port", str(self._port), "--log-file", str(folder / "log")]
        options += ["--pid-file", str(folder / "pid")]
        with (folder / "out").open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "nx_27017.nx_27017", *options], stdout=out, stderr=out, cwd=folder
            )
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1):
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"The stand-in did not start:\n{(folder / 'out').read_text()[-2000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End it with ``kill -9``."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
