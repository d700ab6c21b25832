"""Requirements of an agent on the machine where it runs."""

from __future__ import annotations

from dataclasses import dataclass

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

    def fits(self, *, cpus: int, memory: int | None, gpus: float) -> int:
        """Return how many agents fit on a machine; None as `memory` means that it is not limited."""
        counts = [cpus // self.cpus]
        if self.memory is not None and memory is not None:
            counts.append(memory // self.memory)
        if self.gpus:
            counts.append(int(gpus / self.gpus + 1e-9))
        return max(0, min(counts))
