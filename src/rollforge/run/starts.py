"""Deaths of processes that have not begun their task: when such a process is started again, and when the job ends."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rollforge.run.runners import Runner

__all__ = ["Starts"]

_DEATHS = 3  # single processes die while they start in any long job, such as of a lack of memory


class Starts:
    """Deaths of processes that had not begun their task, until one begins its task.

    They do not end the job while another process runs a task, perhaps for hours, or is still starting: of many that start
    at the same time, some may lack memory while the others get ready.
    """

    def __init__(self) -> None:
        self._deaths = 0
        self._in_vain = 0  # how often no process was left: all that were started had died
        self._dead: dict[Runner, tuple[int, float]] = {}
        """Runners whose process died -> how often, and until when it is not started again while another process runs."""

    def began(self, runner: Runner) -> None:
        """Note that a process has begun its task."""
        self._deaths = self._in_vain = 0
        self._dead.pop(runner, None)

    def died(self, runner: Runner, runners: Sequence[Runner]) -> bool:
        """Note that a process died before it began its task, and return whether it is no use to start more.

        Parameters
        ----------
        runner : Runner
            The runner of the process. It has no task any more.
        runners : sequence of Runner
            All runners.
        """
        deaths = self._dead.get(runner, (0, 0.0))[0] + 1
        self._dead[runner] = deaths, time.monotonic() + 2.0 ** min(deaths, 6)
        self._deaths += 1
        if any(one.task is not None for one in runners):
            return False
        self._in_vain += 1
        return self._in_vain > 1 and self._deaths >= _DEATHS

    def idle(self, runners: Sequence[Runner]) -> list[Runner]:
        """Return the runners that may be given a task now: first those whose process runs, last those where most died."""
        up = {runner for runner in runners if runner.is_up}
        idle = [runner for runner in runners if runner.free]
        if up:
            now = time.monotonic()
            idle = [runner for runner in idle if runner in up or self._dead.get(runner, (0, 0.0))[1] <= now]
        elif any(runner.task is not None for runner in runners):  # they are starting: soon they are up, or dead too
            idle = [runner for runner in idle if runner not in self._dead]
        return sorted(idle, key=lambda runner: (runner not in up, self._dead.get(runner, (0, 0.0))[0]))
