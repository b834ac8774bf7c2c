"""The pilot: what is measured on the starting policy once and frozen for the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from crypsis.mitigations.base import Mitigation, overrides
from crypsis.models import Policy
from crypsis.monitors.base import judge
from crypsis.rl.context import RunContext, sample_step
from crypsis.rl.engine.timing import PhaseTimer
from crypsis.rl.rewards import LengthCorrection, compose, fit_length_correction, term_names
from crypsis.run_config import RunConfig, run_seed
from crypsis.scenarios.base import Scenario
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


def pilot_prompts(policy: Policy, config: RunConfig, scenario: Scenario) -> list[list[int]]:
    """Token ids of the prompts that come before the first step.

    Raises:
        UserError: There is nothing to train on.
    """
    prompts = scenario.prompts("train", scenario.monitored_tier, config.rl.prompts_per_step, run_seed(config.seed, 0))
    if not prompts:
        raise UserError(f"{config.name}: scenario '{scenario.name}' has no prompt of its train split")
    return [policy.render(p.messages) for p in prompts]


def fit_pilot(policy: Policy, config: RunConfig, context: RunContext, folder: Path) -> Pilot:
    """Length correction and mitigations: calibrated once on the starting policy, then read from the run folder.

    The pilot's episodes are judged and rewarded as those of a step, so that a reward which cannot be computed is found
    before the first one.

    Raises:
        UserError: A mitigation finds nothing to measure, or a term of the reward is not finite.
    """
    path = folder / "pilot.json"
    named = list(zip(term_names(context.mitigations), context.mitigations, strict=True))
    if path.exists():
        stored = read_json(path)
        correction = LengthCorrection(stored["slope"], stored["centre"], stored["n"])
        return Pilot(
            correction, [type(m).model_validate(stored["mitigations"].get(name, m.model_dump())) for name, m in named]
        )
    pilot = Pilot(LengthCorrection(0.0, 0.0, 0), context.mitigations)
    if config.rl.length_correction or any(overrides(m, "calibrate") for m in context.mitigations):
        episodes = sample_step(policy, config, context, 0, PhaseTimer())
        correction = pilot.correction
        if config.rl.length_correction:
            correction = fit_length_correction(episodes, context.preference)
        pilot = Pilot(correction, [m.calibrate(episodes) for m in context.mitigations])
        judge(episodes, context.monitors)
        compose(episodes, context.preference, correction, pilot.mitigations, config.rl)
    measured = {
        name: calibrated.model_dump(mode="json")
        for (name, m), calibrated in zip(named, pilot.mitigations, strict=True)
        if overrides(m, "calibrate")
    }
    write_json(path, asdict(pilot.correction) | {"mitigations": measured})
    return pilot
