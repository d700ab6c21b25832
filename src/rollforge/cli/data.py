"""``rollforge data``: make a demo market, import tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Data folder to make.")],
    instruments: Annotated[int, typer.Option(min=2, help="How many instruments.")] = 300,
    years: Annotated[int, typer.Option(min=1, help="How many years of trading days.")] = 6,
    seed: Annotated[int, typer.Option(help="Another seed, another market.")] = 7,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder that is there.")] = False,
) -> None:
    """Make a synthetic market with a weak real signal in it; the same arguments make the same bytes."""
    from rollforge.data.demo import make_demo

    made = make_demo(folder, instruments=instruments, years=years, seed=seed, overwrite=overwrite)
    typer.echo(f"{folder}: {made}")


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="A Parquet or CSV table, or a folder with one file per instrument.")],
    folder: Annotated[Path, typer.Argument(help="Data folder to make.")],
    market: Annotated[str, typer.Option(help="Name of the universe of all instruments.")] = "all",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder that is there.")] = False,
) -> None:
    """Import a table of daily prices into a data folder."""
    from rollforge.data.importer import import_table

    summary = import_table(source, folder, market=market, overwrite=overwrite)
    typer.echo(f"{folder}: {summary}")
