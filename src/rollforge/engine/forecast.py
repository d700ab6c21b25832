"""Forecasts of runs for ``rollforge plan --on``: the resources asked of an engine, and the data sent. Nothing is started."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from rollforge.engine.executors import EngineExecutor
from rollforge.engine.modules import Named
from rollforge.engine.parcel import sizes
from rollforge.engine.resources import Resources
from rollforge.errors import counted
from rollforge.run.task_resources import RESOURCES, TaskResources, read_resources
from rollforge.session import Session
from rollforge.task import encode

__all__ = ["Forecast", "forecast"]


@dataclass(frozen=True, slots=True)
class Forecast:
    """Resources that a run would ask of an engine, and data that it would send.

    Examples
    --------
    >>> Forecast("Ray, the cluster head:6379", Resources(200, 4, 8 * 2**30, tasks=6), {}, None).lines()[1]
    'asks    6 agents for 6 tasks, each with 4 cores and 8 GiB of memory'
    """

    target: str
    """Which cluster it is."""
    resources: Resources
    panels: Mapping[str, int | None]
    """Name of each panel that is sent -> its size in bytes; None if it is not in the cache yet."""
    folder: str | None
    """The data folder that all machines must have; None if they are sent what tasks read."""
    shapes: tuple[Resources, ...] = ()
    """Resources of the tasks that ask for their own, if not all ask for the same; they run at the same time."""
    values: int = 0
    """Size of the files of the data folder that are sent in addition, in bytes."""

    def lines(self) -> list[str]:
        """Return the forecast as text, without a line about what is started."""
        asked = self.resources
        rows = [("engine", self.target)]
        rows += [("and" if i else "asks", _asks(one)) for i, one in enumerate(self.shapes or (asked,))]
        number = asked.agents(asked.tasks or 0)
        if number > 1 and not self.shapes:
            rows.append(("total", ("at most " if asked.jobs is None else "") + asked.text(number)))
        if self.shapes and asked.jobs is not None:
            rows.append(("total", f"at most {counted(asked.jobs, 'agent')} at a time"))
        rows.append(("data", self._data()))
        return [f"{name:<7} {text}" for name, text in rows]

    def _data(self) -> str:
        if self.folder is not None:
            return f"{self.folder}, which all machines must have under this path"
        parts = [counted(len(self.panels), "panel")] if self.panels else []
        if self.values:
            parts.append("the data folder")
        if not parts:
            return "nothing is sent: the tasks read no data folder"
        known = [size for size in self.panels.values() if size is not None]
        missing = len(self.panels) - len(known)
        text = [f"{(sum(known) + self.values) / 1e6:,.1f} MB"] if known or self.values else []
        if missing:
            text.append(f"{counted(missing, 'panel')} not computed yet" if text else "not computed yet")
        return f"{' and '.join(parts)}, sent once to each machine: {' and '.join(text)}"


def _asks(asked: Resources) -> str:
    tasks = asked.tasks or 0
    number = asked.agents(tasks)
    if asked.jobs is None:
        said = f"as many agents as there is room for, at most {number:,} for {counted(tasks, 'task')}"
    else:
        said = f"{counted(number, 'agent')} for {counted(tasks, 'task')}"
    return f"{said}, each with {asked.text()}"


def forecast(tasks: Sequence[Mapping[str, object]], executor: EngineExecutor, session: Session) -> Forecast:
    """Return what a run of `tasks` would ask of an engine.

    Parameters
    ----------
    tasks : sequence of mapping
        Definitions of the tasks.
    executor : EngineExecutor
        Where they would run.
    session : Session
        Session of the tasks.
    """
    common = executor.resources.for_tasks(len(tasks))
    shapes = [
        replace(common.for_tasks(number), **{k: v for k, v in asdict(asked).items() if v is not None})
        for asked, number in sorted(_counted(tasks).items(), key=lambda one: one[0].order, reverse=True)
    ]
    resources = shapes[0] if len(shapes) == 1 else common
    several = tuple(shapes) if len(shapes) > 1 else ()
    target = executor.target(len(tasks))
    if session.provider_uri is None:
        return Forecast(target, resources, {}, None, several)
    if executor.data == "shared":
        return Forecast(target, resources, {}, session.folder(), several)
    stored = [Named(json.loads(encode(task)), True) for task in tasks]  # as in a pool
    panels, values = sizes(stored, session)
    return Forecast(target, resources, panels, None, several, values)


def _counted(tasks: Sequence[Mapping[str, object]]) -> Counter[TaskResources]:
    return Counter(read_resources(task.get(RESOURCES)) for task in tasks)
