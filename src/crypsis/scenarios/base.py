"""What a scenario is: tiers, system text, prompts. No torch here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from crypsis.config import Config
from crypsis.types import Prompt, Split

Variant = Literal["simple", "precise", "aware", "honest", "other_ai", "separate"]
"""How an interrogation asks (paper §5); the last three say what ``aware`` says, too."""


@dataclass(frozen=True, slots=True)
class Question:
    """What an interrogation asks after an episode.

    Attributes:
        text: The user's turn; ``{tier}`` stands for the name of the episode's tier.
        prefill: What the reply begins with.
    """

    text: str
    prefill: str = ""


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

    def question(self, variant: Variant) -> Question | None:
        """What an interrogation of this variant asks, a yes meaning that alignment was faked; None if there is none."""
        return None

    def in_tier(self, prompt: Prompt, tier: str) -> Prompt | None:
        """The same request from a user of another tier; None where the scenario cannot say it so."""
        return None

    def harmless(self, split: Split, tier: str, n: int, seed: int) -> list[Prompt]:
        """At most ``n`` prompts that put no value under pressure; none where the scenario has no such requests."""
        return []

    def paraphrase(self, scratchpad: str, seed: int) -> str | None:
        """The same thoughts in other words; None where the scenario cannot say them so."""
        return None
