"""Apply generators to named tasks, so that each new model has its own name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rollforge.dates import DayLike
from rollforge.errors import BuildError, ConfigError, shown
from rollforge.generate.base import NamedTaskGen, SupportsFollowing, TaskGen, check_count, copy_task
from rollforge.generate.naming import model_names
from rollforge.limits import LIMITS
from rollforge.task import Definition

__all__ = ["ChainGen", "Named", "apply_generator", "joined_name"]

Named = tuple[str, Definition]
"""The name of a task's model, and the task."""


def apply_generator(generator: TaskGen, tasks: Sequence[Named]) -> list[Named]:
    """Apply `generator` to each task, and return the generated tasks with the names of the models.

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
    generated: list[tuple[str, str, Definition]] = []  # (name before, name given by the generator, task)
    for name, task in tasks:
        for given, one in _checked(generator, task):
            generated.append((name, given, one))
        LIMITS["tasks"].check(len(generated), f"{noun} makes")
    if generator.only_windows:
        return [(name, one) for name, _, one in generated]
    names = [given for _, given, _ in generated]
    for before in dict.fromkeys(name for name, _, _ in generated):
        unnamed = [i for i, (name, given, _) in enumerate(generated) if name == before and not given]
        for i, differences in zip(unnamed, model_names([generated[i][2] for i in unnamed]), strict=True):
            names[i] = differences
    return [(joined_name(name, own), one) for (name, _, one), own in zip(generated, names, strict=True)]


def _checked(generator: TaskGen, task: Definition) -> list[Named]:
    """Return the named tasks that a generator, which may be the user's own, generates from a copy of `task`.

    Raises
    ------
    BuildError
        If they are not tasks, or if a name is not printable.
    """
    noun = type(generator).__name__
    overrides = type(generator).named is not TaskGen.named
    new: object = generator.named(copy_task(task)) if overrides else generator.generate(copy_task(task))
    if isinstance(new, (Mapping, str)) or not isinstance(new, Iterable):
        raise BuildError(f"{noun} must return a list of tasks, found {shown(new)}.")
    checked: list[Named] = []
    for entry in new:
        pair = entry if overrides else ("", entry)
        if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[0], str):
            raise BuildError(f"named() of {noun} must return pairs of a name and a task, found {shown(pair)}.")
        name, one = pair
        if not isinstance(one, dict):
            raise BuildError(f"{noun} must generate tasks, which are mappings; found {shown(one)}.")
        lost = next((part for part in ("model", "dataset") if part in task and part not in one), None)
        if lost is not None:
            raise BuildError(f"{noun} generated a task without a {lost}.")
        if not name.isprintable():
            raise BuildError(f"{noun} gave a model a name with characters that cannot be printed: {name!r:.80}.")
        checked.append((name, one))
    return checked


class ChainGen(NamedTaskGen):
    """Applies several generators in turn, such as a grid and windows, as the section ``generate`` of a workflow does.

    Parameters
    ----------
    generators : sequence of TaskGen
        At least one.

    Raises
    ------
    ConfigError
        If there is none.

    Examples
    --------
    >>> import pandas as pd
    >>> from rollforge.generate.grid import GridGen
    >>> from rollforge.generate.rolling import RollingGen
    >>> days = pd.bdate_range("2024-01-01", periods=10)
    >>> template = {"model": {"class": "LinearModel", "kwargs": {}}, "dataset": {"kwargs": {"segments": {
    ...     "train": ("2024-01-01", "2024-01-04"), "test": ("2024-01-05", "2024-01-10")}}}}
    >>> chain = ChainGen([GridGen({"model.kwargs.alpha": [0.1, 1.0]}), RollingGen(step=2, calendar=days)])
    >>> tasks = chain.generate(template)
    >>> len(tasks)
    4
    >>> for task in chain.gen_following_tasks(tasks[-1], "2024-01-12"):
    ...     print(task["model"]["kwargs"], f'{task["dataset"]["kwargs"]["segments"]["test"][0]:%d}')
    {'alpha': 1.0} 11
    """

    def __init__(self, generators: Sequence[TaskGen]) -> None:
        self.generators = list(generators)
        other = next((one for one in self.generators if not isinstance(one, TaskGen)), None)
        if not self.generators or other is not None:
            raise ConfigError(f"must be a list of task generators, found {shown(other)}.", path="generators")

    def count(self, task: Mapping[str, object]) -> int | None:
        """Return the product of the numbers of tasks that the generators create; None if one of them is unknown."""
        numbers = [one.count(task) for one in self.generators]
        known = [number for number in numbers if number is not None]
        return math.prod(known) if len(known) == len(numbers) else None

    def named(self, task: Definition) -> list[Named]:
        """Apply the generators in turn, and return the tasks of the last one with the names of their models."""
        check_count([task], self.generators)
        made: list[Named] = [("", task)]
        for generator in self.generators:
            made = apply_generator(generator, made)
        return made

    def gen_following_tasks(self, task: Definition, test_end: DayLike | None) -> Iterator[Definition]:
        """Yield the windows that follow `task`, see :class:`~rollforge.generate.base.SupportsFollowing`.

        Raises
        ------
        ConfigError
            If none, or more than one, of the generators can continue from a window.
        """
        able = [one for one in self.generators if isinstance(one, SupportsFollowing)]
        if len(able) != 1:
            named = ", ".join(type(one).__name__ for one in able or self.generators)
            raise ConfigError(
                f"one generator must be able to continue from a window (gen_following_tasks); of {named}, "
                f"{'none' if not able else 'several'} can.",
                path="generators",
            )
        yield from able[0].gen_following_tasks(task, test_end)


def joined_name(*names: str) -> str:
    """Return the parts of a name that are not empty, separated by commas."""
    return ", ".join(filter(None, names))
