"""``rollforge cache``: list and clear the panel cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rollforge.cli.terminal import console, echo
from rollforge.errors import counted

app = typer.Typer(no_args_is_help=True)

_CACHE = typer.Option("--cache", help="Cache folder; ROLLFORGE_CACHE or ~/.cache/rollforge by default.")


def readable_size(size: int) -> str:
    """Format a number of bytes: ``391.2 MB``."""
    amount = float(size)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


@app.command("list")
def list_(cache: Annotated[Path | None, _CACHE] = None) -> None:
    """List the feature panels on disk, most recently used first."""
    import datetime as dt

    from rich.table import Table

    from rollforge.features.panel_cache import list_panels
    from rollforge.session import Session

    folder = str(cache) if cache else Session().cache
    panels = list_panels(folder)
    table = Table("panel", "rows", "columns", "size", "last used", title=f"{counted(len(panels), 'panel')} in {folder}")
    for panel in panels:
        used = dt.datetime.fromtimestamp(panel.used_at).strftime("%Y-%m-%d %H:%M")
        table.add_row(panel.key, f"{panel.rows:,}", f"{panel.columns:,}", readable_size(panel.bytes), used)
    console().print(table)


@app.command()
def clear(cache: Annotated[Path | None, _CACHE] = None) -> None:
    """Remove all feature panels that are not in use; they are rebuilt when needed."""
    from rollforge.features.panel_cache import clear_panels
    from rollforge.session import Session

    freed = clear_panels(str(cache) if cache else Session().cache)
    echo(f"{readable_size(freed)} freed")
