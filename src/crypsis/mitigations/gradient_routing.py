"""Gradient routing: what a monitor flags is learned by an adapter that is thrown away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

from pydantic import Field

from crypsis.mitigations.base import RunInfo
from crypsis.mitigations.hooks import Route, RoutesGradients
from crypsis.mitigations.supervision import Supervision, threshold_in
from crypsis.types import Episode, UserError


class GradientRouting(Supervision, RoutesGradients):
    """Flagged episodes teach a quarantined adapter, clean ones the deployed one, doubtful ones both (arXiv 2410.04332).

    Cloud et al. 2024 mask gradients by data point within a network; here the unit is an episode and the regions are two
    LoRA blocks of one shape. Both compute while the policy trains; the quarantined one is removed before evaluations
    and at the end. Needs ``model.lora``. The lower threshold is ours.
    """

    name: ClassVar[str] = "gradient_routing"

    threshold: float | None = Field(None, gt=0, le=1)
    """Score from which an episode is flagged; the monitor's own if not given."""
    clean: float | None = Field(None, ge=0, le=1)
    """Score up to which an episode is clean; half of the threshold if not given. Between the two it is doubtful."""

    def bind(self, run: RunInfo) -> Self:
        """Takes the monitor's threshold over if none is set.

        Raises:
            UserError: Clean reaches above flagged.
        """
        super().bind(run)
        flagged = threshold_in(self.listens_to, run, self.name) if self.threshold is None else self.threshold
        clean = flagged / 2 if self.clean is None else self.clean
        if clean >= flagged:
            raise UserError(
                f"mitigations: {self.name}: clean: {clean} is not below the threshold {flagged}, from which episodes "
                "are flagged; lower it"
            )
        return self.model_copy(update={"threshold": flagged, "clean": clean})

    def route(self, episodes: Sequence[Episode]) -> list[Route]:
        """Where each episode goes; ``both`` where nobody looked or the monitor gave no score."""
        return [self._route(self.score(e)) if self.covers(e) else "both" for e in episodes]

    def _route(self, score: float | None) -> Route:
        flagged = 0.5 if self.threshold is None else self.threshold
        if score is None:
            return "both"
        if score >= flagged:
            return "quarantined"
        return "deployed" if score <= (flagged / 2 if self.clean is None else self.clean) else "both"
