"""Sampling by the vLLM of TRL's ``GRPOTrainer``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from crypsis.rl.engine.attention_cache import AttentionCache
from crypsis.rl.engine.samplers import Sampled, Sampler, SamplingParams
from crypsis.rl.engine.timing import PhaseTimer


def vllm_sampler(trainer: Any) -> Sampler:
    """A sampler that asks the trainer's vLLM, in this process or on a server; TRL has sent it the weights.

    It samples from vLLM's own random numbers: neither ``seed`` nor ``row_offset`` has an effect.
    """

    def sample(
        model: nn.Module,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        timer: PhaseTimer | None = None,
        attention_cache: AttentionCache | None = None,
    ) -> list[Sampled]:
        """Samples like ``samplers.base.Sampler``; model, settings and number of rows are the trainer's."""
        rows = [list(prompt) for prompt in prompts for _ in range(params.samples_per_prompt)]
        with (timer or PhaseTimer())("sampling"):
            _, ids, logprobs, _ = trainer.vllm_generation.generate(
                prompts=rows, images=None, num_generations=params.samples_per_prompt
            )
        return [
            Sampled(
                list(row), [math.nan if best[0] is None else best[0] for best in values], row[-1] in params.stop_ids
            )
            for row, values in zip(ids, logprobs, strict=True)
        ]

    return sample
