"""Base class of servers that tests start, kill and restart."""

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
    """Return a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server(abc.ABC):
    """Context manager that runs a server with its own folder and port.

    Parameters
    ----------
    program : str
        Name of the program, for its folder and for messages.
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

    def _prepare(self) -> None:  # noqa: B027 - most need no preparation
        """Create what the server needs before its first start."""

    @abc.abstractmethod
    def _launch(self) -> subprocess.Popen[bytes]:
        """Start the process."""

    def start(self) -> None:
        """Start the server and wait until it accepts connections.

        Raises
        ------
        RuntimeError
            If it does not start; the message contains its log.
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
        """Return the log of the server."""
        return (self._folder / "log").read_text(errors="replace")

    def kill(self) -> None:
        """Kill the server with ``kill -9``, which closes its connections."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Context manager during which the server is down."""
        self.kill()
        try:
            yield
        finally:
            self.start()
