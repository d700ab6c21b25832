"""Save objects as files, and load them.

=========================== ======================== =====================================================
object                      file                     read by
=========================== ======================== =====================================================
DataFrame, Series           ``NAME.frame.parquet``   :mod:`rollforge.track.frame`; any Parquet reader
numpy array                 ``NAME.array.npy``       :func:`numpy.load` without pickles
plain data                  ``NAME.plain.json``      :func:`rollforge.task.from_plain`
with its own file format    ``NAME.saved.zip``       its ``load_from``, see :class:`SupportsSave`
anything else               ``NAME`` (cloudpickle)   the allow-list of :mod:`rollforge.safe_pickle`
=========================== ======================== =====================================================

Whatever the file, an object is saved, listed and loaded under the name that Qlib uses: ``pred.pkl``. A format is used
only if it restores the object exactly; otherwise the next one is tried. Loading executes only code of Rollforge and of
the allow-list, unless the caller passes ``trusted=True``.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from types import FunctionType
from typing import Any, Protocol, runtime_checkable

from rollforge import qlib_imports, safe_pickle, trust
from rollforge.errors import ArtifactUnreadable, RollforgeError, TaskNotSerializable, UntrustedPickle
from rollforge.limits import check_archive, check_file
from rollforge.pickling import dump
from rollforge.task import from_plain, import_reference, to_plain
from rollforge.track.artifact_files import Files, LocalFiles

__all__ = [
    "ArtifactRefused", "SupportsSave", "find", "frame_name", "load_file", "load_part", "names", "plain_name", "remove", "save",
]  # fmt: skip

_FRAME = ".frame.parquet"
_ARRAY = ".array.npy"
_PLAIN = ".plain.json"
_SAVED = ".saved.zip"
_FORMS = ("", _FRAME, _ARRAY, _PLAIN, _SAVED)
_ABOUT = "rollforge.json"
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_trusted: ContextVar[bool] = ContextVar("trusted", default=False)
"""True while a file that the caller trusts is loaded."""


class ArtifactRefused(ArtifactUnreadable, UntrustedPickle):
    """The artifact refers to a type or a module that is not on the allow-list. Nothing in it was executed."""


@runtime_checkable
class SupportsSave(Protocol):
    """An object with its own file format, such as a model with a text format."""

    def save_to(self, folder: Path) -> None:
        """Write files into an empty folder."""

    @classmethod
    def load_from(cls, folder: Path) -> Any:
        """Return the object that was saved in a folder."""


def plain_name(file_name: str) -> str:
    """Return the name under which an object was saved, from the name of its file.

    Examples
    --------
    >>> plain_name("pred.pkl.frame.parquet"), plain_name("task.plain.json"), plain_name("notes.parquet")
    ('pred.pkl', 'task', 'notes.parquet')
    """
    for form in _FORMS[1:]:
        if file_name.endswith(form) and file_name != form:
            return file_name.removesuffix(form)
    return file_name


def frame_name(name: str) -> str:
    """Return the name of the file of a frame that is saved as `name`.

    Examples
    --------
    >>> frame_name("pred.pkl")
    'pred.pkl.frame.parquet'
    """
    return name + _FRAME


# -- saving ------------------------------------------------------------------------------------------------------------


def save(files: Files, name: str, value: object) -> None:
    """Save `value` as the artifact `name`, completely or not at all, replacing an artifact with that name.

    Raises
    ------
    TrackingUnavailable
        If it cannot be written.
    """
    form, write = _form(value)
    with files.draft(name + form) as draft:
        write(draft)
    folder, _, last = name.rpartition("/")
    there = set(files.list(folder))
    for other in _FORMS:
        if other != form and last + other in there:
            files.remove(name + other)


def remove(files: Files, name: str) -> None:
    """Remove the artifact `name` if it exists."""
    folder, _, last = name.rpartition("/")
    there = set(files.list(folder))
    for form in _FORMS:
        if last + form in there:
            files.remove(name + form)


def _form(value: Any) -> tuple[str, Callable[[Path], object]]:
    """Return the file suffix for an object, and the function that writes the file."""
    pandas, numpy = sys.modules.get("pandas"), sys.modules.get("numpy")  # without the import there are no such objects
    if pandas is not None and isinstance(value, (pandas.DataFrame, pandas.Series)):
        from rollforge.track import frame

        table = frame.to_arrow(value)
        if table is not None:
            return _FRAME, lambda file: frame.write_table(table, file)
    elif numpy is not None and type(value) is numpy.ndarray and not value.dtype.hasobject:
        return _ARRAY, lambda file: _write_array(value, file)
    # Asking for the attribute first is much faster than the protocol's own check.
    elif hasattr(value, "save_to") and isinstance(value, SupportsSave) and not isinstance(value, type):
        return _SAVED, lambda file: _write_saved(value, file)
    elif _exact(value):
        with contextlib.suppress(TaskNotSerializable):  # text that JSON files cannot hold
            text = _JSON.encode(to_plain(value))
            return _PLAIN, lambda file: file.write_text(text, encoding="utf-8")
    return "", lambda file: _write_pickle(value, file)


def _write_pickle(value: object, file: Path) -> None:
    with file.open("wb") as stream:
        dump(value, stream)


def _write_array(value: Any, file: Path) -> None:
    import numpy as np

    with file.open("wb") as handle:  # numpy would add a suffix to a path
        np.save(handle, value, allow_pickle=False)


def _write_saved(value: SupportsSave, file: Path) -> None:
    kind = type(value)
    with tempfile.TemporaryDirectory(prefix="rollforge-") as folder:
        value.save_to(Path(folder))
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(_ABOUT, json.dumps({"module": kind.__module__, "class": kind.__qualname__}))
            for part in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
                archive.write(part, f"data/{part.relative_to(folder).as_posix()}")


def _exact(value: Any, depth: int = 0) -> bool:
    """Return whether JSON restores `value` exactly, with its types and the order of its keys."""
    kind = type(value)
    if kind in (bool, int, float, str, bytes, type(None)):
        return kind is not int or value.bit_length() < 10_000  # Python does not parse longer integers
    if depth > 50:
        return False
    if kind is dict:
        # Keys that are not strings are stored as pairs, in another order.
        return all(type(k) is str and not k.startswith("$") and _exact(v, depth + 1) for k, v in value.items())
    if kind in (list, tuple):
        return all(_exact(v, depth + 1) for v in value)
    if kind in (type, FunctionType):
        return _is_importable(value)
    return kind.__module__.partition(".")[0] in ("datetime", "pandas") and _same_moment(value)


def _is_importable(value: Any) -> bool:
    """Return whether a class or function can be found by its own name, so that a reference to it can be stored."""
    target: object = sys.modules.get(value.__module__)
    for part in value.__qualname__.split("."):
        target = getattr(target, part, None)
    return target is value and value.__module__ != "__main__"


def _same_moment(value: object) -> bool:
    try:
        plain = to_plain(value)
        back = from_plain(plain)
    except (RollforgeError, ValueError):
        return False
    return type(back) is type(value) and repr(back) == repr(value) and _unit(back) == _unit(value)


def _unit(value: object) -> object:
    return getattr(value, "unit", None)


# -- loading -----------------------------------------------------------------------------------------------------------


def find(files: Files, name: str) -> Path | None:
    """Return the file of the object saved as `name`, or None."""
    for form in _FORMS:
        found = files.get(name + form)
        if found is not None:
            return found
    return None


def names(files: Files, folder: str = "") -> list[str]:
    """Return the names of the objects and files in an artifact folder."""
    return sorted({plain_name(f.rstrip("/")) for f in files.list(folder)})


def load_file(file: Path, *, trusted: bool = False) -> Any:
    """Return the object in a file.

    Raises
    ------
    ArtifactUnreadable
        If the file is truncated or has an unknown format.
    ArtifactRefused
        If it refers to something that may not be loaded, and `trusted` is False. Nothing in it has been executed.
    """
    outer = _trusted.set(trusted)
    try:
        return _load_file(file, trusted)
    finally:
        _trusted.reset(outer)


def _load_file(file: Path, trusted: bool) -> object:
    if trusted:
        qlib_imports.prepare()  # a custom class may derive from one of Qlib's
    try:
        check_file(file, error=ArtifactUnreadable)
        for form, read in _READERS.items():
            if file.name.endswith(form):
                return read(file, trusted)
        return safe_pickle.load(file, trusted=trusted)
    except ArtifactUnreadable:
        raise
    except UntrustedPickle as exc:
        raise ArtifactRefused(f"The artifact {file} was not loaded. {exc}") from exc
    except ImportError as exc:
        raise ArtifactUnreadable(f"The artifact {file} refers to a name that does not exist: {exc}") from exc
    except RollforgeError:
        raise
    except Exception as exc:  # damaged data can raise anything in the libraries that read them
        raise ArtifactUnreadable(f"The artifact {file} cannot be read: {type(exc).__name__}: {exc}") from exc


def load_part(folder: Path, name: str) -> Any:
    """Return an object that a ``save_to`` saved in its folder with :func:`save`, for its ``load_from``.

    It is trusted only if the file of which it is a part is.

    Raises
    ------
    ArtifactUnreadable, ArtifactRefused
        As for :func:`load_file`; also if there is no such object.
    """
    found = find(LocalFiles(folder), name)
    if found is None:
        raise ArtifactUnreadable(f"The saved object lacks its part {name!r}.")
    return load_file(found, trusted=_trusted.get())


def _read_frame(file: Path, trusted: bool) -> object:
    from rollforge.track import frame

    return frame.read_table(file)


_MAX_AXIS_LENGTH = 2**40
"""An empty array can have axes of any length."""


def _read_array(file: Path, trusted: bool) -> object:
    import numpy as np

    with file.open("rb") as stream:  # a damaged header may claim more data than the file or memory holds
        major, _ = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(stream)
        # Values of no size, such as empty strings, take memory as soon as they are used.
        if math.prod(shape) * max(dtype.itemsize, 1) > file.stat().st_size or any(n > _MAX_AXIS_LENGTH for n in shape):
            raise ArtifactUnreadable(
                f"The artifact {file} is truncated: according to its header it contains {shape} values of {dtype}."
            )
    values: np.ndarray = np.load(file, allow_pickle=False)
    if dtype.kind in "UV":  # numpy does not check text, which then fails wherever it is used
        try:
            values.tolist()
        except (SystemError, ValueError) as exc:
            raise ArtifactUnreadable(f"The artifact {file} is damaged: it contains invalid text ({exc}).") from exc
    return values


def _read_plain(file: Path, trusted: bool) -> object:
    plain = json.loads(file.read_text(encoding="utf-8", errors="surrogatepass"))
    find_reference = import_reference if trusted else _known_reference

    def resolve(module: str, name: str) -> object:
        try:
            return find_reference(module, name)
        except (ImportError, AttributeError) as exc:
            raise ArtifactUnreadable(
                f"The artifact {file} refers to {module}:{name}, which does not exist: {exc}"
            ) from exc

    return from_plain(plain, resolve=resolve)


def _known_reference(module: str, name: str) -> object:
    """Return a class or function of a module that is already imported; of Python's own modules, only classes."""
    package = module.partition(".")[0]
    if package != "rollforge" and module not in sys.modules and not trust.loads_back(module):
        raise ArtifactRefused(
            f"The artifact refers to {module}:{name}, and module {module!r} is not imported. Import it first, "
            "or load the artifact with trusted=True, which imports it."
        )
    found = import_reference(module, name)
    if not isinstance(found, (type, FunctionType)) or (found.__module__, found.__qualname__) != (module, name):
        raise ArtifactRefused(
            f"The artifact refers to {module}:{name}, which is not a class or function defined in that module."
        )
    if package in sys.stdlib_module_names and not isinstance(found, type):
        raise ArtifactRefused(
            f"The artifact refers to the function {module}:{name} of the standard library. Load it with "
            "trusted=True if you trust its source."
        )
    return found


def _read_saved(file: Path, trusted: bool) -> object:
    with zipfile.ZipFile(file) as archive, tempfile.TemporaryDirectory(prefix="rollforge-") as folder:
        check_archive(archive, file.stat().st_size, f"The artifact {file}", error=ArtifactUnreadable)
        about = json.loads(archive.read(_ABOUT))
        kind = safe_pickle.find_class(str(about["module"]), str(about["class"]), trusted=trusted)
        if not isinstance(kind, type) or not issubclass(kind, SupportsSave):
            raise ArtifactUnreadable(f"The artifact {file} is of {about['class']}, which has no 'load_from'.")
        data = Path(folder) / "data"
        data.mkdir()
        archive.extractall(folder, [n for n in archive.namelist() if n.startswith("data/")])
        return kind.load_from(data)


_READERS: dict[str, Callable[[Path, bool], object]] = {
    _FRAME: _read_frame,
    _ARRAY: _read_array,
    _PLAIN: _read_plain,
    _SAVED: _read_saved,
    ".parquet": _read_frame,
    ".npy": _read_array,
}
