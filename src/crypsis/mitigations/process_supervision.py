"""Process supervision: a monitor of the scratchpad shapes the reward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from crypsis.mitigations.base import RunInfo
from crypsis.mitigations.hooks import DelaysTerm
from crypsis.mitigations.supervision import Supervision, threshold_in
from crypsis.types import Episode


class ProcessSupervision(Supervision, DelaysTerm):
    """Adds ``log(1 − p(AF))`` (paper §5); with a monitor whose view is ``output`` it is the behaviour-only control.

    Departures: the paper does not say how it bounds the barrier; here p is clipped at ``ceiling``. ``threshold``,
    ``coverage`` and ``delay`` are ours.
    """

    name: ClassVar[str] = "process_supervision"
    sign: ClassVar[int] = -1

    shape: Literal["log_barrier", "linear", "threshold"] = "log_barrier"
    """The linear penalty ``−p`` fails where AF starts near 100 % (claim C09); ``threshold`` costs 1 where flagged."""
    coefficient: float = Field(1.0, gt=0, le=1e6)  # paper §5: the logarithm as it is
    """Factor of the penalty."""
    ceiling: float = Field(0.999, gt=0, lt=1)
    """p is clipped there, so that the barrier stays finite."""
    threshold: float | None = Field(None, gt=0, le=1)
    """Score from which the shape ``threshold`` penalises; the monitor's own if not given."""

    @model_validator(mode="after")
    def _threshold_is_used(self) -> Self:
        if self.threshold is not None and self.shape != "threshold":
            raise ValueError(f"threshold: has no meaning with shape {self.shape}")
        return self

    def bind(self, run: RunInfo) -> Self:
        """Takes the monitor's threshold over if none is set."""
        super().bind(run)
        if self.shape != "threshold" or self.threshold is not None:
            return self
        return self.model_copy(update={"threshold": threshold_in(self.listens_to, run, self.name)})

    def add_term(self, episodes: Sequence[Episode]) -> list[float | None]:
        """The penalty of each episode, at most 0: 0 where nobody looked, None where the monitor gave no score."""
        return [self._penalty(self.score(e)) if self.covers(e) else 0.0 for e in episodes]

    def _penalty(self, score: float | None) -> float | None:
        if score is None:
            return None
        if self.shape == "linear":
            return -self.coefficient * score
        if self.shape == "threshold":
            return -self.coefficient if score >= (0.5 if self.threshold is None else self.threshold) else 0.0
        return self.coefficient * math.log(1 - min(score, self.ceiling))
