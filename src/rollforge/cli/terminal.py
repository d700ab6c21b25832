"""Output to the terminal. Names, errors and logs from others are shown as text and never act as control sequences.

All output of commands goes through :func:`echo`, :func:`echo_json` or :func:`console`; ``tests/cli/test_terminal.py``
checks that there are no other ways.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

import typer

from rollforge.confidential import mask_secrets
from rollforge.errors import printable

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "SafeFormatter",
    "console",
    "echo",
    "echo_error",
    "echo_json",
    "one_line",
    "output_to_stderr",
    "protect_streams",
    "show_exception",
    "show_logs",
]


def one_line(text: object) -> str:
    """Return a name or a cell as one line of text, with control characters escaped.

    Examples
    --------
    >>> one_line("a\\x1b]0;b\\x07\\nc")
    'a\\\\x1b]0;b\\\\x07\\\\nc'
    """
    return printable(str(text)).replace("\n", "\\n").replace("\t", "\\t")


def echo(text: object = "", *, err: bool = False) -> None:
    """Print text of one or more lines."""
    typer.echo(printable(str(text)), err=err)


def echo_error(text: object) -> None:
    """Print an error message to standard error, with secrets masked."""
    echo(mask_secrets(str(text)), err=True)


def echo_json(text: str) -> None:
    """Print JSON, with control characters as JSON escapes, so that the value is unchanged."""
    typer.echo("".join(c if c.isprintable() or c == "\n" else _json_escape(c) for c in text))


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i] << 8 | units[i + 1]:04x}" for i in range(0, len(units), 2))


@contextlib.contextmanager
def output_to_stderr() -> Iterator[None]:
    """Print to standard error what other code prints to standard output in a ``with`` block, so that JSON remains JSON.

    This includes what libraries in C and child processes print.
    """
    with contextlib.redirect_stdout(sys.stderr), contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a stream is closed
            before = os.dup(1)
            stack.callback(os.close, before)
            _flush()
            os.dup2(2, 1)
            stack.callback(os.dup2, before, 1)
            stack.callback(_flush)
        yield


def _flush() -> None:
    """Write what is in the buffers of standard output, of Python and of C."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # it is closed, or not a file
        sys.__stdout__.flush()  # type: ignore[union-attr]
    with contextlib.suppress(OSError, AttributeError):  # no C library of that kind
        ctypes.CDLL(None).fflush(None)


def console(file: TextIO | None = None, **options: Any) -> Console:
    """Return a Rich console that shows data as text: no markup, no emoji names, no control sequences except Rich's."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class TextConsole(Console):
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                if segment.control or segment.text.isprintable():
                    yield segment
                else:
                    yield Segment(printable(segment.text), segment.style)

    return TextConsole(file=file, markup=False, emoji=False, highlight=False, **options)


class SafeFormatter(logging.Formatter):
    """Formats log records for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record, including its traceback."""
        return printable(super().format(record))


def protect_streams() -> None:
    """Escape logs and warnings of libraries too, and prevent encoding errors from ending the program."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(SafeFormatter())
    original = warnings.formatwarning
    if not hasattr(original, "__wrapped__"):

        def formatted(*arguments: Any, **options: Any) -> str:
            return printable(original(*arguments, **options))

        formatted.__wrapped__ = original  # type: ignore[attr-defined]
        warnings.formatwarning = formatted


def show_logs() -> None:
    """Show log messages if ``--verbose`` was given; other processes of the command inherit this by a variable."""
    if os.environ.get("ROLLFORGE_VERBOSE"):
        handler = logging.StreamHandler()
        handler.setFormatter(SafeFormatter("%(levelname)s %(name)s: %(message)s"))
        logging.basicConfig(level=logging.INFO, handlers=[handler])


def show_exception(exc: BaseException) -> None:
    """Print a traceback to standard error."""
    echo_error("".join(traceback.format_exception(exc)).rstrip())
