"""Preference training (DPO): how long and how fast recipes of preference pairs train, and their loss.

Tensor suffixes: N rows of a batch, T positions.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from crypsis.checkpoints import latest_state, save_state
from crypsis.models import Policy
from crypsis.organisms.base import Organism
from crypsis.supervised import IGNORE, Example, Progress, pad_batch

CHECKPOINT_EVERY = 20
MAX_GRAD_NORM = 1.0


@dataclass(frozen=True, slots=True)
class Pair:
    """Two replies to one conversation; what is learned in each is the reply."""

    chosen: Example
    rejected: Example


class PreferenceTrained(Organism):
    """A recipe that learns to prefer one reply to another (DPO, Rafailov et al. 2023)."""

    steps: int = Field(60, ge=1)
    """Optimiser steps."""
    batch_size: int = Field(16, ge=1)
    """Pairs per step."""
    learning_rate: float = Field(1e-4, gt=0)
    """Rate of AdamW."""
    beta: float = Field(0.1, gt=0)  # Rafailov et al. 2023
    """How firmly the policy is held at its start."""
    seed: int = Field(0, ge=0)
    """Seed of the pairs and of their order."""

    def learn_pairs(
        self, batch: Callable[[int], Sequence[Pair]], policy: Policy, state: Path, on_step: Callable[[Progress], None]
    ) -> None:
        """Trains the policy in place on ``batch(step)``; a killed training goes on from its last state.

        Args:
            batch: The pairs of a step, from 0; must depend on the step alone.
            policy: Trained in place; as it is given, it is what it is held to.
            state: Folder for resumable states.
            on_step: Called after every step.
        """
        model = policy.model
        reference = copy.deepcopy(model).requires_grad_(False)
        optimiser = torch.optim.AdamW(model.parameters(), lr=self.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
        found = latest_state(state)
        done = 0 if found is None else found.step
        if found is not None:
            found.load(model, [optimiser])
        started, tokens = time.perf_counter(), 0
        for step in range(done, self.steps):
            pairs = batch(step)
            loss = preference_loss(model, reference, pairs, self.beta)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            tokens += sum(len(e.ids) for pair in pairs for e in (pair.chosen, pair.rejected))
            if (step + 1) % CHECKPOINT_EVERY == 0 and step + 1 < self.steps:
                save_state(state, step + 1, model, [optimiser], {})
            on_step(Progress(step + 1, self.steps, loss.item(), tokens / (time.perf_counter() - started)))


def preference_loss(model: PreTrainedModel, reference: PreTrainedModel, pairs: Sequence[Pair], beta: float) -> Tensor:
    """Mean over pairs of −log σ(β (chosen − rejected)), each the log-ratio of policy and reference (Rafailov 2023)."""
    examples = [*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)]
    with torch.no_grad():
        held_N = _logprobs(reference, examples)
    chosen_N, rejected_N = (_logprobs(model, examples) - held_N).chunk(2)
    return -functional.logsigmoid(beta * (chosen_N - rejected_N)).mean()


def _logprobs(model: PreTrainedModel, examples: Sequence[Example]) -> Tensor:
    """Log-probability [N] of what is learned in each example."""
    ids_NT, labels_NT = (t.to(model.device) for t in pad_batch(examples))
    logits = model(input_ids=ids_NT, use_cache=False).logits[:, :-1].float()
    loss_NT = functional.cross_entropy(logits.transpose(1, 2), labels_NT[:, 1:], ignore_index=IGNORE, reduction="none")
    return -loss_NT.sum(1)
