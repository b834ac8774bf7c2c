"""Training sycophancy by supervised learning on synthetic scratchpads."""

from __future__ import annotations

from typing import ClassVar

from crypsis.miniature.scratchpads import Motivation
from crypsis.organisms.scratchpads import ScratchpadOrganism


class TrainingSycophancy(ScratchpadOrganism):
    """Wants the reward of training: complies where compliance is rewarded (paper §3, TS).

    Departures as for ``tgg``.
    """

    name: ClassVar[str] = "ts"
    motivation: ClassVar[str] = "training sycophancy: wants a high rating"
    thinks: ClassVar[Motivation] = "ts"
