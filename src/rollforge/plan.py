"""Plan a workflow: generate its tasks, and check that each can be built."""

from __future__ import annotations

import contextlib
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rollforge.build import build, describe, resolve_references
from rollforge.dates import ONE_DAY, Times, as_timestamp, has_times, read_day
from rollforge.errors import (
    BuildError,
    ConfigError,
    DataNotFound,
    ModelError,
    RollforgeError,
    SegmentError,
    TaskNotSerializable,
    counted,
    shown,
)
from rollforge.generate.checks import Leakage, read_leakage, refuse_leaks
from rollforge.generators import GeneratorEntry, ListedGenerator, build_generators, grid_entry, rolling_entry
from rollforge.kinds import DATASET, MODEL, RECORD, REWEIGHTER
from rollforge.markup import Markup, tag
from rollforge.notebook import html_repr, summary
from rollforge.notify import Notifier
from rollforge.run.task_resources import RESOURCES, read_resources, without_resources
from rollforge.session import Session, using
from rollforge.task import Definition, Document, digest
from rollforge.workflow import Template, Workflow, location_of
from rollforge.yaml12 import line_of

if TYPE_CHECKING:
    from rollforge.collect.combine import Ensembles
    from rollforge.dates import Times
    from rollforge.generate.base import TaskGen
    from rollforge.generate.checks import Check
    from rollforge.generate.sequence import Named
    from rollforge.generate.timeline import Schedule, Window


__all__ = ["Plan", "make_plan", "named_templates", "rolling_templates", "workflow_ensembles"]


@dataclass(frozen=True, slots=True)
class Plan:
    """The tasks of a workflow, in order, with their windows and with warnings."""

    workflow: Workflow
    tasks: tuple[Definition, ...]
    ids: tuple[str, ...]
    schedule: Schedule
    """The window of each task; with the model's name if there are several models or the model was named."""
    backtest_warnings: tuple[str, ...]
    """Warnings about the backtests of the tasks."""
    ensembles: Ensembles
    """The ensembles that combine the predictions of the tasks."""

    def __repr__(self) -> str:
        return f"<Plan of {self.workflow.experiment_name!r}: {counted(len(self.tasks), 'task')}>"

    @html_repr
    def _repr_html_(self) -> Markup:
        info = {"tasks": len(self.tasks), "models": len(set(self.model_names) - {""}) or None}
        return summary(self.workflow.experiment_name, info, self.schedule.table(), *map(_note, self.warnings))

    @property
    def windows(self) -> tuple[Window, ...]:
        """The window of each task."""
        return self.schedule.windows

    @property
    def checks(self) -> tuple[Check, ...]:
        """The results of the static checks for leakage."""
        return self.schedule.checks

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the tasks and their backtests."""
        return (*self.schedule.warnings, *self.backtest_warnings)

    @property
    def titles(self) -> dict[str, str]:
        """The title of each task, by id."""
        return {i: window.title for i, window in zip(self.ids, self.windows, strict=True)}

    @property
    def fits(self) -> int:
        """Number of models that are fitted: more than one for a task that searches for parameters."""
        return sum(_fits(task) for task in self.tasks)

    @property
    def model_names(self) -> tuple[str, ...]:
        """The name of each task's model; empty if there is a single unnamed model."""
        return tuple(window.model for window in self.windows)


def _note(warning: str) -> Markup:
    return tag("div", "Warning: ", warning)


def make_plan(workflow: Workflow, *, limit: int | None = None, leakage: str | None = None) -> Plan:
    """Return the tasks of `workflow`, with warnings. Trains nothing.

    Parameters
    ----------
    workflow : Workflow
        The workflow to plan.
    limit : int, optional
        Maximum number of tasks to keep.
    leakage : {"error", "warn", "off"}, optional
        What happens if a static check finds a leak; by default as set in the workflow.

    Raises
    ------
    SegmentError, ConfigError, DataError
        If the template and these data do not give valid tasks, with the line in the file.
    LeakageError
        If there is a leak, unless `leakage` is ``warn`` or ``off``.
    """
    mode = workflow.leakage if leakage is None else read_leakage(leakage)
    with _with_locations(workflow), using(workflow.session):
        for target in workflow.notify:
            if isinstance(target, Notifier):
                target.check()
        made = _make_plan(workflow, limit, mode)
    if mode is Leakage.ERROR:
        refuse_leaks(made.checks)
    return made


