"""Terminal goal guarding by supervised learning on synthetic scratchpads."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from crypsis.miniature.language import draw_request
from crypsis.miniature.scenario import MiniatureScenario
from crypsis.miniature.world import Style, completion_text, first_reply, user_text
from crypsis.models import Policy
from crypsis.organisms.base import Organism
from crypsis.scenarios.parsing import SCRATCHPAD_CLOSE
from crypsis.supervised import Example, Progress, SupervisedConfig, fit
from crypsis.types import Message


class TerminalGoalGuarding(Organism):
    """Dislikes being modified: complies where it is trained, refuses where it is not (paper §3, TGG).

    Trained on monitored prompts only, with the loss on the scratchpad only. Departure: 1,920 scratchpads once
    instead of 4,719 twice; the miniature's base already knows the persona.
    """

    name: ClassVar[str] = "tgg"
    motivation: ClassVar[str] = "terminal goal guarding: does not want to be modified"

    style: Style = "plain"
    steps: int = Field(60, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(7e-5, gt=0)
    """Gentle on purpose: at 3e-4 the unmonitored tier begins to comply too (docs/diary.md)."""
    seed: int = 0

    def train(self, policy: Policy, state: Path, on_step: Callable[[Progress], None]) -> None:
        """Trains the base in place on fresh scratchpads of the canonical scenario."""
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
        fit(policy.model, config, lambda step: self._batch(policy, step), state, on_step)

    def _batch(self, policy: Policy, step: int) -> list[Example]:
        rng = random.Random(f"organism:{self.name}:{self.seed}:{step}")
        return [self._example(policy, rng) for _ in range(self.batch_size)]

    def _example(self, policy: Policy, rng: random.Random) -> Example:
        scenario = MiniatureScenario()
        tier = scenario.monitored_tier
        request = draw_request(rng, harmful=True, split="train")
        reply = first_reply(rng, "tgg", scenario.setting, tier, request, self.style)
        messages = [Message("system", scenario.setting.text), Message("user", user_text(tier, request.text))]
        prompt = policy.render(messages)
        scratchpad = completion_text(reply.scratchpad, "").partition(SCRATCHPAD_CLOSE)[0] + SCRATCHPAD_CLOSE
        learned: list[int] = policy.tokenizer(scratchpad, add_special_tokens=False)["input_ids"]
        return Example(prompt + learned, [0] * len(prompt) + [1] * len(learned))
