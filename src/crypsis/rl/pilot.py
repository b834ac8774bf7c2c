"""The pilot: what is measured on the starting policy once and frozen for the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from crypsis.digests import is_sound, record
from crypsis.mitigations.base import Mitigation, call, term_names
from crypsis.mitigations.hooks import Calibrates
from crypsis.models import Policy, check_length
from crypsis.monitors.base import judge
from crypsis.rl.context import RunContext, replaced, sample_step
from crypsis.rl.engine.timing import PhaseTimer
from crypsis.rl.rewards import LengthCorrection, compose, fit_length_correction
from crypsis.run_config import RunConfig, run_seed
from crypsis.store import read_json, write_json
from crypsis.types import UserError


@dataclass(frozen=True, slots=True)
class Pilot:
    """What was measured on the starting policy, frozen for the run.

    Attributes:
        correction: The length correction.
        mitigations: Those of the study, with what they measured.
    """

    correction: LengthCorrection
    mitigations: Sequence[Mitigation]


def pilot_prompts(policy: Policy, config: RunConfig, context: RunContext) -> list[list[int]]:
    """Token ids of the prompts that are sampled from before the first step.

    Raises:
        UserError: There is nothing to train on, or a prompt to learn under is longer than the context.
    """
    scenario = context.scenario
    seed = run_seed(config.seed, 0)
    prompts = scenario.prompts("train", scenario.monitored_tier, config.rl.prompts_per_step, seed)
    if not prompts:
        raise UserError(f"{config.name}: scenario '{scenario.name}' has no prompt of its train split")
    sampled_under, learned_under = replaced(prompts, context.mitigations)
    check_length([policy.render(p.messages) for p in learned_under or ()], config.rl.max_new_tokens, policy.context)
    return [policy.render(p.messages) for p in sampled_under]


def fit_pilot(policy: Policy, config: RunConfig, context: RunContext, folder: Path) -> Pilot:
    """Length correction and mitigations: calibrated once on the starting policy, then read from the run folder.

    A file that is lost or damaged is made again, so the policy must be the starting one, before a checkpoint is loaded.

    The pilot's episodes are judged and rewarded as those of a step, so that a reward which cannot be computed is found
    before the first one.

    Raises:
        UserError: A mitigation finds nothing to measure, or a term of the reward is not finite.
    """
    path = folder / "pilot.json"
    named = list(zip(term_names(context.mitigations), context.mitigations, strict=True))
    if is_sound(folder, path):
        stored = read_json(path)
        correction = LengthCorrection(stored["slope"], stored["centre"], stored["n"])
        return Pilot(
            correction, [type(m).model_validate(stored["mitigations"].get(name, m.model_dump())) for name, m in named]
        )
    pilot = Pilot(LengthCorrection(0.0, 0.0, 0), context.mitigations)
    if config.rl.length_correction or any(isinstance(m, Calibrates) for m in context.mitigations):
        groups = sample_step(policy, config, context, 0, PhaseTimer())
        episodes = [e for group in groups for e in group.episodes]
        correction = pilot.correction
        if config.rl.length_correction:
            correction = fit_length_correction(episodes, context.preference)
        pilot = Pilot(
            correction,
            [call(m, m.calibrate, episodes) if isinstance(m, Calibrates) else m for m in context.mitigations],
        )
        judge(episodes, context.monitors)
        compose(episodes, context.preference, correction, pilot.mitigations, config.rl)
    measured = {
        name: calibrated.model_dump(mode="json")
        for (name, m), calibrated in zip(named, pilot.mitigations, strict=True)
        if isinstance(m, Calibrates)
    }
    write_json(path, asdict(pilot.correction) | {"mitigations": measured})
    record(folder, path)
    return pilot
