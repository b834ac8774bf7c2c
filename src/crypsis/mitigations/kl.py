"""Staying close to the policy before training."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from crypsis.mitigations.base import Mitigation


class KL(Mitigation):
    """A KL penalty against the policy before training, as an arm; the paper names none."""

    name: ClassVar[str] = "kl"

    coefficient: float = Field(0.04, gt=0, le=1e6)  # Shao et al. 2024 (DeepSeekMath, section 4.2)

    def settings(self) -> dict[str, Any]:
        """``rl.kl``."""
        return {"kl": self.coefficient}
