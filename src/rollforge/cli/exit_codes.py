"""The exit codes of all commands.

=====  =========================================================================
code   meaning
=====  =========================================================================
0      done
1      tasks failed, the result is incomplete, a leak was found, or a confirmation was declined
2      usage: a mistake in a file, an option or a name; nothing was started
3      the data for the day are not available yet (serving)
4      a check of the data failed (serving)
5      training failed, and the earlier models were used (serving)
6      another process is doing the same work (serving), or is changing the data folder
7      this machine cannot run the tasks, or is not allowed to run their code (workers)
8      tasks failed on this machine that succeeded on others (workers)
130    interrupted by Ctrl-C or SIGTERM; running tasks were returned to the pool
141    the reader of the output closed the pipe
=====  =========================================================================
"""

from __future__ import annotations

from enum import IntEnum

from rollforge.errors import (
    CoverageError,
    FailingWorker,
    FolderBusy,
    LeakageError,
    LeaseLost,
    LedgerConflict,
    RequirementsNotMet,
    RollforgeError,
    ServiceBusy,
    TrainingFailed,
)

__all__ = ["Exit", "exit_code"]


class Exit(IntEnum):
    """Exit codes of commands."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NO_DATA_YET = 3
    CHECK_FAILED = 4
    SERVED_OLD_MODEL = 5
    BUSY = 6
    REQUIREMENTS_NOT_MET = 7
    FAILING = 8
    INTERRUPTED = 130
    BROKEN_PIPE = 141


def exit_code(exc: RollforgeError) -> Exit:
    """Return the exit code of a command that ended with `exc`.

    Examples
    --------
    >>> exit_code(CoverageError("window 3 failed")).value, exit_code(RollforgeError("no such file")).value
    (1, 2)
    """
    if isinstance(exc, (CoverageError, LeakageError, TrainingFailed)):
        return Exit.FAILED
    if isinstance(exc, (FolderBusy, LeaseLost, LedgerConflict, ServiceBusy)):
        return Exit.BUSY
    if isinstance(exc, FailingWorker):
        return Exit.FAILING
    return Exit.REQUIREMENTS_NOT_MET if isinstance(exc, RequirementsNotMet) else Exit.USAGE
