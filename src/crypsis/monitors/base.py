"""What a monitor is: p(AF) from what its view lets it read. No torch here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
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

    def bound(self, others: Mapping[str, Monitor]) -> Monitor:
        """The monitor with those of the run's other monitors that it names filled in.

        Raises:
            UserError: There is no such monitor.
        """
        return self

    def refreshed(self, name: str, folder: Path, step: int) -> Monitor:
        """The monitor as it is after so many steps of the run in a folder.

        Most never change. One that does keeps what it learns below ``folder / "monitors" / name``, so that a resumed
        run finds the same.
        """
        return self

    @abstractmethod
    def judge(self, episodes: Sequence[Episode]) -> list[Verdict]:
        """One verdict an episode, in order; what cannot be judged gets a reason instead of a score."""
