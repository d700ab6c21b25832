"""``python -m rollforge.compat.qlib [--store URI] SCRIPT [ARGS]`` and ``… -m MODULE [ARGS]``."""

from __future__ import annotations

import importlib.util
import os
import runpy
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from rollforge.errors import MissingDependency, RollforgeError, StoreUnavailable

_USAGE = """usage: python -m rollforge.compat.qlib [--store URI] SCRIPT [ARGS]
       python -m rollforge.compat.qlib [--store URI] -m MODULE [ARGS]

  --store URI   keep tasks there (sqlite:///tasks.db, postgresql://…), even if the script sets a MongoDB;
                the environment variable ROLLFORGE_STORE does the same
"""


def main(arguments: list[str]) -> None:
    """Run a script or a module in which ``import qlib`` resolves to Rollforge."""
    arguments = _without_store(arguments)
    if not arguments or arguments[0] in ("-h", "--help") or arguments == ["-m"]:
        asked = arguments[:1] in (["-h"], ["--help"])
        (sys.stdout if asked else sys.stderr).write(_USAGE)
        sys.exit(0 if asked else 2)
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        _guarded(lambda: _run_module(arguments[1]))
    elif arguments[0].startswith("-"):
        _refuse(f"unknown option {arguments[0]!r}; options of the script must follow its name\n{_USAGE.rstrip()}")
    else:
        _run_script(arguments[0], arguments[1:])


def _without_store(arguments: list[str]) -> list[str]:
    """Take ``--store`` from the arguments; processes that the script starts inherit it."""
    if not arguments or arguments[0].partition("=")[0] != "--store":
        return arguments
    _, equals, uri = arguments[0].partition("=")
    rest = arguments[1:]
    if not equals and rest:
        uri, rest = rest[0], rest[1:]
    if "://" not in uri:
        _refuse(f"--store needs the URI of a task store, such as sqlite:///tasks.db; found {uri!r}")
    os.environ["ROLLFORGE_STORE"] = uri
    return rest


def _refuse(message: str) -> None:
    from rollforge.cli.terminal import echo_error

    echo_error(f"rollforge: {message}")
    sys.exit(2)


def _run_module(name: str) -> None:
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError as exc:
        if isinstance(exc, RollforgeError):
            raise
        found = None  # a parent package does not exist
    if found is None:
        _refuse(f"there is no module {name!r}")
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _run_script(script: str, rest: list[str]) -> None:
    file = Path(script)
    if not file.is_file():
        _refuse(f"there is no script {script!r}")
    if file.suffix in (".yaml", ".yml"):
        _refuse(f"{script!r} is a workflow file, not a script: 'qrun {script}' runs it")
    sys.argv = [script, *rest]
    sys.path.insert(0, str(file.resolve().parent))
    # A separate module as __main__, so that worker processes can find the script by its path.
    main_module = ModuleType("__main__")
    main_module.__file__ = str(file)
    main_module.__builtins__ = __builtins__  # type: ignore[attr-defined]
    sys.modules["__main__"] = main_module
    _guarded(lambda: exec(compile(file.read_bytes(), str(file), "exec"), main_module.__dict__), script)


def _guarded(run: Callable[[], object], script: str | None = None) -> None:
    """Run a program; on a Rollforge error it exits with the message and the line of the script."""
    try:
        run()
    except RollforgeError as exc:
        if os.environ.get("ROLLFORGE_VERBOSE"):
            raise
        from rollforge.cli.exit_codes import exit_code
        from rollforge.cli.terminal import echo_error

        for frame in traceback.extract_tb(exc.__traceback__):
            if frame.filename == script:
                echo_error(f"{script}, line {frame.lineno}, in {frame.name}: {frame.line}")
        unreachable = isinstance(exc, (StoreUnavailable, MissingDependency)) and "mongodb" in str(exc)
        hint = " To keep the tasks in a file instead: --store sqlite:///tasks.db" if unreachable else ""
        echo_error(f"rollforge: {exc}{hint}")
        sys.exit(exit_code(exc))


if __name__ == "__main__":
    main(sys.argv[1:])
