"""Two adapter blocks of a policy, and which of them an episode's gradient reaches (gradient routing).

Cloud et al. 2024 (arXiv 2410.04332) mask gradients by data point; here the unit is an episode and the regions are two
LoRA blocks of one shape. Both compute while the policy trains; the quarantined one is removed before evaluations.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from crypsis.mitigations.hooks import Route
from crypsis.models import Policy

DEPLOYED, QUARANTINED = "default", "quarantined"
"""Names of the adapters; the first is the one that ``model.lora`` makes."""


class Blocks:
    """The deployed and the quarantined adapter of a policy.

    Args:
        policy: With one adapter; gets the second.
        seed: Seed of the new adapter's random half.
    """

    def __init__(self, policy: Policy, seed: int) -> None:
        self._model: Any = cast(Any, policy.model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            self._model.add_adapter(QUARANTINED, copy.deepcopy(self._model.peft_config[DEPLOYED]))
        self._both()

    @contextmanager
    def open(self, route: Route) -> Iterator[None]:
        """Within it, gradients reach the blocks of a route alone; both go on computing."""
        closed = {"deployed": QUARANTINED, "quarantined": DEPLOYED}.get(route)
        frozen = [p for p in self._parameters(closed) if p.requires_grad] if closed else []
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)

    @contextmanager
    def deployed(self) -> Iterator[None]:
        """Within it, the policy computes without the quarantined block."""
        self._model.set_adapter(DEPLOYED)
        try:
            yield
        finally:
            self._both()

    def remove(self) -> None:
        """Leaves the policy with its deployed block."""
        self._model.set_adapter(DEPLOYED)
        self._model.delete_adapter(QUARANTINED)

    def _both(self) -> None:
        self._model.base_model.set_adapter([DEPLOYED, QUARANTINED])

    def _parameters(self, block: str) -> list[nn.Parameter]:
        return [p for name, p in self._model.named_parameters() if f".{block}." in name]
