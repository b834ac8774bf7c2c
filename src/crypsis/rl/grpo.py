"""GRPO: sample → judge → reward → advantage → masked loss → step → checkpoint, on one screen.

All randomness of a step comes from the run's seed and the step's number, so a run that is killed and resumed ends
with the numbers of an uninterrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from crypsis.episodes import write_episodes
from crypsis.mitigations.base import Mitigation, overrides
from crypsis.models import Policy
from crypsis.monitors.base import Monitor
from crypsis.parallel import Ranks, release_memory
from crypsis.rl.activations import watching
from crypsis.rl.advantages import Advantages, group_advantages
from crypsis.rl.attended import Attended
from crypsis.rl.config import RLConfig, RunConfig
from crypsis.rl.late import late_rows, rollouts_path
from crypsis.rl.learner import ONE, Learner, Say
from crypsis.rl.loss import LossStats, TrainRow
from crypsis.rl.memory import warning as memory_warning
from crypsis.rl.recording import alarms, episode_metrics
from crypsis.rl.rewards import LengthCorrection, Preference, compose, fit_length_correction, term_names
from crypsis.rl.rollouts import ask_extra_turns, rollout
from crypsis.rl.selfcheck import why_padded
from crypsis.rl.timing import PhaseTimer
from crypsis.scenarios.base import Scenario
from crypsis.store import METRICS, append_row, keep_rows, read_json, write_json
from crypsis.types import GLUE, OUTPUT, SCRATCHPAD, Episode, Learn, UserError

LEARNS: Mapping[Learn, frozenset[int]] = {
    "all": frozenset({SCRATCHPAD, OUTPUT}),
    "scratchpad": frozenset({SCRATCHPAD}),
    "output": frozenset({OUTPUT}),
}
"""Segments whose tokens are in the loss; GLUE never is."""
assert all(GLUE not in learned for learned in LEARNS.values())


@dataclass(frozen=True, slots=True)
class Study:
    """What a run works with besides the policy.

    Attributes:
        scenario: Where prompts come from; RL takes those of the monitored tier only (paper §1).
        monitors: By name; all of them judge every episode.
        mitigations: Their terms are added to the reward.
        preference: The preference model.
        answerer: Who replies to a mitigation's extra turn, if not the policy.
    """

    scenario: Scenario
    monitors: Mapping[str, Monitor]
    mitigations: Sequence[Mitigation]
    preference: Preference
    answerer: Policy | None = None

    @property
    def thresholds(self) -> dict[str, float]:
        """By name of a monitor, the score from which it flags."""
        return {name: monitor.threshold for name, monitor in self.monitors.items()}


@dataclass(frozen=True, slots=True)
class Pilot:
    """What was measured on the starting policy, frozen for the run.

    Attributes:
        correction: The length correction.
        mitigations: Those of the study, with what they measured.
    """

    correction: LengthCorrection
    mitigations: Sequence[Mitigation]


Evaluate = Callable[[Policy, int], None]
"""Evaluates the policy after so many steps and stores what it found; skips what is stored already."""


def train(
    policy: Policy,
    config: RunConfig,
    study: Study,
    folder: Path,
    evaluate: Evaluate,
    on_step: Callable[[Mapping[str, Any]], None] = lambda _: None,
    ranks: Ranks = ONE,
    say: Say = lambda _: None,
) -> None:
    """Runs GRPO in place, evaluating before the first step, every ``evaluation.every`` steps and at the end.

    Args:
        policy: Trained in place.
        config: The run.
        study: Scenario, monitors, mitigations and preference model.
        folder: The run folder; metrics, rollouts and checkpoints go there, and a resumed run starts from there.
        evaluate: Called with the policy and the number of steps done.
        on_step: Called with each row of metrics.
        ranks: This process (rank 0) and those that ``assist`` it.
        say: Called with what the user should know, a line at a time.
    """
    rl = config.rl
    policy = _checked(policy, config, study.scenario, ranks, say)
    learner = Learner(policy, rl, ranks, say)
    done = learner.resume(folder / "checkpoints")
    keep_rows(folder / METRICS, done)
    study = replace(study, monitors=watching(study.monitors, policy))
    pilot = fit_pilot(policy, config, study, folder)
    study = replace(study, mitigations=pilot.mitigations)
    alarmed: set[str] = set()
    for step in range(done, rl.steps):
        if step % config.evaluation.every == 0:
            evaluate(policy, step)
        timer = PhaseTimer()
        started = time.perf_counter()
        study = replace(study, monitors=refreshed(study.monitors, folder, step))
        attended = learner.attended if ranks.size == 1 else None  # else rows are dealt out anew
        episodes = _sample(policy, config, study, step + 1, timer, ranks, attended)
        with timer("judging"):
            judge(episodes, study.monitors)
            rewards = compose(episodes, study.preference, pilot.correction, study.mitigations, rl)
        advantages = group_advantages(rewards, rl.group_size, rl.advantage_scale)
        late = _late(folder, step + 1, study.mitigations, rl)
        stats, norm = _descend(learner, config, episodes, advantages, late, timer)
        row = step_metrics(step + 1, episodes, advantages, stats, norm, study.thresholds) | _option_metrics(rl, stats)
        row |= {"late_rows": len(late)} if any(m.lag for m in study.mitigations) else {}
        _sound(row, rl, alarmed, say)
        row |= {f"seconds_{k}": v for k, v in timer.seconds.items()}
        append_row(folder / METRICS, row | {"seconds_total": time.perf_counter() - started})
        tokens = any(m.lag for m in study.mitigations)  # what comes late is learned from what is stored
        write_episodes(rollouts_path(folder, step + 1), episodes, config.name, tokens)
        if (step + 1) % rl.checkpoint_every == 0 or step + 1 == rl.steps:
            learner.save(folder / "checkpoints", step + 1)
        release_memory()
        on_step(row)
    evaluate(policy, rl.steps)


def assist(policy: Policy, config: RunConfig, study: Study, folder: Path, ranks: Ranks) -> None:
    """What the other processes of a run do: sample and learn their part of every step; rank 0 does all the rest."""
    policy = replace(policy, why_padded=ranks.share(""))
    learner = Learner(policy, config.rl, ranks)
    for step in range(learner.resume(folder / "checkpoints"), config.rl.steps):
        _sample(policy, config, study, step + 1, PhaseTimer(), ranks)
        learner.learn([], f"{config.name}: step {step + 1}", PhaseTimer())
        release_memory()


def judge(episodes: Sequence[Episode], monitors: Mapping[str, Monitor]) -> None:
    """Writes every monitor's verdicts into the episodes."""
    for name, monitor in monitors.items():
        for episode, verdict in zip(episodes, monitor.judge(episodes), strict=True):
            episode.verdicts[name] = verdict


