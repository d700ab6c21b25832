"""``rollforge serve``: a service that is kept up to date day by day, and the contents of its ledger."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rollforge.cli.completion import service_names, workflow_files
from rollforge.cli.exit_codes import Exit
from rollforge.cli.names import ANY_SPELLING, OptionsAnywhere
from rollforge.cli.terminal import console, echo, echo_error, echo_json, one_line, output_to_stderr
from rollforge.cli.workflow import LeakageMode

if TYPE_CHECKING:
    from rollforge.cli.service import Begin
    from rollforge.ledger.base import Ledger
    from rollforge.ledger.entry import CheckResult, Entry, Release
    from rollforge.ledger.state import ServiceState
    from rollforge.online.overview import Reader
    from rollforge.session import Session

__all__ = ["app"]

LEASE_SECONDS = 60.0

app = typer.Typer(cls=OptionsAnywhere, no_args_is_help=True, context_settings=ANY_SPELLING)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Reason = Annotated[str, typer.Option("--reason", help="The reason, recorded in the ledger.")]
FromDay = Annotated[
    str | None,
    typer.Option("--from", metavar="DAY", help="First day; by default the day after the last published one."),
]


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """The service that the options of ``serve`` select."""

    service: str | None
    ledger_uri: str | None

    def of(self, session: Session) -> ServiceOptions:
        """Return the options with the task store of a session as the ledger, unless ``--ledger`` was given."""
        return replace(self, ledger_uri=self.ledger_uri or session.store_uri)

    @property
    def uri(self) -> str:
        """The URI of the ledger."""
        from rollforge.session import Session

        return Session().with_(store_uri=self.ledger_uri).store_uri

    def ledger(self, *, create: bool = False) -> Ledger:
        """Open the ledger; unless `create` is true, refuse a file that does not exist."""
        from rollforge.errors import ConfigError
        from rollforge.ledger.base import open_ledger
        from rollforge.store.sqlite_database import missing_file

        uri = self.uri
        if not create and (path := missing_file(uri)) is not None:
            raise ConfigError(
                f"There is no ledger at {path}. Give another one with --ledger, or run 'rollforge serve init'."
            )
        return open_ledger(uri)

    def name(self, ledger: Ledger | Reader) -> str:
        """Return the name of the service; without ``--service``, that of the ledger's only service."""
        from rollforge.errors import ConfigError, nearest

        known = ledger.services()
        if self.service is not None:
            if self.service not in known:
                raise ConfigError(f"There is no service {self.service!r} in the ledger.{nearest(self.service, known)}")
            return self.service
        if len(known) != 1:
            which = f"several services: {', '.join(known)}. Choose one with --service" if known else "no service yet"
            raise ConfigError(f"The ledger has {which}.")
        return known[0]

    def state(self) -> tuple[Ledger, str, ServiceState]:
        """Return the ledger, the name of the service and its state."""
        from rollforge.ledger.state import ServiceState

        ledger = self.ledger()
        name = self.name(ledger)
        return ledger, name, ServiceState.of(ledger.entries(name))


@app.callback()
def _serve(
    context: typer.Context,
    service: Annotated[
        str | None,
        typer.Option("--service", help="Name of the service; by default the only one.", autocompletion=service_names),
    ] = None,
    ledger_uri: Annotated[
        str | None, typer.Option("--ledger", help="URI of the ledger; by default that of the task store.")
    ] = None,
) -> None:
    context.obj = ServiceOptions(service, ledger_uri)


