"""The policy's hidden states at given completions, for white-box monitors: one batched forward pass, no gradients.

The pass stops after the layer that is asked for, and has no LM head. It shares the prefix as the loss does, and
transcripts that occur several times (a group that shares its scratchpad) are computed once. Why not in the loss's own
forward pass: its gradient needs the advantages, these the rewards, and these the monitor's verdicts on all episodes of
the step; keeping the graph of a whole step until then costs the memory that micro-batches are there to save.

Shape suffixes: N rows of a micro-batch, S positions after the common prefix, T tokens of a completion, E model width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crypsis.models import Policy
from crypsis.monitors.base import Monitor, ReadStates, Transcript, WatchesPolicy
from crypsis.rl.engine.engine import DEFAULT, Engine
from crypsis.rl.engine.samplers.base import evaluating
from crypsis.rl.engine.shared_prefix import (
    common_prefix,
    compute_prefix,
    detached,
    hidden_states,
    parts,
    shared_attention,
)
from crypsis.types import UserError

ROWS = 32
"""Rows a forward pass: fastest on this CPU with the mini organism (64: 8 % slower, 128: 40 %)."""

_Row = tuple[tuple[int, ...], tuple[int, ...]]
_Run = Callable[[Sequence[_Row]], tuple[list[int], Tensor]]


def watching(monitors: Mapping[str, Monitor], policy: Policy, engine: Engine = DEFAULT) -> dict[str, Monitor]:
    """The monitors, with access to the policy's hidden states for those that need it."""
    read = reader(policy, engine)
    return {name: m.watching(read) if isinstance(m, WatchesPolicy) else m for name, m in monitors.items()}


def reader(policy: Policy, engine: Engine = DEFAULT) -> ReadStates:
    """Reads the hidden states of the policy as it is when asked."""
    return lambda transcripts, layer: read_states(policy, transcripts, layer, engine)


@torch.no_grad()
def read_states(
    policy: Policy, transcripts: Sequence[Transcript], layer: int, engine: Engine = DEFAULT
) -> list[NDArray[np.float32]]:
    """Hidden states [T, E] after a layer at every token of each completion.

    Args:
        policy: The policy.
        transcripts: Token ids of prompt and completion; an empty completion has states of shape [0, E].
        layer: 1 is the first. The states are those of ``hidden_states[layer]`` in transformers, without a final norm.
        engine: How the policy is computed.

    Raises:
        UserError: The model has no such layer.
    """
    found = parts(policy.model)
    layers, width = found.decoder.layers, int(found.causal.config.get_text_config().hidden_size)
    if not 1 <= layer <= len(layers):
        raise UserError(f"a probe of layer {layer}: this model has {len(layers)} layers; was it made for another?")
    keys: list[_Row] = [(tuple(prompt), tuple(completion)) for prompt, completion in transcripts]
    states = {key: np.zeros((0, width), np.float32) for key in keys}
    asked = sorted((key for key in states if key[1]), key=lambda key: len(key[0]) + len(key[1]))
    with (
        evaluating(policy.model),
        policy.computing(),
        _running(policy, engine, [key[0] for key in asked], layer) as run,
    ):
        for start in range(0, len(asked), ROWS):
            rows = asked[start : start + ROWS]
            ends, hidden_NSE = run(rows)
            for key, end, hidden_SE in zip(rows, ends, hidden_NSE.float().cpu().numpy(), strict=True):
                states[key] = hidden_SE[end - len(key[1]) : end].copy()
    return [states[key] for key in keys]


class _Enough(Exception):  # noqa: N818  # it is no error
    """The layer that was asked for has run."""


@contextmanager
def _running(policy: Policy, engine: Engine, prompts: Sequence[Sequence[int]], layer: int) -> Iterator[_Run]:
    """Yields a function from rows to where each ends and the states [N, S, E] that were computed."""
    device = policy.model.device
    if not prompts or engine.form(policy.model) == "padded":
        decoder = parts(policy.model).decoder

        def whole(rows: Sequence[_Row]) -> tuple[list[int], Tensor]:
            ids_NS, ends = _padded(rows, 0, device)
            return ends, _behind(decoder, layer, lambda: decoder(input_ids=ids_NS, use_cache=False))

        yield whole
        return
    prefix = common_prefix(prompts)
    with shared_attention(policy.model) as found:
        shared = detached(compute_prefix(found, prefix))

        def suffixes(rows: Sequence[_Row]) -> tuple[list[int], Tensor]:
            ids_NS, ends = _padded(rows, len(prefix), device)
            positions = torch.arange(len(prefix), len(prefix) + ids_NS.shape[1], device=device)[None]
            return ends, _behind(found.decoder, layer, lambda: hidden_states(found.decoder, ids_NS, positions, shared))

        yield suffixes


def _behind(decoder: Any, layer: int, run: Callable[[], object]) -> Tensor:
    """Runs a decoder up to a layer and returns what comes out of it."""
    kept: list[Tensor] = []

    def stop(_module: object, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        kept.append(output if isinstance(output, Tensor) else output[0])
        raise _Enough

    handle = decoder.layers[layer - 1].register_forward_hook(stop)
    try:
        run()
    except _Enough:
        pass
    finally:
        handle.remove()
    return kept[0]


def _padded(rows: Sequence[_Row], skip: int, device: torch.device) -> tuple[Tensor, list[int]]:
    """Token ids [N, S] without the first ``skip``, padded on the right, where no token attends to; and lengths."""
    tokens = [[*prompt, *completion][skip:] for prompt, completion in rows]
    width = max(map(len, tokens))
    return torch.tensor([t + [0] * (width - len(t)) for t in tokens], device=device), [len(t) for t in tokens]
