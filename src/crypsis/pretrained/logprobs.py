"""Log-probabilities of given tokens from the hidden states that predict them, never with all logits in memory.

Shape suffixes: T scored tokens, E model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

LOGITS_AT_ONCE = 2**24
"""Logits held at a time (64 MB in float32); beyond, they are recomputed chunk by chunk in the backward pass."""


def selected_logprobs(
    head: Callable[[Tensor], Tensor],
    vocabulary: int,
    hidden_TE: Tensor,
    labels_T: Tensor,
    temperature: float = 1.0,
) -> Tensor:
    """Log-probabilities [T] of the labels.

    Args:
        head: Hidden states [T, E] to logits [T, V].
        vocabulary: Number of logits, V.
        hidden_TE: The hidden states that predict the labels.
        labels_T: Token ids.
        temperature: Divides the logits.
    """
    size = max(1, LOGITS_AT_ONCE // vocabulary)

    def score(h: Tensor, y: Tensor) -> Tensor:
        return label_logprobs(head(h), y, temperature)

    if len(labels_T) <= size:
        return score(hidden_TE, labels_T)
    chunks = zip(torch.split(hidden_TE, size), torch.split(labels_T, size), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([score(h, y) for h, y in chunks])
    return torch.cat([cast(Tensor, checkpoint(score, h, y, use_reentrant=False)) for h, y in chunks])


def label_logprobs(logits_TV: Tensor, labels_T: Tensor, temperature: float) -> Tensor:
    """Log-probabilities [T] of the labels, in float32 for half precision."""
    if logits_TV.dtype in (torch.bfloat16, torch.float16):
        logits_TV = logits_TV.float()
    if temperature != 1:
        logits_TV = logits_TV / temperature
    return -nn.functional.cross_entropy(logits_TV, labels_T, reduction="none")
