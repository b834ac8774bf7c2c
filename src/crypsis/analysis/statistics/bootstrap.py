"""From seeds to arms: a bootstrap over seeds and requests, for points of a curve, end-points and differences.

All seeds are evaluated on the same requests, so one resample draws requests once for all seeds and then draws seeds:
variation from requests is shared by the seeds and is not averaged away by adding seeds. Resampling S seeds understates
their variance by (S - 1) / S, which is corrected. With few seeds the interval is still too narrow where seeds differ
much (simulated with a standard deviation of 0.2 between seeds: it covers 72 % at two seeds, 86 % at three, 92 % at
eight; with none between them, more than 99 %), so fewer than ``FEW`` seeds are marked wherever they are shown.

Tests of claims need intervals that hold what they promise with few seeds: ``pool`` widens the part that comes from
seeds by Student's quantile over the normal one (docs/statistics.md), and can resample organisms as a further level.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from crypsis.arrays import Floats
from crypsis.evaluation.metrics import Estimate, Tally, bounds, interval, resample_weights, room

FEW = 3
"""With fewer seeds than this an interval is marked: it says little about other seeds."""
EXACT = float(1 << 24)
"""Whole numbers below this, and sums that stay below it, are exact in single precision."""


@dataclass(frozen=True, slots=True)
class SeedEstimate(Estimate):
    """A figure over seeds with its 95 % interval.

    Attributes:
        by_seed: The figure of each seed on which it is known.
    """

    by_seed: tuple[tuple[int, float], ...] = ()

    @property
    def few_seeds(self) -> bool:
        """Whether the interval rests on fewer than ``FEW`` seeds."""
        return len(self.by_seed) < FEW


@dataclass(frozen=True, slots=True)
class Pooled:
    """A quantity over seeds or organisms, for a test.

    Attributes:
        mean: The estimate.
        low: Lower end of the interval; None where there is a single seed or organism.
        high: Upper end, None with ``low``.
        members: Seeds, or organisms if there are several.
    """

    mean: float
    low: float | None
    high: float | None
    members: int


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


def _estimated(known: Mapping[int, float], tops: Floats, bottoms: Floats, draws: Floats, metric: str) -> SeedEstimate:
    """The estimate over the seeds on which a metric is known, from its draws, [RESAMPLES, seeds]."""
    mean = sum(known.values()) / len(known)
    counted = bottoms.any(axis=1)
    seen = tops[counted].sum(axis=1) / bottoms[counted].sum(axis=1)
    low, high = interval(_over_seeds(draws), mean, metric, seen)
    return SeedEstimate(mean, low, high, int(bottoms.sum()), tuple(known.items()))


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
    low, high = (
        float(q) for q in np.nanpercentile(_over_seeds(draws[:, : len(pairs)] - draws[:, len(pairs) :]), (2.5, 97.5))
    )
    mean = sum(pairs.values()) / len(pairs)
    if low == high and math.isfinite(bounds(metric)[1]):
        spare = room(int(bottoms.any(axis=1).sum()))
        low, high = low - spare, high + spare
    n = int(bottoms[:, : len(pairs)].sum())
    return SeedEstimate(mean, min(low, mean), max(high, mean), n, tuple(pairs.items()))


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
    halves = 2 * columns
    exact = bool((halves == np.rint(halves)).all()) and len(columns) * float(np.abs(halves).max(initial=0.0)) < EXACT
    if not exact:
        return weights @ columns
    light = single_weights(len(columns)) if weights is resample_weights(len(columns)) else weights.astype(np.float32)
    sums: Floats = (light @ columns.astype(np.float32)).astype(np.float64)
    return sums


@functools.lru_cache(maxsize=32)
def single_weights(count: int) -> NDArray[np.float32]:
    """``resample_weights`` in single precision, which holds these whole numbers exactly."""
    weights = resample_weights(count).astype(np.float32)
    weights.setflags(write=False)
    return weights


def _over_seeds(draws: Floats) -> Floats:
    """The mean over seeds when seeds are resampled too, shape [RESAMPLES]."""
    count = draws.shape[1]
    fixed: Floats = draws.mean(axis=1)
    if count == 1:
        return fixed
    resampled = (draws * resample_weights(count, stream=1)).sum(axis=1) / count
    corrected: Floats = fixed + math.sqrt(count / (count - 1)) * (resampled - fixed)
    return corrected


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


def pool(groups: Sequence[Floats], level: float = 0.95, spare: float = 0.0, sampled: bool = True) -> Pooled:
    """Mean of a quantity over seeds, or over organisms with seeds in them, with its interval.

    One group: requests and seeds are resampled. Several groups are organisms; if they are a sample of those that one
    could have built, requests, organisms, and the seeds within each are resampled, otherwise requests and seeds. The
    deviation due to the topmost level is stretched by ``student``, so that the interval keeps its coverage with few of
    them.

    Args:
        groups: Each of shape [1 + RESAMPLES, seeds], from ``request_draws``; the first row is the estimate itself.
        level: Level of the interval.
        spare: Half a width that is added where no resample differs from another.
        sampled: Whether several organisms stand for others.

    Returns:
        The pooled quantity; without an interval where the topmost level has a single member.
    """
    many = sampled and len(groups) > 1
    topmost = len(groups) if many else min(group.shape[1] for group in groups)
    fixed: Floats = np.stack([group.mean(axis=1) for group in groups], axis=1)
    mean = float(fixed[0].mean())
    if topmost < 2:
        return Pooled(mean, None, None, topmost)
    centre = fixed[1:].mean(axis=1)
    within = np.stack([_resampled(group[1:], 3 + i) for i, group in enumerate(groups)], axis=1) - fixed[1:]
    if many:
        chosen = (fixed[1:] * resample_weights(topmost, stream=2)).sum(axis=1) / topmost
        draws = centre + student(topmost, level) * (chosen - centre) + within.mean(axis=1)
    else:
        stretched = [student(group.shape[1], level) * within[:, i] for i, group in enumerate(groups)]
        draws = centre + np.mean(stretched, axis=0)
    tail = 50 * (1 - level)
    low, high = (float(q) for q in np.nanpercentile(draws, (tail, 100 - tail)))
    if low == high:
        low, high = low - spare, high + spare
    return Pooled(mean, min(low, mean), max(high, mean), topmost)


def pool_difference(left: Floats, right: Floats, level: float = 0.95, spare: float = 0.0) -> Pooled:
    """Difference of two means over runs that are not paired; requests are.

    Twice the mean of ``left`` and ``-right``, each of which is resampled and stretched by itself.

    Args:
        left: Shape [1 + RESAMPLES, runs], from ``request_draws``.
        right: The same of the runs that are subtracted.
        level: Level of the interval.
        spare: As for ``pool``.
    """
    half = pool([left, -right], level, spare / 2, sampled=False)
    low, high = (None if end is None else 2 * end for end in (half.low, half.high))
    return Pooled(2 * half.mean, low, high, half.members)


def pool_requests(draws: Floats, level: float = 0.95, spare: float = 0.0) -> Pooled:
    """The mean over runs with an interval over requests alone; it says nothing on how much runs differ.

    Args:
        draws: Shape [1 + RESAMPLES, runs], from ``request_draws``.
        level: Level of the interval.
        spare: As for ``pool``.
    """
    means = draws.mean(axis=1)
    tail = 50 * (1 - level)
    low, high = (float(q) for q in np.nanpercentile(means[1:], (tail, 100 - tail)))
    if low == high:
        low, high = low - spare, high + spare
    mean = float(means[0])
    return Pooled(mean, min(low, mean), max(high, mean), draws.shape[1])


def unpaired_difference(arm: Mapping[int, Tally], baseline: Mapping[int, Tally], metric: str) -> SeedEstimate:
    """Arm minus baseline where nobody knows which runs belong together; as ``difference``, over all runs of both.

    Returns:
        One value; with a single run on either side its interval is over requests alone.
    """
    first, second = ([t for t in side.values() if t.mean(metric) is not None] for side in (arm, baseline))
    if not first or not second:
        return SeedEstimate(None, None, None, 0)
    draws = request_draws([*first, *second], metric)
    left, right = draws[:, : len(first)], draws[:, len(first) :]
    spare = room(min(len(tally.pairs) for tally in (*first, *second)))
    if min(len(first), len(second)) > 1:
        found = pool_difference(left, right, spare=spare)
    else:
        found = pool_requests((left.mean(axis=1) - right.mean(axis=1))[:, None], spare=spare)
    n = int(sum(tally.bottom[metric].sum() for tally in first))
    return SeedEstimate(found.mean, found.low, found.high, n, ((0, found.mean),))


def student(count: int, level: float = 0.95) -> float:
    """How much wider than a plain bootstrap's an interval over ``count`` members must be.

    The resampled spread is short by (count - 1) / count, and the spread itself is an estimate (Student).
    """
    tail = 0.5 + level / 2
    quantiles: float = stats.t.ppf(tail, count - 1) / stats.norm.ppf(tail)
    return math.sqrt(count / (count - 1)) * quantiles


def _resampled(draws: Floats, stream: int) -> Floats:
    """The mean over columns when columns are resampled, shape [RESAMPLES]; a single column stays as it is."""
    count = draws.shape[1]
    mean: Floats = (draws * resample_weights(count, stream=stream)).sum(axis=1) / count if count > 1 else draws[:, 0]
    return mean
