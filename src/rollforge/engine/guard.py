"""A process beside an agent that kills its worker process when the agent can no longer do so: if it is stopped or killed.

The agent tells it until when the worker process may run. A driver that does not hear from an agent runs the task elsewhere
after that time, so the task must have ended, even if a signal has stopped the agent or C code holds its interpreter.

When the agent has ended, the guard notes that its worker process has ended, too, in a file that other agents of the machine
read: the task can be run again at once.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import time

__all__ = ["STARTING", "Guard"]

STARTING = -1
"""Instead of the id of a process: one may be starting whose id is not known yet."""
_KEPT_SECONDS = 86_400.0  # for which a note is kept: many times as long as a driver asks for it
_WAIT_SECONDS = 60.0  # for the end of a process that was killed: it may be writing to a disk that hangs


class Guard:
    """Starts and informs the guard of one agent; the guard exits when the agent has ended, and removes its folder.

    Parameters
    ----------
    folder : str
        Folder of the agent.
    note : str
        File that the guard writes when the agent and its worker process have ended: the memory that the latter used.
    """

    def __init__(self, folder: str, note: str) -> None:
        import subprocess  # not in the guard itself, which imports this module

        # Signals to the group of the agent, such as Ctrl-Z, do not reach it. It imports nothing but this file.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, folder, note], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdin is not None
        self._descriptor = self._process.stdin.fileno()
        os.set_blocking(self._descriptor, False)
        self._said: tuple[float, int] | None = None

    def allow(self, until: float, pid: int) -> None:
        """Let a process run until a time of ``time.monotonic``; 0 is no process, :data:`STARTING` one that is started now."""
        if self._said == (until, pid):
            return
        try:
            os.write(self._descriptor, f"{until!r} {pid}\n".encode())
            self._said = until, pid
        except OSError:  # it was killed, or stopped for long: it must not note the end of another process later
            self._process.kill()  # the agent still ends its process by itself

    def close(self) -> None:
        """End the guard."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()


def resident(pid: int) -> int:
    """Return how many bytes of memory a process uses that it does not share; 0 if that is not known.

    Examples
    --------
    >>> resident(0)
    0
    """
    with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/statm", encoding="ascii") as file:
        _, pages, shared, *_ = file.read().split()
        return (int(pages) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
    return 0


class _Victim:
    """A process that can be killed, even if its id belongs to another process by then."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._handle: int | None = None
        self._ended = not pid
        if pid and hasattr(os, "pidfd_open"):
            try:
                self._handle = os.pidfd_open(pid)
            except ProcessLookupError:
                self._ended = True
            except OSError:  # no more descriptors, or not allowed
                return

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            if self._handle is not None:
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
            elif self.pid and not hasattr(os, "pidfd_open"):
                os.kill(self.pid, signal.SIGKILL)

    def has_ended(self, seconds: float) -> bool:
        """Return whether it is certain that the process has ended, after waiting for that."""
        return self._ended or (self._handle is not None and bool(select.select([self._handle], [], [], seconds)[0]))

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)


def main(folder: str, note: str) -> None:
    """Watch over the process that standard input names, until that is closed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    victim, until, text, starting = _Victim(0), float("inf"), b"", False
    while True:
        ready = select.select([0], [], [], max(0.0, min(60.0, until - time.monotonic())))[0]
        if ready:
            received = os.read(0, 65_536)
            if not received:
                break
            *lines, text = (text + received).split(b"\n")
            for line in lines:
                time_text, pid = line.split()
                until, starting = float(time_text), int(pid) == STARTING
                if not starting and int(pid) != victim.pid:
                    victim.close()
                    victim = _Victim(int(pid))
        elif time.monotonic() >= until:
            victim.kill()
            until = float("inf")
    used = resident(victim.pid)
    victim.kill()
    if not starting and victim.has_ended(_WAIT_SECONDS):
        with contextlib.suppress(OSError):  # the task is run again when its agent must have ended it
            _write(note, f"{used}\n")
    shutil.rmtree(folder, ignore_errors=True)


def _write(note: str, text: str) -> None:
    """Write a note whole, and remove old ones."""
    folder = os.path.dirname(note)
    os.makedirs(folder, exist_ok=True)
    for other in os.scandir(folder):
        with contextlib.suppress(OSError):  # another guard removes it, too
            if time.time() - other.stat().st_mtime > _KEPT_SECONDS:
                os.unlink(other)
    with open(f"{note}.new", "w", encoding="ascii") as file:
        file.write(text)
    os.replace(f"{note}.new", note)


if __name__ == "__main__":
    main(*sys.argv[1:])
