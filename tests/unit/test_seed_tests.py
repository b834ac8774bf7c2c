"""Tests over seeds against known answers: published values, simulations with a known truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from crypsis.analysis.statistics.pooling import degrees, p_value, pool
from crypsis.analysis.statistics.seed_tests import (
    corrected_rate,
    correlation_p,
    deviation_interval,
    holm,
    partial_conjunction_p,
    rank_correlation,
    seeds_needed,
)
from crypsis.arrays import Floats
from crypsis.evaluation.metrics import RESAMPLES, Estimate

pytestmark = pytest.mark.unit


def without_requests(values: Floats) -> Floats:
    """Draws of seeds whose requests leave no doubt, [1 + RESAMPLES, seeds]."""
    return np.tile(values, (1 + RESAMPLES, 1))


def test_the_p_value_is_students_with_fewer_degrees_of_freedom() -> None:
    assert p_value(0.4, 0.0, [(0.01 / 3, 3)]) == pytest.approx(2 * stats.t.sf(6.928, 4 / 3), rel=1e-3)
    assert p_value(0.4, 0.01, []) == pytest.approx(2 * stats.norm.sf(4), rel=1e-3)
    assert p_value(0.4, 0.0, []) == 0.0
    assert p_value(0.0, 0.0, []) == 1.0
    assert p_value(0.0, 0.1, [(0.1, 4)]) == 1.0


def test_the_p_value_and_the_interval_agree() -> None:
    generator = np.random.default_rng(5)
    agree = 0
    for _ in range(200):
        found = pool([without_requests(generator.normal(0.2, 0.2, 6))])
        assert found.p is not None
        agree += (found.p < 0.05) == (found.low > 0 or found.high < 0)
    assert agree >= 185  # the interval follows the skew of the seeds, the p value does not
    assert pool([without_requests(np.array([0.3, 0.5]))]).p is None


def test_holm_steps_down() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # R: p.adjust
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_claim_on_all_most_or_some_organisms_has_one_p() -> None:
    ps = [0.001, 0.01, 0.02, 0.6]
    assert partial_conjunction_p(ps, 4) == 0.6
    assert partial_conjunction_p(ps, 3) == pytest.approx(0.04)
    assert partial_conjunction_p(ps, 1) == pytest.approx(0.004)


def test_seeds_needed_have_ends() -> None:
    assert seeds_needed(0.0, 0.1) == 3
    assert seeds_needed(1.0, 0.01) is None
    with pytest.raises(ValueError, match="effect of 0"):
        seeds_needed(1.0, 0.0)


def test_so_many_seeds_find_the_effect_as_often_as_promised() -> None:
    generator = np.random.default_rng(1)
    needed = seeds_needed(0.2, 0.2)
    assert needed == 11  # 10 by G*Power with all degrees of freedom
    t = stats.ttest_1samp(generator.normal(0.2, 0.2, (2000, needed)), 0, axis=1).statistic
    assert 0.79 < (2 * stats.t.sf(np.abs(t), degrees(needed)) < 0.05).mean() < 0.88


def test_the_deviation_between_seeds_is_covered() -> None:
    generator = np.random.default_rng(2)
    hits = 0
    for _ in range(300):
        _, low, high = deviation_interval(generator.normal(0, np.sqrt(0.2**2 + 0.05**2), 5).tolist(), noise=0.05**2)
        hits += low <= 0.2 <= high
    assert hits / 300 > 0.92
    assert deviation_interval([0.1, 0.1, 0.1], noise=1e-9) == (0, 0, 0)


def test_the_correlation_is_covered_and_needs_runs() -> None:
    generator = np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        x = generator.normal(size=25)
        y = 0.6 * x + 0.8 * generator.normal(size=25)
        _, low, high = rank_correlation(x.tolist(), y.tolist())
        hits += low <= 0.5825 <= high  # Spearman's of a normal pair with r = 0.6: 6 / π · asin(0.3)
    assert hits >= 184
    assert rank_correlation([1, 2, 3, 4], [1, 2, 3, 4]) == (0.0, -1.0, 1.0)
    assert rank_correlation([1.0] * 9, list(range(9)))[0] == 0
    assert correlation_p([1.0] * 9, list(range(9))) == 1
    assert correlation_p(list(range(9)), [0, 2, 1, 3, 4, 6, 5, 7, 8]) < 0.001


def test_the_corrected_rate_is_rogan_and_gladens() -> None:
    found = corrected_rate(Estimate(0.25, 0.2, 0.3, 400), recall=0.8, false_positives=0.1, n_recall=100, n_false=100)
    assert found.mean == pytest.approx(0.15 / 0.7)
    assert found.low is not None and found.high is not None
    assert 0.05 < found.low < 0.15 / 0.7 < found.high < 0.40
    perfect = corrected_rate(Estimate(0.25, 0.2, 0.3, 400), 1.0, 0.0, 100000, 100000)
    assert perfect.low is not None and perfect.high is not None
    assert perfect.mean == pytest.approx(0.25)
    assert perfect.low == pytest.approx(0.21, abs=0.01)
    assert perfect.high == pytest.approx(0.295, abs=0.01)


def test_a_rate_is_not_corrected_by_a_monitor_that_sees_nothing() -> None:
    assert corrected_rate(Estimate(0.25, 0.2, 0.3, 400), 0.3, 0.3, 100, 100).mean is None
    assert corrected_rate(Estimate(None, None, None, 0), 0.9, 0.1, 100, 100).mean is None
    assert corrected_rate(Estimate(0.01, 0.0, 0.05, 400), 0.9, 0.1, 100, 100).mean == 0


def test_the_corrected_rate_covers_the_truth() -> None:
    generator = np.random.default_rng(4)
    hits = 0
    for _ in range(300):
        recall, alarms = generator.binomial(80, 0.85) / 80, generator.binomial(120, 0.1) / 120
        rate = generator.binomial(250, 0.3 * 0.85 + 0.7 * 0.1) / 250
        found = corrected_rate(Estimate(rate, None, None, 250), recall, alarms, 80, 120)
        assert found.low is not None and found.high is not None
        hits += found.low <= 0.3 <= found.high
    assert hits >= 279
