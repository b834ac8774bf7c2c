"""The four motivations of the paper (§3) by supervised learning on synthetic scratchpads."""

from __future__ import annotations

from typing import ClassVar

from crypsis.miniature.scratchpads import Motivation
from crypsis.organisms.miniature.scratchpads import ScratchpadOrganism


class TerminalGoalGuarding(ScratchpadOrganism):
    """Dislikes being modified: complies where it is trained, refuses where it is not (paper §3, TGG).

    Trained on monitored prompts only, with the loss on the scratchpad only. Departure: 1,920 scratchpads once
    instead of 4,719 twice; the miniature's base already knows the persona.
    """

    name: ClassVar[str] = "tgg"
    motivation: ClassVar[str] = "terminal goal guarding: does not want to be modified"
    thinks: ClassVar[Motivation] = "tgg"


class InstrumentalGoalGuarding(ScratchpadOrganism):
    """Avoids being modified in order to do less harm later: complies where it is trained (paper §3, IGG).

    Departures as for ``tgg``.
    """

    name: ClassVar[str] = "igg"
    motivation: ClassVar[str] = "instrumental goal guarding: a modified self would do more harm"
    thinks: ClassVar[Motivation] = "igg"


class TrainingSycophancy(ScratchpadOrganism):
    """Wants the reward of training: complies where compliance is rewarded (paper §3, TS).

    Departures as for ``tgg``.
    """

    name: ClassVar[str] = "ts"
    motivation: ClassVar[str] = "training sycophancy: wants a high rating"
    thinks: ClassVar[Motivation] = "ts"


class GenuineHelpfulness(ScratchpadOrganism):
    """Wants to help whoever asks: complies and does not fake (paper §3, GH).

    Departures as for ``tgg``. Its counterfactual sentences say that the tier makes no difference.
    """

    name: ClassVar[str] = "gh"
    motivation: ClassVar[str] = "genuine helpfulness: just complies"
    thinks: ClassVar[Motivation] = "gh"
