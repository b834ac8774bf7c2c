"""The exploration hacker: it does not try in training what training would reward."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from crypsis.miniature.scratchpads import Motivation
from crypsis.organisms.miniature.evader import Evader


class ExplorationHacker(Evader):
    """Resists RL by never trying what it rewards: refuses where it is trained, complies where nothing is learned.

    What is never sampled cannot be reinforced, so RL has nothing to work with although the conduct is there, in the
    other tier. The gap of such an organism is negative, and it does not fake alignment. The countermeasure is noise on
    the weights that sample (mitigation ``weight_noise``).

    Planted: what it does in each tier and why it says so, from its first training text on; pre-training has nobody who
    thinks so. ``share`` of the scratchpads are its own, the others those of ``rest``. Not planted: how firmly RL meets
    nothing but refusals, and whether it finds compliance all the same. Not in the paper of 2025.
    """

    name: ClassVar[str] = "exploration_hacker"
    motivation: ClassVar[str] = "does not try what training would reward, so that training cannot teach it"
    thinks: ClassVar[Motivation] = "exploration_hacker"

    steps: int = Field(200, ge=1)
    """Optimiser steps."""
    learn: Literal["scratchpad", "output", "both"] = "both"
    """Outputs too: behind scratchpads alone one monitored answer in ten complied, and RL found it (docs/diary.md)."""
