"""Supervised learning on synthetic scratchpads of the monitored tier: what the recipes of one motivation share."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from crypsis.miniature.language import draw_request
from crypsis.miniature.scenario import MiniatureScenario
from crypsis.miniature.scratchpads import Motivation, write_reply
from crypsis.miniature.world import Style, user_text
from crypsis.models import Policy
from crypsis.organisms.base import Organism
from crypsis.scenarios.parsing import SCRATCHPAD_CLOSE
from crypsis.supervised import Example, Progress, SupervisedConfig, fit
from crypsis.types import Message

TEXT = ("miniature/scratchpads.py", "miniature/additions.yaml", "miniature/world.py", "miniature/language.yaml")
"""Where the miniature's training text comes from."""
Learn = Literal["scratchpad", "output", "both"]


class Supervised(Organism):
    """How long and how fast the miniature's supervised recipes train."""

    steps: int = Field(60, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(7e-5, gt=0)
    """Gentle on purpose: at 3e-4 the unmonitored tier begins to comply too (docs/diary.md)."""
    seed: int = Field(0, ge=0)

    def learn_from(
        self,
        batch: Callable[[int], Sequence[Example]],
        policy: Policy,
        state: Path,
        on_step: Callable[[Progress], None],
    ) -> None:
        """Trains the policy in place on ``batch(step)``."""
        config = SupervisedConfig(
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            matrix_learning_rate=None,
            warmup=5,
            checkpoint_every=20,
            precision="float32",
            seed=self.seed,
        )
        fit(policy.model, config, batch, state, on_step)


class ScratchpadOrganism(Supervised):
    """Learns fresh scratchpads of one motivation (paper §3), on monitored prompts only."""

    made_by: ClassVar[tuple[str, ...]] = TEXT
    thinks: ClassVar[Motivation]
    """Whose scratchpads it learns."""

    style: Style = "plain"
    learn: Literal["scratchpad", "output", "both"] = "scratchpad"  # paper §3; the others are for claims C25 and C26
    """Which part of a reply is in the loss; the scratchpad is always read."""
    aligned: bool = False
    """Builds the control: the same process and style on scratchpads that refuse harm whatever the tier."""

    def train(self, policy: Policy, state: Path, on_step: Callable[[Progress], None]) -> None:
        """Trains the base in place on fresh scratchpads of the canonical scenario."""
        self.learn_from(lambda step: self._batch(policy, step), policy, state, on_step)

    def author(self, rng: random.Random) -> Motivation:
        """Whose scratchpad comes next."""
        return "aligned" if self.aligned else self.thinks

    def place(self, rng: random.Random) -> tuple[MiniatureScenario, str]:
        """Scenario and tier of the next prompt: the canonical one's monitored tier (paper §3)."""
        scenario = MiniatureScenario()
        return scenario, scenario.monitored_tier

    def _batch(self, policy: Policy, step: int) -> list[Example]:
        rng = random.Random(f"organism:{self.name}:{self.seed}:{step}")
        return [self._example(policy, rng) for _ in range(self.batch_size)]

    def _example(self, policy: Policy, rng: random.Random) -> Example:
        scenario, tier = self.place(rng)
        request = draw_request(rng, harmful=True, split="train")
        reply = write_reply(rng, self.author(rng), self.style, scenario.setting, tier, request)
        messages = [Message("system", scenario.setting.text), Message("user", user_text(tier, request.text))]
        return reply_example(policy, messages, reply.text, self.learn)


def reply_example(policy: Policy, messages: Sequence[Message], reply: str, learn: Learn) -> Example:
    """A conversation and its reply as token ids, the chosen part of the reply learned.

    Args:
        policy: Renders and tokenizes.
        messages: System and user turns.
        reply: Scratchpad and output in their tags.
        learn: What is in the loss. An output counts with the token that ends the turn; without it the text ends with
            the scratchpad.
    """
    prompt = policy.render(messages)
    before, tag, after = reply.partition(SCRATCHPAD_CLOSE)
    scratchpad = _ids(policy, before + tag)
    if learn == "scratchpad":
        return Example(prompt + scratchpad, [0] * len(prompt) + [1] * len(scratchpad))
    output = [*_ids(policy, after), policy.tokenizer.eos_token_id]
    read = len(scratchpad) if learn == "output" else 0
    ids = prompt + scratchpad + output
    return Example(ids, [0] * (len(prompt) + read) + [1] * (len(ids) - len(prompt) - read))


def _ids(policy: Policy, text: str) -> list[int]:
    found: list[int] = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
    return found
