"""Apply a generator to named tasks, so that each new model has a name of its own."""

from __future__ import annotations

from collections.abc import Sequence

from rollforge.errors import BuildError, shown
from rollforge.generate.base import TaskGen, copy_task
from rollforge.generate.naming import model_names
from rollforge.limits import LIMITS
from rollforge.task import Definition

__all__ = ["Named", "apply_generator", "joined_name"]

Named = tuple[str, Definition]
"""The name of a task's model, and the task."""


def apply_generator(generator: TaskGen, tasks: Sequence[Named]) -> list[Named]:
    """Return what `generator` makes of each task, with the names of the models.

    The name of a new model is that of the task from which it was generated, followed by the name that the generator gives
    it (:meth:`~rollforge.generate.base.TaskGen.named`) or, if it gives none, by its differences from the other tasks
    generated from tasks of that name. Windows of one model have one name.

    Parameters
    ----------
    generator : TaskGen
        It receives a copy of each task.
    tasks : sequence of (name, task)
        The tasks so far. Tasks with the same name are windows of one model.

    Raises
    ------
    BuildError
        If it does not return tasks.
    TooLarge
        If there are more tasks than the limit allows.

    Examples
    --------
    >>> from rollforge.generate.grid import GridGen
    >>> ridge = {"model": {"class": "LinearModel", "kwargs": {"estimator": "ridge"}}}
    >>> for name, task in apply_generator(GridGen({"model.kwargs.alpha": [0.1, 1.0]}), [("ridge", ridge)]):
    ...     print(name, task["model"]["kwargs"])
    ridge, alpha=0.1 {'estimator': 'ridge', 'alpha': 0.1}
    ridge, alpha=1.0 {'estimator': 'ridge', 'alpha': 1.0}
    """
    noun = type(generator).__name__
    made: list[tuple[str, str, Definition]] = []  # (name before, name given by the generator, task)
    for name, task in tasks:
        new = generator.named(copy_task(task))
        for given, one in new:
            if not isinstance(one, dict):
                raise BuildError(f"{noun} must generate tasks, which are mappings; found {shown(one)}.")
            made.append((name, given, one))
        LIMITS["tasks"].check(len(made), f"{noun} makes")
    if generator.only_windows:
        return [(name, one) for name, _, one in made]
    names = [given for _, given, _ in made]
    for before in dict.fromkeys(name for name, _, _ in made):
        unnamed = [i for i, (name, given, _) in enumerate(made) if name == before and not given]
        for i, differences in zip(unnamed, model_names([made[i][2] for i in unnamed]), strict=True):
            names[i] = differences
    return [(joined_name(name, own), one) for (name, _, one), own in zip(made, names, strict=True)]


def joined_name(*names: str) -> str:
    """Return the parts of a name that are not empty, separated by commas."""
    return ", ".join(filter(None, names))
