"""Comparison of results: of models with their ensemble, and of experiments.

Every difference is computed on the days that both results have, so that what moves both of them cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from rollforge.confidential import mask_secrets
from rollforge.dates import show_time, times_of
from rollforge.errors import ConfigError, shown
from rollforge.record.analysis import mean_to_std, newey_west_t, risk_analysis
from rollforge.record.periods import YEAR, backtest_periods
from rollforge.record.persistence import bootstrap_interval
from rollforge.report.quality import Quality

if TYPE_CHECKING:
    from rollforge.report.summary import Summary

__all__ = ["Compared", "Comparison", "Difference", "compare", "compared", "definition_differences", "paired_difference"]


class Difference(NamedTuple):
    """The mean difference between two daily series."""

    days: int
    """Number of days on which both have a value."""
    difference: float
    low: float
    high: float
    """Ends of the 95 % interval of the mean difference; NaN if the days of the label are unknown, or there are too few."""
    t: float
    """t statistic of the mean difference, see :func:`~rollforge.record.analysis.newey_west_t`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A result in a comparison."""

    name: str
    quality: Quality | None
    """None if prediction and label can be compared on no day."""
    net: pd.Series | None = None
    """Daily returns of the backtest after costs; None without a backtest."""
    per_year: float = YEAR
    """Number of days, or of the calendar's other periods, in a year."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Figures of several results, and their differences from the first, the reference."""

    results: tuple[Compared, ...]
    figures: pd.DataFrame
    """Index: names. Columns: days, first, last (days with an IC, as text), IC, ICIR, t, Rank IC, Rank ICIR, Return (annual,
    highest minus lowest quintile, before costs), Sharpe (of that return, per year), Net return, Net IR and Drawdown (of
    the backtest, after costs). NaN if a result has no such figure."""
    differences: pd.DataFrame
    """Index: (name, figure) of all results but the first, with the figures IC, Rank IC, Return and Net return (both
    annual). Columns: those of :class:`Difference`; a positive difference means that the result is higher than the
    reference."""
    notes: tuple[str, ...] = ()
    """What cannot be compared and why: one sentence each."""

    def difference(self, name: str, figure: str = "IC") -> Difference | None:
        """Return the difference of a result from the first; None if there is none."""
        row = self.differences.loc[self.differences.index == (name, figure)]
        return Difference(*next(row.itertuples(index=False, name=None))) if len(row) else None


def paired_difference(values: pd.Series, reference: pd.Series, days: int | None, *, scale: float = 1.0) -> Difference:
    """Return the mean difference between two daily series on their common days.

    Parameters
    ----------
    values, reference : Series
        By day. The reference is subtracted.
    days : int or None
        Number of days that one value spans, by which the interval takes overlap into account; None if unknown.
    scale : float
        Factor of the difference and its interval, such as the days in a year.

    Returns
    -------
    Difference
        The ends are those of :func:`~rollforge.record.persistence.bootstrap_interval`.

    Examples
    --------
    >>> days = pd.date_range("2024-01-01", periods=3)
    >>> paired_difference(pd.Series([3.0, 5.0], days[:2]), pd.Series([1.0, 3.0, 9.0], days), 1)[:4]
    (2, 2.0, 2.0, 2.0)
    """
    both = pd.concat([values, reference], axis=1, join="inner", keys=["values", "reference"]).dropna().sort_index()
    difference: pd.Series = both["values"] - both["reference"]
    if days is None:
        low = high = t = float("nan")
    else:
        low, high = bootstrap_interval(difference, days)
        t = newey_west_t(difference, days)
    mean = float(difference.mean()) if len(difference) else float("nan")
    return Difference(len(difference), mean * scale, low * scale, high * scale, t)


