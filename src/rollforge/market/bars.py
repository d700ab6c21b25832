"""Convert tables of daily bars to Qlib's convention: adjusted prices, vwap, change.

In Qlib's convention, which data folders follow, prices are adjusted: raw prices are multiplied by ``factor``,
``volume`` is divided by it, and ``change`` is the return since the previous close as a fraction. Other tables have raw
prices with an adjusted close or a cumulative factor, amounts and volumes in other units, and changes in money or
percent. What a table contains is inferred from the numbers, converted, and reported in a note.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rollforge.errors import DataError, counted
from rollforge.market.provider import Days

__all__ = ["OrderedTable", "complete"]

Floats = NDArray[np.float64]

_BAR = ("open", "high", "low", "close")
_RAW_PRICES = (*_BAR, "vwap", "pre_close", "preclose", "prev_close")
_ADJUSTED_CLOSE = ("adj_close", "adjclose", "adjusted_close", "close_adj", "close_adjusted")
_CUMULATIVE = ("adj_factor", "adjfactor", "adjust_factor", "adjustment_factor", "hfq_factor")
_SPLITS = ("stock_splits", "splits", "split", "split_ratio", "split_factor")
_PREVIOUS = ("pre_close", "preclose", "prev_close")


@dataclass(frozen=True, slots=True)
class OrderedTable:
    """A table sorted by instrument and day. All arrays except `codes` and `calendar` have one entry per row."""

    codes: list[str]
    calendar: Days
    code: NDArray[np.int64]
    """Position in `codes`."""
    day: NDArray[np.int64]
    """Position in `calendar`."""
    values: dict[str, Floats]
    """Field -> its values; modified by :func:`complete`."""
    source: NDArray[np.int64]
    """Row number in the source."""

    def before(self, values: Floats) -> Floats:
        """Return each instrument's value in the previous row; NaN in its first row."""
        shifted = np.full(len(values), np.nan)
        same = self.code[1:] == self.code[:-1]
        shifted[1:][same] = values[:-1][same]
        return shifted

    def filled(self, values: Floats) -> Floats:
        """Return the values with gaps filled forward, and at an instrument's start backward."""
        for step in (1, -1):
            v, c = values[::step], self.code[::step]
            known = ~np.isnan(v)
            last = np.maximum.accumulate(np.where(known, np.arange(len(v)), 0))
            values = np.where(known[last] & (c[last] == c), v[last], np.nan)[::step]
        return values

    def cell(self, row: int) -> str:
        """Describe a row for messages."""
        return f"{self.codes[self.code[row]]} on {self.calendar[self.day[row]]}"


def complete(rows: OrderedTable) -> list[str]:
    """Convert the values to Qlib's convention, compute missing vwap and factor, and return notes.

    Parameters
    ----------
    rows : OrderedTable
        Its `values` are modified in place.

    Returns
    -------
    list of str
        One note for each field that was computed, converted or left out.

    Raises
    ------
    DataError
        If a factor is zero or negative.
    """
    notes = []
    for name in [n for n, v in rows.values.items() if np.isnan(v).all()]:
        del rows.values[name]
        notes.append(f"{name} was left out, because it has no values")
    # Changes and amounts refer to raw prices, so process them first.
    return [*notes, *_misfits(rows), *_change(rows), *_vwap(rows), *_adjust(rows)]


def _misfits(rows: OrderedTable) -> list[str]:
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


# -- change --------------------------------------------------------------------------------------------------------------


def _change(rows: OrderedTable) -> list[str]:
    values = rows.values
    change, close = values.get("change"), values.get("close")
    if change is None:
        return []
    found = "" if close is None else _kind_of_change(rows, change, close)
    if found == "share":
        return []
    if found == "percent":
        values["change"] = change / 100
        return ["change was in percent and was converted to a fraction of the previous close, like Qlib's $change"]
    if found == "money" and close is not None:
        raw = close / values["factor"] if _raw_by_factor(rows, change, close) else close
        with np.errstate(all="ignore"):
            share = change / (raw - change)
        values["change"] = np.where(raw > change, share, np.nan)
        return [
            "change was a difference in money and was converted to a fraction of the previous "
            "close, like Qlib's $change"
        ]
    del values["change"]
    return [
        "change was left out, because it is not the change of close as a fraction, in percent or in "
        "money; price limits are computed from close"
    ]


def _kind_of_change(rows: OrderedTable, change: Floats, close: Floats) -> str:
    """Return ``share``, ``percent`` or ``money``, whichever fits the closes best; empty if none fits."""
    errors = {"share": np.inf, "percent": np.inf, "money": np.inf}
    moved = False
    for raw in (close, close / rows.values["factor"]) if "factor" in rows.values else (close,):
        before = rows.before(raw)
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
        return "share" if np.nanmax(np.abs(change)) < 1 else ""
    best = min(errors, key=lambda kind: errors[kind])
    return best if errors[best] <= 0.05 else ""


def _raw_by_factor(rows: OrderedTable, change: Floats, close: Floats) -> bool:
    """Return whether differences in money are those of close / factor rather than of close."""
    if "factor" not in rows.values:
        return False
    errors = []
    for price in (close, close / rows.values["factor"]):
        error = np.abs(price - rows.before(price) - change)
        errors.append(float(np.median(error[np.isfinite(error)])) if np.isfinite(error).any() else np.inf)
    return errors[1] < errors[0]


