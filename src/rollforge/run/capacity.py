"""Cores, memory and GPUs of this machine that its worker processes share."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from rollforge.errors import counted
from rollforge.machine import memory_size
from rollforge.run.task_resources import TaskResources

__all__ = ["Capacity"]


@dataclass(frozen=True, slots=True)
class Capacity:
    """Cores and memory that the tasks on this machine share.

    Examples
    --------
    >>> Capacity(cores=8, share=1, memory=None).side_by_side(TaskResources(cpus=3), jobs=4)
    2
    """

    cores: int
    share: int = 1
    """Cores of a task that does not ask for a number."""
    memory: int | None = None
    """Bytes; None: not known."""

    @classmethod
    def of_machine(cls, cores: int, jobs: int) -> Capacity:
        """Return this machine's capacity for a number of processes that share some of its cores."""
        return cls(cores, max(1, cores // max(1, jobs)), memory_size())

    def lacks(self, asked: TaskResources, gpus: int | None = None) -> str:
        """Return what a task asks for that this machine does not have; empty if it has everything.

        Examples
        --------
        >>> Capacity(2, memory=2**30).lacks(TaskResources(cpus=4, memory=2**31))
        '4 cores (2 here) and 2 GiB of memory (1 here)'
        """
        parts = []
        if (asked.cpus or 0) > self.cores:
            parts.append(f"{counted(asked.cpus or 0, 'core')} ({self.cores} here)")
        if self.memory is not None and (asked.memory or 0) > self.memory:
            parts.append(f"{(asked.memory or 0) / 2**30:.4g} GiB of memory ({self.memory / 2**30:.4g} here)")
        if gpus is not None and (asked.gpus or 0) > gpus:
            parts.append(f"{asked.gpus:g} GPU{'' if asked.gpus == 1 else 's'} ({gpus or 'none'} here)")
        return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))

    def fits(self, asked: TaskResources, running: Collection[TaskResources]) -> bool:
        """Return whether a task fits beside those that are running. One that asks for more than there is runs alone.

        Tasks that ask for no cores fit beside each other in any number.

        Examples
        --------
        >>> has = Capacity(cores=4)
        >>> has.fits(TaskResources(cpus=3), [TaskResources()]), has.fits(TaskResources(cpus=3), [TaskResources()] * 2)
        (True, False)
        """
        if not running:
            return True
        if asked.cpus or any(other.cpus for other in running):
            used = sum(min(other.cpus or self.share, self.cores) for other in running)
            if used + min(asked.cpus or self.share, self.cores) > self.cores:
                return False
        if asked.memory and self.memory is not None:
            taken = sum(min(other.memory or 0, self.memory) for other in running)
            return taken + min(asked.memory, self.memory) <= self.memory
        return True

    def side_by_side(self, asked: TaskResources, jobs: int) -> int:
        """Return how many of at most `jobs` tasks that ask for the same run at the same time."""
        fitting = [jobs]
        fitting += [self.cores // asked.cpus] if asked.cpus else []
        fitting += [self.memory // asked.memory] if asked.memory and self.memory is not None else []
        return max(1, min(fitting))
