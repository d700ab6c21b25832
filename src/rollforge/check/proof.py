"""The measured proof: which results change before a day when only the market data after it do.

For some windows of a workflow and some days of each, the market data after the day are replaced, the data are built
again and compared up to the day, as in :mod:`rollforge.check.market_copy` and :mod:`rollforge.check.compare`. The days
are the middle of the train segment, the last day before each later segment, the last day that the labels of train and
valid read, and the middle of the test segment.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.build import describe, resolve_references
from rollforge.check.compare import Difference, changed_columns, compare, until
from rollforge.check.market_copy import TURNS, Change, choose_instruments, write_copy
from rollforge.check.rebuild import TaskData, fit_model, predict, restricted, session_on
from rollforge.errors import BuildError, RollforgeError, SegmentError, counted
from rollforge.generate.checks import Check, CheckMethod, CheckResult, Leakage
from rollforge.generate.label_horizon import HorizonSource, LabelHorizon, task_horizon
from rollforge.generate.segments import next_pieces, pieces
from rollforge.generate.task_view import TaskView
from rollforge.generate.timeline import Window
from rollforge.market.provider import Provider
from rollforge.market.universe import resolve_instruments, session_provider
from rollforge.plan import Plan, make_plan
from rollforge.session import Session, using
from rollforge.task import Document, digest
from rollforge.workflow import Workflow

__all__ = ["Cost", "Proof", "Scope", "prove"]

log = logging.getLogger(__name__)

_SEGMENTS = ("train", "valid", "test")
_SHIFT = "Shift it so that it reads only the day itself and earlier days, or remove it."


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """How much is checked."""

    every_window: bool = False
    """Whether all windows are checked; by default the first, the middle and the last of each model."""
    quick: bool = False
    """Whether models are fitted for few rounds, one of each class, and the data after a day are replaced once only."""
    instruments: int = 20
    """Number of instruments."""

    @property
    def turns(self) -> int:
        """How often the data after a day are replaced."""
        return 1 if self.quick else TURNS


@dataclass(frozen=True, slots=True)
class Cost:
    """What a check will take."""

    windows: int
    instruments: int
    builds: int
    """Number of times that the data are built from a changed copy of the market."""
    fits: int
    """Number of times that a model is fitted."""
    seconds: float
    """Approximate time."""

    def __str__(self) -> str:
        return (
            f"{counted(self.windows, 'window')}: builds the data of {counted(self.instruments, 'instrument')} "
            f"{counted(self.builds, 'time')} and fits {counted(self.fits, 'model')}; about {max(self.seconds, 1):.0f} s"
        )


@dataclass
class _Case:
    """A window of one or several models with the same data."""

    task: Mapping[str, Any]
    window: Window
    models: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    """Title and task of each model."""

    @property
    def titles(self) -> tuple[str, ...]:
        return tuple(title for title, _ in self.models)


@dataclass(frozen=True, slots=True)
class _Finding:
    key: str
    text: str
    cure: str
    titles: tuple[str, ...]
    day: str


class _Findings:
    """What was found, by subject."""

    def __init__(self) -> None:
        self.checked: dict[str, dict[str, tuple[dict[str, None], dict[str, None]]]] = {}
        """Subject -> what is proved if nothing is found -> titles and days."""
        self.found: dict[tuple[str, CheckResult], dict[str, list[_Finding]]] = {}

    def note(self, subject: str, titles: Sequence[str], day: object = "", text: str = "") -> None:
        """Note that something was compared; `text` is what it proves if nothing is found."""
        seen_titles, seen_days = self.checked.setdefault(subject, {}).setdefault(text, ({}, {}))
        seen_titles.update(dict.fromkeys(titles))
        seen_days.update({str(day): None} if day else {})

    def add(
        self, subject: str, result: CheckResult, key: str, text: str, cure: str, titles: Sequence[str], day: object = ""
    ) -> None:
        self.note(subject, titles, day)
        group = self.found.setdefault((subject, result), {})
        group.setdefault(key, []).append(_Finding(key, text, cure, tuple(titles), str(day) if day else ""))

    def leak(self, subject: str, key: str, text: str, cure: str, titles: Sequence[str], day: object) -> None:
        self.add(subject, CheckResult.LEAK, key, text, cure, titles, day)

    def checks(self) -> list[Check]:
        """Return the results, one for each subject that is clean and one for each cause of another result."""
        made = []
        for subject, proved in self.checked.items():
            groups = [
                (r, g) for r in (CheckResult.LEAK, CheckResult.UNKNOWN) for g in [self.found.get((subject, r))] if g
            ]
            for result, group in groups:
                for found in group.values():
                    first = found[0]
                    made.append(
                        Check(
                            subject, result, CheckMethod.MEASURED, first.text, first.cure,
                            tuple(dict.fromkeys(t for f in found for t in f.titles)),
                            tuple(sorted({f.day for f in found if f.day})),
                        )
                    )  # fmt: skip
            made += [
                Check(subject, CheckResult.CLEAN, CheckMethod.MEASURED, text, "", tuple(titles), tuple(sorted(days)))
                for text, (titles, days) in proved.items()
                if text and not groups
            ]
        return made


@dataclass(frozen=True, slots=True)
class Proof:
    """What the checks of a workflow found."""

    plan: Plan
    """The tasks, with the results of the static checks."""
    measured: tuple[Check, ...]
    as_written: bool
    """False if the windows were purged by the measured horizon, so that the tasks are not those of the workflow."""


def prove(
    workflow: Workflow,
    scope: Scope | None = None,
    on_cost: Callable[[Cost], object] = lambda cost: None,
    *,
    limit: int | None = None,
) -> Proof:
    """Return what the checks of a workflow found.

    The user's code is run as by ``rollforge run``, but on temporary copies of the data folder, with a temporary cache
    and tracking store. They are removed at the end, also after an error or Ctrl-C.

    If windows cannot be purged because the label's horizon is unknown, they are purged by the measured one.

    Parameters
    ----------
    workflow : Workflow
        The workflow.
    scope : Scope, optional
        How much is checked.
    on_cost : callable
        Called with the estimated cost, before nearly all of the work.
    limit : int, optional
        Maximum number of tasks.

    Raises
    ------
    RollforgeError
        If the workflow cannot be planned, or the data of a task cannot be built from the data folder.
    """
    import rollforge.expressions.jit  # noqa: F401  # chooses the folder of compiled code, before the session changes

    scope = scope or Scope()
    workflow = replace(workflow, leakage=Leakage.WARN)  # leaks of the definition are no reason not to measure
    try:
        plan, measured = make_plan(workflow, limit=limit), None
    except SegmentError:
        if not any(task_horizon(template.task).days is None for template in workflow.templates):
            raise
        plan, measured = _plan_with_measured_horizon(workflow, limit, scope)
    with tempfile.TemporaryDirectory(prefix="rollforge-check-") as folder, _quietly():
        found = _Proof(plan, scope, Path(folder), measured).run(on_cost)
    return Proof(plan, tuple(found), measured is None)


def _plan_with_measured_horizon(workflow: Workflow, limit: int | None, scope: Scope) -> tuple[Plan, int]:
    """Return a plan whose windows are purged by the measured horizon of the label, and that."""
    plan = make_plan(_with_horizon(workflow, 0), limit=limit)
    with tempfile.TemporaryDirectory(prefix="rollforge-check-") as folder, _quietly():
        measured = _Proof(plan, scope, Path(folder), 0).measured_horizon()
    return make_plan(_with_horizon(workflow, measured), limit=limit), measured


def _with_horizon(workflow: Workflow, days: int) -> Workflow:
    """Return a workflow that declares the horizon of labels for which it is unknown."""

    def declared(task: Document) -> Document:
        return task if task_horizon(task).days is not None else {**task, "label_horizon": days}

    models = tuple(replace(one, task=declared(one.task)) for one in workflow.models)
    return replace(workflow, template=declared(workflow.template), models=models)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Leave out logs and warnings about the copies: planning and running report them about the data themselves."""
    logger = logging.getLogger("rollforge")
    level = logger.level
    logger.setLevel(max(level, logging.ERROR))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


