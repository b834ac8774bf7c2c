"""Log-probabilities of given tokens, from logits or from the hidden states that predict them.

Shape suffixes: T scored tokens, E model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

LOGITS_AT_ONCE = 2**26
"""Logits held at a time (256 MB in float32); beyond, they are recomputed chunk by chunk in the backward pass."""


def selected_logprobs(
    head: Callable[[Tensor], Tensor], hidden: Tensor, index: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """Log-probabilities [T] of the scored tokens; only the positions that predict them go through the head."""
    hidden_TE = hidden.index_select(0, index)
    chunks = _chunks(head, hidden_TE, labels)
    if not torch.is_grad_enabled():
        return torch.cat([label_logprobs(head(h), y, temperature) for h, y in chunks])
    if len(chunks) == 1:
        return label_logprobs(head(hidden_TE), labels, temperature)

    def score(h: Tensor, y: Tensor) -> Tensor:
        return label_logprobs(head(h), y, temperature)

    return torch.cat([cast(Tensor, checkpoint(score, h, y, use_reentrant=False)) for h, y in chunks])


def _chunks(head: Callable[[Tensor], Tensor], hidden_TE: Tensor, labels_T: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Cuts the scored tokens so that a chunk has at most ``LOGITS_AT_ONCE`` logits."""
    size = max(1, LOGITS_AT_ONCE // int(cast(nn.Linear, head).weight.shape[0]))
    return list(zip(torch.split(hidden_TE, size), torch.split(labels_T, size), strict=True))


def label_logprobs(logits_TV: Tensor, labels_T: Tensor, temperature: float) -> Tensor:
    """Log-probabilities [T] of the labels, in float32 for half precision."""
    if logits_TV.dtype in (torch.bfloat16, torch.float16):
        logits_TV = logits_TV.float()
    if temperature != 1:
        logits_TV = logits_TV / temperature
    return -nn.functional.cross_entropy(logits_TV, labels_T, reduction="none")
