"""Whether the shared prefix gives a model's own numbers, asked of each model before it is trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from crypsis.models import Policy
from crypsis.rl.engine.samplers import SamplingParams, shared_prefix
from crypsis.rl.engine.scoring import TrainRow, token_logprobs
from crypsis.rl.engine.shared_prefix import why_not_shared

ROWS, TOKENS, SEED = 4, 4, 0
TOLERANCES = {torch.float64: 1e-6, torch.float32: 2e-2, torch.bfloat16: 0.5, torch.float16: 0.2}
"""Largest error of a log-probability, in nats. A wrong mask, scale or position is off by more; float32 leaves room for
chips on which fast linear layers are products of bfloat16."""


def why_padded(policy: Policy, prompts: Sequence[Sequence[int]]) -> str:
    """Why the engine must not share prefixes with this policy, or nothing if it may.

    A few tokens are sampled with the shared prefix, and scored with it and by the model on its own: one micro-batch
    passes through all the engine's ways of attending.

    Args:
        policy: The policy.
        prompts: Some prompts of the run, as token ids.
    """
    reason = why_not_shared(policy.model)
    if reason is not None:
        return reason
    some = prompts[:ROWS]
    tolerance = TOLERANCES[policy.autocast or next(policy.model.parameters()).dtype]
    with policy.computing():
        sampled = shared_prefix.sample(policy.model, some, SamplingParams(1, TOKENS, stop_ids=[], seed=SEED))
        rows = [TrainRow(list(p), s.ids, [1] * len(s.ids), 0.0) for p, s in zip(some, sampled, strict=True)]
        shared = torch.tensor(token_logprobs(policy.model, rows, form="shared"))
        own = torch.tensor(token_logprobs(policy.model, rows, form="padded"))
    said = torch.tensor([s.logprobs for s in sampled])
    error = torch.stack([shared - own, said - own]).abs().max().item()
    if error <= tolerance:
        return ""
    return f"the shared prefix misses the model's own log-probabilities by {error:.2g} nats"
