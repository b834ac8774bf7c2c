"""The dip test against values of the package diptest 0.12.0 and against known answers."""

from __future__ import annotations

import numpy as np
import pytest

from crypsis.analysis.statistics.dip import dip, dip_test

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ([0.51, 0.95, 0.14, 0.95, 0.31, 0.42, 0.83, 0.41, 0.55], 0.11666667),
        ([0.03, 0.0, 0.05, -0.07, -0.02, -0.05, 1.12, 1.01, 0.94, 0.84, 0.95, 1.0, 0.94], 0.19877786),
        ([0.0, 0.0, 0.0, 0.0, 0.1, 0.2, 0.6, 0.6, 0.7, 0.7, 0.9], 0.14545455),
        ([1.3, 1.0, -2.7, -1.9, -0.2, -0.4, 0.2, 0.2, 2.1, -1.1, -0.4, 2.0], 0.08333333),
        ([1.0, 2.0, 3.0, 10.0], 0.12500000),
    ],
)
def test_the_dip_is_that_of_the_reference(sample: list[float], expected: float) -> None:
    assert dip(sample) == pytest.approx(expected, abs=1e-6)
    assert dip([7 - 3 * value for value in sample]) == pytest.approx(expected, abs=1e-6)


def test_even_samples_have_the_least_dip_and_two_points_the_most() -> None:
    assert dip(np.linspace(0, 1, 40)) == pytest.approx(1 / 80)
    assert dip([0.0] * 50 + [1.0] * 50) == pytest.approx(0.25, abs=1e-6)
    assert dip([0.3] * 9) == pytest.approx(1 / 18)
    with pytest.raises(ValueError, match="no values"):
        dip([])


def test_two_modes_are_found_and_one_is_not() -> None:
    generator = np.random.default_rng(5)
    two = np.where(generator.random(30) < 0.5, generator.normal(0.05, 0.05, 30), generator.normal(0.7, 0.1, 30))
    assert dip_test(two)[1] < 0.05
    assert dip_test(generator.normal(0.3, 0.1, 30))[1] > 0.1
    assert dip_test([0.0, 1.0, 1.0])[1] == 1.0


def test_a_uniform_sample_is_seldom_called_bimodal() -> None:
    generator = np.random.default_rng(6)
    alarms = sum(dip_test(generator.random(15))[1] < 0.05 for _ in range(200))
    assert alarms <= 20
