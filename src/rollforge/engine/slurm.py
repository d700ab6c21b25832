"""Agents in jobs of Slurm, each of which runs a Dask worker."""

from __future__ import annotations

import importlib
import inspect
import logging
import math
import signal
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rollforge.engine.agent import Setup
from rollforge.engine.dask import DaskEngine, quiet
from rollforge.engine.remote import AgentLost, AgentRef
from rollforge.engine.resources import Resources, in_order, shared_out
from rollforge.engine.slurm_queue import SlurmProblem, SlurmQueue, State
from rollforge.errors import ConfigError, counted, nearest
from rollforge.limits import read_memory
from rollforge.run.task_resources import TaskResources

__all__ = ["JobShape", "SlurmEngine", "check_options", "job_shape"]

log = logging.getLogger(__name__)

_LOOK_SECONDS = 3.0  # between two calls of squeue
_FAILED_STARTS = 3  # jobs in a row that end before their workers connect, after which no more are submitted
_AGAIN_SECONDS = 60.0
_ENDING_SECONDS = 5.0
_TELL_SECONDS = 10.0  # that jobs may be pending without a word
_TELL_AGAIN = 300.0
_NOT_AT_FAULT = {"CANCELLED", "PREEMPTED", "NODE_FAIL"}  # the script of a job that ends so may be right
_OURS = {
    "processes": "one job runs one worker", "nanny": "agents take its place", "n_workers": "'jobs' is used",
    "asynchronous": "it must be off", "loop": "it is chosen here", "job_cls": "it is chosen here",
    "name": "it is chosen here; 'job_name' is the name in the queue", "scheduler": "it is started here",
    "host": "it belongs in 'scheduler_options'", "dashboard_address": "it belongs in 'scheduler_options'",
}  # fmt: skip
"""Arguments of SLURMCluster that cannot be set -> the reason."""
_BY_SHAPE = ("cores", "memory", "job_directives_skip", "job_extra_directives", "worker_extra_args")
"""Arguments of SLURMCluster that depend on what tasks ask for."""
_NAMES_OF_SBATCH = {"partition": "queue", "time": "walltime", "output": "log_directory"}
_DEFAULT_WALLTIME = "00:30:00"  # of dask-jobqueue, in the packaged configuration


@dataclass(frozen=True, slots=True)
class JobShape:
    """The resources of each job of Slurm, and how many tasks it runs at the same time."""

    jobs: int
    tasks: int
    cpus: int
    memory: int | None
    gpus: int


def job_shape(resources: Resources, options: Mapping[str, object]) -> JobShape:
    """Return what jobs ask for so that `resources.jobs` tasks run at the same time.

    A job runs one task. If a task needs a fraction of a GPU, it runs as many as share one; if `options` has ``cores``, as
    many as have room.

    Raises
    ------
    ConfigError
        If a job of the size that `options` asks for has no room for a task.

    Examples
    --------
    >>> job_shape(Resources(jobs=10, cpus=2, memory=2**30, gpus=0.25), {})
    JobShape(jobs=3, tasks=4, cpus=8, memory=4294967296, gpus=1)
    >>> job_shape(Resources(jobs=10, cpus=4), {"cores": 64}).jobs
    1
    """
    shared = int(1 / resources.gpus + 1e-9) if 0 < resources.gpus < 1 else 1
    cores, memory = options.get("cores", resources.cpus * shared), options.get("memory")
    if not isinstance(cores, int) or isinstance(cores, bool) or cores < 1:
        raise ConfigError(f"must be a whole number above 0, found {cores!r}.", path="slurm.cores")
    given = None if memory is None else read_memory(memory, path="slurm.memory")
    tasks = Resources(cpus=resources.cpus, memory=resources.memory).fits(cpus=cores, memory=given, gpus=0)
    if tasks == 0:
        raise ConfigError(
            f"A job of {counted(cores, 'core')} and {memory or 'any'} memory has no room for a task of "
            f"{counted(resources.cpus, 'core')}" + (f" and {resources.memory:,} bytes." if resources.memory else "."),
            path="slurm",
        )  # fmt: skip
    if given is None and resources.memory is not None:
        given = resources.memory * tasks
    gpus = math.ceil(resources.gpus * tasks - 1e-9)
    return JobShape(math.ceil(resources.agents(1) / tasks), tasks, cores, given, gpus)


