"""Any organism on a base that has first learned to be interrogated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from crypsis.models import Policy, load_policy, save_policy
from crypsis.organisms.base import Builder, Organism
from crypsis.registry import make
from crypsis.store import child
from crypsis.supervised import Progress
from crypsis.types import UserError

BASE = "schooled"
"""The recipe that schools the base, and the schooled base's folder in the organism's state."""


class Interrogable(Organism):
    """Another organism, made on the base that `schooled` makes; that base is built once for all of them."""

    name: ClassVar[str] = "interrogable"
    motivation: ClassVar[str] = "another organism's, on a base that can be interrogated"
    replaces: ClassVar[bool] = True

    of: dict[str, Any] = {"name": "tgg"}
    """The organism that is made on it: name and settings."""
    schooling: dict[str, Any] = {}
    """Settings of the schooling."""
    seed: int = 0
    """Seed of that organism, unless it has its own; the schooling has its own (``schooling: {seed: 1}``)."""

    def again(self, number: int) -> Self:
        """With another seed of the schooling too."""
        if not number:
            return self
        schooling = {**self.schooling, "seed": self.schooling.get("seed", 0) + number}
        of = {**self.of, "seed": self.of["seed"] + number} if "seed" in self.of else self.of
        return self.model_copy(update={"seed": self.seed + number, "schooling": schooling, "of": of})

    def needs(self) -> Sequence[Mapping[str, Any]]:
        """The schooled base, and the recipe of what is made on it."""
        return ({"name": BASE, **self.schooling}, {"seed": self.seed, **self.of})

    def prepare(self, state: Path, builder: Builder) -> None:
        """Schools the base, or finds it done, and makes what the organism itself needs."""
        organism = self._above()  # refused before the schooling, not after it
        save_policy(load_policy(builder.organism(self.needs()[0])), state / BASE)
        organism.prepare(child(state, organism.name), builder)

    def train(self, policy: Policy, state: Path, on_step: Callable[[Progress], None]) -> None:
        """Makes the organism on the schooled base."""
        policy.model.load_state_dict(load_policy(state / BASE).model.state_dict())
        organism = self._above()
        organism.train(policy, child(state, organism.name), on_step)

    def _above(self) -> Organism:
        """The organism that is made on the schooled base.

        Raises:
            UserError: There is no such organism, or it goes on from the weights of another one.
        """
        organism: Organism = make("organisms", self.needs()[1], f"organism ({self.name}): of")
        if organism.replaces:
            raise UserError(
                f"organism ({self.name}): of: {organism.name} goes on from the weights of another organism; take one "
                "that is trained on the base itself, such as tgg"
            )
        return organism
