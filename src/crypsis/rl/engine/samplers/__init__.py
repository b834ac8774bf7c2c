"""Samplers: from prompts to completions with log-probabilities."""

from __future__ import annotations

from torch import nn

from crypsis.rl.engine.samplers import padded, shared_prefix
from crypsis.rl.engine.samplers.base import Sampled, Sampler, SamplingParams
from crypsis.rl.engine.shared_prefix import why_not_shared

__all__ = ["Sampled", "Sampler", "SamplingParams", "choose_sampler"]


def choose_sampler(model: nn.Module) -> Sampler:
    """The fastest sampler that fits a model."""
    return padded.sample if why_not_shared(model) else shared_prefix.sample
