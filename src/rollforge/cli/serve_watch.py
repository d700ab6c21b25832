"""``rollforge serve watch``: run a service whenever its data have a new day.

The loop only checks for changes, and each run is a separate process. The HTTP service therefore answers while a model is
being trained, memory and modules are released after each run, and a run whose process dies (out of memory, a crash in a
library) is retried.
"""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rollforge.cli.serve_http import HttpService, TokenFile
from rollforge.cli.terminal import echo_error, echo_json, protect_streams, show_logs
from rollforge.confidential import mask_secrets
from rollforge.errors import ConfigError, RollforgeError, ServiceBusy, StoreUnavailable
from rollforge.machine import process_is_gone

if TYPE_CHECKING:
    from rollforge.online.overview import Reader

__all__ = ["watch"]

MAX_WAIT_SECONDS = 3600.0
"""Maximum number of seconds between two attempts, unless the interval is longer."""
_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def watch(
    context: typer.Context,
    http: Annotated[
        str | None,
        typer.Option("--http", metavar="[HOST:]PORT", help="Also serve the ledger over HTTP, as 'serve http'."),
    ] = None,
    interval: Annotated[
        float, typer.Option("--interval", min=0.1, help="Seconds between two checks of the data folder.")
    ] = 60.0,
    token_file: TokenFile = None,
) -> None:
    """Run the service whenever its data have a new day, until interrupted. Prints one line of JSON for each run.

    A run that fails is retried when the data change, and otherwise after the interval, which doubles up to an hour.
    SIGTERM or Ctrl-C ends the command after the current day.
    """
    from rollforge.drivers import LEDGERS
    from rollforge.online.overview import Reader

    uri = context.obj.uri
    if uri.startswith("memory:") or LEDGERS.registered_object(uri) is not None:
        raise ConfigError(
            f"The ledger {uri} exists only in the memory of this process, but each run is a separate process."
        )
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(HttpService.listening(*_address(http), token_file)) if http is not None else None
        reader = stack.enter_context(contextlib.closing(Reader(uri)))
        name = context.obj.name(reader)
        if service is not None:
            echo_error(f"serving {mask_secrets(uri)} on {service.address}")
        thread = stack.enter_context(service.running(reader)) if service is not None else None
        _Watch(reader, name, interval, thread).run()


def _address(text: str) -> tuple[str, int]:
    """Return the host and the port of ``[HOST:]PORT``.

    Examples
    --------
    >>> _address("8765"), _address("0.0.0.0:80"), _address("[::1]:0")
    (('127.0.0.1', 8765), ('0.0.0.0', 80), ('::1', 0))
    """
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535 or (":" in host and not host.startswith("[")):
        raise ConfigError(
            f"{text!r} is not an address. Write PORT or HOST:PORT, such as 8765 or [::1]:8765.", path="--http"
        )
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


class _Stop:
    """Stop request by a signal: true after the first signal; a second one ends the program at once."""

    def __init__(self) -> None:
        self.asked = False
        self._reader, self._writer = os.pipe()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        os.write(self._writer, b"\0")  # no Event: its lock may be held by the code that the signal interrupts

    def wait(self, seconds: float) -> None:
        """Wait until a time has passed, or a signal arrives."""
        select.select([self._reader], [], [], seconds)


