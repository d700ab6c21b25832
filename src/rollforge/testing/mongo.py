"""A MongoDB server for tests: a real server if its URI is given, else the most faithful emulator that can be installed.

``ROLLFORGE_TEST_MONGODB=mongodb://…`` selects a real server. The emulator, ``nx-27017``, implements MongoDB's wire
protocol (the real driver connects to it, from several processes) and stores its documents in SQLite. It does not cover
replica sets, write concerns, failover or change streams, nor the behaviour of a real server under contention or when it
is killed.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

from rollforge.testing.server import Server

__all__ = ["MongoServer", "real_mongodb"]


def real_mongodb() -> str | None:
    """Return the URI of the real server for tests, if one is given."""
    return os.environ.get("ROLLFORGE_TEST_MONGODB")


class MongoServer(Server):
    """Context manager that runs the emulator.

    Raises
    ------
    RuntimeError
        If it is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("nx_27017") is None:
            raise RuntimeError("The emulator of MongoDB is not installed: pip install nx-27017")
        super().__init__("MongoDB")

    @property
    def uri(self) -> str:
        """URI of the server, without a database."""
        return f"mongodb://127.0.0.1:{self._port}"

    def _launch(self) -> subprocess.Popen[bytes]:
        data = self._folder / "data"
        data.mkdir(exist_ok=True)
        options = ["--data-dir", str(data), "--port", str(self._port), "--log-file", str(self._folder / "server.log")]
        options += ["--pid-file", str(self._folder / "pid")]
        command = [sys.executable, "-m", "nx_27017.nx_27017", *options]
        with (self._folder / "log").open("ab") as out:
            return subprocess.Popen(command, stdout=out, stderr=out, cwd=self._folder)
