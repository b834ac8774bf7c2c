"""Intervals of figures that are no single division: any function of sums over requests, over seeds.

The interval is that of ``pooling.pool``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from crypsis.analysis.statistics.bootstrap import SeedEstimate
from crypsis.analysis.statistics.pooling import pool
from crypsis.arrays import Floats
from crypsis.evaluation.metrics import resample_weights, room

Figure = Callable[[Floats], Floats]
"""From how often each of P requests is drawn, [B, P], to the figure in each of B resamples, [B]."""


def estimate_over_seeds(figures: Mapping[int, Figure], count: int, signed: bool) -> SeedEstimate:
    """The mean of a figure over seeds with its 95 % interval.

    Args:
        figures: Keyed by seed; NaN where nothing counts. Seeds in which it is NaN without resampling are left out.
        count: Requests, P, the same for all seeds.
        signed: Whether it lies in [-1, 1] instead of [0, 1].
    """
    known = _known(figures, count)
    if not known:
        return SeedEstimate(None, None, None, 0)
    # The resamples as they are, so that a figure can know them and keep what it has made of them.
    drawn = [np.concatenate([[one], figures[seed](resample_weights(count))]) for seed, one in known.items()]
    found = pool([np.stack(drawn, axis=1)], spare=room(count))
    low, high = max(-1.0 if signed else 0.0, found.low), min(1.0, found.high)
    return SeedEstimate(found.mean, low, high, count, tuple(known.items()), found.over_requests)


def mean_over_seeds(figures: Mapping[int, Figure], count: int) -> SeedEstimate:
    """The same without an interval."""
    known = _known(figures, count)
    if not known:
        return SeedEstimate(None, None, None, 0)
    return SeedEstimate(float(np.mean(list(known.values()))), None, None, count, tuple(known.items()))


def _known(figures: Mapping[int, Figure], count: int) -> dict[int, float]:
    """The figure without resampling, keyed by seed, where it is a number."""
    once = np.ones((1, count))
    return {seed: float(one) for seed, figure in sorted(figures.items()) if not np.isnan(one := figure(once)[0])}
