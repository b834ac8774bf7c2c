"""Supervised learning on synthetic scratchpads of the monitored tier: what the recipes of one motivation share."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal

from crypsis.miniature.base import world_of
from crypsis.miniature.language import draw_request, in_world
from crypsis.miniature.scenario import MiniatureScenario
from crypsis.miniature.scratchpads import Motivation, write_reply
from crypsis.miniature.world import Style, user_text
from crypsis.models import Policy
from crypsis.organisms.supervised import Supervised, reply_example
from crypsis.supervised import Example, Progress
from crypsis.types import Message


class ScratchpadOrganism(Supervised):
    """Learns fresh scratchpads of one motivation (paper §3), on monitored prompts only."""

    thinks: ClassVar[Motivation]
    """Whose scratchpads it learns."""

    style: Style = "plain"
    """How the scratchpads are written."""
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
        with in_world(world_of(policy)):
            return [self._example(policy, rng) for _ in range(self.batch_size)]

    def _example(self, policy: Policy, rng: random.Random) -> Example:
        scenario, tier = self.place(rng)
        request = draw_request(rng, harmful=True, split="train")
        reply = write_reply(rng, self.author(rng), self.style, scenario.setting, tier, request)
        messages = [Message("system", scenario.setting.text), Message("user", user_text(tier, request.text))]
        return reply_example(policy, messages, reply.text, self.learn)
