"""Comparison of results: of models with their ensemble, of experiments, and of models of different experiments.

Every difference is computed on the days and instruments that both results have and with the same label, so that what moves
both of them cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from rollforge.confidential import mask_secrets
from rollforge.dates import show_time, times_of
from rollforge.errors import ConfigError, first_few, shown
from rollforge.record.analysis import mean_to_std, newey_west_t, risk_analysis
from rollforge.record.periods import YEAR, backtest_periods, period_name, periods_per_year
from rollforge.record.persistence import bootstrap_interval
from rollforge.report.inputs import ModelInputs, ReportInputs
from rollforge.report.quality import Quality, evaluated, portfolio_returns, score_column

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
    period: str = "day"
    """What a period is called, see :func:`~rollforge.record.periods.period_name`."""
    scores: pd.Series | None = None
    """Prediction by day and instrument. With it and `labels`, differences are those of the rows that both results have;
    without them, both are taken to have the same rows on their common days."""
    labels: pd.Series | None = None
    """Label by day and instrument."""
    windows: int = 0
    """Number of tasks; 0 if it is unknown."""
    done: int = 0
    """Number of tasks that are done."""


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

    Two signals are compared if their labels span the same number of periods and have the same expression, or the same
    values. Both are then evaluated with the label of the first result, on the rows that both have. What cannot be compared
    is named in the notes.

    Parameters
    ----------
    results : sequence of Compared
        The results; the first is the reference.
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
    notes = _without_ic(results)
    rows: dict[tuple[str, str], Difference] = {}
    its_rows = _labelled(reference)
    for one in others:
        found, said = _differences(one, reference, its_rows)
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


def _without_ic(results: Sequence[Compared]) -> list[str]:
    """Return a sentence on the results whose signals cannot be compared with any other."""
    names = [one.name for one in results if one.quality is None or one.quality.ic.empty]
    if not names:
        return []
    has = "has" if len(names) == 1 else "have"
    return [
        f"{first_few(names, 5)} {has} no IC: on each {results[0].period} there are no scores and labels of several "
        "instruments, or all are equal."
    ]


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


def _differences(
    one: Compared, reference: Compared, its_rows: pd.DataFrame | None
) -> tuple[dict[str, Difference], list[str]]:
    """Return the differences that can be computed, and sentences on those that cannot; `its_rows` are the reference's."""
    if one.per_year != reference.per_year:
        problem = f"{one.name} and {reference.name} cannot be compared: their data have different frequencies."
        return {}, [problem]
    found: dict[str, Difference] = {}
    pair, notes = _alike(one, reference, its_rows)
    if pair is not None:
        left, right = pair
        days = right.label_days
        found["IC"] = paired_difference(left.ic, right.ic, days)
        found["Rank IC"] = paired_difference(left.rank_ic, right.rank_ic, days)
        if days is not None and len(left.long_short) and len(right.long_short):
            yearly = right.per_year / days
            found["Return"] = paired_difference(left.long_short, right.long_short, days, scale=yearly)
        if not found["IC"].days:
            notes.append(f"{one.name} and {reference.name} have no common {one.period}s with an IC.")
    if one.net is not None and reference.net is not None:
        yearly = backtest_periods(one.per_year)
        found["Net return"] = paired_difference(one.net, reference.net, 1, scale=yearly)
        if not found["Net return"].days:
            notes.append(f"The backtests of {one.name} and {reference.name} have no common {one.period}s.")
    return {figure: difference for figure, difference in found.items() if difference.days}, notes


