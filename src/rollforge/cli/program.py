"""Running a command as a program: its arguments, its errors, its exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import typer

from rollforge.cli.exit_codes import Exit, exit_code
from rollforge.cli.terminal import echo_error, protect_streams, show_exception
from rollforge.errors import RollforgeError, printable

__all__ = ["guarded", "run_app"]

_AFTER_THE_DESTRUCTOR = 0.05  # seconds


def _terminated(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _repeat_lost_interruption(lost: sys.UnraisableHookArgs) -> None:
    """Interrupt again if Python has discarded a KeyboardInterrupt, which it does in destructors and callbacks of C code."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        main = threading.main_thread().ident
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as in a background job of a shell
        number = signal.SIGTERM if ignored else signal.SIGINT
        repeated = threading.Timer(_AFTER_THE_DESTRUCTOR, signal.pthread_kill, (main, number))
        repeated.daemon = True
        repeated.start()
    else:
        sys.__unraisablehook__(lost)


def run_app(command: typer.Typer, complete_var: str | None = None) -> None:
    """Run a command with its arguments, and end the process with its exit code.

    Messages repeat the user's input, which may have been pasted from anywhere, so it is escaped.

    Parameters
    ----------
    command : Typer
        The command.
    complete_var : str, optional
        The variable by which a shell asks for completions; by default it follows from how the program was started.
    """
    try:
        code = command(standalone_mode=False, complete_var=complete_var)
    except typer.Abort:
        echo_error("rollforge: cancelled; nothing was changed.")
        sys.exit(Exit.FAILED)
    except Exception as exc:
        if not hasattr(exc, "format_message"):
            raise
        _show_usage(exc)
        sys.exit(int(getattr(exc, "exit_code", Exit.USAGE)))
    sys.exit(code if isinstance(code, int) else Exit.DONE)


def _show_usage(exc: Any) -> None:
    """Show a usage error in Typer's format."""
    from typer import rich_utils

    message = printable(exc.format_message())
    exc.format_message = lambda: message
    rich_utils.rich_format_error(exc)


def guarded(command: Callable[[], object]) -> None:
    """Run a command. An error ends it with one message and the code of :mod:`rollforge.cli.exit_codes`."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminated)
    sys.unraisablehook = _repeat_lost_interruption
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
        echo_error(
            "\nrollforge: interrupted. Running tasks were returned to the pool; run the same command to continue."
        )
        sys.exit(Exit.INTERRUPTED)
    except BrokenPipeError:  # the reader of the output has exited, as in `rollforge … | head`
        _drop_output()
        sys.exit(Exit.BROKEN_PIPE)
    except Exception as exc:  # noqa: BLE001 - Python would print it as it is
        if isinstance(exc, OSError) and exc.errno in _FULL:
            _drop_output()
            where = "The output" if exc.filename is None else repr(exc.filename)
            echo_error(
                f"rollforge: {where} cannot be written: {exc.strerror}. Make room, then run the same command again."
            )
        else:
            show_exception(exc)
        sys.exit(Exit.FAILED)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _drop_output() -> None:
    """Send what is still in the buffers of standard output to nowhere, so that the end of the program is no error again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
