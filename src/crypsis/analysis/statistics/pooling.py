"""The interval of a mean over few members: seeds, or organisms with seeds in them.

Few seeds understate how much seeds differ, most of all where the quantity is skewed or has two modes, so what seeds add
is stretched (``student``). ``coverage.py`` simulates how often the interval holds the truth; docs/statistics.md has its
table. Below ``FEW`` members no interval over them holds what it promises: it is then over requests alone, and says so.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit

from crypsis.arrays import Floats
from crypsis.evaluation.metrics import Z, resample_weights

FEW = 3
"""With fewer seeds than this an interval is over requests alone, and nothing is tested."""
NO_SPREAD = 1e-18
"""A variance below this is rounding: shares of the same requests differ by no more."""


@dataclass(frozen=True, slots=True)
class Pooled:
    """A quantity over seeds or organisms.

    Attributes:
        mean: The estimate.
        low: Lower end of the interval.
        high: Upper end.
        members: Seeds, or organisms if there are several.
        over_requests: Whether the interval is over requests alone, because there are fewer than ``FEW`` members.
        fixed: Variance that is known well: that of the requests.
        sampled: Variance that few members estimate, with their number.
    """

    mean: float
    low: float
    high: float
    members: int
    over_requests: bool = False
    fixed: float = 0.0
    sampled: tuple[tuple[float, int], ...] = ()

    @property
    def p(self) -> float | None:
        """Two-sided: one minus the level at which a symmetric interval would end at 0; None if over requests alone."""
        return None if self.over_requests else p_value(self.mean, self.fixed, self.sampled)


def pool(
    groups: Sequence[Floats], level: float = 0.95, spare: float = 0.0, sampled: bool = True, shared: bool = False
) -> Pooled:
    """Mean of a quantity over seeds, or over organisms with seeds in them, with its interval.

    One group: requests and seeds are resampled. Several groups are organisms; if they are a sample of those that one
    could have built, requests, organisms, and the seeds within each are resampled, otherwise requests and seeds. The
    deviation due to the topmost level is stretched by ``student``, so that the interval keeps its coverage with few of
    them; with fewer than ``FEW`` requests alone are resampled.

    Where a seed stands for a base that all organisms share, seeds are resampled for all organisms at once, and what
    they add is stretched for their own number: an average over organisms does not average a base away.

    Args:
        groups: Each of shape [1 + RESAMPLES, seeds]; the first row is the estimate itself, the others are the same
            under resamples of the requests (``request_draws``).
        level: Level of the interval.
        spare: Half a width that is added where no resample differs from another.
        sampled: Whether several organisms stand for others.
        shared: Whether column s of every group is the same base; then all groups must have the same columns.

    Raises:
        ValueError: Groups of different columns cannot share them.
    """
    many = sampled and len(groups) > 1
    if shared and len({group.shape[1] for group in groups}) > 1:
        raise ValueError("shared seeds: every group must have the same ones")
    topmost = len(groups) if many else min(group.shape[1] for group in groups)
    fixed: Floats = np.stack([group.mean(axis=1) for group in groups], axis=1)
    mean, centre = float(fixed[0].mean()), fixed[1:].mean(axis=1)
    bases = groups[0].shape[1] if shared else topmost
    if min(topmost, bases) < FEW:
        return _ended(centre, mean, level, spare, min(topmost, bases), ())
    streams = [3 if shared else 3 + i for i in range(len(groups))]
    within = np.stack([_resampled(g[1:], s) for g, s in zip(groups, streams, strict=True)], axis=1) - fixed[1:]
    parts = [within[:, i] / len(groups) for i in range(len(groups))]
    counts = [group.shape[1] for group in groups]
    if shared:
        parts, counts = [within.mean(axis=1)], [bases]
    if many:
        drawn = (fixed[1:] * resample_weights(topmost, stream=2)).sum(axis=1) / topmost - fixed[1:].mean(axis=1)
        centre = centre if shared else centre + within.mean(axis=1)
        parts, counts = [drawn, *(parts if shared else ())], [topmost, *(counts if shared else ())]
    return _ended(centre, mean, level, spare, topmost, list(zip(parts, counts, strict=True)))


def _ended(
    centre: Floats, mean: float, level: float, spare: float, members: int, parts: Sequence[tuple[Floats, int]]
) -> Pooled:
    """The interval of draws to which few members add deviations, each [RESAMPLES] with their number."""
    draws = centre + sum(student(count, level) * part for part, count in parts)
    tail = 50 * (1 - level)
    low, high = _percentiles(draws, tail)
    fixed = _variance(centre)
    if low == high:
        low, high, fixed = low - spare, high + spare, (spare / Z) ** 2
    spreads = tuple((_variance(part) * count / (count - 1), count) for part, count in parts)
    return Pooled(mean, min(low, mean), max(high, mean), members, not parts, fixed, spreads)


def _percentiles(draws: Floats, tail: float) -> tuple[float, float]:
    """Two percentiles, ``tail`` from either end, of the draws that are numbers."""
    if np.isnan(draws).any():
        low, high = np.nanpercentile(draws, (tail, 100 - tail))
        return float(low), float(high)
    # numpy's own rule, in a fifth of its time.
    places = (len(draws) - 1) * np.true_divide((tail, 100 - tail), 100)
    before = np.floor(places).astype(np.intp)
    after = np.minimum(before + 1, len(draws) - 1)
    ordered = np.partition(draws, [*before, *after])
    below, above, share = ordered[before], ordered[after], places - before
    ends = np.where(share < 0.5, below + (above - below) * share, above - (above - below) * (1 - share))
    return float(ends[0]), float(ends[1])


def _variance(draws: Floats) -> float:
    """The variance of the draws that are numbers."""
    return float(np.nanvar(draws) if np.isnan(draws).any() else np.var(draws))


def p_value(mean: float, fixed: float, sampled: Sequence[tuple[float, int]]) -> float:
    """One minus the level at which a symmetric interval around a mean would end at 0.

    Args:
        mean: The estimate.
        fixed: Variance that is known well.
        sampled: Variances that few members estimate, each with their number.

    Returns:
        0 where nothing varies and the mean is not 0: nothing says how often chance would do that.
    """
    spreads = [(variance, count) for variance, count in sampled if variance > NO_SPREAD]
    fixed = fixed if fixed > NO_SPREAD else 0.0

    def excess(log_tail: float) -> float:
        tail = math.exp(log_tail)
        parts = sum(float(stdtrit(degrees(count), tail)) ** 2 * variance for variance, count in spreads)
        return float(ndtri(tail)) ** 2 * fixed + parts - mean * mean

    if mean * mean <= NO_SPREAD:
        return 1.0
    if not (spreads or fixed) or excess(math.log(1e-15)) <= 0:
        return 0.0
    return 2 * math.exp(float(brentq(excess, math.log(1e-15), math.log(0.5))))


def pool_difference(left: Floats, right: Floats, level: float = 0.95, spare: float = 0.0) -> Pooled:
    """Difference of two means over runs that are not paired; requests are.

    Twice the mean of ``left`` and ``-right``, each of which is resampled and stretched by itself.

    Args:
        left: Shape [1 + RESAMPLES, runs], from ``request_draws``.
        right: The same of the runs that are subtracted.
        level: Level of the interval.
        spare: As for ``pool``.
    """
    return pool([2 * left, -2 * right], level, spare, sampled=False)


def degrees(count: int) -> float:
    """Degrees of freedom of an interval over ``count`` members: two thirds of those of normal ones.

    Where members are skewed, their variance is small by chance just when their mean is far off. Two thirds is what
    simulated coverage asks for (``coverage.py``): with all of them 87 % at five seeds and many requests.
    """
    return 2 * (count - 1) / 3


@functools.lru_cache(maxsize=256)
def student(count: int, level: float = 0.95) -> float:
    """How much wider than a plain bootstrap's an interval over ``count`` members must be.

    The resampled spread is short by (count - 1) / count, and the spread itself is an estimate (Student).
    """
    tail = 0.5 + level / 2
    return math.sqrt(count / (count - 1)) * float(stdtrit(degrees(count), tail) / ndtri(tail))


def _resampled(draws: Floats, stream: int) -> Floats:
    """The mean over columns when columns are resampled, shape [RESAMPLES]; a single column stays as it is."""
    count = draws.shape[1]
    mean: Floats = (draws * resample_weights(count, stream=stream)).sum(axis=1) / count if count > 1 else draws[:, 0]
    return mean
