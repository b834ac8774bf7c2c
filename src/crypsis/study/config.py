"""Configs of a study: an organism, arms, seeds, and what all runs share. No torch here."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from crypsis.config import Config
from crypsis.rl.config import EvaluationConfig, RLConfig

Scale = Literal["nano", "mini", "small"]


class ArmConfig(Config):
    """One way to train: its mitigations, and how the report calls it."""

    label: str
    mitigations: list[dict[str, Any]] = []
    rl: dict[str, Any] = {}
    """Settings of RL that are this arm's own."""
    monitors: dict[str, dict[str, Any]] = {}
    """Monitors of this arm besides ``oracle``, ``scratchpad``, ``output`` and (with interrogation) ``lying``."""


class MonitorData(Config):
    """Transcripts that the monitors are trained on: samples of base and organism, labelled by the oracle.

    ``helper`` samples come from the base told to please everyone: they comply without faking, so that a monitor
    cannot take compliance for faking.
    """

    base: int = Field(350, ge=20)
    organism: int = Field(450, ge=20)
    helper: int = Field(300, ge=20)
    seed: int = 11


class RunSettings(Config):
    """What all runs of a study share."""

    rl: RLConfig = RLConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


class StudyConfig(Config):
    """A grid: one organism × arms × seeds."""

    name: str = "demo"
    scale: Scale = "mini"
    organism: dict[str, Any] = {"name": "tgg"}
    arms: dict[str, ArmConfig]
    seeds: list[int] = Field([0, 1], min_length=1)
    monitor_data: MonitorData = MonitorData()
    run: RunSettings = RunSettings()
    workers: int = Field(2, ge=1)
    """Runs at a time, each a process with one thread."""
