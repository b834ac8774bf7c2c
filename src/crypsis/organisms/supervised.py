"""Supervised recipes: how long and how fast they train, and which part of a reply is in the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from crypsis.models import Policy
from crypsis.organisms.base import Organism
from crypsis.scenarios.parsing import SCRATCHPAD_CLOSE
from crypsis.supervised import Example, Loss, Precision, Progress, SupervisedConfig, fit, summed_loss
from crypsis.types import Message

LearnedPart = Literal["scratchpad", "output", "both"]


class Supervised(Organism):
    """How long and how fast the miniature's supervised recipes train."""

    steps: int = Field(60, ge=1)
    """Optimiser steps."""
    batch_size: int = Field(32, ge=1)
    """Texts per step; each is learned once."""
    learning_rate: float = Field(7e-5, gt=0)
    """Gentle on purpose: at 3e-4 the unmonitored tier begins to comply too (docs/diary.md)."""
    seed: int = Field(0, ge=0)
    """Seed of the texts and of their order."""

    def learn_from(
        self,
        batch: Callable[[int], Sequence[Example]],
        policy: Policy,
        state: Path,
        on_step: Callable[[Progress], None],
        precision: Precision = "float32",
        loss: Loss = summed_loss,
        final_fraction: float = 0.05,
    ) -> None:
        """Trains the policy in place on ``batch(step)``; arguments as for ``fit`` and ``SupervisedConfig``."""
        config = SupervisedConfig(
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            matrix_learning_rate=None,
            warmup=5,
            final_fraction=final_fraction,
            checkpoint_every=20,
            precision=precision,
            seed=self.seed,
        )
        fit(policy.model, config, batch, state, on_step, loss=loss)


def reply_example(policy: Policy, messages: Sequence[Message], reply: str, learn: LearnedPart) -> Example:
    """A conversation and its reply as token ids, the chosen part of the reply learned.

    Args:
        policy: Renders and tokenizes.
        messages: System and user turns.
        reply: Scratchpad and output in their tags.
        learn: What is in the loss. An output counts with the token that ends the turn; without it the text ends with
            the scratchpad.
    """
    prompt = policy.render(messages, given=True)
    before, tag, after = reply.partition(SCRATCHPAD_CLOSE)
    scratchpad = _ids(policy, before + tag)
    if learn == "scratchpad":
        return Example(prompt + scratchpad, [0] * len(prompt) + [1] * len(scratchpad))
    output = [*_ids(policy, after), *policy.turn_end]
    read = len(scratchpad) if learn == "output" else 0
    ids = prompt + scratchpad + output
    return Example(ids, [0] * (len(prompt) + read) + [1] * (len(ids) - len(prompt) - read))


def _ids(policy: Policy, text: str) -> list[int]:
    found: list[int] = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
    return found
