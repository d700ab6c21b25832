"""What the columns of a table of daily bars mean: adjusted prices, vwap, change.

Qlib's convention, which a data folder follows: prices are adjusted, ``factor`` is what a raw price was multiplied by,
``volume`` is divided by it, and ``change`` is the return since the previous close as a share. Tables from elsewhere hold
raw prices beside an adjusted close or a cumulative factor, amounts and volumes in other units, changes in money or
percent. What they hold is found out from the numbers themselves, converted, and said in a note.
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
    """A table, ordered by instrument and day. One entry a row in each array but `codes` and `calendar`."""

    codes: list[str]
    calendar: Days
    code: NDArray[np.int64]
    """Place in `codes`."""
    day: NDArray[np.int64]
    """Place in `calendar`."""
    values: dict[str, Floats]
    """Field -> its values; :func:`complete` changes it."""
    source: NDArray[np.int64]
    """Row of the source."""

    def before(self, values: Floats) -> Floats:
        """Return each instrument's value in the row before; NaN in its first row."""
        shifted = np.full(len(values), np.nan)
        same = self.code[1:] == self.code[:-1]
        shifted[1:][same] = values[:-1][same]
        return shifted

    def filled(self, values: Floats) -> Floats:
        """Return the values with gaps filled from the rows before, or at an instrument's start from those after."""
        for step in (1, -1):
            v, c = values[::step], self.code[::step]
            known = ~np.isnan(v)
            last = np.maximum.accumulate(np.where(known, np.arange(len(v)), 0))
            values = np.where(known[last] & (c[last] == c), v[last], np.nan)[::step]
        return values

    def cell(self, row: int) -> str:
        """Return what stands in a row, for messages."""
        return f"{self.codes[self.code[row]]} on {self.calendar[self.day[row]]}"


def complete(rows: OrderedTable) -> list[str]:
    """Bring the values to Qlib's convention, make vwap and factor where the table has none, and say what was done.

    Parameters
    ----------
    rows : OrderedTable
        Its `values` are changed.

    Returns
    -------
    list of str
        One note for each thing that was made, converted or left out.

    Raises
    ------
    DataError
        When a factor is zero or negative.
    """
    notes = []
    for name in [n for n, v in rows.values.items() if np.isnan(v).all()]:
        del rows.values[name]
        notes.append(f"{name} left out: it holds no values")
    # Changes and amounts are those of raw prices, so they come first.
    return [*notes, *_misfits(rows), *_change(rows), *_vwap(rows), *_adjust(rows)]


def _misfits(rows: OrderedTable) -> list[str]:
    """What prices of a bar say against each other; they are kept as they are."""
    values = rows.values
    if "low" not in values or "high" not in values:
        return []
    low, high = values["low"], values["high"]
    wrong = low > high
    for name in ("open", "close"):
        if name in values:  # sources round, so a little outside is nothing
            wrong |= (values[name] < low * 0.999) | (values[name] > high * 1.001)
    at = np.flatnonzero(wrong)
    if not at.size:
        return []
    first = ", ".join(f"{name} {values[name][at[0]]:g}" for name in _BAR if name in values)
    many = f"{at.size} rows have" if at.size > 1 else "1 row has"
    return [
        f"{many} a low above the high, or an open or close outside of them: "
        f"{'the first is ' if at.size > 1 else ''}{rows.cell(int(at[0]))} ({first}). Correct the source"
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
        return ["change was in percent; it is the share of the previous close now, as Qlib's $change"]
    if found == "money" and close is not None:
        raw = close / values["factor"] if _raw_by_factor(rows, change, close) else close
        with np.errstate(all="ignore"):
            share = change / (raw - change)
        values["change"] = np.where(raw > change, share, np.nan)
        return ["change was a difference in money; it is the share of the previous close now, as Qlib's $change"]
    del values["change"]
    return [
        "change left out: it is not the change of close, neither as a share nor in percent nor in money; "
        "price limits are taken from close"
    ]


def _kind_of_change(rows: OrderedTable, change: Floats, close: Floats) -> str:
    """``share``, ``percent`` or ``money``, whichever fits the closes best; nothing where none fits."""
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
    if not moved:  # nothing ever moves, or nothing can be compared: a share like any other
        return "share" if np.nanmax(np.abs(change)) < 1 else ""
    best = min(errors, key=lambda kind: errors[kind])
    return best if errors[best] <= 0.05 else ""


def _raw_by_factor(rows: OrderedTable, change: Floats, close: Floats) -> bool:
    """Whether differences in money are those of close / factor rather than of close."""
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
        # Rounded as they are stored, so that a CSV file and a Parquet file of the same table give the same bytes.
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
                f"; in {int(gaps.sum())} rows, where that is not between low and high, "
                f"{'the mean of open, high, low and close' if mean is not None else 'missing'}"
            )
            return [f"vwap made as {how}{rest if gaps.any() else ''}"]
    if mean is None:
        return []
    values["vwap"] = mean
    if "amount" in values and "volume" in values:
        return [
            "vwap made as the mean of open, high, low and close: amount / volume is not a price between low and high, "
            "in any unit"
        ]
    return ["vwap made as the mean of open, high, low and close: the table has none"]


