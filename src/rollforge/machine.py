"""This machine: which boot of it, how long it has been up, and which of its processes a name means."""

from __future__ import annotations

import functools
import hashlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["boot_id", "machine_of", "process_is_gone", "process_name", "uptime"]

_PROC = Path("/proc")


@functools.cache
def boot_id() -> str:
    """Return what tells this start of this machine from every other; an empty string where the system does not say."""
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
        return time.time  # not Linux: the wall clock has to do
    try:
        told = _kernels_uptime()
    except (OSError, ValueError):
        return lambda: time.clock_gettime(clock)
    # What a process is told may be shifted for it alone; the kernel's own file is the same for all of a machine.
    return (lambda: time.clock_gettime(clock)) if abs(time.clock_gettime(clock) - told) < 1.0 else _kernels_uptime


def uptime() -> float:
    """Return the seconds since this machine started: the same in all its processes, whatever the wall clock is set to."""
    return _uptime_source()()


@functools.cache
def _namespace() -> str:
    """Boot and process-id namespace, shortened: within it, a process id means one process at a time."""
    try:
        namespace = os.readlink(_PROC / "self/ns/pid")
    except OSError:
        namespace = ""
    return hashlib.sha256(f"{boot_id()} {namespace}".encode()).hexdigest()[:8]


def _start_of(pid: int) -> str | None:
    """When a process started, in ticks since the boot; None if there is no such process (or it is a zombie)."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def process_name(pid: int | None = None) -> str:
    """Return a name that no other process has, on any machine, in any container: ``host:pid:namespace-start``."""
    pid = os.getpid() if pid is None else pid
    start = _start_of(pid)
    return f"{socket.gethostname()}:{pid}" + (f":{_namespace()}-{start}" if start is not None else "")


def machine_of(name: str) -> str:
    """Return the machine or container that the process of that name runs on: ``host`` with the mark of its namespace.

    Examples
    --------
    >>> machine_of("gpu1:4711:0badc0de-99812"), machine_of("gpu1:17")
    ('gpu1/0badc0de', 'gpu1')
    """
    host, _, rest = name.partition(":")
    namespace = rest.partition(":")[2].partition("-")[0]
    return f"{host}/{namespace}" if namespace else host


def process_is_gone(name: str) -> bool:
    """Return whether the process of that name certainly does not run any more.

    False for processes of other machines, other containers and other boots: those cannot be seen from here.

    Examples
    --------
    >>> process_is_gone(process_name()), process_is_gone("elsewhere:17:0badc0de-1")
    (False, False)
    """
    host, _, rest = name.partition(":")
    pid, _, identity = rest.partition(":")
    namespace, _, start = identity.partition("-")
    if host != socket.gethostname() or not pid.isdigit() or namespace != _namespace():
        return False
    return _start_of(int(pid)) != start
