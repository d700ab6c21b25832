"""Agents in jobs of Slurm, each of which runs a Dask worker."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from rollforge.engine.agent import Setup
from rollforge.engine.dask import DaskEngine
from rollforge.engine.remote import AgentRef
from rollforge.engine.resources import Resources

__all__ = ["SlurmEngine"]

log = logging.getLogger(__name__)

_ASK_SECONDS = 10.0


class SlurmEngine(DaskEngine):
    """Submits jobs to Slurm and starts an agent in each; a job that ends is submitted again.

    Parameters
    ----------
    options : mapping
        Further arguments of ``dask_jobqueue.SLURMCluster``.
    resources : Resources
        The number of jobs, and what each needs.
    """

    def __init__(self, options: Mapping[str, object], resources: Resources) -> None:
        super().__init__(None, resources)
        self._options = dict(options)
        self._asked = 0.0

    def open(self, setup: Setup) -> None:
        """Start a scheduler here, and submit the jobs."""
        from dask_jobqueue import SLURMCluster

        wanted = self._resources
        memory = wanted.memory if wanted.memory is not None else 2**30
        self._cluster = self._address = SLURMCluster(
            **{
                "cores": wanted.cpus, "processes": 1, "memory": f"{memory}B", "nanny": False, "scheduler_options": {},
                **self._options,
            }
        )  # fmt: skip
        self._scale()
        super().open(setup)

    def agents(self) -> Mapping[str, AgentRef]:
        """Return the agents, after submitting jobs in place of those that have ended."""
        if time.monotonic() - self._asked > _ASK_SECONDS:
            self._scale()
        return super().agents()

    def _scale(self) -> None:
        self._asked = time.monotonic()
        cluster: Any = self._cluster
        cluster.scale(jobs=self._resources.jobs)