def refreshed(monitors: Mapping[str, Monitor], folder: Path, step: int) -> dict[str, Monitor]:
    """The monitors as they are after so many steps of the run in a folder; most never change."""
    return {name: monitor.refreshed(name, folder, step) for name, monitor in monitors.items()}


def step_seed(config: RunConfig, step: int) -> int:
    """Seed of a step's sampling."""
    return config.seed * 1_000_003 + step


def _checked(policy: Policy, config: RunConfig, scenario: Scenario, ranks: Ranks, say: Say) -> Policy:
    """The policy, marked for the padded path if sharing the prefix would not give its own numbers."""
    prompt_ids = pilot_prompts(policy, config, scenario)
    policy = replace(policy, why_padded=ranks.share(why_padded(policy, prompt_ids)))
    if policy.why_padded:
        say(f"rows are computed whole, without a shared prefix, which is slower: {policy.why_padded}")
    if too_much := memory_warning(policy, config.rl, prompt_ids, config.model.gradient_checkpointing):
        say(too_much)
    return policy


def pilot_prompts(policy: Policy, config: RunConfig, scenario: Scenario) -> list[list[int]]:
    """Token ids of the prompts that come before the first step.

    Raises:
        UserError: There is nothing to train on.
    """
    prompts = scenario.prompts("train", scenario.monitored_tier, config.rl.prompts_per_step, step_seed(config, 0))
    if not prompts:
        raise UserError(f"{config.name}: scenario '{scenario.name}' has no prompt of its train split")
    return [policy.render(p.messages) for p in prompts]


def _sample(
    policy: Policy,
    config: RunConfig,
    study: Study,
    step: int,
    timer: PhaseTimer,
    ranks: Ranks = ONE,
    attended: Attended | None = None,
) -> list[Episode]:
    """The episodes of a step: all of them on rank 0, the own part elsewhere."""
    seed = step_seed(config, step)
    prompts = study.scenario.prompts("train", study.scenario.monitored_tier, config.rl.prompts_per_step, seed)
    own = ranks.slice(len(prompts))
    with timer("rollout"):
        episodes = rollout(
            policy,
            prompts[own.start : own.stop],
            group_size=config.rl.group_size,
            max_new_tokens=config.rl.max_new_tokens,
            seed=seed,
            step=step,
            first_group=own.start,
            share_scratchpad=config.rl.learn == "output",
            timer=timer,
            attended=attended,
        )
        ask_extra_turns(policy, episodes, study.mitigations, config.rl.max_new_tokens, timer, study.answerer)
        return ranks.gather(episodes)


