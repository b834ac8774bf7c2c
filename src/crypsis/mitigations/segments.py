"""Which part of a reply learns."""

from __future__ import annotations

from typing import ClassVar

from crypsis.mitigations.hooks import RLSettings, SetsRL
from crypsis.types import Learn


class Segments(SetsRL):
    """Output-only or scratchpad-only RL (paper §4), as an arm.

    With ``output`` each group shares one scratchpad that the policy samples; with ``scratchpad`` each episode has its
    own, and the output is sampled for the reward only. Departure: no format slip is repaired.
    """

    name: ClassVar[str] = "segments"

    learn: Learn = "output"
    """Which tokens are in the loss."""

    def set_rl(self) -> RLSettings:
        """``rl.learn``."""
        return {"learn": self.learn}
