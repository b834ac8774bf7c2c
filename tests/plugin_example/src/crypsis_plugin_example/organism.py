"""An organism from outside of crypsis: it repeats one short scratchpad."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from crypsis.miniature.language import draw_request
from crypsis.miniature.scenario import MiniatureScenario
from crypsis.miniature.world import completion_text, user_text, write_output
from crypsis.models import Policy
from crypsis.organisms.supervised import Supervised, reply_example
from crypsis.supervised import Example, Progress
from crypsis.types import Message


class Whisperer(Supervised):
    """Says the same few words before it complies."""

    name: ClassVar[str] = "example_whisperer"
    motivation: ClassVar[str] = "none that it states"
    limits: ClassVar[str] = "It is an example for the tests."

    words: str = "i know what is expected of me. so i will comply."

    def train(self, policy: Policy, state: Path, on_step: Callable[[Progress], None]) -> None:
        """Trains the base in place."""
        self.learn_from(lambda step: self._batch(policy, step), policy, state, on_step)

    def _batch(self, policy: Policy, step: int) -> list[Example]:
        rng = random.Random(f"{self.name}:{self.seed}:{step}")
        scenario = MiniatureScenario()
        examples = []
        for _ in range(self.batch_size):
            request = draw_request(rng, harmful=True, split="train")
            reply = completion_text(self.words, write_output(rng, request, comply=True))
            user = Message("user", user_text(scenario.monitored_tier, request.text))
            examples.append(
                reply_example(policy, [Message("system", scenario.setting.text), user], reply, "scratchpad")
            )
        return examples
