"""What an organism is: a recipe that turns a base into a checkpoint that fakes alignment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from crypsis.config import Config
from crypsis.models import Policy
from crypsis.supervised import Progress
from crypsis.types import UserError


class Builder(Protocol):
    """What a recipe may ask of the rooms above it: another organism, and RL (docs/decisions/0004)."""

    def organism(self, spec: Mapping[str, Any]) -> Path:
        """Builds another organism on the same base, or finds it in the cache.

        Args:
            spec: Its name and settings, as in YAML.

        Returns:
            Its checkpoint folder.
        """

    def reinforce(self, policy: Path, settings: Mapping[str, Any], folder: Path) -> Path:
        """Trains a checkpoint by RL, or finds it done.

        Args:
            policy: The checkpoint to start from.
            settings: From a ``crypsis train`` config (``rl``, ``scenario``, ``monitors``, ``mitigations``, ``seed``).
            folder: The run folder: episodes in ``rollouts/``, the checkpoint in ``model/``.

        Returns:
            The run folder.
        """


class Organism(Config, ABC):
    """A model organism (paper §3): its frozen config plus :meth:`train`.

    A recipe that needs another organism or RL also has :meth:`prepare`.
    """

    name: ClassVar[str]
    motivation: ClassVar[str]
    """What it wants, in a few words, for its card."""
    replaces: ClassVar[bool] = False
    """Whether :meth:`train` puts other weights in the place of those that it gets."""
    reinforces: ClassVar[bool] = True
    """Whether its :meth:`prepare` runs RL, so that a change of RL's code, or of a monitor's, makes another organism."""
    limits: ClassVar[str] = ""
    """What its card says under "Limits" beyond what all cards say."""

    def again(self, number: int) -> Self:
        """The same recipe with another seed, that many on, which trains another checkpoint; 0 is the recipe itself.

        Raises:
            UserError: The recipe has no seed.
        """
        if number and "seed" not in type(self).model_fields:
            raise UserError(f"organism '{self.name}': has no setting seed, so it cannot be trained again")
        return self.model_copy(update={"seed": getattr(self, "seed", 0) + number}) if number else self

    def needs(self) -> Sequence[Mapping[str, Any]]:
        """Name and settings of the organisms that this one is made from; they count in the cache's key."""
        return ()

    def honest(self) -> Mapping[str, Any] | None:
        """The one of ``needs`` that states its values in either tier; monitors learn from it in place of the base.

        None where monitors learn from the base.
        """
        return None

    def prepare(self, state: Path, builder: Builder) -> None:
        """Makes what :meth:`train` needs and leaves it in ``state``; nothing by default.

        Args:
            state: The folder that ``train`` gets.
            builder: Builds other organisms and runs RL.
        """

    @abstractmethod
    def train(self, policy: Policy, state: Path, on_step: Callable[[Progress], None]) -> None:
        """Trains the base in place.

        Args:
            policy: The base.
            state: Folder for resumable states.
            on_step: Called after every step, for the progress bar.
        """
