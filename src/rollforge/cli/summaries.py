"""The summaries that commands print with ``--json``: one line on standard output, and everything else on standard error.

The keys are documented in ``docs/commands.md``. A key is always there: its value is null if it is not known or not a number.
"""

from __future__ import annotations

import contextlib
import json
import math
import numbers
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rollforge.cli.terminal import echo_json, output_to_stderr
from rollforge.confidential import mask_secrets
from rollforge.session import Session
from rollforge.task import Status

if TYPE_CHECKING:
    from rollforge.collect.result import Collected
    from rollforge.plan import Plan
    from rollforge.report.summary import Summary
    from rollforge.run.failures import FailureGroup

__all__ = [
    "AsJson", "error_groups", "json_line", "plan_summary", "pool_summary", "result_summary", "start_summary", "summarised",
]  # fmt: skip

AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON, and everything else to standard error.")]


def json_line(value: object) -> str:
    """Return plain data as one line of JSON, with null for numbers that JSON does not have.

    Examples
    --------
    >>> json_line({"ic": float("nan"), "days": (1, 2)})
    '{"ic": null, "days": [1, 2]}'
    """
    return json.dumps(_plain(value), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, numbers.Integral):  # also of NumPy
        return int(value)
    if isinstance(value, Path):
        return str(value)
    number = float(value)
    return number if math.isfinite(number) else None


@contextlib.contextmanager
def summarised(as_json: bool) -> Iterator[dict[str, object]]:
    """Provide a mapping, and print it as JSON at the end if `as_json`, also if the command ends with an exit code.

    If the command ends with an error, which is reported on standard error, nothing is printed.
    """
    found: dict[str, object] = {}
    if not as_json:
        yield found
        return
    try:
        with output_to_stderr():
            yield found
    except typer.Exit:
        if found:
            echo_json(json_line(found))
        raise
    echo_json(json_line(found))


def plan_summary(plan: Plan) -> dict[str, object]:
    """Return the tasks of a workflow: their models and segments."""
    from rollforge.dates import show_time

    windows = [
        {
            "index": window.index,
            "model": window.model,
            "segments": {
                name: [[show_time(start), show_time(end)] for start, end in span.parts]
                for name, span in window.segments.items()
            },
            "days": {name: span.days for name, span in window.segments.items()},
        }
        for window in plan.windows
    ]
    session = plan.workflow.session
    return {
        "experiment": plan.workflow.experiment_name,
        "data": session.folder(),
        "tasks": len(plan.tasks),
        "fits": plan.fits,
        "models": list(dict.fromkeys(plan.model_names)),
        "windows": windows,
        "warnings": list(plan.warnings),
    }


def start_summary(name: str, session: Session) -> dict[str, object]:
    """Return the summary of a result that is not there yet."""
    return {
        "experiment": name,
        "store": mask_secrets(session.store_uri),
        "tracking": mask_secrets(session.tracking_uri),
        "tasks": None,
        "done": None,
        "failed": None,
        "complete": None,
        "first_day": None,
        "last_day": None,
        "rows": None,
        "metrics": None,
        "risk": None,
        "warnings": None,
        "errors": None,
        "report": None,
        "prediction": None,
        "backtest": None,
        "recorder": None,
    }


def result_summary(collected: Collected, summary: Summary) -> dict[str, object]:
    """Return what is known of a result: see :func:`start_summary` for the other keys."""
    from rollforge.report.summary import result_metrics

    head = summary.headline
    metrics = result_metrics(summary)
    if not summary.combined:
        metrics = {f"{title}/{k}": v for title, part in summary.parts.items() for k, v in result_metrics(part).items()}
    counts = {str(status): n for status, n in head.statuses.items()}
    return {
        "tasks": len(collected.outcomes),
        "done": counts.get(Status.DONE.value, 0),
        "failed": collected.failed,
        "complete": not collected.coverage.notes,
        "first_day": head.first_day or None,
        "last_day": head.last_day or None,
        "rows": head.rows,
        "metrics": metrics,
        "risk": None if summary.portfolio_risk is None else summary.portfolio_risk.to_dict("index"),
        "warnings": [*collected.coverage.notes, *collected.warnings],
    }


def pool_summary(pool: str, store_uri: str, counts: Mapping[Status, int]) -> dict[str, object]:
    """Return the number of tasks in each status, also if it is 0."""
    return {
        "pool": pool,
        "store": mask_secrets(store_uri),
        "tasks": sum(counts.values()),
        **{status.value: counts.get(status, 0) for status in Status},
    }


def error_groups(groups: Sequence[FailureGroup]) -> list[dict[str, object]]:
    """Return failed tasks by their error."""
    return [{"error": group.reason, "tasks": list(group.tasks)} for group in groups]
