"""Results of experiments as far as they are finished: the summary of the report, and comparisons."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rollforge.dashboard.pools import PoolReader
from rollforge.dashboard.runs import RunReader
from rollforge.drivers import STORES
from rollforge.errors import ConfigError
from rollforge.session import Session
from rollforge.task import Status
from rollforge.track.tracker import local_path

if TYPE_CHECKING:
    import pandas as pd

    from rollforge.report.compare import Compared, Comparison
    from rollforge.report.summary import Summary

__all__ = ["ComparedResults", "ResultReader"]

_KEPT = 8
"""Number of summaries that are kept in memory."""


@dataclass(frozen=True, slots=True)
class ComparedResults:
    """A comparison of experiments, or of the models of one."""

    comparison: Comparison
    definitions: pd.DataFrame
    """The values by which their definitions differ, of the first task of each."""


class ResultReader:
    """Collects the finished tasks of experiments. Threads can share it; results are computed one at a time.

    Parameters
    ----------
    pools : PoolReader
        Reads the task store.
    runs : RunReader
        Knows the tracking stores.
    """

    def __init__(self, pools: PoolReader, runs: RunReader) -> None:
        self._pools = pools
        self._runs = runs
        self._lock = threading.Lock()
        self._known: dict[str, tuple[object, Summary]] = {}

    def summary(self, pool: str) -> Summary:
        """Return the numbers of the report of an experiment; they are computed again when more tasks are done.

        As in ``rollforge report``, code of others is not run: a strategy or an ensemble that is not Rollforge's runs only if
        it is this user's own or was allowed.
        """
        mark = sorted(
            (status.value, n) for status, n in self._pools.counts(pool).items() if status is not Status.RUNNING
        )
        with self._lock:
            found = self._known.get(pool)
            if found is None or found[0] != mark:
                self._known.pop(pool, None)
                found = self._known[pool] = mark, self._computed(pool)
                while len(self._known) > _KEPT:
                    del self._known[next(iter(self._known))]
            return found[1]

    def _computed(self, pool: str) -> Summary:
        from rollforge import pipeline
        from rollforge.report.inputs import report_inputs
        from rollforge.report.summary import summarise

        uri = self._runs.tracking_uri(pool)
        place = local_path(uri)
        if place is not None and not place.exists():  # opening it would create it
            raise ConfigError(f"There is no tracking store at {place}. Give another one with --tracking.")
        store_uri = STORES.private_address(self._pools.store)
        session = Session().with_(store_uri=store_uri, tracking_uri=uri, experiment_name=pool)
        session = pipeline.with_training_data(session, pool)
        collected = pipeline.collect(session, pool, allow_gaps=True)
        collected = pipeline.with_backtest(collected, session, own_code=pipeline.backtest_is_own(collected))
        parts = pipeline.by_label(collected, session, pool)
        config = collected.template_text()
        if not parts:
            return summarise(report_inputs(collected, name=pool, session=session, config=config))
        found = {
            title: summarise(report_inputs(part, name=pool, session=session, config=config))
            for title, part in parts.items()
        }
        combined = any(part is collected for part in parts.values())
        return replace(next(iter(found.values())), parts=found, combined=combined)

    def compared(self, names: Sequence[str]) -> ComparedResults:
        """Return the comparison of several experiments, or of the models of a single one.

        Parameters
        ----------
        names : sequence of str
            The experiments; differences are from the first.

        Raises
        ------
        ConfigError
            If there is only one experiment, and it has only one model.
        """
        from rollforge.report.compare import Compared, compare, compared, definition_differences

        found: list[Compared]
        if len(names) > 1:
            found = [compared(self.summary(name), name) for name in names]
            examples = {name: self._definition(name) for name in names}
        else:
            summary = self.summary(names[0])
            found = [Compared(name=model.name, quality=model, per_year=model.per_year) for model in summary.models]
            examples = {model.name: self._definition(names[0], model.name) for model in summary.models}
        if len(found) < 2:
            raise ConfigError(
                f"The experiment {names[0]!r} has only one model. Choose another experiment to compare it with."
            )
        return ComparedResults(compare(found), definition_differences(examples))

    def _definition(self, pool: str, model: str | None = None) -> Mapping[str, object]:
        """Return the definition of the first task of an experiment, or of one of its models."""
        tasks = self._pools.snapshot(pool).tasks
        first = next((task for task in tasks if model is None or task.model == model), tasks[0] if tasks else None)
        return {} if first is None else self._pools.task(pool, first.id).definition
