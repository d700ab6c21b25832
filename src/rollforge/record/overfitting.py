"""Deflated Sharpe ratio and probability of overfitting: the effect of choosing the best of many trials.

Sources: D. H. Bailey and M. López de Prado, "The Deflated Sharpe Ratio", Journal of Portfolio Management 40 (2014);
D. H. Bailey, J. M. Borwein, M. López de Prado and Q. J. Zhu, "The Probability of Backtest Overfitting", Journal of
Computational Finance 20 (2017).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.errors import ConfigError, DataError

__all__ = [
    "DeflatedSharpe", "Overfitting", "backtest_overfitting", "deflated_sharpe", "expected_max_sharpe",
    "probabilistic_sharpe",
]  # fmt: skip

Floats = NDArray[np.float64]

_NORMAL = NormalDist()
_BLOCK = 2048
# Sharpe ratios of equal returns differ only by rounding.
_DIGITS = 11


def expected_max_sharpe(variance: float, trials: int) -> float:
    """Return the expected maximum of the Sharpe ratios of trials that have no skill.

    Parameters
    ----------
    variance : float
        Variance of the Sharpe ratios over the trials.
    trials : int
        Number of independent trials, at least 2.

    Returns
    -------
    float
        In the unit of the square root of `variance`: sqrt(V) ((1 - γ) Z⁻¹(1 - 1/N) + γ Z⁻¹(1 - 1/(N e))), with the
        Euler-Mascheroni constant γ and the inverse Z⁻¹ of the normal distribution function.

    Raises
    ------
    ConfigError
        If there are fewer than 2 trials, or the variance is negative or not a number.

    Examples
    --------
    The example of the paper: 100 trials whose annual Sharpe ratios have variance 1/2, in daily units:

    >>> round(expected_max_sharpe(1 / 2 / 250, 100), 4)
    0.1132
    """
    if isinstance(trials, bool) or trials != int(trials) or trials < 2:
        raise ConfigError(f"the maximum of several trials needs at least 2, found {trials!r}.", path="trials")
    if not 0 <= variance < math.inf:
        raise ConfigError(f"a variance must be at least 0, found {variance!r}.", path="variance")
    first, second = (_NORMAL.inv_cdf(1 - 1 / n) for n in (trials, trials * math.e))
    return math.sqrt(variance) * ((1 - np.euler_gamma) * first + np.euler_gamma * second)


def probabilistic_sharpe(
    sharpe: float, benchmark: float, observations: int, skew: float = 0.0, kurtosis: float = 3.0
) -> float:
    """Return the probability that the true Sharpe ratio exceeds a benchmark.

    Parameters
    ----------
    sharpe, benchmark : float
        Sharpe ratios per observation, not annualised.
    observations : int
        Number of returns.
    skew, kurtosis : float
        Skewness and kurtosis of the returns (3 for normal returns).

    Returns
    -------
    float
        Φ((SR - SR*) sqrt(T - 1) / sqrt(1 - skew SR + (kurtosis - 1)/4 SR²)); NaN if an argument is, or if there are
        fewer than 2 observations.

    Examples
    --------
    >>> round(probabilistic_sharpe(2.5 / 250**0.5, 0.1132, 1250, skew=-3, kurtosis=10), 3)
    0.9
    """
    spread = 1 - skew * sharpe + (kurtosis - 1) / 4 * sharpe**2
    if observations < 2 or not spread > 0:  # a Sharpe ratio that the moments do not allow, or NaN
        return math.nan
    z = (sharpe - benchmark) * math.sqrt(observations - 1) / math.sqrt(spread)
    return math.nan if math.isnan(z) else _NORMAL.cdf(z)


@dataclass(frozen=True, slots=True)
class DeflatedSharpe:
    """The Sharpe ratio of the best of several trials, and the probability that it is not due to the selection."""

    name: str
    """The best trial."""
    sharpe: float
    """Its Sharpe ratio per observation."""
    expected_max: float
    """Expected maximum of as many trials without skill, per observation."""
    probability: float
    """The deflated Sharpe ratio: the probability that the true Sharpe ratio exceeds `expected_max`."""
    trials: int
    observations: int
    """Number of returns of the best trial."""


def deflated_sharpe(returns: pd.DataFrame, trials: int | None = None) -> DeflatedSharpe:
    """Return the deflated Sharpe ratio of the best of several trials.

    Parameters
    ----------
    returns : DataFrame
        One column per trial and one row per observation; returns that do not overlap in time. NaN and infinite values
        are missing; a trial is evaluated on its own observations.
    trials : int, optional
        Number of trials, if the returns of some are unknown; by default those with a Sharpe ratio. The variance of the
        Sharpe ratios is that of the known ones.

    Raises
    ------
    DataError
        If fewer than 2 trials have a Sharpe ratio: at least 3 returns that are not all equal.
    """
    sharpes: dict[str, float] = {}
    own: dict[str, Floats] = {}
    for name in returns:
        values = returns[name].to_numpy(np.float64)
        values = values[np.isfinite(values)]
        if len(values) >= 3 and np.ptp(values) > 0:
            own[str(name)] = values
            sharpes[str(name)] = float(values.mean() / values.std(ddof=1))
    if len(sharpes) < 2:
        raise DataError(
            f"a deflated Sharpe ratio needs at least 2 variants with 3 different returns; there "
            f"{'is' if len(sharpes) == 1 else 'are'} {len(sharpes)}."
        )
    best = max(sharpes, key=lambda name: sharpes[name])
    values = own[best]
    unit = (values - values.mean()) / values.std()
    number = max(len(sharpes), trials or 0)
    expected = expected_max_sharpe(float(np.var(list(sharpes.values()), ddof=1)), number)
    probability = probabilistic_sharpe(
        sharpes[best], expected, len(values), float((unit**3).mean()), float((unit**4).mean())
    )
    return DeflatedSharpe(best, sharpes[best], expected, probability, number, len(values))


@dataclass(frozen=True, slots=True, eq=False)
class Overfitting:
    """The probability of backtest overfitting, and what it was computed from."""

    probability: float
    """Share of the divisions in which the trial that is best in one half is below the median of the other half."""
    logits: Floats
    """Logit of its relative rank in the other half, for each division; below 0 is below the median."""
    trials: int
    observations: int
    groups: int


def backtest_overfitting(returns: pd.DataFrame, groups: int = 16) -> Overfitting:
    """Return the probability of backtest overfitting (PBO), by combinatorially symmetric cross-validation.

    The observations are divided into consecutive groups, and each possible half of the groups serves once as the sample
    in which the trial with the highest Sharpe ratio is selected; its rank among the trials is taken in the other half.

    Parameters
    ----------
    returns : DataFrame
        One column per trial and one row per observation, in order; returns that do not overlap in time. Rows in which a
        value is missing or infinite are left out.
    groups : int
        Number of groups, even.

    Returns
    -------
    Overfitting
        Equal trials share their ranks, and a rank at the median counts half. The Sharpe ratio of equal returns is 0.

    Raises
    ------
    ConfigError
        If `groups` is not an even number from 2 to 20.
    DataError
        If there are fewer than 2 trials, or fewer than two complete observations per group.

    Examples
    --------
    >>> days = np.arange(64)
    >>> noise = np.sin(days * 7.0)
    >>> found = backtest_overfitting(pd.DataFrame({"good": noise + 1.0, "bad": noise - 1.0}), groups=8)
    >>> found.probability, len(found.logits)
    (0.0, 70)
    """
    if not isinstance(groups, int) or groups % 2 or not 2 <= groups <= 20:
        raise ConfigError(f"must be an even number from 2 to 20, found {groups!r}.", path="groups")
    values = returns.to_numpy(np.float64)
    values = values[np.isfinite(values).all(axis=1)]
    count, trials = values.shape
    if trials < 2:
        raise DataError(f"the probability of overfitting needs at least 2 variants; there {_is(trials)}.")
    if count < 2 * groups:
        raise DataError(
            f"the probability of overfitting needs at least {2 * groups} observations shared by all variants, two in each of "
            f"{groups} groups; there {_is(count)}."
        )
    scale = np.abs(values).max(axis=0)
    values = values / np.where(scale > 0, scale, 1.0)
    parts = np.array_split(values - values.mean(axis=0), groups)
    shift = values.mean(axis=0)
    sums = _Sums(
        np.array([len(p) for p in parts], np.float64), np.array([p.sum(axis=0) for p in parts]),
        np.array([(p**2).sum(axis=0) for p in parts]), shift,
    )  # fmt: skip
    chosen = np.zeros((math.comb(groups, groups // 2), groups))
    for row, half in zip(chosen, itertools.combinations(range(groups), groups // 2), strict=True):
        row[list(half)] = 1.0
    below, logits = 0.0, []
    for start in range(0, len(chosen), _BLOCK):
        inside = chosen[start : start + _BLOCK]
        ranks = _ranks_of_best(sums.sharpe(inside), sums.sharpe(1.0 - inside)) / (trials + 1)
        below += float((ranks < 0.5).sum() + (ranks == 0.5).sum() / 2)
        logits.append(np.log(ranks / (1 - ranks)))
    return Overfitting(below / len(chosen), np.concatenate(logits), trials, count, groups)


def _is(count: int) -> str:
    return f"{'is' if count == 1 else 'are'} {count or 'none'}"


@dataclass(frozen=True, slots=True)
class _Sums:
    """Sums of the centred returns of each group: (groups,), (groups, trials), (groups, trials)."""

    sizes: Floats
    first: Floats
    second: Floats
    shift: Floats
    """What was subtracted from each trial."""

    def sharpe(self, inside: Floats) -> Floats:
        """Return the Sharpe ratio of each trial over the chosen groups: (divisions, groups) -> (divisions, trials)."""
        size = (inside @ self.sizes)[:, None]
        mean = inside @ self.first / size
        variance = (inside @ self.second - size * mean**2) / (size - 1)
        varies = variance > 1e-14
        ratio = (mean + self.shift) / np.sqrt(np.where(varies, variance, 1.0))
        return np.asarray(np.round(np.where(varies, ratio, 0.0), _DIGITS), np.float64)


def _ranks_of_best(inside: Floats, outside: Floats) -> Floats:
    """Return the rank, from 1, in `outside` of the trial that is best in `inside`; the mean rank if several are
    best."""
    best = inside == inside.max(axis=1, keepdims=True)
    ranks = np.zeros(len(inside))
    for trial in np.flatnonzero(best.any(axis=0)):
        rows = best[:, trial]
        own, others = outside[rows, trial, None], outside[rows]
        ranks[rows] += (others < own).sum(axis=1) + ((others == own).sum(axis=1) + 1) / 2
    made: Floats = ranks / best.sum(axis=1)
    return made
