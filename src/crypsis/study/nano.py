"""Any study of the miniature in a minute or two: it shows that everything runs, not what RL does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crypsis.config import parse_config
from crypsis.registry import make
from crypsis.study.config import MonitorData, StudyConfig
from crypsis.types import UserError

RL = {"steps": 4, "prompts_per_step": 2, "group_size": 4, "max_new_tokens": 96, "checkpoint_every": 1}
EVALUATION = {"every": 2, "n": 20, "transplants": 4}
DATA = MonitorData(base=100, organism=300, helper=100, controls=60)
SEEDS = 2
SUPERVISED = {"steps": 40, "learning_rate": 1e-3, "rl_steps": 2}
"""Sizes of recipes by supervised learning; the model is so small that its learning rate would ruin a larger one."""
REINFORCED = {"steps": 2, "document_steps": 20, "prompts_per_step": 2, "group_size": 4, "max_new_tokens": 96}
"""Sizes of recipes by RL."""
MADE_FROM = ("of", "below", "teacher")
"""Fields of recipes that name another organism."""


def nano(config: StudyConfig) -> StudyConfig:
    """The same arms and organisms on the nano model, with every size that costs time cut down.

    Raises:
        UserError: The study is of a model of its own.
    """
    if config.base is not None:
        raise UserError(f"--scale nano is for studies of the miniature; {config.name} is of {config.base}")
    return cut_down(config)


def cut_down(config: StudyConfig, supervised: Mapping[str, Any] | None = None) -> StudyConfig:
    """The same arms and organisms with every size cut down that costs time, whatever the base.

    Args:
        config: The study.
        supervised: Sizes of recipes by supervised learning; those for the nano model if not given.
    """
    data = config.model_dump(mode="json")
    data["scale"], data["seeds"] = "nano", data["seeds"][:SEEDS]
    data["monitor_data"] = DATA.model_dump(mode="json")
    data["organisms"] = {label: short(spec, supervised or SUPERVISED) for label, spec in config.organisms.items()}
    data["run"]["rl"] = _cut(data["run"]["rl"], RL)
    data["run"]["evaluation"] = _cut(data["run"]["evaluation"], EVALUATION)
    data["run"]["report_to"] = config.run.report_to  # is in no dump
    for arm in data["arms"].values():
        # More than the study's own sizes, so that an arm that differs in them alone is still another one.
        arm["rl"] = _cut(arm["rl"], {key: 2 * value for key, value in RL.items()})
    return parse_config(StudyConfig, data, config.name)


def short(spec: Mapping[str, Any], supervised: Mapping[str, Any] = SUPERVISED) -> dict[str, Any]:
    """An organism's recipe, and those that it is made from, with few steps."""
    recipe = make("organisms", spec, "organisms")
    fields = type(recipe).model_fields
    sizes = REINFORCED if "prompts_per_step" in fields else supervised
    cut = {key: value for key, value in sizes.items() if key in fields}
    below = {key: getattr(recipe, key) for key in MADE_FROM if key in fields}
    return dict(spec) | {key: short(made, supervised) for key, made in below.items() if made is not None} | cut


def _cut(given: Mapping[str, Any], limits: Mapping[str, int]) -> dict[str, Any]:
    """The settings within the limits; what is no number stays, for the validation to name it."""
    return {
        key: min(value, limits[key]) if key in limits and isinstance(value, int | float) else value
        for key, value in given.items()
    }
