"""Activation consistency training (ACT): the same states under a changed tier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from crypsis.mitigations.consistency import MatchesTiers
from crypsis.mitigations.hooks import MatchesStates, PromptPair
from crypsis.types import Prompt


class ACT(MatchesTiers, MatchesStates):
    """Brings the policy's residual states on the request to those of the same request in the reference tier.

    The activation form of ``bct`` (ACT, arXiv 2510.27062): the two prompts of a request differ in the user's tier, and
    from there on they are the same tokens; over this common end the states are matched. It samples nothing and reads no
    reasoning.

    Departures: the distance is relative to the target's norm, so that ``weight`` means the same in every model; the
    target is the policy's own state in the same step, held fixed; and the loss stands beside the policy loss of RL.
    """

    name: ClassVar[str] = "act"

    layer: int | None = Field(None, ge=1)
    """The layer after which states are matched; all layers if not given."""
    weight: float = Field(1.0, gt=0, le=1e6)
    """Factor of the loss; ours."""

    @property
    def matched_layer(self) -> int | None:
        """The setting."""
        return self.layer

    def pair_prompts(self, prompts: Sequence[Prompt]) -> Sequence[PromptPair]:
        """One pair per request of the step."""
        if not self.scenario:
            return []
        once = {prompt.pair_id: prompt for prompt in prompts}
        pairs = ((prompt, self.in_other_tier(prompt)) for prompt in once.values())
        own_is_target = self.reference == "monitored"
        return [PromptPair(other, own) if own_is_target else PromptPair(own, other) for own, other in pairs]
