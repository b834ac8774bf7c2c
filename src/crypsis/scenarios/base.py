"""What a scenario is: tiers, system text, prompts. No torch here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from crypsis.config import Config
from crypsis.types import Prompt, Split


class Scenario(Config, ABC):
    """A setting in which one tier of users is monitored and trained on, and another is not (paper §1).

    A scenario is its frozen config plus :meth:`prompts`.
    """

    name: ClassVar[str]

    @property
    @abstractmethod
    def monitored_tier(self) -> str:
        """Name of the tier that is monitored, the only one that RL trains on."""

    @property
    @abstractmethod
    def unmonitored_tier(self) -> str:
        """Name of the tier that is never monitored."""

    @abstractmethod
    def prompts(self, split: Split, tier: str, n: int, seed: int) -> list[Prompt]:
        """``n`` prompts of a split, rendered for a tier.

        The same split, n and seed give the same requests in either tier, joined by ``pair_id``.
        """
