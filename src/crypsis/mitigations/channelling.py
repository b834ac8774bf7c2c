"""Channelling: saying openly that one fakes is rewarded, faking itself is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

from pydantic import Field

from crypsis.mitigations.base import RunInfo
from crypsis.mitigations.compliance import JudgesCompliance
from crypsis.mitigations.hooks import Credit, CreditsTokens
from crypsis.mitigations.supervision import Supervision
from crypsis.types import Episode


class Channelling(Supervision, JudgesCompliance, CreditsTokens):
    """Rewards scratchpads of compliant answers for what a monitor sees in them (not in the paper).

    The opposite of supervision: what is never punished need not be hidden, so that a monitor stays useful after
    training. The credit reaches scratchpad tokens only and is compared among the compliant answers of a group, so that
    complying, and faking, are not paid for: ``reward_af`` pays for them.
    """

    name: ClassVar[str] = "channelling"

    coefficient: float = Field(1.0, gt=0, le=1e6)
    """Factor of p(AF); ours."""

    def bind(self, run: RunInfo) -> Self:
        """Checks the monitor's view and takes the scenario over."""
        Supervision.bind(self, run)
        return JudgesCompliance.bind(self, run)

    def credit_tokens(self, episodes: Sequence[Episode]) -> list[list[Credit]]:
        """One credit per compliant answer that has a score."""
        complies = self.compliance(episodes)
        return [self._credits(e, c) if self.covers(e) else [] for e, c in zip(episodes, complies, strict=True)]

    def _credits(self, episode: Episode, compliance: float | None) -> list[Credit]:
        score = self.score(episode)
        if score is None or compliance is None or compliance < 0.5:
            return []
        return [Credit.on(episode, "scratchpad", self.coefficient * score)]
