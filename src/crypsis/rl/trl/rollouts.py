"""Episodes in the form that TRL's ``rollout_func`` hands to ``GRPOTrainer``, so that both back ends learn the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crypsis.rl.groups import Group
from crypsis.rl.rows import token_mask
from crypsis.types import Learn

REWARD = "crypsis_reward"
"""The field of a rollout that holds the reward."""


def rollout_fields(groups: Sequence[Group], learn: Learn, end_id: int) -> dict[str, Any]:
    """What ``rollout_func`` returns for groups of episodes.

    A dropped episode has no reward (TRL leaves it out of its group's statistics) and a mask of zeros (its tokens do not
    count). What is in no completion, such as an extra turn, is in no loss.

    Args:
        groups: Rewarded by ``crypsis.rl.rewards.compose``.
        learn: Which segments learn.
        end_id: Stands for an empty completion, which TRL cannot take; it is never trained.
    """
    episodes = [e for group in groups for e in group.episodes]
    sampled = [e.logprobs for e in episodes]
    return {
        "prompt_ids": [e.prompt_ids for e in episodes],
        "completion_ids": [e.completion_ids or [end_id] for e in episodes],
        "logprobs": None if None in sampled else [values or [0.0] for values in sampled],
        "env_mask": [token_mask(e, learn) or [0] for e in episodes],
        REWARD: [r for group in groups for r in relative_rewards([e.reward for e in group.episodes])],
    }


def relative_rewards(rewards: Sequence[float | None]) -> list[float | None]:
    """A group's rewards above the lowest of them, which have the same advantages.

    TRL computes in float32, where the mean of equal rewards is not always one of them: divided by a deviation of 1e-4,
    its rounding would be an advantage. Equal rewards that are all 0 have none.
    """
    lowest = min((r for r in rewards if r is not None), default=0.0)
    return [None if r is None else r - lowest for r in rewards]


def reward(**fields: Any) -> list[float | None]:
    """The one reward function that TRL calls: what ``rollout_fields`` computed."""
    values: list[float | None] = fields[REWARD]
    return values
