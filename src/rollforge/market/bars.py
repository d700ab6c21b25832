"""Convert tables of daily bars to Qlib's convention: adjusted prices, vwap, change.

In Qlib's convention, which data folders follow, prices are adjusted: raw prices are multiplied by ``factor``,
``volume`` is divided by it, and ``change`` is the return since the previous close as a fraction. Other tables have raw
prices with an adjusted close or a cumulative factor, amounts and volumes in other units, and changes in money or
percent. What a table contains is inferred from the numbers, converted, and reported in a note.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollforge.dates import Times, show_time
from rollforge.errors import DataError, counted
from rollforge.market.conversion import Conversion

__all__ = ["FACTOR_SOURCES", "PRICES", "OrderedTable", "complete"]

Floats = NDArray[np.float64]

_BAR = ("open", "high", "low", "close")
_RAW_PRICES = (*_BAR, "vwap", "pre_close", "preclose", "prev_close")
_ADJUSTED_CLOSE = ("adj_close", "adjclose", "adjusted_close", "close_adj", "close_adjusted")
_CUMULATIVE = ("adj_factor", "adjfactor", "adjust_factor", "adjustment_factor", "hfq_factor")
_SPLITS = ("stock_splits", "splits", "split", "split_ratio", "split_factor")
_PREVIOUS = ("pre_close", "preclose", "prev_close")
PRICES = frozenset(_RAW_PRICES)
"""Columns that :func:`complete` multiplies by a factor."""
FACTOR_SOURCES = ("factor", *_ADJUSTED_CLOSE, *_CUMULATIVE)
"""Columns that determine the factor."""


@dataclass(frozen=True, slots=True)
class OrderedTable:
    """A table sorted by instrument and day. All arrays except `codes` and `calendar` have one entry per row."""

    codes: list[str]
    calendar: Times
    """The days, or the times of bars if an instrument has several rows a day."""
    code: NDArray[np.int64]
    """Position in `codes`."""
    day: NDArray[np.int64]
    """Position in `calendar`."""
    values: dict[str, Floats]
    """Field -> its values; modified by :func:`complete`."""
    source: NDArray[np.int64]
    """Row number in the source."""
    carried: Callable[[int, Floats], float] | None = None
    """For rows that are added to a folder: the factor in force before a row, given those of all rows; NaN if there is none."""
    earlier: tuple[Floats, ...] = ()
    """For each row, the folder's close before the instrument's first row: adjusted, and divided by its factor."""

    def before(self, values: Floats) -> Floats:
        """Return each instrument's value in the previous row; NaN in its first row."""
        shifted = np.full(len(values), np.nan)
        same = self.code[1:] == self.code[:-1]
        shifted[1:][same] = values[:-1][same]
        return shifted

    def filled(self, values: Floats) -> Floats:
        """Return the values with gaps filled forward, and backward at the start of an instrument."""
        for step in (1, -1):
            v, c = values[::step], self.code[::step]
            known = ~np.isnan(v)
            last = np.maximum.accumulate(np.where(known, np.arange(len(v)), 0))
            values = np.where(known[last] & (c[last] == c), v[last], np.nan)[::step]
        return values

    def cell(self, row: int) -> str:
        """Describe a row for messages."""
        return f"{self.codes[self.code[row]]} on {show_time(self.calendar[self.day[row]])}"


def complete(rows: OrderedTable, known: Conversion | None = None) -> tuple[Conversion, list[str]]:
    """Convert the values to Qlib's convention, and compute missing vwap and factor.

    Parameters
    ----------
    rows : OrderedTable
        Its `values` are modified in place.
    known : Conversion, optional
        How earlier tables of the same source were converted. None infers it from the numbers.

    Returns
    -------
    conversion : Conversion
        How the values were converted.
    notes : list of str
        One note for each field that was computed, converted or left out.

    Raises
    ------
    DataError
        If a factor is zero or negative.
    """
    notes = []
    expected = () if known is None else known.columns
    for name in [n for n, v in rows.values.items() if n not in expected and np.isnan(v).all()]:
        del rows.values[name]
        notes.append(f"{name} was left out, because it has no values")
    for name in expected:
        rows.values.setdefault(name, np.full(len(rows.code), np.nan))
    found = replace(known or Conversion(columns=()), columns=tuple(dict.fromkeys([*expected, *rows.values])))
    # Changes and amounts refer to raw prices, so process them first.
    notes += _inconsistent_prices(rows)
    found, more = _change(rows, found)
    found, of_vwap = _vwap(rows, found)
    found, of_factor = _adjust(rows, found, decided=known is not None)
    return found, [*notes, *more, *of_vwap, *of_factor]


