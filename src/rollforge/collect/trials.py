"""All variants ever tried in an experiment, and how much of the best result is due to choosing it.

A variant is a definition without its windows and records. It counts as a trial once any of its tasks has produced a
result, because from then on it could have been chosen, even if the result has since been deleted or belongs to an
earlier submission. A variant that failed everywhere, or was not trained, could not have been chosen. Variants that
differ only in their seeds are distinct, because the best seed could have been chosen.

Each variant has one series of returns: highest minus lowest quintile of its joined prediction, per day of holding, on
days whose labels do not overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rollforge.errors import DataError, RollforgeError, TaskNotSerializable, counted
from rollforge.generate.naming import model_names, trial_of
from rollforge.record.overfitting import DeflatedSharpe, Overfitting, backtest_overfitting, deflated_sharpe
from rollforge.record.periods import YEAR, periods_per_year
from rollforge.task import Status

if TYPE_CHECKING:
    import pandas as pd

    from rollforge.collect.outcomes import TaskOutcome
    from rollforge.collect.result import Collected, ModelResult
    from rollforge.task import TaskRecord

__all__ = ["Trials", "make_trials"]

QUANTILES = 5
_COVERED = 0.9
_GROUPS = 16


@dataclass(frozen=True, slots=True)
class Trials:
    """The variants tried in an experiment."""

    tried: int
    """Number of distinct variants that ever produced a result, whether or not it still exists."""
    returns: pd.DataFrame
    """One column per variant that has a result; one row per observation, which do not overlap."""
    days: int | None
    """Days of holding of one observation, or other periods of the calendar; None if unknown."""
    deflated: DeflatedSharpe | None = None
    overfitting: Overfitting | None = None
    notes: tuple[str, ...] = ()
    """One sentence for each figure that is undefined, and for the variants that are left out or not counted, with the
    reason."""

    per_year: float = YEAR
    """Number of these days or periods in a year."""

    @property
    def overlapping(self) -> bool:
        """Whether the labels of neighbouring days overlap, so that only some of the days are observations."""
        return self.days is not None and self.days > 1

    @property
    def periods(self) -> float:
        """Observations per year."""
        return float("nan") if self.days is None else self.per_year / self.days

    def sharpes(self) -> pd.Series:
        """Return the Sharpe ratio of each variant, per year, of observations that do not overlap."""
        ratios: pd.Series = self.returns.mean() / self.returns.std() * self.periods**0.5
        return ratios


def make_trials(
    collected: Collected,
    tasks: Sequence[TaskRecord],
    others: Sequence[TaskOutcome],
    collect: Callable[[Sequence[TaskOutcome]], Collected],
    recorded: Collection[str] = (),
) -> Trials | None:
    """Return the variants of an experiment; None if only one produced a result, so that there was no choice.

    Parameters
    ----------
    collected : Collected
        The result.
    tasks : sequence of TaskRecord
        All tasks of the experiment, including those of earlier submissions.
    others : sequence of TaskOutcome
        The tasks of the experiment that are not in the result.
    collect : callable
        Collects some of `others`, with gaps.
    recorded : collection of str
        Variants (:func:`~rollforge.generate.naming.trial_of`) of finished runs, whose tasks may have been removed or
        may be training again.
    """
    try:
        definitions = [task.definition for task in tasks]
        names: dict[str, str] = {}
        for definition, name in zip(definitions, model_names(definitions, [t.model_name for t in tasks]), strict=True):
            names.setdefault(trial_of(definition), name)
        ran = {trial_of(task.definition) for task in tasks if task.status is Status.DONE} | set(recorded)
        own = {outcome.model: trial_of(outcome.task.definition) for outcome in reversed(collected.outcomes)}
        missing: dict[str, list[TaskOutcome]] = {}
        for outcome in others:
            if (trial := trial_of(outcome.task.definition)) not in own.values():
                missing.setdefault(trial, []).append(outcome)
    except TaskNotSerializable:  # tasks with live objects are never stored
        return None
    if len(ran) < 2:
        return None
    results: dict[str, ModelResult] = {}
    for model in collected.models:
        results.setdefault(own[model.name], model)
    notes: list[str] = []
    for trial, outcomes in missing.items():
        if trial not in ran:
            continue
        try:
            found = collect(outcomes)
        except RollforgeError as exc:  # an unreadable earlier submission must not prevent the report
            notes.append(f"The variant {names[trial]!r} is left out: {exc}")
            continue
        results[trial] = next((m for m in found.models if m.prediction is not None), found.models[0])
    current = {own[model.name] for model in collected.models}
    notes += _counting_notes(definitions, ran)
    return _evaluated(collected, results, current, names, len(ran), notes)


def _counting_notes(definitions: Sequence[Mapping[str, object]], ran: Collection[str]) -> list[str]:
    """Explain the number of trials where it is not obvious: seeds, and variants without a result."""
    known = {trial_of(definition): definition for definition in definitions}
    own = {trial: definition for trial, definition in known.items() if trial in ran}
    apart = len({trial_of(_without_seeds(definition)) for definition in own.values()})
    notes = []
    if apart < len(own):
        are = "only differ in their seeds" if apart == 1 else f"are {apart} apart from their seeds"
        notes.append(
            f"{counted(len(own), 'variant')} {are}. Each seed counts as a trial, because the best one could have been chosen."
        )
    idle = len(known) - len(own)
    if idle:
        notes.append(
            f"{counted(idle, 'variant')} {'does' if idle == 1 else 'do'} not count as {'a trial' if idle == 1 else 'trials'}: "
            "failed or not trained in all windows, so there was no result to choose."
        )
    return notes


def _evaluated(
    collected: Collected,
    results: Mapping[str, ModelResult],
    current: set[str],
    names: Mapping[str, str],
    tried: int,
    notes: list[str],
) -> Trials:
    import pandas as pd

    days = collected.target.days
    columns: dict[str, pd.Series] = {}
    shown: dict[str, str] = {}
    for trial, model in results.items():
        series = _returns(model, collected)
        if series is None or not len(series):
            continue
        columns[names[trial]], shown[trial] = series, names[trial]
    if len(columns) < tried:
        without = tried - len(columns)
        notes.append(
            f"{counted(without, 'variant')} of {tried} {'has' if without == 1 else 'have'} no returns any more, because tasks, "
            f"runs or predictions are missing, but {'counts as a trial' if without == 1 else 'count as trials'}."
        )
    returns = pd.DataFrame(columns).sort_index()
    per_year = periods_per_year(collected.schedule.calendar)
    if days is None:
        notes.append(
            "The deflated Sharpe ratio and the probability of overfitting need the number of days that the label spans. "
            "Set label_days."
        )
        return Trials(tried, returns, None, notes=tuple(notes), per_year=per_year)
    returns = returns.iloc[::days] / days
    deflated = overfitting = None
    try:
        deflated = deflated_sharpe(returns, tried)
    except DataError as exc:
        notes.append(_sentence(exc))
    shared, left_out = _comparable(returns, [shown[trial] for trial in current if trial in shown])
    if left_out:
        notes.append(
            f"The probability of overfitting is computed without {', '.join(map(repr, left_out))}, which "
            f"{'lacks' if len(left_out) == 1 else 'lack'} more than a tenth of the days."
        )
    try:
        overfitting = backtest_overfitting(shared, _GROUPS)
    except DataError as exc:
        notes.append(_sentence(exc))
    return Trials(tried, returns, days, deflated, overfitting, tuple(notes), per_year)


def _sentence(exc: DataError) -> str:
    """Return the message of an error, which says what a figure needs."""
    said = str(exc)
    return said[:1].upper() + said[1:]


_SEEDS = ("seed", "random_state")


def _without_seeds(definition: Mapping[str, object]) -> dict[str, object]:
    """Return a definition without the seeds of its model, which are recognised by the names of arguments."""

    def cleaned(node: object) -> object:
        if isinstance(node, Mapping):
            return {k: cleaned(v) for k, v in node.items() if not str(k).endswith(_SEEDS)}
        return [cleaned(v) for v in node] if isinstance(node, (list, tuple)) else node

    return {**definition, "model": cleaned(definition.get("model"))}


def _returns(model: ModelResult, collected: Collected) -> pd.Series | None:
    """Return the daily long-short return of a variant, by its own label if that is of the same kind as the result's."""
    from rollforge.record.analysis import quantile_returns

    label = model.label if model.label is not None and model.target == collected.target else collected.label
    if model.prediction is None or label is None:
        return None
    returns = quantile_returns(model.prediction.iloc[:, 0], label.iloc[:, 0], QUANTILES)
    spread: pd.Series = (returns[QUANTILES] - returns[1]).dropna()
    return spread


def _comparable(returns: pd.DataFrame, current: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Return the variants that cover most of the days of the current result, and the names of the others."""
    known = returns[list(current)].notna().any(axis=1) if current else returns.notna().any(axis=1)
    rows = returns[known.to_numpy()]
    kept = [name for name in rows if rows[name].notna().mean() >= _COVERED]
    return rows[kept], [str(name) for name in rows if name not in kept]
