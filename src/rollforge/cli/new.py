"""``rollforge new``: create a project that runs at once."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from rollforge.cli.terminal import echo
from rollforge.new_project import TEMPLATES, new_project

__all__ = ["new"]

_LISTED = " ".join(f"{name}: {template.summary}" for name, template in TEMPLATES.items())


def _names(incomplete: str) -> list[tuple[str, str]]:
    return [(name, template.summary) for name, template in TEMPLATES.items() if name.startswith(incomplete)]


def new(
    name: Annotated[
        Path, typer.Argument(metavar="NAME", help="Folder to create, whose name becomes that of the experiment.")
    ],
    template: Annotated[str, typer.Option(metavar="|".join(TEMPLATES), help=_LISTED, autocompletion=_names)] = "qlib",
) -> None:
    """Create a folder with data, a workflow or script, a README and a test, which runs at once."""
    made = new_project(name, template)
    echo(f"{name}: {', '.join(made.files)}")
    if made.missing:
        echo(f"\nFirst install what it needs:\n  pip install 'rollforge[{','.join(made.missing)}]'")
    echo("\nNext:")
    folder = os.path.relpath(made.path)
    for command in [*([f"cd {shlex.quote(folder)}"] if folder != "." else []), *made.commands, "pytest"]:
        echo(f"  {command}")
