"""The loss of two prompts' states: those of the learned prompt are brought to those of the reference.

Shape suffixes: N pairs, T tokens of the common end, E model width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crypsis.rl.engine.shared_prefix import Parts, parts
from crypsis.types import UserError


@dataclass(frozen=True, slots=True)
class TokenPair:
    """Two prompts as tokens.

    Attributes:
        learned: Token ids of the prompt at which the policy learns.
        reference: Token ids of the prompt whose states are the target.
        end: How many tokens at their ends are the same; at least 1.
    """

    learned: list[int]
    reference: list[int]
    end: int


def token_pair(learned: list[int], reference: list[int]) -> TokenPair:
    """The pair with the longest common end of its prompts."""
    shorter = min(len(learned), len(reference))
    same = (n for n in range(shorter) if learned[-1 - n] != reference[-1 - n])
    return TokenPair(learned, reference, next(same, shorter))


def check_layer(model: nn.Module, layer: int | None, name: str) -> None:
    """Refuses a layer that the model does not have.

    Raises:
        UserError: There is no such layer.
    """
    count = len(parts(model).decoder.layers)
    if layer is not None and not 1 <= layer <= count:
        raise UserError(f"mitigations: {name}: layer {layer}: this model has {count} layers; name one of them")


def accumulate_matching(
    model: nn.Module, pairs: Sequence[TokenPair], *, layer: int | None, weight: float, normaliser: float, rows: int
) -> float:
    """Adds to ``.grad`` the gradient of ``weight`` times the mean distance of the pairs.

    A pair's distance is the squared distance of the states over the squared norm of the target, averaged over the
    common end's tokens and the layers.

    Args:
        model: A causal language model, PEFT-wrapped or not.
        pairs: Those of this process.
        layer: The layer after which states are compared (1 is the first); None for all.
        weight: Factor of the loss.
        normaliser: Number of pairs in all processes.
        rows: Pairs per forward pass.

    Returns:
        The loss, weight included.
    """
    found, total = parts(model), 0.0
    count = len(found.decoder.layers)
    layers = range(count) if layer is None else [layer - 1]
    for start in range(0, len(pairs), rows):
        some = pairs[start : start + rows]
        with torch.no_grad():
            targets = _states(found, [pair.reference for pair in some], layers)
        own = _states(found, [pair.learned for pair in some], layers)
        distances = [
            _distance(own[i][n], targets[i][n], pair) for i in range(len(layers)) for n, pair in enumerate(some)
        ]
        loss = weight * torch.stack(distances).sum() / (len(layers) * normaliser)
        loss.backward()
        total += float(loss.detach())
    return total


def _distance(own_SE: Tensor, target_SE: Tensor, pair: TokenPair) -> Tensor:
    """Relative squared distance over the common end."""
    own_TE = own_SE[len(pair.learned) - pair.end : len(pair.learned)].float()
    target_TE = target_SE[len(pair.reference) - pair.end : len(pair.reference)].float()
    return ((own_TE - target_TE).square().sum(-1) / target_TE.square().sum(-1)).mean()


def _states(found: Parts, prompts: Sequence[Sequence[int]], layers: Sequence[int]) -> list[Tensor]:
    """What comes out of each of some layers, [N, S, E]; padding is on the right, where no token attends to."""
    width = max(map(len, prompts))
    device = next(found.causal.parameters()).device
    ids_NS = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts], device=device)
    with _kept(found, layers) as kept:
        found.decoder(input_ids=ids_NS, use_cache=False)
    return [kept[number] for number in layers]


@contextmanager
def _kept(found: Parts, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Within it, what comes out of some layers is kept by their number."""
    kept: dict[int, Tensor] = {}

    def keep(number: int, output: Tensor | tuple[Tensor, ...]) -> None:
        kept[number] = output if isinstance(output, Tensor) else output[0]

    handles = [
        found.decoder.layers[number].register_forward_hook(lambda _m, _i, output, number=number: keep(number, output))
        for number in layers
    ]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()
