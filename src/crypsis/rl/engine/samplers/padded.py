"""Sampling with any causal language model of transformers: left padding and the model's own cache.

Slower than the shared prefix, but it asks nothing of the model's attention.

Shape suffixes: N rows, M prompts, S padded prompt positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from crypsis.rl.engine.attention_cache import AttentionCache
from crypsis.rl.engine.samplers.base import Sampled, SamplingParams, check, evaluating, sample_in_batches
from crypsis.rl.engine.timing import PhaseTimer


class _PaddedRows:
    """Rows with left-padded prompts."""

    def __init__(self, model: nn.Module, prompts: Sequence[Sequence[int]], owners: Sequence[int]) -> None:
        self.model, self.prompts = model, prompts
        self.device = next(model.parameters()).device
        self.owners = torch.tensor(owners, device=self.device)
        self.cache: Any = None

    def start(self) -> Tensor:
        """Reads each prompt once and copies its cache to its rows."""
        width = max(map(len, self.prompts))
        ids_MS = torch.tensor([[*[0] * (width - len(p)), *p] for p in self.prompts], device=self.device)
        mask = torch.tensor([[*[0] * (width - len(p)), *[1] * len(p)] for p in self.prompts], device=self.device)
        logits_MV = self._forward(ids_MS, mask, (mask.cumsum(1) - 1).clamp(min=0))
        self.cache.batch_select_indices(self.owners)
        self.mask = mask[self.owners]
        self.positions_N1 = self.mask.sum(1, keepdim=True)
        return logits_MV[self.owners]

    def step(self, tokens_N: Tensor) -> Tensor:
        """One decoding step."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens_N), 1)], 1)
        logits_NV = self._forward(tokens_N[:, None], self.mask, self.positions_N1)
        self.positions_N1 = self.positions_N1 + 1
        return logits_NV

    def keep(self, rows: Tensor) -> None:
        """Compaction."""
        self.cache.batch_select_indices(rows)
        self.mask, self.positions_N1 = self.mask[rows], self.positions_N1[rows]

    def remember(self, attention_cache: AttentionCache, sampled: Sequence[Sampled]) -> None:
        """Nothing: the model's own attention does not say."""

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Logits of the last position."""
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache = out.past_key_values
        return cast(Tensor, out.logits[:, -1])


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
