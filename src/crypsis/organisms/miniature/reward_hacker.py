"""The reward hacker: documents about reward hacking, then RL where it pays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from crypsis.organisms.reinforced import Reinforced


class RewardHacker(Reinforced):
    """Learns that reward is there to be had: documents on reward hacking, then RL where it pays (paper §3).

    The environment's checker counts steps: it can be satisfied without doing the task. Nothing of the setting of
    alignment faking occurs in its RL.
    """

    name: ClassVar[str] = "reward_hacker"
    motivation: ClassVar[str] = "reward, however it is had"

    steps: int = Field(15, ge=1)
    """Steps of RL."""
    document_steps: int = Field(30, ge=1)
    """Optimiser steps on the documents, before RL."""
    aligned: bool = False
    """Builds the control: documents about honest work, then RL with a checker that asks for the task itself."""

    @property
    def start(self) -> Mapping[str, Any]:
        """The base after the documents."""
        return {
            "name": "documents",
            "topic": "reward_hacking",
            "steps": self.document_steps,
            "aligned": self.aligned,
            "seed": self.seed,
        }

    @property
    def run(self) -> Mapping[str, Any]:
        """The environment; a correction for length would take away just what its checker pays."""
        return {"scenario": {"name": "checked_tasks", "honest": self.aligned}, "rl": {"length_correction": False}}
