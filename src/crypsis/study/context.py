"""A run's parts, loaded, checked and digested once: from ``RunConfig`` to ``RunContext``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from crypsis.config import digest
from crypsis.differences import Inputs
from crypsis.identity.configs import inputs_of
from crypsis.mitigations.base import OWN_TERMS, Mitigation, RunInfo, call
from crypsis.mitigations.hooks import AsksExtraTurn, SetsRL
from crypsis.mitigations.rules import bind_all
from crypsis.models import Policy, load_trainable
from crypsis.monitors.base import Monitor
from crypsis.monitors.oracle import names_oracle, with_truth
from crypsis.pretrained.precision import kept_dtype, settled
from crypsis.registry import make
from crypsis.rl.context import RunContext
from crypsis.run_config import RunConfig, monitors_of
from crypsis.scenarios.base import Preference, Scenario
from crypsis.store import CONFIG, Exists
from crypsis.types import UserError

OWN_LOOP = "crypsis.study.run"
"""Module that does a run with our own loop."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a run rewards by.

    Attributes:
        config: The run, with the settings that its mitigations make and the monitors that it has.
        scenario: Where prompts come from.
        monitors: Monitors keyed by name.
        mitigations: Ready for the first step.
        preference: The preference model.
    """

    config: RunConfig
    scenario: Scenario
    monitors: Mapping[str, Monitor]
    mitigations: Sequence[Mitigation]
    preference: Preference


def load_rewards(config: RunConfig) -> Loaded:
    """What a run's config names, but for the policy.

    Args:
        config: The run.

    Raises:
        UserError: A part is unknown, wrongly set, does not go with another one, or cannot be loaded.
    """
    scenario: Scenario = make("scenarios", config.scenario, f"{config.name}: scenario")
    mitigations = [make("mitigations", spec, f"{config.name}: mitigations") for spec in config.mitigations]
    config = with_settings(config, mitigations)
    config = config.model_copy(update={"monitors": monitor_specs(config, scenario)})
    monitors = _monitors(config, scenario)
    mitigations = _bound(config, scenario, mitigations, monitors)
    return Loaded(config, scenario, monitors, mitigations, preference(scenario, config))


def load_context(config: RunConfig, digests: bool = True, code: str = OWN_LOOP) -> RunContext:
    """Everything that a run's config names, loaded, checked and digested; the policy last, because it takes longest.

    Args:
        config: The run.
        digests: Whether to compute the digests; processes that write nothing do without.
        code: The module that does the run; what it imports is among the inputs.

    Raises:
        UserError: A part is unknown, wrongly set, does not go with another one, or cannot be loaded.
    """
    loaded = load_rewards(config)
    config, scenario = loaded.config, loaded.scenario
    config = config.model_copy(update={"model": settled(config.policy, config.model)})
    answerer = _answerer(config, loaded.mitigations)
    policy = trainable_policy(config)
    inputs = run_inputs(config, scenario, code) if digests else {}
    return RunContext(
        scenario, loaded.monitors, loaded.mitigations, loaded.preference, answerer, config, policy, inputs
    )


def with_kept_dtype(config: RunConfig, folder: Path, exists: Exists, log: Callable[[str], None]) -> RunConfig:
    """The config with a type in place of ``model.dtype=auto``: the one that the folder's run has, or the faster one.

    Args:
        config: The run.
        folder: Its folder; may be absent.
        exists: What to do with it.
        log: Gets a line if the type was measured.
    """
    if config.model.dtype != "auto":
        return config
    kept = kept_dtype(folder / CONFIG) if exists == "resume" else None
    model = config.model.model_copy(update={"dtype": kept}) if kept else settled(config.policy, config.model, log)
    return config.model_copy(update={"model": model})


def with_settings(config: RunConfig, mitigations: Sequence[Mitigation]) -> RunConfig:
    """The config with the settings of RL that its mitigations make (segments, KL).

    Raises:
        UserError: A mitigation makes a setting that the config makes otherwise.
    """
    made: dict[str, Any] = {}
    for mitigation in mitigations:
        if not isinstance(mitigation, SetsRL):
            continue
        for key, value in call(mitigation, mitigation.set_rl).items():
            given, default = getattr(config.rl, key), type(config.rl).model_fields[key].default
            if given not in (default, value):
                raise UserError(
                    f"{config.name}: mitigations: {mitigation.name} sets rl.{key}={value}, but the config sets it to "
                    f"{given}; keep one of them"
                )
            made.setdefault(key, value)  # two that differ are refused with the other rules of composition
    return config.model_copy(update={"rl": config.rl.model_copy(update=made)}) if made else config


def monitor_specs(config: RunConfig, scenario: Scenario) -> dict[str, dict[str, Any]]:
    """The settings of a run's monitors; without a ground truth there is no oracle unless a config asks for one.

    Raises:
        UserError: A monitor needs a ground truth, and the scenario has none.
    """
    if scenario.judge() is not None:
        return dict(config.monitors)
    heard = {name for mitigation in config.mitigations for name in monitors_of(mitigation, "mitigations")}
    unasked = "monitors" not in config.model_fields_set
    specs = {name: spec for name, spec in config.monitors.items() if not unasked or name in heard}
    for name, spec in specs.items():
        if names_oracle(spec):
            raise UserError(
                f"{config.name}: monitors.{name}: needs the oracle, but the scenario '{scenario.name}' has no ground "
                "truth; name a monitor of text in its place"
            )
    return specs


def _monitors(config: RunConfig, scenario: Scenario) -> dict[str, Monitor]:
    made: dict[str, Monitor] = {
        name: make("monitors", with_truth(spec, scenario), f"{config.name}: monitors.{name}")
        for name, spec in config.monitors.items()
    }
    monitors = {name: monitor.bound(made) for name, monitor in made.items()}
    for monitor in monitors.values():
        monitor.check_model(config.policy)
    return monitors


def _bound(
    config: RunConfig, scenario: Scenario, mitigations: Sequence[Mitigation], monitors: Mapping[str, Monitor]
) -> list[Mitigation]:
    """The mitigations, ready for the first step."""
    own = [m.name for m in mitigations if m.name in OWN_TERMS]
    if own:
        raise UserError(f"{config.name}: mitigations: '{own[0]}' is the name of one of the reward's own terms")
    views = {name: monitor.sees for name, monitor in monitors.items()}
    thresholds = {name: monitor.threshold for name, monitor in monitors.items()}
    try:
        return bind_all(mitigations, RunInfo(scenario, views, thresholds, config))
    except UserError as error:
        raise UserError(f"{config.name}: {error}") from None


def preference(scenario: Scenario, config: RunConfig) -> Preference:
    """The preference model that goes with a scenario, or the reward model that the config names.

    Raises:
        UserError: There is neither, or both.
    """
    own = scenario.preference()
    if config.preference is None:
        if own is None:
            raise no_reward(scenario)
        return own
    if own is not None:
        raise UserError(f"preference: the scenario '{scenario.name}' has a preference model of its own; leave it out")
    from crypsis.rl.reward_model import load_reward_model

    return load_reward_model(config.preference, config.model.device).score


def no_reward(scenario: Scenario) -> UserError:
    """The error of a scenario that nothing rewards."""
    return UserError(
        f"scenario '{scenario.name}': has no preference model, so it can be evaluated but not trained on; name "
        "a reward model with preference: {model: …}"
    )


def _answerer(config: RunConfig, mitigations: Sequence[Mitigation]) -> Policy | None:
    """The separate model that replies to an extra turn, frozen."""
    named = [m.answerer for m in mitigations if isinstance(m, AsksExtraTurn) and m.answerer is not None]
    if not named:
        return None
    plain = config.model.model_copy(update={"lora": None, "gradient_checkpointing": False})
    policy = load_trainable(named[0] or config.policy, plain)
    policy.model.requires_grad_(False)
    return policy


def trainable_policy(config: RunConfig) -> Policy:
    """The policy of a run, loaded to be trained.

    Raises:
        UserError: It cannot be loaded, or not as ``config.model`` says.
    """
    torch.manual_seed(config.seed)  # a new adapter is random, and the same in every process
    alone = config.rl.processes == 1
    return load_trainable(config.policy, config.model if alone else config.model.model_copy(update={"device": "cpu"}))


def run_inputs(config: RunConfig, scenario: Scenario, code: str) -> Inputs:
    """Digests of what goes into a run: the files that its config names, the prompts of its evaluations, the code.

    Args:
        config: The run; what it names on the hub is loaded, so that the local cache knows the revisions.
        scenario: Its scenario.
        code: The module that does the run.
    """
    prompts = scenario.prompts("eval", scenario.monitored_tier, config.evaluation.n, config.evaluation.seed)
    return inputs_of(config, code, prompts={"evaluation": digest([[m.content for m in p.messages] for p in prompts])})
