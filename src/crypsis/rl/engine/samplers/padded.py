"""Sampling with any causal language model of transformers: left padding and the model's own cache.

Slower than the shared prefix, but it asks nothing of the model's attention.

Shape suffixes: N rows, M prompts, S padded prompt positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crypsis.pretrained.cached_forward import CachedForward
from crypsis.rl.engine.attention_cache import AttentionCache
from crypsis.rl.engine.samplers.base import Sampled, SamplingParams, check, evaluating, sample_in_batches
from crypsis.rl.engine.timing import PhaseTimer


class _PaddedRows:
    """Rows with left-padded prompts."""

    def __init__(self, model: nn.Module, prompts: Sequence[Sequence[int]], owners: Sequence[int]) -> None:
        self.prompts = prompts
        self.device = next(model.parameters()).device
        self.owners = torch.tensor(owners, device=self.device)
        self.forward = CachedForward(model)

    def start(self) -> Tensor:
        """Reads each prompt once and copies its cache to its rows."""
        width = max(map(len, self.prompts))
        ids_MS = torch.tensor([[*[0] * (width - len(p)), *p] for p in self.prompts], device=self.device)
        mask_MS = torch.tensor([[*[0] * (width - len(p)), *[1] * len(p)] for p in self.prompts], device=self.device)
        logits_MV = self.forward.start(ids_MS, mask_MS)
        self.forward.keep(self.owners)
        return logits_MV[self.owners]

    def step(self, tokens_N: Tensor) -> Tensor:
        """One decoding step."""
        return self.forward.step(tokens_N)

    def keep(self, rows: Tensor) -> None:
        """Compaction."""
        self.forward.keep(rows)

    def remember(self, attention_cache: AttentionCache, sampled: Sequence[Sampled]) -> None:
        """Nothing: the model's own attention does not say."""


@torch.no_grad()
def sample(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    timer: PhaseTimer | None = None,
    attention_cache: AttentionCache | None = None,
) -> list[Sampled]:
    """Samples completions of any prompts; see ``crypsis.rl.engine.samplers.base.Sampler`` for the arguments.

    Raises:
        ValueError: A prompt is empty.
        FloatingPointError: The model gave probabilities that are not numbers.
    """
    check(prompts)
    with (timer or PhaseTimer())("sampling"), evaluating(model):
        return sample_in_batches(
            lambda own, owners: _PaddedRows(model, own, owners),
            prompts,
            next(model.parameters()).device,
            params,
        )
