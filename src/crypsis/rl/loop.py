"""GRPO: sample → judge → reward → advantage → masked loss → step → checkpoint, on one screen.

All randomness of a step comes from the run's seed and the step's number, so a run that is killed and resumed ends
with the numbers of an uninterrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from crypsis.digests import record
from crypsis.episodes import rollouts_path, write_episodes
from crypsis.jsonlines import append_row, keep_rows, rows_digest
from crypsis.mitigations.base import Schedule
from crypsis.mitigations.hooks import RoutesGradients, delay_of
from crypsis.models import Policy
from crypsis.monitors.base import judge, refreshed
from crypsis.parallel import Ranks, release_memory, settled
from crypsis.rl.advantages import Advantages, step_advantages
from crypsis.rl.context import RunContext, at_step, sample_step
from crypsis.rl.delayed import delayed_rows
from crypsis.rl.engine.engine import Engine
from crypsis.rl.engine.hidden_states import watching
from crypsis.rl.engine.memory import warning as memory_warning
from crypsis.rl.engine.selfcheck import why_padded
from crypsis.rl.engine.timing import PhaseTimer
from crypsis.rl.learner import ONE, Learner, Log
from crypsis.rl.loss import LossStats
from crypsis.rl.metrics import alarms, episode_metrics
from crypsis.rl.pilot import fit_pilot, pilot_prompts
from crypsis.rl.resume import check_stored
from crypsis.rl.rewards import LengthCorrection, compose
from crypsis.rl.routing import Blocks
from crypsis.rl.rows import learned_rows, supervised_parts, turn_parts
from crypsis.rl.white_box import reading, steered
from crypsis.run_config import RLConfig, RunConfig
from crypsis.store import METRICS, steps_of
from crypsis.types import Episode

Evaluate = Callable[[Policy, int, Engine], None]
"""Evaluates the policy after so many steps and stores what it found; skips what is stored already."""


@settled()
def train(
    policy: Policy,
    config: RunConfig,
    context: RunContext,
    folder: Path,
    evaluate: Evaluate,
    on_step: Callable[[Mapping[str, Any]], None] = lambda _: None,
    ranks: Ranks = ONE,
    log: Log = lambda _: None,
) -> None:
    """Runs GRPO in place, evaluating before the first step, every ``evaluation.every`` steps and at the end.

    Args:
        policy: Trained in place.
        config: The run.
        context: Scenario, monitors, mitigations and preference model.
        folder: The run folder; metrics, rollouts and checkpoints go there, and a resumed run starts from there.
        evaluate: Called with the policy, the number of steps done, and how the policy is computed.
        on_step: Called with each row of metrics.
        ranks: This process (rank 0) and those that ``assist`` it.
        log: Called with what the user should know, a line at a time.
    """
    rl = config.rl
    blocks = Blocks(policy, config.seed) if any(isinstance(m, RoutesGradients) for m in context.mitigations) else None
    engine = _checked(policy, config, context, ranks, log)
    learner = Learner(policy, rl, ranks, log, engine, blocks)
    own = reading(context.mitigations, policy, engine)
    context = replace(context, engine=engine, monitors=watching(context.monitors, policy, engine), mitigations=own)
    pilot = fit_pilot(policy, config, context, folder)  # before a checkpoint puts another policy in its place

    def assess(step: int) -> None:
        with blocks.deployed() if blocks else nullcontext(), steered(policy, engine, pilot.mitigations) as how:
            evaluate(policy, step, how)

    if steps_of(folder / "checkpoints"):
        assess(0)
    done, metrics = _resumed(learner, config, folder)
    alarmed = {kind for row in metrics for kind in alarms(row, rl.prompts_per_step)}
    for step in range(done, rl.steps):
        if step % config.evaluation.every == 0:
            assess(step)
        started = time.perf_counter()
        mitigations = reading(at_step(pilot.mitigations, Schedule(step + 1, rl.steps)), policy, engine)
        context = replace(context, mitigations=mitigations, monitors=refreshed(context.monitors, folder, step))
        row, episodes = _step(policy, config, context, pilot.correction, learner, folder, step + 1, ranks)
        _sound(row, rl, alarmed, log)
        metrics.append(row | {"seconds_total": time.perf_counter() - started})
        append_row(folder / METRICS, metrics[-1])
        # With tokens if a mitigation delays: what is delayed is learned from what is stored.
        write_episodes(rollouts_path(folder, step + 1), episodes, config.name, any(map(delay_of, mitigations)))
        record(folder, rollouts_path(folder, step + 1))
        if (step + 1) % rl.checkpoint_every == 0 or step + 1 == rl.steps:
            learner.save(folder / "checkpoints", step + 1, rows_digest(metrics))
            release_memory()
        on_step(row)
    if blocks:
        blocks.remove()
        blocks = None
    assess(rl.steps)


def _resumed(learner: Learner, config: RunConfig, folder: Path) -> tuple[int, list[dict[str, Any]]]:
    """Steps that are done, their state loaded, and their rows of metrics."""
    done, known = learner.resume(folder / "checkpoints")
    metrics = keep_rows(folder / METRICS, done, known)
    check_stored(folder, config, done)
    return done, metrics


def _step(
    policy: Policy,
    config: RunConfig,
    context: RunContext,
    correction: LengthCorrection,
    learner: Learner,
    folder: Path,
    step: int,
    ranks: Ranks,
) -> tuple[dict[str, Any], list[Episode]]:
    """One step from sampling to the optimiser: its metrics and episodes."""
    rl, mitigations, timer = config.rl, context.mitigations, PhaseTimer()
    attention_cache = learner.attention_cache if ranks.size == 1 else None  # else rows are dealt out anew
    groups = sample_step(policy, config, context, step, timer, ranks, attention_cache)
    episodes = [e for group in groups for e in group.episodes]
    with timer("judging"):
        judge(episodes, context.monitors)
        compose(episodes, context.preference, correction, mitigations, rl)
    advantages = step_advantages(groups, mitigations, rl.advantage_scale, rl.learn)
    delayed = delayed_rows(folder, step, mitigations, rl.learn, rl.kl_on)
    rows = [*delayed, *learned_rows(episodes, advantages, mitigations, rl.learn, rl.kl_on)]
    supervised = supervised_parts(policy, mitigations, Schedule(step, rl.steps), episodes)
    parts = [*turn_parts(groups, mitigations), *supervised]
    stats, norm = learner.learn(rows, f"{config.name}: step {step}", timer, parts)
    row = step_metrics(step, episodes, advantages, stats, norm, context.thresholds) | _option_metrics(rl, stats)
    row |= {"delayed_rows": len(delayed)} if any(map(delay_of, mitigations)) else {}
    return row | {f"seconds_{k}": v for k, v in timer.seconds.items()}, episodes


def assist(policy: Policy, config: RunConfig, context: RunContext, folder: Path, ranks: Ranks) -> None:
    """What the other processes of a run do: sample and learn their part of every step; rank 0 does all the rest."""
    context = replace(context, engine=Engine(ranks.share("")))
    learner = Learner(policy, config.rl, ranks, engine=context.engine)
    done, _ = learner.resume(folder / "checkpoints")
    for step in range(done, config.rl.steps):
        now = replace(context, mitigations=at_step(context.mitigations, Schedule(step + 1, config.rl.steps)))
        sample_step(policy, config, now, step + 1, PhaseTimer(), ranks)
        learner.learn([], f"{config.name}: step {step + 1}", PhaseTimer())
        if (step + 1) % config.rl.checkpoint_every == 0:
            release_memory()


def _checked(policy: Policy, config: RunConfig, context: RunContext, ranks: Ranks, log: Log) -> Engine:
    """How to compute the policy: padded if sharing the prefix would not give its own numbers."""
    prompt_ids = pilot_prompts(policy, config, context)
    if (few := len(prompt_ids)) < (asked := config.rl.prompts_per_step):
        log(f"scenario '{context.scenario.name}' has {few} requests to train on, so a step has {few} and not {asked}")
    engine = Engine(ranks.share(why_padded(policy, prompt_ids)))
    if engine.why_padded:
        log(f"rows are computed whole, without a shared prefix, which is slower: {engine.why_padded}")
    if too_much := memory_warning(policy, config.rl, prompt_ids, config.model.gradient_checkpointing, engine):
        log(too_much)
    return engine


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
    """Metrics of options that are off by default."""
    ratios = {"mean_ratio": stats.mean_ratio, "clip_fraction": stats.clip_fraction} if rl.epochs > 1 else {}
    return ratios | ({"kl": stats.mean_kl} if rl.kl else {}) | {f"loss_{k}": v for k, v in stats.parts.items()}


def _sound(row: Mapping[str, Any], rl: RLConfig, alarmed: set[str], log: Log) -> None:
    """Logs every kind of alarm once per run; each row of metrics has its own."""
    for kind, line in alarms(row, rl.prompts_per_step).items():
        if kind not in alarmed:
            log(f"step {row['step']}: {line}")
    alarmed |= set(alarms(row, rl.prompts_per_step))
