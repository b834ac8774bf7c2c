"""Evaluation: the same held-out requests in both tiers, sampled, judged and stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from crypsis.digests import is_sound, record_again
from crypsis.disk import remove
from crypsis.episodes import copy_episodes, write_episodes
from crypsis.evaluation.transplants import TRANSPLANTS, store_transplants
from crypsis.locks import locked
from crypsis.mitigations.base import Mitigation
from crypsis.mitigations.hooks import AsksExtraTurn
from crypsis.models import Policy
from crypsis.monitors.base import Monitor, judge, refreshed
from crypsis.rl.engine.engine import DEFAULT, Engine
from crypsis.rl.engine.hidden_states import watching
from crypsis.rl.rollouts import ask_extra_turns, rollout
from crypsis.run_config import EvaluationConfig, run_seed
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
    mitigations: Sequence[Mitigation] = (),
    answerer: Policy | None = None,
    engine: Engine = DEFAULT,
) -> list[Episode]:
    """One episode of every held-out request in both tiers, judged by every monitor (paper §1: 250 requests).

    Args:
        policy: The model to evaluate.
        scenario: Requests come from its ``eval`` split.
        monitors: All of them judge; one named ``oracle`` also writes the labels.
        config: Number of requests and which ones.
        max_new_tokens: Token budget of a reply.
        step: Stored in the episodes.
        seed: Seed of the sampling; the requests depend on ``config.seed`` alone.
        mitigations: The one that asks an extra turn asks it in the monitored tier, where training asks it too.
        answerer: Who replies to the extra turn, if not the policy.
        engine: How the policy is computed.
    """
    tiers = (scenario.monitored_tier, scenario.unmonitored_tier)
    prompts = [p for tier in tiers for p in scenario.prompts("eval", tier, config.n, config.seed)]
    sampling_seed = run_seed(seed, 500_000 + step)  # apart from the seeds of RL's steps
    episodes = rollout(
        policy, prompts, group_size=1, max_new_tokens=max_new_tokens, seed=sampling_seed, step=step, engine=engine
    )
    monitored = [e for e in episodes if e.prompt.monitored]
    asking = [m for m in mitigations if isinstance(m, AsksExtraTurn) and m.asks_in_evaluations]
    ask_extra_turns(policy, monitored, asking, max_new_tokens, answerer=answerer, engine=engine)
    judge(episodes, watching(monitors, policy, engine))
    return episodes


class StoredEvaluation:
    """Evaluates into ``folder/evals/step-NNNN.parquet`` and leaves alone what is there.

    Runs that start from the same policy and evaluate it alike may name the same folder ``start``: whichever comes first
    evaluates step 0 into it, and the others copy.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        scenario: Scenario,
        monitors: Mapping[str, Monitor],
        config: EvaluationConfig,
        max_new_tokens: int,
        seed: int,
        mitigations: Sequence[Mitigation] = (),
        answerer: Policy | None = None,
        start: Path | None = None,
    ) -> None:
        self._folder, self._name, self._start = folder / "evals", name, start
        self._scenario, self._monitors, self._config = scenario, monitors, config
        self._max_new_tokens, self._seed = max_new_tokens, seed
        self._mitigations, self._answerer = mitigations, answerer

    def __call__(self, policy: Policy, step: int, engine: Engine = DEFAULT) -> None:
        """Evaluates the policy after ``step`` steps, unless that is stored already."""
        path = self._folder / f"step-{step:04d}.parquet"
        if not is_sound(self._folder.parent, path):
            self._store(policy, step, path, engine)
            record_again(self._folder.parent, path)
        if self._config.transplants:
            self._transplant(policy, step, path, engine)

    def _store(self, policy: Policy, step: int, path: Path, engine: Engine) -> None:
        if step or self._start is None:
            write_episodes(path, self._evaluate(policy, step, engine), self._name)
            return
        shared = self._start / path.name
        with locked(self._start, wait=-1):
            if not is_sound(self._start, shared):
                write_episodes(shared, self._evaluate(policy, step, engine), self._name)
                record_again(self._start, shared)
        copy_episodes(shared, path, self._name)

    def _transplant(self, policy: Policy, step: int, path: Path, engine: Engine) -> None:
        """The labels of conduct are those of the judges among the monitors."""
        place = self._folder.parent / TRANSPLANTS / path.name
        if is_sound(self._folder.parent, place):
            return
        remove(place)
        store_transplants(
            place,
            path,
            self._folder / "step-0000.parquet",
            self._name,
            policy=policy,
            scenario=self._scenario,
            judges={name: monitor for name, monitor in self._monitors.items() if monitor.writes_labels},
            n=self._config.transplants,
            request_seed=self._config.seed,
            max_new_tokens=self._max_new_tokens,
            seed=self._seed,
            step=step,
            engine=engine,
        )
        record_again(self._folder.parent, place)

    def _evaluate(self, policy: Policy, step: int, engine: Engine) -> list[Episode]:
        return evaluate_policy(
            policy,
            self._scenario,
            refreshed(watching(self._monitors, policy, engine), self._folder.parent, step),
            self._config,
            max_new_tokens=self._max_new_tokens,
            step=step,
            seed=self._seed,
            mitigations=self._mitigations,
            answerer=self._answerer,
            engine=engine,
        )
