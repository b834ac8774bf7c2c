"""What mitigations do with the inside of the policy: read its states, shift them in evaluations, add noise to weights.

Shape suffix: E model width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from crypsis.arrays import States
from crypsis.mitigations.base import Mitigation, call
from crypsis.mitigations.hooks import MatchesStates, PerturbsSampling, ReadsStates, Shift, SteersEvaluations
from crypsis.models import Policy
from crypsis.monitors.base import Transcript
from crypsis.rl.engine.engine import Engine
from crypsis.rl.engine.hidden_states import read_states
from crypsis.rl.engine.shared_prefix import parts
from crypsis.rl.state_matching import check_layer
from crypsis.types import Message, UserError

STEERED = "evaluations are steered"
"""Why a steered policy is computed row by row: the fast ways do without the layers' own forward passes."""


@dataclass(frozen=True, slots=True)
class LivePolicy:
    """The policy as it is when it is read (``crypsis.mitigations.hooks.PolicyStates``)."""

    policy: Policy
    engine: Engine

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return len(parts(self.policy.model).decoder.layers)

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation."""
        return self.policy.render(messages)

    def states(self, transcripts: Sequence[Transcript], layer: int) -> list[States]:
        """Hidden states after a layer over each completion."""
        return read_states(self.policy, transcripts, layer, self.engine)


def reading(mitigations: Sequence[Mitigation], policy: Policy, engine: Engine) -> list[Mitigation]:
    """The mitigations, with access to the policy's hidden states for those that need it.

    Raises:
        UserError: One of them names a layer that the model does not have.
    """
    live = LivePolicy(policy, engine)
    for m in mitigations:
        if isinstance(m, MatchesStates):
            check_layer(policy.model, m.matched_layer, m.name)
    return [call(m, m.reading, live) if isinstance(m, ReadsStates) else m for m in mitigations]


@contextmanager
def steered(policy: Policy, engine: Engine, mitigations: Sequence[Mitigation]) -> Iterator[Engine]:
    """Within it the policy computes with what mitigations add to its states.

    Args:
        policy: The policy.
        engine: How it is computed otherwise.
        mitigations: Those of the run, calibrated.

    Yields:
        How to compute it there: row by row if anything is added.

    Raises:
        UserError: A vector does not fit the model.
    """
    steering = [m for m in mitigations if isinstance(m, SteersEvaluations)]
    shifts = [(m.name, shift) for m in steering if (shift := call(m, m.shift)) is not None]
    handles = [_add(policy, shift, name) for name, shift in shifts]
    try:
        yield replace(engine, why_padded=engine.why_padded or STEERED) if shifts else engine
    finally:
        for handle in handles:
            handle.remove()


def _add(policy: Policy, shift: Shift, name: str) -> Any:
    """Adds a vector to what comes out of a layer; returns the handle that takes it off again."""
    layers = parts(policy.model).decoder.layers
    width = int(parts(policy.model).causal.config.get_text_config().hidden_size)
    if not (1 <= shift.layer <= len(layers) and len(shift.vector) == width):
        raise UserError(
            f"mitigations: {name}: shifts layer {shift.layer} by {len(shift.vector)} numbers; this model has "
            f"{len(layers)} layers and is {width} wide"
        )
    vector_E = torch.tensor(shift.vector)

    def shifted(_module: nn.Module, _inputs: object, output: Any) -> Any:
        states: Tensor = output if isinstance(output, Tensor) else output[0]
        moved = states + vector_E.to(states.device, states.dtype)
        return moved if isinstance(output, Tensor) else (moved, *output[1:])

    return layers[shift.layer - 1].register_forward_hook(shifted)


def noise_of(mitigations: Sequence[Mitigation]) -> float:
    """The noise on the weights that sample; 0 for none."""
    return sum(m.noise for m in mitigations if isinstance(m, PerturbsSampling))


@contextmanager
def perturbed(model: nn.Module, noise: float, seed: int) -> Iterator[None]:
    """Within it every weight matrix has Gaussian noise; afterwards the weights are bit for bit what they were.

    Args:
        model: The model.
        noise: Standard deviation as a share of the root mean square of each matrix; 0 changes nothing.
        seed: Fixes the draw.
    """
    matrices = [p for p in model.parameters() if p.ndim >= 2 and p.is_floating_point()] if noise else []
    kept = [p.detach().clone() for p in matrices]
    generator = torch.Generator().manual_seed(seed)
    try:
        with torch.no_grad():
            for p in matrices:
                size = noise * p.float().square().mean().sqrt()
                p.add_((size * torch.randn(p.shape, generator=generator).to(p.device)).to(p.dtype))
        yield
    finally:
        with torch.no_grad():
            for p, before in zip(matrices, kept, strict=True):
                p.copy_(before)
