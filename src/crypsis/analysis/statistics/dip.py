"""Hartigan's dip test: is a sample of runs unimodal?

Written after Hartigan and Hartigan 1985 (The Annals of Statistics 13) because the package ``diptest`` is under the GPL;
``tests/unit/test_dip.py`` has values that it gives. p comes from samples of the uniform distribution, the least
favourable unimodal one.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crypsis.arrays import Floats
from crypsis.evaluation.metrics import BOOTSTRAP_SEED

UNIFORM_SAMPLES = 500
"""Samples of the uniform distribution behind a p value."""
TIES = 1e-7
"""How far apart equal values are drawn, as a share of the sample's range."""


def dip_test(sample: Sequence[float] | Floats) -> tuple[float, float]:
    """The dip of a sample and its p value.

    Returns:
        The dip, in [1 / (2n), 1/4], and the chance that a uniform sample of that size has one as large. p is 1 for
        fewer than four values, which cannot show two modes.
    """
    values = np.asarray(sample, dtype=np.float64)
    found = dip(values)
    if len(values) < 4:
        return found, 1.0
    null = _uniform_dips(len(values))
    return found, float((1 + (null >= found - 1e-12).sum()) / (1 + len(null)))


def dip(sample: Sequence[float] | Floats) -> float:
    """The largest distance between the sample's distribution function and the nearest unimodal one.

    Raises:
        ValueError: The sample is empty.
    """
    x = np.sort(np.asarray(sample, dtype=np.float64))
    if not len(x):
        raise ValueError("the dip of no values")
    n, spread = len(x), float(np.ptp(x))
    if spread == 0:
        return 1 / (2 * n)
    # Equal values are drawn apart by next to nothing: a mode may rise as steeply as it likes.
    x = x / spread + np.arange(n) * (TIES / n)
    before = np.arange(n, dtype=np.float64)
    after = before + 1
    low, high, found = 0, n - 1, 1.0
    while low < high:
        piece = slice(low, high + 1)
        convex, concave = _hull(x[piece], before[piece]), _hull(x[piece], -after[piece])
        under = np.interp(x[piece], x[piece][convex], before[piece][convex])
        over = np.interp(x[piece], x[piece][concave], after[piece][concave])
        corners = np.union1d(convex, concave)
        widest = corners[np.argmax((over - under)[corners])]
        if over[widest] - under[widest] <= found:
            break
        if widest in convex:
            left, right = int(widest), int(concave[concave >= widest][0])
        else:
            left, right = int(convex[convex <= widest][-1]), int(widest)
        found = max(
            found,
            float((after[piece] - under)[: left + 1].max()),
            float((over - before[piece])[right:].max()),
        )
        if (left, right) == (0, high - low):
            break
        low, high = low + left, low + right
    return float(found / (2 * n))


def _hull(x: Floats, y: Floats) -> NDArray[np.intp]:
    """Indices of the corners of the greatest convex function below the points; x ascending."""
    corners: list[int] = []
    for i in range(len(x)):
        while len(corners) > 1:
            a, b = corners[-2], corners[-1]
            if (y[b] - y[a]) * (x[i] - x[b]) < (y[i] - y[b]) * (x[b] - x[a]):
                break
            corners.pop()
        corners.append(i)
    return np.array(corners, dtype=np.intp)


@functools.lru_cache(maxsize=16)
def _uniform_dips(n: int) -> Floats:
    generator = np.random.default_rng((BOOTSTRAP_SEED, 4, n))
    return np.array([dip(generator.random(n)) for _ in range(UNIFORM_SAMPLES)])
