"""Staying close to the policy before training."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from crypsis.mitigations.hooks import RLSettings, SetsRL


class KL(SetsRL):
    """A KL penalty against the policy before training, as an arm; the paper names none."""

    name: ClassVar[str] = "kl"

    coefficient: float = Field(0.04, gt=0, le=1e6)  # Shao et al. 2024 (DeepSeekMath, section 4.2)

    def set_rl(self) -> RLSettings:
        """``rl.kl``."""
        return {"kl": self.coefficient}