def _inconsistent_prices(rows: OrderedTable) -> list[str]:
    """Report inconsistent prices of bars; they are kept unchanged."""
    values = rows.values
    if "low" not in values or "high" not in values:
        return []
    low, high = values["low"], values["high"]
    wrong = low > high
    for name in ("open", "close"):
        if name in values:  # allow for rounding in sources
            wrong |= (values[name] < low * 0.999) | (values[name] > high * 1.001)
    at = np.flatnonzero(wrong)
    if not at.size:
        return []
    first = ", ".join(f"{name} {values[name][at[0]]:g}" for name in _BAR if name in values)
    return [
        f"{counted(at.size, 'row')} {'have' if at.size > 1 else 'has'} a low above the high, or an open or close outside "
        f"that range: {'the first is ' if at.size > 1 else ''}{rows.cell(int(at[0]))} ({first}). Correct the source"
    ]


# -- change ------------------------------------------------------------------------------------------------------------


def _change(rows: OrderedTable, known: Conversion) -> tuple[Conversion, list[str]]:
    values = rows.values
    change, close = values.get("change"), values.get("close")
    if change is None:
        return known, []
    kind = known.change or ("omitted" if close is None else _kind_of_change(rows, change, close))
    known = replace(known, change=kind)
    if kind == "share":
        return known, []
    if kind == "percent":
        values["change"] = change / 100
        return known, [
            "change was in percent and was converted to a fraction of the previous close, like Qlib's $change"
        ]
    if kind in ("money", "raw money") and close is not None:
        raw = close / values["factor"] if kind == "raw money" else close
        with np.errstate(all="ignore"):
            share = change / (raw - change)
        values["change"] = np.where(raw > change, share, np.nan)
        return known, [
            "change was a difference in money and was converted to a fraction of the previous "
            "close, like Qlib's $change"
        ]
    del values["change"]
    return known, [
        "change was left out, because it is not the change of close as a fraction, in percent or in "
        "money; price limits are computed from close"
    ]


def _kind_of_change(rows: OrderedTable, change: Floats, close: Floats) -> str:
    """Return ``share``, ``percent``, ``money`` or ``raw money``, whichever fits the closes best, or ``omitted``."""
    errors = {"share": np.inf, "percent": np.inf, "money": np.inf}
    moved = False
    prices = (close, close / rows.values["factor"]) if "factor" in rows.values else (close,)
    for raw, earlier in itertools.product(prices, rows.earlier or (np.full(len(close), np.nan),)):
        before = rows.before(raw)
        before = np.where(np.isnan(before), earlier, before)
        for name in _PREVIOUS:
            if name in rows.values:
                before = np.where(np.isnan(rows.values[name]), before, rows.values[name])
        difference = raw - before
        with np.errstate(all="ignore"):
            known = np.isfinite(change) & np.isfinite(difference) & (before > 0) & ((difference != 0) | (change != 0))
            if not known.any():
                continue
            moved = True
            for kind, expected in (
                ("share", difference / before),
                ("percent", 100 * difference / before),
                ("money", difference),
            ):
                size = np.maximum(np.abs(expected[known]), np.abs(change[known]))
                error = float(np.median(np.abs(change - expected)[known] / size))
                errors[kind] = min(errors[kind], error)
    if not moved:  # no moves, or nothing to compare: treat it as a share
        return "share" if np.nanmax(np.abs(change)) < 1 else "omitted"
    best = min(errors, key=lambda kind: errors[kind])
    if errors[best] > 0.05:
        return "omitted"
    return "raw money" if best == "money" and _raw_by_factor(rows, change, close) else best