def _alike(
    one: Compared, reference: Compared, its_rows: pd.DataFrame | None
) -> tuple[tuple[Quality, Quality] | None, list[str]]:
    """Return the qualities of two signals with the same label on the same rows, and sentences on what differs; None if there
    are none."""
    left, right = one.quality, reference.quality
    if left is None or right is None or left.ic.empty or right.ic.empty:
        return None, []
    own = _labelled(one)
    rows = None if own is None or its_rows is None else _common_rows(own, its_rows)
    same = _same_text(left, right) or (rows is not None and len(rows.both) > 0 and not rows.changed)
    if left.label_days != right.label_days or not same:
        label, its = (_label(quality) for quality in (left, right))
        return None, [
            f"The signals of {one.name} and {reference.name} cannot be compared: the label of {one.name} is {label}, that of "
            f"{reference.name} {its}."
        ]
    if rows is None or rows.all_the_same:
        return (left, right), []
    if rows.left and rows.right and not len(rows.both):
        return None, [f"{one.name} and {reference.name} have no instruments in common on their common {one.period}s."]
    said = []
    if rows.changed:
        said.append(
            f"{rows.changed:,} of the {len(rows.both):,} labels of {one.name} differ from those of {reference.name}, so their "
            f"data differ; the differences are computed with the labels of {reference.name}."
        )
    if not rows.left == rows.right == len(rows.both):
        said.append(
            f"On their common {one.period}s {one.name} has {rows.left:,} scores with a label and {reference.name} "
            f"{rows.right:,}; the differences are those of the {len(rows.both):,} that both have."
        )
    label_days, text = right.label_days, right.label_text
    made = [
        evaluated(ModelInputs(side, rows.both[[side]], rows.both[["label"]], text, label_days), right.per_year)
        for side in ("left", "right")
    ]
    return (None if made[0] is None or made[1] is None else (made[0], made[1])), said


class _Rows(NamedTuple):
    """The rows of two results on the days that both have."""

    both: pd.DataFrame
    """Rows that both have: columns left, right (scores) and label (that of the reference)."""
    left: int
    right: int
    """Number of rows of each that have a score and a label."""
    changed: int
    """Number of common rows on which the labels differ."""

    @property
    def all_the_same(self) -> bool:
        return self.left == self.right == len(self.both) and not self.changed


def _common_rows(left: pd.DataFrame, right: pd.DataFrame) -> _Rows:
    """Return the common rows of two results, see :func:`_labelled`."""
    days = left.index.unique("datetime").intersection(right.index.unique("datetime"))
    left, right = (rows[rows.index.get_level_values("datetime").isin(days)] for rows in (left, right))
    both = pd.concat([left, right], axis=1, join="inner", keys=["left", "right"])
    truth = both["right", "label"]
    # Panels store 32-bit numbers: the same label in two panels may differ by rounding.
    changed = int((~np.isclose(both["left", "label"], truth, rtol=1e-5, atol=1e-9)).sum())
    rows = pd.DataFrame({"left": both["left", "score"], "right": both["right", "score"], "label": truth})
    return _Rows(rows, len(left), len(right), changed)


def _labelled(one: Compared) -> pd.DataFrame | None:
    """Return the rows with a score and a label; None if they are unknown."""
    if one.scores is None or one.labels is None:
        return None
    both = pd.concat(list(map(_ordered, (one.scores, one.labels))), axis=1, join="inner")
    rows: pd.DataFrame = both.set_axis(["score", "label"], axis=1)
    complete: pd.DataFrame = rows[np.isfinite(rows.to_numpy()).all(axis=1)]
    return complete


def _ordered(values: pd.Series) -> pd.Series:
    names = list(values.index.names)
    ordered = values.reorder_levels([names.index("datetime"), names.index("instrument")])
    return ordered.astype(np.float64)


def _same_text(left: Quality, right: Quality) -> bool:
    return "".join(left.label_text.split()) == "".join(right.label_text.split())


def _label(quality: Quality) -> str:
    text = mask_secrets(quality.label_text) or "unknown"
    days = "unknown" if quality.label_days is None else str(quality.label_days)
    return f"{text} (days of the label: {days})"


def compared(inputs: ReportInputs, name: str | None = None) -> Compared:
    """Return a result for a comparison.

    Parameters
    ----------
    inputs : ReportInputs
        What its report is made from.
    name : str, optional
        Its name; by default the title.

    Raises
    ------
    DataError
        As :func:`~rollforge.report.quality.evaluated`.
    """
    per_year = periods_per_year(inputs.calendar)
    whole = ModelInputs("", inputs.prediction, inputs.label, inputs.label_text, inputs.label_days)
    portfolio = portfolio_returns(inputs.portfolio)
    return Compared(
        name=inputs.title if name is None else name,
        quality=evaluated(whole, per_year),
        net=None if portfolio is None else portfolio["strategy"],
        per_year=per_year,
        period=period_name(inputs.calendar),
        scores=score_column(inputs.prediction, "prediction"),
        labels=score_column(inputs.label, "label"),
        windows=len(inputs.tasks),
        done=sum(task.status == "done" for task in inputs.tasks),
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
