"""``rollforge data``: create a demo market, import tables, append to data folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rollforge.cli.terminal import echo, echo_json, one_line
from rollforge.errors import ConfigError

app = typer.Typer(no_args_is_help=True)

Source = Annotated[Path, typer.Argument(help="A Parquet or CSV table, or a folder with one file per instrument.")]
ColumnOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN=NAME",
        help="Meaning of a column: 'instrument', 'datetime' or a field such as 'close'. An empty name ignores the column.",
    ),
]
NamesOption = Annotated[
    str | None, typer.Option(metavar="A,B,…", help="Column names, for CSV files without a header line.")
]
EncodingOption = Annotated[str, typer.Option(help="Encoding of CSV files, such as gbk.")]
DayFirstOption = Annotated[
    bool | None,
    typer.Option(
        "--day-first/--month-first",
        help="Order of dates such as 02/03/2024, if no date of the table shows it. Default: as in the folder's tables.",
    ),
]


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Data folder to create.")],
    instruments: Annotated[int, typer.Option(min=2, help="Number of instruments.")] = 300,
    years: Annotated[int, typer.Option(min=1, help="Number of years of trading days, if --start is not given.")] = 6,
    seed: Annotated[int, typer.Option(help="Seed of the random prices.")] = 7,
    start: Annotated[str | None, typer.Option(metavar="DATE", help="First day of the calendar.")] = None,
    end: Annotated[str, typer.Option(metavar="DATE", help="Last day of the calendar.")] = "2023-12-29",
    universe: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Name of a universe, such as csi300 for the 300 largest instruments; repeatable. Default: "
            "demo300, demo100.",
        ),
    ] = None,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CODE",
            help="Index of each universe, such as SH000300; repeatable, in the same order. Default: DEMO_INDEX.",
        ),
    ] = None,
    code: Annotated[
        list[str] | None,
        typer.Option(metavar="CODE", help="Code of an instrument, instead of D0001 and so on; repeatable."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing folder.")] = False,
) -> None:
    """Create a synthetic market that contains a weak signal. The same arguments give the same bytes."""
    from rollforge.market.demo import INDEX, UNIVERSES, make_demo

    summary = make_demo(
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
    echo(f"{folder}: {summary}")


@app.command("import")
def import_(
    source: Source,
    folder: Annotated[Path, typer.Argument(help="Data folder to create.")],
    market: Annotated[str, typer.Option(help="Name of the universe of all instruments.")] = "all",
    column: ColumnOption = None,
    names: NamesOption = None,
    encoding: EncodingOption = "utf-8",
    day_first: DayFirstOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing folder.")] = False,
    exchange: Annotated[
        str | None,
        typer.Option(
            metavar="CODE",
            help="Compare the days with those of an exchange, such as XNYS or XSHG. Not compared by default.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what was recognized; write nothing.")] = False,
) -> None:
    """Import a table of prices into a data folder, and print which columns were taken for what.

    Files of Yahoo, Stooq, Kaggle, Binance, Tushare, AkShare and Baostock are read as they are.
    """
    from rollforge.market.importer import import_table

    summary = import_table(
        source,
        folder,
        market=market,
        columns=_columns(column or []),
        names=_names(names),
        encoding=encoding,
        day_first=day_first,
        overwrite=overwrite,
        dry_run=dry_run,
        exchange=exchange,
    )
    echo(f"{folder}: {summary}")
    if summary.sources:
        echo("  taken: " + ", ".join(f"{name} from {one_line(column)}" for name, column in summary.sources.items()))
    if dry_run:
        echo("Nothing was written.")


@app.command()
def append(
    source: Source,
    folder: Annotated[Path, typer.Argument(help="Data folder to which the rows are added.")],
    column: ColumnOption = None,
    names: NamesOption = None,
    encoding: EncodingOption = "utf-8",
    day_first: DayFirstOption = None,
    rescale: Annotated[
        bool | None,
        typer.Option(
            "--rescale/--no-rescale",
            help="For prices on a different scale from the folder's: multiply them to continue it, or add them unchanged. "
            "Default: refuse them.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would change.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Add new days, corrections, instruments or fields from a table to a data folder, in one step."""
    from rollforge.market.append import append_table

    summary = append_table(
        source,
        folder,
        columns=_columns(column or []),
        names=_names(names),
        encoding=encoding,
        day_first=day_first,
        rescale=rescale,
        dry_run=dry_run,
    )
    if as_json:
        echo_json(json.dumps(summary.to_plain()))
    else:
        echo(f"{folder}: {summary}")


@app.command()
def universe(
    name: Annotated[str, typer.Argument(help="Name of the universe, such as csi300.")],
    file: Annotated[
        Path,
        typer.Argument(
            help="Table of members, with the columns code, first day and last day; or date and code; or only code."
        ),
    ],
    data: Annotated[Path | None, typer.Option(help="Data folder; ROLLFORGE_DATA by default.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=NAME", help="Meaning of a column: 'instrument', 'start', 'end' or 'date'."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing universe.")] = False,
) -> None:
    """Import the members of an index, with their days, into a data folder."""
    from rollforge.market.universe_import import import_universe
    from rollforge.session import current_session

    folder = str(data) if data is not None else current_session().provider_uri
    if folder is None:
        raise ConfigError("No data folder is given. Use --data FOLDER, or set ROLLFORGE_DATA.")
    echo(str(import_universe(name, file, folder, columns=_columns(column or []), overwrite=overwrite)))


def _listed(values: list[str] | None) -> list[str]:
    """Split values that are given as repeated options or separated by commas."""
    return [part.strip() for value in values or [] for part in value.split(",") if part.strip()]


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _columns(pairs: list[str]) -> dict[str, str]:
    columns = {}
    for pair in pairs:
        name, equals, meaning = pair.rpartition("=")
        if not equals or not name.strip():
            raise ConfigError(f"expected COLUMN=NAME, as in 'Trade Date=datetime', found {pair!r}.", path="--column")
        columns[name.strip()] = meaning.strip()
    return columns
