"""The interval method of every figure over seeds: points of a curve, end-points, differences, claims.

All seeds are evaluated on the same requests, so one resample draws requests once for all seeds and then draws seeds:
variation from requests is shared by the seeds and is not averaged away by adding seeds. ``pooling.py`` makes the
interval.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crypsis.analysis.statistics.pooling import pool, pool_difference
from crypsis.arrays import Floats
from crypsis.evaluation.metrics import Estimate, Tally, bounds, resample_weights, room

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
    least, most = bounds(metric)
    low, high = max(least - most, found.low), min(most - least, found.high)
    return SeedEstimate(found.mean, low, high, n, ((0, found.mean),), found.over_requests, found.p)
