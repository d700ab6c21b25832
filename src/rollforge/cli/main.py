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
from rollforge.cli.terminal import SafeFormatter, echo, echo_error, protect_streams, show_exception
from rollforge.errors import RollforgeError, printable

__all__ = ["app", "main"]

app = typer.Typer(
    name="rollforge",
    help="Train many models over time: one experiment in, every rolling window trained, one out-of-sample result out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings=ANY_SPELLING,
)
app.command("plan")(workflow.plan)
app.command("run")(workflow.run)
app.command("submit")(workflow.submit)
app.command("collect")(workflow.collect)
app.command("report")(workflow.report)
app.command("worker")(worker.worker)
app.add_typer(data.app, name="data", help="Make a demo market, or import Parquet and CSV into a data folder.")
app.add_typer(pool.app, name="pool", help="Look at a pool of tasks and change what happens to them.")
app.add_typer(track.app, name="track", help="Experiments and runs of a tracking store.")
app.add_typer(cache.app, name="cache", help="The feature panels kept on disk.")


def _version(value: bool) -> None:
    if value:
        echo(f"rollforge {__version__}")
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
        handler = logging.StreamHandler()
        handler.setFormatter(SafeFormatter("%(levelname)s %(name)s: %(message)s"))
        logging.basicConfig(level=logging.INFO, handlers=[handler])


def _terminated(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the ``rollforge`` command."""
    guarded(lambda: run_app(app))


def run_app(command: typer.Typer) -> None:
    """Run a command with its arguments, and end the process with its exit code.

    What was typed is repeated in messages about it, and may have been pasted from anywhere.
    """
    try:
        code = command(standalone_mode=False)
    except typer.Abort:
        echo_error("rollforge: nothing was done.")
        sys.exit(Exit.FAILED)
    except Exception as exc:
        if not hasattr(exc, "format_message"):
            raise
        _show_usage(exc)
        sys.exit(int(getattr(exc, "exit_code", Exit.USAGE)))
    sys.exit(code if isinstance(code, int) else Exit.DONE)


def _show_usage(exc: Any) -> None:
    """Show a mistake in what was typed as Typer does."""
    from typer import rich_utils

    told = printable(exc.format_message())
    exc.format_message = lambda: told
    rich_utils.rich_format_error(exc)


def guarded(command: Callable[[], Any]) -> None:
    """Run a command. An error ends it with one message and the code of :mod:`rollforge.cli.exit_codes`."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminated)
    protect_streams()
    try:
        command()
    except RollforgeError as exc:
        if os.environ.get("ROLLFORGE_VERBOSE"):
            show_exception(exc)
        else:
            echo_error(f"rollforge: {exc}")
        sys.exit(exit_code(exc))
    except KeyboardInterrupt:
        echo_error("\nrollforge: stopped. Running tasks were given back; the same command goes on where it was.")
        sys.exit(Exit.INTERRUPTED)
    except BrokenPipeError:  # the reader of our output went away, as `rollforge … | head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.BROKEN_PIPE)
    except Exception as exc:  # noqa: BLE001 - Python would print it as it is
        show_exception(exc)
        sys.exit(Exit.FAILED)
