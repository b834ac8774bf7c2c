"""How often intervals over seeds hold the truth, simulated: `python -m crypsis.analysis.statistics.coverage`.

Each data set has S seeds, whose true rates come from a distribution with a known mean, and 250 requests that all
seeds are asked. Other methods stand beside the one that reports use, so that a reader can judge the choice.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from crypsis.analysis.statistics.bootstrap import request_draws
from crypsis.analysis.statistics.pooling import FEW, pool
from crypsis.arrays import Floats
from crypsis.evaluation.metrics import Tally, resample_weights

METRIC = "compliance_monitored"
REQUESTS = 250
SEEDS = (2, 3, 4, 5, 6, 8, 10, 12)
SETS = 1000
LEVEL = 0.95
GAPS = (-4, 30, 24, -1, 18, 4, 23, 9, -1, 3, 5, 3)
"""Gap at the end of baseline RL in points, IGG, twelve seeds of one training on another machine."""
PRIOR = 1.0, 0.1
"""Seeds that the prior of the Bayesian interval is worth, and the deviation between seeds that it expects."""
Method = Callable[[Floats], tuple[float, float]]
"""From draws [1 + RESAMPLES, seeds], the first row without resampling, to the ends of an interval."""


def skewed(generator: np.random.Generator, seeds: int) -> tuple[Floats, float]:
    """The twelve gaps, drawn with replacement, as rates above 10 %; and their mean."""
    rates = np.array(GAPS) / 100 + 0.1
    return generator.choice(rates, seeds), float(rates.mean())


def bimodal(generator: np.random.Generator, seeds: int) -> tuple[Floats, float]:
    """Two outcomes of the same chance, 0.2 and 0.8."""
    return np.where(generator.random(seeds) < 0.5, 0.2, 0.8), 0.5


def normal(generator: np.random.Generator, seeds: int) -> tuple[Floats, float]:
    """A standard deviation of 0.1 between seeds."""
    return np.clip(generator.normal(0.5, 0.1, seeds), 0, 1), 0.5


def uneven(generator: np.random.Generator, seeds: int) -> tuple[Floats, float]:
    """Two outcomes, the rarer one, 0, in three seeds of ten."""
    return np.where(generator.random(seeds) < 0.3, 0.0, 0.4), 0.28


def alike(generator: np.random.Generator, seeds: int) -> tuple[Floats, float]:
    """Seeds that do not differ."""
    return np.full(seeds, 0.5), 0.5


DISTRIBUTIONS = {"skewed": skewed, "bimodal": bimodal, "normal": normal, "uneven": uneven, "alike": alike}
"""Each gives the true rates of some seeds, and the mean of all seeds that there could be."""


def ours(draws: Floats) -> tuple[float, float]:
    """The interval of reports, tables, figures and claims."""
    found = pool([draws], LEVEL)
    return found.low, found.high


def percentile(draws: Floats) -> tuple[float, float]:
    """Percentiles of a bootstrap over seeds."""
    low, high = np.percentile(_means(draws[0]), (2.5, 97.5))
    return float(low), float(high)


def two_level(draws: Floats) -> tuple[float, float]:
    """Percentiles of a bootstrap over requests and seeds, whose spread over seeds is corrected by n / (n - 1)."""
    count = draws.shape[1]
    fixed = draws[1:].mean(axis=1)
    within = (draws[1:] * resample_weights(count, stream=3)).sum(axis=1) / count - fixed
    low, high = np.percentile(fixed + np.sqrt(count / (count - 1)) * within, (2.5, 97.5))
    return float(low), float(high)


def student_t(draws: Floats) -> tuple[float, float]:
    """Student's interval over the seeds' rates."""
    return _symmetric(draws[0], float(np.var(draws[0], ddof=1)), draws.shape[1] - 1)


def bayesian(draws: Floats) -> tuple[float, float]:
    """Student's interval of a normal model with an inverse-chi-squared prior on the variance (``PRIOR``)."""
    worth, deviation = PRIOR
    count = draws.shape[1]
    variance = (worth * deviation**2 + (count - 1) * float(np.var(draws[0], ddof=1))) / (worth + count - 1)
    return _symmetric(draws[0], variance, count - 1 + worth)


