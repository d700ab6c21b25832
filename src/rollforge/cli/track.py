"""``rollforge track``: experiments and runs of a tracking store."""

from __future__ import annotations

from typing import Annotated

import typer

from rollforge.cli.terminal import echo, one_line
from rollforge.errors import counted

app = typer.Typer(no_args_is_help=True)


def _must_exist(tracking_uri: str) -> None:
    """Refuse a store that does not exist: reading it would create it, so a misspelt name would give an empty store."""
    from rollforge.errors import ConfigError
    from rollforge.track.tracker import local_path

    if (place := local_path(tracking_uri)) is not None and not place.exists():
        raise ConfigError(f"The tracking store {place} does not exist. Give the URI of another one.")


@app.command("list")
def list_(
    tracking_uri: Annotated[
        str | None, typer.Argument(metavar="[URI]", help="URI of the tracking store; ROLLFORGE_TRACKING by default.")
    ] = None,
) -> None:
    """List the experiments of a tracking store and the number of their runs."""
    from collections import Counter

    from rollforge.session import Session
    from rollforge.track.base import open_tracker
    from rollforge.track.tracker import RunQuery

    uri = Session().with_(tracking_uri=tracking_uri).tracking_uri
    tracker = open_tracker(uri)  # names a missing package; what does not exist is created by the first call
    _must_exist(uri)
    for name, experiment_id in tracker.experiments().items():
        counts = Counter(run.info.status for run in tracker.search([experiment_id], RunQuery()))
        echo(f"{one_line(name)}: {', '.join(f'{n} {status}' for status, n in sorted(counts.items())) or 'no runs'}")


@app.command()
def copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="URI of the source; file:PATH is an mlruns folder.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="URI of the target.")],
    experiments: Annotated[
        list[str] | None, typer.Option("--experiment", help="Copy only this experiment; repeatable.")
    ] = None,
) -> None:
    """Copy experiments with their runs and artifacts. Runs that were copied before are skipped."""
    from rollforge.track.base import open_tracker
    from rollforge.track.transfer import copy_runs

    trackers = open_tracker(source), open_tracker(target)
    _must_exist(source)
    for done in copy_runs(*trackers, experiments or None):
        echo(
            f"{one_line(done.experiment_name)}: {counted(done.runs, 'run')} copied"
            + (f", {done.known} already existed" if done.known else "")
        )
