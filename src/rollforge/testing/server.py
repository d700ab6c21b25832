"""A server of another program that a test starts, kills and starts again."""

from __future__ import annotations

import abc
import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

__all__ = ["Server", "free_port"]


def free_port() -> int:
    """Return a port of this machine on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server(abc.ABC):
    """A server with a folder and a port of its own, for as long as a ``with`` block lasts.

    Parameters
    ----------
    program : str
        What it is called, for the name of its folder and for messages.
    """

    def __init__(self, program: str) -> None:
        self._program = program
        self._folder = Path(tempfile.mkdtemp(prefix=f"rollforge-{program.lower()}-", dir="/tmp"))
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._prepare()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _prepare(self) -> None:  # noqa: B027 - most need nothing
        """Make what the server needs before it is started for the first time."""

    @abc.abstractmethod
    def _launch(self) -> subprocess.Popen[bytes]:
        """Start the process."""

    def start(self) -> None:
        """Start it, and return when it answers.

        Raises
        ------
        RuntimeError
            When it does not, with what it logged.
        """
        self._process = self._launch()
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1):
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self._program} did not start:\n{self.log()[-2000:]}")
            time.sleep(0.02)

    def log(self) -> str:
        """Return what it logged."""
        return (self._folder / "log").read_text(errors="replace")

    def kill(self) -> None:
        """End it with ``kill -9``, and the connections to it with it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Have it down for a ``with`` block."""
        self.kill()
        try:
            yield
        finally:
            self.start()
