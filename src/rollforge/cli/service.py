"""The service that a workflow file describes."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollforge.cli.exit_codes import Exit
from rollforge.cli.terminal import output_to_stderr
from rollforge.errors import ConfigError, DataError, RollforgeError

if TYPE_CHECKING:
    from rollforge.ledger.base import Ledger
    from rollforge.ledger.entry import ServiceDefinition
    from rollforge.online.service import Service
    from rollforge.session import Session
    from rollforge.workflow import Workflow

__all__ = ["LEAKAGE", "Begin", "checked_begin", "definition_of", "publish_due", "read_workflow", "service_of"]

LEAKAGE = "leakage"
"""Key of a service's definition that still has to be checked for leakage: the option ``--leakage`` for that."""


@dataclass(frozen=True, slots=True)
class Begin:
    """The first day of a service, and whether its data reach it."""

    window: str
    """The first day of its first window."""
    data_until: str
    """The last day with data."""
    warnings: tuple[str, ...]
    """Those of its plan."""

    @property
    def waits(self) -> bool:
        """Whether the first window begins after the data. Its definition cannot be checked before that."""
        return self.window > self.data_until


def checked_begin(workflow: Workflow, leakage: str | None) -> Begin:
    """Return when the service of a workflow can begin, after checking its definition if the data reach its first window.

    Raises
    ------
    SegmentError, ConfigError, DataError, LeakageError
        As :func:`~rollforge.plan.make_plan`.
    """
    from rollforge.dates import read_day
    from rollforge.generate.segments import bounds
    from rollforge.generate.task_view import TaskView
    from rollforge.market.universe import session_provider
    from rollforge.plan import make_plan
    from rollforge.session import using

    def starts(tasks: Iterable[Mapping[str, object]]) -> list[Any]:
        found = [
            bounds("test", test).start for task in tasks if (test := TaskView(task).segments.get("test")) is not None
        ]
        return [start for start in found if start is not None]

    if workflow.session.provider_uri is not None:
        with using(workflow.session):
            until = str(session_provider().calendar()[-1])
        templates = starts(template.task for template in workflow.templates)
        if templates and min(templates) > read_day(until):
            return Begin(str(read_day(min(templates))), until, ())
    made = make_plan(workflow, leakage=leakage)
    window = str(read_day(min(starts(made.tasks))))
    later = [day for day in map(str, made.schedule.calendar) if day >= window]
    return Begin(later[0] if later else window, str(made.schedule.calendar[-1]), made.warnings)


def definition_of(
    workflow: Workflow, begin: str, folder: Path, ledger_uri: str, known: ServiceDefinition | None = None
) -> dict[str, object]:
    """Return what the ledger records about a service: its workflow, its first day, its folder, and those of data and runs."""
    from rollforge.online.locations import RELATIVE, recorded_runs, relative_paths

    paths, data = {"path": str(workflow.path.absolute()), "folder": str(folder)}, workflow.session.provider_uri
    if data is not None:
        paths["data"] = os.path.abspath(Path(data).expanduser())
    runs = _relative_runs(workflow.session)
    if runs is not None:
        before = next((place for place in recorded_runs(known, ledger_uri) if place.exists()), runs)
        paths["tracking"] = str(runs if runs.exists() else before)  # init may be run in another folder
    recorded: dict[str, object] = {**paths, "text": workflow.public_text, "begin": begin}
    relative = relative_paths(paths, ledger_uri, known)
    return {**recorded, RELATIVE: relative} if relative else recorded


def _relative_runs(session: Session) -> Path | None:
    """Return the place of the runs if it depends on the working folder, or else None."""
    from rollforge.session import home
    from rollforge.track.tracker import local_path

    place = local_path(session.tracking_uri)
    if place is None:
        return None
    of_project = place.is_relative_to(home()) and not os.path.isabs(os.environ.get("ROLLFORGE_HOME", ""))
    return place if of_project or str(place) not in session.tracking_uri else None


def _require_runs(session: Session, definition: ServiceDefinition | None, ledger_uri: str) -> None:
    """Raise an error if the runs of a service are elsewhere: its models would be missing, and be trained again.

    Raises
    ------
    ConfigError
        If the working folder is not the one in which the service was recorded.
    """
    from rollforge.online.locations import recorded_runs
    from rollforge.track.tracker import local_path

    known, place = recorded_runs(definition, ledger_uri), local_path(session.tracking_uri)
    if known and place is not None and not any(os.path.realpath(place) == os.path.realpath(one) for one in known):
        raise ConfigError(
            f"The runs of the service are in {known[0]}, but in this working folder the workflow has them in {place}. Run "
            "the command in the folder in which 'rollforge serve init' was run. If the runs were moved, run it again."
        )


