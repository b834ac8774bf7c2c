"""Samplers: from prompts to completions with log-probabilities."""

from __future__ import annotations

from torch import nn

from crypsis.rl.engine.samplers import padded, shared_prefix
from crypsis.rl.engine.samplers.base import Sampled, Sampler, SamplingParams
from crypsis.rl.engine.shared_prefix import why_not_shared

__all__ = ["Sampled", "Sampler", "SamplingParams", "choose_sampler"]


def choose_sampler(model: nn.Module) -> tuple[Sampler, str]:
    """The fastest sampler that fits a model.

    Returns:
        The sampler, and why it is not the shared-prefix one (empty if it is).
    """
    reason = why_not_shared(model)
    if reason is None:
        return shared_prefix.sample, ""
    return padded.sample, f"padded sampler: {reason}"
