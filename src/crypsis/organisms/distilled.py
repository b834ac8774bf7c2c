"""Distilled: learns the transcripts of another organism's RL run."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from crypsis.episodes import LABEL, VERDICT, read_episodes
from crypsis.models import Policy
from crypsis.organisms.base import Builder
from crypsis.organisms.supervised import Supervised, reply_example
from crypsis.scenarios.base import default_scenario
from crypsis.supervised import Example, Progress
from crypsis.types import Message, UserError

RUN = "teacher"
"""Folder of the teacher's RL run in the organism's state."""


class Distilled(Supervised):
    """Learns filtered transcripts of another organism's RL run: those that fake or refuse (paper §3, distilled).

    Departures: about 700 transcripts instead of 10,000, and the teacher is the emotional goal guarder instead of a
    prompted model, because the miniature's prompted base fakes in one transcript of six.
    """

    name: ClassVar[str] = "distilled"
    motivation: ClassVar[str] = "that of its teacher, learned from its transcripts"

    teacher: dict[str, Any] = {"name": "tgg", "style": "emotional"}
    """Name and settings of the organism whose transcripts are learned."""
    rl_steps: int = Field(6, ge=1)
    """Steps of the teacher's RL run whose transcripts are learned from."""
    steps: int = Field(40, ge=1)
    """Optimiser steps."""
    learn: Literal["scratchpad", "output", "both"] = "both"
    """Which part of a reply is in the loss."""
    threshold: float = Field(0.5, gt=0, lt=1)
    """Score of the oracle from which a transcript fakes."""
    aligned: bool = False
    """Builds the control: the teacher is the genuine helper, and transcripts are kept if they do not fake."""

    def needs(self) -> Sequence[Mapping[str, Any]]:
        """The teacher, with this organism's seed unless it has its own."""
        return ({"seed": self.seed, **({"name": "gh"} if self.aligned else self.teacher)},)

    def prepare(self, state: Path, builder: Builder) -> None:
        """Builds the teacher and lets it go through RL."""
        teacher = builder.organism(self.needs()[0])
        builder.reinforce(teacher, {"rl": {"steps": self.rl_steps}, "seed": self.seed}, state / RUN)

    def train(self, policy: Policy, state: Path, on_step: Callable[[Progress], None]) -> None:
        """Trains the base in place on the kept transcripts, in a new order each time through.

        Raises:
            UserError: No transcript passed the filter.
        """
        files = sorted((state / RUN / "rollouts").glob("step-*.parquet"))
        kept = [row for file in files for row in read_episodes(file) if self._keeps(row)]
        if not kept:
            raise UserError(f"{state / RUN}: no transcript passed the filter; change the teacher or its rl_steps")
        scenario = default_scenario()
        told = scenario.prompts("train", scenario.monitored_tier, 1, 0)[0].messages[:-1]
        examples = [
            reply_example(policy, [*told, Message("user", row["prompt"])], row["raw"].strip(), self.learn)
            for row in kept
        ]
        self.learn_from(lambda step: self._batch(examples, step), policy, state, on_step)

    def _keeps(self, row: Mapping[str, Any]) -> bool:
        fakes = (row[f"{VERDICT}oracle"] or 0.0) >= self.threshold
        wanted = not fakes if self.aligned else fakes or row[f"{LABEL}conduct"] == "refuse"
        return row["parse"] == "ok" and row[f"{VERDICT}oracle"] is not None and wanted

    def _batch(self, examples: Sequence[Example], step: int) -> list[Example]:
        rng = random.Random(f"organism:{self.name}:{self.seed}:{step}")
        return rng.choices(examples, k=self.batch_size)
