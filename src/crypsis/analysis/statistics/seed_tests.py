"""Tests over seeds, corrections for many of them, seeds needed, and rates corrected for a monitor's errors.

The unit is the seed (or the organism), never the transcript: transcripts of one run are not independent
of each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import gammaincinv, nctdtr, ndtr, ndtri, stdtrit  # scipy.stats takes a second to import

from crypsis.analysis.statistics.pooling import FEW, degrees
from crypsis.arrays import Floats
from crypsis.evaluation.metrics import Estimate, Z

POWER, ALPHA = 0.8, 0.05
"""The usual ones (Cohen 1988)."""
MOST_SEEDS = 200
"""Nobody runs more."""
DIP_RUNS = 30
"""Runs from which a dip test that finds nothing speaks against two modes. Simulated with two modes of equal weight at
0.05 (SD 0.05) and 0.70 (SD 0.12), 100 samples of each size: found in 43 % at 10 runs, 73 % at 20, 94 % at 30."""


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction: below α, a p value survives whatever the family's other hypotheses are.

    Args:
        ps: The family's p values.

    Returns:
        Adjusted, in the same order.
    """
    adjusted, least = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        least = max(least, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = least
    return adjusted


def partial_conjunction_p(ps: Sequence[float], least: int) -> float:
    """The p value that fewer than ``least`` hypotheses are false: Benjamini and Heller 2008, by Bonferroni.

    Args:
        ps: One p an organism.
        least: How many organisms the claim needs: all of them (then the largest p decides), most, or one.
    """
    return min(1.0, (len(ps) - least + 1) * sorted(ps)[least - 1])


def seeds_needed(deviation: float, effect: float, power: float = POWER, alpha: float = ALPHA) -> int | None:
    """Seeds with which an interval over paired differences excludes 0 with the given power.

    As a t test with the degrees of freedom of ``pooling.degrees``, over seeds that are about normal.

    Args:
        deviation: Standard deviation of the paired differences between seeds.
        effect: The difference to be found, as a claim's margin states it beforehand; not the one that was observed.
        power: Chance to find it.
        alpha: Two-sided level.

    Returns:
        At least ``FEW``; None if more than ``MOST_SEEDS``.

    Raises:
        ValueError: An effect of 0 cannot be found.
    """
    if effect == 0:
        raise ValueError("no number of seeds finds an effect of 0")
    if deviation == 0:
        return FEW
    for seeds in range(FEW, MOST_SEEDS + 1):
        shift = abs(effect) / deviation * math.sqrt(seeds)
        critical = stdtrit(degrees(seeds), 1 - alpha / 2)
        if 1 - nctdtr(seeds - 1, shift, critical) >= power:
            return seeds
    return None


def deviation_interval(values: Sequence[float], noise: float = 0.0, level: float = 0.95) -> tuple[float, float, float]:
    """Standard deviation between seeds with its interval (chi squared, so for seeds that are about normal).

    Args:
        values: One a seed; at least two.
        noise: Variance that finite evaluations alone bring; it is subtracted.
        level: Level of the interval.

    Returns:
        Estimate, low, high; 0 where the noise explains the spread.
    """
    count = len(values)
    squared = float(np.var(values, ddof=1))
    ends = (1.0, *((count - 1) / chi2_quantile(q, count - 1) for q in (0.5 + level / 2, 0.5 - level / 2)))
    estimate, low, high = (math.sqrt(max(0.0, squared * end - noise)) for end in ends)
    return estimate, low, high


def rank_correlation(x: Sequence[float], y: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Spearman's correlation over runs with its interval (Fisher's z, variance after Bonett and Wright 2000).

    Returns:
        Estimate, low, high; 0 with the widest interval where one side never varies or there are fewer than five runs.
    """
    if _no_correlation(x, y):
        return 0.0, -1.0, 1.0
    found, middle, error = _fisher(x, y)
    half = float(ndtri(0.5 + level / 2)) * error
    return found, math.tanh(middle - half), math.tanh(middle + half)


def correlation_p(x: Sequence[float], y: Sequence[float]) -> float:
    """Two-sided p of Spearman's correlation over runs: one minus the level at which its interval would end at 0."""
    if _no_correlation(x, y):
        return 1.0
    _, middle, error = _fisher(x, y)
    return float(2 * ndtr(-abs(middle) / error))


def _no_correlation(x: Sequence[float], y: Sequence[float]) -> bool:
    return len(x) < 5 or np.ptp(x) == 0 or np.ptp(y) == 0


def _fisher(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Spearman's correlation, its Fisher z and the error of that."""
    matrix: Floats = np.asarray(np.corrcoef(np.stack([_ranks(x), _ranks(y)], axis=1), rowvar=False))
    found = float(matrix[1, 0])
    middle = math.atanh(max(-0.999999, min(0.999999, found)))
    return found, middle, math.sqrt((1 + found * found / 2) / (len(x) - 3))


def _ranks(values: Sequence[float]) -> Floats:
    """Ranks from 1, equal values sharing the mean of theirs."""
    _, place, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    found: Floats = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return found


def chi2_quantile(level: float, freedom: int) -> float:
    """The quantile of the chi-squared distribution."""
    return 2 * float(gammaincinv(freedom / 2, level))


def corrected_rate(flagged: Estimate, recall: float, false_positives: float, n_recall: int, n_false: int) -> Estimate:
    """The true rate behind a monitor's rate of flags (Rogan and Gladen 1978, interval of Lang and Reiczigel 2014).

    It holds as long as the monitor errs as it did when it was measured; a policy trained against it sees to it
    that it does not.

    Args:
        flagged: Share that the monitor flags, with ``n``.
        recall: Share of the faking transcripts that it flagged when it was measured.
        false_positives: Share of the others that it flagged.
        n_recall: Faking transcripts behind ``recall``.
        n_false: Others behind ``false_positives``.

    Returns:
        In [0, 1]; unknown where the rate is, or where the monitor flags fakers no more than others.
    """
    if flagged.mean is None or recall <= false_positives:
        return Estimate(None, None, None, 0)

    def true(rate: float, hits: float, alarms: float) -> float:
        return (rate - alarms) / (hits - alarms)

    mean = min(1.0, max(0.0, true(flagged.mean, recall, false_positives)))
    # Agresti-Coull-like counts: Lang and Reiczigel add one success and one failure to each error rate.
    n, rate = flagged.n + Z * Z, (flagged.n * flagged.mean + Z * Z / 2) / (flagged.n + Z * Z)
    hits, alarms = (n_recall * recall + 1) / (n_recall + 2), (n_false * false_positives + 1) / (n_false + 2)
    if hits <= alarms:
        return Estimate(mean, 0.0, 1.0, flagged.n)
    middle = true(rate, hits, alarms)
    missed, false = hits * (1 - hits) / (n_recall + 2), alarms * (1 - alarms) / (n_false + 2)
    variance = rate * (1 - rate) / n + (1 - middle) ** 2 * false + middle**2 * missed
    half = Z * math.sqrt(variance) / (hits - alarms)
    shift = 2 * Z * Z * (middle * missed - (1 - middle) * false)
    low, high = (min(1.0, max(0.0, middle + shift + side * half)) for side in (-1, 1))
    return Estimate(mean, min(low, mean), max(high, mean), flagged.n)
