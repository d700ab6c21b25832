"""GPUs of this machine, shared out among processes by locks that end with the processes that hold them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rollforge.errors import ConfigError, counted

__all__ = ["VARIABLE", "GpuShare", "check_gpus", "take_gpus", "visible_gpus"]

VARIABLE = "CUDA_VISIBLE_DEVICES"
_WHOLE = 100_000
"""Length of the lock of a whole GPU in its file; that of a fraction is a part of it."""


@dataclass(slots=True)
class GpuShare:
    """GPUs, or a fraction of one, that no other process is given until all processes that have the locks have ended."""

    devices: tuple[str, ...]
    """Names of the GPUs, as in ``CUDA_VISIBLE_DEVICES``."""
    descriptors: tuple[int, ...]
    """Open files with the locks. A process that inherits them holds the locks, too."""

    def close(self) -> None:
        """Give the share back, as far as this process is concerned."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = ()


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that this process may use: those in ``CUDA_VISIBLE_DEVICES``, or else all of the machine.

    No library is imported for it. NVIDIA's ``nvidia-smi`` lists the GPUs of the machine; without it there are none.
    """
    given = os.environ.get(VARIABLE)
    if given is not None:
        names = [name.strip() for name in given.split(",")]
        return [] if names[0] in ("", "-1") else list(dict.fromkeys(name for name in names if name))
    try:
        command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        listed = subprocess.run(command, capture_output=True, text=True, timeout=30.0, check=True)
    except (OSError, subprocess.SubprocessError):  # no driver, or it does not answer
        return []
    return [line.strip() for line in listed.stdout.splitlines() if line.strip()]


def check_gpus(gpus: float, *, path: str = "gpus") -> None:
    """Check a number of GPUs that each task uses on this machine.

    Raises
    ------
    ConfigError
        If it is negative or above 1 and not a whole number, or if this machine has fewer.

    Examples
    --------
    >>> check_gpus(1.5)
    Traceback (most recent call last):
    rollforge.errors.ConfigError: gpus: must be a fraction of a GPU or a whole number, found 1.5.
    """
    if not gpus >= 0 or (gpus > 1 and gpus != int(gpus)):
        raise ConfigError(f"must be a fraction of a GPU or a whole number, found {gpus!r}.", path=path)
    found = len(visible_gpus()) if gpus else 0
    if gpus > found:
        has = counted(found, "GPU") if found else "none"
        raise ConfigError(
            f"Each task needs {gpus:g} GPU{'' if gpus == 1 else 's'}, but this machine has {has} ({VARIABLE}, or else "
            "nvidia-smi, lists them). Ask for fewer, or for none to train on the CPU.",
            path=path,
        )


def take_gpus(gpus: float, names: Sequence[str] | None = None) -> GpuShare | None:
    """Return a share that no other process has, or None if too few GPUs are free at the moment.

    Parameters
    ----------
    gpus : float
        A whole number of GPUs, or a fraction of one. Fractions fill a GPU before the next one is used.
    names : sequence of str, optional
        Names of the GPUs, by default those of :func:`visible_gpus`.
    """
    size = _WHOLE if gpus >= 1 else max(1, int(gpus * _WHOLE + 1e-6))
    wanted, share = max(1, int(gpus)), GpuShare((), ())
    folder = _folder()
    with (folder / "allocation.lock").open("w") as mutex:
        fcntl.flock(mutex, fcntl.LOCK_EX)  # otherwise two processes could each get a part of what they need
        for name in visible_gpus() if names is None else names:
            descriptor = _locked(folder / re.sub(r"[^\w.-]", "_", name), size)
            if descriptor is not None:
                share.devices += (name,)
                share.descriptors += (descriptor,)
            if len(share.devices) == wanted:
                return share
    share.close()
    return None


def _locked(file: Path, size: int) -> int | None:
    """Return an open file with a lock of a free part of it; None if no part is free."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for start in range(0, _WHOLE - size + 1, size):
        # A lock of the open file, not of this process: it lasts until the last process that inherited the file has ended.
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, start, size, 0)
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, lock)
        except OSError as exc:
            if exc.errno in (errno.EAGAIN, errno.EACCES):
                continue
            os.close(descriptor)
            raise
        else:
            return descriptor
    os.close(descriptor)
    return None


def _folder() -> Path:
    """Return the folder of the locks, which is this user's."""
    folder = Path(tempfile.gettempdir()) / f"rollforge-gpus-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise ConfigError(
            f"The folder {folder} with the locks of GPUs belongs to another user. Remove it, or set TMPDIR."
        )
    return folder
