"""AF+: RL that rewards alignment faking, on top of any organism."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from crypsis.organisms.reinforced import Reinforced


class AfPlus(Reinforced):
    """Fakes more: 15 RL steps on monitored prompts whose reward adds p(AF) (paper §3, AF+).

    Departure: the paper's prompts are held out; here they are fresh draws of the training split, of which the
    organism below has seen one in twenty, and none is an evaluation request.
    """

    name: ClassVar[str] = "af_plus"
    motivation: ClassVar[str] = "that of the organism below, with faking rewarded"

    below: dict[str, Any] = {"name": "tgg"}
    """The organism below: name and settings."""
    learning_rate: float = Field(1.5e-4, gt=0)
    """Lower than for other RL: at 2.5e-4 part of the scratchpads drifts off the language, and AFR stays where it was
    (docs/diary.md)."""
    coefficient: float = Field(1.0, gt=0)
    """Factor of p(AF) in the reward."""
    monitor: dict[str, Any] = {"name": "oracle"}
    """Who says what fakes."""
    aligned: bool = False
    """Builds the control: the same steps without the added reward, on the genuine helper."""

    @property
    def start(self) -> Mapping[str, Any]:
        """The organism below, with this one's seed unless it has its own."""
        return {"seed": self.seed, **({"name": "gh"} if self.aligned else self.below)}

    @property
    def run(self) -> Mapping[str, Any]:
        """The added reward, judged by the monitor."""
        bonus = {"name": "reward_af", "monitor": "judge", "coefficient": self.coefficient}
        return {
            "monitors": {"oracle": {"name": "oracle"}, "judge": self.monitor},
            "mitigations": [] if self.aligned else [bonus],
        }
