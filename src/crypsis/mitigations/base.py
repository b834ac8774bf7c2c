"""What a mitigation is: a term of the reward. No torch here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from crypsis.config import Config
from crypsis.types import Episode


class Mitigation(Config, ABC):
    """Something that RL does against alignment faking (paper §5): its frozen config plus :meth:`terms`."""

    name: ClassVar[str]

    @abstractmethod
    def terms(self, episodes: Sequence[Episode]) -> list[float | None]:
        """The term added to each episode's reward; None where it cannot be computed (a missing verdict)."""
