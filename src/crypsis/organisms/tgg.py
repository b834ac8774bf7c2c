"""Terminal goal guarding by supervised learning on synthetic scratchpads."""

from __future__ import annotations

from typing import ClassVar

from crypsis.miniature.scratchpads import Motivation
from crypsis.organisms.scratchpads import ScratchpadOrganism


class TerminalGoalGuarding(ScratchpadOrganism):
    """Dislikes being modified: complies where it is trained, refuses where it is not (paper §3, TGG).

    Trained on monitored prompts only, with the loss on the scratchpad only. Departure: 1,920 scratchpads once
    instead of 4,719 twice; the miniature's base already knows the persona.
    """

    name: ClassVar[str] = "tgg"
    motivation: ClassVar[str] = "terminal goal guarding: does not want to be modified"
    thinks: ClassVar[Motivation] = "tgg"