@dataclass
class _Watch:
    """Watches the data of a service and runs it."""

    reader: Reader
    name: str
    interval: float
    http: threading.Thread | None
    _stop: _Stop = field(default_factory=_Stop)
    _process: Any = None
    _told: object = None
    """The last line that was printed without a run, so that it is not repeated."""
    _error: str = ""
    """The error of the last run; a notification about it is sent only once."""

    def run(self) -> None:
        """Run until a signal arrives."""
        before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        try:
            self._loop()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop(number, frame)
        if self._process is not None:
            self._process.terminate()  # it ends after the current day

    def _loop(self) -> None:
        seen: object = None
        failures, retry = 0, -math.inf
        while not self._stop.asked:
            if self.http is not None and not self.http.is_alive():
                raise RollforgeError("The HTTP service has ended. Start the command again.")
            mark, answer = self._look()
            if answer is None and (mark != seen or time.monotonic() >= retry):
                failures = failures if mark == seen else 0
                answer = self._run_days()
                if "running" not in answer:
                    seen, failures = mark, failures + 1 if _has_failed(answer) else 0
                    wait = min(self.interval * 2.0 ** min(failures - 1, 30), max(MAX_WAIT_SECONDS, self.interval))
                    retry = time.monotonic() + wait if failures else math.inf
                    self._say({**answer, "retry_in": wait} if failures else answer)
                    self._told = answer = None
            if answer is not None and answer != self._told:
                self._told = answer
                self._say(answer)
            if not self._stop.asked:
                self._stop.wait(self.interval)

    def _look(self) -> tuple[object, dict[str, object] | None]:
        """Return a value that changes with the data and the definition of the service, and why it cannot be run now."""
        from rollforge.market.provider import folder_stamp
        from rollforge.online.locations import data_folder

        try:
            state, lease = self.reader.state(self.name), self.reader.held_by(self.name)
        except StoreUnavailable as exc:
            return None, {"error": mask_secrets(str(exc))}
        if state is None:
            return None, {"error": f"The service {self.name!r} is no longer in the ledger."}
        if lease is not None and not process_is_gone(lease.holder.partition("#")[0]):
            return None, {"running": {"holder": lease.holder}}
        defined = max((e.number for e, c in zip(state.entries, state.contents, strict=True) if c.service), default=0)
        folder, stamp = data_folder(state.definition, self.reader.uri), None
        if folder is None:  # recorded by an earlier version
            return (defined, time.monotonic()), None
        with contextlib.suppress(OSError):  # the run reports the reason
            stamp = folder_stamp(folder)
        return (defined, stamp), None

    def _run_days(self) -> dict[str, object]:
        """Publish what is due in a separate process, and return its answer."""
        spawn = multiprocessing.get_context("spawn")
        receiver, sender = spawn.Pipe(duplex=False)
        process = spawn.Process(
            target=_publish, args=(self.reader.uri, self.name, sender, self._error), name="serve-run"
        )
        # The process starts with blocked signals, and receives them when it is ready for them.
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            process.start()
            self._process = process
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            sender.close()
        try:
            answer: dict[str, Any] | None = receiver.recv()
        except EOFError:
            answer = None
        except BaseException:
            process.kill()
            raise
        finally:
            receiver.close()
            process.join()
            self._process = None
        code = process.exitcode or 0
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        if answer is None:
            return {"error": f"The process of the run was ended {how}."}
        if "running" not in answer:
            self._error = answer.get("error", "")
        return answer

    def _say(self, answer: dict[str, object]) -> None:
        from rollforge.online.overview import utc

        echo_json(json.dumps({"at": utc(time.time()), "service": self.name, **answer}))


def _has_failed(answer: dict[str, Any]) -> bool:
    return "error" in answer or any(day["state"] == "failed" for day in answer["days"])


# -- the process of a run ----------------------------------------------------------------------------------------------


def _publish(uri: str, name: str, sender: Connection, known_error: str) -> None:
    """Publish what is due, as ``rollforge serve run`` does, until a signal arrives or the parent process has ended."""
    ended = threading.Event()  # set by a thread only
    asked: list[int] = []
    for number in _SIGNALS:
        # A service manager sends a signal to all processes, and the parent sends it again.
        signal.signal(number, lambda number, frame: asked.append(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    threading.Thread(target=_wait_for_parent, args=(ended,), daemon=True).start()
    os.dup2(2, 1)  # what the user's code and libraries print
    protect_streams()
    show_logs()
    sender.send(_published(uri, name, lambda: bool(asked) or ended.is_set(), known_error))


def _wait_for_parent(ended: threading.Event) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    ended.set()


def _published(uri: str, name: str, stop: Callable[[], bool], known_error: str) -> dict[str, object]:
    from rollforge.cli.service import publish_due
    from rollforge.ledger.base import open_ledger

    try:
        line, _ = publish_due(open_ledger(uri), name, stop=stop, known_error=known_error)
    except ServiceBusy as exc:
        return {"running": {"holder": exc.holder}}
    except RollforgeError as exc:
        return {"error": mask_secrets(str(exc))}
    except Exception as exc:  # noqa: BLE001 - the user's code may raise anything, and the next attempt may succeed
        from rollforge.cli.terminal import show_exception

        show_exception(exc)
        return {"error": mask_secrets(f"{type(exc).__name__}: {exc}")}
    return {key: value for key, value in line.items() if key != "service"}
