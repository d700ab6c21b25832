"""A synthetic market to try things on: realistic enough to look at, with a weak signal that Alpha158 can see.

Returns are a market factor, a sector factor and fat-tailed noise of each instrument's own. Planted in them: a part of an
instrument's own return of the last five days is given back over the next days (short-term reversal), stronger after days
of high volume. The information coefficient of a model that finds it is about 0.05, as a good real signal's is.
"""

from __future__ import annotations

import datetime as dt
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollforge.data.importer import write_whole
from rollforge.data.provider import write_folder
from rollforge.errors import ConfigError

__all__ = ["DemoSummary", "make_demo"]

BENCHMARK = "DEMO_INDEX"
_LAST_DAY = dt.date(2023, 12, 29)
_SIGNAL = 0.028


@dataclass(frozen=True, slots=True)
class DemoSummary:
    """What was made."""

    instruments: int
    days: int
    first_day: np.datetime64
    last_day: np.datetime64
    universes: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.instruments} instruments, {self.days} days from {self.first_day} to {self.last_day}, "
            f"universes {', '.join(self.universes)}, benchmark {BENCHMARK}"
        )


def make_demo(
    folder: str | os.PathLike[str],
    *,
    instruments: int = 300,
    years: int = 6,
    seed: int = 7,
    overwrite: bool = False,
) -> DemoSummary:
    """Write a synthetic market as a data folder; the same arguments make the same bytes on every machine.

    Parameters
    ----------
    folder : path
        The data folder to make.
    instruments : int
        How many, besides the benchmark index ``DEMO_INDEX``.
    years : int
        Years of trading days, up to the end of 2023.
    seed : int
        Another seed, another market.
    overwrite : bool
        True replaces a folder that is there.

    Returns
    -------
    DemoSummary
        Universes: ``all``; ``demo300`` and ``demo100``, the largest 300 and 100 of each half-year.

    Raises
    ------
    ConfigError
        For fewer than 2 instruments or less than 1 year.
    DataError
        When the folder is there and not to be replaced, or cannot be written.
    """
    if instruments < 2 or years < 1:
        raise ConfigError("A market needs at least 2 instruments and 1 year.")
    first_year = _LAST_DAY.year - years + 1
    calendar = np.arange(np.datetime64(f"{first_year}-01-01", "D"), np.datetime64(_LAST_DAY, "D") + 1)
    calendar = calendar[np.is_busday(calendar)]
    market = _Market(instruments, len(calendar), np.random.Generator(np.random.PCG64(seed)))
    series = {f"D{i:04d}": market.fields(i) for i in range(instruments)}
    series[BENCHMARK] = market.index()
    spans = {f"D{i:04d}": [(calendar[market.listed[i]], calendar[market.gone[i] - 1])] for i in range(instruments)}
    universes: dict[str, Any] = {"all": spans}
    for size in (300, 100):
        universes[f"demo{size}"] = _largest(market, calendar, size)
    write_whole(folder, lambda draft: write_folder(Path(draft), calendar, series, universes), overwrite=overwrite)
    return DemoSummary(instruments, len(calendar), calendar[0], calendar[-1], tuple(universes))


