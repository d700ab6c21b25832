"""``rollforge data``: create a demo market, import tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rollforge.cli.terminal import echo
from rollforge.errors import ConfigError

app = typer.Typer(no_args_is_help=True)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Data folder to make.")],
    instruments: Annotated[int, typer.Option(min=2, help="How many instruments.")] = 300,
    years: Annotated[int, typer.Option(min=1, help="How many years of trading days, where no --start is given.")] = 6,
    seed: Annotated[int, typer.Option(help="Another seed, another market.")] = 7,
    start: Annotated[str | None, typer.Option(metavar="DATE", help="First day of the calendar.")] = None,
    end: Annotated[str, typer.Option(metavar="DATE", help="Last day of the calendar.")] = "2023-12-29",
    universe: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A universe, as csi300: its 300 largest. Once each; default: demo300, demo100."
        ),
    ] = None,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(metavar="CODE", help="The index of a universe, as SH000300. Once for each; default: DEMO_INDEX."),
    ] = None,
    code: Annotated[
        list[str] | None, typer.Option(metavar="CODE", help="Code of an instrument, in place of D0001 and so on.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder that is there.")] = False,
) -> None:
    """Create a synthetic market that contains a weak signal. The same arguments give the same bytes."""
    from rollforge.market.demo import INDEX, UNIVERSES, make_demo

    made = make_demo(
        folder,
        instruments=instruments,
        years=years,
        seed=seed,
        start=start,
        end=end,
        universes=_listed(universe) or tuple(UNIVERSES),
        benchmarks=_listed(benchmark) or (INDEX,),
        codes=_listed(code),
        overwrite=overwrite,
    )
    echo(f"{folder}: {made}")


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="A Parquet or CSV table, or a folder with one file per instrument.")],
    folder: Annotated[Path, typer.Argument(help="Data folder to make.")],
    market: Annotated[str, typer.Option(help="Name of the universe of all instruments.")] = "all",
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=NAME",
            help="What a column is: 'instrument', 'datetime' or a field such as 'close'; nothing after = leaves it out.",
        ),
    ] = None,
    names: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="Column names of CSV files without a header line.")
    ] = None,
    encoding: Annotated[str, typer.Option(help="Encoding of CSV files, such as gbk.")] = "utf-8",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder that is there.")] = False,
) -> None:
    """Import a table of daily prices into a data folder."""
    from rollforge.market.importer import import_table

    summary = import_table(
        source,
        folder,
        market=market,
        columns=_columns(column or []),
        names=None if names is None else [n.strip() for n in names.split(",")],
        encoding=encoding,
        overwrite=overwrite,
    )
    echo(f"{folder}: {summary}")


@app.command()
def universe(
    name: Annotated[str, typer.Argument(help="Name of the universe, such as csi300.")],
    file: Annotated[
        Path, typer.Argument(help="Who belongs to it: code, first day, last day; or date, code; or codes.")
    ],
    data: Annotated[Path | None, typer.Option(help="Data folder; by default ROLLFORGE_DATA.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=NAME", help="What a column is: 'instrument', 'start', 'end' or 'date'."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a universe that is there.")] = False,
) -> None:
    """Import the members of an index, with their days, into a data folder."""
    from rollforge.market.universe_import import import_universe
    from rollforge.session import current_session

    folder = str(data) if data is not None else current_session().provider_uri
    if folder is None:
        raise ConfigError("No data folder is named. Name it with --data FOLDER, or set ROLLFORGE_DATA.")
    echo(str(import_universe(name, file, folder, columns=_columns(column or []), overwrite=overwrite)))


def _listed(values: list[str] | None) -> list[str]:
    """Split values that are given as repeated options or separated by commas."""
    return [part.strip() for value in values or [] for part in value.split(",") if part.strip()]


def _columns(pairs: list[str]) -> dict[str, str]:
    columns = {}
    for pair in pairs:
        name, equals, meaning = pair.rpartition("=")
        if not equals or not name.strip():
            raise ConfigError(f"expected COLUMN=NAME, as in 'Trade Date=datetime', found {pair!r}.", path="--column")
        columns[name.strip()] = meaning.strip()
    return columns
