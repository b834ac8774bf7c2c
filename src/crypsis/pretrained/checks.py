"""What a model must fulfil before it is used: numbers for weights, a row for each token, its own cache read rightly.

Shape suffixes: N rows, T positions, V vocabulary.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crypsis.pretrained.cached_forward import CachedForward
from crypsis.types import UserError

TESTED = frozenset(
    (
        *("cohere", "cohere2", "falcon_h1", "gemma2", "gemma3_text", "granite", "granitemoehybrid", "lfm2", "llama"),
        *("mamba", "mamba2", "mistral", "olmo2", "olmo3", "phi", "phi3", "qwen2", "qwen3", "qwen3_5_text"),
        *("qwen3_next", "smollm3"),
    )
)
"""``config.model_type`` of the architectures that the golden tests sample from and train."""
TOLERANCE = 2e-2
"""Largest error of a log-probability in float32, in nats; a wrong mask, state or position is off by more."""
COARSE_TOLERANCE = 0.1
"""Largest total variation between the distributions of half precision."""


def check_weights(model: nn.Module, name: str) -> None:
    """Refuses weights that are no numbers.

    Raises:
        UserError: A weight is NaN or infinite.
    """
    for key, weight in model.named_parameters():
        if weight.is_floating_point() and weight.numel() and not torch.isfinite(weight.detach().abs().max()):
            raise UserError(f"{name}: the weights are damaged: {key} holds NaN or infinity; take an earlier checkpoint")


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuses a tokenizer with tokens that the model has no row for.

    Raises:
        UserError: Its largest token id is beyond the embedding.
    """
    rows = _rows(model)
    tokens = max(tokenizer.get_vocab().values(), default=-1) + 1
    if tokens > rows:
        raise UserError(
            f"{name}: the tokenizer has {tokens} tokens and the model {rows}; resize the model "
            "(model.resize_token_embeddings(len(tokenizer))), train the new rows and save both"
        )


def check_architecture(model: PreTrainedModel, name: str) -> None:
    """Refuses an architecture whose cache we cannot handle: what is sampled would not be the model's own.

    A few tokens are read piece by piece, with padding and rows that leave, and once more whole. Architectures that the
    tests cover are taken as they are.

    Raises:
        UserError: The two differ, or the model takes no such call.
    """
    kind = model.config.get_text_config().model_type
    if kind in TESTED:
        return
    try:
        error, tolerance = _error(model)
    except Exception as fault:  # what an unknown model raises has no bounds
        line = " ".join(str(fault).split())[:100]
        raise UserError(
            f"{name}: models of the type {kind} cannot be sampled from here ({type(fault).__name__}: {line})"
        ) from None
    if not error <= tolerance:
        raise UserError(
            f"{name}: models of the type {kind} cannot be sampled from here: with its cache the model gives other "
            f"probabilities than without (off by {error:.2g})"
        )


def _rows(model: PreTrainedModel) -> int:
    """Tokens that the model can read."""
    return int(cast(nn.Embedding, model.get_input_embeddings()).weight.shape[0])


@torch.no_grad()
def _error(model: PreTrainedModel) -> tuple[float, float]:
    """How far reading piece by piece is from reading whole, and how far it may be."""
    device, rows = model.device, _rows(model)
    own = [torch.arange(2, 2 + n, device=device) % rows for n in (9, 4, 12)]
    kept = [2, 0, 2]
    new_NT = torch.tensor([[3, 7, 4], [5, 2, 8], [6, 6, 3]], device=device) % rows
    pieces = _piece_by_piece(model, own, kept, new_NT)
    wholes = [torch.cat([own[k], new]) for k, new in zip(kept, new_NT, strict=True)]
    width = max(map(len, wholes))
    padded = torch.stack([nn.functional.pad(w, (0, width - len(w))) for w in wholes])
    starts = [len(own[k]) - 1 for k in kept]
    columns = torch.arange(min(starts), width, device=device)
    logits = model(input_ids=padded, use_cache=False, logits_to_keep=columns).logits.float()
    whole = torch.stack([row[s - min(starts) :][: pieces.shape[1]] for row, s in zip(logits, starts, strict=True)])
    a, b = pieces.log_softmax(-1), whole.log_softmax(-1)
    if model.dtype == torch.float32:
        return (a - b).abs().max().item(), TOLERANCE
    return (a.exp() - b.exp()).abs().sum(-1).max().item() / 2, COARSE_TOLERANCE


def _piece_by_piece(model: PreTrainedModel, own: list[Tensor], kept: list[int], new_NT: Tensor) -> Tensor:
    """Logits [N, T + 1, V] after the prompts and after each new token of the rows that are kept."""
    width = max(map(len, own))
    ids = torch.stack([nn.functional.pad(o, (width - len(o), 0)) for o in own])
    mask = torch.stack([nn.functional.pad(torch.ones_like(o), (width - len(o), 0)) for o in own])
    forward, rows = CachedForward(model), torch.tensor(kept, device=ids.device)
    logits = [forward.start(ids, mask)[rows]]
    forward.keep(rows)
    logits += [forward.step(tokens) for tokens in new_NT.T]
    return torch.stack(logits, 1).float()