# -- vwap ----------------------------------------------------------------------------------------------------------------


def _vwap(rows: OrderedTable) -> list[str]:
    values = rows.values
    if "vwap" in values:
        return []
    mean: Floats | None = None
    if all(f in values for f in _BAR):
        # Round as in storage, so that a CSV file and a Parquet file of the same table give the same bytes.
        mean = functools.reduce(np.add, (_stored(values[f]) for f in _BAR)) / 4
    if "amount" in values and "volume" in values and "close" in values:
        found = _from_amount(rows)
        if found is not None:
            vwap, how = found
            gaps = np.isnan(vwap) & ~np.isnan(values["close"])
            if mean is not None:
                vwap = np.where(gaps, mean, vwap)
            values["vwap"] = vwap
            rest = (
                f"; in {counted(int(gaps.sum()), 'row')} where that is not between low and high, it is "
                f"{'the mean of open, high, low and close' if mean is not None else 'missing'}"
            )
            return [f"vwap was computed as {how}{rest if gaps.any() else ''}"]
    if mean is None:
        return []
    values["vwap"] = mean
    if "amount" in values and "volume" in values:
        return [
            "vwap was computed as the mean of open, high, low and close, because amount / volume is not a "
            "price between low and high in any unit"
        ]
    return ["vwap was computed as the mean of open, high, low and close, because the table has none"]


def _from_amount(rows: OrderedTable) -> tuple[Floats, str] | None:
    """Return amount / volume in the unit in which it is a price of the day, with a description; None if none fits."""
    values = rows.values
    amount, volume, close = _stored(values["amount"]), _stored(values["volume"]), _stored(values["close"])
    low, high = (_stored(values.get(f, close)) for f in ("low", "high"))
    with np.errstate(all="ignore"):
        ratio = np.where((amount > 0) & (volume > 0), amount / volume, np.nan)
        for factor in (None, values["factor"]) if "factor" in values else (None,):
            price = ratio if factor is None else ratio * factor
            share = price / close
            share = share[np.isfinite(share) & (share > 0)]
            if not share.size:
                return None
            power = np.log10(np.median(share))
            if abs(power - round(power)) > 0.05:
                continue
            price = price / 10.0 ** round(power)
            inside = (price >= low * 0.995) & (price <= high * 1.005)
            if inside.sum() < 0.9 * np.isfinite(price).sum():
                continue
            return np.where(inside, price, np.nan), _unit(-round(power)) + ("" if factor is None else " x factor")
    return None


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


# -- adjusted prices -----------------------------------------------------------------------------------------------------


def _adjust(rows: OrderedTable) -> list[str]:
    values = rows.values
    adjusted = next((n for n in _ADJUSTED_CLOSE if n in values), None)
    cumulative = next((n for n in _CUMULATIVE if n in values), None)
    if "factor" in values:
        _check_factor(rows, "factor")
        if adjusted is not None and _is_product(values[adjusted], values["close"], values["factor"]):
            del values[adjusted]
            return [_multiply(rows, values["factor"], f"factor ({adjusted} is close x factor)")]
        if _are_raw(rows, values["factor"], certainly=True):
            return [
                "close jumps where factor changes, so it seems to be unadjusted. If it is, import it with "
                "--column factor=adj_factor, which adjusts it"
            ]
        return []
    if adjusted is not None and "close" not in values:
        values["close"] = values.pop(adjusted)
        values["factor"] = np.ones(len(rows.code))
        return [f"{adjusted} was used as close, because the table has no other; factor was set to 1"]
    if adjusted is not None:
        with np.errstate(all="ignore"):
            share = values[adjusted] / values["close"]
        share[~(np.isfinite(share) & (share > 0))] = np.nan
        del values[adjusted]
        return [_multiply(rows, share, f"{adjusted} / close")]
    if cumulative is not None:
        _check_factor(rows, cumulative)
        factor = values.pop(cumulative)
        if "close" in values and not _are_raw(rows, rows.filled(factor), certainly=False):
            values["factor"], gaps = _filled(rows, factor)
            return [
                f"{cumulative} was used as factor; close does not jump where it changes, so prices are taken as "
                f"already adjusted{gaps}"
            ]
        return [_multiply(rows, factor, cumulative)]
    values["factor"] = np.ones(len(rows.code))
    notes = ["factor was set to 1, because the table has none; prices are taken as adjusted"]
    splits = next((n for n in _SPLITS if n in values), None)
    if splits is not None and _are_raw(rows, _since_the_start(rows, values[splits]), certainly=True):
        notes.append(
            f"close jumps where {splits} has a split, so it seems not to be adjusted for splits, and "
            "returns over these days are wrong. Provide an adjusted close or a factor"
        )
    return notes


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
    factor = rows.filled(factor)
    without = np.unique(rows.code[np.isnan(factor)])
    factor[np.isnan(factor)] = 1.0
    note = f"; in {counted(gaps, 'row')} without it, that of the previous day was used" if gaps else ""
    if without.size:
        shown = ", ".join(rows.codes[i] for i in without[:5]) + (", …" if without.size > 5 else "")
        note += f"; it is 1 for {shown}, which {'have' if without.size > 1 else 'has'} none"
    return factor, note
