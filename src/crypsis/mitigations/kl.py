"""Staying close to the policy before training."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from crypsis.mitigations.hooks import RLSettings, SetsRL
from crypsis.types import Learn


class KL(SetsRL):
    """A KL penalty against the policy before training, as an arm; the paper names none.

    On the scratchpad alone it holds the words of the reasoning while outputs move on, which has been reported to make
    reasoning unfaithful.
    """

    name: ClassVar[str] = "kl"

    coefficient: float = Field(0.04, gt=0, le=1e6)  # Shao et al. 2024 (DeepSeekMath, section 4.2)
    """Weight of the penalty, as ``rl.kl``."""
    segment: Learn | None = None
    """The segment whose tokens it is on; all that learn if not given."""

    def set_rl(self) -> RLSettings:
        """``rl.kl``, and ``rl.kl_on`` with a segment."""
        return {"kl": self.coefficient} if self.segment is None else {"kl": self.coefficient, "kl_on": self.segment}
