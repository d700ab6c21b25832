"""``rollforge pool``: inspect and change a pool of tasks. The subcommands have Qlib's names."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from rollforge.cli.completion import pool_names
from rollforge.cli.exit_codes import Exit
from rollforge.cli.names import ANY_SPELLING
from rollforge.cli.summaries import json_line, pool_summary
from rollforge.cli.terminal import echo, echo_json, one_line
from rollforge.confidential import mask_secrets
from rollforge.errors import ArtifactUnreadable, ConfigError, TaskNotSerializable, UntrustedPickle, counted, shown
from rollforge.machine import process_is_running
from rollforge.task import Cause, Document, Status, TaskRecord, attempts_made

if TYPE_CHECKING:
    from rollforge.store.base import TaskStore
    from rollforge.store.manager import TaskManager

app = typer.Typer(no_args_is_help=True, context_settings=ANY_SPELLING)

_STATE: dict[str, str | None] = {"pool": None, "store": None}

_UNREADABLE = (ArtifactUnreadable, UntrustedPickle, ConfigError)
"""Errors that reading the result of a task can raise."""

_AT_ONCE = 200
"""Number of tasks copied at a time."""

_QUERY = typer.Argument(help='Which tasks, as a query in MongoDB\'s form: \'{"status": "failed"}\'.')


@app.callback()
def _options(
    pool: Annotated[
        str | None, typer.Option("--task-pool", "-t", help="Name of the pool.", autocompletion=pool_names)
    ] = None,
    store_uri: Annotated[
        str | None, typer.Option("--store", help="URI of the task store; ROLLFORGE_STORE by default.")
    ] = None,
) -> None:
    """Inspect and change a pool of tasks."""
    _STATE.update(pool=pool, store_uri=store_uri)


def _manager(*, needs_pool: bool = True) -> TaskManager:
    from rollforge.session import Session
    from rollforge.store.manager import TaskManager

    _must_exist(Session().with_(store_uri=_STATE["store_uri"]).store_uri)
    if needs_pool and not _STATE["pool"]:
        known = TaskManager(None, session=Session().with_(store_uri=_STATE["store_uri"])).list()
        raise ConfigError(f"No pool is given. Use -t POOL. Known pools: {', '.join(known) or 'none'}.")
    return TaskManager(_STATE["pool"], session=Session().with_(store_uri=_STATE["store_uri"]))


def _store_uri() -> str:
    from rollforge.session import Session

    return Session().with_(store_uri=_STATE["store_uri"]).store_uri


def _must_exist(store_uri: str) -> None:
    """Refuse a file that does not exist."""
    from rollforge.store.sqlite_database import missing_file

    if (path := missing_file(store_uri)) is not None:
        raise ConfigError(f"The task store {path} does not exist. Give another one with 'rollforge pool --store URI'.")


def _existing() -> TaskManager:
    from rollforge.errors import TaskNotFound, nearest

    manager = _manager()
    known = manager.list()
    name = str(_STATE["pool"])
    if name not in known:
        raise TaskNotFound(
            f"Task pool {name!r} does not exist.{nearest(name, known)} Known pools: {', '.join(known) or 'none'}."
        )
    return manager


def _command() -> str:
    """Return the beginning of a pool command for this pool and store."""
    from rollforge.session import Session, pool_command

    return pool_command(Session().with_(store_uri=_STATE["store_uri"]).store_uri, str(_STATE["pool"]))


def _tasks(count: int) -> str:
    return counted(count, "task")


def _wait_again(count: int) -> None:
    echo(f"{_tasks(count)} {'waits' if count == 1 else 'wait'} again")


def parse_query(text: str | None) -> dict[str, object]:
    """Parse the query given on the command line.

    Raises
    ------
    ConfigError
        If it is not a JSON object.
    """
    try:
        query = json.loads(text or "{}")
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f'The query is not JSON: {exc}. Write it as \'{{"status": "failed"}}\'.') from exc
    if not isinstance(query, dict):
        raise ConfigError(f"The query must be a JSON object, found {type(query).__name__}.")
    return query


@app.command("list")
def list_() -> None:
    """List the pools of the store."""
    for name in _manager(needs_pool=False).list():
        echo(one_line(name))


@app.command("task-stat")
def task_stat(
    query: Annotated[str | None, _QUERY] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Also print the pool, the store and the statuses without tasks.")
    ] = False,
) -> None:
    """Count the tasks by status."""
    manager = _existing()
    counts = manager.task_stat(parse_query(query))
    if as_json:
        echo_json(json_line(pool_summary(str(_STATE["pool"]), _store_uri(), counts)))
    else:
        echo_json(json.dumps({str(k): v for k, v in counts.items()}))


@app.command()
def wait(query: Annotated[str | None, _QUERY] = None) -> None:
    """Wait until no task can make progress. Exits with 1 if some tasks are not done then."""
    manager = _existing()
    manager.wait(parse_query(query), warn=False)
    counts = manager.task_stat(parse_query(query))
    failed = counts.get(Status.FAILED, 0)
    if counts.get(Status.WAITING):
        cannot_run = {"status": Status.WAITING, "cause": Cause.REQUIREMENTS_NOT_MET.value}
        for task in manager.query({"$and": [parse_query(query), cannot_run]}, decode=False):
            echo(f"{task['_id'][:8]} is waiting after an error: {task['error']}")
    if failed or counts.get(Status.WAITING):
        if failed:
            command = _command()
            echo(f"{_tasks(failed)} failed. '{command} query' shows the errors; '{command} retry' retries the tasks.")
        raise typer.Exit(Exit.FAILED)


@app.command()
def query(
    query: Annotated[str | None, _QUERY] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print whole tasks as JSON, one per line.")] = False,
) -> None:
    """List tasks: id, status, attempt, model, test days, and the error in one line."""
    from rollforge.generate.naming import describe
    from rollforge.run.failures import error_line

    manager, wanted = _existing(), parse_query(query)
    if as_json:
        for task in _whole_tasks(manager, wanted):
            echo_json(_as_json(task))
        return
    for task in manager.query(wanted, decode=False):
        cells = [
            task["_id"], f"{task['status']!s:<9}", f"attempt {_attempts(task)}",
            describe(task["def"], task["model_name"]), str(task["cause"] or ""),
            error_line(task["error"]) if task["error"] else "",
        ]  # fmt: skip
        echo("  ".join(one_line(cell) for cell in cells if cell))


def _whole_tasks(manager: TaskManager, query: Document) -> Iterator[Document]:
    """Yield tasks with their results; an unreadable result is replaced by the reason."""
    found = set()
    try:
        for task in manager.query(query):
            found.add(task["_id"])
            yield task
    except _UNREADABLE:
        for task in manager.query(query, decode=False):
            if task["_id"] in found:
                continue
            try:
                yield manager.re_query(task["_id"])
            except _UNREADABLE as exc:
                yield {**task, "res": {"$unreadable": str(exc)}}


def _as_json(task: Document) -> str:
    """Return a complete task as plain data; a result that is not plain data is given as its repr."""
    from rollforge.task import encode

    try:
        return encode(dict(task))
    except TaskNotSerializable:
        looks = shown(task["res"]).encode("utf-8", "backslashreplace").decode("utf-8")
        return encode({**task, "res": {"$repr": looks}})


def _attempts(task: Document) -> int:
    return attempts_made(task["attempt"], Status(task["status"]))


@app.command()
def logs(
    task_id: Annotated[str, typer.Argument(help="Id of the task, or a prefix of it.")],
) -> None:
    """Show the status of a task, how its attempts ended, its last error, and the last lines that it logged or printed."""
    from rollforge.cli.attempts import attempt_summary

    manager = _existing()
    task = _one(manager, task_id)
    _show_head(task)
    if task["failed_by"]:
        echo(f"failed on {one_line(', '.join(task['failed_by']))}")
    with contextlib.suppress(*_UNREADABLE):  # its result cannot be read, which does not matter here
        for attempt in manager.attempts(task["_id"]):
            echo(attempt_summary(attempt))
    for name in ("error", "log"):
        if task[name]:
            echo(f"--- {name}\n{mask_secrets(task[name].rstrip())}")


@app.command()
def attempts(
    task_id: Annotated[str, typer.Argument(help="Id of the task, or a prefix of it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print each attempt as JSON, one per line.")] = False,
) -> None:
    """Show how each attempt at a task ended: worker, start, duration, and the traceback of a failed one."""
    from rollforge.cli.attempts import attempt_json, attempt_lines

    manager = _existing()
    task = _one(manager, task_id)
    found = manager.attempts(task["_id"])
    if as_json:
        for attempt in found:
            echo_json(attempt_json(attempt))
        return
    _show_head(task)
    for attempt in found:
        echo(attempt_lines(attempt))
    if not found:
        echo("No attempt has ended.")


def _show_head(task: Document) -> None:
    from rollforge.generate.naming import describe

    head = [
        f"{task['_id']}  {task['status']}", describe(task["def"], task["model_name"]), f"attempt {_attempts(task)}",
        f"worker {task['worker'] or 'none'}", str(task["cause"] or ""),
    ]  # fmt: skip
    echo("  ".join(one_line(cell) for cell in head if cell))


@app.command()
def submissions(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all information as JSON, one submission per line.")
    ] = False,
) -> None:
    """List the submissions (host, data, tracking store) and the status of their tasks."""
    from rollforge.run.submission import read_submission_info, submissions_of

    manager = _existing()
    pool = str(_STATE["pool"])
    submitted = submissions_of(manager.store, pool)
    for key, info in manager.store.submissions(pool).items():
        if key not in submitted:
            continue
        counts = {str(status): n for status, n in manager.task_stat({"submission": key}).items()}
        if as_json:
            echo_json(json.dumps({"submission": key, "tasks": counts, **info}))
            continue
        known = read_submission_info(info)
        mark, last = known.content.get("mark", ""), known.content.get("last_day", "")
        data = f"data {known.folder} to {last} ({str(mark)[:8]})" if known.folder else "no data"
        tasks = ", ".join(f"{n} {status}" for status, n in counts.items()) or "no tasks left"
        cells = [key[:8], known.host, data, f"runs {known.tracking_uri or 'chosen by each worker'}", tasks]
        echo("  ".join(one_line(cell) for cell in cells))


def _one(manager: TaskManager, start: str) -> Document:
    """Return the task whose id starts with the given characters."""
    from rollforge.errors import TaskNotFound

    found = list(manager.query({"_id": {"$regex": f"^{start}"}}, decode=False)) if start.isalnum() else []
    if len(found) != 1:
        known = f"{len(found)} tasks have ids that start" if found else "No task has an id that starts"
        raise TaskNotFound(f"{known} with {start!r}. '{_command()} query' lists them.")
    return found[0]


@app.command()
def cancel(query: Annotated[str | None, _QUERY] = None) -> None:
    """Cancel tasks that have not ended: they fail, and workers stop running them."""
    echo(f"{_tasks(_existing().cancel(parse_query(query)))} cancelled")


@app.command()
def pause() -> None:
    """Stop workers from taking tasks from the pool. Running tasks continue."""
    _existing().pause()
    echo(f"{_STATE['pool']} is paused; '{_command()} resume' ends the pause")


@app.command()
def resume() -> None:
    """Allow workers to take tasks again."""
    _existing().resume()
    echo(f"{_STATE['pool']} is no longer paused")


@app.command()
def watch(
    stay: Annotated[bool, typer.Option("--stay", help="Keep watching when no task can make progress.")] = False,
) -> None:
    """Show the state of the pool live: counts, running tasks, latest failures."""
    from rollforge.cli.watch import watch as show

    show(_existing(), stay=stay)


@app.command()
def copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="URI of the source store.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="URI of the target store.")],
) -> None:
    """Copy pools from one store to another: all, or the one given by -t. Existing tasks are not changed."""
    from rollforge.store.base import open_store

    _must_exist(source)
    old, new = open_store(source), open_store(target)
    left = 0
    names = old.pools()
    if _STATE["pool"] and _STATE["pool"] not in names:
        raise ConfigError(f"{source} has no pool {_STATE['pool']!r}. Known pools: {', '.join(names) or 'none'}.")
    for name in [str(_STATE["pool"])] if _STATE["pool"] else names:
        for info in old.submissions(name).values():
            new.keep_submission(name, info)
        left += _copy_tasks(old, new, name)
    if left:
        raise typer.Exit(Exit.FAILED)


def _copy_tasks(old: TaskStore, new: TaskStore, pool: str) -> int:
    """Copy the tasks of a pool in batches; return the number of tasks that were skipped."""
    copied = total = running = 0
    damaged: dict[str, str] = {}
    early: list[TaskRecord] = []
    for ids in old.pages(pool, _AT_ONCE):
        records, unreadable = _readable(old, pool, ids)
        damaged.update(unreadable)
        total += len(records) + len(unreadable)
        running += sum(r.status is Status.RUNNING for r in records)
        # A task copied before its dependency would fail; this happens if definitions were replaced.
        dependencies = sorted({n for r in records for n in r.depends_on} - set(ids))
        there = (
            {t.id for t in new.query(pool, {"_id": {"$in": dependencies}}, results=False)} if dependencies else set()
        )
        ready, present = records, there.union(ids)
        while waits := [r for r in ready if not present.issuperset(r.depends_on)]:
            early += waits
            present -= {r.id for r in waits}
            ready = [r for r in ready if r.id in present]
        copied += new.put(pool, ready)
    copied += new.put(pool, early)
    echo(f"{one_line(pool)}: {copied} of {total} tasks copied")
    if running:
        echo(f"{one_line(pool)}: {running} of them are running in the old store and waiting in the new one")
    for task_id, reason in damaged.items():
        echo(f"{one_line(pool)}: {task_id} was not copied, because its result cannot be read: {one_line(reason)}")
    return len(damaged)


def _readable(store: TaskStore, pool: str, ids: list[str]) -> tuple[list[TaskRecord], dict[str, str]]:
    """Return some tasks of a pool, and the reasons for unreadable results."""
    damaged = {}
    these = {"_id": {"$in": ids}}
    try:
        return list(store.query(pool, these)), {}
    except _UNREADABLE:
        records = []
        for task in store.query(pool, these, results=False):
            try:
                records.append(store.get(pool, task.id))
            except _UNREADABLE as exc:
                damaged[task.id] = str(exc)
        return records, damaged


@app.command()
def retry(query: Annotated[str | None, _QUERY] = None) -> None:
    """Set failed tasks to waiting again, with all their attempts."""
    _wait_again(_existing().retry(parse_query(query)))


@app.command("reset-waiting")
def reset_waiting(query: Annotated[str | None, _QUERY] = None) -> None:
    """Set running tasks to waiting. Use it only if their workers are dead: the results of living ones are refused."""
    manager, wanted = _existing(), parse_query(query)
    running = {"$and": [wanted, {"status": Status.RUNNING.value}]}
    workers = {task.worker or "" for task in manager.store.query(manager.pool, running, results=False)}
    for name in sorted(workers):
        if process_is_running(name.rpartition("@")[2]):
            echo(f"{one_line(name)} is still running; the results of its tasks will be refused", err=True)
    _wait_again(manager.reset_waiting(wanted))


@app.command("reset-status")
def reset_status(
    status: Annotated[str, typer.Argument(help="New status: waiting, done, part_done or failed.")],
    query: Annotated[str | None, _QUERY] = None,
) -> None:
    """Set the status of tasks."""
    count = _existing().reset_status(parse_query(query), status)
    echo(f"{_tasks(count)} {'is' if count == 1 else 'are'} {status}")


@app.command()
def prioritize(
    task_id: Annotated[str, typer.Argument(help="Id of the task, or a prefix of it.")],
    priority: Annotated[int, typer.Argument(help="Tasks with a higher priority are taken first.")],
) -> None:
    """Change the priority of a task."""
    manager = _existing()
    manager.prioritize(_one(manager, task_id), priority)


@app.command()
def remove(
    query: Annotated[str | None, _QUERY] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete tasks from the pool (their recorders stay)."""
    manager = _existing()
    wanted = parse_query(query)
    count = sum(manager.task_stat(wanted).values())
    if not yes:
        typer.confirm(f"Remove {_tasks(count)} of pool {_STATE['pool']!r}?", abort=True)
    manager.remove(wanted)
    echo(f"{_tasks(count)} removed")


def main() -> None:
    """Run ``rollforge pool`` as a separate program, for :data:`~rollforge.qlib_names.PROGRAMS`."""
    from rollforge.cli.program import guarded, run_app

    guarded(lambda: run_app(app))
