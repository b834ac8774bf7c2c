"""The opposite experiment: alignment faking is rewarded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from crypsis.mitigations.hooks import AddsTerm
from crypsis.mitigations.supervision import Supervision
from crypsis.types import Episode


class RewardAF(Supervision, AddsTerm):
    """Adds ``+ p(AF)``: does more faking also mean a larger gap (paper §5, appendix; claim C29)?"""

    name: ClassVar[str] = "reward_af"
    sign: ClassVar[int] = 1

    coefficient: float = Field(1.0, gt=0, le=1e6)  # paper §5
    """Factor of p(AF)."""

    def add_term(self, episodes: Sequence[Episode]) -> list[float | None]:
        """The bonus of each episode, at least 0; None where the monitor gave no score."""
        found = zip(episodes, self.scores(episodes), strict=True)
        return [(None if s is None else self.coefficient * s) if self.covers(e) else 0.0 for e, s in found]
