"""``rollforge schema``: the JSON Schema of a workflow file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rollforge.cli.terminal import echo, echo_json
from rollforge.errors import ConfigError
from rollforge.paths import read_path

__all__ = ["schema"]


def schema(
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write it to a file instead of printing it.")
    ] = None,
) -> None:
    """Print the JSON Schema of a workflow file, by which editors complete and check it.

    A workflow names it in its first line: # yaml-language-server: $schema=FILE or URL.
    """
    from rollforge.workflow_schema import schema_text

    text = schema_text()
    if output is None:
        echo_json(text.rstrip("\n"))
        return
    try:
        read_path(output, "--output").write_text(text, encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"{str(output)!r} cannot be written: {exc.strerror}.", path="--output") from exc
    echo(f"{output}")