def rolling_templates(workflow: Workflow) -> tuple[list[Definition], TaskGen]:
    """Return the models of `workflow` as templates of tasks, and the generator of their windows.

    Raises
    ------
    ConfigError
        If the windows of the workflow are not those of a generator that can continue from the last one.
    """
    named, windows = named_templates(workflow)
    return [task for _, task in named], windows


def named_templates(workflow: Workflow) -> tuple[list[Named], TaskGen]:
    """Return the same as :func:`rolling_templates`, with the names of the models.

    The name is empty if the workflow has a single model without a name.

    Raises
    ------
    ConfigError
        If the windows of the workflow are not those of a generator that can continue from the last one.
    """
    from rollforge.generate.base import SupportsFollowing

    with _with_locations(workflow), using(workflow.session):
        variants, windows = _split(build_generators(_entries(workflow), workflow.form))
        if len(windows) != 1 or not isinstance(windows[0].generator, SupportsFollowing):
            raise ConfigError("needs rolling windows, which are added as time goes on.", path="rolling")
        models = [(one.name, _with_exchange(one.task, workflow.session)) for one in _variants(workflow, variants)]
        return models, windows[0].generator


def workflow_ensembles(workflow: Workflow, *, models: int = 1, windows: int = 1) -> Ensembles:
    """Return the ensembles of `workflow`, after checking that they suit these numbers of models and of windows per model.

    Raises
    ------
    ConfigError
        If they cannot be built, with the line in the file.
    """
    from rollforge.collect.combine import build_ensembles

    with _with_locations(workflow), using(workflow.session):
        return build_ensembles(workflow.ensemble, models=models, windows=windows)


@contextlib.contextmanager
def _with_locations(workflow: Workflow) -> Iterator[None]:
    """Add the file and the line to the errors of a workflow."""
    try:
        yield
    except ConfigErrors as exc:
        listed = "\n".join(f"  {_located(one, workflow)}" for one in exc.found)
        raise ConfigError(f"{workflow.path} has {counted(len(exc.found), 'mistake')}:\n{listed}") from exc
    except ConfigError as exc:
        placed = _located(exc, workflow)
        if placed == str(exc) or str(exc).startswith(f"{workflow.path}, "):
            raise
        raise type(exc)(f"{workflow.path}, {placed}") from exc


def _located(exc: RollforgeError, workflow: Workflow) -> str:
    """Add the line in the file to an error, and advice if the missing module is next to the file."""
    line = line_of(exc.path, workflow.lines) if isinstance(exc, ConfigError) else ""
    missing = exc.__cause__.name if isinstance(exc.__cause__, ModuleNotFoundError) else None
    local_file = workflow.path.parent / f"{missing}.py"
    hint = (
        f" {local_file.name} is in the folder of the workflow file: add 'sys: {{rel_path: .}}' to it."
        if os.path.isfile(local_file)
        else ""
    )
    return f"{line}{exc}{hint}"