def compare(results: Sequence[Compared], own: Mapping[str, Quality] | None = None) -> Comparison:
    """Return the figures of several results, and the differences between each and the first.

    Parameters
    ----------
    results : sequence of Compared
        The results; the first is the reference. Their signals can be compared if they have the same label.
    own : mapping, optional
        Name -> quality with the result's own label, for the figures; by default that of the result. With it, results
        that predict different labels can be compared with one of them.

    Raises
    ------
    ConfigError
        If there is no result, or two have the same name.
    """
    names = [one.name for one in results]
    if not results:
        raise ConfigError("There is nothing to compare.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"Two results are called {shown(twice)}: each needs a name of its own.")
    reference, *others = results
    notes: list[str] = []
    rows: dict[tuple[str, str], Difference] = {}
    for one in others:
        found, said = _differences(one, reference)
        notes += said
        rows |= {(one.name, figure): difference for figure, difference in found.items()}
    index = pd.MultiIndex.from_tuples(list(rows), names=["name", "figure"]) if rows else _NO_ROWS
    return Comparison(
        results=tuple(results),
        figures=pd.DataFrame.from_dict(
            {one.name: _figures(one, (own or {}).get(one.name, one.quality)) for one in results}, orient="index"
        ),
        differences=pd.DataFrame(list(rows.values()), index, list(Difference._fields)),
        notes=tuple(notes),
    )


_NO_ROWS = pd.MultiIndex.from_arrays([[], []], names=["name", "figure"])


def _figures(one: Compared, quality: Quality | None) -> dict[str, object]:
    figures: dict[str, object] = {"days": 0, "first": "", "last": ""}
    figures |= dict.fromkeys(("IC", "ICIR", "t", "Rank IC", "Rank ICIR", "Return", "Sharpe"), np.nan)
    if quality is not None and len(quality.ic):
        days = times_of(quality.ic.index)
        figures |= {
            "days": len(quality.ic), "first": show_time(days[0]), "last": show_time(days[-1]),
            "IC": float(quality.ic.mean()), "ICIR": mean_to_std(quality.ic), "t": quality.ic_t,
            "Rank IC": float(quality.rank_ic.mean()), "Rank ICIR": mean_to_std(quality.rank_ic),
            "Return": quality.annual(quality.long_short), "Sharpe": quality.sharpe(quality.long_short),
        }  # fmt: skip
    figures |= dict.fromkeys(("Net return", "Net IR", "Drawdown"), np.nan)
    if one.net is not None and len(one.net):
        risk = risk_analysis(one.net, backtest_periods(one.per_year))["risk"]
        figures |= {
            "Net return": float(risk["annualized_return"]), "Net IR": float(risk["information_ratio"]),
            "Drawdown": float(risk["max_drawdown"]),
        }  # fmt: skip
    return figures


def _differences(one: Compared, reference: Compared) -> tuple[dict[str, Difference], list[str]]:
    """Return the differences that can be computed, and sentences on those that cannot."""
    left, right = one.quality, reference.quality
    found: dict[str, Difference] = {}
    notes = []
    if left is not None and right is not None and len(left.ic) and len(right.ic):
        problem = _label_problem(one.name, left, reference.name, right)
        if problem:
            notes.append(problem)
        else:
            days = right.label_days
            found["IC"] = paired_difference(left.ic, right.ic, days)
            found["Rank IC"] = paired_difference(left.rank_ic, right.rank_ic, days)
            if days is not None and len(left.long_short) and len(right.long_short):
                yearly = right.per_year / days
                found["Return"] = paired_difference(left.long_short, right.long_short, days, scale=yearly)
    if one.net is not None and reference.net is not None and one.per_year == reference.per_year:
        yearly = backtest_periods(one.per_year)
        found["Net return"] = paired_difference(one.net, reference.net, 1, scale=yearly)
    for figure in [figure for figure, difference in found.items() if not difference.days]:
        notes.append(f"{one.name} and {reference.name} have no common days with the figure {figure}.")
        del found[figure]
    return found, notes


def _label_problem(name: str, left: Quality, other: str, right: Quality) -> str:
    """Return why the signals of two results cannot be compared; empty if they can."""
    if left.per_year != right.per_year:
        return f"The signals of {name} and {other} cannot be compared: their data have different frequencies."
    if (left.label_text, left.label_days) == (right.label_text, right.label_days):
        return ""
    label, its = (_label(quality) for quality in (left, right))
    return (
        f"The signals of {name} and {other} cannot be compared: the label of {name} is {label}, that of {other} {its}."
    )


def _label(quality: Quality) -> str:
    text = mask_secrets(quality.label_text) or "unknown"
    days = "unknown" if quality.label_days is None else str(quality.label_days)
    return f"{text} (days of the label: {days})"


def compared(summary: Summary, name: str | None = None) -> Compared:
    """Return the result of an experiment for a comparison.

    Parameters
    ----------
    summary : Summary
        The numbers of its report.
    name : str, optional
        Its name; by default the title.
    """
    return Compared(
        name=summary.title if name is None else name,
        quality=summary.quality,
        net=None if summary.portfolio is None else summary.portfolio["strategy"],
        per_year=summary.headline.per_year,
    )


def definition_differences(definitions: Mapping[str, object]) -> pd.DataFrame:
    """Return the values by which definitions differ.

    Parameters
    ----------
    definitions : mapping
        Name -> definition, such as a task: mappings, sequences and values.

    Returns
    -------
    DataFrame
        Index: paths of values, such as ``model.kwargs.seed`` or ``record[0].class``, in the order of their first
        definition. Columns: the names; values as text, empty if a definition has none. Secrets are masked.

    Examples
    --------
    >>> definition_differences({"a": {"seed": 1, "depth": 3}, "b": {"seed": 2, "depth": 3, "rate": [0.1]}})
              a    b
    seed      1    2
    rate[0]      0.1
    """
    values = {name: dict(_leaves(definition)) for name, definition in definitions.items()}
    paths = dict.fromkeys(path for found in values.values() for path in found)
    rows = {path: [found.get(path, "") for found in values.values()] for path in paths}
    differing = {path: row for path, row in rows.items() if len(set(row)) > 1}
    return pd.DataFrame.from_dict(differing, orient="index", columns=list(values), dtype=object)


def _leaves(value: object, path: str = "") -> list[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, f"{path}.{key}" if path else str(key))]
    if isinstance(value, Sequence) and not isinstance(value, str | bytes) and value:
        return [leaf for i, inner in enumerate(value) for leaf in _leaves(inner, f"{path}[{i}]")]
    return [(path, mask_secrets(str(value)))]
