"""Whether a model's logits are what its head gives, so that only some positions may go through the head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

PROBE = 4
"""Tokens that are read."""


@torch.no_grad()
def plain_head(model: nn.Module) -> bool:
    """Whether the logits are the head's output for the decoder's last hidden states, unscaled and uncapped.

    Granite, Cohere and Gemma 2, for example, scale or cap theirs. This does not depend on names of settings: what the
    head gives is exchanged for large numbers, and these must come out as they are.
    """
    whole: Any = model
    try:
        head, decoder = whole.get_output_embeddings(), whole.get_decoder()
    except (AttributeError, NotImplementedError):
        return False
    if not isinstance(head, nn.Linear) or decoder is whole:
        return False
    seen: list[Tensor] = []
    planted: list[Tensor] = []

    def exchange(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        seen.append(inputs[0])
        planted.append(torch.linspace(-200, 200, output.numel(), device=output.device).view_as(output).to(output.dtype))
        return planted[0]

    ids = torch.arange(PROBE, device=head.weight.device)[None] % len(head.weight)
    modes = [(m, m.training) for m in model.modules()]
    hook = head.register_forward_hook(exchange)
    model.eval()
    try:
        logits = whole(input_ids=ids, use_cache=False).logits
        hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state
    finally:
        hook.remove()
        for module, training in modes:
            module.training = training
    if len(seen) != 1 or seen[0].shape != hidden.shape or logits.shape != planted[0].shape:
        return False
    return torch.equal(logits.to(planted[0].dtype), planted[0]) and torch.allclose(seen[0], hidden, atol=1e-5)
