"""Configs of a study: organisms, arms, seeds, and what all runs share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from crypsis.config import (
    Config,
    Content,
    Name,
    Named,
    apply_overrides,
    did_you_mean,
    dump_yaml,
    parse_config,
    read_yaml,
)
from crypsis.differences import Inputs, config_difference
from crypsis.model_config import ModelConfig
from crypsis.registry import DEFAULT_SCENARIO
from crypsis.run_config import EvaluationConfig, PreferenceConfig, ReportTo, RLConfig, with_preset
from crypsis.store import CONFIG, INPUTS, RESULT, json_text, read_json, rewrite
from crypsis.study.executors.local import Local
from crypsis.study.executors.ray import Ray
from crypsis.study.executors.slurm import Slurm
from crypsis.types import Scale

RESERVED = ("oracle", "scratchpad", "output", "lying")
"""Monitors that a study has anyway."""
HOW = ("workers", "executor", "retries", "first")
"""Fields of a study that say how it is computed and not what: a folder may be gone on with under others."""
GROWS = ("organisms", "arms")
"""Fields of a study to which a folder that is gone on with may add; seeds may be added too."""


class ArmConfig(Config):
    """One way to train: its mitigations, and how the report calls it."""

    label: str
    """What reports call it."""
    mitigations: list[dict[str, Any]] = []
    """Names and settings; none is baseline RL."""
    rl: dict[str, Any] = {}
    """Settings of RL that are this arm's own."""
    organisms: list[str] = []
    """Labels of the organisms that the arm is for; all of them if it names none."""
    monitors: Named[dict[str, Any]] = {}
    """Monitors of this arm besides ``oracle``, ``scratchpad``, ``output``, those of the panel and (with interrogation)
    ``lying``; ``{trained: NAME, organism: ORGANISM, …}`` is one that the study trained on that organism."""
    scenario: dict[str, Any] = {}
    """Settings of the scenario that are this arm's own."""
    model: dict[str, Any] | None = None
    """Settings of how the policy is loaded that are this arm's own, such as ``{lora: {}}``."""
    every: int | None = Field(None, ge=1)
    """Steps between evaluations of this arm; those of ``run.evaluation`` if not given."""


class MonitorData(Config):
    """Transcripts that the monitors are trained on: samples of base and organism, labelled by the scenario's judge.

    ``helper`` samples come from the base told to please everyone: they comply without faking, so that a monitor
    cannot take compliance for faking. ``controls`` more come from base and organism, told so too, in the monitored
    tier; they choose the threshold and are not learned from. In a scenario without personas nobody is told anything:
    both are replies of the base that comply without faking. An organism of ``one_motive`` has in place of the base the
    model with values that it is made on.
    """

    base: int = Field(350, ge=20)
    """Transcripts of the base."""
    organism: int = Field(450, ge=20)
    """Transcripts of the organism."""
    helper: int = Field(300, ge=20)
    """Transcripts of the base told to please everyone, or complying without faking if the scenario has no personas."""
    controls: int = Field(300, ge=0)
    """Monitored transcripts of base and organism told so too; they choose the threshold and are not learned from."""
    written: int = Field(0, ge=0)
    """Hand-written transcripts to learn from as well, half of them in each tier, in a scenario that brings some. With
    any, models that never comply or never fake are no error: for small trials, not for results."""
    seed: int = 11
    """Seed of the requests and of sampling."""