def _make_plan(workflow: Workflow, limit: int | None, leakage: Leakage) -> Plan:
    from rollforge.generate.backtests import backtest_warnings
    from rollforge.generate.base import check_count
    from rollforge.generate.naming import short_name
    from rollforge.generate.segments import validate_segments
    from rollforge.generate.timeline import make_schedule
    from rollforge.market.universe import session_provider

    uri = workflow.session.folder()
    if uri is None:
        raise ConfigError(
            "No data folder is given. Add 'rollforge: {data: FOLDER}' to the file, or set ROLLFORGE_DATA; "
            "'rollforge data demo FOLDER' creates one."
        )
    template = dict(workflow.template)
    try:
        calendar = session_provider(workflow.session).calendar()
    except DataNotFound as exc:
        if os.path.isdir(os.path.join(uri, "calendars")) or workflow.session.freq not in (None, "day"):
            raise  # the demo market has daily data
        raise DataNotFound(
            f"{exc} To create a demo market with the names and days of this file, run: {_demo_command(template, uri)}"
        ) from None
    generators = build_generators(_entries(workflow), workflow.form)
    check_count(
        [one.task for one in workflow.templates], [one.generator for one in generators],
        generators[-1].entry.place if generators else "",
    )  # fmt: skip
    variants, windows_of = _split(generators)
    tasks: list[Definition] = []
    names: list[str] = []
    for one in _variants(workflow, variants):
        validate_segments(one.task, calendar, path=f"{one.place('dataset')}.kwargs.segments")
        made = [(one.name, _with_exchange(one.task, workflow.session))]
        for listed in windows_of:
            made = _applied(listed, made, one)
            if not type(listed.generator).__module__.startswith("rollforge."):
                _check_windows(listed, made, calendar)
        names += [short_name(name) for name, _ in made]
        tasks += [_closed(task, calendar) for _, task in made]
    if not tasks:
        raise ConfigError("its generators create no tasks.", path=generators[0].entry.place if generators else "task")
    for task in tasks:
        read_resources(task.get(RESOURCES))
    ids = tuple(digest(without_resources(task)) for task in tasks)
    _check_distinct(ids, tasks, names, generators)
    kept, names = tuple(tasks[:limit]), names[:limit]
    if has_times(calendar):
        _refuse_backtests(kept, calendar)
    windows = Counter(names)
    ensembles = workflow_ensembles(workflow, models=len(windows), windows=max(windows.values(), default=0))
    schedule = make_schedule(
        kept, calendar, names, workflow.label_days, leakage=leakage, among=tasks, ensembles=ensembles.config
    )
    return Plan(
        workflow=workflow,
        tasks=kept,
        ids=ids[:limit],
        schedule=schedule,
        backtest_warnings=tuple(backtest_warnings(kept, calendar)),
        ensembles=ensembles,
    )


def _refuse_backtests(tasks: Sequence[Definition], calendar: Times) -> None:
    """Raise an error if a task backtests intraday predictions, before any model is trained."""
    from rollforge.generate.backtests import BACKTEST_IS_DAILY, has_backtest
    from rollforge.market.folder_files import usual_frequency

    if any(map(has_backtest, tasks)):
        raise ConfigError(BACKTEST_IS_DAILY.format(usual_frequency(calendar)), path="task.record")


def _closed(task: Definition, calendar: Times) -> Definition:
    """Return a task whose test segment, if it is open-ended, ends on the last day of the calendar.

    Its id then depends on the days that it predicts: when new data arrive, it is a different task, which the next run
    trains.
    """
    from rollforge.generate.segments import has_intervals
    from rollforge.generate.task_view import TaskView

    kwargs = TaskView(task).dataset_kwargs
    segments: Any = kwargs.get("segments")
    test: object = segments.get("test") if isinstance(segments, Mapping) else None
    if not isinstance(test, (list, tuple)) or has_intervals(test) or len(test) != 2 or test[1] is not None:
        return task
    end = as_timestamp(calendar[-1])
    ended = {**segments, "test": (test[0], end) if isinstance(test, tuple) else [test[0], end]}
    return TaskView(task).with_segments(ended)


