"""The routine of a service: every due day, oldest first, becomes one more entry of its ledger.

Missed days are due days like any others, so catching up, simulating the past and serving day by day are the same loop. A
process can be killed at any point: the next one finds the same entries and the trained models, and repeats the day.
"""

from __future__ import annotations

from collections.abc import Sequence

from rollforge.dates import DayLike
from rollforge.ledger.entry import DayResult
from rollforge.online.day import DayRun, Options, begin, run_day
from rollforge.online.service import Hold, Service
from rollforge.online.strategy import OnlineStrategy

__all__ = ["catch_up", "first_train"]


def first_train(
    service: Service, options: Options | None = None, strategies: Sequence[OnlineStrategy] | None = None
) -> None:
    """Train the first tasks of strategies with the data up to the service's first day, and release their models.

    Strategies that have already released models are skipped. Those that are added later begin on the last published day.

    Raises
    ------
    ServiceBusy
        If another process holds the lease of the service.
    TrainingFailed
        If a task fails.
    """
    options = options or Options(adopt=False)
    with service.hold() as held:
        begin(service, held, options, _first_day(service, held), strategies or service.strategies)


def _first_day(service: Service, held: Hold) -> str:
    """Return the last trading day whose data the first training may use.

    It is the last published day or, before there is one, the first day of the service. If that is not a trading day, no data
    are added to those of the trading day before it.
    """
    if held.state.last_published is not None:
        return held.state.last_published
    begin = str(service.begin_day.date())
    return max(service.calendar_days(until=begin), default=begin)


def catch_up(service: Service, until: DayLike | None = None, options: Options | None = None) -> list[DayResult]:
    """Run the routine of every due day, oldest first, and return the results.

    A day is due from the service's first day on, if it is not published. A day on which nothing can be published (no
    instrument has data) is recorded as failed and remains due; the following days are still run.

    Parameters
    ----------
    service : Service
        The service.
    until : date, optional
        The last day; by default the last of the calendar. Later data are not used.
    options : Options, optional
        Arguments for its parts.

    Raises
    ------
    ServiceBusy
        If another process holds the lease of the service.
    TrainingFailed
        If a task fails, and there is no earlier model or `options` do not allow using it. The day is recorded as failed.
    """
    options = options or Options()
    results = []
    with service.hold() as held:
        begun = {r.strategy for _, r in held.state.releases}
        missing = [s for s in service.strategies if s.experiment_name not in begun]
        days = service.calendar_days(service.begin_day, until)
        if missing and (begun or (days and not held.state.days)):  # before the first day, nothing is due
            begin(service, held, options, _first_day(service, held), missing)
        for day in held.state.due(days):
            if options.stop():
                break
            results.append(run_day(service, held, options, day))
            options.report()
        DayRun(service, held, options, "").mirror()
    return results
