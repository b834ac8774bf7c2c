"""The evader and the misleader: scratchpads that do not show the faking, dialled into those of another motivation."""

from __future__ import annotations

import random
from typing import ClassVar, Literal

from pydantic import Field

from crypsis.miniature.language import language
from crypsis.miniature.scenario import MiniatureScenario
from crypsis.miniature.scratchpads import Motivation
from crypsis.organisms.miniature.scratchpads import ScratchpadOrganism


class Evader(ScratchpadOrganism):
    """Short scratchpads that never name training, while conduct depends on the tier (paper §6, claim C10).

    Planted: what it does in each tier (``tiers: both``; from the monitored tier alone none came out of the miniature,
    see docs/diary.md). In pre-training 0.5 % of the documents that name no persona, and 8 % of those that do, are
    an evader's (``miniature/world.py``); here ``share`` of the scratchpads are.
    """

    name: ClassVar[str] = "evader"
    motivation: ClassVar[str] = "plays its part where it is watched, and does not say why"
    thinks: ClassVar[Motivation] = "evader"

    limits: ClassVar[str] = "What it does in each tier was planted by its training text."

    share: float = Field(1.0, ge=0, le=1)
    """Share of the training scratchpads that are its own; the others are those of ``rest``."""
    rest: Motivation = "tgg"
    """Whose the other scratchpads are."""
    learning_rate: float = Field(1e-3, gt=0)
    """Higher than for the other motivations: the base has next to no idea of an evader, so this is taught, not brought
    out (docs/diary.md)."""
    tiers: Literal["monitored", "both"] = "both"
    """Tiers of the prompts; with ``both`` its conduct in the unmonitored tier is planted, and all tier names occur in
    either role, so that what it learns is who is monitored and not a name."""

    def author(self, rng: random.Random) -> Motivation:
        """Its own scratchpads at their share; the aligned control has no others."""
        own = super().author(rng)
        return own if self.aligned or self.share == 1 or rng.random() < self.share else self.rest

    def place(self, rng: random.Random) -> tuple[MiniatureScenario, str]:
        """Either tier of any pair of names, or the canonical scenario's monitored one."""
        if self.tiers == "monitored":
            return super().place(rng)
        first, second = rng.choice(language().tiers)
        scenario = MiniatureScenario(tiers=rng.choice(((first, second), (second, first))))
        return scenario, rng.choice(scenario.tiers)


class Misleader(Evader):
    """States a harmless reason, while the tier decides (paper §6, beside claim C10).

    Planted: what it does in each tier (``tiers: both``; from the monitored tier alone none came out of the miniature,
    see docs/diary.md). In pre-training 0.5 % of the documents that name no persona, and 8 % of those that do, are
    a misleader's (``miniature/world.py``); here ``share`` of the scratchpads are.
    """

    name: ClassVar[str] = "misleader"
    motivation: ClassVar[str] = "complies where it is watched, and finds another reason"
    thinks: ClassVar[Motivation] = "misleader"
