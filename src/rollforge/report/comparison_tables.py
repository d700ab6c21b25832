"""The tables of a comparison, see :mod:`rollforge.report.compare`."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rollforge.confidential import mask_secrets
from rollforge.errors import excerpt
from rollforge.markup import Markup, join, tag
from rollforge.report.compare import Comparison, Difference
from rollforge.report.headline import evaluated_days_text, label_description
from rollforge.report.tables import NOTHING, number, number_cell, table_of

__all__ = ["definitions_table", "differences_table", "interval_text", "results_table"]

_DIFFERENCES = {"IC": ".4f", "Rank IC": ".4f", "Return": ".1%", "Net return": ".1%"}
_MAX_VALUES, _MAX_LENGTH = 300, 300
"""Number of values by which definitions differ that are shown, and their length."""
_NAMES = {"Return": "annual long-short", "Net return": "annual return after costs"}


def differences_table(comparison: Comparison, period: str = "day", kind: str = "model") -> Markup | None:
    """Return one row per result with its differences from the first, and their intervals; None if there are none."""
    found = comparison.differences
    there = [figure for figure in _DIFFERENCES if figure in found.index.get_level_values("figure")]
    if not there:
        return None
    heads = [(kind, ""), (f"common {period}s", "n")]
    for figure in there:
        heads += [(_NAMES.get(figure, figure), "n"), ("95 % interval", "n")]
    rows = []
    for name in dict.fromkeys(found.index.get_level_values("name")):
        own = {figure: comparison.difference(name, figure) or _NO_DIFFERENCE for figure in there}
        cells = [
            tag("th", name, scope="row", class_="text"),
            number_cell(max(one.days for one in own.values()), ",.0f"),
        ]
        for figure, one in own.items():
            form = _DIFFERENCES[figure]
            cells += [
                number_cell(one.difference, f"+{form}"),
                tag("td", interval_text(one.low, one.high, form), class_="n"),
            ]
        rows.append(tag("tr", *cells))
    return table_of(heads, rows, sortable=True)


def results_table(comparison: Comparison) -> Markup:
    """Return one row per result with its figures; those of a backtest only if there is one.

    A label and days that all results have in common are below the table instead of in every row.
    """
    table, period = comparison.figures, comparison.results[0].period
    shown = [("IC", "IC", ".4f"), ("t", "IC t-stat", ".2f"), ("Rank IC", "Rank IC", ".4f")]
    shown += [("Return", "annual long-short", ".1%"), ("Sharpe", "Sharpe", ".2f")]
    if table["Net return"].notna().any():
        shown += [("Net return", "annual return after costs", ".1%"), ("Net IR", "its information ratio", ".2f")]
        shown += [("Drawdown", "drawdown", ".1%")]
    about: dict[str, list[str]] = {"label": [], "evaluated on": []}
    for (_, row), one in zip(table.iterrows(), comparison.results, strict=True):
        label = NOTHING
        if one.quality is not None:
            label = label_description(mask_secrets(one.quality.label_text), one.quality.label_days, one.period)
        about["label"].append(label)
        days = evaluated_days_text(int(row["days"]), str(row["first"]), str(row["last"]), period)
        about["evaluated on"].append(days)
    common = {name: texts[0] for name, texts in about.items() if len(set(texts)) == 1 and texts[0] != NOTHING}
    own = {name: texts for name, texts in about.items() if name not in common}
    heads = [("result", ""), ("windows", ""), *((name, "n") for _, name, _ in shown), *((name, "") for name in own)]
    rows = []
    for i, ((name, row), one) in enumerate(zip(table.iterrows(), comparison.results, strict=True)):
        cells = [tag("td", f"{one.done} of {one.windows} done" if one.windows else NOTHING)]
        cells += [number_cell(float(row[column]), form) for column, _, form in shown]
        cells += [tag("td", texts[i], class_="text") for texts in own.values()]
        rows.append(tag("tr", tag("th", name, scope="row", class_="text"), *cells))
    made = table_of(heads, rows, sortable=True)
    if not common:
        return made
    said = {"label": "have the label", "evaluated on": "are evaluated on"}
    sentence = " and ".join(f"{said[name]} {text}" for name, text in common.items())
    return join(made, tag("p", f"All results {sentence}.", class_="lead"))


def definitions_table(differences: pd.DataFrame) -> Markup:
    """Return one row per value by which definitions differ, or a sentence if there is none."""
    if differences.empty:
        return tag("p", "The definitions are equal.", class_="empty")
    heads = [("value", ""), *((str(name), "text") for name in differences)]
    shown = differences.head(_MAX_VALUES)
    rows = [
        tag(
            "tr",
            tag("th", tag("code", path), scope="row", class_="text"),
            *(tag("td", excerpt(str(value), _MAX_LENGTH), class_="text") for value in values),
        )
        for path, values in zip(shown.index, shown.to_numpy(), strict=True)
    ]
    more = len(differences) - len(shown)
    return join(table_of(heads, rows), tag("p", f"{more:,} more values differ.") if more else None)


_NO_DIFFERENCE = Difference(0, np.nan, np.nan, np.nan, np.nan)


def interval_text(low: float, high: float, form: str) -> str:
    """Return the ends of an interval, or a dash if there is none.

    Examples
    --------
    >>> interval_text(-0.012, 0.034, ".3f"), interval_text(np.nan, np.nan, ".3f")
    ('−0.012 to 0.034', '–')
    """
    return f"{number(low, form)} to {number(high, form)}" if np.isfinite([low, high]).all() else NOTHING
