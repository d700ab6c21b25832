"""The ``rollforge`` command: its subcommands, and how errors reach a person."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from rollforge import __version__
from rollforge.cli import cache, data, pool, track, worker, workflow
from rollforge.cli.exit_codes import Exit, exit_code
from rollforge.cli.names import ANY_SPELLING
from rollforge.confidential import mask_secrets
from rollforge.errors import RollforgeError

__all__ = ["app", "main"]

app = typer.Typer(
    name="rollforge",
    help="Train many models over time: one experiment in, every rolling window trained, one out-of-sample result out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings=ANY_SPELLING,
)
app.command("plan")(workflow.plan)
app.command("run")(workflow.run)
app.command("collect")(workflow.collect)
app.command("report")(workflow.report)
app.command("worker")(worker.worker)
app.add_typer(data.app, name="data", help="Make a demo market, or import Parquet and CSV into a data folder.")
app.add_typer(pool.app, name="pool", help="Look at a pool of tasks and change what happens to them.")
app.add_typer(track.app, name="track", help="Experiments and runs of a tracking store.")
app.add_typer(cache.app, name="cache", help="The feature panels kept on disk.")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"rollforge {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and end.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show what the library logs, and tracebacks.")
    ] = False,
) -> None:
    if verbose:
        os.environ["ROLLFORGE_VERBOSE"] = "1"
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")


def _terminated(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the ``rollforge`` command."""
    guarded(app)


def guarded(command: Callable[[], Any]) -> None:
    """Run a command. An error ends it with one message and the code of :mod:`rollforge.cli.exit_codes`."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminated)
    try:
        command()
    except RollforgeError as exc:
        if os.environ.get("ROLLFORGE_VERBOSE"):
            raise
        sys.stderr.write(f"rollforge: {mask_secrets(str(exc))}\n")
        sys.exit(exit_code(exc))
    except KeyboardInterrupt:
        sys.stderr.write(
            "\nrollforge: stopped. Running tasks were given back; the same command goes on where it was.\n"
        )
        sys.exit(Exit.INTERRUPTED)
    except BrokenPipeError:  # the reader of our output went away, as `rollforge … | head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.BROKEN_PIPE)
