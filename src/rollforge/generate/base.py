"""Task generators, and templates times generators."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["TaskGen", "copy_task", "task_generator"]


def copy_task(value: Any) -> Any:
    """Return a copy of a task: new dicts, lists and tuples, the same leaves. Much faster than a deep copy."""
    if isinstance(value, dict):
        return {k: copy_task(v) for k, v in value.items()}
    if isinstance(value, list):
        return [copy_task(v) for v in value]
    if isinstance(value, tuple):
        return tuple(copy_task(v) for v in value)
    return value


class TaskGen(abc.ABC):
    """Makes tasks of a task. Its argument is never changed."""

    @abc.abstractmethod
    def generate(self, task: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the tasks that `task` stands for."""

    def __call__(self, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """Return :meth:`generate`."""
        return self.generate(*args, **kwargs)


def task_generator(
    tasks: Mapping[str, Any] | Sequence[Mapping[str, Any]], generators: TaskGen | Sequence[TaskGen]
) -> list[dict[str, Any]]:
    """Return every template taken through every generator, one generator after the other.

    Parameters
    ----------
    tasks : dict or sequence of dict
        Templates.
    generators : TaskGen or sequence of TaskGen
        A horizon generator of 2 and a rolling one of 5 make 10 tasks a template.
    """
    made = [copy_task(dict(t)) for t in ([tasks] if isinstance(tasks, Mapping) else tasks)]
    for generator in [generators] if isinstance(generators, TaskGen) else generators:
        made = [new for task in made for new in generator.generate(task)]
    return made
