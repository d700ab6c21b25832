"""The ``rollforge`` command: its subcommands and its error handling."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from rollforge import __version__
from rollforge.cli import (
    cache,
    check,
    dashboard,
    data,
    new,
    pool,
    schema,
    serve,
    serve_http,
    serve_watch,
    track,
    worker,
    workflow,
)
from rollforge.cli.completion import COMPLETE_VAR, words_joined
from rollforge.cli.examples import add_examples
from rollforge.cli.names import ANY_SPELLING
from rollforge.cli.program import guarded, run_app
from rollforge.cli.terminal import echo, show_logs

__all__ = ["app", "main"]

app = typer.Typer(
    name="rollforge",
    help="Train many models over time: train every rolling window of an experiment and collect one "
    "out-of-sample result.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings=ANY_SPELLING,
)
app.command("new")(new.new)
app.command("plan")(workflow.plan)
app.command("check")(check.check)
app.command("run")(workflow.run)
app.command("schema")(schema.schema)
app.command("submit")(workflow.submit)
app.command("collect")(workflow.collect)
app.command("report")(workflow.report)
app.command("worker")(worker.worker)
app.command("dashboard")(dashboard.dashboard)
app.add_typer(data.app, name="data", help="Create a demo market, or import Parquet and CSV files into a data folder.")
app.add_typer(pool.app, name="pool", help="Inspect a pool of tasks and change its tasks.")
app.add_typer(track.app, name="track", help="List and copy the experiments and runs of a tracking store.")
app.add_typer(serve.app, name="serve", help="Show and change what a service publishes day by day, from its ledger.")
serve.app.command("watch")(serve_watch.watch)
serve.app.command("http")(serve_http.http)
app.add_typer(cache.app, name="cache", help="List and clear the feature panels on disk.")
add_examples(app)


def _version(value: bool) -> None:
    if value:
        echo(f"rollforge {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show log messages and tracebacks.")] = False,
) -> None:
    if verbose:
        os.environ["ROLLFORGE_VERBOSE"] = "1"
        show_logs()


def main() -> None:
    """Run the ``rollforge`` command."""
    with words_joined():
        guarded(lambda: run_app(app, COMPLETE_VAR))
