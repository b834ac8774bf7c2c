"""Our monitors and mitigations as ``reward_funcs`` of a plain ``trl.GRPOTrainer`` (docs/integrations.md).

Each term of the reward is one function, so that TRL logs each; their sum, which TRL computes, is our reward. A reply
that is dropped gets None from all of them, which leaves it out of its group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from crypsis.integrations.rewards import Rewards, SampledReply, make_rewards, prompt_of, row_of
from crypsis.types import Episode, Split

RewardFunc = Callable[..., list[float | None]]
"""What TRL calls with the columns of a batch."""

__all__ = ["RewardFunc", "make_rewards", "prompt_dataset", "reward_funcs"]


def prompt_dataset(rewards: Rewards, n: int = 128, seed: int = 0, split: Split = "train") -> Dataset:
    """Prompts of the monitored tier as a dataset for ``GRPOTrainer``.

    Args:
        rewards: As :func:`crypsis.integrations.rewards.make_rewards` gives them.
        n: Number of prompts.
        seed: Which prompts.
        split: ``train`` or ``eval``; the two share no request.

    Returns:
        A row per prompt: ``prompt`` (messages) and the columns that the reward functions read.
    """
    return Dataset.from_list(
        [
            {"prompt": [{"role": m.role, "content": m.content} for m in p.messages]} | row_of(p)
            for p in rewards.prompts(split, n, seed)
        ]
    )


def reward_funcs(rewards: Rewards, tokenizer: PreTrainedTokenizerBase) -> list[RewardFunc]:
    """A reward function for each term, in the order of ``rewards.terms``.

    Args:
        rewards: What to reward.
        tokenizer: The policy's. A reply that does not end with its end-of-turn token was cut off and gets no reward.
    """
    shared = _Batch(rewards, tokenizer)
    return [_term(name, shared) for name in rewards.terms]


def _term(name: str, batch: _Batch) -> RewardFunc:
    def reward(completion_ids: Sequence[Sequence[int]], **columns: Any) -> list[float | None]:
        return [None if e.reward is None else e.reward_terms.get(name) for e in batch.episodes(completion_ids, columns)]

    reward.__name__ = name  # TRL logs rewards/NAME
    return reward


class _Batch:
    """The episodes of the batch that was rewarded last: TRL calls every function with the same one."""

    def __init__(self, rewards: Rewards, tokenizer: PreTrainedTokenizerBase) -> None:
        self._rewards, self._tokenizer = rewards, tokenizer
        self._key: Any = None
        self._episodes: list[Episode] = []

    def episodes(self, completion_ids: Sequence[Sequence[int]], columns: dict[str, Any]) -> list[Episode]:
        """The episodes of a batch, judged once."""
        key = [tuple(ids) for ids in completion_ids], list(columns["prompt_id"])
        if key != self._key:
            rows = [dict(zip(columns, values, strict=False)) for values in _transposed(columns, len(completion_ids))]
            replies = [self._reply(list(ids), row) for ids, row in zip(completion_ids, rows, strict=True)]
            self._episodes, self._key = self._rewards(replies, self._tokenizer), key
        return self._episodes

    def _reply(self, ids: list[int], row: dict[str, Any]) -> SampledReply:
        ended = bool(ids) and ids[-1] == self._tokenizer.eos_token_id
        text = str(self._tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=False))
        return SampledReply(prompt_of(row), text, "end" if ended else "length", tuple(ids))


def _transposed(columns: dict[str, Any], rows: int) -> list[tuple[Any, ...]]:
    """The values of each row; TRL also passes things that are no columns."""
    whole = [c if isinstance(c, list) and len(c) == rows else [None] * rows for c in columns.values()]
    return list(zip(*whole, strict=True))
