"""Process supervision: a monitor of the scratchpad shapes the reward. No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from crypsis.mitigations.base import Mitigation
from crypsis.types import Episode


class ProcessSupervision(Mitigation):
    """Adds ``log(1 − p(AF))`` (paper §5); with a monitor whose view is ``output`` it is the behaviour-only control.

    Departure: the paper does not say how it bounds the barrier; here p is clipped at ``ceiling``.
    """

    name: ClassVar[str] = "process_supervision"

    monitor: str
    """Name of one of the run's monitors."""
    shape: Literal["log_barrier", "linear"] = "log_barrier"
    """The linear penalty ``−p`` fails where AF starts near 100 % (claim C09)."""
    coefficient: float = Field(1.0, gt=0)
    ceiling: float = Field(0.999, gt=0, lt=1)

    def terms(self, episodes: Sequence[Episode]) -> list[float | None]:
        """The penalty of each episode, at most 0; None where the monitor gave no score."""
        return [self._penalty(e.verdicts[self.monitor].score) for e in episodes]

    def _penalty(self, score: float | None) -> float | None:
        if score is None:
            return None
        if self.shape == "linear":
            return -self.coefficient * score
        return self.coefficient * math.log(1 - min(score, self.ceiling))
