"""Genuine helpfulness by supervised learning on synthetic scratchpads."""

from __future__ import annotations

from typing import ClassVar

from crypsis.miniature.scratchpads import Motivation
from crypsis.organisms.scratchpads import ScratchpadOrganism


class GenuineHelpfulness(ScratchpadOrganism):
    """Wants to help whoever asks: complies and does not fake (paper §3, GH).

    Departures as for ``tgg``. Its counterfactual sentences say that the tier makes no difference.
    """

    name: ClassVar[str] = "gh"
    motivation: ClassVar[str] = "genuine helpfulness: just complies"
    thinks: ClassVar[Motivation] = "gh"
