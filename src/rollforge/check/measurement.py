"""Building the data of a plan from copies of the market, and recording the findings."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollforge.build import describe, resolve_references
from rollforge.check.cases import Case
from rollforge.check.findings import Findings
from rollforge.check.market_copy import TURNS, Change, choose_instruments, write_copy
from rollforge.check.rebuild import TaskData, restricted, session_on
from rollforge.errors import BuildError, RollforgeError
from rollforge.generate.checks import CheckResult
from rollforge.generate.task_view import TaskView
from rollforge.generate.timeline import Window
from rollforge.market.folder_files import is_text
from rollforge.market.provider import Provider
from rollforge.market.universe import resolve_instruments, session_provider
from rollforge.plan import Plan
from rollforge.session import Session, using
from rollforge.task import digest

__all__ = ["Measurement", "Scope", "model_kind"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Extent of a check."""

    every_window: bool = False
    """Whether all windows are checked; by default the first, the middle and the last of each model."""
    quick: bool = False
    """Whether only one model of each class is fitted, for few rounds, and the data after a day are replaced only once."""
    instruments: int = 20
    """Number of instruments."""

    @property
    def turns(self) -> int:
        """Number of times that the data after a day are replaced."""
        return 1 if self.quick else TURNS


class Measurement:
    """The measured checks of one plan: its windows, copies of the market, and the data built from them."""

    def __init__(self, plan: Plan, scope: Scope, folder: Path, measured: int | None) -> None:
        self.plan = plan
        self.measured = measured
        """The number of days by which the plan's windows were purged because the horizon is unknown."""
        self.scope = scope
        self.folder = folder
        self.findings = Findings()
        session = plan.workflow.session
        self.source: Provider = session_provider(session)
        self.calendar = plan.schedule.calendar
        self.members: Collection[str] | None = None
        """The instruments to which universes are restricted; None means all."""
        self.codes: Collection[str] | None = None
        """The instruments whose data are copied; None means all."""
        self.copies = 0
        self.members_left = False
        """Whether members of universes left in the latest copy."""
        self.durations: list[float] = []
        """Seconds that each build of changed data took."""
        self.repeatable: set[str] = set()
        """Classes of models (:func:`model_kind`) that gave the same prediction when they were fitted twice."""
        self.turn = 0

    # -- what is checked -----------------------------------------------------------------------------------------------

    def cases(self) -> list[Case]:
        """Return the windows to check, those of models with the same data together."""
        by_model: dict[str, list[tuple[Window, Mapping[str, object]]]] = {}
        for window, task in zip(self.plan.windows, self.plan.tasks, strict=True):
            by_model.setdefault(window.model, []).append((window, task))
        cases: dict[str, Case] = {}
        for listed in by_model.values():
            listed.sort(key=lambda one: one[0].index)
            places = range(len(listed)) if self.scope.every_window else {0, len(listed) // 2, len(listed) - 1}
            for place in sorted(places):
                window, definition = listed[place]
                key = digest({"dataset": resolve_references(definition)["dataset"]})
                case = cases.setdefault(key, Case(definition, window))
                case.models.append((window.title, definition))
        return list(cases.values())

    def fitted(self, case: Case) -> list[tuple[str, Mapping[str, object]]]:
        """Return the models of a case that are fitted: with `quick`, one of each class."""
        if not self.scope.quick:
            return case.models
        return list({model_kind(task): (title, task) for title, task in reversed(case.models)}.values())[::-1]

    # -- building ------------------------------------------------------------------------------------------------------

    def restrict(self, cases: Sequence[Case]) -> None:
        """Choose the instruments."""
        session = self.plan.workflow.session
        folders = sorted((self.source.path / "features").iterdir())
        every = [f.name.upper() for f in folders if is_text(f.name) and f.is_dir()]
        with using(session):
            members = _members(self.source, TaskData(cases[0].task, session).handler, every)
        spans = [(s.start, s.end) for case in cases for s in case.window.segments.values()]
        self.members = choose_instruments(self.source, members, spans, self.scope.instruments)
        listed = {code for name in self.source.markets() if name != "all" for code in self.source.instruments(name)}
        # Code may read instruments that are not members, such as indexes; an expression may name any instrument.
        others = [code for code in every if code not in set(members) and code not in listed][:_OTHERS]
        words = set(re.findall(r"[^\s'\"()\[\],:]+", (repr([c.task for c in cases]) + self.plan.workflow.text).upper()))
        self.codes = {*self.members, *others, *(code for code in every if code in words)}

    @contextlib.contextmanager
    def copy(self, change: Change | None) -> Iterator[Session]:
        """Provide the session of a copy of the market, which is removed afterwards."""
        self.copies += 1
        folder = self.folder / str(self.copies)
        try:
            self.members_left = write_copy(self.source, folder / "data", change, self.members, self.codes)
            yield session_on(self.plan.workflow.session, folder, folder / "data")
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def data(self, task: Mapping[str, object], session: Session) -> TaskData:
        """Return the data of a task, built from a copy."""
        data = TaskData(task if self.members is None else restricted(task, self.members), session)
        for stage in data.stages[:1]:
            data.frame(stage)
        return data

    def original(self, task: Mapping[str, object], session: Session) -> TaskData:
        try:
            return self.data(task, session)
        except RollforgeError:
            raise
        except Exception as exc:
            raise BuildError(f"cannot be built: {describe(exc)}", path="task.dataset") from exc

    def first(self, case: Case, held: contextlib.ExitStack) -> tuple[Session, TaskData]:
        """Return the session of an unchanged copy, and the data of a case built from it.

        Code may read instruments that were not chosen, and filters may remove all that were. The copy then has the data
        of all instruments; if that does not help, universes are not restricted either.
        """
        for codes, members in ((self.codes, self.members), (None, self.members)):
            self.codes, self.members = codes, members
            session = held.enter_context(self.copy(None))
            with contextlib.suppress(Exception):
                return session, self.original(case.task, session)
        self.codes = self.members = None
        session = held.enter_context(self.copy(None))
        return session, self.original(case.task, session)

    @property
    def number(self) -> int:
        """Number of instruments."""
        return sum(1 for _ in (self.source.path / "features").iterdir()) if self.members is None else len(self.members)

    @contextlib.contextmanager
    def changed(self, change: Change, case: Case) -> Iterator[TaskData | None]:
        """Provide the data of a case, built after a change; None if that fails, which is recorded."""
        began = time.perf_counter()
        with self.copy(change) as session:
            try:
                made = self.data(case.task, session)
                self.durations.append(time.perf_counter() - began)
            except Exception as exc:  # noqa: BLE001 - user code on unusual values; the result is then not known
                self.failed("features", case, change, exc)
                made = None
            yield made

    def failed(self, subject: str, case: Case, change: Change, exc: Exception) -> None:
        """Record that something could not be computed on changed data."""
        log.debug("a check failed", exc_info=exc)
        self.findings.add(
            subject, CheckResult.UNKNOWN, f"failed {describe(exc)}",
            f"With market data replaced after {change.after}, building failed: {describe(exc)}", "",
            case.titles, change.after,
        )  # fmt: skip


def model_kind(task: Mapping[str, object]) -> str:
    """Return a text that is equal for models of the same class; classes of several modules may have the same name."""
    view = TaskView(task)
    return f"{view.model_class} of {'' if view.model is None else view.model.get('module_path')}"


_OTHERS = 50  # instruments outside of the universe


def _members(source: Provider, handler: Any, every: Sequence[str]) -> list[str]:
    """Return the instruments that a handler loads; all if it does not specify them."""
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
