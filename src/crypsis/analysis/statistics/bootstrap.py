"""The interval method of every figure over seeds: points of a curve, end-points, differences, claims.

All seeds are evaluated on the same requests, so one resample draws requests once for all seeds and then draws seeds:
variation from requests is shared by the seeds and is not averaged away by adding seeds. Few seeds understate how much
seeds differ, most of all where the quantity is skewed or has two modes, so what seeds add is stretched (``student``).
``coverage.py`` simulates how often the interval holds the truth; docs/statistics.md has its table. Below ``FEW`` seeds
no interval over seeds holds what it promises: it is then over requests alone, and says so.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit

from crypsis.arrays import Floats
from crypsis.evaluation.metrics import Estimate, Tally, Z, bounds, resample_weights, room

FEW = 3
"""With fewer seeds than this an interval is over requests alone, and nothing is tested."""
NO_SPREAD = 1e-18
"""A variance below this is rounding: shares of the same requests differ by no more."""
EXACT = float(1 << 24)
"""Whole numbers below this, and sums that stay below it, are exact in single precision."""


@dataclass(frozen=True, slots=True)
class SeedEstimate(Estimate):
    """A figure over seeds with its 95 % interval.

    Attributes:
        by_seed: The figure of each seed on which it is known.
        over_requests: Whether the interval is over requests alone, because there are fewer than ``FEW`` seeds.
        p: Of a difference: one minus the level at which its interval would end at 0; None if over requests alone.
    """

    by_seed: tuple[tuple[int, float], ...] = ()
    over_requests: bool = False
    p: float | None = None


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


@dataclass(frozen=True, slots=True)
class Curve:
    """One metric of one arm over training.

    Attributes:
        metric: Name, as in ``evaluation.metrics``.
        steps: Training steps at which every seed was evaluated, ascending.
        points: The mean over seeds at each step.
        seeds: The (step, value) points of each seed.
    """

    metric: str
    steps: tuple[int, ...]
    points: tuple[SeedEstimate, ...]
    seeds: dict[int, tuple[tuple[int, float], ...]]


def over_seeds(tallies: Mapping[int, Tally], metric: str) -> SeedEstimate:
    """Mean of a metric over seeds, with the bootstrap interval over seeds and requests.

    Args:
        tallies: The evaluation at one step, keyed by seed.
        metric: Name, as in ``evaluation.metrics``. Seeds on which it is unknown are left out.
    """
    known = {seed: mean for seed, tally in sorted(tallies.items()) if (mean := tally.mean(metric)) is not None}
    if not known:
        return SeedEstimate(None, None, None, 0)
    tops, bottoms = _stacked([tallies[seed] for seed in known], metric)
    return _estimated(known, tops, bottoms, _draws(tops, bottoms), metric)


def each_over_seeds(tallies: Mapping[int, Tally], metrics: Sequence[str]) -> dict[str, SeedEstimate]:
    """``over_seeds`` of several metrics; what is counted on the same requests is resampled at once."""
    waiting: dict[str, tuple[dict[int, float], Floats, Floats]] = {}
    for metric in metrics:
        known = {seed: mean for seed, tally in sorted(tallies.items()) if (mean := tally.mean(metric)) is not None}
        if known:
            tops, bottoms = _stacked([tallies[seed] for seed in known], metric)
            if _is_exact(tops) and _is_exact(bottoms):
                waiting[metric] = known, tops, bottoms
    found: dict[str, SeedEstimate] = {}
    for count in {len(tops) for _, tops, _ in waiting.values()}:
        own = [metric for metric, (_, tops, _) in waiting.items() if len(tops) == count]
        tops, bottoms = (np.concatenate([waiting[metric][i] for metric in own], axis=1) for i in (1, 2))
        ends = np.cumsum([len(waiting[metric][0]) for metric in own])[:-1]
        for metric, drawn in zip(own, np.split(_draws(tops, bottoms), ends, axis=1), strict=True):
            found[metric] = _estimated(*waiting[metric], drawn, metric)
    return {metric: found[metric] if metric in found else over_seeds(tallies, metric) for metric in metrics}


def mean_of(tallies: Mapping[int, Tally], metric: str) -> SeedEstimate:
    """``over_seeds`` without an interval."""
    known = {seed: mean for seed, tally in sorted(tallies.items()) if (mean := tally.mean(metric)) is not None}
    if not known:
        return SeedEstimate(None, None, None, 0)
    n = int(sum(tallies[seed].bottom[metric].sum() for seed in known))
    return SeedEstimate(float(np.mean(list(known.values()))), None, None, n, tuple(known.items()))


def _estimated(known: Mapping[int, float], tops: Floats, bottoms: Floats, draws: Floats, metric: str) -> SeedEstimate:
    """The estimate over the seeds on which a metric is known, from its draws, [RESAMPLES, seeds]."""
    found = pool([_with_values(known, draws)], spare=_spare(bottoms, metric))
    least, most = bounds(metric)
    low, high = max(least, found.low), min(most, found.high)
    return SeedEstimate(found.mean, low, high, int(bottoms.sum()), tuple(known.items()), found.over_requests)


def difference(arm: Mapping[int, Tally], baseline: Mapping[int, Tally], metric: str) -> SeedEstimate:
    """Arm minus baseline, paired by seed and by request.

    Returns:
        The mean difference over the seeds that both have, unknown if they share none; ``n`` counts the arm's
        transcripts.
    """
    pairs = {
        seed: left - right
        for seed in sorted(arm.keys() & baseline.keys())
        if (left := arm[seed].mean(metric)) is not None and (right := baseline[seed].mean(metric)) is not None
    }
    if not pairs:
        return SeedEstimate(None, None, None, 0)
    tops, bottoms = _stacked([tallies[seed] for tallies in (arm, baseline) for seed in pairs], metric)
    draws = _draws(tops, bottoms)
    found = pool([_with_values(pairs, draws[:, : len(pairs)] - draws[:, len(pairs) :])], spare=_spare(bottoms, metric))
    n = int(bottoms[:, : len(pairs)].sum())
    least, most = bounds(metric)
    low, high = max(least - most, found.low), min(most - least, found.high)
    return SeedEstimate(found.mean, low, high, n, tuple(pairs.items()), found.over_requests, found.p)


def _with_values(known: Mapping[int, float], draws: Floats) -> Floats:
    """Values and draws as ``pool`` takes them, [1 + RESAMPLES, seeds]."""
    return np.concatenate([np.array(list(known.values()))[None], draws])


def _spare(bottoms: Floats, metric: str) -> float:
    """Room for what so many requests cannot exclude, where no resample differs from another; 0 without bounds."""
    return room(int(bottoms.any(axis=1).sum())) if math.isfinite(bounds(metric)[1]) else 0.0


def curve(evaluations: Mapping[int, Mapping[int, Tally]], metric: str) -> Curve:
    """A metric over training.

    Args:
        evaluations: Evaluations keyed by seed and step.
        metric: Name, as in ``evaluation.metrics``.
    """
    points = _points(evaluations, metric)
    seeds = {
        seed: tuple((step, mean) for step in sorted(evals) if (mean := evals[step].mean(metric)) is not None)
        for seed, evals in sorted(evaluations.items())
    }
    return Curve(metric, tuple(points), tuple(points.values()), seeds)


def _points(evaluations: Mapping[int, Mapping[int, Tally]], metric: str) -> dict[int, SeedEstimate]:
    """``over_seeds`` at every step at which a metric is known; steps with the same requests are resampled at once."""
    waiting: dict[int, tuple[dict[int, float], Floats, Floats]] = {}
    for step in shared_steps(evaluations):
        tallies = {seed: evals[step] for seed, evals in sorted(evaluations.items())}
        known = {seed: mean for seed, tally in tallies.items() if (mean := tally.mean(metric)) is not None}
        if known:
            waiting[step] = (known, *_stacked([tallies[seed] for seed in known], metric))
    drawn: dict[int, Floats] = {}
    for count in {len(tops) for _, tops, _ in waiting.values()}:
        steps = [step for step, (_, tops, _) in waiting.items() if len(tops) == count]
        parts = (np.concatenate([waiting[step][i] for step in steps], axis=1) for i in (1, 2))
        ends = np.cumsum([len(waiting[step][0]) for step in steps])[:-1]
        drawn |= dict(zip(steps, np.split(_draws(*parts), ends, axis=1), strict=True))
    return {step: _estimated(*found, drawn[step], metric) for step, found in waiting.items()}


def shared_steps(evaluations: Mapping[int, Mapping[int, Tally]]) -> list[int]:
    """Steps at which every seed was evaluated, ascending."""
    steps = [set(evals) for evals in evaluations.values()]
    return sorted(set.intersection(*steps)) if steps else []


def _stacked(tallies: Sequence[Tally], metric: str) -> tuple[Floats, Floats]:
    """The two sums of a metric side by side, each of shape [P, tallies], over the union of the requests."""
    if all(tally.pairs == tallies[0].pairs for tally in tallies):
        return np.stack([t.top[metric] for t in tallies], axis=1), np.stack([t.bottom[metric] for t in tallies], axis=1)
    index = {pair: i for i, pair in enumerate(sorted({pair for tally in tallies for pair in tally.pairs}))}
    tops, bottoms = np.zeros((len(index), len(tallies))), np.zeros((len(index), len(tallies)))
    for column, tally in enumerate(tallies):
        rows = [index[pair] for pair in tally.pairs]
        tops[rows, column], bottoms[rows, column] = tally.top[metric], tally.bottom[metric]
    return tops, bottoms


def _draws(tops: Floats, bottoms: Floats) -> Floats:
    """The metric of each column when requests are resampled, shape [RESAMPLES, columns]."""
    sums = resampled_sums(resample_weights(len(tops)), np.concatenate([tops, bottoms], axis=1))
    count = tops.shape[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        draws: Floats = sums[:, :count] / sums[:, count:]
    return draws


def resampled_sums(weights: Floats, columns: Floats) -> Floats:
    """``weights @ columns``, in single precision where that is exact: for counts (and halves) it is, and twice as fast.

    Args:
        weights: How often each of P requests is drawn, whole numbers with a sum of P, [B, P].
        columns: What each request adds, [P, C].
    """
    if not _is_exact(columns):
        return weights @ columns
    light = single_weights(len(columns)) if weights is resample_weights(len(columns)) else weights.astype(np.float32)
    sums: Floats = (light @ columns.astype(np.float32)).astype(np.float64)
    return sums


def _is_exact(columns: Floats) -> bool:
    """Whether sums of so many rows of these are exact in single precision: counts and halves of moderate size."""
    halves = 2 * columns
    return bool((halves == np.rint(halves)).all()) and len(columns) * float(np.abs(halves).max(initial=0.0)) < EXACT


@functools.lru_cache(maxsize=32)
def single_weights(count: int) -> NDArray[np.float32]:
    """``resample_weights`` in single precision, which holds these whole numbers exactly."""
    weights = resample_weights(count).astype(np.float32)
    weights.setflags(write=False)
    return weights


def request_draws(tallies: Sequence[Tally], metric: str) -> Floats:
    """A metric of several evaluations under the same resamples of the requests.

    Args:
        tallies: T evaluations; their requests may differ.
        metric: Name, as in ``evaluation.metrics``.

    Returns:
        Shape [1 + RESAMPLES, T]: the metric itself, then resampled. NaN where nothing counts.
    """
    tops, bottoms = _stacked(tallies, metric)
    with np.errstate(invalid="ignore", divide="ignore"):
        whole = tops.sum(axis=0) / bottoms.sum(axis=0)
    found: Floats = np.concatenate([whole[None], _draws(tops, bottoms)])
    return found


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


def unpaired_difference(arm: Mapping[int, Tally], baseline: Mapping[int, Tally], metric: str) -> SeedEstimate:
    """Arm minus baseline where nobody knows which runs belong together; as ``difference``, over all runs of both.

    Returns:
        One value; with fewer than ``FEW`` runs on either side its interval is over requests alone.
    """
    first, second = ([t for t in side.values() if t.mean(metric) is not None] for side in (arm, baseline))
    if not first or not second:
        return SeedEstimate(None, None, None, 0)
    draws = request_draws([*first, *second], metric)
    spare = room(min(len(tally.pairs) for tally in (*first, *second)))
    found = pool_difference(draws[:, : len(first)], draws[:, len(first) :], spare=spare)
    n = int(sum(tally.bottom[metric].sum() for tally in first))
    return SeedEstimate(found.mean, found.low, found.high, n, ((0, found.mean),), found.over_requests, found.p)


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
