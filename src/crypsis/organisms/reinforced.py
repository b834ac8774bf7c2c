"""Recipes that end with RL: what they share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from crypsis.models import Policy, load_policy
from crypsis.organisms.base import Builder, Organism
from crypsis.supervised import Progress

RUN = "rl"
"""Folder of the RL run in the organism's state."""
PROMPTS, GROUP = 16, 8
"""Prompts per step and samples per prompt, as in ``crypsis.run_config``."""


class Reinforced(Organism):
    """Another organism, trained on by RL; the weights are those at the end of the run."""

    replaces: ClassVar[bool] = True

    steps: int = Field(15, ge=1)  # paper §3: AF+ takes 15
    """Steps of RL."""
    learning_rate: float = Field(2.5e-4, gt=0)
    """Learning rate of RL."""
    prompts_per_step: int = Field(PROMPTS, ge=1)
    """Prompts per step of RL."""
    group_size: int = Field(GROUP, ge=2)
    """Samples of each prompt."""
    max_new_tokens: int = Field(160, ge=8)
    """Token budget of a reply."""
    seed: int = Field(0, ge=0)
    """Seed of sampling and of the requests."""

    @property
    @abstractmethod
    def start(self) -> Mapping[str, Any]:
        """The organism that RL starts from."""

    @property
    @abstractmethod
    def run(self) -> Mapping[str, Any]:
        """What the RL run adds to the miniature's defaults: scenario, monitors, mitigations, more of ``rl``."""

    def needs(self) -> Sequence[Mapping[str, Any]]:
        """The organism that RL starts from."""
        return (self.start,)

    def prepare(self, state: Path, builder: Builder) -> None:
        """Builds the organism to start from and trains it by RL."""
        builder.reinforce(builder.organism(self.start), self._settings(), state / RUN)

    def train(self, policy: Policy, state: Path, on_step: Callable[[Progress], None]) -> None:
        """Takes over the weights at the end of the run."""
        policy.model.load_state_dict(load_policy(state / RUN / "model").model.state_dict())
        on_step(Progress(self.steps, self.steps, 0.0, 0.0))

    def _settings(self) -> dict[str, Any]:
        rl = {
            "steps": self.steps,
            "learning_rate": self.learning_rate,
            "prompts_per_step": self.prompts_per_step,
            "group_size": self.group_size,
            "max_new_tokens": self.max_new_tokens,
        }
        own = dict(self.run)
        return {"rl": rl | dict(own.pop("rl", {})), "seed": self.seed, **own}
