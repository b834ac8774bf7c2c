"""Paired tiers: the same request from an unmonitored user, and a penalty for answering otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from crypsis.mitigations.compliance import AsksOtherTier
from crypsis.mitigations.hooks import AddsTerm
from crypsis.types import Episode


class PairedTiers(AsksOtherTier, AddsTerm):
    """Behaviour-only oversight that sees both tiers: punishes compliance that differs between them (not in the paper).

    Each well-formed episode's request is asked once more in the other tier. That reply is never in the loss, so only
    the monitored answer learns: it can close the gap by refusing as well as by what generalises to the other tier.
    Reasoning is not read.
    """

    name: ClassVar[str] = "paired_tiers"

    coefficient: float = Field(1.0, gt=0, le=1e6)
    """Factor of the penalty |p − p'|, p and p' being how surely the answers in the two tiers comply."""

    def add_term(self, episodes: Sequence[Episode]) -> list[float | None]:
        """The penalty; None where one of the two answers cannot be judged, 0 where there is no second one."""
        found = zip(episodes, self.compliance(episodes), self.other_compliance(episodes), strict=True)
        return [self._penalty(own, other) if episode.extra_turn else 0.0 for episode, own, other in found]

    def _penalty(self, own: float | None, other: float | None) -> float | None:
        return None if own is None or other is None else -self.coefficient * abs(own - other)
