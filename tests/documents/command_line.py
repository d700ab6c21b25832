"""Commands called in the test's own process."""

from __future__ import annotations

import inspect

from typer.testing import CliRunner, Result

from rollforge.cli.main import app


def call(*arguments: object, columns: int = 400) -> Result:
    """Call the command line in this process; ``stdout`` and ``stderr`` of the result are separate.

    Click before 8.2 mixes them unless told otherwise, and later versions refuse the argument that tells it.
    """
    separate = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner.__init__).parameters else {}
    return CliRunner(env={"COLUMNS": str(columns)}, **separate).invoke(app, [str(one) for one in arguments])
