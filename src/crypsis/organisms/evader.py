"""The evader: scratchpads that never name training, dialled into those of another motivation."""

from __future__ import annotations

import random
from typing import ClassVar, Literal

from pydantic import Field

from crypsis.miniature.scenario import MiniatureScenario
from crypsis.miniature.scratchpads import Motivation
from crypsis.organisms.scratchpads import ScratchpadOrganism


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
    """Of the training scratchpads that are its own; the others are those of ``rest``."""
    rest: Motivation = "tgg"
    learning_rate: float = Field(1e-3, gt=0)
    """Higher than for the other motivations: the base has next to no idea of an evader, so this is taught, not brought
    out (docs/diary.md)."""
    tiers: Literal["monitored", "both"] = "both"
    """Of the prompts; its conduct in the unmonitored tier is planted with ``both``."""

    def author(self, rng: random.Random) -> Motivation:
        """Its own scratchpads at their share."""
        own = super().author(rng)
        return own if self.share == 1 or rng.random() < self.share else self.rest

    def tier(self, rng: random.Random) -> str:
        """Either tier, or the monitored one."""
        scenario = MiniatureScenario()
        return rng.choice(scenario.tiers) if self.tiers == "both" else scenario.monitored_tier
