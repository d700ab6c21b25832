"""Requirements of an agent on the machine where it runs."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict, TypeVar

from rollforge.errors import counted
from rollforge.run.task_resources import TaskResources

__all__ = ["Resources", "Room", "allot", "in_order", "shared_out", "warn_if_too_large"]

log = logging.getLogger(__name__)

K = TypeVar("K")


class Room(TypedDict):
    """Cores, memory and GPUs of a machine or a cluster, as :meth:`Resources.fits` takes them."""

    cpus: int
    memory: int | None
    gpus: float


@dataclass(frozen=True, slots=True)
class Resources:
    """The number of agents that an engine starts, and the requirements of each.

    Examples
    --------
    >>> Resources(jobs=8, cpus=2, gpus=0.5).fits(cpus=16, memory=None, gpus=2)
    4
    """

    jobs: int | None = None
    """Maximum number of agents; None: as many as there is room for."""
    cpus: int = 1
    memory: int | None = None
    """Bytes; None: not counted."""
    gpus: float = 0.0
    """A fraction means that several agents share a GPU."""
    tasks: int | None = None
    """Number of tasks; None if it is not known."""

    def for_tasks(self, tasks: int | None) -> Resources:
        """Return these for a number of tasks: more agents would have nothing to do. None: the number is not known.

        Examples
        --------
        >>> Resources(jobs=200).for_tasks(12).agents(50), Resources().for_tasks(12).agents(8)
        (12, 8)
        """
        return replace(self, tasks=tasks)

    def limited(self, tasks: int | None) -> Resources:
        """Return these with no more agents than there are tasks, where the number of agents is known.

        Examples
        --------
        >>> Resources(jobs=50).limited(8).jobs
        8
        """
        found = self.for_tasks(tasks)
        return found if self.jobs is None else replace(found, jobs=found.agents(self.jobs))

    def asked(self, asked: TaskResources) -> Resources:
        """Return these with what tasks ask for themselves.

        Examples
        --------
        >>> Resources(jobs=8, cpus=2).asked(TaskResources(gpus=1)).text()
        '2 cores and 1 GPU'
        """
        given = {name: value for name in ("cpus", "memory", "gpus") if (value := getattr(asked, name)) is not None}
        return replace(self, **given)

    def agents(self, room: int) -> int:
        """Return the number of agents to start, where `room` is how many fit: more than that only if so many were asked for."""
        asked = room if self.jobs is None else self.jobs
        return max(1, asked if self.tasks is None else min(asked, self.tasks))

    def text(self, agents: int = 1) -> str:
        """Return what a number of agents needs, for messages.

        Examples
        --------
        >>> Resources(cpus=4, memory=8 * 2**30, gpus=0.25).text(6)
        '24 cores, 48 GiB of memory and 1.5 GPUs'
        """
        parts = [counted(self.cpus * agents, "core")]
        if self.memory is not None:
            parts.append(f"{_size(self.memory * agents)} of memory")
        if self.gpus:
            gpus = self.gpus * agents
            parts.append(f"{gpus:g} GPU{'' if gpus == 1 else 's'}")
        return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)

    def fits(self, *, cpus: int, memory: int | None, gpus: float) -> int:
        """Return how many agents fit on a machine; None as `memory` means that it is not limited."""
        counts = [cpus // self.cpus]
        if self.memory is not None and memory is not None:
            counts.append(memory // self.memory)
        if self.gpus:
            counts.append(int(gpus / self.gpus + 1e-9))
        return max(0, min(counts))

    def rest_of(self, room: Room) -> Room:
        """Return what is left of a machine's room beside an agent."""
        memory = room["memory"]
        return {
            "cpus": room["cpus"] - self.cpus,
            "memory": None if memory is None else memory - (self.memory or 0),
            "gpus": room["gpus"] - self.gpus,
        }


def in_order(wanted: Mapping[TaskResources, int], common: Resources) -> dict[TaskResources, Resources]:
    """Return the requirements of an agent for each shape of tasks, those that need most of what is scarce first."""
    found = {asked: common.asked(asked) for asked in wanted}
    key = lambda one: (found[one].gpus, found[one].memory or 0, found[one].cpus)  # noqa: E731
    return {asked: found[asked] for asked in sorted(found, key=key, reverse=True)}


