"""``rollforge worker``: run the tasks of a pool on this machine, together with workers on other machines."""

from __future__ import annotations

import functools
import importlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from rollforge.cli.completion import pool_names
from rollforge.cli.terminal import SafeFormatter, echo, one_line
from rollforge.errors import ConfigError, counted, nearest, shown

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from rollforge.run.capacity import Capacity
    from rollforge.run.job import Event, Job
    from rollforge.run.requirements import Admission
    from rollforge.session import Session


def load_function(name: str) -> Callable[..., object]:
    """Return the function named by ``module:name``.

    Raises
    ------
    ConfigError
        If it does not exist.
    """
    module, separator, attribute = name.partition(":")
    if not separator:
        raise ConfigError(f"{name!r} does not name a function. Write module:function.", path="--func")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ImportError as exc:
        raise ConfigError(f"there is no module {module!r}: {exc}.", path="--func") from exc
    except AttributeError:
        near = nearest(attribute, dir(importlib.import_module(module)))
        raise ConfigError(f"module {module} has no {attribute!r}.{near}", path="--func") from None
    if not callable(found):
        raise ConfigError(f"{name} is not a function.", path="--func")
    return found  # type: ignore[no-any-return]


def worker(
    pool: Annotated[str, typer.Option("--task-pool", "-t", help="Name of the pool.", autocompletion=pool_names)],
    store_uri: Annotated[
        str | None, typer.Option("--store", help="URI of the task store; ROLLFORGE_STORE by default.")
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            "--tracking",
            help="URI of the tracking store; by default ROLLFORGE_TRACKING, or the one given when the tasks "
            "were submitted.",
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[FREQ=]FOLDER",
            help="Data folder on this machine; by default ROLLFORGE_DATA, or the one given when the tasks were "
            "submitted. Repeatable with a frequency: --data day=FOLDER --data 1min=FOLDER.",
        ),
    ] = None,
    no_data: Annotated[bool, typer.Option("--no-data", help="The tasks do not read a data folder.")] = False,
    accept_other_data: Annotated[
        bool,
        typer.Option(
            "--accept-other-data", help="Run tasks even if the data differ from those with which they were submitted."
        ),
    ] = False,
    region: Annotated[
        str | None,
        typer.Option(help="Trading rules: us, cn or tw; by default those given when the tasks were submitted."),
    ] = None,
    experiment_name: Annotated[
        str | None, typer.Option("--experiment", help="Experiment of the recorders; the pool's name by default.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, help="Number of tasks to run in parallel; the number of cores by default."),
    ] = None,
    isolate: Annotated[bool, typer.Option("--isolate", help="Run each task in a new process.")] = False,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, help="Time limit of a task in seconds; none by default.")
    ] = None,
    memory: Annotated[str | None, typer.Option(help="Memory limit of a task: 512M, 4G.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads per task; by default each task's share of the cores.")
    ] = None,
    lease: Annotated[
        float, typer.Option(min=1, help="Seconds after which the tasks of an unresponsive worker are taken over.")
    ] = 60.0,
    grace: Annotated[float, typer.Option(min=0, help="Seconds that running tasks get to finish after SIGTERM.")] = 30.0,
    reconnect_timeout: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for a store that cannot be reached.")
    ] = 600.0,
    exit_when_empty: Annotated[bool, typer.Option("--exit-when-empty", help="Exit when no task is left.")] = False,
    func: Annotated[
        str | None,
        typer.Option(help="Function to run for each task, as module:function; by default the whole workflow."),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(help="Package or .py file whose classes tasks may name, besides Rollforge's own; repeatable."),
    ] = None,
    spans: Annotated[
        bool,
        typer.Option("--spans", help="Trace tasks with OpenTelemetry, which its variables OTEL_… configure."),
    ] = False,
    before: Annotated[str, typer.Option(help="Status of the tasks to take: waiting or part_done.")] = "waiting",
    after: Annotated[str, typer.Option(help="Status of tasks after success: done or part_done.")] = "done",
) -> None:
    """Run the tasks of a pool until stopped.

    Before it takes a task, the worker checks that this machine can run the tasks: data, tracking store, packages, disk
    space. Options that are not given are taken from the submission of the tasks. Exit code 7: this machine cannot run
    the tasks; 8: tasks failed on this machine that succeeded on others.

    On SIGTERM (or Ctrl-C), running tasks may finish within --grace seconds, and the others are returned; a second
    signal returns them at once. Tasks that ask for more cores, memory or GPUs than this machine has are left to other
    workers, which a warning says. If this process dies, no task is lost: other workers take over its tasks.
    """
    from rollforge.limits import read_memory
    from rollforge.run.capacity import Capacity
    from rollforge.run.requirements import Admission
    from rollforge.run.spans import tracer_provider
    from rollforge.session import Session, available_cores
    from rollforge.store.base import open_store
    from rollforge.trust import checked_plugins

    side_by_side = jobs or available_cores()
    session = Session().with_(
        region=region, **data_folders(data or ()), store_uri=store_uri, tracking_uri=tracking_uri,
        experiment_name=experiment_name or pool, threads=threads or max(1, available_cores() // side_by_side),
        allow=checked_plugins(allow or (), path="--allow"),
    )  # fmt: skip
    arguments: dict[str, object] = {} if func else {"experiment_name": session.experiment_name}
    job = replace(
        _job(pool, func, before, after, arguments),
        force_release=isolate,
        timeout=timeout,
        memory=read_memory(memory, path="--memory") if memory else None,
    )
    admission = None
    if func is None:
        given = {"provider_uri": session.provider_uri, "tracking_uri": tracking_uri or os.environ.get("ROLLFORGE_TRACKING"),
                 "region": region}  # fmt: skip
        admission = Admission(
            open_store(session.store_uri), pool, session, [name for name, value in given.items() if value],
            needs_data=not no_data, accept_other_data=accept_other_data,
        )  # fmt: skip
    if admission is not None:
        job = replace(job, on_death=functools.partial(_tidy_up, admission))
    capacity = Capacity.of_machine(available_cores(), side_by_side)
    settings = _Settings(side_by_side, capacity, lease, grace, reconnect_timeout, exit_when_empty)
    _run(session, job, settings, admission, tracer_provider() if spans else None)


def data_folders(given: Sequence[str]) -> dict[str, object]:
    """Return the session's fields for the values of ``--data``: one folder, or one for each frequency.

    Examples
    --------
    >>> data_folders(["market"])
    {'provider_uri': 'market', 'folders': {}}
    >>> data_folders(["day=days", "1h=hours"])
    {'provider_uri': 'days', 'folders': {'day': 'days', '60min': 'hours'}}
    """
    from rollforge.session import DEFAULT_FREQ, folders_by_frequency, read_frequency

    found: dict[str, str] = {}
    for value in given:
        before, equals, after = value.partition("=")
        if not equals or "/" in before or os.sep in before:  # part of a path
            name, folder = DEFAULT_FREQ, value
        else:
            try:
                name, folder = read_frequency(before, "--data"), after
            except ConfigError as exc:
                advice = f"If {value!r} is a folder, put a slash before it: --data ./{value}."
                raise ConfigError(f"{exc.message} {advice}", path="--data") from exc
        if name in found:
            what = "without a frequency" if name == DEFAULT_FREQ else f"for the frequency {name!r}"
            raise ConfigError(
                f"has two folders {what}, {shown(found[name])} and {shown(folder)}. Give one folder, or one for each "
                "frequency: --data day=FOLDER --data 1min=FOLDER.",
                path="--data",
            )
        if not folder:
            raise ConfigError(f"expected FOLDER, or FREQ=FOLDER as in day=FOLDER, found {shown(value)}.", path="--data")
        found[name] = folder
    return folders_by_frequency(found, "--data") if found else {}


@dataclass(frozen=True, slots=True)
class _Settings:
    """The settings of a worker pool that are options of the command."""

    jobs: int
    capacity: Capacity
    lease_seconds: float
    grace: float
    reconnect_timeout: float
    exit_when_empty: bool


def _tidy_up(admission: Admission, task_id: str) -> None:
    from rollforge.run.execute import end_unfinished_runs

    task = admission.store.get(admission.pool, task_id)
    end_unfinished_runs(task_id, admission.session.experiment_name, admission.session_for(task.submission))


def _job(pool: str, func: str | None, before: str, after: str, arguments: dict[str, object]) -> Job:
    from rollforge.run.execute import task_train
    from rollforge.run.job import Job
    from rollforge.task import Status

    for name, value, allowed in (
        ("--before", before, ("waiting", "part_done")),
        ("--after", after, ("done", "part_done")),
    ):
        if value not in allowed:
            raise ConfigError(f"{value!r} must be one of {', '.join(allowed)}.{nearest(value, allowed)}", path=name)
    task_func = load_function(func) if func else task_train
    return Job(pool, task_func, before=Status(before), after=Status(after), kwargs=arguments)


def _run(
    session: Session, job: Job, settings: _Settings, admission: Admission | None, provider: TracerProvider | None
) -> None:
    from rollforge.confidential import mask_secrets
    from rollforge.run.runners import LocalRunners
    from rollforge.run.spans import exported_spans
    from rollforge.run.worker_pool import WorkerPool
    from rollforge.store.base import open_store

    handler = logging.StreamHandler()
    handler.setFormatter(SafeFormatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    store = open_store(session.store_uri)
    notes = admission.check_pool(exit_when_empty=settings.exit_when_empty) if admission is not None else []
    stopping = _Stopping()
    echo(
        f"worker {socket.gethostname()}:{os.getpid()} takes tasks of {job.pool!r} "
        f"from {mask_secrets(session.store_uri)}, {settings.jobs} in parallel"
    )
    for note in notes:
        echo(f"note: {note}", err=True)
    with exported_spans(None, _show, provider) as on_event:
        worker_pool = WorkerPool(
            store,
            job,
            session,
            settings.jobs,
            on_event,
            stopping,
            lease_seconds=settings.lease_seconds,
            grace=settings.grace,
            reconnect_timeout=settings.reconnect_timeout,
            exit_when_empty=settings.exit_when_empty,
            admission=admission,
            wait_for_others=True,
            runners=LocalRunners(session, job, settings.jobs, capacity=settings.capacity, asked=None, strict=True),
        )
        with stopping:
            worker_pool.run()
    echo(f"{counted(worker_pool.ran, 'task')} run")


def _show(event: Event) -> None:
    took = f" in {event.seconds:.1f} s" if event.seconds else ""
    label = f"  {one_line(event.label)}" if event.label else ""
    echo(f"{event.kind:<8} {event.task_id}{label}{took}{': ' + event.error.splitlines()[0] if event.error else ''}")


_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class _Stopping:
    """Context that records whether SIGTERM, SIGHUP or Ctrl-C was received. The second signal interrupts."""

    def __init__(self) -> None:
        self._asked = False

    def __call__(self) -> bool:
        return self._asked

    def __enter__(self) -> _Stopping:
        self._before = [signal.signal(s, self._handle) for s in _STOPPING]
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in zip(_STOPPING, self._before, strict=True):
            signal.signal(number, handler)

    def _handle(self, signum: int, frame: object) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
