"""From hidden states to logits, so that only some positions need logits, and not all at once.

Shape suffixes: T positions, E model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import MoeModelOutputWithPast

PROBE = 4
"""Tokens that are read."""
TOLERANCE = 1e-2
"""Largest error of a logit in a probe; a scale or a cap that is missing is off by more."""

Head = Callable[[Tensor], Tensor]
"""Hidden states [T, E] to logits [T, V]."""


def head_of(model: nn.Module) -> Head | None:
    """What a causal language model does after its decoder, or None if that cannot be had on its own.

    For most models this is the head. Those that scale or cap their logits do it themselves, in a forward pass whose
    decoder is exchanged for the hidden states.
    """
    whole: Any = model
    whole = whole.get_base_model() if hasattr(whole, "get_base_model") else whole
    if plain_head(model):
        head: Head = whole.get_output_embeddings()
        return head
    try:
        decoder = whole.get_decoder()
    except (AttributeError, NotImplementedError):
        return None
    if decoder is whole:
        return None

    def tail(hidden_TE: Tensor) -> Tensor:
        """Logits [T, V] by the model itself, its decoder giving these states."""

        def given(*_: Any, **__: Any) -> MoeModelOutputWithPast:
            return MoeModelOutputWithPast(last_hidden_state=hidden_TE[None])

        ids = torch.zeros(1, len(hidden_TE), dtype=torch.long, device=hidden_TE.device)
        decoder.forward = given
        try:
            logits: Tensor = whole(input_ids=ids, use_cache=False).logits[0]
        finally:
            del decoder.forward
        return logits

    return tail if _gives_logits(model, tail) else None


@torch.no_grad()
def _gives_logits(model: Any, head: Head) -> bool:
    """Whether the head gives what the whole model gives."""
    ids = torch.arange(PROBE, device=next(model.parameters()).device)[None]
    ids = ids % model.get_input_embeddings().weight.shape[0]
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        logits = model(input_ids=ids, use_cache=False).logits[0]
        found = head(model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[0])
    except Exception:  # what an unknown model raises has no bounds; it is then computed whole
        return False
    finally:
        for module, training in modes:
            module.training = training
    return found.shape == logits.shape and torch.allclose(found, logits, atol=TOLERANCE)


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