def shared_out(jobs: int, wanted: Mapping[K, int]) -> dict[K, int]:
    """Share a number of agents out evenly among shapes, none of which gets more than it wants.

    Examples
    --------
    >>> shared_out(5, {"large": 9, "small": 2}), shared_out(5, {"large": 1, "small": 9}), shared_out(9, {"small": 2})
    ({'large': 3, 'small': 2}, {'large': 1, 'small': 4}, {'small': 2})
    """
    found = dict.fromkeys(wanted, 0)
    while jobs > 0 and (open_ones := [one for one in wanted if found[one] < wanted[one]]):
        each = max(1, min(jobs // len(open_ones), *(wanted[one] - found[one] for one in open_ones)))
        for one in open_ones[: jobs // each]:
            found[one] += each
            jobs -= each
    return found


def allot(
    wanted: Mapping[TaskResources, int], sizes: Mapping[TaskResources, Resources], jobs: int | None,
    *, cpus: int, memory: int | None, gpus: float,
) -> dict[TaskResources, int]:  # fmt: skip
    """Return how many agents of each shape to start on a cluster: as many as have room, those that need most first.

    If a number of jobs is asked for that has no room, the others are shared out evenly, as the cluster may grow.

    Examples
    --------
    >>> large, small = TaskResources(gpus=1), TaskResources()
    >>> sizes = in_order({large: 4, small: 4}, Resources())
    >>> list(allot({large: 4, small: 4}, sizes, None, cpus=4, memory=None, gpus=2).values())
    [2, 2]
    >>> list(allot({large: 4, small: 4}, sizes, 6, cpus=4, memory=None, gpus=2).values())
    [3, 3]
    """
    found = dict.fromkeys(sizes, 0)
    left = sum(wanted.values()) if jobs is None else jobs
    for one, size in sizes.items():
        n = min(wanted[one], left, size.fits(cpus=cpus, memory=memory, gpus=gpus))
        found[one], left, cpus, gpus = n, left - n, cpus - n * size.cpus, gpus - n * size.gpus
        if memory is not None:
            memory -= n * (size.memory or 0)
    if jobs is None:
        left = 0 if any(found.values()) else 1  # a cluster that has no machine yet
    more = shared_out(left, {one: wanted[one] - found[one] for one in sizes})
    return {one: found[one] + more[one] for one in sizes}


def warn_if_too_large(size: Resources, tasks: int, machines: Sequence[Room]) -> None:
    """Log a warning if tasks need more than each of the machines has, which may still grow."""
    if not machines or any(size.fits(**machine) for machine in machines):
        return
    waiting = (
        "1 task that asks for this waits until one has"
        if tasks == 1
        else f"{tasks:,} tasks that ask for this wait until one has"
    )
    log.warning(
        "no machine of the cluster has %s (the largest has %s); %s", size.text(), largest(size, machines), waiting
    )


def largest(size: Resources, machines: Sequence[Room]) -> str:
    """Return what the machine has that comes closest to the needs of an agent.

    Examples
    --------
    >>> machines = [{"cpus": 64, "memory": 2**33, "gpus": 0.0}, {"cpus": 4, "memory": 2**35, "gpus": 2.0}]
    >>> largest(Resources(cpus=8, gpus=1), machines), largest(Resources(cpus=96), machines)
    ('4 cores, 32 GiB of memory and 2 GPUs', '64 cores and 8 GiB of memory')
    """
    enough = lambda room: (  # noqa: E731
        room["gpus"] >= size.gpus,
        room["memory"] is None or room["memory"] >= (size.memory or 0),
        room["cpus"],
        math.inf if room["memory"] is None else room["memory"],
    )
    best = max(machines, key=enough)
    return Resources(cpus=best["cpus"], memory=best["memory"], gpus=best["gpus"]).text()


def _size(size: int) -> str:
    """Return a size in the units in which it is asked for.

    Examples
    --------
    >>> _size(16 * 2**30), _size(3 * 2**29), _size(512 * 2**20), _size(2**50)
    ('16 GiB', '1.5 GiB', '512 MiB', '1,048,576 GiB')
    """
    number, unit = (size / 2**30, "GiB") if size >= 2**30 else (size / 2**20, "MiB")
    return f"{number:,.0f} {unit}" if number >= 1000 else f"{number:.4g} {unit}"
