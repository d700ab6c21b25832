"""``rollforge plan | run | submit | collect | report``: commands for one workflow file or one experiment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rollforge.cli.comparison import Format, Shape, write_comparison
from rollforge.cli.completion import experiment_or_file, workflow_files
from rollforge.cli.exit_codes import Exit
from rollforge.cli.summaries import AsJson, error_groups, plan_summary, result_summary, start_summary, summarised
from rollforge.cli.terminal import echo, echo_error, echo_json, one_line
from rollforge.errors import ConfigError, counted, shown
from rollforge.paths import name_problem
from rollforge.session import Session, pool_command

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider
    from rich.console import Console

    from rollforge.collect.combine import Ensembles
    from rollforge.collect.result import Collected
    from rollforge.engine.executors import EngineExecutor
    from rollforge.engine.options import RunOptions
    from rollforge.generate.timeline import SegmentSpan, Window
    from rollforge.pipeline import Submission
    from rollforge.plan import Plan
    from rollforge.report.summary import Summary
    from rollforge.run.executor import Executor
    from rollforge.run.failures import FailureGroup
    from rollforge.sides import Side, Source
    from rollforge.workflow import Template, Workflow

File = Annotated[
    Path, typer.Argument(metavar="WORKFLOW.yaml", help="The workflow file.", autocompletion=workflow_files)
]
Name = Annotated[
    str,
    typer.Argument(
        metavar="EXPERIMENT", help="Name of the experiment, or its workflow file.", autocompletion=experiment_or_file
    ),
]
StoreUri = Annotated[str | None, typer.Option("--store", help="URI of the task store: sqlite:///PATH.")]
TrackingUri = Annotated[
    str | None, typer.Option("--tracking", help="URI of the tracking store: sqlite:///PATH, http://…, folder:PATH.")
]
ExperimentName = Annotated[
    str | None, typer.Option("--experiment", help="Name of the experiment; the one in the file by default.")
]
On = Annotated[
    str | None,
    typer.Option(
        "--on", metavar="local|ray[:HOST:PORT]|dask[://HOST:PORT]|slurm",
        help="Where tasks run: processes of this machine (local), or a cluster. By default as in the file.",
    ),
]  # fmt: skip
Jobs = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Number of tasks to run at the same time; 0 trains in this process. Default: the number of cores, or what the "
        "cluster has room for.",
    ),
]
Cpus = Annotated[int | None, typer.Option(min=1, help="Cores of each task; 1 by default.")]
Memory = Annotated[
    str | None, typer.Option(help="Memory that each task needs, in bytes or as 512M or 8G. Not known by default.")
]
Gpus = Annotated[float | None, typer.Option(min=0, help="GPUs of each task; a fraction shares one. None by default.")]
Spans = Annotated[
    bool | None,
    typer.Option(
        "--spans/--no-spans",
        help="Trace tasks with OpenTelemetry, which its variables OTEL_… configure. No by default.",
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Number of tasks to use, the first ones; all by default.")]
LeakageMode = Annotated[
    str | None,
    typer.Option(
        "--leakage", metavar="error|warn|off",
        help="How to treat a leak found in the definitions; by default as in the file.",
    ),
]  # fmt: skip
Output = Annotated[Path | None, typer.Option(help="Folder of the results; results/EXPERIMENT by default.")]
Coverage = Annotated[
    bool, typer.Option("--allow-gaps", help="Collect even if windows are missing; the report lists them.")
]


def _console() -> Console:
    from rollforge.cli.terminal import console

    return console()


def _warn(text: str) -> None:
    echo_error(f"warning: {text}")


def _warn_all(texts: Iterable[str], prefix: str = "") -> None:
    for text in texts:
        _warn(f"{prefix}{text}")


def _load(file: Path, limit: int | None, **overrides: object) -> Plan:
    from rollforge.plan import make_plan
    from rollforge.workflow import load_workflow

    return make_plan(load_workflow(file, **overrides), limit=limit)


def _executor(options: RunOptions) -> EngineExecutor | None:
    """Return the executor of an engine; None if tasks run on this machine."""
    from rollforge.engine.options import LOCAL

    if options.engine == LOCAL:
        return None
    from rollforge.engine.executors import executor_of

    return executor_of(options)


def _show_forecast(made: Plan, executor: EngineExecutor, console: Console, *, start: bool = False) -> None:
    from rich.text import Text

    from rollforge.engine.forecast import forecast

    found = forecast(made.tasks, executor, made.workflow.session)
    console.print()
    for line in found.lines():
        console.print(Text(one_line(line)), soft_wrap=True)
    if not start:
        console.print("Nothing was started: no connection, no agent, no task.")


def _show_plan(plan: Plan, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    from rollforge.collect.combine import ensembles_text
    from rollforge.dates import has_times
    from rollforge.generate.timeline import draw

    workflow = plan.workflow
    head = Text(one_line(workflow.experiment_name), "bold").append(
        f"  {counted(len(plan.tasks), 'task')}  data {workflow.session.folder()}", "not bold"
    )
    console.print(head, soft_wrap=True)
    models = len(set(plan.model_names))
    if models > 1 or plan.ensembles.config:
        console.print(Text(f"ensemble  {one_line(ensembles_text(plan.ensembles.names(models)))}"), soft_wrap=True)
    several = any(plan.model_names)
    counts = "bars" if has_times(plan.schedule.calendar) else "days"
    fits = plan.fits
    if fits > len(plan.tasks):
        console.print(Text(f"fits  {fits} models in {len(plan.tasks)} tasks"), soft_wrap=True)
    table = Table("#", *(["model"] if several else []), "train", "valid", "test", counts, box=None, pad_edge=False)
    for window in plan.windows:
        number, *cells = window_cells(window)
        row = [number, *([window.model] if several else []), *cells]
        table.add_row(*(Text(one_line(cell)) for cell in row))  # brackets in a name are not markup
    console.print(table)
    console.print()
    for line in draw(plan.windows, width=min(console.width, 100)):
        console.print(line, soft_wrap=True)
    for warning in plan.warnings:
        _warn(warning)


def window_cells(window: Window) -> list[str]:
    """Return a window as the cells of a table row: number, and train, valid and test with their trading days."""
    spans = [(window.segments.get(key)) for key in ("train", "valid", "test")]
    shown = [_span_text(span) for span in spans]
    days = " + ".join(str(span.days) for span in spans if span is not None)
    return [str(window.index + 1), *shown, days]


def _span_text(span: SegmentSpan | None) -> str:
    from rollforge.dates import show_time  # imports NumPy, which most commands do not need

    return "" if span is None else "; ".join(f"{show_time(start)} … {show_time(end)}" for start, end in span.parts)


def plan(
    file: File,
    store_uri: StoreUri = None,
    tracking_uri: TrackingUri = None,
    experiment_name: ExperimentName = None,
    limit: Limit = None,
    leakage: LeakageMode = None,
    on: On = None,
    jobs: Jobs = None,
    cpus: Cpus = None,
    memory: Memory = None,
    gpus: Gpus = None,
    as_json: AsJson = False,
) -> None:
    """Show the tasks of a workflow as a table and on a time axis. Trains nothing.

    With --on, also what a run would ask of the cluster, without connecting to it.
    """
    with summarised(as_json) as found:
        made = _load(
            file,
            limit,
            store_uri=store_uri,
            tracking_uri=tracking_uri,
            experiment_name=experiment_name,
            leakage=leakage,
        )
        console = _console()
        options = made.workflow.run.over(on=on, jobs=jobs, cpus=cpus, memory=memory, gpus=gpus)
        executor = _executor(options)
        _show_plan(made, console)
        if executor is not None:
            _show_forecast(made, executor, console)
        else:
            _show_processes(made, options, console)
        found.update(plan_summary(made))


def run(
    file: File,
    on: On = None,
    jobs: Jobs = None,
    cpus: Cpus = None,
    memory: Memory = None,
    gpus: Gpus = None,
    spans: Spans = None,
    store_uri: StoreUri = None,
    tracking_uri: TrackingUri = None,
    experiment_name: ExperimentName = None,
    limit: Limit = None,
    output: Output = None,
    allow_gaps: Coverage = False,
    leakage: LeakageMode = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and which tasks are done; train nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Plan, store, train on all cores or on a cluster, collect one out-of-sample prediction, and report on it.

    Tasks are identified by their content, and finished tasks are not trained again. After Ctrl-C or a crash, the same
    command completes the rest.
    """
    from rollforge.cli.notifications import reported_run
    from rollforge.run.spans import tracer_provider

    with summarised(as_json) as found:
        console = _console()
        made = _load(
            file,
            limit,
            store_uri=store_uri,
            tracking_uri=tracking_uri,
            experiment_name=experiment_name,
            leakage=leakage,
        )
        options = made.workflow.run.over(on=on, jobs=jobs, cpus=cpus, memory=memory, gpus=gpus, spans=spans)
        executor = _executor(options)
        found.update(start_summary(made.workflow.experiment_name, made.workflow.session), tasks=len(set(made.ids)))
        _show_plan(made, console)
        if executor is not None:
            _show_forecast(made, executor, console, start=not dry_run)
        elif dry_run:
            _show_processes(made, options, console)
        if dry_run:
            return
        if executor is not None:
            executor.engine()  # before anything is stored
        provider = tracer_provider() if options.spans else None
        folder = _output_folder(output, made.workflow.experiment_name)
        with reported_run(made, _labels(made)):
            _run(made, options, executor, folder, console, found, allow_gaps=allow_gaps, provider=provider)