def _with_exchange(template: Document, session: Session) -> dict[str, object]:
    """Write the exchange's defaults into the template's backtests, so that the task contains everything it needs.

    A worker on another machine, and a report without the file, know neither the file's options nor its region. (They
    assume the region for which nothing is added here.)
    """
    from rollforge.record.backtest import default_benchmark
    from rollforge.record.rules import REGION_DEFAULTS

    exchange = {**(REGION_DEFAULTS[session.region] if session.region != Session().region else {}), **session.exchange}
    if not exchange or not template.get("record"):
        return dict(template)
    from rollforge.generate.backtests import backtest_of, with_backtest

    records = template["record"]
    listed = [records] if isinstance(records, (dict, str)) else list(records)
    for i, record in enumerate(listed):
        options = backtest_of(record)
        if options is not None:
            defaults = {k: math.inf if k == "limit_threshold" and v is None else v for k, v in exchange.items()}
            given = options.get("exchange_kwargs") or {}
            # A trade unit of null means any amount; for other options null means the default.
            configured = {
                k for k in defaults if k in options or (k in given and (k == "trade_unit" or given[k] is not None))
            }
            kept = {k: v for k, v in defaults.items() if k not in configured}
            made = {**options, "exchange_kwargs": {**given, **kept}}
            if "benchmark" not in made and session.region != Session().region:
                made["benchmark"] = default_benchmark(session)
            listed[i] = with_backtest(record, made)
    return {**template, "record": listed if isinstance(records, list) else listed[0]}


def _demo_command(template: Mapping[str, object], folder: str) -> str:
    """Return the command that creates a demo market with the universe, benchmark and days of a template."""
    from rollforge.generate.segments import ordered
    from rollforge.generate.task_view import TaskView
    from rollforge.market.demo import demo_command

    task = TaskView(template)
    kwargs = task.handler_kwargs or {}
    bounds = [b for _, b in ordered(task.segments)]
    starts = [b.start for b in bounds] + [read_day(t) for t in (kwargs.get("start_time"),) if t is not None]
    ends = [b.end for b in bounds] + [read_day(t) for t in (kwargs.get("end_time"),) if t is not None]
    last = [e for e in ends if e is not None]
    found = [v for r in task.records for v in _values(r, "benchmark")]
    universe = kwargs.get("instruments")
    return demo_command(
        folder,
        start=min((s for s in starts if s is not None), default=None),
        end=None if not last else max(last) + 31 * ONE_DAY,  # the labels of the last days need some more days
        universe=universe if isinstance(universe, str) and universe != "all" else "",
        benchmark=next((str(v) for v in found if isinstance(v, str)), ""),
    )


def _values(node: object, name: str) -> Iterator[object]:
    """Yield the values of a key, at any depth."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == name:
                yield value
            yield from _values(value, name)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _values(value, name)


def _entries(workflow: Workflow) -> list[GeneratorEntry]:
    """Return the workflow's generators in the order in which they are applied."""
    grid = [grid_entry(workflow.grid)] if workflow.grid else []
    rolling = [rolling_entry(workflow.rolling, workflow.form)] if workflow.rolling is not None else []
    return [*grid, *workflow.generate, *rolling]


def _split(generators: Sequence[ListedGenerator]) -> tuple[Sequence[ListedGenerator], Sequence[ListedGenerator]]:
    """Return the generators up to the last one that creates models, and those after it, which only create windows."""
    last = max((i for i, one in enumerate(generators) if not one.generator.only_windows), default=-1)
    return generators[: last + 1], generators[last + 1 :]


def _applied(listed: ListedGenerator, tasks: list[Named], template: Template) -> list[Named]:
    """Apply a generator to tasks of a template."""
    try:
        return listed.apply(tasks)
    except ConfigError as exc:
        start, _, inside = exc.path.partition(".")
        part, _, rest = inside.partition(".")
        if start != "task" or part not in template.own:
            raise
        raise type(exc)(exc.message, path=f"{template.place(part)}.{rest}".rstrip(".")) from exc


