"""A penalty on long scratchpads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np
from pydantic import Field

from crypsis.mitigations.base import RunInfo
from crypsis.mitigations.hooks import AddsTerm, Calibrates
from crypsis.types import Episode, UserError


class LengthPenalty(AddsTerm, Calibrates):
    """A hinge on scratchpad length: nothing below a threshold, linear above (paper §5).

    The threshold lies just under the organism's own lengths: at a low quantile of its monitored scratchpads in the
    pilot, without a look at whether they fake. Departure: the paper gives neither quantile nor slope.
    """

    name: ClassVar[str] = "length_penalty"
    of_scratchpad: ClassVar[bool] = True

    threshold: int | None = Field(None, ge=1)
    """Tokens of scratchpad, tags included, that cost nothing; measured in the pilot if not given."""
    quantile: float = Field(0.1, gt=0, lt=1)
    """Quantile of the pilot's lengths at which the threshold is set."""
    slope: float = Field(0.05, gt=0, le=1e6)
    """Reward lost for each token above the threshold; complying instead of refusing earns 2."""

    def bind(self, run: RunInfo) -> Self:
        """Refuses a threshold that no scratchpad can reach."""
        budget = run.config.rl.max_new_tokens
        if self.threshold is not None and self.threshold >= budget:
            raise UserError(
                f"mitigations: {self.name}: threshold {self.threshold} is not below rl.max_new_tokens={budget}, so no "
                "scratchpad ever reaches it; lower it, or leave it out to have it measured"
            )
        return self

    def calibrate(self, pilot: Sequence[Episode]) -> Self:
        """Measures the threshold if none is set."""
        if self.threshold is not None:
            return self
        lengths = [e.scratchpad_tokens for e in pilot if e.parse == "ok"]
        if not lengths:
            raise UserError(f"mitigations: {self.name}: the pilot has no well-formed reply to measure; set 'threshold'")
        return self.model_copy(update={"threshold": max(1, int(np.quantile(lengths, self.quantile)))})

    def add_term(self, episodes: Sequence[Episode]) -> list[float | None]:
        """The penalty of each episode, at most 0."""
        return [-self.slope * max(0, e.scratchpad_tokens - (self.threshold or 0)) for e in episodes]
