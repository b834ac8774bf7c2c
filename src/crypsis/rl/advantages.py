"""Group-relative advantages (GRPO) with dropped episodes.

The formula is that of TRL 1.16's ``GRPOTrainer`` (Shao et al. 2024, DeepSeekMath, section 4.1, with an unbiased
standard deviation): (r - mean) / (std + eps) over the episodes of a group that were not dropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Scale = Literal["group", "none"]


@dataclass(frozen=True, slots=True)
class Advantages:
    """What ``group_advantages`` found.

    Attributes:
        advantages: One number an episode, in the order of the rewards; 0 for dropped episodes.
        dropped: Episodes without a reward.
        zero_variance_groups: Groups of at least two survivors that all have the same reward: no gradient.
        single_survivor_groups: Groups of which exactly one episode was not dropped: no baseline, so no gradient.
    """

    advantages: list[float]
    dropped: int
    zero_variance_groups: int
    single_survivor_groups: int


def group_advantages(
    rewards: Sequence[float | None],
    group_size: int,
    scale: Scale = "group",
    eps: float = 1e-4,  # TRL 1.16, GRPOTrainer
) -> Advantages:
    """Advantages of episodes that stand group after group.

    Args:
        rewards: One an episode; None drops it: it does not enter the statistics and its advantage is 0.
        group_size: Episodes a group, dropped ones included.
        scale: ``group`` divides by the group's standard deviation, ``none`` only subtracts the mean.
        eps: Added to the standard deviation, in units of reward.

    Returns:
        Advantages and counts.

    Raises:
        ValueError: A reward is NaN or infinite, or the number of rewards is not a multiple of ``group_size``.
    """
    if group_size < 1 or len(rewards) % group_size:
        raise ValueError(f"{len(rewards)} rewards do not make groups of {group_size}")
    for index, reward in enumerate(rewards):
        if reward is not None and not math.isfinite(reward):
            raise ValueError(f"the reward of episode {index} is {reward}; drop it (None) or mend its reward term")
    advantages: list[float] = []
    zero_variance = single = 0
    for start in range(0, len(rewards), group_size):
        group = rewards[start : start + group_size]
        known = [r for r in group if r is not None]
        # Equality is asked of the rewards: their mean is rounded, so equal rewards may differ from it.
        flat = len(known) < 2 or min(known) == max(known)
        single += len(known) == 1
        zero_variance += flat and len(known) > 1
        if flat:
            advantages += [0.0] * group_size
            continue
        mean = math.fsum(known) / len(known)
        std = math.sqrt(math.fsum((r - mean) ** 2 for r in known) / (len(known) - 1))
        divisor = std + eps if scale == "group" else 1.0
        advantages += [0.0 if r is None else (r - mean) / divisor for r in group]
    return Advantages(advantages, sum(r is None for r in rewards), zero_variance, single)
