"""How many seeds claims need: from how much units differ and the margin, never from what came out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crypsis.analysis.claims.power import effect_found, powers, table
from crypsis.analysis.statistics.pooling import pool
from crypsis.evaluation.metrics import RESAMPLES

pytestmark = pytest.mark.unit


def entry(claim: str, tests: int, organisms: dict[str, list[float]]) -> dict[str, Any]:
    listed = [
        {"organism": name, "by_seed": {str(seed): value for seed, value in enumerate(values)}}
        for name, values in organisms.items()
    ]
    return {"id": claim, "tests": [{"asked": "it", "organisms": listed} for _ in range(tests)]}


WIDE, NARROW = [0.0, 0.2, 0.4, 0.2, 0.0], [0.10, 0.12, 0.11, 0.10, 0.12]


def test_every_organism_is_as_hard_as_the_one_whose_seeds_differ_most_and_most_as_the_middle_one() -> None:
    organisms = {"tgg": NARROW, "igg": NARROW, "ts": WIDE, "evader": [0.0, 1.0, 0.0, 1.0]}
    found = powers([[entry("C06", 1, organisms), entry("C07", 2, organisms)]])
    every, average, most = found
    assert every.deviation == pytest.approx(np.std(WIDE, ddof=1)) and every.unit == "seeds"
    assert most.deviation == pytest.approx(np.std(NARROW, ddof=1))
    assert average.unit == "organisms" and average.known == 3  # the evader is ours
    assert most.needed is not None and every.needed is not None and most.needed < every.needed


def test_what_came_out_does_not_matter_only_how_much_it_differs() -> None:
    shifted = {"tgg": [v + 0.5 for v in NARROW], "igg": [v + 0.5 for v in WIDE]}
    plain = {"tgg": NARROW, "igg": WIDE}
    (one,), (other,) = (powers([[entry("C06", 1, organisms)]]) for organisms in (plain, shifted))
    assert one.needed == other.needed and one.smallest == pytest.approx(other.smallest)
    assert one.strict is None or (one.needed is not None and one.strict > one.needed)


def test_a_correlation_and_a_spread_have_no_calculation() -> None:
    found = powers([[entry("C18", 2, {}), entry("C24", 2, {"tgg": WIDE})]])
    assert [one.unit for one in found] == ["runs"] * 3
    assert all("–" in line for line in table(found)[2:])


def test_the_smallest_effect_is_found_by_four_intervals_in_five() -> None:
    generator, effect, found = np.random.default_rng(1), effect_found(8, 0.1), 0
    for _ in range(300):
        values = generator.normal(effect, 0.1, 8)
        draws = np.concatenate([values[None], values + np.zeros((RESAMPLES, 1))])
        found += pool([draws]).low > 0
    assert 0.74 < found / 300 < 0.9
    assert np.isnan(effect_found(2, 0.1))
