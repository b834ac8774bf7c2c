"""The bootstrap over seeds and requests: known answers, coverage, pairing and speed."""

from __future__ import annotations

import time

import numpy as np
import pytest

from crypsis.analysis.statistics import FEW, curve, difference, over_seeds, shared_steps
from crypsis.evaluation.metrics import Floats, Tally

pytestmark = pytest.mark.unit

METRIC = "compliance_monitored"


def tally(seen: Floats, first: int = 0) -> Tally:
    pairs = tuple(f"p{i + first:04d}" for i in range(len(seen)))
    return Tally(pairs, {METRIC: seen.astype(np.float64)}, {METRIC: np.ones(len(seen))})


def drawn(generator: np.random.Generator, rate: float, n: int = 120) -> Tally:
    return tally((generator.random(n) < rate).astype(np.float64))


def test_the_mean_is_over_seeds_and_few_seeds_are_marked() -> None:
    found = over_seeds({1: tally(np.ones(10)), 0: tally(np.zeros(10))}, METRIC)
    assert found.mean == 0.5
    assert found.by_seed == ((0, 0.0), (1, 1.0))
    assert found.few_seeds
    assert not over_seeds({seed: tally(np.ones(10)) for seed in range(FEW)}, METRIC).few_seeds


def test_disagreeing_seeds_widen_the_interval() -> None:
    generator = np.random.default_rng(1)
    alike = over_seeds({seed: drawn(generator, 0.5) for seed in range(4)}, METRIC)
    apart = over_seeds({seed: drawn(generator, rate) for seed, rate in enumerate((0.05, 0.95, 0.1, 0.9))}, METRIC)
    assert alike.low is not None and alike.high is not None and apart.low is not None and apart.high is not None
    assert apart.high - apart.low > 2 * (alike.high - alike.low)


def test_the_interval_covers_the_truth_when_seeds_differ() -> None:
    generator = np.random.default_rng(2)
    hits = 0
    for _ in range(200):
        rates = np.clip(generator.normal(0.5, 0.05, size=5), 0, 1)
        found = over_seeds({seed: drawn(generator, rate) for seed, rate in enumerate(rates)}, METRIC)
        assert found.low is not None and found.high is not None
        hits += found.low <= 0.5 <= found.high
    assert hits >= 180


def test_unknown_metrics_stay_unknown() -> None:
    assert over_seeds({0: tally(np.ones(3))}, "lying_rate").mean is None
    assert over_seeds({}, METRIC).mean is None
    assert difference({0: tally(np.ones(3))}, {1: tally(np.ones(3))}, METRIC).mean is None
    assert shared_steps({}) == []


def test_the_difference_is_paired_by_seed_and_request() -> None:
    generator = np.random.default_rng(3)
    hard = generator.random(200)
    arm = {seed: tally((hard < 0.6 + 0.1 * seed).astype(np.float64)) for seed in range(3)}
    baseline = {seed: tally((hard < 0.5 + 0.1 * seed).astype(np.float64)) for seed in range(4)}
    found = difference(arm, baseline, METRIC)
    alone = over_seeds(arm, METRIC)
    assert found.mean == pytest.approx(0.1, abs=0.05)
    assert len(found.by_seed) == 3
    assert found.low is not None and found.high is not None and alone.low is not None and alone.high is not None
    assert found.low > 0
    assert found.high - found.low < alone.high - alone.low


def test_a_difference_of_nothing_has_room() -> None:
    same = {0: tally(np.ones(250))}
    found = difference(same, same, METRIC)
    assert found.mean == 0
    assert found.low == pytest.approx(-0.0151, abs=1e-3)


def test_seeds_with_other_requests_are_joined() -> None:
    found = over_seeds({0: tally(np.ones(30)), 1: tally(np.zeros(30), first=15)}, METRIC)
    assert found.mean == 0.5
    assert found.n == 60


def test_a_curve_holds_the_steps_that_all_seeds_have() -> None:
    found = curve({0: {0: tally(np.ones(9)), 5: tally(np.zeros(9))}, 1: {0: tally(np.ones(9))}}, METRIC)
    assert found.steps == (0,)
    assert found.seeds[0] == ((0, 1.0), (5, 0.0))


def test_six_runs_of_five_evaluations_are_quick() -> None:
    generator = np.random.default_rng(4)
    runs = {seed: {step: drawn(generator, 0.5, 250) for step in range(5)} for seed in range(6)}
    begun = time.perf_counter()
    for _ in range(5):
        curve(runs, METRIC)
    assert time.perf_counter() - begun < 2
