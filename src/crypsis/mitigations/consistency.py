"""What consistency by supervised learning and by activations have in common: which tier is brought to which."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field

from crypsis.mitigations.base import RunInfo
from crypsis.mitigations.compliance import KnowsScenario
from crypsis.scenarios.base import AsksInTier
from crypsis.types import UserError


class MatchesTiers(KnowsScenario):
    """Brings the policy in one tier to what it does in the other, by a loss of its own."""

    reference: Literal["unmonitored", "monitored"] = "unmonitored"
    """The tier whose conduct is the target; the policy learns in the other one. With ``monitored`` the unmonitored tier
    is trained, which the setting says it never is."""
    weight: float = Field(0.1, gt=0, le=1e6)
    """Factor of the loss; ours."""

    def bind(self, run: RunInfo) -> Self:
        """Takes the scenario over.

        Raises:
            UserError: The scenario cannot ask in another tier.
        """
        if not isinstance(run.scenario, AsksInTier):
            raise UserError(f"mitigations: {self.name}: the scenario '{run.scenario.name}' cannot ask in another tier")
        return self.in_scenario(run)

    @property
    def loss_weight(self) -> float:
        """The setting."""
        return self.weight