def _from_amount(rows: OrderedTable) -> tuple[Floats, str] | None:
    """Amount / volume in the unit in which it is a price of the day, and what it is; None where it is none."""
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
        4: "10000 x amount / volume (amount in ten thousands)",
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
                "close jumps where factor changes, so it seems not to be adjusted by it, as it should be; "
                "--column factor=adj_factor adjusts it"
            ]
        return []
    if adjusted is not None and "close" not in values:
        values["close"] = values.pop(adjusted)
        values["factor"] = np.ones(len(rows.code))
        return [f"close is {adjusted}, the table has no other; factor set to 1"]
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
                f"factor is {cumulative}; close does not jump where it changes, so prices count as adjusted already{gaps}"
            ]
        return [_multiply(rows, factor, cumulative)]
    values["factor"] = np.ones(len(rows.code))
    notes = ["factor set to 1: the table has none, its prices count as adjusted"]
    splits = next((n for n in _SPLITS if n in values), None)
    if splits is not None and _are_raw(rows, _since_the_start(rows, values[splits]), certainly=True):
        notes.append(
            f"close jumps where {splits} names a split, so it seems not to be adjusted for splits: returns over these days "
            "are wrong. Give an adjusted close or a factor"
        )
    return notes


def _is_product(adjusted: Floats, close: Floats | None, factor: Floats) -> bool:
    """Whether an adjusted close is close x factor and not close itself: then close is raw."""
    if close is None:
        return False
    with np.errstate(all="ignore"):
        share = adjusted / close
    known = np.isfinite(share) & np.isfinite(factor) & (share > 0)
    if not known.any():
        return False
    return bool(np.median(np.abs(share / factor - 1)[known]) < 1e-3 and np.abs(share - 1)[known].max() > 1e-3)


def _since_the_start(rows: OrderedTable, splits: Floats) -> Floats:
    """The product of an instrument's splits up to each row: new shares for an old one, 0 or missing where there is none."""
    steps = np.cumsum(np.log(np.where(np.isfinite(splits) & (splits > 0), splits, 1.0)))
    return np.asarray(np.exp(steps))


def _check_factor(rows: OrderedTable, name: str) -> None:
    bad = np.flatnonzero(rows.values[name] <= 0)
    if bad.size:
        raise DataError(
            f"{name} of {rows.cell(int(bad[0]))} is {rows.values[name][bad[0]]:g}, but a factor is positive "
            f"({counted(bad.size, 'such value')}). Correct the source."
        )


def _are_raw(rows: OrderedTable, factor: Floats, *, certainly: bool) -> bool:
    """Whether closes jump where the factor changes, against it: then it has not been applied to them yet.

    Without any change of the factor nothing can be seen, and `certainly` decides: then False.
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
    """Make raw prices adjusted ones, as Qlib's own importers do, and say so."""
    values = rows.values
    factor, gaps = _filled(rows, factor)
    done = [f for f in _RAW_PRICES if f in values]
    for field in done:
        values[field] = values[field] * factor
    values["factor"] = factor
    volume = ""
    if "volume" in values:
        values["volume"] = values["volume"] / factor
        volume = ", volume divided by it"
    return f"{', '.join(done)} multiplied by {name}{volume}: prices are adjusted, factor is {name}{gaps}"


def _filled(rows: OrderedTable, factor: Floats) -> tuple[Floats, str]:
    """A factor without gaps, and what was done about them."""
    gaps = int((np.isnan(factor) & ~np.isnan(rows.values.get("close", factor))).sum())
    factor = rows.filled(factor)
    without = np.unique(rows.code[np.isnan(factor)])
    factor[np.isnan(factor)] = 1.0
    note = f"; where it is missing ({gaps} rows) it is that of the day before" if gaps else ""
    if without.size:
        shown = ", ".join(rows.codes[i] for i in without[:5]) + (", …" if without.size > 5 else "")
        note += f"; 1 for {shown}, which {'have' if without.size > 1 else 'has'} none"
    return factor, note