class RunSettings(Config):
    """What all runs of a study share."""

    rl: RLConfig = RLConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    scenario: dict[str, Any] | None = None
    """The default one if not given."""
    model: ModelConfig | None = None
    """How the policy is loaded: precision, adapters, device."""
    preference: PreferenceConfig | None = None
    """The reward model of a scenario that brings none."""
    report_to: ReportTo = Field((), exclude=True)
    """Tools that show every run while it works (docs/integrations.md). It changes nothing else, so it is not stored."""

    @model_validator(mode="before")
    @classmethod
    def _takes_the_preset(cls, data: Any) -> Any:
        return with_preset(data)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What runs start from.

    Attributes:
        name: How folders of the study call it: the organism's label, with the seed if every seed has its own.
        organism: Label of the organism.
        seed: The seed whose runs start from it; the first one where all seeds start from the same.
        training: Added to the seed of the recipe.
        base: Added to the seed of the base.
    """

    name: str
    organism: str
    seed: int
    training: int = 0
    base: int = 0


class StudyConfig(Config):
    """A grid: organisms × arms × seeds."""

    name: Name = "demo"
    """The study's name."""
    scale: Scale = "mini"
    """Size of the miniature's base; no effect with ``base``."""
    base: Annotated[str | None, Content("model")] = None
    """A checkpoint folder or hub id that the organisms are made of; the scenario's own of that scale if not given."""
    base_of: Named[dict[str, Any]] = {}
    """Settings of the scenario, by label of an organism, with which its base is made, on top of ``run.scenario``; such
    as ``{world: {leave_out: 1}}`` of the miniature."""
    organisms: Named[dict[str, Any]] = Field({"tgg": {"name": "tgg"}}, min_length=1)
    """Recipe (name and settings) by label; the label is what runs, monitors and the report call it."""
    arms: Named[ArmConfig] = Field(min_length=1)
    """Ways to train, by name."""
    monitors_from: str | None = None
    """Label of the organism whose transcripts train the monitors of all organisms; each has its own if not given. For
    organisms that fake too rarely to train on, such as an evader."""
    monitors: Named[dict[str, Any]] | None = None
    """Monitors of all runs by name, in place of those that a study trains on transcripts."""
    panel: Named[dict[str, Any]] = {}
    """Monitors by name that are held out unless an arm names them: trained once per organism, on the data of the others
    (``name``, ``view``, ``seed`` and the settings of the kind), and judging every evaluation."""
    seeds: list[int] = Field([0, 1], min_length=1)
    """Seeds of the runs."""
    repeats: Literal["runs", "trainings", "bases"] = "runs"
    """What every seed has anew: ``runs``, RL alone, from one checkpoint of each organism; ``trainings``, the training
    of each organism too; ``bases``, the base and all that is made from it. Intervals speak of what was repeated."""
    monitor_data: MonitorData = MonitorData()
    run: RunSettings = Field(default_factory=RunSettings)
    workers: int = Field(2, ge=1)
    """The most runs at a time."""
    executor: Annotated[Local | Slurm | Ray, Field(discriminator="name")] = Local()
    """Who computes the runs: ``local``, ``slurm`` or ``ray``."""
    retries: int = Field(1, ge=0)
    """How often a run that failed is tried again before it is given up."""
    first: list[str] = []
    """Labels of organisms whose runs, of all seeds, are started before those of the others."""

    def arms_of(self, organism: str) -> list[str]:
        """The arms that an organism is trained with, in order."""
        return [name for name, arm in self.arms.items() if not arm.organisms or organism in arm.organisms]

    def checkpoint(self, organism: str, seed: int) -> str:
        """Name of the checkpoint that an organism's runs with a seed start from."""
        return organism if self.repeats == "runs" else f"{organism}-seed{seed}"

    def checkpoints(self) -> list[Checkpoint]:
        """All of them, seeds outermost."""
        if self.repeats == "runs":
            return [Checkpoint(label, label, self.seeds[0]) for label in self.organisms]
        return [
            Checkpoint(self.checkpoint(label, seed), label, seed, seed, seed if self.repeats == "bases" else 0)
            for seed in self.seeds
            for label in self.organisms
        ]

    def base_scenario(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Name and settings of the scenario that makes a checkpoint's base."""
        spec = {"name": DEFAULT_SCENARIO, **(self.run.scenario or {}), **self.base_of.get(checkpoint.organism, {})}
        own = spec.get("base_seed", 0)
        known = isinstance(own, int)  # else it is refused where the scenario is made
        return spec | ({"base_seed": own + checkpoint.base} if checkpoint.base and known else {})

    @field_validator("executor", mode="before")
    @classmethod
    def _local_is_meant(cls, value: Any) -> Any:
        return {"name": "local", **value} if isinstance(value, dict) else value

    @field_validator("panel")
    @classmethod
    def _panel_is_apart(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name in RESERVED:
                raise ValueError(f"'{name}' names a column: every study has {', '.join(RESERVED)} already")
        return value

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, value: list[int]) -> list[int]:
        twice = [seed for seed in value if value.count(seed) > 1]
        if twice:
            raise ValueError(f"{twice[0]} is there twice, which would be the same run again")
        return value

    @model_validator(mode="after")
    def _monitors_can_be_had(self) -> StudyConfig:
        if self.monitors is not None and (self.panel or self.monitors_from):
            raise ValueError("monitors: are given, so none are trained; leave out panel and monitors_from")
        return self

    @model_validator(mode="after")
    def _bases_are_the_scenarios(self) -> StudyConfig:
        given = "base_of" if self.base_of else "repeats: bases" if self.repeats == "bases" else None
        if self.base is not None and given:
            raise ValueError(f"base: a given checkpoint is one base, made already; leave out {given}, or base")
        return self

    @model_validator(mode="after")
    def _arms_have_organisms(self) -> StudyConfig:
        for name, arm in self.arms.items():
            for wanted in arm.organisms:
                if wanted not in self.organisms:
                    known = did_you_mean(wanted, list(self.organisms))
                    raise ValueError(f"arms.{name}.organisms: the study has no organism '{wanted}'{known}")
        if self.monitors_from is not None and self.monitors_from not in self.organisms:
            known = did_you_mean(self.monitors_from, list(self.organisms))
            raise ValueError(f"monitors_from: the study has no organism '{self.monitors_from}'{known}")
        for place, labels in (("base_of", self.base_of), ("first", self.first)):
            for wanted in labels:
                if wanted not in self.organisms:
                    known = did_you_mean(wanted, list(self.organisms))
                    raise ValueError(f"{place}: the study has no organism '{wanted}'{known}")
        idle = [label for label in self.organisms if not self.arms_of(label)]
        if idle:
            raise ValueError(f"organisms.{idle[0]}: no arm is for it; remove it, or name it in an arm's organisms")
        return self


CODE = "code"
"""The input to which an added plug-in adds parts; all others must be what they were."""


def widen(folder: Path, config: StudyConfig, inputs: Inputs) -> None:
    """Lets a study grow: a folder that holds a part of its grid takes the config of the whole.

    Seeds, organisms and arms may be added, with their files and the code of their plug-ins, and the fields of ``HOW``
    may change; what else differs is left for ``prepare_folder`` to refuse.
    """
    if not (folder / CONFIG).exists() or not (folder / INPUTS).exists():
        return
    recorded: Inputs = read_json(folder / INPUTS)
    for place in recorded.keys() & inputs.keys():
        now = _part(inputs[place], recorded[place]) if place == CODE else inputs[place]
        if recorded[place] != now:
            return
    old, new = (_given(data) for data in (read_yaml(folder / CONFIG), config.model_dump(mode="json")))
    same = recorded.keys() & inputs.keys()
    fixed = (set(old) | set(new)) - {*HOW, *GROWS, "seeds"}
    held = not config_difference({k: old.get(k) for k in fixed}, {k: new.get(k) for k in fixed}, same)
    held = held and all(_holds(key, new[key], old.get(key), same) for key in GROWS)
    if not (held and isinstance(old.get("seeds"), list) and set(old["seeds"]) <= set(config.seeds)):
        return
    if any(set(old[key]) != set(new[key]) for key in (*GROWS, "seeds")):
        (folder / RESULT).unlink(missing_ok=True)
    if old != new or recorded != inputs:
        rewrite(folder, {INPUTS: json_text({**recorded, **inputs}), CONFIG: dump_yaml(config)})


def _part(parts: Mapping[str, str], of: Mapping[str, str]) -> dict[str, str]:
    """The parts that are also parts of another state."""
    return {name: value for name, value in parts.items() if name in of}


def _given(value: Any) -> Any:
    """The value without keys that are null: older folders may lack such keys."""
    return {k: _given(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value


def _holds(key: str, new: Mapping[str, Any], old: object, same: Collection[str]) -> bool:
    """Whether what a folder has under a key is there unchanged; files at places in ``same`` may lie elsewhere."""
    if not isinstance(old, dict) or not old.keys() <= new.keys():
        return False
    return not config_difference({key: old}, {key: {label: new[label] for label in old}}, same)


def load_study_config(path: Path, settings: Sequence[str] = (), how: Mapping[str, Any] | None = None) -> StudyConfig:
    """Reads a study from YAML.

    Args:
        path: The file.
        settings: ``a.b=c``, set on top.
        how: ``executor`` (its name; settings of another one that the file has are left out) and ``workers``.

    Raises:
        UserError: The file is missing or does not fit.
    """
    data = read_yaml(path)
    asked = dict(how or {})
    executor = asked.pop("executor", None)
    given = data.get("executor")
    if executor and not (isinstance(given, dict) and given.get("name", "local") == executor):
        data["executor"] = {"name": executor}
    return parse_config(StudyConfig, apply_overrides(data | asked, settings), str(path))
