"""Make members.json of this folder with pyqlib 0.9.7: python make.py (pyqlib installed).

It has the public methods that the classes of Qlib's modules define, with the names of their arguments.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LEFT_OUT = (
    "qlib.rl",
    "qlib.contrib.meta",
    "qlib.contrib.torch",
    "qlib.contrib.tuner",
    "qlib.contrib.online",
    "pytorch",
)


def arguments(member: Any) -> list[str]:
    """Return the names of the arguments of a method, without the object and without ``*`` and ``**``."""
    function = getattr(member, "__func__", member)
    found = list(inspect.signature(function).parameters.values())
    if not isinstance(member, staticmethod):
        found = found[1:]
    return [p.name for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def main() -> None:
    """Write the file."""
    import qlib

    made: dict[str, dict[str, list[str]]] = {}
    for module in pkgutil.walk_packages(qlib.__path__, "qlib."):
        if any(part in module.name for part in LEFT_OUT):
            continue
        try:
            found = importlib.import_module(module.name)
        except Exception:  # noqa: BLE001 - such as a missing library
            continue
        for name, kind in vars(found).items():
            if inspect.isclass(kind) and kind.__module__ == module.name:
                methods = {
                    n: arguments(m)
                    for n, m in sorted(vars(kind).items())
                    if not n.startswith("_") and (inspect.isfunction(m) or isinstance(m, (classmethod, staticmethod)))
                }
                if methods:
                    made[f"{module.name}.{name}"] = methods
    lines = [f" {json.dumps(name)}: {json.dumps(methods)}" for name, methods in sorted(made.items())]
    (HERE / "members.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
