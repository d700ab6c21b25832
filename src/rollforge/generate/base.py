"""Task generators, and the function that applies generators to templates."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from rollforge.dates import DayLike
from rollforge.limits import LIMITS
from rollforge.task import Definition, Document

__all__ = ["NamedTaskGen", "SupportsFollowing", "TaskGen", "copy_task", "task_generator"]


def copy_task(value: object) -> Any:
    """Return a copy of a task with new dicts, lists and tuples but the same leaves. Much faster than a deep copy."""
    if isinstance(value, dict):
        return {k: copy_task(v) for k, v in value.items()}
    if isinstance(value, list):
        return [copy_task(v) for v in value]
    if isinstance(value, tuple):
        return tuple(copy_task(v) for v in value)
    return value


class TaskGen(abc.ABC):
    """Base class of generators, which create tasks from a template. The template is never modified."""

    only_windows: ClassVar[bool] = False
    """True if its tasks are windows: they differ from the template in their days only, and all belong to its model."""

    @abc.abstractmethod
    def generate(self, task: Definition) -> list[Definition]:
        """Return the tasks generated from the template `task`."""

    def count(self, task: Document) -> int | None:
        """Return how many tasks :meth:`generate` would return for `task`, without generating them; None if unknown."""
        return None

    def named(self, task: Definition) -> list[tuple[str, Definition]]:
        """Return the tasks of :meth:`generate` with the names of their models; an empty name means that none is given.

        A workflow names models without a name after their differences.
        """
        return [("", made) for made in self.generate(task)]

    def __call__(self, *args: Any, **kwargs: Any) -> list[Definition]:
        """Return :meth:`generate`."""
        return self.generate(*args, **kwargs)


class NamedTaskGen(TaskGen):
    """Base class of generators whose tasks belong to different models: subclasses implement :meth:`named`."""

    @abc.abstractmethod
    def named(self, task: Definition) -> list[tuple[str, Definition]]:
        """Return the tasks generated from the template `task` with the names of their models."""

    def generate(self, task: Definition) -> list[Definition]:
        """Return the tasks of :meth:`named`."""
        return [made for _, made in self.named(task)]


@runtime_checkable
class SupportsFollowing(Protocol):
    """A generator of windows that can continue from one of them, as an online routine does when days are added.

    The windows generated step by step are the same as those that :meth:`TaskGen.generate` generates at once, if the test
    segment of the template ends on the same day. They are purged in the same way.
    """

    def gen_following_tasks(self, task: Definition, test_end: DayLike | None) -> Iterator[Definition]:
        """Yield the tasks that follow the window `task`, up to the one that contains `test_end`.

        Parameters
        ----------
        task : dict
            A task whose segments are those of one window; it is not yielded itself. It may be a window of any model: what
            earlier generators set in it is kept.
        test_end : date, optional
            The last day to test. None is the last day of the calendar.
        """


def task_generator(
    tasks: Mapping[str, object] | Sequence[Mapping[str, object]], generators: TaskGen | Sequence[TaskGen]
) -> list[Definition]:
    """Apply every generator in turn to every template, and return the tasks.

    Parameters
    ----------
    tasks : dict or sequence of dict
        Templates.
    generators : TaskGen or sequence of TaskGen
        A horizon generator with 2 horizons and a rolling generator with 5 windows create 10 tasks per template.

    Raises
    ------
    TooLarge
        If there would be more tasks than the limit allows; checked in advance if the generators can count.
    """
    made = [copy_task(dict(t)) for t in ([tasks] if isinstance(tasks, Mapping) else tasks)]
    taken = [generators] if isinstance(generators, TaskGen) else list(generators)
    check_count(made, taken)
    for generator in taken:
        before, made = made, []
        for task in before:
            made += generator.generate(task)
            LIMITS["tasks"].check(len(made), f"{type(generator).__name__} makes")
    return made


def check_count(templates: Sequence[Mapping[str, object]], generators: Sequence[TaskGen], path: str = "") -> None:
    """Check that templates and generators do not create more tasks than the limit allows.

    Parameters
    ----------
    templates : sequence of mapping
        The templates.
    generators : sequence of TaskGen
        They are applied in turn.
    path : str
        Their location in the document, for errors.

    Raises
    ------
    TooLarge
        If they do; the message contains the number of tasks.
    """
    if not templates:
        return
    counts = [(type(g).__name__, _counted(g, templates[0])) for g in generators]
    total = len(templates) * math.prod(n for _, n in counts)
    parts = [f"{len(templates):,} templates"] * (len(templates) > 1) + [f"{n:,} by {name}" for name, n in counts]
    counted_parts = (
        f"{' x '.join(parts)} make" if len(parts) > 1 else f"{counts[0][0]} makes" if counts else "there are"
    )
    LIMITS["tasks"].check(total, counted_parts, path=path)


def _counted(generator: TaskGen, task: Mapping[str, object]) -> int:
    try:
        number = generator.count(task)
    except Exception:  # noqa: BLE001 - an earlier generator may fix the template; if not, generate() raises
        return 1
    return number if isinstance(number, int) and number > 0 else 1
