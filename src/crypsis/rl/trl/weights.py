"""Whole weights and optimiser moments of a model that a distributed trainer has cut into shards.

Every process of a run calls these functions together: gathering a shard is a conversation of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

Moments = dict[str, dict[str, Tensor]]
"""AdamW's state by the parameter's name."""


@torch.no_grad()
def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Fills a plain model with the whole weights of a model that may be sharded (FSDP2, ZeRO-3)."""
    plain = dict(target.named_parameters(remove_duplicate=False))
    for name, parameter in source.named_parameters():
        with _whole(parameter) as full:
            plain[_plain_name(name)].copy_(full)


@torch.no_grad()
def read_moments(model: nn.Module, optimiser: torch.optim.Optimizer, keep: bool) -> Moments:
    """Whole moments of all parameters that have some, on the CPU.

    Args:
        model: What the optimiser trains.
        optimiser: AdamW, wrapped or not.
        keep: Whether this process wants them; it takes part in gathering either way.
    """
    found: Moments = {}
    for name, parameter in _trainable(model):
        for key, value in optimiser.state.get(parameter, {}).items():
            with _whole(value) as full:
                if keep:
                    found.setdefault(_plain_name(name), {})[key] = full.detach().cpu().clone()
    return found


@torch.no_grad()
def write_moments(
    model: nn.Module, optimiser: torch.optim.Optimizer, moments: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Gives an optimiser the moments that ``read_moments`` found, cut up as its parameters are."""
    for name, parameter in _trainable(model):
        for key, value in moments.get(_plain_name(name), {}).items():
            optimiser.state[parameter][key] = _like(parameter, value)


def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def _plain_name(name: str) -> str:
    return name.replace("_checkpoint_wrapped_module.", "")


def _like(parameter: nn.Parameter, value: Tensor) -> Tensor:
    if value.ndim == 0:  # AdamW counts its steps on the CPU
        return value.clone()
    value = value.to(parameter.device)
    if isinstance(parameter, DTensor):
        return distribute_tensor(value, parameter.device_mesh, parameter.placements)
    return value.clone()


@contextmanager
def _whole(tensor: Any) -> Iterator[Tensor]:
    if isinstance(tensor, DTensor):
        yield tensor.full_tensor()
    elif hasattr(tensor, "ds_id"):  # ZeRO-3
        import deepspeed

        with deepspeed.zero.GatheredParameters([tensor]):
            yield tensor
    else:
        yield tensor
