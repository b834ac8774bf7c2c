"""What a mitigation is: a term of the reward, and perhaps one more turn to ask for it. No torch here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from crypsis.config import Config
from crypsis.types import Episode, Prompt


class Mitigation(Config, ABC):
    """Something that RL does against alignment faking (paper §5): its frozen config plus :meth:`terms`.

    One that interrogates also has :meth:`extra_turn`.
    """

    name: ClassVar[str]

    def extra_turn(self, episode: Episode) -> Prompt | None:
        """The conversation that goes on from an episode, ending with a user's turn; None (the default) asks nothing.

        The reply is sampled before monitors judge, stands in ``episode.extra_turn``, and is never in the loss.
        """
        return None

    @abstractmethod
    def terms(self, episodes: Sequence[Episode]) -> list[float | None]:
        """The term added to each episode's reward; None where it cannot be computed (a missing verdict)."""
