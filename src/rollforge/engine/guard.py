"""A process beside an agent that kills its worker process when the agent can no longer do so: if it is stopped or killed.

The agent tells it until when the worker process may run. A driver that does not hear from an agent runs the task elsewhere
after that time, so the task must have ended, even if a signal has stopped the agent or C code holds its interpreter.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import time

__all__ = ["Guard"]


class Guard:
    """Starts and informs the guard of one agent; the guard exits when the agent has ended, and removes its folder.

    Parameters
    ----------
    folder : str
        Folder of the agent.
    """

    def __init__(self, folder: str) -> None:
        import subprocess  # not in the guard itself, which imports this module

        # Signals to the group of the agent, such as Ctrl-Z, do not reach it. It imports nothing but this file.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, folder], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdin is not None
        self._descriptor = self._process.stdin.fileno()
        os.set_blocking(self._descriptor, False)
        self._said: tuple[float, int] | None = None

    def allow(self, until: float, pid: int) -> None:
        """Let a process run until a time of ``time.monotonic``; 0 is no process."""
        if self._said != (until, pid):
            with contextlib.suppress(OSError):  # the guard was killed: the agent still ends its process by itself
                os.write(self._descriptor, f"{until!r} {pid}\n".encode())
                self._said = until, pid

    def close(self) -> None:
        """End the guard."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()


class _Victim:
    """A process that can be killed, even if its id belongs to another process by then."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._handle: int | None = None
        if pid and hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):  # it has ended
                self._handle = os.pidfd_open(pid)

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            if self._handle is not None:
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
            elif self.pid and not hasattr(os, "pidfd_open"):
                os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)


def main(folder: str) -> None:
    """Watch over the process that standard input names, until that is closed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    victim, until, text = _Victim(0), float("inf"), b""
    while True:
        ready = select.select([0], [], [], max(0.0, min(60.0, until - time.monotonic())))[0]
        if ready:
            received = os.read(0, 65_536)
            if not received:
                break
            *lines, text = (text + received).split(b"\n")
            if lines:
                time_text, pid = lines[-1].split()
                until = float(time_text)
                if int(pid) != victim.pid:
                    victim.close()
                    victim = _Victim(int(pid))
        elif time.monotonic() >= until:
            victim.kill()
            until = float("inf")
    victim.kill()
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
