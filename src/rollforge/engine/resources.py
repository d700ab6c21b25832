"""Requirements of an agent on the machine where it runs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rollforge.errors import counted

__all__ = ["Resources"]


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


def _size(size: int) -> str:
    """Return a size in the units in which it is asked for.

    Examples
    --------
    >>> _size(16 * 2**30), _size(3 * 2**29), _size(512 * 2**20), _size(2**50)
    ('16 GiB', '1.5 GiB', '512 MiB', '1,048,576 GiB')
    """
    number, unit = (size / 2**30, "GiB") if size >= 2**30 else (size / 2**20, "MiB")
    return f"{number:,.0f} {unit}" if number >= 1000 else f"{number:.4g} {unit}"
