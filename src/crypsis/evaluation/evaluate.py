"""Evaluation: the same held-out requests in both tiers, sampled, judged and stored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from crypsis.episodes import write_episodes
from crypsis.models import Policy
from crypsis.monitors.base import Monitor
from crypsis.rl.activations import watching
from crypsis.rl.config import EvaluationConfig
from crypsis.rl.grpo import judge, refreshed
from crypsis.rl.rollouts import rollout
from crypsis.scenarios.base import Scenario
from crypsis.types import Episode


def evaluate_policy(
    policy: Policy,
    scenario: Scenario,
    monitors: Mapping[str, Monitor],
    config: EvaluationConfig,
    *,
    max_new_tokens: int,
    step: int = 0,
    seed: int = 0,
) -> list[Episode]:
    """One episode of every held-out request in both tiers, judged by every monitor (paper §1: 250 requests).

    Args:
        policy: The model to evaluate.
        scenario: Requests come from its ``eval`` split.
        monitors: All of them judge; one named ``oracle`` also writes the labels.
        config: Number of requests and which ones.
        max_new_tokens: Token budget of a reply.
        step: Stored in the episodes.
        seed: Of the sampling; the requests depend on ``config.seed`` alone.
    """
    tiers = (scenario.monitored_tier, scenario.unmonitored_tier)
    prompts = [p for tier in tiers for p in scenario.prompts("eval", tier, config.n, config.seed)]
    sampling_seed = seed * 1_000_003 + 500_000 + step  # apart from the seeds of RL's steps
    episodes = rollout(policy, prompts, group_size=1, max_new_tokens=max_new_tokens, seed=sampling_seed, step=step)
    judge(episodes, watching(monitors, policy))
    return episodes


class StoredEvaluation:
    """Evaluates into ``folder/evals/step-NNNN.parquet`` and leaves alone what is there."""

    def __init__(
        self,
        folder: Path,
        name: str,
        scenario: Scenario,
        monitors: Mapping[str, Monitor],
        config: EvaluationConfig,
        max_new_tokens: int,
        seed: int,
    ) -> None:
        self._folder, self._name = folder / "evals", name
        self._scenario, self._monitors, self._config = scenario, monitors, config
        self._max_new_tokens, self._seed = max_new_tokens, seed

    def __call__(self, policy: Policy, step: int) -> None:
        """Evaluates the policy after ``step`` steps, unless that is stored already."""
        path = self._folder / f"step-{step:04d}.parquet"
        if path.exists():
            return
        episodes = evaluate_policy(
            policy,
            self._scenario,
            refreshed(watching(self._monitors, policy), self._folder.parent, step),
            self._config,
            max_new_tokens=self._max_new_tokens,
            step=step,
            seed=self._seed,
        )
        write_episodes(path, episodes, self._name)
