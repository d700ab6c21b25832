"""``python -m rollforge.compat.qlib SCRIPT [ARGS]`` and ``… -m MODULE [ARGS]``."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path
from types import ModuleType

from rollforge.qlib_names import PROGRAMS

_USAGE = (
    "usage: python -m rollforge.compat.qlib SCRIPT [ARGS]\n       python -m rollforge.compat.qlib -m MODULE [ARGS]\n"
)


def main(arguments: list[str]) -> None:
    """Run a script, or a module, in which ``import qlib`` leads to Rollforge."""
    if not arguments or arguments[0] in ("-h", "--help") or arguments == ["-m"]:
        sys.stderr.write(_USAGE)
        sys.exit(0 if arguments[:1] in (["-h"], ["--help"]) else 2)
    if arguments[0] == "-m":
        _run_module(arguments[1], arguments[2:])
    else:
        _run_script(arguments[0], arguments[1:])


def _run_module(name: str, rest: list[str]) -> None:
    sys.argv = [name, *rest]
    program = PROGRAMS.get(name)
    if program is None:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
        return
    module, _, function = program.partition(":")
    getattr(importlib.import_module(module), function)()


def _run_script(script: str, rest: list[str]) -> None:
    file = Path(script)
    if not file.is_file():
        sys.stderr.write(f"rollforge: there is no script {script!r}\n")
        sys.exit(2)
    sys.argv = [script, *rest]
    sys.path.insert(0, str(file.resolve().parent))
    # A module of its own as __main__, so that worker processes find the script again by its path.
    main_module = ModuleType("__main__")
    main_module.__file__ = str(file)
    main_module.__builtins__ = __builtins__  # type: ignore[attr-defined]
    sys.modules["__main__"] = main_module
    exec(compile(file.read_bytes(), str(file), "exec"), main_module.__dict__)


if __name__ == "__main__":
    main(sys.argv[1:])
