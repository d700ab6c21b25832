"""Forecasts of runs for ``rollforge plan --on``: the resources asked of an engine, and the data sent. Nothing is started."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rollforge.engine.executors import EngineExecutor
from rollforge.engine.modules import Named
from rollforge.engine.parcel import sizes
from rollforge.engine.resources import Resources
from rollforge.errors import counted
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
    values: int = 0
    """Size of the files of the data folder that are sent in addition, in bytes."""

    def lines(self) -> list[str]:
        """Return the forecast as text, without a line about what is started."""
        asked, tasks = self.resources, self.resources.tasks or 0
        number = asked.agents(tasks)
        if asked.jobs is None:
            said = f"as many agents as there is room for, at most {number:,} for {counted(tasks, 'task')}"
        else:
            said = f"{counted(number, 'agent')} for {counted(tasks, 'task')}"
        rows = {"engine": self.target, "asks": f"{said}, each with {asked.text()}"}
        if number > 1:
            rows["total"] = ("at most " if asked.jobs is None else "") + asked.text(number)
        rows["data"] = self._data()
        return [f"{name:<7} {text}" for name, text in rows.items()]

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
    resources = executor.resources.for_tasks(len(tasks))
    target = executor.target(len(tasks))
    if session.provider_uri is None:
        return Forecast(target, resources, {}, None)
    if executor.data == "shared":
        return Forecast(target, resources, {}, session.folder())
    stored = [Named(json.loads(encode(task)), True) for task in tasks]  # as in a pool
    panels, values = sizes(stored, session)
    return Forecast(target, resources, panels, None, values)