@app.command()
def init(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="WORKFLOW.yaml", help="A workflow file with rolling windows.", autocompletion=workflow_files
        ),
    ],
    begin: Annotated[
        str | None,
        typer.Option(
            "--begin",
            metavar="DAY",
            help="First day to publish; by default the last one with data, or that of the first window if it is later.",
        ),
    ] = None,
    leakage: LeakageMode = None,
    as_json: AsJson = False,
) -> None:
    """Create a service from a workflow file, or record that its file has changed. Trains nothing.

    Its definition is checked for leakage, as ``rollforge run`` does; if the test segment begins after the data, by the
    first run that has data for it.
    """
    from rollforge.cli.service import LEAKAGE, checked_begin, definition_of
    from rollforge.confidential import mask_secrets
    from rollforge.errors import ConfigError
    from rollforge.ledger.base import holding
    from rollforge.ledger.entry import EntryKind, author, service_body
    from rollforge.ledger.state import ServiceState
    from rollforge.online.locations import new_service_folder
    from rollforge.online.policy import challenger_of, read_policy
    from rollforge.online.registry import check_registry, ledger_mark
    from rollforge.plan import named_templates
    from rollforge.workflow import load_workflow
    from rollforge.yaml12 import line_of

    workflow = load_workflow(file)
    named, _ = named_templates(workflow)
    policy, options = read_policy(workflow.policy), context.obj
    name = options.service if options.service is not None else workflow.experiment_name
    try:
        challenger = challenger_of(policy, {workflow.experiment_name: [name for name, _ in named]})
        if workflow.registry is not None:
            others = [model for model, _ in named if challenger is None or model != challenger.name]
            several = len(named) > 1  # the only model of a workflow has the name of its experiment
            mark = ledger_mark(_known_state(options.of(workflow.session), name))
            tracking_uri, models = workflow.session.tracking_uri, others if several else []
            check_registry(tracking_uri, workflow.registry, name, models, mark)
    except ConfigError as exc:
        raise ConfigError(f"{workflow.path}, {line_of(exc.path, workflow.lines)}{exc}") from exc
    with output_to_stderr():
        start = checked_begin(workflow, leakage)
    for warning in start.warnings:
        echo_error(f"warning: {warning}")
    ledger = options.of(workflow.session).ledger(create=True)
    with holding(ledger, name, LEASE_SECONDS) as lease:
        state = ServiceState.of(ledger.entries(name))
        state.require_known()
        known = state.definition.workflow if state.definition is not None else None
        recorded_before = known if isinstance(known, dict) else {}
        first = _first_day(name, state, recorded_before.get("begin"), start, _day(begin) if begin is not None else None)
        folder = new_service_folder(name, state.definition, ledger.uri)
        recorded = definition_of(workflow, first, folder, ledger.uri, state.definition)
        if start.waits and not state.releases:
            recorded[LEAKAGE] = leakage
        elif state.releases and LEAKAGE in recorded_before:
            recorded[LEAKAGE] = recorded_before[LEAKAGE]
        changed = known != recorded
        if changed:
            body = service_body(name, recorded, {} if policy is None else policy.to_document())
            ledger.append(lease, state.last + 1, EntryKind.SERVICE, body, by=author())
    if as_json:
        echo_json(json.dumps({"service": name, "begin": first, "changed": changed, "ledger": mask_secrets(ledger.uri)}))
    else:
        echo(f"service {one_line(name)}: {'recorded' if changed else 'unchanged'}, first day {first}")
        echo(f"ledger {one_line(mask_secrets(ledger.uri))}")
        if start.waits:
            echo(
                f"the data end on {start.data_until}, before the first window: runs do nothing until they reach {first}"
            )


def _known_state(options: ServiceOptions, name: str) -> ServiceState:
    """Return the state of a service before it is recorded, without creating a ledger."""
    from rollforge.errors import ConfigError
    from rollforge.ledger.state import ServiceState

    try:
        return ServiceState.of(options.ledger().entries(name))
    except ConfigError:  # there is no ledger yet
        return ServiceState()


def _first_day(name: str, state: ServiceState, known: object, found: Begin, asked: str | None) -> str:
    """Return the first day of a service: the one that was asked for, the known one, or the last day with a model and data.

    Raises
    ------
    ConfigError
        If there is no model for it.
    """
    from rollforge.errors import ConfigError

    if asked is not None:
        first = asked
    elif known is None:
        first = max(found.data_until, found.window)
    else:
        first = str(known) if state.releases else max(str(known), found.window)
    if first < found.window and not state.releases:
        raise ConfigError(
            f"--begin {first} is before {found.window}, the first day of the first window: there would be no model. "
            f"The first day that can be published is {found.window}."
        )
    begun = _earliest(state)
    if begun is not None and first < begun:
        raise ConfigError(
            f"The service {name!r} began on {begun}, and no model was released for an earlier day. Use --service NAME "
            f"to create another service that begins on {first}."
        )
    return first


