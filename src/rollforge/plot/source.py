"""Inputs of figures: predictions with their labels, and backtests, from everything that a figure accepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import pandas as pd

from rollforge.arguments import whole_number
from rollforge.errors import ConfigError, DataError, DataNotFound, nearest
from rollforge.market.columns import DATE
from rollforge.record.analysis import one_column
from rollforge.record.periods import period_name
from rollforge.session import Session, current_session

if TYPE_CHECKING:
    from rollforge.collect.result import Collected
    from rollforge.report.quality import Quality

__all__ = [
    "Backtested",
    "Drawable",
    "HasCollected",
    "HasGroups",
    "HasHorizons",
    "HasReport",
    "Signal",
    "Table",
    "are_combined",
    "backtest_of",
    "collected_of",
    "paths_of",
    "side_of",
    "signal_of",
]


@runtime_checkable
class HasCollected(Protocol):
    """An object with the joined result of an experiment."""

    @property
    def collected(self) -> Collected:
        """The result."""


@runtime_checkable
class HasGroups(Protocol):
    """A result whose rows belong to groups, or whose entities have other names than those of its prediction."""

    def row_groups(self, groups: pd.Series | None) -> pd.Series | None:
        """Return the group of each row of the prediction: `groups`, or by default those of the result."""


@runtime_checkable
class HasHorizons(Protocol):
    """A result with a model for each of several horizons, or for a single one."""

    @property
    def by_horizon(self) -> Mapping[int, object]:
        """The result of each horizon."""


class HasReport(Protocol):
    """The result of a backtest."""

    @property
    def report(self) -> pd.DataFrame:
        """The daily report."""

    @property
    def positions(self) -> Mapping[Any, Any]:
        """Day -> position."""


Table: TypeAlias = pd.Series | pd.DataFrame
Drawable: TypeAlias = "HasCollected | Collected | Table | str"
"""What has a prediction: a result, a table, or the name of an experiment."""


@dataclass(frozen=True, slots=True)
class Signal:
    """A prediction, with what is known about its label."""

    prediction: pd.Series
    """Index (datetime, instrument)."""
    label: pd.Series | None
    label_text: str = ""
    label_days: int | None = None
    calendar: pd.DatetimeIndex | None = None
    """The trading days; None if they are unknown."""

    @property
    def unit(self) -> str:
        """What a period is called: that of the calendar, or of the prediction's own times."""
        times = self.calendar if self.calendar is not None else self.prediction.index.get_level_values(DATE).unique()
        return period_name(times)

    @property
    def known_label(self) -> pd.Series:
        """The label.

        Raises
        ------
        DataNotFound
            If there is none.
        """
        if self.label is None:
            raise DataNotFound("This figure needs the labels of the prediction: pass them as the second argument.")
        return self.label


@dataclass(frozen=True, slots=True)
class Backtested:
    """The daily report of a backtest, and its positions, if they are known."""

    report: pd.DataFrame
    positions: Mapping[Any, Any] | None


def signal_of(
    result: object, label: object = None, *, label_days: int | None = None, model: str | None = None
) -> Signal:
    """Return the prediction of a result, or of one of its models.

    Raises
    ------
    ConfigError
        If there is no such model, `label_days` is below 1, `label` is given for a result that has labels, or a result has
        several horizons and `model` does not select one.
    DataNotFound
        If the result has no prediction.
    """
    if label_days is not None:
        whole_number(label_days, "label_days", of="days")
    collected = collected_of(result)
    if collected is None:
        if model is not None:
            raise ConfigError("selects a model of an experiment, but the prediction is a table.", path="model")
        truth = None if label is None else one_column(label, "The label", DATE)
        return Signal(one_column(result, "The prediction", DATE), truth, "", label_days)
    if label is not None:
        raise ConfigError("is used with tables of predictions; this result has its own labels.", path="label")
    if model is None and isinstance(result, HasHorizons) and len(result.by_horizon) > 1:
        # Their average is no prediction of anything.
        listed = ", ".join(map(str, result.by_horizon))
        raise ConfigError(
            f"the result has several horizons ({listed}). Draw one of them: result.by_horizon[{next(iter(result.by_horizon))}].",
            path="model",
        )
    if model is None and not are_combined(collected):
        listed = ", ".join(map(repr, collected.model_names))
        raise ConfigError(f"the models have different labels. Draw one of them: {listed}.", path="model")
    chosen: Any = collected
    if model is not None:
        models = {found.name: found for found in collected.models}
        if model not in models:
            known = ", ".join(map(repr, models))
            raise ConfigError(
                f"there is no model {model!r}.{nearest(model, list(models))} Known: {known}.", path="model"
            )
        chosen = models[model]
    if chosen.prediction is None:
        raise DataNotFound("No window is done, so there is nothing to plot.")
    return Signal(
        chosen.prediction.iloc[:, 0],
        None if chosen.label is None else chosen.label.iloc[:, 0],
        chosen.target.expression,
        chosen.target.days if label_days is None else label_days,
        pd.DatetimeIndex(collected.schedule.calendar),
    )