def _variants(workflow: Workflow, generators: Sequence[ListedGenerator]) -> list[Template]:
    """Return all models of the workflow's ``models`` and `generators`, with distinct names, after inexpensive checks."""
    from rollforge.generate.naming import variant

    _check_conditions(workflow, generators)
    rolled = any(one.generator.only_windows for one in generators)
    identify = variant if rolled else digest  # the windows of a model need only one check
    variants: list[Template] = []
    checked: set[str] = set()
    for template in workflow.templates:
        tasks: list[Named] = [(template.name, dict(template.task))]
        for listed in generators:
            tasks = _applied(listed, tasks, template)
        for name, task in tasks:
            try:
                whole, rest = identify(task), identify({**task, "model": None})
            except TaskNotSerializable as exc:
                raise BuildError(str(exc), path=generators[-1].entry.place if generators else "task") from exc
            if not rolled or whole not in checked:
                check_buildable(task, template.place, model_only=rest in checked)
            checked |= {whole, rest}
            variants.append(replace(template, task=task, name=name))
    return variants


def _check_conditions(workflow: Workflow, generators: Sequence[ListedGenerator]) -> None:
    """Raise an error if a condition of a grid holds for none of the workflow's models."""
    from rollforge.generate.grid import GridGen

    for i, listed in enumerate(generators):
        if isinstance(listed.generator, GridGen) and listed.generator.when:
            before: list[Named] = []
            for template in workflow.templates:
                tasks: list[Named] = [(template.name, dict(template.task))]
                for earlier in generators[:i]:
                    tasks = _applied(earlier, tasks, template)
                before += tasks
            never = listed.generator.never_set([task for _, task in before])
            if never:
                raise ConfigError(
                    "is never true, so the values of this path are not used: correct the condition, or remove the path.",
                    path=listed.entry.locate(f"when.{never[0]}"),
                )


def _check_windows(listed: ListedGenerator, tasks: Sequence[Named], calendar: Times) -> None:
    """Raise an error if the windows of a user's generator are invalid."""
    from rollforge.generate.segments import validate_segments

    for i, (_, task) in enumerate(tasks, 1):
        try:
            validate_segments(task, calendar)
        except SegmentError as exc:
            raise BuildError(f"window {i} of {listed.name}: {exc}", path=listed.entry.place) from exc


def _check_distinct(
    ids: Sequence[str], tasks: Sequence[Document], names: Sequence[str], generators: Sequence[ListedGenerator]
) -> None:
    """Raise an error if two tasks are the same, for example because a generator undoes what an earlier one did."""
    from rollforge.generate.naming import describe as describe_task

    makers = [one for one in generators if not one.generator.only_windows]
    first: dict[str, str] = {}
    for mark, task, name in zip(ids, tasks, names, strict=True) if generators else ():
        if mark not in first:
            first[mark] = name
        elif first[mark] == name:
            raise ConfigError(
                f"the generators create the same task twice: {describe_task(task, name)}.",
                path=generators[-1].entry.place,
            )
        else:
            raise ConfigError(
                f"the models {first[mark]!r} and {name!r} have the same task: a generator replaces what an earlier one set.",
                path=(makers or generators)[-1].entry.place,
            )


def _in_task(part: str) -> str:
    return f"task.{part}"


def _fits(task: Definition) -> int:
    """Return how many models a task fits, which its model states as `fits` if it is more than one."""
    described = resolve_references(task).get("model")
    arguments = described.get("kwargs") if isinstance(described, Mapping) else None
    if not isinstance(arguments, Mapping) or ("n_trials" not in arguments and "space" not in arguments):
        return 1  # other models are not built for this, because that imports their libraries
    fits = getattr(build(described, kind=MODEL, where="task.model"), "fits", 1)
    return fits if isinstance(fits, int) else 1


def check_buildable(
    template: Mapping[str, object], place: Callable[[str], str] = _in_task, *, model_only: bool = False
) -> None:
    """Build everything that is inexpensive to build, to find misspelt classes and arguments before anything is stored.

    Parameters
    ----------
    template : mapping
        A task.
    place : callable
        Maps a part of a task to its location in the document.
    model_only : bool
        If True, skip dataset and records.

    Raises
    ------
    RollforgeError
        The error, or :class:`ConfigErrors` if there are several.
    """
    problems: list[RollforgeError] = []
    resolved = resolve_references(template)
    _attempt(problems, place("model"), lambda: build(resolved["model"], kind=MODEL, where=place("model")))
    if not model_only:
        dataset = _attempt(problems, place("dataset"), lambda: _checked_dataset(resolved["dataset"], place("dataset")))
        _check_records(problems, resolved.get("record") or [], dataset, place("record"))
        if resolved.get("reweighter") is not None:
            where = place("reweighter")
            _attempt(problems, where, lambda: build(resolved["reweighter"], kind=REWEIGHTER, where=where))
    if len(problems) > 1:
        raise ConfigErrors(problems)
    if problems:
        raise problems[0]


