"""A synthetic market with a weak signal, for the demo and for tests.

The same arguments give the same bytes on every machine: random numbers come from PCG64, and only operations are used
whose results IEEE 754 defines exactly: addition, multiplication, division, square root, rounding and comparison. There
are no exponentials, logarithms or matrix products, whose last digit depends on the CPU and the number of threads.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rollforge.dates import FIRST_DAY, LAST_DAY, ONE_DAY, Days, read_moment
from rollforge.errors import DataError, counted
from rollforge.market.folder_writer import write_folder
from rollforge.market.new_folder import FolderSummary, new_folder
from rollforge.market.universe_import import check_universe_name

__all__ = ["INDEX", "UNIVERSES", "demo_command", "make_demo"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

INDEX = "DEMO_INDEX"
"""The benchmark: members of ``demo300``, weighted by size. It belongs to no universe, so it is neither trained on nor traded."""

UNIVERSES = {"demo300": 300, "demo100": 100}
"""Name -> number of the largest instruments that belong to it after each review."""

_MIN_DAYS, _MAX_DAYS = 60, 50 * 262  # trading days
_REVIEW = 126  # trading days from one review of the universes to the next
_SECTORS = 8
_EFFECT = 0.07  # expected daily return at a signal of one, in idiosyncratic volatilities
_FIELDS = ("open", "high", "low", "close", "volume", "vwap", "factor")


@dataclass(frozen=True, slots=True)
class _Market:
    """Arrays (days, instruments) over the full calendar; days without trading are NaN in `bars` only."""

    bars: dict[str, Floats]
    returns: Floats
    size: Floats
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    traded: Flags


def make_demo(
    path: str | os.PathLike[str],
    *,
    instruments: int = 300,
    years: int = 6,
    seed: int = 7,
    start: str | dt.date | None = None,
    end: str | dt.date = "2023-12-29",
    universes: Sequence[str] = tuple(UNIVERSES),
    benchmarks: Sequence[str] = (INDEX,),
    codes: Sequence[str] = (),
    overwrite: bool = False,
) -> FolderSummary:
    """Write a synthetic market as a data folder, and return a summary.

    Instruments ``D0001`` … with a market and a sector factor, volatility that clusters, fat tails, dividends and splits
    (``factor``), late listings, delistings and suspensions (rows of NaN). Universes: ``all``, and by default
    ``demo300`` and ``demo100`` (the 300 and the 100 largest, reviewed twice a year; new listings are added at the next
    review). Benchmark: ``DEMO_INDEX``, which belongs to no universe.

    Names of real universes and benchmarks may be used; the data remain synthetic. With ``universes=["csi300"],
    benchmarks=["SH000300"], start="2008-01-01", end="2020-08-31"`` the examples of Qlib can be run.

    The signal: instruments that have fallen relative to their sector for five days (more so on low volume), or trade
    more than usual, rise slightly over the next two days. Alpha158 captures both, and LightGBM learns most of it.

    Parameters
    ----------
    path : path
        The folder.
    instruments : int
        Number of instruments, from 2 to 9999, not counting the index.
    years : int
        Length of the calendar, from 1 to 50, if no `start` is given. Trading days are weekdays except New Year and
        Christmas.
    seed : int
        Random seed.
    start : date, optional
        The calendar begins on this day, or on the next trading day.
    end : date
        The calendar ends on this day, or on the previous trading day.
    universes : sequence of str
        Names of universes besides ``all``. Trailing digits are the number of the largest instruments that belong to it;
        without digits all instruments do.
    benchmarks : sequence of str
        Codes of the indexes, in the order of the universes; further ones have the members of the first universe.
    codes : sequence of str
        Codes of the first instruments, instead of ``D0001`` ….
    overwrite : bool
        True replaces an existing data folder.

    Raises
    ------
    DataError
        If an argument is invalid, or `path` exists or is not writable.
    """
    named = [str(code).upper() for code in codes]
    _check(instruments, years, seed)
    sizes = _sizes(universes, instruments)
    indexes = [str(code).upper() for code in benchmarks]
    _check_names(named, indexes, instruments)
    days = _calendar(start, end, years)
    market = _simulate(np.random.Generator(np.random.PCG64(seed)), len(days), instruments)
    codes = [*named, *(f"D{i + 1:04d}" for i in range(len(named), instruments))]
    members = {name: _largest(market, count) for name, count in sizes.items()}
    lives = [(int(a), int(b) + 1) for a, b in zip(market.first, market.last, strict=True)]
    series = {
        code: (a, {name: values[a:b, i] for name, values in market.bars.items()})
        for i, (code, (a, b)) in enumerate(zip(codes, lives, strict=True))
    }
    weighted = list(members.values()) or [_largest(market, instruments)]
    for i, code in enumerate(indexes):
        series[code] = (0, _index(market, weighted[i if i < len(weighted) else 0]))
    lists = {name: _spans(mask, codes, days) for name, mask in members.items()}
    lists["all"] = {code: [(days[a], days[b - 1])] for code, (a, b) in zip(codes, lives, strict=True)}
    with new_folder(path, overwrite=overwrite) as draft:
        write_folder(draft, days, series, lists)
    rows = sum(b - a for a, b in lives)
    return FolderSummary(
        path=Path(path),
        instruments=len(series),
        days=len(days),
        fields=_FIELDS,
        first=days[0],
        last=days[-1],
        rows=rows + len(indexes) * len(days),
        missing=dict.fromkeys(_FIELDS, rows - int(market.traded.sum())),
        notes=(f"universes {', '.join(sorted(lists))}; benchmark {', '.join(indexes) or 'none'}",),
    )


def demo_command(
    path: str | os.PathLike[str],
    *,
    start: np.datetime64 | None = None,
    end: np.datetime64 | None = None,
    universe: str = "",
    benchmark: str = "",
) -> str:
    """Return the command that creates a demo market with the given days and names."""
    words = ["rollforge data demo", shlex.quote(str(path))]
    options = {"start": start, "end": end, "universe": universe, "benchmark": benchmark}
    words += [f"--{name} {shlex.quote(str(value))}" for name, value in options.items() if value]
    return " ".join(words)


def _check(instruments: int, years: int, seed: int) -> None:
    for name, value, low, high in (("instruments", instruments, 2, 9999), ("years", years, 1, 50)):
        if not low <= value <= high:
            raise DataError(f"A demo market must have {low} to {high} {name}, found {value}.")
    if seed < 0:
        raise DataError(f"The seed must not be negative, found {seed}.")


def _sizes(universes: Sequence[str], instruments: int) -> dict[str, int]:
    """Return {name: number of the largest instruments in it}."""
    sizes = {}
    for name in universes:
        check_universe_name(name)
        digits = re.search(r"\d+$", name)
        if name != "all":  # which always exists
            sizes[name] = int(digits[0]) if digits and int(digits[0]) else instruments
    return sizes


def _check_names(codes: Sequence[str], indexes: Sequence[str], instruments: int) -> None:
    if len(codes) > instruments:
        raise DataError(
            f"{counted(len(codes), 'code')} were given for {counted(instruments, 'instrument')}: "
            "give at most one code per instrument."
        )
    names = [*codes, *indexes]
    for name in names:
        if not re.fullmatch(r"[\w.-]+", name):
            raise DataError(f"{name!r} cannot be the code of an instrument. Use letters, digits, '.', '-' and '_'.")
        if names.count(name) > 1 or re.fullmatch(r"D\d{4}", name):
            raise DataError(f"Two instruments of the demo market would have the code {name!r}.")


def _calendar(start: str | dt.date | None, end: str | dt.date, years: int) -> Days:
    last = read_moment(end, "end").day
    if start is None:
        day = min(last.day, 28) if last.month == 2 else last.day  # 29 February has no counterpart in most years
        first = last.replace(year=last.year - years, day=day) + dt.timedelta(days=1)
    else:
        first = read_moment(start, "start").day
    if not FIRST_DAY <= np.datetime64(first) <= np.datetime64(last) <= LAST_DAY:
        raise DataError(
            f"A demo market cannot span {first} to {last}: the first day must precede the last, and "
            f"both must be within {FIRST_DAY} to {LAST_DAY}."
        )
    every: Days = np.arange(np.datetime64(first, "D"), np.datetime64(last, "D") + ONE_DAY)
    holidays = [f"{y}-{d}" for y in range(first.year, last.year + 1) for d in ("01-01", "12-25")]
    open_days: Days = every[np.is_busday(every, holidays=holidays)]
    if not _MIN_DAYS <= len(open_days) <= _MAX_DAYS:
        raise DataError(
            f"A demo market must have {_MIN_DAYS} to {_MAX_DAYS} trading days, but from {first} to {last} "
            f"there are {len(open_days)}."
        )
    return open_days


def _growth(x: Floats) -> Floats:
    """Approximate exp(x) for small x with square roots: always positive, and ``f(-x) = 1 / f(x)``."""
    half = x / 2
    root: Floats = half + np.sqrt(1 + half * half)
    return root * root


def _clustered(rng: np.random.Generator, days: int, columns: int) -> Floats:
    """Return shocks of unit variance with volatility clustering (GARCH(1, 1)), and a jump on one day in a hundred."""
    jump = np.where(rng.random((days, columns)) < 0.01, 3.5, 1.0)
    shocks: Floats = rng.standard_normal((days, columns)) * jump / np.sqrt(0.99 + 0.01 * 3.5 * 3.5)
    variance = np.ones(columns)
    for t in range(days):
        shocks[t] *= np.sqrt(variance)
        variance = 0.05 + 0.08 * np.minimum(shocks[t] * shocks[t], 25.0) + 0.87 * variance
    return shocks


def _autoregression(rng: np.random.Generator, days: int, columns: int, keep: float = 0.8) -> Floats:
    """Return deviations of unit variance that decay by the factor `keep` per day."""
    values = rng.standard_normal((days, columns))
    fresh = np.sqrt(1 - keep * keep)
    for t in range(1, days):
        values[t] = keep * values[t - 1] + fresh * values[t]
    return values


def _with_signal(noise: Floats, activity: Floats) -> Floats:
    """Return the noise with the added effect: day t depends on values known at the closes of t-1 and t-2."""
    own = noise.copy()
    signal = np.zeros_like(noise)
    for t in range(len(noise)):
        if t >= 2:
            own[t] += _EFFECT * (signal[t - 1] + signal[t - 2]) / 2
        if t >= 4:
            week = (own[t] + own[t - 1] + own[t - 2] + own[t - 3] + own[t - 4]) / np.sqrt(5.0)
            thin = 1 - 0.3 * np.clip(activity[t], -2.0, 2.0)
            signal[t] = 0.5 * np.clip(activity[t], -2.5, 2.5) - 0.85 * np.clip(week, -2.5, 2.5) * thin
    return own


def _lives(rng: np.random.Generator, days: int, columns: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return first and last day of each instrument: one in seven is listed late, one in sixteen is delisted."""
    late, gone = rng.random(columns) < 1 / 7, rng.random(columns) < 1 / 16
    first = np.where(late, np.floor((0.05 + 0.7 * rng.random(columns)) * days), 0).astype(np.int64)
    last = np.where(gone, np.floor((0.3 + 0.65 * rng.random(columns)) * days), days - 1).astype(np.int64)
    last = np.where(last - first < days // 8, days - 1, last)
    first[0], last[0] = 0, days - 1  # one instrument always exists, or the index would be empty
    return first, last


def _suspended(rng: np.random.Generator, days: int, columns: int) -> Flags:
    off = np.zeros((days, columns), bool)
    starts = np.argwhere(rng.random((days, columns)) < 0.0006)
    lengths = 1 + np.floor(12 * rng.random(len(starts))).astype(np.int64)
    for (day, column), length in zip(starts, lengths, strict=True):
        off[day : day + length, column] = True
    return off


def _factor(rng: np.random.Generator, days: int, columns: int) -> Floats:
    """Return the adjustment factor of raw prices, with one dividend per year and occasional two-for-one splits."""
    since_dividend = (np.arange(days)[:, None] + np.floor(252 * rng.random(columns))) % 252
    dividend = np.where(since_dividend == 251, 1 + 0.03 * rng.random(columns), 1.0)
    split = np.where(rng.random((days, columns)) < 0.0002, 2.0, 1.0)
    step = dividend * split
    step[0] = 1.0
    return np.multiply.accumulate(step, axis=0)


def _simulate(rng: np.random.Generator, days: int, columns: int) -> _Market:
    shape = (days, columns)
    beta = 0.6 + 0.8 * rng.random(columns)
    sector = np.floor(_SECTORS * rng.random(columns)).astype(np.int64)
    volatility = 0.011 + 0.015 * rng.random(columns)
    common = 0.0004 + 0.009 * _clustered(rng, days, 1) * beta
    common = common + 0.004 * _clustered(rng, days, _SECTORS)[:, sector]
    noise, activity = _clustered(rng, days, columns), _autoregression(rng, days, columns)
    returns = np.clip(common + volatility * _with_signal(noise, activity), -0.4, 0.6)

    start = 8 + 110 * rng.random(columns)
    shares = 2e9 * _growth(1.3 * rng.standard_normal(columns)) / start
    close = start * np.multiply.accumulate(1 + returns, axis=0)
    before = np.concatenate([start[None, :], close[:-1]])
    open_ = before * (1 + 0.4 * returns + 0.25 * volatility * rng.standard_normal(shape))
    high = np.maximum(open_, close) * (1 + 0.4 * volatility * np.abs(rng.standard_normal(shape)))
    low = np.minimum(open_, close) * (1 - 0.4 * volatility * np.abs(rng.standard_normal(shape)))
    factor = _factor(rng, days, columns)
    turnover = 0.004 * _growth(0.4 * activity + 0.15 * np.minimum(np.abs(noise), 4.0))
    bars = {
        "open": open_, "high": high, "low": low, "close": close,
        "volume": np.rint(shares * turnover) / factor,
        "vwap": (open_ + high + low + close) / 4,
        "factor": factor,
    }  # fmt: skip

    first, last = _lives(rng, days, columns)
    day = np.arange(days)[:, None]
    edge = (day == first) | (day == last)  # an instrument trades on its first and on its last day
    traded = (day >= first) & (day <= last) & (edge | ~_suspended(rng, days, columns))
    bars = {name: np.where(traded, values, np.nan) for name, values in bars.items()}
    return _Market(bars, returns, close * shares, first, last, traded)


def _largest(market: _Market, count: int) -> Flags:
    """Return a mask of the `count` largest instruments on each day, as of the last review."""
    days, columns = market.size.shape
    members = np.zeros((days, columns), bool)
    for review in range(0, days, _REVIEW):
        listed = np.flatnonzero((market.first <= review) & (market.last >= review))
        order = np.argsort(-market.size[review, listed], kind="stable")
        members[review : review + _REVIEW, listed[order[:count]]] = True
    return members & (np.arange(days)[:, None] <= market.last)


def _spans(members: Flags, codes: list[str], days: Days) -> dict[str, list[tuple[np.datetime64, np.datetime64]]]:
    edges = np.diff(members.astype(np.int8), axis=0, prepend=0, append=0)
    spans = {}
    for i, code in enumerate(codes):
        begins, ends = np.flatnonzero(edges[:, i] == 1), np.flatnonzero(edges[:, i] == -1) - 1
        if begins.size:
            spans[code] = [(days[a], days[b]) for a, b in zip(begins, ends, strict=True)]
    return spans


def _total(values: Floats) -> Floats:
    """Return the sum of each row, added from left to right (numpy's own sum regroups its terms)."""
    total: Floats = np.add.accumulate(values, axis=1)[:, -1]
    return total


def _index(market: _Market, members: Flags) -> dict[str, Floats]:
    held = members[1:] & (market.first < np.arange(1, len(members))[:, None])  # a first day has no return yet
    weight = np.where(held, market.size[:-1], 0.0)
    change = np.concatenate([np.zeros(1), _total(weight * market.returns[1:]) / _total(weight)])
    close = 1000 * np.multiply.accumulate(1 + change)
    before = np.concatenate([np.full(1, 1000.0), close[:-1]])
    open_ = before * (1 + 0.4 * change)
    high, low = np.maximum(open_, close) * 1.001, np.minimum(open_, close) * 0.999
    volume = _total(np.where(members & market.traded, market.bars["volume"], 0.0))
    return {
        "open": open_, "high": high, "low": low, "close": close,
        "volume": np.rint(volume), "vwap": (open_ + high + low + close) / 4, "factor": np.ones(len(close)),
    }  # fmt: skip
