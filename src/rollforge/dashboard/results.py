"""Results of experiments as far as they are finished: the summary of the report, and comparisons."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from rollforge.dashboard.pools import PoolReader
from rollforge.dashboard.runs import RunReader
from rollforge.drivers import STORES
from rollforge.errors import ConfigError
from rollforge.session import Session
from rollforge.task import Status
from rollforge.track.tracker import local_path

if TYPE_CHECKING:
    from rollforge.report.summary import Summary
    from rollforge.sides import ComparedSides, Side, Source

__all__ = ["ResultReader"]

_KEPT = 8
"""Number of summaries, of comparisons, and of lists of models that are kept in memory."""
_Value = TypeVar("_Value")


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
        self._summaries: dict[object, tuple[object, Summary]] = {}
        self._comparisons: dict[object, tuple[object, ComparedSides]] = {}
        self._models: dict[object, tuple[object, list[str] | None]] = {}

    def summary(self, pool: str) -> Summary:
        """Return the numbers of the report of an experiment; they are computed again when more tasks are done.

        As in ``rollforge report``, code of others is not run: a strategy or an ensemble that is not Rollforge's runs only if
        it is this user's own or was allowed.
        """
        return self._kept(self._summaries, pool, self._mark(pool), lambda: self._summary(pool))

    def models(self, pool: str) -> list[str] | None:
        """Return the names of the models of an experiment; None if there is no such experiment."""
        from rollforge.sides import model_names

        number = sum(self._pools.counts(pool).values())
        return self._kept(self._models, pool, number, lambda: model_names(self._pools.store, pool))

    def compared(self, sides: Sequence[Side]) -> ComparedSides:
        """Return the comparison of experiments and models; it is computed again when more tasks are done.

        Raises
        ------
        ConfigError
            If there are fewer than two results, or an experiment has no such model.
        """
        from rollforge.sides import compare_sides

        marks = [self._mark(pool) for pool in dict.fromkeys(side.experiment_name for side in sides)]
        return self._kept(self._comparisons, tuple(sides), marks, lambda: compare_sides(sides, self._source))

    def _mark(self, pool: str) -> object:
        counts = self._pools.counts(pool)
        return sorted((status.value, n) for status, n in counts.items() if status is not Status.RUNNING)

    def _kept(
        self, kept: dict[object, tuple[object, _Value]], key: object, mark: object, compute: Callable[[], _Value]
    ) -> _Value:
        """Return what was computed for a key, or compute it if there is nothing yet or the mark has changed."""
        with self._lock:
            found = kept.pop(key, None)
            kept[key] = found if found is not None and found[0] == mark else (mark, compute())
            while len(kept) > _KEPT:
                del kept[next(iter(kept))]
            return kept[key][1]

    def _source(self, pool: str) -> Source:
        from rollforge.sides import Source

        uri = self._runs.tracking_uri(pool)
        place = local_path(uri)
        if place is not None and not place.exists():  # opening it would create it
            raise ConfigError(f"There is no tracking store at {place}. Give another one with --tracking.")
        store_uri = STORES.private_address(self._pools.store)
        return Source.read(Session().with_(store_uri=store_uri, tracking_uri=uri, experiment_name=pool), pool)

    def _summary(self, pool: str) -> Summary:
        from rollforge.pipeline import summary_of

        source = self._source(pool)
        collected = source.backtested(source.collected)
        return summary_of(
            collected,
            name=pool,
            session=source.session,
            config=collected.template_text(),
            parts=source.parts(collected),
        )