def side_of(given: object) -> tuple[object, str | None]:
    """Return a result and one of its models, or None for all: from a pair, or ``EXPERIMENT:MODEL``.

    Raises
    ------
    ConfigError
        If an experiment has no such model.
    """
    from rollforge.sides import model_names, read_side
    from rollforge.store.base import open_store

    if isinstance(given, tuple) and len(given) == 2:
        result, model = given
        return result, str(model)
    if not isinstance(given, str) or ":" not in given:
        return given, None
    store = open_store(current_session().store_uri)
    side = read_side(given, lambda name: model_names(store, name))
    return side.experiment_name, side.model


def are_combined(collected: Collected) -> bool:
    """Return whether the prediction of a result combines its models, which is so if they have the same label."""
    from rollforge import pipeline

    return pipeline.are_combined(collected)


def collected_of(result: object, *, backtest: bool = False) -> Collected | None:
    """Return the joined result of an experiment, or None for a table.

    Parameters
    ----------
    result : object
        A result, or the name of an experiment in the stores of the current session. Windows that are not done are left
        out.
    backtest : bool
        Whether the prediction of a named experiment is backtested, as its report does.
    """
    from rollforge.collect.result import Collected

    if isinstance(result, (pd.Series, pd.DataFrame)):  # whose columns are attributes, too
        return None
    if isinstance(result, HasCollected):
        return result.collected
    if isinstance(result, Collected):
        return result
    return _experiment(result, current_session(), backtest=backtest) if isinstance(result, str) else None


def paths_of(collected: Collected) -> Mapping[str, Sequence[Quality]]:
    """Return the figures of the backtest paths of each model."""
    from rollforge.report.inputs import report_inputs
    from rollforge.report.summary import summarise

    if not collected.paths:
        return {}
    return summarise(report_inputs(collected, name="", session=current_session(), config="")).paths


def _experiment(name: str, session: Session, *, backtest: bool) -> Collected:
    from rollforge import pipeline

    pipeline.require_pool(session, name)
    session = pipeline.with_training_data(session.with_(experiment_name=name), name)
    collected = pipeline.collect(session, name, allow_gaps=True)
    if not backtest:
        return collected
    return pipeline.with_backtest(collected, session, own_code=pipeline.backtest_is_own(collected))


def backtest_of(result: object, positions: Mapping[Any, object] | None = None) -> Backtested:
    """Return the backtest of a result, or the one that a report and `positions` describe.

    Raises
    ------
    DataNotFound
        If the result has no backtest.
    """
    if isinstance(result, pd.DataFrame):
        return Backtested(result, positions)
    if hasattr(result, "report") and hasattr(result, "positions"):  # the result of a backtest
        return Backtested(result.report, result.positions)
    collected = collected_of(result, backtest=True)
    if collected is None:
        raise DataError(
            "A backtest is drawn from a result, the name of an experiment, or a daily report with the columns return, cost "
            f"and bench; found a {type(result).__name__}."
        )
    if collected.backtest is None:
        notes = [note for note in collected.warnings if "not backtested" in note]
        raise DataNotFound(
            "This result has no backtest. "
            + (" ".join(notes) or "A PortAnaRecord among the records of the tasks makes one; it needs prices.")
        )
    made = collected.backtest.result
    return Backtested(made.report, made.positions)
