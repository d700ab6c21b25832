"""Functions of the driver that only the worker processes of agents import: their modules may change from job to job, and the
process of an agent may belong to an engine that runs for days."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import cloudpickle

from rollforge.run.job import Job

__all__ = ["Carried", "carried", "functions"]


class Carried:
    """A function with some arguments, as bytes until it is called.

    Parameters
    ----------
    func : callable
        The function. One that the program or notebook itself defines is carried with its code.
    kwargs : mapping
        Its further arguments.

    Examples
    --------
    >>> Carried(int, base=2)("11"), Carried(dict, func=1)()
    (3, {'func': 1})
    """

    def __init__(self, func: Callable[..., object], /, **kwargs: object) -> None:
        self._packed: bytes = cloudpickle.dumps((func, kwargs))

    def __call__(self, *args: Any) -> object:
        """Call the function."""
        func, kwargs = pickle.loads(self._packed)
        return func(*args, **kwargs)


def carried(job: Job) -> Job:
    """Return a job for agents: no module of the user is imported where it is unpickled."""
    preload: Any = None if job.preload is None else Carried(job.preload)
    return replace(job, task_func=Carried(job.task_func, **job.kwargs), kwargs={}, preload=preload, on_death=None)


def functions(job: Job) -> Iterator[object]:
    """Yield the functions and other objects with code of their own that the tasks of a job are run with.

    Examples
    --------
    >>> list(functions(Job("p", partial(max, 3), kwargs={"options": {"key": len, "n": 1}})))
    [<built-in function max>, <built-in function len>]
    """
    yield from _in(job.task_func)
    yield from _in(job.kwargs)


def _in(value: object) -> Iterator[object]:
    if isinstance(value, partial):
        yield from _in((value.func, value.args, value.keywords))
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _in(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _in(inner)
    elif isinstance(getattr(value, "__module__", None), str):
        yield value
