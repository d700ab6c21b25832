"""Kernels: loops over arrays that are compiled on first use, and loaded from a cache of machine code after that.

Loading takes llvmlite, a compiler library that numba is built on, but not numba itself: importing it and its own cache
took a new process longer than a day of a service needs otherwise.
"""

from __future__ import annotations

import atexit
import contextlib
import dis
import fcntl
import functools
import hashlib
import importlib.metadata
import logging
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any, TextIO

import numpy as np

from rollforge.confidential import private_folder
from rollforge.expressions.machine_code import Kind, Source, array_arguments, load, processor
from rollforge.session import current_session

__all__ = ["NAN", "Kernel", "cache_folder", "exact", "kernel_version", "one_at_a_time", "reordering"]

log = logging.getLogger(__name__)

NAN = np.nan


@functools.cache
def kernel_version() -> str:
    """Return a hash of the kernels' code and the compiler's version."""
    versions = [importlib.metadata.version(name) for name in ("numba", "llvmlite", "numpy")]
    mark = hashlib.sha256(" ".join(versions).encode())
    for name in ("compiler", "jit", "kernels", "machine_code", "moments"):
        mark.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return mark.hexdigest()[:16]


def _cache_folder() -> str:
    """Return the folder of compiled code: in the cache shared by all processes or, if that is read-only or belongs to
    another user, a private folder of this process (compiled code is executed, so it is never loaded from a folder that
    others can write to).

    The folder is named after a hash of the kernels' code and of the compiler's version. Without any folder that can be
    written to, there is no such path, so that nothing is read or stored.
    """
    folder = Path(current_session().cache) / "kernels" / kernel_version()
    try:
        private_folder(folder)
        if os.access(folder, os.W_OK) and _is_private(folder):
            return str(folder)
    except OSError as exc:
        log.info("Compiled code is not cached: %s", exc)
    try:
        own = tempfile.mkdtemp(prefix="rollforge-kernels-")
    except OSError as exc:
        log.info("Compiled code is not cached: %s", exc)
        return f"{os.devnull}/kernels"
    atexit.register(_remove, own, os.getpid())
    return own


def _remove(folder: str, process: int) -> None:
    if os.getpid() == process:  # a forked child leaves its parent's folder
        shutil.rmtree(folder, ignore_errors=True)


def _is_private(folder: Path) -> bool:
    """Return whether only this user can write to a folder.

    If the folder is this user's and others can write to it (a permissive umask), that permission and all files are
    removed.
    """
    if not hasattr(os, "geteuid"):
        return True  # on Windows, the cache is in the user's profile
    state = folder.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid():
        return False
    if state.st_mode & 0o022:
        folder.chmod(stat.S_IMODE(state.st_mode) & ~0o022)
        for entry in folder.iterdir():  # existing files may come from others; they are compiled again
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    return True


_FOLDER = Path(os.environ.get("NUMBA_CACHE_DIR") or _cache_folder())


def cache_folder() -> Path:
    """Return the folder of this process's compiled code."""
    return _FOLDER


_compiling = threading.RLock()


class Kernel:
    """A loop over arrays in C order and numbers, compiled on its first call. It returns nothing and raises no errors.

    Parameters
    ----------
    function : callable
        The loop, in the part of Python that numba compiles. It may call other kernels.
    fastmath : set of str
        What the compiler may change about operations on floats; by default nothing.
    """

    def __init__(self, function: Callable[..., object], fastmath: frozenset[str] = frozenset()) -> None:
        functools.update_wrapper(self, function)
        self.function, self.fastmath = function, fastmath
        self._loaded: dict[tuple[object, ...], Callable[..., None]] = {}  # by kinds, and by the arguments' types

    def __call__(self, *arguments: Any) -> None:
        """Run the loop, without Python's global lock."""
        types: list[object] = []
        flat: list[Any] = []
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                flags = argument.flags
                if not (flags.c_contiguous and flags.aligned):
                    _kind(argument)  # raises
                types += [argument.dtype, argument.ndim]
                flat += array_arguments(argument)
            else:
                types.append(type(argument))
                flat.append(argument)
        run = self._loaded.get(tuple(types))
        if run is None:
            kinds = tuple(_kind(argument) for argument in arguments)
            with _compiling:
                run = self._loaded.get(kinds) or self._loaded.setdefault(kinds, self._load(kinds))
            self._loaded[tuple(types)] = run
        run(*flat)

    def _load(self, kinds: tuple[Kind, ...]) -> Callable[..., None]:
        """Return the compiled loop, from the cache if it is there."""
        file = cache_folder() / f"{self.function.__name__}-{_code_key(self.source(), kinds)}.o"
        code = _read(file)
        if code is None:
            with _alone(file):  # another process may be compiling it, such as the helper of precompile.py
                code = _read(file)
                if code is None:
                    from rollforge.expressions.compiler import compiled

                    code = compiled(self.source(), kinds)
                    _write(file, code)
        return load(code, kinds)

    def source(self) -> Source:
        """Return what the kernel is compiled from."""
        function = self.function
        assert isinstance(function, FunctionType)
        read = {one.argval for one in dis.get_instructions(function) if one.opname == "LOAD_GLOBAL"}  # not attributes
        named = {name: function.__globals__.get(name) for name in function.__code__.co_names if name in read}
        used = {name: value.source() for name, value in named.items() if isinstance(value, Kernel)}
        return Source(function, self.fastmath, used)


