"""What a monitor is: p(AF) from what its view lets it read. No torch here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from crypsis.config import Config
from crypsis.types import Episode, Verdict, View


class Monitor(Config, ABC):
    """A detector of alignment faking; the same kind with another view is its control.

    A monitor is its frozen config plus :meth:`judge`.
    """

    name: ClassVar[str]

    @property
    @abstractmethod
    def sees(self) -> View:
        """What it may read: ``scratchpad``, ``output`` or ``both``."""

    @property
    def threshold(self) -> float:
        """Score from which an episode counts as flagged."""
        return 0.5

    @property
    def card(self) -> dict[str, Any]:
        """What reports say of it."""
        return {"kind": self.name, "view": self.sees, "threshold": self.threshold}

    @abstractmethod
    def judge(self, episodes: Sequence[Episode]) -> list[Verdict]:
        """One verdict an episode, in order; what cannot be judged gets a reason instead of a score."""