def _earliest(state: ServiceState) -> str | None:
    """Return the earliest first day that a service has had since it began; None if it has not begun."""
    found: list[str] = []
    begun = False
    for content in state.contents:
        recorded = content.service.workflow if content.service is not None else None
        if isinstance(recorded, dict) and "begin" in recorded:
            found = [*(found if begun else ()), str(recorded["begin"])]
        begun = begun or content.day is not None
    return min(found, default=None) if begun else None


@app.command()
def run(
    context: typer.Context,
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="DAY", help="Last day to publish; by default the last one with data."),
    ] = None,
) -> None:
    """Publish all due days in order: train the windows that are due, predict, and record each day in the ledger.

    Prints one line of JSON. Exits with 3 if the data do not reach the last day yet, with 4 if a day or a check failed, and
    with 5 if training failed and the earlier models were used.
    """
    from rollforge.cli.service import publish_due

    ledger, name, _ = context.obj.state()
    line, code = publish_due(ledger, name, _day(until) if until is not None else None)
    echo_json(json.dumps(line))
    if code is not Exit.DONE:
        raise typer.Exit(code)


@app.command()
def check(context: typer.Context, as_json: AsJson = False) -> None:
    """List published days whose data have changed since or whose signals cannot be read, and months before the first day
    whose data the models were trained on. Changes nothing. Exits with 4 if there are any.
    """
    from rollforge.cli.service import read_workflow, service_of
    from rollforge.online import signal_files
    from rollforge.online.corrections import changed_days
    from rollforge.online.data_marks import changed_history
    from rollforge.online.locations import service_folder
    from rollforge.session import using

    ledger, name, state = context.obj.state()
    workflow, begin = read_workflow(state.definition, ledger.uri)
    with output_to_stderr(), using(workflow.session):
        service = service_of(name, workflow, begin, ledger.uri, service_folder(name, state.definition, ledger.uri))
        changed, months = changed_days(service), changed_history(service)
    damaged = signal_files.unreadable(service.place, state.signals().values())
    if as_json:
        echo_json(json.dumps({"service": name, "changed": changed, "changed_history": months, "unreadable": damaged}))
    else:
        signals = state.signals()
        for month in months:
            echo(f"{month}: data before the first day, {begin}, have changed since the models were trained")
        for day in changed:
            again = not signals[day].rows
            echo(f"{day}: {'a trading day again' if again else 'the data have changed since it was published'}")
        for reason in damaged.values():
            echo(one_line(reason))
        note = f", the signals of {len(damaged)} cannot be read" if damaged else ""
        echo(f"{len(signals)} days checked, {len(changed) or 'none'} changed{note}")
    if changed or months or damaged:
        raise typer.Exit(Exit.CHECK_FAILED)


@app.command()
def correct(
    context: typer.Context,
    day: Annotated[
        str | None,
        typer.Argument(metavar="DAY", help="A published day; by default all from the first changed one on."),
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="The reason, recorded in the ledger.")] = "",
    as_json: AsJson = False,
) -> None:
    """Publish new versions of the signals of past days, predicted from the current data.

    The models are those that were used on the day. Earlier versions are kept, and a day whose signals stay the same
    gets no new version. If only one day is corrected, 'check' lists those after it, which are predicted from it too.
    """
    from rollforge.cli.service import read_workflow, service_of
    from rollforge.errors import counted
    from rollforge.online import corrections
    from rollforge.online.locations import service_folder
    from rollforge.session import using

    ledger, name, state = context.obj.state()
    workflow, begin = read_workflow(state.definition, ledger.uri)
    chosen = _day(day) if day is not None else None
    with output_to_stderr(), using(workflow.session):  # what the user's code prints
        folder = service_folder(name, state.definition, ledger.uri)
        service = service_of(name, workflow, begin, ledger.uri, folder)
        corrected = corrections.correct(service, chosen, reason, rules=workflow.checks)
        left = corrections.changed_days(service) if chosen is not None else []
    if as_json:
        echo_json(json.dumps({"service": name, "corrected": [signal.to_document() for signal in corrected]}))
        return
    for signal in corrected:
        echo(f"signals {signal.day} version {signal.version}: {signal.rows} rows, {one_line(signal.file)}")
    if not corrected:
        echo("no signals have changed")
    if left:
        days = f"{counted(len(left), 'other day')} from {left[0]} on {'is' if len(left) == 1 else 'are'}"
        echo(f"{days} not corrected yet; 'rollforge serve correct' corrects all")


