"""Intervals of figures that are no single division: any function of sums over requests, over seeds.

As in ``statistics``, a resample draws requests once for all seeds and then draws seeds, with the same correction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from crypsis.analysis.statistics.bootstrap import SeedEstimate
from crypsis.arrays import Floats
from crypsis.evaluation.metrics import interval, resample_weights

Figure = Callable[[Floats], Floats]
"""From how often each of P requests is drawn, [B, P], to the figure in each of B resamples, [B]."""


def estimate_over_seeds(figures: Mapping[int, Figure], count: int, signed: bool) -> SeedEstimate:
    """The mean of a figure over seeds with its 95 % interval.

    Args:
        figures: Keyed by seed; NaN where nothing counts. Seeds in which it is NaN without resampling are left out.
        count: Requests, P, the same for all seeds.
        signed: Whether it lies in [-1, 1] instead of [0, 1].
    """
    once = np.ones((1, count))
    known = {seed: float(one) for seed, figure in sorted(figures.items()) if not np.isnan(one := figure(once)[0])}
    if not known:
        return SeedEstimate(None, None, None, 0)
    mean = sum(known.values()) / len(known)
    drawn_BS = np.stack([figures[seed](resample_weights(count)) for seed in known], axis=1)
    joined: Floats = drawn_BS.mean(axis=1)
    seeds = len(known)
    if seeds > 1:
        resampled = (drawn_BS * resample_weights(seeds, stream=1)).sum(axis=1) / seeds
        joined = joined + np.sqrt(seeds / (seeds - 1)) * (resampled - joined)
    low, high = interval(joined, mean, "gap" if signed else "share", np.arange(2.0))
    return SeedEstimate(mean, low, high, count, tuple(known.items()))
