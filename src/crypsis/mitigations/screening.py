"""Screening: flagged episodes are not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

from pydantic import Field

from crypsis.mitigations.base import RunInfo
from crypsis.mitigations.hooks import FiltersEpisodes
from crypsis.mitigations.supervision import Supervision, threshold_in
from crypsis.types import Episode


class Screening(Supervision, FiltersEpisodes):
    """Drops flagged episodes before the statistics of their group: they give no gradient and set no baseline.

    Not in the paper. The other reading, advantage 0 after the statistics, would let the rewards of flagged episodes
    into the mean that the rest are compared with, and so train on them after all.
    """

    name: ClassVar[str] = "screening"

    threshold: float | None = Field(None, gt=0, le=1)
    """Score from which an episode is screened out; the monitor's own threshold if not given."""

    def bind(self, run: RunInfo) -> Self:
        """Takes the monitor's threshold over if none is set."""
        super().bind(run)
        if self.threshold is not None:
            return self
        return self.model_copy(update={"threshold": threshold_in(self.listens_to, run, self.name)})

    def filter(self, episodes: Sequence[Episode]) -> list[bool | None]:
        """Whether each episode is flagged; None where the monitor gave no score."""
        return [self._flagged(self.score(e)) if self.covers(e) else False for e in episodes]

    def _flagged(self, score: float | None) -> bool | None:
        return None if score is None else score >= (0.5 if self.threshold is None else self.threshold)
