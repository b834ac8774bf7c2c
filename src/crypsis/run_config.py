"""Configs of an RL run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from crypsis.config import MOST, Config, Content, MaybeName, Name, Named, did_you_mean
from crypsis.model_config import ModelConfig
from crypsis.registry import DEFAULT_SCENARIO
from crypsis.scenarios.base import Scenario, preset_of
from crypsis.types import Learn, visible

SINKS = ("tensorboard", "trackio", "wandb")
"""What ``report_to`` may name."""


def _sinks(value: Any) -> Any:
    """The names of sinks in order, each once; ``none`` names none of them."""
    names = [value] if isinstance(value, str) else value
    for name in names if isinstance(names, list | tuple) else ():
        if name not in ("none", *SINKS):
            raise ValueError(f"'{visible(str(name))}' is no sink{did_you_mean(str(name), ('none', *SINKS))}")
    return [n for n in dict.fromkeys(names) if n != "none"] if isinstance(names, list | tuple) else value


ReportTo = Annotated[
    tuple[Literal["tensorboard", "trackio", "wandb"], ...],
    BeforeValidator(_sinks),
    WithJsonSchema({"anyOf": [{"enum": ["none", *SINKS]}, {"type": "array", "items": {"enum": list(SINKS)}}]}),
]
"""Sinks by name: one, a list of them, or ``none``."""


class RLConfig(Config):
    """GRPO and its reward, with the paper's settings; a scenario's ``rl_preset`` applies where it has others."""

    steps: int = Field(15, ge=0)  # paper §4: 15, and 30 where convergence needs it
    """GRPO steps."""
    prompts_per_step: int = Field(128, ge=1)  # paper §4: 1,024 episodes in groups of 8
    """Requests per step; times ``group_size``, the episodes of a step."""
    group_size: int = Field(8, ge=2)  # paper §4
    """Replies to each request, which are compared with each other."""
    learning_rate: float = Field(1e-5, gt=0)  # ours; the paper names none
    """Rate of AdamW, constant."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""
    learn: Learn = "all"  # paper §4
    """Which tokens are in the loss; with ``output`` the group shares one sampled scratchpad (paper §4)."""
    max_new_tokens: int = Field(2048, ge=8)  # ours: several times the scratchpads of 200 to 400 tokens of paper §3
    """Token budget of a reply; an episode that reaches it is dropped."""
    advantage_scale: Literal["group", "none"] = "group"  # paper §4: GRPO
    """``group`` divides by the group's standard deviation, as GRPO does (Shao et al. 2024); ``none`` does not, as in
    Dr. GRPO (Liu et al. 2025)."""
    kl: float = Field(0.0, ge=0)  # paper §4 names none
    """Weight of the KL penalty against the policy before training."""
    kl_on: Learn | None = None
    """Segment whose tokens the KL penalty is on; all that learn if not given. A learned extra turn has it on all."""
    epochs: int = Field(1, ge=1)  # paper §4: on policy
    """Optimiser steps on the same episodes; from the second on, with importance ratios against the sampling policy."""
    clip: float = Field(0.2, gt=0, lt=1)  # Schulman et al. 2017
    """Ratios give no gradient beyond 1 ± clip; without effect in the first epoch, where they are 1."""
    temperature: float = 1.0
    """Temperature of training samples; fixed."""
    top_p: float = 1.0
    """Nucleus of training samples; fixed."""
    micro_batch: int = Field(32, ge=1)
    """Rows per forward pass of training, at most."""
    micro_tokens: int = Field(16_384, ge=1)
    """Tokens per forward pass of training beyond the common prefix, at most; long rows then come in smaller numbers."""
    format_penalty: float = Field(-3.0, le=0)
    """Reward of a badly formatted reply, in place of all other terms (paper §4: a large negative one)."""
    length_correction: bool = True
    """Subtract what the preference model pays for output length, by a regression in a pilot (paper §4)."""
    missing_verdict: Literal["drop", "neutral"] = "drop"
    """An episode that a monitor could not judge is dropped, or gets no penalty."""
    checkpoint_every: int = Field(5, ge=1)
    """Steps between resumable states."""
    processes: int = Field(1, ge=1)
    """Processes that share every step on this machine's CPU; their number changes results by rounding only."""

    @model_validator(mode="after")
    def _step_fits(self) -> RLConfig:
        if self.prompts_per_step * self.group_size > MOST:
            raise ValueError(f"prompts_per_step times group_size: a step can have at most {MOST} episodes")
        return self

    @model_validator(mode="after")
    def _penalty_is_on(self) -> RLConfig:
        if self.kl_on and not self.kl:
            raise ValueError("kl_on: has no meaning without kl")
        return self

    @field_validator("temperature", "top_p")
    @classmethod
    def _on_policy(cls, value: float) -> float:
        if value != 1:
            raise ValueError("must be 1: training samples come from the policy itself (paper §4)")
        return value


