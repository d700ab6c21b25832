"""Executors that run the tasks of a pool on a cluster: Ray, Dask, and Slurm through Dask.

The process that calls :meth:`EngineExecutor.run` is the driver. It holds the pool, claims the tasks and stores their
outcomes; the machines of the cluster never open the pool.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from operator import eq
from pathlib import Path
from typing import Any, Literal

from rollforge.confidential import mask_secrets
from rollforge.engine.carried import functions
from rollforge.engine.modules import Named
from rollforge.engine.options import ENGINES, LOCAL, MAX_SILENCE, RunOptions, read_engine
from rollforge.engine.parcel import Parcel, make_parcel
from rollforge.engine.remote import SILENCE_SECONDS
from rollforge.engine.resources import Resources
from rollforge.engine.runners import Engine, EngineRunners
from rollforge.errors import ConfigError, MissingDependency, counted, shown
from rollforge.limits import read_memory
from rollforge.machine import process_name
from rollforge.run.job import Event, Job, ignore_event, is_own
from rollforge.run.requirements import Admission
from rollforge.run.task_resources import Shapes, TaskResources
from rollforge.run.worker_pool import WorkerPool
from rollforge.session import Session
from rollforge.store.base import TaskStore, open_store
from rollforge.task import Status

__all__ = ["Dask", "EngineExecutor", "Ray", "Slurm", "executor_of"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EngineExecutor:
    """Options that all executors on an engine have in common.

    Parameters
    ----------
    jobs : int, optional
        Maximum number of tasks that run at the same time; by default as many as the cluster has room for.
    cpus : int
        Cores of each task.
    memory : int or str, optional
        Memory that each task needs, in bytes or such as ``8G``: the engine places it accordingly.
    gpus : float
        GPUs of each task; a fraction shares one.
    data : {"sent", "shared"}
        ``sent``: each machine is sent the panels that the tasks read, once, and the values of the data folders if a backtest or
        code that is not Rollforge's may read them. ``shared``: all machines have the data folder
        under the same path, and a cache of panels of their own.
    silence : float
        Seconds without a call from the driver after which an agent ends its task. A task whose agent or machine is lost
        is run again after that time; that of a driver that died, after twice that time. At most 60 seconds.
    """

    jobs: int | None = None
    cpus: int = 1
    memory: int | str | None = None
    gpus: float = 0.0
    data: Literal["sent", "shared"] = "sent"
    silence: float = SILENCE_SECONDS

    def __post_init__(self) -> None:
        for name in ("jobs", "cpus"):
            value = getattr(self, name)
            if (value is not None or name == "cpus") and (not _is_number(value, int) or value < 1):
                raise ConfigError(f"must be a whole number above 0, found {shown(value)}.", path=name)
        if self.memory is not None:
            read_memory(self.memory, path="memory")
        if not _is_number(self.gpus) or not self.gpus >= 0 or (self.gpus > 1 and self.gpus % 1):
            raise ConfigError(
                f"must be a fraction of a GPU or a whole number, found {shown(self.gpus)}.", path="gpus"
            )  # fmt: skip
        if self.data not in ("sent", "shared"):
            raise ConfigError(f"must be 'sent' or 'shared', found {shown(self.data)}.", path="data")
        if not _is_number(self.silence) or not 0 < self.silence <= MAX_SILENCE:
            raise ConfigError(
                f"must be above 0 and at most {MAX_SILENCE:g} seconds, found {shown(self.silence)}.", path="silence"
            )

    @property
    def resources(self) -> Resources:
        """How many agents there are at most, and what each needs."""
        memory = None if self.memory is None else read_memory(self.memory, path="memory")
        return Resources(self.jobs, self.cpus, memory, self.gpus)

    def engine(self) -> Engine:
        """Return the engine that starts the agents.

        Raises
        ------
        MissingDependency
            If the engine is not installed.
        """
        raise NotImplementedError

    def target(self, tasks: int | None = None) -> str:
        """Return which cluster it is, and for a number of tasks what it would be asked to start, for messages."""
        raise NotImplementedError

    def run(
        self,
        job: Job,
        session: Session,
        on_event: Callable[[Event], None] = ignore_event,
        *,
        store: TaskStore | None = None,
        while_starting: Callable[[], None] | None = None,
        admission: Admission | None = None,
        log_file: Path | None = None,
    ) -> None:
        """Run the tasks of `job` on the cluster; see :class:`~rollforge.run.executor.Executor`.

        Raises
        ------
        MissingDependency
            If the engine is not installed.
        RequirementsNotMet
            If no machine of the cluster can run the tasks; the message says why.
        """
        opened = store or open_store(session.store_uri)
        share, common = session.with_(threads=self.cpus), self.resources
        shapes = Shapes(opened, job, TaskResources(common.gpus, common.memory, common.cpus))
        wanted = {}
        for shape in shapes.known:
            parts = [part for part in (dict(job.query), shapes.query(partial(eq, shape))) if part]
            counts = opened.count(job.pool, {"$and": parts} if parts else {}, batch=job.batch)
            wanted[shape] = max(1, sum(counts.get(status, 0) for status in (job.before, Status.RUNNING)))

        def pack() -> Parcel | None:
            # Those that wait for other tasks, or are run by another process, may become free.
            found = opened.query(job.pool, {"status": {"$ne": Status.DONE.value}}, batch=job.batch, results=False)
            tasks = [
                Named(json.loads(task.text) if task.text else task.definition, is_own(job, opened, task))
                for task in found
            ]
            return make_parcel(tasks, share, functions(job), data=self.data == "sent")

        runners = EngineRunners(self.engine(), share, job, self.silence, pack, wanted, opened)
        WorkerPool(
            # 1: the cores of an agent are its own, so that its task gets no more threads when others have none.
            opened, job, share, 1, on_event, while_starting=while_starting,
            # Another process that finds the driver dead must wait for the leases, because agents may still run.
            name=f"driver@{process_name()}", admission=admission, runners=runners, lease_seconds=2 * self.silence, shapes=shapes,
        ).run()  # fmt: skip


@dataclass(frozen=True)
class Ray(EngineExecutor):
    """Runs tasks on a Ray cluster.

    Parameters
    ----------
    address : str
        Address of the cluster, such as ``head:6379`` or ``ray://head:10001``; by default that of the environment
        variable ``RAY_ADDRESS``, else a cluster on this machine is started.

    Examples
    --------
    >>> Ray("head:6379", jobs=200, cpus=4).resources.cpus
    4
    """

    address: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.address, str):
            raise ConfigError(f"must be an address such as 'head:6379', found {shown(self.address)}.", path="address")
        object.__setattr__(self, "address", _address(self.address, "ray"))

    def engine(self) -> Engine:
        """Return the engine that starts the agents."""
        from rollforge.engine.ray import RayEngine

        _require("ray", "ray")
        return RayEngine(self.address, self.resources)

    def target(self, tasks: int | None = None) -> str:
        """Return which cluster it is."""
        if self.address:
            return f"Ray, the cluster {mask_secrets(self.address)}"
        found = os.environ.get("RAY_ADDRESS")
        return f"Ray, the cluster {mask_secrets(found)} of RAY_ADDRESS" if found else "Ray, a cluster on this machine"


@dataclass(frozen=True)
class Dask(EngineExecutor):
    """Runs tasks on a Dask cluster.

    Parameters
    ----------
    address : str or object
        Address of the scheduler, such as ``tcp://scheduler:8786``, or a cluster object; by default a cluster on this
        machine is started.

    Examples
    --------
    >>> Dask("tcp://scheduler:8786", jobs=50).jobs
    50
    """

    address: object = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.address, str):
            object.__setattr__(self, "address", _address(self.address, "dask"))

    def engine(self) -> Engine:
        """Return the engine that starts the agents."""
        from rollforge.engine.dask import DaskEngine

        _require("distributed", "dask")
        return DaskEngine(self.address, self.resources)

    def target(self, tasks: int | None = None) -> str:
        """Return which cluster it is."""
        if not self.address:
            return "Dask, a cluster on this machine"
        text = self.address if isinstance(self.address, str) else type(self.address).__name__
        return f"Dask, the scheduler {mask_secrets(text)}"


@dataclass(frozen=True)
class Slurm(EngineExecutor):
    """Runs tasks in jobs of Slurm, each of which is a Dask worker (``dask_jobqueue.SLURMCluster``).

    Parameters
    ----------
    options : mapping
        Further arguments of ``SLURMCluster``, such as ``queue``, ``account``, ``walltime`` and ``interface``.

    Examples
    --------
    >>> Slurm(jobs=50, cpus=4, memory="16G", options={"queue": "cpu"}).resources.memory
    17179869184
    """

    options: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.jobs is None:
            raise ConfigError(
                "Slurm needs the number of jobs to submit, such as --jobs 50 (in a workflow, run: {jobs: 50}; in Python, "
                "Slurm(jobs=50)).",
                path="jobs",
            )
        if not isinstance(self.options, Mapping):
            raise ConfigError(
                f"must be a mapping such as {{'queue': 'cpu'}}, found {shown(self.options)}.", path="slurm"
            )
        walltime = str(self.options.get("walltime", ""))
        if walltime.isdigit():
            raise ConfigError(
                f"must be a time with hours and minutes, found {walltime}. Write '{walltime:0>2}:00:00' for hours or "
                f"'00:{walltime:0>2}:00' for minutes, in quotes.",
                path="slurm.walltime",
            )

    def engine(self) -> Engine:
        """Return the engine that starts the agents."""
        from rollforge.engine.slurm import SlurmEngine

        _require("dask_jobqueue", "slurm")
        return SlurmEngine(self.options, self.resources)

    def target(self, tasks: int | None = None) -> str:
        """Return which jobs are submitted."""
        from rollforge.engine.slurm import check_options, job_shape

        if self.options and is_installed("dask_jobqueue"):
            check_options(self.options)
        shape = job_shape(self.resources.limited(tasks), self.options)
        size = Resources(cpus=shape.cpus, memory=shape.memory, gpus=shape.gpus)
        options = "".join(f", {name}={value}" for name, value in self.options.items())
        return f"Slurm, {counted(shape.jobs, 'job')} with {size.text()} each{options}"


def _is_number(value: object, kind: type | tuple[type, ...] = (int, float)) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _address(given: str, engine: str) -> str:
    """Return an address, which may be written as for ``--on``.

    Examples
    --------
    >>> _address("ray:head:6379", "ray"), _address("ray:6379", "ray"), _address("dask://head:8786", "dask")
    ('head:6379', 'ray:6379', 'tcp://head:8786')
    """
    kind, _, rest = given.partition(":")
    if kind not in ENGINES or not (rest.startswith("//") or ":" in rest):  # a machine may have the name of an engine
        return given
    if kind != engine:
        raise ConfigError(f"{given!r} is an address of {_NAMES[kind]}, not of {_NAMES[engine]}.", path="address")
    try:
        return read_engine(given)[1]
    except ConfigError as exc:
        raise ConfigError(exc.message, path="address") from None


def is_installed(module: str) -> bool:
    """Return whether a module can be imported."""
    from importlib.util import find_spec

    return find_spec(module) is not None


_NAMES = {"ray": "Ray", "dask": "Dask", "slurm": "Slurm"}


def _require(module: str, extra: str) -> None:
    if not is_installed(module):
        raise MissingDependency(
            f"Running on {_NAMES[extra]} needs a package that is not installed: pip install 'rollforge[{extra}]'"
        )


def executor_of(options: RunOptions) -> EngineExecutor | None:
    """Return the executor that the options of a command or a workflow ask for; None for processes of this machine.

    Raises
    ------
    ConfigError
        If the engine is unknown, or an option is invalid or does not fit the engine.

    Examples
    --------
    >>> executor_of(RunOptions(on="ray:head:6379", jobs=2)).address
    'head:6379'
    >>> executor_of(RunOptions(on="dask://scheduler:8786")).address
    'tcp://scheduler:8786'
    >>> executor_of(RunOptions(jobs=2)) is None
    True
    """
    if options.engine == LOCAL:
        return None
    return options.named(lambda: _executor(options))


def _executor(options: RunOptions) -> EngineExecutor:
    kind, address = read_engine(options.on or LOCAL)
    if options.slurm and kind != "slurm":
        raise ConfigError(f"Options of Slurm were given, but the engine is {kind!r}.", path="slurm")
    given: dict[str, Any] = {
        name: value for name in ("jobs", "cpus", "memory", "gpus", "data", "silence")
        if (value := getattr(options, name)) is not None
    }  # fmt: skip
    if kind == "slurm":
        return Slurm(options=options.slurm, **given)
    return Ray(address, **given) if kind == "ray" else Dask(address, **given)