def _raw_by_factor(rows: OrderedTable, change: Floats, close: Floats) -> bool:
    """Return whether changes in money are those of close / factor rather than of close."""
    if "factor" not in rows.values:
        return False
    errors = []
    for price in (close, close / rows.values["factor"]):
        error = np.abs(price - rows.before(price) - change)
        errors.append(float(np.median(error[np.isfinite(error)])) if np.isfinite(error).any() else np.inf)
    return errors[1] < errors[0]


# -- vwap --------------------------------------------------------------------------------------------------------------


def _vwap(rows: OrderedTable, known: Conversion) -> tuple[Conversion, list[str]]:
    values = rows.values
    given = values.get("vwap")
    if given is not None and known.vwap in ("", "given"):
        return replace(known, vwap="given"), []
    found, notes = _computed_vwap(rows, known)
    if given is not None:  # earlier tables had none
        values["vwap"] = np.where(np.isnan(given), values.get("vwap", given), given)
    return found, notes


def _computed_vwap(rows: OrderedTable, known: Conversion) -> tuple[Conversion, list[str]]:
    values = rows.values
    mean: Floats | None = None
    if all(f in values for f in _BAR):
        # Round as in storage, so that a CSV file and a Parquet file of the same table give the same bytes.
        mean = functools.reduce(np.add, (_stored(values[f]) for f in _BAR)) / 4
    has_amount = "amount" in values and "volume" in values and "close" in values
    if known.vwap == "" and has_amount:
        known = _unit_of_amount(rows, known)
    if known.vwap == "amount" and has_amount:
        vwap = _from_amount(rows, known)
        gaps = np.isnan(vwap) & ~np.isnan(values["close"])
        if mean is not None:
            vwap = np.where(gaps, mean, vwap)
        values["vwap"] = vwap
        rest = (
            f"; in {counted(int(gaps.sum()), 'row')} where this is not between low and high, it is "
            f"{'the mean of open, high, low and close' if mean is not None else 'missing'}"
        )
        how = _unit(-known.vwap_power) + (" x factor" if known.vwap_by_factor else "")
        return known, [f"vwap was computed as {how}{rest if gaps.any() else ''}"]
    if mean is None:
        return known, []
    values["vwap"] = mean
    if known.vwap == "amount":
        return known, ["vwap of rows that have none yet is the mean of open, high, low and close, because the table has "
                       "no amount"]  # fmt: skip
    known = replace(known, vwap="mean")
    if "amount" in values and "volume" in values:
        return known, [
            "vwap was computed as the mean of open, high, low and close, because amount / volume is not a "
            "price between low and high in any unit"
        ]
    return known, ["vwap was computed as the mean of open, high, low and close, because the table has none"]


def _unit_of_amount(rows: OrderedTable, known: Conversion) -> Conversion:
    """Return the conversion with the unit in which amount / volume is a price of the day, if there is one."""
    values = rows.values
    with np.errstate(all="ignore"):
        for by_factor in (False, True) if "factor" in values else (False,):
            price, close = _ratio(rows, by_factor=by_factor), _stored(values["close"])
            share = price / close
            share = share[np.isfinite(share) & (share > 0)]
            if not share.size:
                return known
            power = np.log10(np.median(share))
            if abs(power - round(power)) > 0.05:
                continue
            found = replace(known, vwap="amount", vwap_power=round(power), vwap_by_factor=by_factor)
            if np.isfinite(_from_amount(rows, found)).sum() >= 0.9 * np.isfinite(price).sum():
                return found
    return known


