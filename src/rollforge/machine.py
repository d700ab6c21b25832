"""Identifying this machine's boot and processes, and measuring its uptime."""

from __future__ import annotations

import functools
import hashlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

__all__ = [
    "boot_id",
    "machine_of",
    "memory_size",
    "process_is_gone",
    "process_is_running",
    "process_is_stopped",
    "process_name",
    "uptime",
]

_PROC = Path("/proc")


@functools.cache
def boot_id() -> str:
    """Return an identifier of the machine's current boot, or an empty string if the system does not provide one."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _kernels_uptime() -> float:
    return float((_PROC / "uptime").read_text(encoding="ascii").split()[0])


@functools.cache
def _uptime_source() -> Callable[[], float]:
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    if clock is None:
        return time.time  # not Linux: fall back to the wall clock
    try:
        kernels = _kernels_uptime()
    except (OSError, ValueError):
        return lambda: time.clock_gettime(clock)
    # A time namespace can shift the clock of a single process; the kernel's file is the same for the whole machine.
    return (lambda: time.clock_gettime(clock)) if abs(time.clock_gettime(clock) - kernels) < 1.0 else _kernels_uptime


def uptime() -> float:
    """Return the seconds since this machine was started: the same in all processes, independent of the wall clock."""
    return _uptime_source()()


@functools.cache
def _namespace() -> str:
    """Return a short hash of boot and PID namespace, within which a process id is unique at any time."""
    try:
        namespace = os.readlink(_PROC / "self/ns/pid")
    except OSError:
        namespace = ""
    return hashlib.sha256(f"{boot_id()} {namespace}".encode()).hexdigest()[:8]


def _proc_is_ours() -> bool:
    """Return whether ``/proc`` shows this namespace: not after ``unshare --pid`` without mounting it again."""
    try:
        return os.readlink(_PROC / "self") == str(os.getpid())
    except OSError:
        return False


def _stat_of(pid: int) -> list[str]:
    """Return the fields of a process's ``/proc/PID/stat`` from its state on; empty if it cannot be read."""
    if not _proc_is_ours() and pid != os.getpid():
        return []  # there, the number means another process
    try:
        path = _PROC / ("self" if pid == os.getpid() else str(pid)) / "stat"
        return path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _start_of(pid: int) -> str | None:
    """Return when a process started, in ticks since boot; None if there is no such process, or it is a zombie."""
    fields = _stat_of(pid)
    return None if not fields or fields[0] == "Z" else fields[19]


def process_is_stopped(pid: int) -> bool:
    """Return whether a process of this machine is stopped by a signal (SIGSTOP); False where this cannot be determined."""
    return _stat_of(pid)[:1] == ["T"]


_start_of_this = functools.cache(_start_of)  # for the process itself, whose start does not change
os.register_at_fork(after_in_child=_start_of_this.cache_clear)


def process_name(pid: int | None = None) -> str:
    """Return a name of this process that is unique across machines and containers: ``host:pid:namespace-start``."""
    own = os.getpid()
    pid = own if pid is None else pid
    start = _start_of_this(pid) if pid == own else _start_of(pid)
    return f"{socket.gethostname()}:{pid}" + (f":{_namespace()}-{start}" if start is not None else "")


def memory_size() -> int | None:
    """Return the memory of this machine in bytes; None if the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # macOS has no SC_PHYS_PAGES in some versions, Windows no sysconf
        return None


def machine_of(name: str) -> str:
    """Return the machine or container of a process name: ``host`` and the hash of its namespace.

    Examples
    --------
    >>> machine_of("gpu1:4711:0badc0de-99812"), machine_of("gpu1:17")
    ('gpu1/0badc0de', 'gpu1')
    """
    host, _, rest = name.partition(":")
    namespace = rest.partition(":")[2].partition("-")[0]
    return f"{host}/{namespace}" if namespace else host


def process_is_gone(name: str) -> bool:
    """Return whether the process with that name has certainly ended.

    False for processes on other machines, in other containers and of other boots, which are not visible from here; and
    always where ``/proc`` shows another container.

    Examples
    --------
    >>> process_is_gone(process_name()), process_is_gone("elsewhere:17:0badc0de-1")
    (False, False)
    """
    found = _is_running(name)
    return found is not None and not found


def process_is_running(name: str) -> bool:
    """Return whether the process with that name certainly runs, on this machine and in this container.

    Examples
    --------
    >>> process_is_running(process_name()), process_is_running("elsewhere:17:0badc0de-1")
    (True, False)
    """
    return _is_running(name) is True


def _is_running(name: str) -> bool | None:
    """Return whether the process with that name runs; None if it cannot be seen from here."""
    host, _, rest = name.partition(":")
    pid, _, identity = rest.partition(":")
    namespace, _, start = identity.partition("-")
    if host != socket.gethostname() or not pid.isdigit() or namespace != _namespace() or not _proc_is_ours():
        return None
    return _start_of(int(pid)) == start