class _Market:
    """Prices and volumes of all instruments. Only element-wise arithmetic and cumulative sums: the same bits everywhere."""

    def __init__(self, n: int, days: int, random: np.random.Generator) -> None:
        self.n, self.days = n, days
        market = 0.0002 + 0.009 * random.standard_t(5, days) / 1.29
        sectors = 0.005 * random.standard_normal((10, days))
        beta = random.uniform(0.6, 1.4, n)
        volatility = random.uniform(0.010, 0.024, n)
        noise = random.standard_t(4, (n, days)) / 1.41
        busy = random.standard_normal((n, days))
        self.own, activity = self._own_returns(noise * volatility[:, None], busy)
        returns = beta[:, None] * market + sectors[np.arange(n) % 10] + self.own
        self.close = random.uniform(8, 120, n)[:, None] * np.exp(np.cumsum(returns, axis=1))
        shares = np.exp(random.normal(13.0, 1.0, n))
        self.volume = np.round(shares[:, None] * np.exp(0.35 * activity))
        self.cap = self.close * shares[:, None] * 100
        self.gap = random.normal(0, 0.3, (n, days)) * volatility[:, None]
        self.reach = np.abs(random.normal(0, 0.5, (2, n, days))) * volatility[:, None]
        self.listed = np.where(random.random(n) < 0.15, random.integers(0, max(1, days // 2), n), 0)
        lasting = days - np.where(random.random(n) < 0.08, random.integers(0, max(1, days // 3), n), 0)
        self.gone = np.maximum(lasting, self.listed + min(60, days - 1)).clip(max=days)
        self.quiet = random.random((n, days)) < 0.0008
        self.returns = market

    @staticmethod
    def _own_returns(noise: NDArray[Any], busy: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Each instrument's own returns, with the planted reversal, and its trading activity."""
        own = np.zeros_like(noise)
        activity = np.zeros_like(noise)
        for t in range(noise.shape[1]):
            recent = own[:, max(0, t - 5) : t].sum(axis=1) if t else 0.0
            strength = _SIGNAL * (1.0 + 0.5 * np.tanh(activity[:, t - 1])) if t else 0.0
            own[:, t] = noise[:, t] - strength * recent
            activity[:, t] = 0.7 * activity[:, t - 1] + 0.7 * busy[:, t] + 8.0 * np.abs(noise[:, t])
        return own, activity

    def fields(self, i: int) -> tuple[int, dict[str, NDArray[Any]]]:
        """Place of the first day, and the fields from there on; suspended days are missing."""
        life = slice(int(self.listed[i]), int(self.gone[i]))
        close = self.close[i, life]
        before = np.concatenate([close[:1], close[:-1]])
        opened = before * np.exp(self.gap[i, life])
        high = np.maximum(opened, close) * np.exp(self.reach[0, i, life])
        low = np.minimum(opened, close) * np.exp(-self.reach[1, i, life])
        made = {
            "open": opened, "high": high, "low": low, "close": close, "volume": self.volume[i, life],
            "vwap": (opened + high + low + 2 * close) / 5, "factor": np.ones_like(close),
        }  # fmt: skip
        quiet = self._suspended(i)[life]
        quiet[[0, -1]] = False
        return life.start, {name: np.where(quiet, np.nan, v).astype(np.float32) for name, v in made.items()}

    def _suspended(self, i: int) -> NDArray[np.bool_]:
        """A suspension lasts five days."""
        quiet = self.quiet[i].copy()
        for _ in range(4):
            quiet[1:] |= quiet[:-1].copy()
        return np.asarray(quiet, bool)

    def index(self) -> tuple[int, dict[str, NDArray[Any]]]:
        """The benchmark: the market factor's level."""
        level = (1000 * np.exp(np.cumsum(self.returns))).astype(np.float32)
        names = ("open", "high", "low", "close", "vwap")
        flat = {"volume": np.full(self.days, 1e6, np.float32), "factor": np.ones(self.days, np.float32)}
        return 0, {**dict.fromkeys(names, level), **flat}


def _largest(market: _Market, calendar: NDArray[np.datetime64], size: int) -> dict[str, list[tuple[Any, Any]]]:
    """The members of an index of the largest, chosen anew every half-year."""
    members: dict[str, list[tuple[Any, Any]]] = {}
    for start in range(0, len(calendar), 126):
        stop = min(start + 126, len(calendar))
        alive = (market.listed <= start) & (market.gone >= stop)
        ranked = np.lexsort((np.arange(market.n), -market.cap[:, start]))
        for i in [i for i in ranked if alive[i]][:size]:
            members.setdefault(f"D{i:04d}", []).append((calendar[start], calendar[stop - 1]))
    return members