def is_between(price: NDArray[Any], low: NDArray[Any], high: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where a price is between the low and the high, with a tolerance for rounded prices."""
    return np.asarray((price >= low * 0.995) & (price <= high * 1.005))


def _from_amount(rows: OrderedTable, known: Conversion) -> Floats:
    """Return amount / volume as a price; NaN where it is not between low and high."""
    values = rows.values
    close = _stored(values["close"])
    low, high = (_stored(values[f]) if f in values else close for f in ("low", "high"))
    with np.errstate(all="ignore"):
        price = _ratio(rows, by_factor=known.vwap_by_factor) / 10.0**known.vwap_power
        return np.where(is_between(price, low, high), price, np.nan)


def _ratio(rows: OrderedTable, *, by_factor: bool) -> Floats:
    values = rows.values
    amount, volume = _stored(values["amount"]), _stored(values["volume"])
    with np.errstate(all="ignore"):
        ratio = np.where((amount > 0) & (volume > 0), amount / volume, np.nan)
        return ratio * values["factor"] if by_factor and "factor" in values else ratio


def _unit(power: int) -> str:
    names = {
        0: "amount / volume",
        -2: "amount / volume / 100 (volume in lots of 100)",
        1: "10 x amount / volume (amount in thousands, volume in lots of 100)",
        3: "1000 x amount / volume (amount in thousands)",
        4: "10000 x amount / volume (amount in tens of thousands)",
    }
    return names.get(power, f"amount / volume x 1e{power}")


def _stored(values: Floats) -> Floats:
    return values.astype(np.float32).astype(np.float64)


# -- adjusted prices ---------------------------------------------------------------------------------------------------


def _adjust(rows: OrderedTable, known: Conversion, *, decided: bool) -> tuple[Conversion, list[str]]:
    values = rows.values
    if not decided:
        known = _kind_of_factor(rows, known)
    column, kind = known.factor_column, known.factor
    checked = {"given": "factor", "product": "factor", "raw": column, "adjusted": column}.get(kind)
    if checked:
        _check_factor(rows, checked)
    if kind == "given":
        if _are_raw(rows, values["factor"], certainly=True):
            return known, [
                "close jumps where factor changes, so it seems to be unadjusted. If it is, import it with "
                "--column factor=adj_factor, which adjusts it"
            ]
        return known, []
    if kind == "product":
        adjusted = next((n for n in _ADJUSTED_CLOSE if n in values), None)
        values.pop(str(adjusted), None)
        return known, [_multiply(rows, values["factor"], f"factor ({adjusted} is close x factor)")]
    if kind == "close":
        values["close"] = values.pop(column)
        values["factor"] = np.ones(len(rows.code))
        return known, [f"{column} was used as close, because the table has no other; factor was set to 1"]
    if kind == "ratio":
        with np.errstate(all="ignore"):
            share = values.pop(column) / values["close"]
        share[~(np.isfinite(share) & (share > 0))] = np.nan
        return known, [_multiply(rows, share, f"{column} / close")]
    if kind == "raw":
        return known, [_multiply(rows, values.pop(column), column)]
    if kind == "adjusted":
        values["factor"], gaps = _filled(rows, values.pop(column))
        return known, [
            f"{column} was used as factor; close does not jump where it changes, so prices are taken as "
            f"already adjusted{gaps}"
        ]
    return known, _without_factor(rows)


def _without_factor(rows: OrderedTable) -> list[str]:
    values = rows.values
    values["factor"] = np.ones(len(rows.code))
    notes = ["factor was set to 1, because the table has none; prices are taken as adjusted"]
    splits = next((n for n in _SPLITS if n in values), None)
    if splits is not None and _are_raw(rows, _since_the_start(rows, values[splits]), certainly=True):
        notes.append(
            f"close jumps where {splits} has a split, so it seems not to be adjusted for splits, and "
            "returns over these days are wrong. Provide an adjusted close or a factor"
        )
    return notes


def _kind_of_factor(rows: OrderedTable, known: Conversion) -> Conversion:
    """Return the conversion with the source of the factor, and whether prices are raw."""
    values = rows.values
    adjusted = next((n for n in _ADJUSTED_CLOSE if n in values), None)
    cumulative = next((n for n in _CUMULATIVE if n in values), None)
    if "factor" in values:
        product = adjusted is not None and _is_product(values[adjusted], values.get("close"), values["factor"])
        return replace(known, factor="product" if product else "given")
    if adjusted is not None:
        return replace(known, factor="ratio" if "close" in values else "close", factor_column=adjusted)
    if cumulative is not None:
        _check_factor(rows, cumulative)
        raw = "close" not in values or _are_raw(rows, rows.filled(values[cumulative]), certainly=False)
        return replace(known, factor="raw" if raw else "adjusted", factor_column=cumulative)
    return replace(known, factor="none")


def _is_product(adjusted: Floats, close: Floats | None, factor: Floats) -> bool:
    """Return whether an adjusted close is close x factor and not close itself, so that close is raw."""
    if close is None:
        return False
    with np.errstate(all="ignore"):
        share = adjusted / close
    known = np.isfinite(share) & np.isfinite(factor) & (share > 0)
    if not known.any():
        return False
    return bool(np.median(np.abs(share / factor - 1)[known]) < 1e-3 and np.abs(share - 1)[known].max() > 1e-3)


def _since_the_start(rows: OrderedTable, splits: Floats) -> Floats:
    """Return the cumulative product of splits (new shares per old share; 0 or missing: no split) up to each row."""
    steps = np.cumsum(np.log(np.where(np.isfinite(splits) & (splits > 0), splits, 1.0)))
    return np.asarray(np.exp(steps))


def _check_factor(rows: OrderedTable, name: str) -> None:
    bad = np.flatnonzero(rows.values[name] <= 0)
    if bad.size:
        raise DataError(
            f"{name} of {rows.cell(int(bad[0]))} is {rows.values[name][bad[0]]:g}, but a factor must be positive "
            f"({counted(bad.size, 'such value')}). Correct the source."
        )


def _are_raw(rows: OrderedTable, factor: Floats, *, certainly: bool) -> bool:
    """Return whether closes jump inversely when the factor changes, so that it is not yet applied to them.

    If the factor never changes this cannot be determined; the result is then ``not certainly``.
    """
    close = rows.values.get("close")
    if close is None:
        return not certainly
    with np.errstate(all="ignore"):
        step, move = np.log(factor / rows.before(factor)), np.log(close / rows.before(close))
        seen = np.isfinite(step) & np.isfinite(move) & (np.abs(step) > 0.005)
        raw, adjusted = np.abs(move[seen] + step[seen]).sum(), np.abs(move[seen]).sum()
    if not seen.any():
        return not certainly
    return bool(raw < adjusted / 2) if certainly else bool(raw <= adjusted)


def _multiply(rows: OrderedTable, factor: Floats, name: str) -> str:
    """Adjust raw prices, as Qlib's own importers do, and return a note."""
    values = rows.values
    factor, gaps = _filled(rows, factor)
    done = [f for f in _RAW_PRICES if f in values]
    for field in done:
        values[field] = values[field] * factor
    values["factor"] = factor
    volume = ""
    if "volume" in values:
        values["volume"] = values["volume"] / factor
        volume = ", and volume was divided by it"
    return f"{', '.join(done)} were multiplied by {name}{volume}: prices are adjusted, and factor is {name}{gaps}"


def _filled(rows: OrderedTable, factor: Floats) -> tuple[Floats, str]:
    """Return a factor without gaps, and a note on how they were filled."""
    gaps = int((np.isnan(factor) & ~np.isnan(rows.values.get("close", factor))).sum())
    missing = np.flatnonzero(np.isnan(factor))
    filled = rows.filled(factor)
    if rows.carried is not None:
        for row in missing:
            carried = rows.carried(int(row), factor)
            filled[row] = filled[row] if np.isnan(carried) else carried
    # Round as in storage, so that a folder to which rows are added continues with the same factor.
    filled[missing] = _stored(filled[missing])
    factor = filled
    without = np.unique(rows.code[np.isnan(factor)])
    factor[np.isnan(factor)] = 1.0
    note = f"; in {counted(gaps, 'row')} without it, that of the previous day was used" if gaps else ""
    if without.size:
        shown = ", ".join(rows.codes[i] for i in without[:5]) + (", …" if without.size > 5 else "")
        note += f"; it is 1 for {shown}, which {'have' if without.size > 1 else 'has'} none"
    return factor, note