def _run(
    made: Plan,
    options: RunOptions,
    executor: EngineExecutor | None,
    folder: Path,
    console: Console,
    found: dict[str, object],
    *,
    allow_gaps: bool,
    provider: TracerProvider | None,
) -> None:
    """Train, collect and report; `found` is completed."""
    from rollforge import pipeline
    from rollforge.sides import Source

    _train(made, options, executor, folder, console, provider)
    failed = pipeline.failures(made)
    found.update(failed=sum(len(group.tasks) for group in failed), errors=error_groups(failed))
    _show_failures(made, failed)
    if failed and not allow_gaps:
        raise typer.Exit(Exit.FAILED)
    session = made.workflow.session
    collected = pipeline.collect(
        session,
        made.workflow.experiment_name,
        made.ids,
        allow_gaps=allow_gaps,
        label_days=made.workflow.label_days,
        plan=made,
    )
    name, label_days = made.workflow.experiment_name, made.workflow.label_days
    source = Source(name, session, collected, label_days=label_days, ensembles=made.ensembles)
    _finish(source, made.workflow.text, folder, console, found, keep=True)


def submit(
    file: File,
    store_uri: StoreUri = None,
    tracking_uri: TrackingUri = None,
    experiment_name: ExperimentName = None,
    limit: Limit = None,
    leakage: LeakageMode = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Store the tasks of a workflow for workers on this or other machines. Trains nothing.

    The pool also stores information about the submission: the contents of the data folder, the tracking store, the
    trading rules and the packages. Workers use the same, or report what differs. Finished tasks are kept; failed tasks
    wait again. When the workers are done, 'rollforge run' or 'collect' produces the result without training.
    """
    from rollforge import pipeline

    made = _load(
        file, limit, store_uri=store_uri, tracking_uri=tracking_uri, experiment_name=experiment_name, leakage=leakage
    )
    for warning in made.warnings:
        _warn(warning)
    found = pipeline.submit(made)
    summary = submission_summary(made, found)
    if as_json:
        import json

        echo_json(json.dumps(summary))
        return
    _show_submission(summary)


def submission_summary(made: Plan, found: Submission) -> dict[str, object]:
    """Return a summary of a submission as plain data, for users and scripts."""
    from rollforge.cli.names import absolute_store, worker_command
    from rollforge.confidential import mask_secrets

    session, name, total = made.workflow.session, made.workflow.experiment_name, len(set(made.ids))
    data = found.info.get("data") or {}
    return {
        "pool": name, "store": mask_secrets(absolute_store(session.store_uri)), "tracking": found.info.get("tracking"),
        "data": data.get("folder"), "content": (data.get("content") or {}).get("mark"),
        "tasks": total, "new": found.new, "known": total - found.new, "done": found.done, "running": found.running,
        "retried": found.retried, "ids": list(dict.fromkeys(made.ids)),
        "worker": worker_command(session, name, _to_allow(made, found)),
        "secret_store": mask_secrets(session.store_uri) != session.store_uri,
    }  # fmt: skip


def _to_allow(made: Plan, found: Submission) -> list[str]:
    """Return the packages and files that workers must allow, because they are not model libraries."""
    from rollforge.trust import is_library

    session = made.workflow.session
    named = [package for packages in found.info.get("models", {}).values() for package in packages]
    named = [*session.plugins, *(module for _, module in session.operators), *named]
    return list(dict.fromkeys(name for name in named if not is_library(name)))


def _show_submission(summary: Mapping[str, object]) -> None:
    counts = [f"{summary['new']} new"]
    counts += [f"{summary[word]} {said}" for word, said in
               (("done", "already done"), ("running", "running"), ("retried", "waiting again after a failure"))
               if summary[word]]  # fmt: skip
    rows = {
        "pool": summary["pool"], "store": summary["store"], "tasks": f"{summary['tasks']}: {', '.join(counts)}",
        "data": summary["data"] or "none", "runs": summary["tracking"] or "chosen by each worker",
    }  # fmt: skip
    for label, value in rows.items():
        echo(f"{label:<6} {one_line(value)}")
    if summary["secret_store"]:
        echo(
            "\nOn each machine that should run tasks, set ROLLFORGE_STORE to the store's address, including "
            "its password, and run:"
        )
    else:
        echo("\nRun this on each machine that should run tasks:")
    echo(f"  {summary['worker']}")
    if str(summary["store"]).startswith("sqlite:"):
        echo(
            "The store is a file on this machine, so workers must run here. For workers on other machines, "
            "use --store postgresql://HOST/DATABASE."
        )
    elif not str(summary["tracking"]).startswith("http"):
        echo(
            "Runs are recorded in a file on this machine. For workers on other machines, use --tracking "
            "with a store that all of them can reach."
        )


def _output_folder(output: Path | None, experiment_name: str) -> Path:
    """Create the folder for the results, and return it.

    Raises
    ------
    ConfigError
        If it cannot be created, or if no folder is given and the experiment's name is not a valid folder name.
    """
    problem = name_problem(experiment_name)
    if output is None and problem:
        raise ConfigError(
            f"The name of experiment {shown(experiment_name)} cannot be the name of its results folder: {problem}. "
            "Give another folder with --output."
        )
    folder = output or Path("results") / experiment_name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(
            f"The results cannot be written to {str(folder)!r}: {exc.strerror}. Give another folder with --output."
        ) from exc
    return folder


def _train(
    made: Plan,
    options: RunOptions,
    executor: EngineExecutor | None,
    folder: Path,
    console: Console,
    provider: TracerProvider | None,
) -> None:
    from rollforge import pipeline
    from rollforge.cli.progress import RunProgress
    from rollforge.run.spans import exported_spans

    if executor is None and options.gpus:
        from rollforge.run.gpus import check_gpus

        options.named(lambda: check_gpus(options.gpus or 0.0))
    submitted = pipeline.submit(made)
    left = len(set(made.ids)) - submitted.done
    workers: int | None = None
    if executor is None:
        workers = _processes(options, made.workflow.session, left) if options.jobs is None else options.jobs
    elif executor.jobs is not None:
        workers = min(executor.jobs, max(left, 1))
    if submitted.renamed:
        console.print(f"{counted(submitted.renamed, 'task')} renamed")
    if submitted.retried:
        console.print(f"{counted(submitted.retried, 'failed task')} will be retried")
    if not left:
        console.print(f"all {submitted.done} tasks are already done; nothing to train")
        return
    if submitted.done:
        console.print(f"{submitted.done} of {len(made.ids)} tasks are already done")
    progress = RunProgress(
        _labels(made),
        done=submitted.done,
        jobs=None if workers is None else max(workers, 1),
        console=console,
        log_file=folder / "run.log",
        cluster=executor is not None,
    )
    name = made.workflow.experiment_name
    with progress:
        try:
            with exported_spans(name, progress, provider) as on_event:
                pipeline.train(
                    made,
                    jobs=workers or 0,
                    on_event=on_event,
                    log_file=folder / "run.log",
                    executor=executor or _on_gpus(options, workers or 0),
                )
        except KeyboardInterrupt:
            echo_error(
                "rollforge: interrupted. Running tasks were returned to the pool; run the same command to continue."
            )
            raise typer.Exit(Exit.INTERRUPTED) from None


def _show_processes(made: Plan, options: RunOptions, console: Console) -> None:
    """Print what tasks on this machine ask for, and whether it has that."""
    from rollforge.engine.resources import Resources
    from rollforge.run.gpus import check_gpus

    if not (options.cpus or options.memory or options.gpus):
        return
    session, left = made.workflow.session, len(made.tasks)
    asked = Resources(cpus=options.cpus or 1, memory=options.memory, gpus=options.gpus or 0.0)
    number = _processes(options, session, left) if options.jobs is None else max(1, options.jobs)
    said = f"runs    {counted(min(number, left), 'task')} at a time on this machine, each with {asked.text()}"
    console.print()
    console.print(said, soft_wrap=True)
    try:
        check_gpus(asked.gpus)
    except ConfigError as exc:
        _warn(f"{exc}")


def _on_gpus(options: RunOptions, workers: int) -> Executor | None:
    """Return processes that share out the GPUs of this machine; None if tasks ask for none."""
    from rollforge.run.executor import LocalProcesses

    return LocalProcesses(max(1, workers), gpus=options.gpus) if options.gpus else None


def _processes(options: RunOptions, session: Session, left: int) -> int:
    """Return how many worker processes fit on this machine, at most one for each task."""
    from rollforge.engine.resources import Resources
    from rollforge.machine import memory_size
    from rollforge.run.gpus import visible_gpus

    asked, size = Resources(cpus=options.cpus or 1, memory=options.memory, gpus=options.gpus or 0.0), memory_size()
    found = asked.fits(cpus=session.threads, memory=size, gpus=len(visible_gpus()) if asked.gpus else 0)
    if not found:
        has = Resources(cpus=session.threads, memory=size if asked.memory else None)
        each = Resources(cpus=asked.cpus, memory=asked.memory)
        _warn(f"each task needs {each.text()}, but this machine has {has.text()}. Tasks run one at a time.")
    return max(1, min(found, left))


def _labels(made: Plan) -> dict[str, str]:
    return {task_id: window_label(window) for task_id, window in zip(made.ids, made.windows, strict=True)}


def _show_failures(made: Plan, groups: Sequence[FailureGroup]) -> None:
    """Print the failures, each cause once, and the commands that show details."""
    if not groups:
        return
    session, name, labels = made.workflow.session, made.workflow.experiment_name, _labels(made)
    failed = sum(len(group.tasks) for group in groups)
    echo_error(f"rollforge: {failed} of {len(made.ids)} tasks failed.")
    for group in groups:
        echo_error(f"  {group.reason}\n    {group.listed(labels)}")
    echo_error(
        f"Traceback and log: {pool_command(session.store_uri, name)} logs {groups[0].tasks[0][:8]}\nThe "
        "same command retries the failed tasks; --allow-gaps reports without them."
    )


def window_label(window: Window) -> str:
    """Return the label of a task: ``window 3, test 2016-01-04 … 2016-03-30``, with the model's name if there are several."""
    test = window.segments.get("test")
    days = _span_text(test)
    span = f", test {days}" if days else ""
    return f"{window.title}{span}"


def _finish(
    source: Source,
    config: str,
    folder: Path,
    console: Console,
    found: dict[str, object],
    *,
    keep: bool,
    groups: str | None = None,
    shape: Shape | None = None,
) -> None:
    """Write the result, print its headline and complete `found`; with `keep`, also save it as a run next to the windows' runs."""
    from rollforge import pipeline

    shape, name, session = shape or Shape(), source.name, source.session
    collected = pipeline.with_trials(source.backtested(source.collected), session, name)
    parts = source.parts(collected)
    collected = pipeline.separated(collected, parts)
    summary = pipeline.write_results(
        collected, name=name, session=session, config=config, folder=folder, groups=groups, parts=parts,
        markdown=shape.markdown,
    )  # fmt: skip
    shown = [summary]
    if not summary.combined:
        shown = [replace(one, title=f"{name}: {title}") for title, one in summary.parts.items()]
    for one in shown:
        _show_summary(one, console)
    for note in (*collected.coverage.notes, *collected.warnings):
        _warn(note)
    written = {"report": "report.md" if shape.markdown else "report.html"}
    if collected.prediction is not None:
        written["prediction"] = "prediction.parquet"
    if collected.backtest is not None:
        written["backtest"] = "backtest.parquet"
    found.update(result_summary(collected, summary))
    found.update({what: folder / file for what, file in written.items()})
    for what, file in written.items():  # complete paths, so that they can be copied, whatever their length and brackets
        console.print(f"{what:<10}  {folder / file}", soft_wrap=True)
    if shape.csv is not None:
        from rollforge.report.figure_data import write_figures

        files = write_figures(summary, shape.csv)
        console.print(f"{'figures':<10}  {shape.csv} ({counted(len(files), 'file')})", soft_wrap=True)
    if keep:
        found["recorder"] = _keep(collected, summary, name, session, console)
    if collected.failed:
        console.print(
            f"{collected.failed} of {len(collected.outcomes)} tasks failed; the report shows the error of each"
        )
        raise typer.Exit(Exit.FAILED)


def _show_summary(summary: Summary, console: Console) -> None:
    """Print the headline and the tables of a result."""
    from rollforge.report.terminal import (
        backtest_table,
        checks_table,
        groups_table,
        headline_table,
        models_table,
        overfitting_table,
        paths_table,
    )

    console.print(headline_table(summary))
    for make in (models_table, groups_table, overfitting_table, paths_table, backtest_table):
        table = make(summary)
        if table is not None:
            console.print(table)
    console.print(checks_table(summary))


def _keep(collected: Collected, summary: Summary, name: str, session: Session, console: Console) -> str | None:
    """Save the result as a run, and return its id; None if it has no prediction or could not be saved."""
    from rollforge import pipeline
    from rollforge.errors import TrackingError

    try:
        recorder = pipeline.keep_result(collected, summary, session=session, pool=name)
    except TrackingError as exc:  # the result is in the files above
        _warn(f"the joined result was not saved in the tracking store: {exc}")
        return None
    if recorder is None:
        return None
    console.print(f"run         {recorder.id} in experiment {name}")
    return str(recorder.id)


def collect(
    name: Name,
    store_uri: StoreUri = None,
    tracking_uri: TrackingUri = None,
    output: Output = None,
    allow_gaps: Coverage = False,
    as_json: AsJson = False,
) -> None:
    """Collect the finished tasks of an experiment into one prediction (with --allow-gaps, even while others still run).

    The result is saved as a run next to the windows' runs; collecting again updates it.
    """
    with summarised(as_json) as found:
        stores = _Stores(store_uri, tracking_uri)
        source, config = _collected(name, stores, allow_gaps, found)
        _warn_all(source.collected.plan_warnings)
        _finish(source, config, _output_folder(output, source.name), _console(), found, keep=True)


@dataclass(frozen=True)
class _Stores:
    """The stores that options name."""

    store_uri: str | None
    tracking_uri: str | None


def report(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="EXPERIMENT[:MODEL]",
            help="Names of experiments, or their workflow files. Several are compared, and so are models of them.",
            autocompletion=experiment_or_file,
        ),
    ],
    store_uri: StoreUri = None,
    tracking_uri: TrackingUri = None,
    output: Output = None,
    allow_gaps: Coverage = True,
    group: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|FILE:COLUMN|UNIVERSE",
            help="Add the IC within groups of instruments: a CSV or Parquet file with a column of instruments and one of groups, "
            "or a universe.",
        ),
    ] = None,
    kind: Annotated[
        Format, typer.Option("--format", help="A page (html), or Markdown for a pull request or an issue (md).")
    ] = Format.HTML,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FOLDER", help="Also save the data of each figure, as CSV files in this folder."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a report of the current state of an experiment, as one file; or compare several experiments and models.

    The comparison shows the figures of each and the differences from the first, on the days and instruments that both have.
    """
    from rollforge.sides import compare_sides

    shape, stores = Shape(kind is Format.MD, csv), _Stores(store_uri, tracking_uri)
    with summarised(as_json) as found:
        sides = _sides(names, stores)
        if len(sides) > 1:
            if group is not None:
                raise ConfigError("--group works with one experiment only.")
            folder = _output_folder(output, "comparison")

            def source_of(name: str) -> Source:
                source, _ = _collected(name, stores, allow_gaps, {})
                _warn_all(source.collected.plan_warnings, f"{source.name}: ")
                return source

            compared = compare_sides(sides, source_of)
            write_comparison(compared, folder, shape, _console(), found)
            return
        if sides[0].model is not None:
            raise ConfigError(
                f"{shown(names[0])} is one model of the experiment {shown(sides[0].experiment_name)}. A model is compared with "
                "others: name a second experiment or model."
            )
        source, config = _collected(sides[0].experiment_name, stores, allow_gaps, found)
        _warn_all(source.collected.plan_warnings)
        folder = _output_folder(output, source.name)
        _finish(source, config, folder, _console(), found, keep=False, groups=group, shape=shape)


def _sides(names: Sequence[str], stores: _Stores) -> list[Side]:
    """Return the experiments and models that arguments name."""
    from rollforge.sides import Side, model_names, read_side
    from rollforge.store.base import open_store
    from rollforge.store.sqlite_database import missing_file

    def models_in(store_uri: str, name: str) -> list[str] | None:
        return None if missing_file(store_uri) is not None else model_names(open_store(store_uri), name)

    def models_of(name: str) -> list[str] | None:
        if not _is_file(name):
            return models_in(Session().with_(store_uri=stores.store_uri).store_uri, name)
        if not Path(name).exists():
            return None
        workflow = _workflow(name, stores)
        return models_in(workflow.session.store_uri, workflow.experiment_name) or []

    return [read_side(name, models_of) if ":" in name else Side(name) for name in names]


def _workflow(file: str, stores: _Stores) -> Workflow:
    from rollforge.workflow import load_workflow

    return load_workflow(file, store_uri=stores.store_uri, tracking_uri=stores.tracking_uri)


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _collected(name: str, stores: _Stores, allow_gaps: bool, found: dict[str, object]) -> tuple[Source, str]:
    """Collect an experiment by its name or its workflow file; return it with the workflow as YAML.

    `found` gets its name and stores.
    """
    from rollforge.plan import workflow_ensembles
    from rollforge.sides import Source

    session = Session().with_(store_uri=stores.store_uri, tracking_uri=stores.tracking_uri, experiment_name=name)
    workflow = _workflow(name, stores) if _is_file(name) else None
    label_days: int | None = None
    ensembles: Ensembles | None = None  # those of the submission
    templates: Sequence[Template] = ()  # others may have written a pool's tasks, so their strategies are not run
    if workflow is not None:
        session, name, label_days = workflow.session, workflow.experiment_name, workflow.label_days
        templates, ensembles = workflow.templates, workflow_ensembles(workflow)
    found.update(start_summary(name, session))
    source = Source.read(
        session, name, allow_gaps=allow_gaps, templates=templates, label_days=label_days, ensembles=ensembles
    )
    return source, source.collected.template_text() if workflow is None else workflow.text