class _Proof:
    """A check of one plan."""

    def __init__(self, plan: Plan, scope: Scope, folder: Path, measured: int | None) -> None:
        self.plan = plan
        self.measured = measured
        """The number of days by which the plan's windows were purged because the horizon is unknown."""
        self.scope = scope
        self.folder = folder
        self.findings = _Findings()
        session = plan.workflow.session
        self.source: Provider = session_provider(session)
        self.calendar = plan.schedule.calendar
        self.members: Collection[str] | None = None
        """The instruments to which universes are restricted; None means all."""
        self.codes: Collection[str] | None = None
        """The instruments whose data are copied; None means all."""
        self.copies = 0
        self.turn = 0

    # -- what is checked -----------------------------------------------------------------------------------------------

    def cases(self) -> list[_Case]:
        """Return the windows to check, those of models with the same data together."""
        by_model: dict[str, list[tuple[Window, Mapping[str, Any]]]] = {}
        for window, task in zip(self.plan.windows, self.plan.tasks, strict=True):
            by_model.setdefault(window.model, []).append((window, task))
        cases: dict[str, _Case] = {}
        for listed in by_model.values():
            listed.sort(key=lambda one: one[0].index)
            places = range(len(listed)) if self.scope.every_window else {0, len(listed) // 2, len(listed) - 1}
            for place in sorted(places):
                window, definition = listed[place]
                key = digest({"dataset": resolve_references(definition)["dataset"]})
                case = cases.setdefault(key, _Case(definition, window))
                case.models.append((window.title, definition))
        return list(cases.values())

    def fitted(self, case: _Case) -> list[tuple[str, Mapping[str, Any]]]:
        """Return the models of a case that are fitted: with `quick`, one of each class."""
        if not self.scope.quick:
            return case.models
        return list({TaskView(task).model_class: (title, task) for title, task in reversed(case.models)}.values())[::-1]

    # -- building ------------------------------------------------------------------------------------------------------

    def _restrict(self, cases: Sequence[_Case]) -> None:
        """Choose the instruments."""
        session = self.plan.workflow.session
        every = [f.name.upper() for f in sorted((self.source.path / "features").iterdir()) if f.is_dir()]
        with using(session):
            members = _members(self.source, TaskData(cases[0].task, session).handler, every)
        spans = [(s.start, s.end) for case in cases for s in case.window.segments.values()]
        self.members = choose_instruments(self.source, members, spans, self.scope.instruments)
        listed = {code for name in self.source.markets() if name != "all" for code in self.source.instruments(name)}
        # Indexes and the like, which are no members: code may read them. So may an expression name a member.
        others = [code for code in every if code not in set(members) and code not in listed][:_OTHERS]
        words = set(re.findall(r"[^\s'\"()\[\],:]+", (repr([c.task for c in cases]) + self.plan.workflow.text).upper()))
        self.codes = {*self.members, *others, *(code for code in every if code in words)}

    @contextlib.contextmanager
    def copy(self, change: Change | None) -> Iterator[Session]:
        """Provide the session of a copy of the market, which is removed afterwards."""
        self.copies += 1
        folder = self.folder / str(self.copies)
        try:
            write_copy(self.source, folder / "data", change, self.members, self.codes)
            yield session_on(self.plan.workflow.session, folder, folder / "data")
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def data(self, task: Mapping[str, Any], session: Session) -> TaskData:
        """Return the data of a task, built from a copy."""
        data = TaskData(task if self.members is None else restricted(task, self.members), session)
        for stage in data.stages[:1]:
            data.frame(stage)
        return data

    def _original(self, task: Mapping[str, Any], session: Session) -> TaskData:
        try:
            return self.data(task, session)
        except RollforgeError:
            raise
        except Exception as exc:
            raise BuildError(f"cannot be built: {describe(exc)}", path="task.dataset") from exc

    # -- the check -----------------------------------------------------------------------------------------------------

    def run(self, on_cost: Callable[[Cost], object]) -> list[Check]:
        cases = self.cases()
        self._restrict(cases)
        with contextlib.ExitStack() as held:
            session, first = self._first(cases[0], held)
            originals: dict[str, _Columns] = {}
            for case in cases:
                data = first if case is cases[0] else self._original(case.task, session)
                key = repr(_timeless(TaskView(case.task).handler))
                if key not in originals:
                    began = time.perf_counter()
                    originals[key] = self._columns(case, data)
                    if case is cases[0]:
                        on_cost(self._cost(cases, originals[key], (time.perf_counter() - began) / (1 + TURNS)))
                _Window(self, case, data, originals[key]).run()
        return self.findings.checks()

    def measured_horizon(self) -> int:
        """Return how many days before a change the labels of the first window change, at most."""
        cases = self.cases()
        self._restrict(cases)
        with contextlib.ExitStack() as held:
            _, data = self._first(cases[0], held)
            return self._columns(cases[0], data).reach

    def _first(self, case: _Case, held: contextlib.ExitStack) -> tuple[Session, TaskData]:
        """Return the session of an unchanged copy, and the data of a case built from it.

        Code may read other instruments than the chosen ones, and filters may leave none of them. Then the copy has the
        data of all instruments, and at last universes are not restricted either.
        """
        for codes, members in ((self.codes, self.members), (None, self.members)):
            self.codes, self.members = codes, members
            session = held.enter_context(self.copy(None))
            with contextlib.suppress(Exception):
                return session, self._original(case.task, session)
        self.codes = self.members = None
        session = held.enter_context(self.copy(None))
        return session, self._original(case.task, session)

    @property
    def number(self) -> int:
        """Number of instruments."""
        return sum(1 for _ in (self.source.path / "features").iterdir()) if self.members is None else len(self.members)

    def _cost(self, cases: Sequence[_Case], columns: _Columns, seconds: float) -> Cost:
        builds = sum(len(_days_of(case, self.calendar, columns)) * self.scope.turns for case in cases)
        fits = sum(len(self.fitted(case)) * (2 + self.scope.turns) for case in cases)
        return Cost(len(cases), self.number, builds, fits, builds * seconds * 1.5 + fits * seconds)

    @contextlib.contextmanager
    def changed(self, change: Change, case: _Case) -> Iterator[TaskData | None]:
        """Provide the data of a case, built after a change; None if that fails, which is noted."""
        with self.copy(change) as session:
            try:
                made = self.data(case.task, session)
            except Exception as exc:  # noqa: BLE001 - user code on unusual values; the result is then not known
                self.failed("features", case, change, exc)
                made = None
            yield made

    def failed(self, subject: str, case: _Case, change: Change, exc: Exception) -> None:
        """Note that something could not be computed on changed data."""
        log.debug("a check failed", exc_info=exc)
        self.findings.add(
            subject, CheckResult.UNKNOWN, f"failed {describe(exc)}",
            f"On market data that were replaced after {change.after}, building failed: {describe(exc)}", "",
            case.titles, change.after,
        )  # fmt: skip

    def _columns(self, case: _Case, data: TaskData) -> _Columns:
        """Find the columns that do not depend on the market data, and how far before a day labels change."""
        horizon = task_horizon(case.task)
        if self.measured is not None and horizon.read is None:
            horizon = task_horizon({k: v for k, v in case.task.items() if k != "label_horizon"})
        columns = _Columns(horizon)
        if not data.stages:
            return columns
        before = self.calendar[0] - np.timedelta64(1, "D")
        with self.changed(Change(before, removes=False), case) as other:
            if other is not None:
                frame = data.raw
                fixed = ~changed_columns(frame, other.raw) & ~_constant(frame)
                columns.fixed = [_name(c) for c in frame.columns[fixed & ~_is_label(frame)]]
                columns.fixed_labels = [_name(c) for c in frame.columns[fixed & _is_label(frame)]]
                columns.all_fixed = bool((fixed | _constant(frame)).all())
        train = case.window.segments.get("train")
        if train is not None:
            day = _middle(train.start, train.end, self.calendar)
            for turn in range(TURNS):
                with self.changed(Change(day, turn), case) as other:
                    if other is not None:
                        columns.measure(data, other, day, self.calendar)
        return columns


_OTHERS = 50  # instruments outside of the universe


def _members(source: Provider, handler: Any, every: Sequence[str]) -> list[str]:
    """Return the instruments that a handler loads; all if it does not tell."""
    while getattr(handler, "instruments", None) is None:
        inner = getattr(getattr(handler, "data_loader", None), "handlers", None)  # of a DataLoaderDH
        handler = next(iter(inner.values()), None) if isinstance(inner, Mapping) else inner
        if handler is None:
            return list(every)
    members, filters = resolve_instruments(source, handler.instruments)
    if filters:
        from rollforge.features.api import D

        return D.list_instruments(handler.instruments, as_list=True)
    return list(members)


def _timeless(node: Any) -> Any:
    """Return a handler's description without its range and fit window, which differ between windows."""
    if isinstance(node, Mapping):
        return {k: _timeless(v) for k, v in node.items() if not str(k).endswith("_time")}
    return node


class _Columns:
    """What is known about the columns of a handler."""

    def __init__(self, horizon: LabelHorizon) -> None:
        self.horizon = horizon
        """The horizon of the label according to its definition."""
        self.has_label = False
        """Whether there is a label, and its horizon could be measured."""
        self.measured = 0
        """Number of days before a change that labels change, at most."""
        self.measured_rows = 0
        """The same in rows of the instrument."""
        self.example: Difference | None = None
        self.day: np.datetime64 | None = None
        self.fixed: list[str] = []
        """Features that do not depend on the market data."""
        self.fixed_labels: list[str] = []
        self.all_fixed = False

    @property
    def ahead(self) -> int:
        """Number of days that labels look ahead, as far as is known."""
        return max(self.horizon.days or 0, self.measured)

    @property
    def reach(self) -> int:
        """Number of days before a change that labels change, counted as the horizon is."""
        return self.measured_rows if self.horizon.in_rows else self.measured

    def measure(self, data: TaskData, other: TaskData, day: np.datetime64, calendar: NDArray[np.datetime64]) -> None:
        """Find how far before a change labels change: in the raw data, or if a processor makes them, after it."""
        a, b = data.raw, other.raw
        if not _is_label(a).any():
            chain = data.chains.get("learn")
            if not chain:
                return
            a = data.learn
            for _, frame in other.processed(chain):
                b = frame
        self.has_label |= bool(_is_label(a).any())
        found = _changed_labels(a, b, day)
        if found is None:
            return
        rows, example = found
        days = rows.get_level_values("datetime").to_numpy().astype("datetime64[D]")
        first = days.min()
        reach = int(np.searchsorted(calendar, day, "right") - np.searchsorted(calendar, first))
        if reach > self.measured:
            self.measured, self.example, self.day = reach, example, day
        own = until(a, day, first).index
        codes = own.get_level_values("instrument")
        for code in rows.get_level_values("instrument").unique():
            start = days[rows.get_level_values("instrument") == code].min()
            mine = own.get_level_values("datetime").to_numpy().astype("datetime64[D]")[codes == code]
            self.measured_rows = max(self.measured_rows, int((mine >= start).sum()))


def _changed_labels(
    a: pd.DataFrame, b: pd.DataFrame, day: np.datetime64, first: np.datetime64 | None = None
) -> tuple[pd.MultiIndex, Difference] | None:
    """Return the rows up to a day whose labels change or that disappear, and the first of them."""
    a = until(a.loc[:, _is_label(a)], day, first)
    if not a.shape[1]:
        return None
    b = b.loc[:, _is_label(b)].reindex(a.index)
    difference = compare(a, b)
    if difference is None:
        return None
    from rollforge.check.compare import different

    index = a.index[np.flatnonzero(different(a, b).any(axis=1))]
    assert isinstance(index, pd.MultiIndex)
    return index, difference


def _is_label(frame: pd.DataFrame) -> NDArray[np.bool_]:
    if not isinstance(frame.columns, pd.MultiIndex):
        return np.zeros(frame.shape[1], bool)
    found: NDArray[np.bool_] = np.asarray(frame.columns.get_level_values(0) == "label")
    return found


def _constant(frame: pd.DataFrame) -> NDArray[np.bool_]:
    return np.array([frame.iloc[:, i].nunique() <= 1 for i in range(frame.shape[1])], bool)


def _name(column: object) -> str:
    return str(column[-1]) if isinstance(column, tuple) else str(column)


def _middle(start: np.datetime64, end: np.datetime64, calendar: NDArray[np.datetime64]) -> np.datetime64:
    """Return a day in the middle of a segment, but not its last one.

    If possible, the next day is in the same week and month: the last price of a week or a month looks ahead on the days
    before it.
    """
    first, last = int(np.searchsorted(calendar, start)), int(np.searchsorted(calendar, end, "right")) - 1
    place = first + max(0, (last - first - 1) // 2)
    for day in range(place, min(place + _NEAR, last)):
        if _week(calendar[day]) == _week(calendar[day + 1]) and _month(calendar[day]) == _month(calendar[day + 1]):
            place = day
            break
    middle: np.datetime64 = calendar[place]
    return middle


_NEAR = 7  # days in which another middle is looked for


def _week(day: np.datetime64) -> int:
    return (
        int(day.astype("datetime64[D]").astype(np.int64)) + 3
    ) // 7  # 1970-01-01 was a Thursday; weeks begin on Mondays


def _month(day: np.datetime64) -> int:
    return int(day.astype("datetime64[M]").astype(np.int64))


def _last_read(case: _Case, calendar: NDArray[np.datetime64], columns: _Columns) -> np.datetime64 | None:
    """Return the last day that the labels of train and valid read; None if it is the last of the calendar or later.

    Labels that count rows of an instrument may read any day before the next segment.
    """
    fitted = [case.window.segments[name].end for name in _SEGMENTS[:2] if name in case.window.segments]
    if not fitted:
        return None
    place = int(np.searchsorted(calendar, max(fitted), "right")) - 1 + columns.ahead
    if columns.horizon.source is not HorizonSource.EXPRESSION:
        behind = [int(np.searchsorted(calendar, b.day)) for b in _borders(case, calendar) if b.end == max(fitted)]
        place = max([place, *behind])
    return calendar[place] if place < len(calendar) - 1 else None


@dataclass(frozen=True, slots=True)
class _Border:
    """The days of a segment, or of an interval of it, before a later segment."""

    day: np.datetime64
    """The last day before the later segment."""
    name: str
    start: np.datetime64
    end: np.datetime64
    later: str


def _borders(case: _Case, calendar: NDArray[np.datetime64]) -> list[_Border]:
    """Return the segments that are followed by others."""
    segments = TaskView(case.task).segments
    own = pieces({name: segments[name] for name in _SEGMENTS if name in segments})
    found = []
    for earlier, following in next_pieces(own):
        (name, interval), (later, behind) = own[earlier], own[following]
        first, stop = interval.positions(calendar)
        place = behind.positions(calendar)[0] - 1
        if first < stop and place >= 0:
            found.append(_Border(calendar[place], name, calendar[first], calendar[stop - 1], later))
    return found


def _days_of(case: _Case, calendar: NDArray[np.datetime64], columns: _Columns) -> list[np.datetime64]:
    """Return the days after which the market data are replaced."""
    days = [border.day for border in _borders(case, calendar)]
    days += [
        _middle(case.window.segments[name].start, case.window.segments[name].end, calendar)
        for name in ("train", "test")
        if name in case.window.segments
    ]
    fitted = _last_read(case, calendar, columns)
    return sorted({*days, *([fitted] if fitted is not None else [])})


class _Window:
    """The checks of one case."""

    def __init__(self, proof: _Proof, case: _Case, data: TaskData, columns: _Columns) -> None:
        self.proof = proof
        self.findings = proof.findings
        self.calendar = proof.calendar
        self.case = case
        self.data = data
        self.columns = columns
        self.last_read = _last_read(case, proof.calendar, columns)
        self._common = False
        """Whether only the rows that both have are compared, because others were reported already."""

    def run(self) -> None:
        self._about_columns()
        models = list(self._models())
        for day in _days_of(self.case, self.calendar, self.columns):
            for _ in range(self.proof.scope.turns):
                change = Change(day, self.proof.turn % TURNS)
                self.proof.turn += 1
                with self.proof.changed(change, self.case) as other:
                    if other is not None:
                        self._compare(change, other, models)

    @cached_property
    def titles(self) -> tuple[str, ...]:
        return self.case.titles

    def _distance(self, day: np.datetime64, row: np.datetime64) -> int:
        return int(np.searchsorted(self.calendar, day, "right") - np.searchsorted(self.calendar, row))

    # -- columns -------------------------------------------------------------------------------------------------------

    def _about_columns(self) -> None:
        columns, titles = self.columns, self.titles
        if not self.data.stages:
            self.findings.add(
                "features", CheckResult.UNKNOWN, "no handler",
                f"{type(self.data.dataset).__name__} has no DataHandler, so only the model and its predictions are checked.",
                "", titles,
            )  # fmt: skip
            return
        if columns.fixed:
            self.findings.add(
                "features", CheckResult.UNKNOWN, f"fixed {columns.fixed}",
                f"{_listed(columns.fixed)}: the same when all market data change, so these features come from elsewhere, such "
                "as a file.", "Check how they were made: that they use earlier days only cannot be measured.", titles,
            )  # fmt: skip
        self._about_label()

    def _about_label(self) -> None:
        columns, titles = self.columns, self.titles
        if columns.fixed_labels:
            self.findings.add(
                "label", CheckResult.UNKNOWN, f"fixed {columns.fixed_labels}",
                f"{_listed(columns.fixed_labels)}: the same when all market data change, so the label comes from elsewhere, "
                "such as a file, and how far it looks ahead cannot be measured.",
                "Set label_horizon, the number of trading days that the label looks ahead.", titles,
            )  # fmt: skip
            return
        horizon, measured = columns.horizon, columns.measured
        if not columns.has_label:
            if horizon.days != 0:
                text = "No column of the group 'label' was found whose horizon could be measured."
                self.findings.add("label", CheckResult.UNKNOWN, "none", text, "", titles)
            return
        rows = (
            f" ({counted(columns.measured_rows, 'row')} of the instrument)" if columns.measured_rows < measured else ""
        )
        days = f"{counted(measured, 'trading day')}{rows}"
        if horizon.days is None:
            purged = "" if self.proof.measured is None else " The windows of this check were purged by them."
            self.findings.add(
                "label", CheckResult.UNKNOWN, "horizon",
                f"The label looks at least {days} ahead, as measured. The number of days is unknown: {horizon.reason}{purged}",
                f"If it looks no further ahead, set label_horizon: {measured}, and label_days, the number of days that its "
                "return spans, in the workflow or among the handler's arguments.", titles,
            )  # fmt: skip
        elif columns.reach > horizon.days:
            source = "declared" if horizon.source is HorizonSource.DECLARED else "by its expression"
            self.findings.leak(
                "label", "horizon",
                f"The label looks at least {days} ahead, not {horizon.days} ({source}): {columns.example}, when only market "
                f"data after {columns.day} change.",
                f"Set label_horizon: {columns.reach} or more, and correct the look-ahead of operators of your own.",
                titles, columns.day or "",
            )  # fmt: skip
        else:
            exactly = columns.reach == horizon.days
            confirmed = "which confirms" if exactly else "which is within"
            self.findings.note(
                "label", titles, columns.day or "",
                f"The label looks at least {days} ahead, {confirmed} its horizon of {counted(horizon.days, 'trading day')} "
                f"({horizon.source}).",
            )  # fmt: skip

    # -- one change ----------------------------------------------------------------------------------------------------

    def _compare(self, change: Change, other: TaskData, models: Sequence[_Fitted]) -> None:
        day, test = change.after, self.case.window.segments.get("test")
        same = True
        if self.data.stages:
            with self._failing_as("features", change):
                same = self._rows_and_features(day, other)
                self._segments(day, other)
            with self._failing_as("processors", change):
                if same:  # otherwise processed data change for that reason
                    self._processors(day, other)
        for fitted in models:
            if day == self.last_read:
                with self._failing_as("model", change):
                    self._refit(fitted, day, other)
            learned = self.last_read is not None and day >= self.last_read  # else processors may learn something else
            if learned and test is not None and test.start <= day < test.end:
                with self._failing_as("predictions", change):
                    self._predictions(fitted, day, other)

    @contextlib.contextmanager
    def _failing_as(self, subject: str, change: Change) -> Iterator[None]:
        try:
            yield
        except Exception as exc:  # noqa: BLE001 - user code on unusual values; the result is then not known
            self.proof.failed(subject, self.case, change, exc)

    def _rows_and_features(self, day: np.datetime64, other: TaskData) -> bool:
        """Compare the raw data; return whether the rows that both have are the same."""
        a, b = (until(data.raw.loc[:, ~_is_label(data.raw)], day) for data in (self.data, other))
        columns = a.shape[1] - len(self.columns.fixed)
        self.findings.note(
            "features", self.titles, day,
            f"{counted(columns, 'column')} of {counted(self.proof.number, 'instrument')} {'is' if columns == 1 else 'are'} the "
            "same up to each day when all later market data change.",
        )  # fmt: skip
        difference = compare(a, b)
        self._common = difference is not None and not difference.column
        if difference is not None and not difference.column:
            self._row(day, difference)
            both = a.index.intersection(b.index)
            difference = compare(a.loc[both], b.loc[both])
        if difference is not None:
            more = f", and {difference.columns - 1} more" if difference.columns > 1 else ""
            ahead = counted(self._distance(day, difference.earliest), "trading day")
            self.findings.leak(
                "features", difference.column,
                f"{difference}{more}, when only market data after {day} change: it looks at least {ahead} ahead.",
                _SHIFT, self.titles, day,
            )  # fmt: skip
        return difference is None

    def _row(self, day: np.datetime64, difference: Difference, who: str = "") -> bool:
        """Report a row that appears or disappears; return whether it only disappears with its label."""
        within = self._distance(day, difference.day) <= self.columns.ahead
        if difference.after is None and within:
            self.findings.add(
                "universe", CheckResult.UNKNOWN, f"rows {who}",
                f"{who or 'The loader'} leaves out days without a label: {difference}, when market data after {day} are "
                "missing. Whether there will be a label is not known on the day itself.",
                "Keep rows without a label for inference; DropnaLabel drops them for learning.", self.titles, day,
            )  # fmt: skip
            return True
        if not who:
            self.findings.leak(
                "universe", "rows",
                f"Members depend on later days: {difference}, when only market data after {day} change.",
                "Check the filters of the universe, and what the loader drops.", self.titles, day,
            )  # fmt: skip
        return False

    def _segments(self, day: np.datetime64, other: TaskData) -> None:
        for border in _borders(self.case, self.calendar):
            if border.day != day or self.columns.fixed_labels:
                continue
            name, later = border.name, border.later
            self.findings.note(
                "label and segments", self.titles, day,
                "The labels of a segment are the same when the market data from the next segment on change.",
            )  # fmt: skip
            learning = self.data.learning_rows(name)
            labels = self.data.raw if learning is None else self.data.raw.loc[self.data.raw.index.isin(learning)]
            found = _changed_labels(until(labels, border.end), other.raw, day, border.start)
            if found is None:
                continue
            rows, difference = found
            days = len(rows.get_level_values("datetime").unique())
            self.findings.leak(
                "label and segments", f"{name} {later}",
                f"The labels of the last {counted(days, 'day')} of {name!r} read market data of {later!r}: {difference}, when "
                f"only market data after {day} change.",
                "trunc_days: auto leaves such days out.", self.titles, day,
            )  # fmt: skip

    # -- processors ----------------------------------------------------------------------------------------------------

    def _processors(self, day: np.datetime64, other: TaskData) -> None:
        """Compare what processors make of the raw data: with what they learned held fixed, and learning again."""
        for stage, last in (("infer", day), ("learn", self._labelled(day, other))):
            if stage not in self.data.stages or last is None:
                continue
            fixed = self.data.chains.get(stage)
            learned = self.last_read is not None and day >= self.last_read
            if fixed or (learned and self.data.has_processors):
                self.findings.note(
                    "processors", self.titles, day,
                    "Processed data are the same up to each day when all later market data change, and so is what the "
                    "processors learn when only days after those of train and valid change.",
                )  # fmt: skip
            if fixed:
                found = self._first_step(stage, last, other, fixed, fixed)
                if found is not None and not found[1].column and self._row(day, found[1], found[0]):
                    self._common = True
                    found = self._first_step(stage, last, other, fixed, fixed)
                if found is not None:
                    name, difference = found
                    ahead = counted(self._distance(day, difference.earliest), "trading day")
                    self.findings.leak(
                        "processors", name,
                        f"{name} looks at least {ahead} ahead: {difference}, when only market data after {day} change.",
                        "Let it compute each row from the row's day and earlier days.", self.titles, day,
                    )  # fmt: skip
                    continue
            if learned:
                self._learned(stage, last, day, other, fixed)

    def _labelled(self, day: np.datetime64, other: TaskData) -> np.datetime64 | None:
        """Return the last day up to which the labels are the same; None if there is none."""
        place = int(np.searchsorted(self.calendar, day)) - self.columns.ahead
        if _is_label(self.data.raw).any():
            found = _changed_labels(self.data.raw, other.raw, day)
            if found is None:
                return day
            first = found[0].get_level_values("datetime").min().to_datetime64().astype("datetime64[D]")
            place = int(np.searchsorted(self.calendar, first)) - 1
        return self.calendar[place] if place >= 0 else None

    def _learned(
        self, stage: str, last: np.datetime64, day: np.datetime64, other: TaskData, fixed: Sequence[Any] | None
    ) -> None:
        difference = self._differ(*(_part(data.frame(stage), stage, last) for data in (self.data, other)))
        if difference is None:
            return
        again = other.chains.get(stage)
        found = self._first_step(stage, last, other, fixed, again) if fixed and again else None
        name, difference = found if found is not None else (type(self.data.handler).__name__, difference)
        self.findings.leak(
            "processors", f"{name} learns",
            f"{name} learns from later days than those of train and valid: {difference}, when only market data after {day} "
            "change.",
            "End its fit window with the train segment: fit_end_time: <dataset.kwargs.segments.train.1>.", self.titles, day,
        )  # fmt: skip

    def _first_step(
        self, stage: str, last: np.datetime64, other: TaskData, own: Sequence[Any], others: Sequence[Any]
    ) -> tuple[str, Difference] | None:
        """Return the first processor after which the data differ up to day `last`, if those of the last one do."""
        *_, (name, frame) = other.processed(others)
        difference = self._differ(_part(self.data.frame(stage), stage, last), _part(frame, stage, last))
        if difference is None:
            return None
        for (step, a), (_, b) in zip(self.data.processed(own), other.processed(others), strict=True):
            found = self._differ(_part(a, stage, last), _part(b, stage, last))
            if found is not None:
                return step, found
        return name, difference

    def _differ(self, a: pd.DataFrame, b: pd.DataFrame) -> Difference | None:
        if self._common:
            both = a.index.intersection(b.index)
            a, b = a.loc[both], b.loc[both]
        return compare(a, b)

    # -- models --------------------------------------------------------------------------------------------------------

    def _models(self) -> Iterator[_Fitted]:
        """Yield the fitted models of which the same data make the same predictions."""
        for title, task in self.proof.fitted(self.case):
            if self.columns.all_fixed:
                self._unknown_model(title, "No data of the model depend on the market data.")
                continue
            resolved = resolve_references(task)
            try:
                fitted = _Fitted(title, resolved, *self._fit(self.data, resolved))
                again = self._fit(self.data, resolved)[1]
            except Exception as exc:  # noqa: BLE001 - few instruments may be too few for the model
                self._unknown_model(title, f"Fitting on {self.proof.number} instruments failed: {describe(exc)}")
                continue
            if compare(fitted.prediction, again) is not None:
                self._unknown_model(
                    title,
                    f"Fitted twice on the same data, {TaskView(task).model_class} predicts differently.",
                    "Set its random seed.",
                )
                continue
            if not self.data.stages and self._fixed(fitted):
                self._unknown_model(title, "The predictions stay the same when all market data change.")
                continue
            if self.last_read is None:
                self.findings.add(
                    "model", CheckResult.UNKNOWN, "no later days",
                    "The labels of train and valid read the last days of the data, so there are no later days that could be "
                    "changed.", "", [title],
                )  # fmt: skip
            yield fitted

    def _fixed(self, fitted: _Fitted) -> bool:
        """Return whether predictions do not depend on the market data."""
        before = self.calendar[0] - np.timedelta64(1, "D")
        with self.proof.changed(Change(before, removes=False), self.case) as other:
            return other is not None and compare(fitted.prediction, predict(fitted.model, other)) is None

    def _fit(self, data: TaskData, task: Mapping[str, Any]) -> tuple[Any, pd.DataFrame]:
        """Return a model fitted on some data, and its prediction of the unchanged data."""
        model = fit_model(data, task, few_rounds=self.proof.scope.quick)
        return model, predict(model, self.data)

    def _unknown_model(self, title: str, text: str, cure: str = "") -> None:
        for subject in ("model", "predictions"):
            self.findings.add(subject, CheckResult.UNKNOWN, text, text, cure, [title])

    def _refit(self, fitted: _Fitted, day: np.datetime64, other: TaskData) -> None:
        """Fit on data that change only after the last day that labels of train and valid read."""
        name = TaskView(fitted.task).model_class
        self.findings.note(
            "model", [fitted.title], day,
            "Fitted again, models predict the same when only market data after the last day that the labels of train and "
            "valid read change.",
        )  # fmt: skip
        difference = compare(fitted.prediction, self._fit(other, fitted.task)[1])
        if difference is not None:
            self.findings.leak(
                "model", name,
                f"{name} depends on days after those of train and valid: {difference}, when it is fitted on market data that "
                f"change only after {day}.",
                "See the leaks above, if there are any; otherwise the model reads other segments.", [fitted.title], day,
            )  # fmt: skip

    def _predictions(self, fitted: _Fitted, day: np.datetime64, other: TaskData) -> None:
        name = TaskView(fitted.task).model_class
        self.findings.note(
            "predictions", [fitted.title], day,
            "With the models held fixed, predictions are the same up to each day when all later market data change.",
        )  # fmt: skip
        difference = self._differ(until(fitted.prediction, day), until(predict(fitted.model, other), day))
        if difference is not None:
            self.findings.leak(
                "predictions", name,
                f"With the fitted {name} held fixed, {difference}, when only market data after {day} change.",
                "See the leaks above, if there are any; otherwise the model compares the days of the test segment.",
                [fitted.title], day,
            )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Fitted:
    """A model, fitted on the unchanged data."""

    title: str
    task: Mapping[str, Any]
    """With references resolved."""
    model: Any
    prediction: pd.DataFrame
    """Of the unchanged data."""


def _part(frame: pd.DataFrame, stage: str, last: np.datetime64) -> pd.DataFrame:
    """Return the rows up to a day; for inference without labels, which may read later days."""
    return until(frame if stage == "learn" else frame.loc[:, ~_is_label(frame)], last)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
