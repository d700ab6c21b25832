"""Pass classes of a notebook or an interactive session to the worker processes that it starts.

A spawned process imports the script of its parent, but a notebook has no script. Classes in ``__main__`` that a task of
this user names are therefore sent with the task, through the pipe between the two processes and never through a pool.
"""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Iterator, Mapping

__all__ = ["define_in_main", "main_classes"]

_MAIN = "__main__"
_RECORDER = '{"recorder":'


def main_classes(text: str, *, of_script: bool = False) -> bytes | None:
    """Return the pickled classes of ``__main__`` in a definition; None if a worker process can import them.

    Parameters
    ----------
    text : str
        Stored definition of a task of this user. If it refers to a recorder, all classes are returned, because the task
        in the recorder may name any of them.
    of_script : bool
        Whether to return the classes of a script, too, because the worker process is on a machine that may not have it.
    """
    main: object = sys.modules.get(_MAIN)
    if not of_script and (getattr(main, "__file__", None) or getattr(main, "__spec__", None)):
        return None
    if _MAIN in text:
        found = {name: vars(main)[name] for name in set(_names(json.loads(text))) if name in vars(main)}
    elif _RECORDER in text:
        found = dict(vars(main))
    else:
        return None
    classes = {n: c for n, c in found.items() if isinstance(c, type) and c.__module__ == _MAIN}
    if not classes:
        return None
    import cloudpickle

    blob: bytes = cloudpickle.dumps(classes)
    return blob


def define_in_main(blob: bytes | None) -> None:
    """Define the classes that :func:`main_classes` returned in the parent process."""
    if blob is not None:
        vars(sys.modules[_MAIN]).update(pickle.loads(blob))


def _names(node: object) -> Iterator[str]:
    if isinstance(node, list):
        for value in node:
            yield from _names(value)
    elif isinstance(node, Mapping):
        name = node.get("class")
        if isinstance(name, str):
            module = node.get("module_path")
            if module == _MAIN:
                yield name
            elif not module and name.startswith(f"{_MAIN}."):
                yield name.removeprefix(f"{_MAIN}.")
        for value in node.values():
            yield from _names(value)