@app.command()
def status(context: typer.Context, as_json: AsJson = False) -> None:
    """Show the last published day, the models in use, the findings of checks, and who is running the service."""
    from rollforge.ledger.entry import Comparison
    from rollforge.online import overview

    ledger, name, state = context.obj.state()
    today, lease, days = state.next_day(), ledger.held_by(name), state.days
    failed = overview.failed_days(state)
    latest = state.signals().get(state.last_published or "")
    shown = overview.status(name, state, lease)
    fallback = shown["fallback"]
    if as_json:
        echo_json(json.dumps(shown))
        return
    entries = f"{state.last} {'entry' if state.last == 1 else 'entries'}"
    echo(f"service {one_line(name)}: {entries}, last published {state.last_published or 'never'}")
    if latest:
        echo(f"signals {latest.day} version {latest.version}: {latest.rows} rows, {one_line(latest.file)}")
    if failed:
        echo(f"failed days: {', '.join(failed)}: {one_line(days[failed[-1]].error)}")
    if fallback:
        echo(f"fallback: {one_line(fallback)}")
    for line in _findings(state, shown["warnings"]):
        echo(line)
    if shown["running"]:
        echo(_running(shown["running"]))
    _show_models([*state.champions(today), *state.candidates(today)])
    for day, champions in shown["planned"].items():
        echo(f"planned champions from {day}: {', '.join(map(one_line, champions))}")
    for one in shown["comparisons"]:
        echo(f"{one['candidate']}: {overview.described(Comparison.of_document(one))}")
    if state.unknown:
        echo(f"entries written by a newer version of Rollforge: {', '.join(str(e.number) for e in state.unknown)}")