def read_workflow(definition: ServiceDefinition | None, ledger_uri: str) -> tuple[Workflow, str]:
    """Return the workflow that the ledger has recorded for a service, and the first day to publish.

    Raises
    ------
    ConfigError
        If the service was not created by ``serve init``, or the file has changed since, or its relative paths name other
        runs in this working folder.
    """
    from rollforge.online.locations import workflow_file
    from rollforge.workflow import load_workflow

    recorded = definition.workflow if definition is not None else None
    if not isinstance(recorded, dict) or not {"path", "text", "begin"} <= recorded.keys():
        raise ConfigError(
            "The service was not created from a workflow file. Record one with 'rollforge serve init WORKFLOW.yaml'."
        )
    path = workflow_file(definition, ledger_uri) or Path()
    try:
        workflow = load_workflow(path)
    except RollforgeError as exc:
        raise ConfigError(f"The workflow of the service cannot be read: {exc}") from exc
    if workflow.public_text != recorded["text"]:
        name = definition.name if definition is not None else workflow.experiment_name
        option = "" if name == workflow.experiment_name else f"--service {shlex.quote(name)} "
        raise ConfigError(
            f"{path} has changed since it was recorded. If that is intended, run 'rollforge serve {option}init "
            f"{shlex.quote(str(path))}' again."
        )
    _require_runs(workflow.session, definition, ledger_uri)
    return workflow, str(recorded["begin"])


def service_of(name: str, workflow: Workflow, begin: str, ledger_uri: str, folder: Path) -> Service:
    """Return the service, to be used in the session of the workflow."""
    from rollforge.online.policy import read_policy
    from rollforge.online.service import Service
    from rollforge.online.strategy import RollingStrategy
    from rollforge.plan import named_templates
    from rollforge.record.drift import with_reference
    from rollforge.run.trainer import TrainerR

    named, windows = named_templates(workflow)
    templates = [template for _, template in named]
    if {"score_psi", "feature_psi"} & workflow.checks.checks.keys():
        templates = [with_reference(template) for template in templates]
    strategy = RollingStrategy(workflow.experiment_name, templates, windows, [name for name, _ in named])
    return Service(
        name, [strategy], TrainerR(workflow.experiment_name), begin, ledger_uri=ledger_uri, folder=folder,
        workflow=definition_of(workflow, begin, folder, ledger_uri), policy=read_policy(workflow.policy),
        signal_table=workflow.signal_table, registry=workflow.registry,
    )  # fmt: skip


class _DataEndEarly(DataError):
    """The data end before the last published day."""


def publish_due(
    ledger: Ledger,
    name: str,
    last: str | None = None,
    *,
    stop: Callable[[], bool] = lambda: False,
    known_error: str = "",
) -> tuple[dict[str, object], Exit]:
    """Publish all due days of a service in order, and return what happened as JSON, and the exit code.

    Parameters
    ----------
    last : str, optional
        The last day; by default the last one with data.
    stop : callable
        Called before each day; returns whether to stop.
    known_error : str
        An error of the previous run, about which no further notification is sent.

    Raises
    ------
    ConfigError
        If the workflow has changed since it was recorded, or `last` is before the first day of the service.
    """
    from rollforge.cli.notifications import reported_days
    from rollforge.ledger.entry import DayState, Outcome
    from rollforge.ledger.state import ServiceState
    from rollforge.market.universe import session_provider
    from rollforge.online.corrections import ends_early
    from rollforge.online.day import Options
    from rollforge.online.locations import service_folder
    from rollforge.online.overview import day_warnings
    from rollforge.online.routine import catch_up
    from rollforge.plan import make_plan
    from rollforge.session import using

    state = ServiceState.of(ledger.entries(name))
    workflow, begin = read_workflow(state.definition, ledger.uri)
    if last is not None and last < begin:
        raise ConfigError(f"--until {last} is before {begin}, the first day of the service.")
    with output_to_stderr(), using(workflow.session):  # what the user's code prints
        service = service_of(name, workflow, begin, ledger.uri, service_folder(name, state.definition, ledger.uri))
        results, problem = [], ""
        try:
            with reported_days(workflow, state, service.state, name, known_error) as report:
                known = str(session_provider().calendar()[-1])
                if ends_early(state, known):
                    raise _DataEndEarly(ends_early(state, known))
                recorded = state.definition.workflow if state.definition is not None else None
                if isinstance(recorded, dict) and LEAKAGE in recorded and not state.releases and known >= begin:
                    make_plan(workflow, leakage=recorded[LEAKAGE])
                # Tags are not taken into account: services may share an experiment.
                options = Options(adopt=False, fallback=True, stop=stop, report=report, rules=workflow.checks)
                results = catch_up(service, last, options)
        except _DataEndEarly as exc:
            problem = str(exc)
        after = service.state()
    line: dict[str, object] = {
        "service": name,
        "until": last or known,
        "last_published": after.last_published,
        "data_until": known,
    }
    checks = {r.day: [c for c in after.checks_made_on(r.day) if c.outcome is not Outcome.OK] for r in results}
    begun = [
        m for c in after.contents[state.last :] if c.day and c.day.state is DayState.TRAINED for m in c.day.trained
    ]
    line["days"] = [
        {
            **{key: value for key, value in r.to_document().items() if key != "history"},
            "trained": [*(begun if r is results[0] else ()), *r.trained],  # the first training has an entry of its own
            "checks": [check.to_document() for check in checks[r.day]],
            **({"warnings": warnings} if (warnings := day_warnings(after, r.day)) else {}),
        }
        for r in results
    ]
    if problem:
        return {**line, "error": problem}, Exit.CHECK_FAILED
    failed = any(workflow.checks.failed(check) for found in checks.values() for check in found)
    if failed or any(result.state is DayState.FAILED for result in results):
        return line, Exit.CHECK_FAILED
    if last is not None and known < last:
        return line, Exit.NO_DATA_YET
    return line, Exit.SERVED_OLD_MODEL if any(result.fallback for result in results) else Exit.DONE
