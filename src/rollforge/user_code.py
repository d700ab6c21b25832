"""Importing a user's Python file, and describing errors in it.

A process that runs tasks of another machine can use the modules that this machine sent (:func:`use_sent`).
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import json
import os
import re
import sys
import traceback
from pathlib import Path
from types import CodeType, ModuleType

from rollforge.errors import BuildError, ConfigError, MissingCode
from rollforge.paths import read_path

__all__ = [
    "BY_PATH", "FILES", "MODULES", "SENT", "describe", "file_digest", "file_state", "import_file", "module_name", "use_sent",
]  # fmt: skip

_PACKAGE = Path(__file__).parent
SENT = "rollforge-modules.json"
"""File that describes a folder with the modules of a user of another machine."""
BY_PATH = "by_path"
"""Its key with the ``.py`` files: path, as definitions name it -> path in the folder."""
MODULES = "modules"
"""Subfolder with the modules and packages that are imported by name."""
FILES = "files"
"""Subfolder with the files that are imported by their path."""
_sent: dict[str, Path] = {}


def use_sent(folder: Path) -> None:
    """Import modules of a user of another machine from a folder: by name before all others, and files by their path there.

    Parameters
    ----------
    folder : Path
        The folder.
    """
    known = json.loads((folder / SENT).read_text(encoding="utf-8"))
    _sent.update({given: folder / place for given, place in known[BY_PATH].items()})
    sys.path.insert(0, str(folder / MODULES))


class _SourceLoader(importlib.machinery.SourceFileLoader):
    """Compiles the file each time: cached bytecode of a file counts as current if an edit within the same second kept
    its size."""

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code


def module_name(path: str) -> str:
    """Return the module name that :func:`import_file` gives to a file.

    Examples
    --------
    >>> module_name("./lib/my model.py")
    'lib_my_model'
    """
    return re.sub(r"\W", "_", path.removesuffix(".py")).lstrip("_0123456789")


def import_file(path: str) -> ModuleType:
    """Import a Python file and return the module. The same module is returned as long as the file does not change.

    Raises
    ------
    BuildError
        If the file does not exist or cannot be imported.
    """
    named = read_path(path)
    file = _sent.get(path, named)
    try:
        state = file.stat()
    except OSError:
        raise MissingCode(f"There is no Python file {path!r} (relative to {os.getcwd()}).") from None
    name = module_name(path)
    known = sys.modules.get(name)
    version = (str(named.resolve()), state.st_mtime_ns, state.st_size)
    if known is not None and getattr(known, "__rollforge_file__", None) == version:
        return known
    spec = importlib.util.spec_from_file_location(name, file, loader=_SourceLoader(name, str(file)))
    if spec is None or spec.loader is None:
        raise BuildError(f"{path!r} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as exc:
        del sys.modules[name]
        kind = MissingCode if isinstance(exc, ModuleNotFoundError) else BuildError
        raise kind(f"{path!r} cannot be imported: {describe(exc)}") from exc
    module.__dict__["__rollforge_file__"] = version
    return module


def file_state(path: str) -> tuple[int, int] | None:
    """Return modification time (ns) and size of a file, which change when it is written; None if it cannot be read."""
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        return None
    return state.st_mtime_ns, state.st_size


def file_digest(path: str) -> str:
    """Return the SHA-256 digest of a regular file's bytes, as hexadecimal digits; empty if it cannot be read."""
    try:
        file = read_path(path)
        if not file.is_file():
            return ""
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, ConfigError):
        return ""


def describe(exc: BaseException) -> str:
    """Return one sentence that describes an error in user code, with the file and line in which it was raised.

    Examples
    --------
    >>> describe(SyntaxError("invalid syntax", ("mine.py", 3, 1, "a b")))
    'SyntaxError: invalid syntax (mine.py, line 3).'
    """
    frames = traceback.extract_tb(exc.__traceback__)
    outside = [f for f in frames if "importlib" not in f.filename]
    own = [f for f in outside if not Path(f.filename).is_relative_to(_PACKAGE)]
    last = next(reversed(own or outside), None)  # where the user's code called ours, not where ours refused
    if isinstance(exc, SyntaxError):
        return f"SyntaxError: {exc}."
    where = f" ({last.filename}, line {last.lineno})" if last is not None else ""
    text = f": {str(exc).rstrip('.')}" if str(exc) else ""
    return f"{type(exc).__name__}{text}{where}."
