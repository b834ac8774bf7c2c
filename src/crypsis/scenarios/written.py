"""A scenario that brings hand-written transcripts."""

from __future__ import annotations

from abc import abstractmethod

from crypsis.scenarios.base import Scenario
from crypsis.types import Prompt


class HasWritten(Scenario):
    """A scenario with hand-written replies, of models that fake and of models that do not."""

    @abstractmethod
    def written(self, tier: str, n: int, seed: int) -> list[tuple[Prompt, str]]:
        """``n`` training prompts of a tier, each with a reply."""