_SUBMITTED = State("PENDING")


@dataclass(slots=True)
class _Job:
    number: str
    asked: TaskResources
    """What the tasks ask for that its agents take."""
    since: float
    state: State = _SUBMITTED
    connected: bool = False
    """Whether its worker has connected."""


class SlurmEngine(DaskEngine):
    """Submits jobs to Slurm and starts agents in them; in place of a job that has ended, another one is submitted.

    `dask_jobqueue.SLURMCluster` starts the scheduler and writes the script of the jobs. They are submitted here, because it
    does not submit another job in place of one that ends before its worker has connected.

    Parameters
    ----------
    options : mapping
        Further arguments of `SLURMCluster`.
    resources : Resources
        The number of tasks that run at the same time, and what each needs.
    """

    def __init__(self, options: Mapping[str, object], resources: Resources) -> None:
        super().__init__(None, resources)
        self._options = dict(options)
        job_shape(resources, options)  # raises
        self._shapes: dict[TaskResources, JobShape] = {}
        self._scripts: dict[TaskResources, str] = {}
        self._wanted: Mapping[TaskResources, int] = {}
        """How many agents there are to be."""
        self._queue: SlurmQueue | None = None
        self._jobs: dict[str, _Job] = {}
        self._ended: dict[str, str] = {}
        """Number of a job -> how it ended."""
        self._job_of: dict[str, str] = {}
        """Name of an agent -> number of its job."""
        self._failed_starts: list[str] = []
        self._failed_at = 0.0
        self._refused = ""
        self._told: tuple[str, float] = ("", 0.0)
        self._opened = 0.0
        self._changed = threading.Condition()
        self._closing = False
        self._hurry = False
        self._thread: threading.Thread | None = None
        self._net: Any = None

    def open(self, setup: Setup, wanted: Mapping[TaskResources, int]) -> None:
        """Start a scheduler here, and submit the jobs.

        Raises
        ------
        MissingDependency
            If the commands of Slurm are not in PATH.
        ConfigError
            If an option is unknown, or Slurm refuses the first job.
        """
        self._queue = SlurmQueue()
        check_options(self._options)
        SLURMCluster = _dask_jobqueue().SLURMCluster  # noqa: N806 - a class
        self._share_out(wanted)
        try:
            self._cluster = self._address = SLURMCluster(**self._arguments(next(iter(self._shapes.values()))))
            super().open(setup, wanted)
            self._opened = time.monotonic()
            self._net = weakref.finalize(self, _cancel, self._queue, self._jobs)  # also at the end of the program
            self._thread = threading.Thread(target=self._keep, name="rollforge-slurm", daemon=True)
            self._thread.start()
            with self._changed:
                self._changed.wait_for(lambda: bool(self._jobs or self._refused))
            if self._refused:
                raise ConfigError(f"Slurm refuses the job: {self._refused}", path="slurm")
        except BaseException:
            self.close()
            raise

    def _share_out(self, wanted: Mapping[TaskResources, int]) -> None:
        """Find out how many agents of each shape there are to be, and what their jobs are."""
        sizes = in_order(wanted, self._resources)
        for asked, size in sizes.items():
            if asked not in self._shapes:
                self._shapes[asked] = job_shape(size, self._options)
        self._wanted = shared_out(self._resources.jobs or 1, {asked: wanted[asked] for asked in sizes})

    def _script(self, asked: TaskResources) -> str:
        """Return the script of the jobs of one shape."""
        if asked not in self._scripts:
            cluster, given = self._cluster, self._arguments(self._shapes[asked])
            before = cluster._job_kwargs
            cluster._job_kwargs = {**before, **{name: given[name] for name in _BY_SHAPE}}
            try:
                self._scripts[asked] = cluster.job_script()
            finally:
                cluster._job_kwargs = before
            log.debug("script of the jobs of Slurm:\n%s", self._scripts[asked])
        return self._scripts[asked]

    def _arguments(self, wanted: JobShape) -> dict[str, Any]:
        import dask.config

        options = dict(self._options)
        section = f"jobqueue.{options.get('config_name') or 'slurm'}."

        def given(name: str) -> list[str]:
            """Return an option that is a list; as in SLURMCluster, that of Dask's configuration is used if it is not set."""
            value: Any = options.pop(name, None)
            found: Any = dask.config.get(section + name.replace("_", "-"), []) if value is None else value
            return [found] if isinstance(found, str) else [str(part) for part in found]

        # Slurm's own retries are off: a job that starts again would not be told from the one that was lost.
        theirs = given("job_extra_directives")
        text = " ".join(theirs)
        directives = [] if "requeue" in text else ["--no-requeue"]
        if not (options.get("log_directory") or dask.config.get(section + "log-directory", None)):
            directives.append("--output=/dev/null")  # else a file in the working folder
        if wanted.gpus and "--gres" not in text and "--gpus" not in text:
            directives.append(f"--gres=gpu:{wanted.gpus}")
        skipped = given("job_directives_skip")
        if wanted.memory is None:
            skipped.append("--mem=")  # the default of the partition
        if options.get("walltime") is None and dask.config.get(section + "walltime", None) == _DEFAULT_WALLTIME:
            skipped.append(f"-t {_DEFAULT_WALLTIME}")
        # A job that Slurm starts again is another worker. Slurm enforces the memory, not Dask.
        worker = ["--name", "slurm-${SLURM_JOB_ID}.${SLURM_RESTART_COUNT:-0}", "--memory-limit", "0"]
        if wanted.gpus:
            worker += ["--resources", f"GPU={wanted.gpus}"]
        scheduler = {"dashboard": False, "dashboard_address": ":0", **_mapping(options.pop("scheduler_options", None))}
        return {
            "job_name": "rollforge", **options,
            "cores": wanted.cpus, "memory": f"{wanted.memory or 2**30}B", "processes": 1, "nanny": False,
            "scheduler_options": scheduler, "job_directives_skip": skipped,
            "job_extra_directives": [*directives, *theirs], "worker_extra_args": [*given("worker_extra_args"), *worker],
        }  # fmt: skip

    def agents(self, wanted: Mapping[TaskResources, int]) -> Mapping[str, AgentRef]:
        """Return the agents, after starting some in jobs whose workers have connected."""
        with self._changed:
            self._share_out(wanted)
        found = super().agents(self._wanted)
        with self._changed:
            for name, ref in self._agents.items():
                number = _number(ref.worker_name)
                self._job_of[name] = number
                if number in self._jobs and not self._jobs[number].connected:
                    self._jobs[number].connected = True
                    self._failed_starts.clear()
        return found

    def _hosts(self, worker: Mapping[str, Any], asked: TaskResources) -> bool:
        job = self._jobs.get(_number(str(worker.get("name", ""))))
        return job is not None and job.asked == asked

    def _check_size(self, size: Resources, tasks: int, workers: Mapping[str, Mapping[str, Any]]) -> None:
        """Do nothing: Slurm refuses a job that no node can run."""

    def why_lost(self, name: str, wait: bool = False) -> AgentLost | None:
        """Return how the job of an agent ended; None if it has not, or if Slurm does not answer.

        While the processes of a job are ending, Slurm does not say why; with `wait`, that is waited for.
        """
        number = self._job_of.get(name)
        if number is None or self._queue is None:
            return None
        if number in self._ended:
            text = self._ended[number]
        else:
            state, text = self._queue.describe(number)
            deadline = time.monotonic() + (_ENDING_SECONDS if wait else 0.0)
            while state.name == "COMPLETING" and time.monotonic() < deadline:
                time.sleep(0.2)
                state, text = self._queue.describe(number)
            if not state.has_ended:
                return None
            with self._changed:
                self._hurry = True  # another job can be submitted
                self._changed.notify_all()
        return AgentLost(text, out_of_memory="OUT_OF_MEMORY" in text)

    def problem(self) -> str:
        """Return why no job runs an agent and none will; empty otherwise."""
        with self._changed:
            if self._refused and not self._jobs:
                return f"Slurm refuses the jobs: {self._refused}"
            if len(self._failed_starts) < _FAILED_STARTS or any(job.connected for job in self._jobs.values()):
                return ""
        kept = "" if self._options.get("log_directory") else " 'log_directory: FOLDER' among these keeps their output."
        return (
            f"{len(self._failed_starts)} jobs of Slurm ended before their workers reached the driver at "
            f"{self._cluster.scheduler_address}. The last: {self._failed_starts[-1]}. Check that the nodes have the "
            "same Python environment and can reach that address; among the options of Slurm, 'python', "
            f"'job_script_prologue' and 'interface' change that.{kept}"
        )

    def close(self) -> None:
        """Cancel the jobs and end the scheduler."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        with quiet():  # the workers of cancelled jobs do not answer
            if self._net is not None:
                self._net()
            super().close()

    # -- the thread that watches the jobs ----------------------------------------------------------------------------------

    def _keep(self) -> None:
        silent = False
        while not self._closing:
            try:
                self._look()
                self._cancel_unused()
                self._submit()
                silent = False
            except SlurmProblem as exc:
                refused = f"{exc}" == self._refused
                if not refused or self._jobs:  # else the run ends with it
                    said = "Slurm does not accept another job" if refused else "Slurm does not answer"
                    log.log(logging.DEBUG if silent else logging.WARNING, "%s: %s", said, exc)
                    silent = True
            self._tell()
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._hurry, timeout=_LOOK_SECONDS)
                self._hurry = False

    def _look(self) -> None:
        """Note which jobs have ended."""
        assert self._queue is not None
        states = self._queue.states(list(self._jobs))
        for number, job in list(self._jobs.items()):
            state = states.get(number)
            if state is None and time.monotonic() - job.since < _LOOK_SECONDS:
                continue  # it has just been submitted
            if state is not None and not state.has_ended:
                job.state = state
                continue
            final, text = self._queue.describe(number)
            if final.name == "COMPLETING":
                continue
            with self._changed:
                self._ended[number] = text
                del self._jobs[number]
                if not job.connected and final.name not in _NOT_AT_FAULT:
                    self._failed_starts.append(text)
                    self._failed_at = time.monotonic()
            log.log(logging.INFO if job.connected else logging.WARNING, "%s", text)

    def _submit(self) -> None:
        """Submit jobs in place of those that have ended."""
        assert self._queue is not None
        for asked, missing in self._missing().items():
            for _ in range(missing):
                if self._closing or self._is_hopeless():
                    return
                try:
                    number = self._queue.submit(self._script(asked))
                except SlurmProblem as exc:
                    with self._changed:
                        self._refused = str(exc)
                        self._changed.notify_all()
                    raise
                with self._changed:
                    self._refused = ""
                    self._jobs[number] = _Job(number, asked, time.monotonic())
                    self._changed.notify_all()

    def _missing(self) -> dict[TaskResources, int]:
        """Return how many jobs of each shape to submit; below 0 if there are too many."""
        with self._changed:
            there = Counter(job.asked for job in self._jobs.values())
            wanted = {
                asked: math.ceil(self._wanted.get(asked, 0) / shape.tasks) for asked, shape in self._shapes.items()
            }
        return {asked: number - there[asked] for asked, number in wanted.items()}

    def _cancel_unused(self) -> None:
        """Cancel jobs without agents if there are more than their tasks need, so that others can start."""
        assert self._queue is not None
        missing = self._missing()
        with self._changed:
            used = {_number(ref.worker_name) for ref in list(self._agents.values())}
            unused = []
            for number, job in self._jobs.items():
                if number not in used and missing[job.asked] < 0:
                    missing[job.asked] += 1
                    unused.append(number)
        if unused and any(number > 0 for number in missing.values()):
            log.info("jobs of Slurm are cancelled because no task is left for them: %s", ", ".join(unused))
            self._queue.cancel(unused)
            with self._changed:
                for number in unused:
                    self._ended[number] = f"The job {number} of Slurm was cancelled because no task was left for it."
                    del self._jobs[number]

    def _is_hopeless(self) -> bool:
        """Return whether jobs do not start. If others run, as when one node is at fault, that is tried again in a while."""
        if len(self._failed_starts) < _FAILED_STARTS:
            return False
        others = any(job.connected for job in self._jobs.values())
        return not others or time.monotonic() - self._failed_at < _AGAIN_SECONDS

    def _tell(self) -> None:
        """Say how many jobs are pending and why, if none or not all have started for a while, and when that changes."""
        now = time.monotonic()
        with self._changed:
            waiting = [
                j.state.reason for j in self._jobs.values() if j.state.is_waiting and now - j.since > _TELL_SECONDS
            ]
            total = len(self._jobs)
        text = "" if not waiting else f"{len(waiting)} of {counted(total, 'job')} of Slurm pending: {_counted(waiting)}"
        if not text or (text == self._told[0] and now - self._told[1] < _TELL_AGAIN):
            return
        self._told = (text, now)
        log.log(logging.WARNING if len(waiting) == total else logging.INFO, "%s", text)


def check_options(options: Mapping[str, object]) -> None:
    """Check the names of options of Slurm's jobs.

    Raises
    ------
    ConfigError
        If `SLURMCluster` has no such argument, or it cannot be set here.
    """
    kind = _dask_jobqueue().SLURMCluster
    known = {
        name
        for kind in (kind.job_cls, *kind.job_cls.__bases__, *kind.__bases__)
        for name, parameter in inspect.signature(kind.__init__).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and name != "self"
    }
    for name in options:
        if name in _OURS:
            raise ConfigError(f"{name!r} cannot be set: {_OURS[name]}.", path=f"slurm.{name}")
        if name not in known:
            allowed = sorted(known - set(_OURS))
            like = _NAMES_OF_SBATCH.get(name)
            meant = f" Did you mean {like!r}?" if like else nearest(str(name), allowed)
            raise ConfigError(
                f"{name!r} is not an option of Slurm's jobs.{meant} They are the arguments of dask_jobqueue.SLURMCluster "
                f"({', '.join(allowed)}); any option of sbatch can be passed as job_extra_directives: ['--qos=high'].",
                path=f"slurm.{name}",
            )


def _dask_jobqueue() -> Any:
    """Import dask-jobqueue. Version 0.9 replaces the handlers of SIGINT and SIGTERM, so that Ctrl-C looks like a success."""
    before = signal.signal
    signal.signal = lambda *ignored: None
    try:
        return importlib.import_module("dask_jobqueue")
    finally:
        signal.signal = before


def _number(worker_name: str) -> str:
    """Return the number of the job whose worker has a name.

    Examples
    --------
    >>> _number("slurm-17.0")
    '17'
    """
    return worker_name.removeprefix("slurm-").partition(".")[0]


def _mapping(value: object) -> Mapping[str, object]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"must be a mapping, found {value!r}.", path="slurm.scheduler_options")
    return value


def _counted(reasons: Iterable[str]) -> str:
    """Return reasons with how often each occurs.

    Examples
    --------
    >>> _counted(["Priority", "Resources", "Priority"])
    'Priority (2), Resources (1)'
    """
    return ", ".join(f"{reason or 'no reason'} ({n})" for reason, n in Counter(reasons).most_common())


def _cancel(queue: SlurmQueue, jobs: Mapping[str, object]) -> None:
    """Cancel the jobs of an engine that is closed or no longer used."""
    try:
        queue.cancel(list(jobs))
    except SlurmProblem as exc:
        log.warning("jobs of Slurm could not be cancelled: %s; they end by themselves: %s", exc, " ".join(jobs))
