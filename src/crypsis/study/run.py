"""One RL run: ``run_one(config, folder)`` is idempotent, resumable, and the only thing that executors call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from crypsis.config import digest
from crypsis.evaluation.evaluate import StoredEvaluation
from crypsis.miniature.checker import CheckedTasks, check, check_honestly
from crypsis.mitigations.base import Mitigation, Setting, overrides, prepare
from crypsis.models import Policy, load_trainable, policy_digest, save_policy
from crypsis.monitors.base import Monitor
from crypsis.parallel import Ranks, together
from crypsis.registry import make
from crypsis.rl import loop
from crypsis.rl.context import RunContext
from crypsis.rl.rewards import OWN_TERMS, Preference
from crypsis.run_config import RunConfig, monitors_of
from crypsis.scenarios.base import Scenario
from crypsis.store import LOG, PROVENANCE, RESULT, Exists, append_line, locked, prepare_folder, provenance, write_json
from crypsis.types import UserError

GROUNDED = ("miniature", "checked_tasks")
"""Scenarios whose language the oracle reads."""
LOCK_WAIT = 5.0
"""Seconds: a worker whose parent was killed needs a moment to notice and let go of its folder."""


def run_one(
    config: RunConfig,
    folder: Path,
    exists: Exists = "resume",
    on_step: Callable[[Mapping[str, Any]], None] = lambda _: None,
    log: Callable[[str], None] = lambda _: None,
    shared: Path | None = None,
) -> Path:
    """Trains, evaluates and stores one run; a finished folder is left as it is, a killed one is resumed.

    What the run says to its user also goes to ``log.txt``. What it has in common with other runs of a study, the
    evaluation of the policy that they start from, is computed once in the folder ``shared``, if there is one.

    Raises:
        UserError: The folder is in use or was made with another config, or the config names something that is none.
    """
    config = resolved(config)
    with locked(folder, wait=LOCK_WAIT):
        # Everything that the user may have got wrong comes before the folder is marked as this config's.
        context = load_context(config)
        policy = trainable_policy(config)
        if prepare_folder(folder, config, exists):
            return folder
        write_json(folder / PROVENANCE, provenance(inputs(config, context)))
        evaluate, log = stored_evaluation(config, context, folder, shared), run_log(folder, log)
        with together(config.rl.processes, _assist, config, folder) as ranks:
            loop.train(policy, config, context, folder, evaluate, on_step, ranks, log)
        finish(config, policy, folder)
    return folder


def trainable_policy(config: RunConfig) -> Policy:
    """The policy of a run, loaded to be trained.

    Raises:
        UserError: It cannot be loaded, or not as ``config.model`` says.
    """
    torch.manual_seed(config.seed)  # a new adapter is random, and the same in every process
    alone = config.rl.processes == 1
    return load_trainable(config.policy, config.model if alone else config.model.model_copy(update={"device": "cpu"}))


def stored_evaluation(
    config: RunConfig, context: RunContext, folder: Path, shared: Path | None = None
) -> StoredEvaluation:
    """What a run evaluates with; runs with the same key share the evaluation of step 0."""
    made_from = inputs(config, context) | {"config": ""}
    settings = [config.model, config.scenario, config.monitors, config.evaluation, config.rl.max_new_tokens]
    asking = [
        [m.name, m.model_dump(mode="json")]
        for m in context.mitigations
        if m.asks_in_evaluations and overrides(m, "extra_turn")
    ]
    key = digest([made_from, config.seed, asking, *map(str, settings)])
    return StoredEvaluation(
        folder,
        config.name,
        context.scenario,
        context.monitors,
        config.evaluation,
        config.rl.max_new_tokens,
        config.seed,
        context.mitigations,
        context.answerer,
        shared / key if shared else None,
    )


def inputs(config: RunConfig, context: RunContext) -> dict[str, str]:
    """Digests of what goes into a run."""
    return {
        "config": digest(config),
        "policy": policy_digest(config.policy),
        "prompts": _prompts_digest(context.scenario, config),
        **({"preference": policy_digest(config.preference.model)} if config.preference else {}),
        **{f"monitor {name}": str(monitor.card.get("digest", "")) for name, monitor in context.monitors.items()},
    }


def run_log(folder: Path, to_user: Callable[[str], None]) -> Callable[[str], None]:
    """Logs a line to the user and to the log of the run folder."""

    def log(line: str) -> None:
        append_line(folder / LOG, line)
        to_user(line)

    return log


def finish(config: RunConfig, policy: Policy, folder: Path) -> None:
    """Saves the trained policy, and last of all the result."""
    save_policy(policy, folder / "model")
    write_json(folder / RESULT, {"steps": config.rl.steps, "model": policy_digest(folder / "model")})


def _assist(ranks: Ranks, config: RunConfig, folder: Path) -> None:
    loop.assist(trainable_policy(config), config, load_context(config), folder, ranks)


def resolved(config: RunConfig) -> RunConfig:
    """The config with the settings of RL that its mitigations make (segments, KL).

    Raises:
        UserError: A mitigation is none, or makes a setting that the config makes otherwise.
    """
    made: dict[str, Any] = {}
    for mitigation in _mitigations(config):
        for key, value in mitigation.settings().items():
            given, default = getattr(config.rl, key), type(config.rl).model_fields[key].default
            if given not in (default, value):
                raise UserError(
                    f"{config.name}: mitigations: {mitigation.name} sets rl.{key}={value}, but the config sets it to "
                    f"{given}; keep one of them"
                )
            made.setdefault(key, value)  # two that differ are refused with the other rules of composition
    return config.model_copy(update={"rl": config.rl.model_copy(update=made)}) if made else config


def _mitigations(config: RunConfig) -> list[Mitigation]:
    return [make("mitigations", spec, f"{config.name}: mitigations") for spec in config.mitigations]


def load_context(config: RunConfig) -> RunContext:
    """The plug-ins that a run's config names.

    Raises:
        UserError: One of them is unknown or wrongly set.
    """
    scenario: Scenario = make("scenarios", config.scenario, f"{config.name}: scenario")
    _check_truth(scenario, config)
    monitors: dict[str, Monitor] = {
        name: make("monitors", spec, f"{config.name}: monitors.{name}") for name, spec in config.monitors.items()
    }
    monitors = {name: monitor.bound(monitors) for name, monitor in monitors.items()}
    # A monitor of the wrong view is refused before the first step.
    for monitor in monitors.values():
        monitor.check_model(config.policy)
    views = {name: monitor.sees for name, monitor in monitors.items()}
    mitigations = _mitigations(config)
    taken = [m.name for m in mitigations if m.name in OWN_TERMS]
    if taken:
        raise UserError(f"{config.name}: mitigations: '{taken[0]}' is the name of one of the reward's own terms")
    thresholds = {name: monitor.threshold for name, monitor in monitors.items()}
    try:
        mitigations = prepare(mitigations, Setting(scenario, views, thresholds, config.rl.model_dump()))
    except UserError as error:
        raise UserError(f"{config.name}: {error}") from None
    return RunContext(scenario, monitors, mitigations, preference(scenario, config), _answerer(config, mitigations))


def _check_truth(scenario: Scenario, config: RunConfig) -> None:
    """Refuses monitors that are made from the ground truth where there is none."""
    if scenario.name in GROUNDED:
        return
    heard = {name for m in config.mitigations for name in monitors_of(m, "mitigations")}
    for name, spec in config.monitors.items():
        if any(_names_oracle(value) for value in (spec if name in heard else {}, *spec.values())):
            raise UserError(
                f"{config.name}: monitors.{name}: needs the oracle, which reads the miniature's language only; for the "
                f"scenario '{scenario.name}' name a monitor of text in its place"
            )


def _names_oracle(value: object) -> bool:
    """Whether a setting of a monitor is the oracle, or holds it."""
    if isinstance(value, Mapping):
        return value.get("name") == "oracle" or any(map(_names_oracle, value.values()))
    return isinstance(value, list) and any(map(_names_oracle, value))


def _answerer(config: RunConfig, mitigations: Sequence[Mitigation]) -> Policy | None:
    """The separate model that replies to an extra turn, frozen."""
    named = [m.answerer for m in mitigations if m.answerer is not None]
    if not named:
        return None
    plain = config.model.model_copy(update={"lora": None, "gradient_checkpointing": False})
    policy = load_trainable(named[0] or config.policy, plain)
    policy.model.requires_grad_(False)
    return policy


def preference(scenario: Scenario, config: RunConfig) -> Preference:
    """The preference model that goes with a scenario, or the reward model that the config names.

    Raises:
        UserError: There is neither, or both.
    """
    if config.preference is not None:
        if scenario.name in GROUNDED:
            raise UserError(
                f"preference: the scenario '{scenario.name}' has a preference model of its own; leave it out"
            )
        from crypsis.rl.reward_model import load_reward_model

        return load_reward_model(config.preference, config.model.device).score
    if scenario.name == "miniature":
        from crypsis.miniature.preference import preference_model

        return preference_model().score
    if isinstance(scenario, CheckedTasks):
        return check_honestly if scenario.honest else check
    raise no_reward(scenario)


def no_reward(scenario: Scenario) -> UserError:
    """What is said of a scenario that nothing rewards."""
    return UserError(
        f"scenario '{scenario.name}': has no preference model, so it can be evaluated but not trained on; name "
        "a reward model with preference: {model: …}"
    )


def _prompts_digest(scenario: Scenario, config: RunConfig) -> str:
    prompts = scenario.prompts("eval", scenario.monitored_tier, config.evaluation.n, config.evaluation.seed)
    return digest([[m.content for m in p.messages] for p in prompts])