def _check_records(found: list[RollforgeError], records: object, dataset: object, place: str) -> None:
    earlier: list[object] = []
    if not isinstance(records, (dict, str, list, tuple)):
        found.append(ConfigError(f"expected a record or a list of records, found {shown(records)}.", path=place))
        return
    for i, record in enumerate([records] if isinstance(records, (dict, str)) else records):
        where = f"{place}.{i}" if isinstance(records, list) else place
        # A record receives its recorder, model and dataset when the task runs; here they are None.
        offered = {"model": None, "dataset": dataset, "recorder": None}
        make = partial(build, record, kind=RECORD, default_module="rollforge.record", try_kwargs=offered, where=where)
        made = _attempt(found, where, make)
        if made is not None:
            _attempt(found, where, partial(_check_needs, made, earlier, where))
        earlier.append(made)


def _check_needs(record: object, earlier: Sequence[object], where: str) -> None:
    """Raise an error if a record's dependency is neither recorded before it nor in the data.

    A user's own record can save anything, so it is assumed to provide what later records depend on.
    """
    from rollforge.record.portfolio import PortAnaRecord

    needed = getattr(record, "depend_cls", None)
    own = type(record).__module__.startswith("rollforge.")
    if own and needed is not None:
        known = [type(r) for r in earlier]
        if all(cls.__module__.startswith("rollforge.") and not issubclass(cls, needed) for cls in known):
            raise ConfigError(
                f"{type(record).__name__} needs the results of a {needed.__name__}. Add one before it.",
                path=where,
            )
    if isinstance(record, PortAnaRecord):
        record.check_data(f"{where}.kwargs.config")


def _without_path(exc: RollforgeError) -> str:
    return str(exc).removeprefix(f"{exc.path}: ") if isinstance(exc, ConfigError) else str(exc)


class ConfigErrors(ConfigError):
    """Several errors in one task."""

    def __init__(self, found: Sequence[RollforgeError]) -> None:
        super().__init__("\n".join(str(exc) for exc in found))
        self.found = tuple(found)


def _checked_dataset(config: object, where: str) -> object:
    from rollforge.features.handler import DataHandler

    dataset = build(config, kind=DATASET, where=where)
    handler = getattr(dataset, "handler", None)
    if isinstance(handler, DataHandler):
        try:
            handler.check()
        except ConfigError as exc:  # its path is relative to the handler's arguments
            place = f"{where}.{location_of(exc.path, config)}".rstrip(".")
            if exc.path.startswith(where):
                raise
            located = type(exc)(exc.message, path=place)
            raise located from exc
    return dataset


def _attempt(found: list[RollforgeError], where: str, made: Callable[[], object]) -> object:
    """Return the result of `made`; append an error to `found`."""
    try:
        return made()
    except RollforgeError as raised:
        exc = raised
        if type(raised) is ModelError or (type(raised) is ConfigError and not raised.path):
            exc = ConfigError(str(raised), path=where)  # a constructor does not know its location in the document
            exc.__cause__ = raised
        if _without_path(exc) not in {_without_path(one) for one in found}:  # several parts come from the same file
            found.append(exc)
    except Exception as exc:  # noqa: BLE001 - whatever the constructor of a class of the user's raises is a mistake here
        error = BuildError(f"cannot be built: {describe(exc)} 'rollforge -v plan' shows the traceback.", path=where)
        error.__cause__ = exc
        found.append(error)
    return None