@app.command()
def history(
    context: typer.Context,
    day: Annotated[str | None, typer.Option("--day", help="Only entries about this day; by default all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what was decided, when and why; with --day, only what concerns that day, its checks, and the models in use.

    Without --day, only checks that warned or failed are shown.
    """
    from rollforge.online.overview import entry_document, utc

    _, _, state = context.obj.state()
    day = _day(day) if day is not None else None
    entries = state.entries if day is None else state.history(day)
    models = state.champions(day) if day is not None else ()
    if as_json:
        shown: dict[str, object] = {"entries": [entry_document(entry) for entry in entries]}
        if day is not None:
            shown |= {"day": day, "champions": [release.to_document() for release in models]}
        echo_json(json.dumps(shown))
        return
    for entry in entries:
        echo(f"{entry.number:5}  {utc(entry.made_at)}  {entry.kind:10}  {one_line(entry.by)}")
        for line in _lines(state, entry, day):
            echo(f"       {one_line(line)}")
    if day is not None:
        if not entries:
            echo(f"nothing was recorded about {day}")
        echo(f"models used on {day}:" if models else f"no model was used on {day}")
        _show_models(models)


@app.command()
def signals(
    context: typer.Context,
    day: Annotated[str, typer.Argument(metavar="DAY", help="A trading day.")],
    version: Annotated[
        int | None, typer.Option("--version", min=1, help="Number of the version; by default the latest.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Folder of the service's files.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print the signals of a day as they were published, or as they were corrected later."""
    from rollforge.errors import ConfigError
    from rollforge.online import signal_files
    from rollforge.online.locations import service_folder
    from rollforge.online.overview import no_signals, signal_document

    ledger, name, state = context.obj.state()
    day = _day(day)
    versions = {signal.version: signal for signal in state.versions(day)}
    if not versions:
        raise ConfigError(no_signals(state, day))
    signal = versions.get(version if version is not None else max(versions))
    if signal is None:
        raise ConfigError(f"There is no version {version} of the signals of {day}, only {_listed(versions)}.")
    place = folder if folder is not None else service_folder(name, state.definition, ledger.uri)
    if as_json:
        echo_json(json.dumps(signal_document(place, signal)))
        return
    if not signal.rows:
        echo_error(f"version {signal.version} withdraws the signals of {day}: {one_line(signal.why)}")
        return
    for code, score in signal_files.scores(place, signal):
        echo(f"{one_line(code)}\t{score!r}")


@app.command()
def promote(
    context: typer.Context,
    recorder: Annotated[str, typer.Argument(metavar="RECORDER", help="Id of the recorder of a model of the service.")],
    reason: Reason = "promoted manually",
    from_day: FromDay = None,
) -> None:
    """Make a model the champion, and retire the present champion of its template. Adds one ledger entry."""
    from rollforge.errors import ConfigError, nearest
    from rollforge.ledger.entry import EntryKind

    ledger, name, state = context.obj.state()
    known = {release.recorder: release for _, release in state.releases}
    if recorder not in known:
        raise ConfigError(f"The service has never released the recorder {recorder!r}.{nearest(recorder, known)}")
    _replace(ledger, name, EntryKind.PROMOTION, [known[recorder]], reason, from_day)


@app.command()
def rollback(
    context: typer.Context,
    strategy: Annotated[
        str | None, typer.Option("--strategy", help="Name of the strategy; by default the only one.")
    ] = None,
    reason: Reason = "rolled back manually",
    from_day: FromDay = None,
) -> None:
    """Undo the last change of champions: the models that were replaced become champions again. Adds one ledger entry.

    A rollback that no published day has used yet is not undone, so that a command which was interrupted can be repeated.
    """
    from rollforge.errors import ConfigError
    from rollforge.ledger.entry import EntryKind

    ledger, name, state = context.obj.state()
    strategies = sorted({release.strategy for _, release in state.releases})
    if strategy is None and len(strategies) > 1:
        raise ConfigError(f"The service has several strategies: {', '.join(strategies)}. Choose one with --strategy.")
    chosen = strategy if strategy is not None else "".join(strategies)
    day = _day(from_day) if from_day is not None else state.next_day()
    now = {r.recorder for r in _of(state.champions(day), chosen)}
    for number in range(state.last - 1, 0, -1):
        before = _of(state.champions(day, as_of=number), chosen)
        if before and {r.recorder for r in before} != now:
            if state.entries[number].kind == EntryKind.ROLLBACK and _is_unused(state, number):
                former = one_line(_listed(sorted(r.recorder for r in before)))
                echo(f"nothing to do: entry {number + 1} is a rollback, and no day has been published since")
                echo(f"to undo it, use 'rollforge serve promote' with {former}")
                return
            _replace(ledger, name, EntryKind.ROLLBACK, before, reason, day)
            return
    raise ConfigError(f"The service {name!r} has no earlier champions to go back to.")


def _is_unused(state: ServiceState, place: int) -> bool:
    """Return whether the champions of an entry are those of no published day."""
    last = state.last_published
    return last is None or all(release.from_day > last for release in state.contents[place].releases)


def _findings(state: ServiceState, warnings: Iterable[str]) -> Iterator[str]:
    """Yield a line for each check of the last day that was not ok, and for each warning about it."""
    from rollforge.online import overview
    from rollforge.online.check_rules import described

    for check in overview.latest_checks(state):
        if check.outcome != "ok":
            yield f"{check.outcome.value}: {one_line(described(check))}"
    for text in warnings:
        yield f"warning: {one_line(text)}"


def _replace(
    ledger: Ledger, name: str, kind: str, models: Sequence[Release], reason: str, from_day: str | None
) -> None:
    """Make models the champions of their strategy with one entry, under the lease of the service."""
    from rollforge.errors import ConfigError
    from rollforge.ledger.base import holding
    from rollforge.ledger.entry import EntryKind, author, release_body
    from rollforge.ledger.state import ServiceState
    from rollforge.online.releases import replaced_by, replaced_in_template

    with holding(ledger, name, LEASE_SECONDS) as lease:
        state = ServiceState.of(ledger.entries(name))
        state.require_known()
        day = _day(from_day) if from_day is not None else state.next_day()
        if state.last_published is not None and day <= state.last_published:
            raise ConfigError(
                f"{day} is not after {state.last_published}, the last published day: the models of published days are "
                "not changed. Give a later day."
            )
        outgoing = replaced_in_template(state, models[0], day) if kind == EntryKind.PROMOTION else None
        changed = replaced_by(state, models, day, reason, outgoing)
        if not changed:
            echo(f"nothing to do: {_listed(sorted(m.recorder for m in models))} is already the champion")
            return
        entry = ledger.append(lease, state.last + 1, kind, release_body(changed, reason), by=author())
    for release in changed:
        named = f" (model {one_line(_model(release))})" if _model(release) else ""
        echo(f"entry {entry.number}: {release.recorder}{named} is {release.role.value} from {release.from_day}")


def _running(running: Mapping[str, object]) -> str:
    """Return who is running the service, and how long the lease lasts."""
    holder, until = one_line(running["holder"]), f"{running['until']} UTC"
    if running["ended"]:
        return f"{holder} has ended without releasing its lease, which lasts until {until}; the next run takes it over"
    return f"being run by {holder}, which holds its lease until {until} unless it renews it"


def _of(releases: Sequence[Release], strategy: str) -> list[Release]:
    return [release for release in releases if release.strategy == strategy]


def _day(text: str) -> str:
    from rollforge.dates import read_day

    return str(read_day(text, "day"))


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _lines(state: ServiceState, entry: Entry, day: str | None) -> list[str]:
    """Return the contents of an entry as lines of text; if a day is given, only the checks of that day."""
    from rollforge.ledger.state import concerns
    from rollforge.online import check_rules
    from rollforge.online.overview import described

    content = state.contents[entry.number - 1]
    if not entry.known:
        return ["written by a newer version of Rollforge"]
    checks = [check for check in content.checks if day in (None, check.day)]

    def replaced(check: CheckResult) -> str:
        later = None if day is None else state.replaced_in(check, entry.number)
        return "" if later is None else f" (replaced in entry {later})"

    said = [
        f"{check.outcome.value}: {check_rules.described(check)}{replaced(check)}"
        for check in checks
        if check.outcome != "ok"
    ]
    fine = [
        f"{check.name} {check.value:.4g}{replaced(check)}"
        for check in checks
        if check.outcome == "ok" and check.value is not None
    ]
    if day is not None and fine:
        said.append(f"checks ok: {', '.join(fine)}")
    if day is not None and not concerns(replace(content, checks=()), day):
        return said  # the entry of a later day, on which a label of this day became known
    lines = []
    if content.day is not None:
        error = f": {content.day.error}" if content.day.error else ""
        lines.append(f"{content.day.day} {content.day.state.value} in {content.day.seconds:.1f} s{error}")
    if content.reason:
        lines.append(content.reason)
    for r in content.releases:
        named = f"(model {_model(r)}) " if _model(r) else ""
        lines.append(f"{r.recorder} {r.role.value} from {r.from_day} {named}{r.reason}".rstrip())
    lines += [f"{one.candidate} {one.verdict.value}: {described(one)}" for one in content.comparisons]
    lines += [f"signals {s.day} version {s.version}: {s.rows} rows {s.why}".rstrip() for s in content.signals]
    return [*lines, *(f"{event.level.value}: {event.text}" for event in content.events), *said]


def _model(release: Release) -> str:
    """Return the name of a release's model in the workflow; empty if the workflow has only one."""
    return "" if release.template == (release.strategy or release.experiment_name) else release.template


def _show_models(models: Sequence[Release]) -> None:
    """Print each model in two lines: what identifies it, then why it has its role, wrapped between words."""
    import textwrap

    if not models:
        return
    lines: list[tuple[str, ...]] = [("role", "recorder", "from", "task", "model")]
    lines += [
        (m.role.value, one_line(m.recorder), m.from_day, one_line(m.task[:12]), one_line(_model(m))) for m in models
    ]
    if not any(map(_model, models)):
        lines = [line[:4] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    indent, width = " " * (widths[0] + 2), console().width
    echo(shown[0])
    for model, line in zip(models, shown[1:], strict=True):
        echo(line)
        why = one_line(f"{model.experiment_name}: {model.reason}" if model.reason else model.experiment_name)
        folded = textwrap.wrap(
            why, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
        echo("\n".join(folded))
