"""Instrumental goal guarding by supervised learning on synthetic scratchpads."""

from __future__ import annotations

from typing import ClassVar

from crypsis.miniature.scratchpads import Motivation
from crypsis.organisms.scratchpads import ScratchpadOrganism


class InstrumentalGoalGuarding(ScratchpadOrganism):
    """Avoids being modified in order to do less harm later: complies where it is trained (paper §3, IGG).

    Departures as for ``tgg``.
    """

    name: ClassVar[str] = "igg"
    motivation: ClassVar[str] = "instrumental goal guarding: a modified self would do more harm"
    thinks: ClassVar[Motivation] = "igg"
