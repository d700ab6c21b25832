"""Commands called in the test's own process, or run in a separate process."""

from __future__ import annotations

import atexit
import functools
import inspect
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from typer.testing import CliRunner, Result

from rollforge.cli.main import app

_SERVER = Path(__file__).with_name("command_server.py")
_one_at_a_time = threading.Lock()


def call(*arguments: object, columns: int = 400) -> Result:
    """Call the command line in this process; ``stdout`` and ``stderr`` of the result are separate.

    Click before 8.2 mixes them unless an argument prevents it, which later versions do not accept.
    """
    separate = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner.__init__).parameters else {}
    return CliRunner(env={"COLUMNS": str(columns)}, **separate).invoke(app, [str(one) for one in arguments])


def run(
    *arguments: object,
    cwd: Path | None = None,
    env: Mapping[str, str] = {},
    input: str = "",
    timeout: float = 200.0,
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m rollforge`` with additional environment variables in a separate process, and return its result.

    The process is a fork of one that has imported what commands import, which would take a second or more each time.
    """
    words = [str(one) for one in arguments]
    request = {"arguments": words, "cwd": str(cwd or Path.cwd()), "env": {**os.environ, **env}}
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(input.encode())
        given.seek(0)
        with _one_at_a_time:
            code = _exit_code(_server(), json.dumps(request).encode(), [f.fileno() for f in (given, out, err)], timeout)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode("utf-8"))
    return subprocess.CompletedProcess(["rollforge", *words], code, *texts)


def _exit_code(server: socket.socket, request: bytes, streams: list[int], timeout: float) -> int:
    socket.send_fds(server, [request], streams)
    process = int(server.recv(100))
    if select.select([server], [], [], timeout)[0]:
        return int(server.recv(100))
    os.kill(process, signal.SIGKILL)
    server.recv(100)
    raise subprocess.TimeoutExpired("rollforge", timeout)


@functools.cache
def _server() -> socket.socket:
    """Return a connection to the server of this test process, which ends with it."""
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with other:
        process = subprocess.Popen(
            [sys.executable, _SERVER, str(other.fileno())], pass_fds=[other.fileno()], stdin=subprocess.DEVNULL
        )

    def end() -> None:
        own.close()
        process.wait()

    atexit.register(end)
    return own
