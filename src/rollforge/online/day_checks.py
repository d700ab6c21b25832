"""The checks of a day: whether it has prices, and those in the rules of the service."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import zip_longest

import numpy as np

from rollforge.dates import read_day
from rollforge.errors import DataNotFound, DayFailed
from rollforge.generate.task_view import TaskView
from rollforge.ledger.entry import CheckResult, Outcome
from rollforge.ledger.state import ServiceState
from rollforge.market.universe import resolve_instruments, session_provider
from rollforge.online import signal_files
from rollforge.online.check_rules import DATA_CHECKS, SCORE_CHECKS, Rules, described
from rollforge.online.data_checks import check_data, day_mark, first_days, read_recent
from rollforge.online.data_marks import mark_then, service_frequencies, with_others
from rollforge.online.score_checks import drift_and_ic, equal_scores
from rollforge.online.service import Service, recorder_of

__all__ = ["DayChecks"]

log = logging.getLogger(__name__)


class DayChecks:
    """The checks of one day, and their results.

    Parameters
    ----------
    service : Service
        The service.
    known : ServiceState
        Its state before the day.
    rules : Rules
        The checks to run.
    day : str
        The day.
    """

    def __init__(self, service: Service, known: ServiceState, rules: Rules, day: str) -> None:
        self.service, self.known, self.rules, self.day = service, known, rules, day
        self.results: list[CheckResult] = []
        self.mark = ""
        """Fingerprint of the data of the day; empty if they were not read."""

    def prices(self) -> None:
        """Raise an error if no instrument has a price on the day.

        Raises
        ------
        DayFailed
            If no instrument of a universe has one.
        """
        try:
            provider = session_provider()
        except DataNotFound:  # strategies with their own data
            return
        place = int(np.searchsorted(provider.calendar(self.service.freq), read_day(self.day)))
        if "close" not in provider.fields():
            return
        for universe in _universes(self.service, self.known, self.day):
            codes = list(resolve_instruments(provider, universe)[0])
            block = provider.read("close", codes, place, place + 1, self.service.freq)
            if not np.isfinite(block.values).any():
                raise DayFailed(
                    f"No instrument of {universe!r} has a price on {self.day}. Add the day's data, or remove the day from "
                    "the calendar, and run the routine again."
                )

    def data(self) -> None:
        """Check the data of the day and of the days before it.

        Raises
        ------
        DayFailed
            If a check fails.
        """
        if not self.rules.checks.keys() & DATA_CHECKS.keys():
            return
        try:
            provider = session_provider()
        except DataNotFound:  # strategies with their own data
            return
        recent = read_recent(provider, self.day, _universes(self.service, self.known, self.day))
        if recent is not None:
            mark = day_mark(recent, provider)
            self.mark = with_others(mark, self.day, service_frequencies(self.service)) if mark else ""
            self._take(check_data(recent, self.rules, self.known, mark_then, first_days(provider)))

    def scores(self, rows: signal_files.Signals) -> None:
        """Check the scores of the day, and those of earlier days whose labels have become known.

        Raises
        ------
        DayFailed
            If a check fails, or one that can fail a day cannot be computed, and the rules say that such a day is not
            published.
        """
        rules, service = self.rules, self.service
        if not rules.checks.keys() & SCORE_CHECKS.keys():
            return
        champions = [recorder_of(release) for release in service.state().champions(self.day)]
        calendar = session_provider(freq=service.freq).calendar(service.freq)
        found = equal_scores(rules, self.day, rows)
        found += drift_and_ic(rules, self.day, champions, self.known, service.place, calendar)
        self._take(found, block=rules.block)

    def _take(self, found: Sequence[CheckResult], *, block: bool = True) -> None:
        """Add the results of checks to the entry of the day; with `block`, raise an error if one has failed."""
        self.results += found
        for check in found:
            if check.outcome is not Outcome.OK:
                log.warning("service %s: %s: %s", self.service.name, self.day, described(check))
        failed = [check for check in found if self.rules.failed(check)]
        if failed and block:
            raise DayFailed("; ".join(described(check) for check in failed))


def _universes(service: Service, known: ServiceState, day: str) -> list[object]:
    """Return the universes of the service's templates, without that of a challenger while it is not the champion."""
    challenger = service.challenger
    left_out = (
        (challenger.strategy, challenger.name)
        if challenger is not None and not challenger.is_promoted(known, day)
        else None
    )
    found: list[object] = []
    for strategy in service.strategies:
        templates = getattr(strategy, "task_template", [])
        for template, key in zip_longest(templates, strategy.template_keys()):
            if (strategy.experiment_name, key) == left_out:
                continue
            universe = (TaskView(template).handler_kwargs or {}).get("instruments")
            if universe is not None and universe not in found:
                found.append(universe)
    return found