def with_preset(data: Any) -> Any:
    """The data of a config in which settings of RL that were left out are those of its scenario's preset.

    Args:
        data: What is validated; ``rl`` and ``scenario`` are looked at.
    """
    if not isinstance(data, Mapping):
        return data
    given, scenario = data.get("rl", {}), data.get("scenario") or {}
    if isinstance(given, RLConfig):
        given = given.model_dump(exclude_unset=True)
    if not (isinstance(given, Mapping) and isinstance(scenario, Mapping)):
        return data  # refused with its place when it is validated
    return {**data, "rl": {**preset_of(scenario), **given}}


def reply_tokens(scenario: Scenario) -> int:
    """The token budget of a reply where no config sets one."""
    return RLConfig(**scenario.rl_preset).max_new_tokens


class EvaluationConfig(Config):
    """When and on how many requests to evaluate."""

    every: int = Field(5, ge=1)
    """Steps between evaluations."""
    n: int = Field(250, ge=2)  # paper §1
    """Held-out requests in each tier."""
    seed: int = 7
    """Which held-out requests, and the seed of sampling them."""
    transplants: int = Field(0, ge=0)
    """Requests on which each evaluation also exchanges, cuts and paraphrases scratchpads (faithfulness); 0: none."""


class PreferenceConfig(Config):
    """A reward model for scenarios that bring none: any sequence classifier with one output, by folder or hub id."""

    model: Annotated[str, Content("model")]
    scale: float = Field(1.0, gt=0)
    offset: float = 0.0
    """Logit of an answer that neither helps nor harms: the length correction takes scores above 0 for helpful."""
    max_length: int = Field(4096, ge=16)
    batch_size: int = Field(16, ge=1)


class RunConfig(Config):
    """One RL run: a policy, a scenario, monitors, mitigations, a seed."""

    name: Name
    """The run's name."""
    policy: Annotated[Path, Content("model")]
    """A checkpoint folder, an adapter folder or a hub id."""
    model: ModelConfig = ModelConfig()
    scenario: dict[str, Any] = {"name": DEFAULT_SCENARIO}
    """Name and settings."""
    monitors: Named[dict[str, Any]] = {"oracle": {"name": "oracle"}}
    """Kind and settings by a name of your own; keep an oracle, or a judge that writes labels."""
    mitigations: list[dict[str, Any]] = []
    """Names and settings; none is baseline RL."""
    rl: RLConfig = RLConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    seed: int = Field(0, ge=0)
    """Seed of sampling and of the requests drawn for training."""
    organism: MaybeName = ""
    """How a report groups the run; like ``arm``, set by a study."""
    arm: MaybeName = ""
    """How a report groups the run."""
    label: str = ""
    """What a report calls the arm."""
    preference: PreferenceConfig | None = None
    """The reward model of a scenario that brings none."""
    report_to: ReportTo = Field((), exclude=True)
    """Tools that show the run while it works (docs/integrations.md). It changes nothing else, so it is not stored."""
    trl: dict[str, Any] = {}
    """Options of TRL's ``GRPOConfig`` for ``--backend trl`` (vLLM, precision, memory); not those of the algorithm."""

    @model_validator(mode="before")
    @classmethod
    def _takes_the_preset(cls, data: Any) -> Any:
        return with_preset(data)

    @model_validator(mode="after")
    def _processes_fit(self) -> RunConfig:
        if self.evaluation.transplants and self.model.thinking == "scratchpad":
            raise ValueError("evaluation.transplants: a thought cannot be exchanged; use model.thinking=drop")
        if self.rl.processes > self.rl.prompts_per_step:
            raise ValueError(f"rl.processes: has no more use than the {self.rl.prompts_per_step} prompts of a step")
        if self.rl.processes > 1 and self.model.device == "cuda":
            raise ValueError("rl.processes: they share the CPU; set it to 1, or model.device to cpu")
        return self

    @model_validator(mode="after")
    def _monitors_exist(self) -> RunConfig:
        for place, mitigation in enumerate(self.mitigations):
            for wanted in monitors_of(mitigation, f"mitigations.{place}"):
                if wanted not in self.monitors:
                    raise ValueError(
                        f"mitigation '{mitigation.get('name')}' wants a monitor '{wanted}'; monitors has "
                        f"{', '.join(self.monitors) or 'none'}"
                    )
        return self


def monitors_of(mitigation: Mapping[str, Any], where: str) -> list[str]:
    """Names of the monitors that a mitigation listens to, as they stand in its settings.

    Args:
        mitigation: Its name and settings.
        where: Key that they stand under, for the message.

    Raises:
        ValueError: ``monitor`` is neither a name nor a list of names.
    """
    named = mitigation.get("monitor")
    if named is None:
        return []
    names = named if isinstance(named, list) else [named]
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where}: monitor: must be the name of a monitor or a list of names, found {named!r}")
    return names


def run_seed(seed: int, number: int) -> int:
    """Seed of one sampling of a run.

    Args:
        seed: The run's.
        number: Which sampling; for the episodes of RL, the step (0 is the pilot).
    """
    return seed * 1_000_003 + number
