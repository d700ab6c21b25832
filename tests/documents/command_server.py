"""A process that runs commands in forks of itself: each is a real process, but pandas and the like are imported once.

:func:`command_line.run` starts it and sends it commands. It has no threads of Python, so that it can be forked.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import socket
import sys
import threading
import time
import traceback
import warnings
from typing import Any

from rollforge.track.mlflow.library import import_mlflow

PRELOADED = [
    "lightgbm", "numba", "pandas", "rich.console", "rich.table", "sklearn.linear_model", "typer.rich_utils", "yaml",
    "rollforge.check", "rollforge.cli.main", "rollforge.collect", "rollforge.data", "rollforge.features.handler",
    "rollforge.models.lightgbm", "rollforge.models.linear", "rollforge.pipeline", "rollforge.plan",
    "rollforge.record.portfolio", "rollforge.record.signal", "rollforge.report", "rollforge.run.worker_pool",
    "rollforge.store.sqlite", "rollforge.track.folder",
]  # fmt: skip
"""Modules that most commands import, and that neither start threads nor read the environment."""


def serve(client: socket.socket) -> dict[str, Any] | None:
    """Fork for each request, and send the id and the exit code of the fork; return the request in the fork."""
    while True:
        data, streams, _, _ = socket.recv_fds(client, 16 * 2**20, 3)
        if not data:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the threads of OpenBLAS, which end and start again when a process forks
            child = os.fork()
        if child == 0:
            client.close()
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
                os.close(stream)
            request: dict[str, Any] = json.loads(data)
            return request
        for stream in streams:
            os.close(stream)
        client.send(json.dumps(child).encode())
        _, status = os.waitpid(child, 0)
        client.send(json.dumps(os.waitstatus_to_exitcode(status)).encode())


def become(request: dict[str, Any]) -> None:
    """Run ``python -m rollforge`` in a folder and with an environment, and end the process.

    The modules are not torn down, which would take half a second.
    """
    own = set(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))) | {sys.path[0]}
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    given = [os.path.abspath(p) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    sys.path[:] = [os.getcwd(), *given, *(p for p in sys.path if p not in own)]
    importlib.invalidate_caches()
    sys.argv = ["rollforge", *request["arguments"]]
    sys.modules["numpy"].random.seed()  # not the same numbers in every process
    code: object = None
    try:
        runpy.run_module("rollforge", run_name="__main__", alter_sys=True)
    except SystemExit as exc:
        code = exc.code
    except BaseException:  # noqa: BLE001 - as Python itself would show it
        traceback.print_exc()
        code = 1
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    for name in PRELOADED:
        importlib.import_module(name)
    import_mlflow()
    gc.freeze()  # the garbage collector of the forks does not traverse, and so does not copy, what has been imported
    if (received := serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        become(received)