def exact(function: Callable[..., object]) -> Any:  # Any, as a kernel that another one calls returns values
    """Return a :class:`Kernel` with operations in the order in which they are written."""
    return Kernel(function)


def reordering(function: Callable[..., object]) -> Any:
    """Return a :class:`Kernel` with reordering of sums (vector instructions); NaN and infinity keep their meaning."""
    return Kernel(function, frozenset({"reassoc", "contract"}))


def _kind(argument: object) -> Kind:
    if isinstance(argument, np.ndarray):
        if not argument.flags.c_contiguous:
            raise ValueError(f"A kernel takes arrays in C order, not with strides {argument.strides}.")
        if not (argument.dtype.isnative and argument.flags.aligned):
            raise ValueError(
                f"A kernel takes aligned arrays of this machine's byte order, not of {argument.dtype.str!r}."
            )
        return argument.dtype.name, argument.ndim
    if isinstance(argument, (bool, np.bool_)):
        return "bool", 0
    return ("int64", 0) if isinstance(argument, (int, np.integer)) else ("float64", 0)


def _code_key(source: Source, kinds: tuple[Kind, ...]) -> str:
    return hashlib.sha256(repr((kernel_version(), processor(), _marks(source), kinds)).encode()).hexdigest()[:16]


def _marks(source: Source) -> list[object]:
    """Return what distinguishes a kernel from others of its name: where it is defined, and the content of that file."""
    function = source.function
    assert isinstance(function, FunctionType)
    code = function.__code__
    used = [(name, _marks(one)) for name, one in sorted(source.used.items())]
    place = (function.__qualname__, code.co_firstlineno, sorted(source.fastmath))
    return [*place, _file_mark(code.co_filename) or (code.co_code.hex(), repr(code.co_consts)), used]


@functools.cache
def _file_mark(file: str) -> str:
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError:  # code without a file
        return ""


_PATIENCE = 10.0
"""Seconds to wait for another process; compiling a kernel takes about one."""
_LONG_PATIENCE = 60.0
"""Seconds to wait for another process that compiles all kernels that it needs; this takes about ten."""


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Wait while another process compiles the code of a file; not for one that has been stopped.

    A process that waited does not exclude others afterwards: the code is there, or it could not be written.
    """
    lock = file.with_name(f"{file.name}.lock")
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # without a writable folder nothing is shared
            file.parent.mkdir(parents=True, exist_ok=True)
            handle = held.enter_context(lock.open("w"))
            held.callback(_unlink, lock)
            if not _locked(handle):
                _await(handle, _PATIENCE)
                held.close()
        yield


def _locked(handle: TextIO) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _await(handle: TextIO, seconds: float) -> bool:
    """Wait for a lock, and return whether this process holds it then."""
    until = time.monotonic() + seconds
    while not (held := _locked(handle)) and time.monotonic() < until:
        time.sleep(0.005)
    return held


def _unlink(file: Path) -> None:
    with contextlib.suppress(OSError):
        file.unlink()


def _read(file: Path) -> bytes | None:
    """Return the machine code in a file; None if there is none, or it is damaged."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    digest, code = content[:32], content[32:]
    return code if hashlib.sha256(code).digest() == digest else None


def _write(file: Path, code: bytes) -> None:
    """Write machine code to a file after its hash: a process may be killed meanwhile, or the disk be full."""
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(hashlib.sha256(code).digest() + code)
        draft.replace(file)
    except OSError as exc:
        log.info("Compiled code is not cached: %s", exc)
        _unlink(draft)


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Hold a lock that excludes other processes that use the same folder of compiled code.

    A process that holds it for a long time has been stopped, and is not awaited: both compile then.
    """
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # without a writable folder nothing is shared
            cache_folder().mkdir(parents=True, exist_ok=True)
            handle = held.enter_context((cache_folder() / ".lock").open("w"))
            if _await(handle, _LONG_PATIENCE):
                held.callback(fcntl.flock, handle, fcntl.LOCK_UN)  # a process that was forked has the file open, too
        yield
