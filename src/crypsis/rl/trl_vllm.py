"""Sampling by the vLLM of TRL's ``GRPOTrainer``."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

from torch import nn

from crypsis.rl.attended import Attended
from crypsis.rl.samplers import Sampled, Sampler
from crypsis.rl.samplers.base import BATCH_SIZE
from crypsis.rl.timing import PhaseTimer


def vllm_sampler(trainer: Any) -> Sampler:
    """A sampler that asks the trainer's vLLM, in this process or on a server; TRL has sent it the weights.

    It samples from vLLM's own random numbers: neither ``seed`` nor ``row_offset`` has an effect.
    """

    def sample(
        model: nn.Module,
        prompts: Sequence[Sequence[int]],
        *,
        samples_per_prompt: int,
        max_new_tokens: int,
        stop_ids: Collection[int],
        temperature: float = 1.0,
        seed: int,
        batch_size: int = BATCH_SIZE,
        row_offset: int | Sequence[int] = 0,
        fast_linears: bool = True,
        timer: PhaseTimer | None = None,
        attended: Attended | None = None,
    ) -> list[Sampled]:
        """As ``crypsis.rl.samplers.base.Sampler``; the model, its settings and the number of rows are the trainer's."""
        rows = [list(prompt) for prompt in prompts for _ in range(samples_per_prompt)]
        with (timer or PhaseTimer())("sampling"):
            _, ids, logprobs, _ = trainer.vllm_generation.generate(
                prompts=rows, images=None, num_generations=samples_per_prompt
            )
        return [
            Sampled(list(row), [math.nan if best[0] is None else best[0] for best in values], row[-1] in stop_ids)
            for row, values in zip(ids, logprobs, strict=True)
        ]

    return sample