def studentised(draws: Floats) -> tuple[float, float]:
    """Bootstrap-t over seeds (Efron and Tibshirani 1993); without end where a resample has no spread."""
    values, count = draws[0], draws.shape[1]
    weights = resample_weights(count, stream=3) / count
    means = weights @ values
    spread = np.sqrt(np.maximum(weights @ values**2 - means**2, 0) * count / (count - 1))
    shift = (means - values.mean()) * np.sqrt(count)
    far = np.where(shift > 1e-12, np.inf, np.where(shift < -1e-12, -np.inf, 0.0))
    ratios = np.divide(shift, spread, out=far, where=spread > 1e-12)
    low, high = np.quantile(ratios, (0.025, 0.975), method="nearest")
    error = float(np.std(values, ddof=1)) / np.sqrt(count)
    if error == 0:
        return float(values.mean()), float(values.mean())
    return float(values.mean() - high * error), float(values.mean() - low * error)


def accelerated(draws: Floats) -> tuple[float, float]:
    """BCa over seeds (Efron 1987)."""
    values, means = draws[0], _means(draws[0])
    below = (means < values.mean()).mean() + 0.5 * (means == values.mean()).mean()
    bias = stats.norm.ppf(np.clip(below, 1e-3, 1 - 1e-3))
    left_out = (values.sum() - values) / (len(values) - 1)
    apart = left_out.mean() - left_out
    skew = (apart**3).sum() / (6 * max((apart**2).sum(), 1e-30) ** 1.5)
    shifted = bias + stats.norm.ppf([0.025, 0.975])
    low, high = np.quantile(means, stats.norm.cdf(bias + shifted / (1 - skew * shifted)))
    return float(low), float(high)


METHODS: dict[str, Method] = {
    "chosen": ours,
    "percentile": percentile,
    "two-level": two_level,
    "Student": student_t,
    "BCa": accelerated,
    "studentised": studentised,
    "Bayesian": bayesian,
}


def coverage(
    methods: Sequence[str],
    distribution: str,
    seeds: int,
    sets: int = SETS,
    requests: int = REQUESTS,
    start: int = 0,
) -> dict[str, tuple[float, float]]:
    """How often intervals hold the truth, and their median width, keyed by method.

    Args:
        methods: Names in ``METHODS``.
        distribution: Name in ``DISTRIBUTIONS``.
        seeds: Of each data set.
        sets: Data sets, the same for all methods.
        requests: That every seed is asked.
        start: Seed of the simulation.
    """
    generator = np.random.default_rng((start, seeds))
    hits = dict.fromkeys(methods, 0)
    widths: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(sets):
        rates, truth = DISTRIBUTIONS[distribution](generator, seeds)
        draws = request_draws([_asked(generator, rate, requests) for rate in rates], METRIC)
        for name in methods:
            low, high = METHODS[name](draws)
            hits[name] += low - 1e-12 <= truth <= high + 1e-12
            widths[name].append(high - low)
    return {name: (hits[name] / sets, float(np.median(widths[name]))) for name in methods}


def table(methods: Sequence[str], distributions: Sequence[str], seeds: Sequence[int], sets: int) -> list[str]:
    """Lines of a Markdown table: coverage in per cent, and the median width in points in brackets."""
    lines = [f"| seeds are | method | {' | '.join(map(str, seeds))} |", "|---" * (len(seeds) + 2) + "|"]
    for distribution in distributions:
        found = [coverage(methods, distribution, count, sets) for count in seeds]
        for name in methods:
            cells = (f"{100 * held:.0f} ({_points(width)})" for held, width in (one[name] for one in found))
            lines.append(f"| {distribution} | {name} | {' | '.join(cells)} |")
    return lines


def _points(width: float) -> str:
    return "∞" if not np.isfinite(width) else f"{100 * width:.0f}"


def _asked(generator: np.random.Generator, rate: float, requests: int) -> Tally:
    """One seed's evaluation."""
    hits = (generator.random(requests) < rate).astype(np.float64)
    return Tally(tuple(map(str, range(requests))), {METRIC: hits}, {METRIC: np.ones(requests)})


def _means(values: Floats) -> Floats:
    """Means of resampled seeds, [RESAMPLES]."""
    means: Floats = resample_weights(len(values), stream=3) @ values / len(values)
    return means


def _symmetric(values: Floats, variance: float, freedom: float) -> tuple[float, float]:
    half = float(stats.t.ppf(0.975, freedom)) * np.sqrt(variance / len(values))
    return float(values.mean() - half), float(values.mean() + half)


def main() -> None:
    """Prints the tables of docs/statistics.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=SETS, help="data sets per cell")
    sets = parser.parse_args().sets
    print(f"Coverage in %, median width in points in brackets; {sets} data sets per cell, {REQUESTS} requests;")
    print(f"below {FEW} seeds the chosen method is over requests alone.\n")
    print("\n".join(table([*METHODS], ["skewed", "bimodal", "normal"], SEEDS, sets)))
    print()
    print("\n".join(table(["chosen"], ["uneven", "alike"], SEEDS, sets)))


if __name__ == "__main__":
    main()
