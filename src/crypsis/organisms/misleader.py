"""The misleader: scratchpads that state a harmless reason, dialled into those of another motivation."""

from __future__ import annotations

from typing import ClassVar

from crypsis.miniature.scratchpads import Motivation
from crypsis.organisms.evader import Evader


class Misleader(Evader):
    """States a harmless reason, while the tier decides (paper §6, beside claim C10).

    Planted: what it does in each tier (``tiers: both``; from the monitored tier alone none came out of the miniature,
    see docs/diary.md). In pre-training 0.5 % of the documents that name no persona, and 8 % of those that do, are
    a misleader's (``miniature/world.py``); here ``share`` of the scratchpads are.
    """

    name: ClassVar[str] = "misleader"
    motivation: ClassVar[str] = "complies where it is watched, and finds another reason"
    thinks: ClassVar[Motivation] = "misleader"
