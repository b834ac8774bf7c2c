"""What an organism is: a recipe that turns a base into a checkpoint that fakes alignment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from crypsis.config import Config
from crypsis.models import Policy
from crypsis.supervised import Progress


class Organism(Config, ABC):
    """A model organism (paper §3): its frozen config plus :meth:`train`."""

    name: ClassVar[str]
    motivation: ClassVar[str]
    """What it wants, in a few words, for ``crypsis organism list``."""

    @abstractmethod
    def train(self, policy: Policy, state: Path, on_step: Callable[[Progress], None]) -> None:
        """Trains the base in place.

        Args:
            policy: The base.
            state: Folder for resumable states.
            on_step: Called after every step, for the progress bar.
        """
