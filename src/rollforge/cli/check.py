"""``rollforge check``: measure on changed market data whether anything looks ahead."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rollforge.cli.exit_codes import Exit
from rollforge.cli.terminal import console, echo, echo_error, echo_json, one_line, output_to_stderr
from rollforge.cli.workflow import ExperimentName, File, Limit, StoreUri

if TYPE_CHECKING:
    from rollforge.check.proof import Proof
    from rollforge.generate.checks import Check

__all__ = ["check", "keep_results"]


def check(
    file: File,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Fit models for only a few rounds, and change the data after each day only once."),
    ] = False,
    every_window: Annotated[
        bool, typer.Option("--all", help="Check all windows; by default the first, the middle and the last.")
    ] = False,
    instruments: Annotated[int, typer.Option(min=1, help="Number of instruments to use.")] = 20,
    store_uri: StoreUri = None,
    experiment_name: ExperimentName = None,
    limit: Limit = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """Measure on your own data and code whether features, labels, processors, models or predictions look ahead.

    The market data after some days are replaced in temporary copies of the data folder, everything is built again, and
    compared up to those days. Exits with 1 if something looks ahead.
    """
    from rollforge.check.proof import Scope, prove
    from rollforge.generate.checks import CheckResult, check_to_document
    from rollforge.workflow import load_workflow

    workflow = load_workflow(file, store_uri=store_uri, experiment_name=experiment_name)
    scope = Scope(quick=quick, every_window=every_window, instruments=instruments)
    try:
        with output_to_stderr():  # what the user's code prints
            found = prove(workflow, scope, echo_error, limit=limit)
    except KeyboardInterrupt:
        echo_error("rollforge: interrupted. The temporary copies were removed.")
        raise typer.Exit(Exit.INTERRUPTED) from None
    checks = (*found.plan.checks, *found.measured)
    if as_json:
        echo_json(json.dumps([check_to_document(one) for one in checks]))
    else:
        _show(checks)
    if found.as_written:
        keep_results(found)
    if any(one.result is CheckResult.LEAK for one in checks):
        raise typer.Exit(Exit.FAILED)


def keep_results(found: Proof) -> None:
    """Store the measurements for the tasks, which may be submitted later, so that their report shows them."""
    from rollforge.errors import StoreError
    from rollforge.run.submission import store_checks
    from rollforge.store.base import open_store
    from rollforge.store.sqlite_database import parse_uri

    workflow = found.plan.workflow
    name, uri = workflow.experiment_name, workflow.session.store_uri
    if uri.startswith("sqlite:///") and not Path(parse_uri(uri)[0]).exists():
        return  # opening it would create it
    try:
        store = open_store(uri)
        store_checks(store, name, found.measured, found.plan.titles)
        later = "" if name in store.pools() else ", which are not submitted yet"
        echo_error(f"stored with the tasks of experiment {name}{later}; 'rollforge report' shows the results")
    except StoreError as exc:  # the results are on the terminal
        echo_error(f"warning: the results were not stored: {exc}")


def _show(checks: Sequence[Check]) -> None:
    from rich.table import Table
    from rich.text import Text

    from rollforge.generate.checks import CheckResult

    styles = {CheckResult.LEAK: "bold red", CheckResult.UNKNOWN: "yellow", CheckResult.CLEAN: "green"}
    table = Table("what", "result", "by", "days", "found", box=None, pad_edge=False)
    for one in checks:
        text, where = " ".join(filter(None, (one.text, one.advice))), "" if one.where else one_line(one.about)
        days = one_line(one.where).replace("; ", "\n") or _days(one.days)
        table.add_row(
            Text(one.subject), Text(one.result.value, styles[one.result]), Text(one.method.value),
            Text(days, no_wrap=True).append(f"\n{where}" if where else "", "dim"), Text(one_line(text)),
        )  # fmt: skip
    console().print(table)
    leaks = sum(one.result is CheckResult.LEAK for one in checks)
    unknown = sum(one.result is CheckResult.UNKNOWN for one in checks)
    echo(f"{leaks or 'no'} {'leak' if leaks == 1 else 'leaks'} found, {unknown or 'none'} not known")


def _days(days: Sequence[str]) -> str:
    from rollforge.generate.checks import days_or_bars

    if len(days) <= 2:
        return "\n".join(days)
    return f"{days[0]} … {days[-1]}\n{len(days)} {days_or_bars(days)}"
