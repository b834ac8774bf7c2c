"""Group-relative advantages against the formula of TRL, with dropped episodes."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypsis.rl.advantages import group_advantages

pytestmark = pytest.mark.unit

REWARD = st.none() | st.floats(-100, 100)


def test_formula_of_trl() -> None:
    found = group_advantages([[1.0, 2.0, 4.0], [0.5, 0.5, 3.0]])
    for group, values in (([1.0, 2.0, 4.0], found.advantages[:3]), ([0.5, 0.5, 3.0], found.advantages[3:])):
        mean, std = statistics.mean(group), statistics.stdev(group)
        assert values == pytest.approx([(r - mean) / (std + 1e-4) for r in group], rel=1e-12)
    assert (found.dropped, found.zero_variance_groups, found.single_survivor_groups) == (0, 0, 0)


def test_dropped_episode_leaves_the_statistics() -> None:
    found = group_advantages([[1.0, None, 3.0, 5.0]])
    assert found.advantages == pytest.approx([-2 / (2 + 1e-4), 0.0, 0.0, 2 / (2 + 1e-4)])
    assert found.dropped == 1


def test_unscaled_only_subtracts_the_mean() -> None:
    assert group_advantages([[1.0, None, 3.0, 5.0]], scale="none").advantages == [-2.0, 0.0, 0.0, 2.0]


def test_groups_without_a_comparison_give_zeros_and_are_counted() -> None:
    found = group_advantages([[0.1, 0.1, 0.1], [None, None, 7.0], [None, None, None], [1.0, 2.0, None]])
    assert found.advantages[:9] == [0.0] * 9
    assert found.advantages[9] < 0 < found.advantages[10]
    assert (found.dropped, found.zero_variance_groups, found.single_survivor_groups) == (6, 1, 1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_bad_reward_names_its_episode(bad: float) -> None:
    with pytest.raises(ValueError, match="episode 2"):
        group_advantages([[1.0, None], [bad, 0.0]])


def test_no_rewards() -> None:
    assert group_advantages([]).advantages == []


@given(st.lists(REWARD, min_size=8, max_size=8))
def test_each_group_sums_to_zero_and_dropped_are_zero(rewards: list[float | None]) -> None:
    advantages = group_advantages([rewards[:4], rewards[4:]]).advantages
    assert all(a == 0 for r, a in zip(rewards, advantages, strict=True) if r is None)
    for start in (0, 4):
        assert math.fsum(advantages[start : start + 4]) == pytest.approx(0, abs=1e-9)


@given(st.lists(REWARD, min_size=4, max_size=4), st.floats(-10, 10))
def test_a_constant_changes_nothing(rewards: list[float | None], shift: float) -> None:
    plain = group_advantages([rewards], scale="none").advantages
    moved = group_advantages([[None if r is None else r + shift for r in rewards]], scale="none").advantages
    assert moved == pytest.approx(plain, abs=1e-9)