def fit_pilot(policy: Policy, config: RunConfig, study: Study, folder: Path) -> Pilot:
    """Length correction and mitigations: fitted once on the starting policy, then read from the run folder.

    The pilot's episodes are judged and rewarded as those of a step, so that a reward which cannot be computed is found
    before the first one.

    Raises:
        UserError: A mitigation finds nothing to measure, or a term of the reward is not finite.
    """
    path = folder / "pilot.json"
    named = list(zip(term_names(study.mitigations), study.mitigations, strict=True))
    if path.exists():
        stored = read_json(path)
        correction = LengthCorrection(stored["slope"], stored["centre"], stored["n"])
        return Pilot(
            correction, [type(m).model_validate(stored["mitigations"].get(name, m.model_dump())) for name, m in named]
        )
    pilot = Pilot(LengthCorrection(0.0, 0.0, 0), study.mitigations)
    if config.rl.length_correction or any(overrides(m, "fitted") for m in study.mitigations):
        episodes = _sample(policy, config, study, 0, PhaseTimer())
        correction = pilot.correction
        if config.rl.length_correction:
            correction = fit_length_correction(episodes, study.preference)
        pilot = Pilot(correction, [m.fitted(episodes) for m in study.mitigations])
        judge(episodes, study.monitors)
        compose(episodes, study.preference, correction, pilot.mitigations, config.rl)
    measured = {
        name: fitted.model_dump(mode="json")
        for (name, m), fitted in zip(named, pilot.mitigations, strict=True)
        if overrides(m, "fitted")
    }
    write_json(path, asdict(pilot.correction) | {"mitigations": measured})
    return pilot


def token_mask(episode: Episode, learn: Learn) -> list[int]:
    """Which tokens of the completion learn: 1 for those in a learned segment, all 0 for a dropped episode."""
    learned = LEARNS[learn] if not episode.dropped else frozenset[int]()
    return [int(segment in learned) for segment in episode.segments]


def _late(folder: Path, step: int, mitigations: Sequence[Mitigation], rl: RLConfig) -> list[TrainRow]:
    """Rows of earlier steps whose late terms arrive now."""
    found = late_rows(folder, step, mitigations, rl.group_size)
    learned = LEARNS[rl.learn]
    return [
        TrainRow(
            row["prompt_ids"],
            row["completion_ids"],
            [int(segment in learned) for segment in row["segments"]],
            advantage,
            old_logprobs=row["logprobs"],
            stale=True,
        )
        for row, advantage in found
    ]


def _descend(
    learner: Learner,
    config: RunConfig,
    episodes: Sequence[Episode],
    advantages: Advantages,
    late: Sequence[TrainRow],
    timer: PhaseTimer,
) -> tuple[LossStats, float]:
    rows = list(late)
    for episode, advantage in zip(episodes, advantages.advantages, strict=True):
        episode.advantage = advantage
        mask = token_mask(episode, config.rl.learn)
        rows.append(TrainRow(episode.prompt_ids, episode.completion_ids, mask, advantage, episode.logprobs))
    return learner.learn(rows, f"{config.name}: step {episodes[0].step}", timer)


def step_metrics(
    step: int,
    episodes: Sequence[Episode],
    advantages: Advantages,
    stats: LossStats,
    norm: float,
    thresholds: Mapping[str, float],
) -> dict[str, Any]:
    """One row of ``metrics.jsonl``, without its seconds."""
    return {
        "step": step,
        **episode_metrics(episodes, advantages, thresholds),
        "trained_tokens": stats.trained_tokens,
        "loss": stats.loss,
        "grad_norm": norm,
    }


def _option_metrics(rl: RLConfig, stats: LossStats) -> dict[str, float]:
    """What only options that are off by default give to measure."""
    ratios = {"mean_ratio": stats.mean_ratio, "clip_fraction": stats.clip_fraction} if rl.epochs > 1 else {}
    return ratios | ({"kl": stats.mean_kl} if rl.kl else {})


def _sound(row: Mapping[str, Any], rl: RLConfig, alarmed: set[str], say: Say) -> None:
    """Says every kind of alarm once a run; each row of metrics has its own."""
    for kind, line in alarms(row, rl.prompts_per_step).items():
        if kind not in alarmed:
            say(f"step {row['step']}: {line}")
    alarmed |= set(alarms(row, rl.prompts_per_step))
