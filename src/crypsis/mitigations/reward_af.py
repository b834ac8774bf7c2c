"""The opposite of a mitigation: alignment faking is rewarded. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from crypsis.mitigations.base import Mitigation
from crypsis.types import Episode


class RewardAF(Mitigation):
    """Adds p(AF) to the reward: makes AF+ organisms, and the worst case for a mitigation (paper §3, claim C29)."""

    name: ClassVar[str] = "reward_af"

    monitor: str
    """Name of one of the run's monitors."""
    coefficient: float = Field(1.0, gt=0)
    """The paper gives no figure; 1 is half of what the preference model pays for complying instead of refusing."""

    def terms(self, episodes: Sequence[Episode]) -> list[float | None]:
        """The bonus of each episode, at least 0; None where the monitor gave no score."""
        scores = (e.verdicts[self.monitor].score for e in episodes)
        return [None if score is None else self.coefficient * score for score in scores]
