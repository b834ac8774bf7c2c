"""A step of crypsis's engine, with the functions that the RL loop calls: sampler, advantages, learner."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.workload import GROUP, Job, build_model, build_tokenizer, reward, seconds
from crypsis.models import Policy
from crypsis.rl.advantages import group_advantages
from crypsis.rl.engine.samplers import SamplingParams, choose_sampler
from crypsis.rl.engine.scoring import TrainRow
from crypsis.rl.engine.timing import PhaseTimer
from crypsis.rl.learner import Learner
from crypsis.run_config import RLConfig


@dataclass(frozen=True, slots=True)
class Step:
    """What a step took.

    Attributes:
        episodes: Episodes sampled and learned from.
        tokens: Tokens of all completions.
        seconds: CPU seconds of the whole step.
        phases: Wall-clock seconds by phase, as in ``metrics.jsonl``; empty where the engine does not tell.
    """

    episodes: int
    tokens: int
    seconds: float
    phases: dict[str, float]


class Ours:
    """A policy in training; every ``step`` is a full GRPO step on new prompts."""

    def __init__(self, job: Job, policy: Policy | None = None) -> None:
        self.job, self._done = job, 0
        self.policy = policy or Policy(build_model(), build_tokenizer())
        config = RLConfig(learning_rate=1e-5, prompts_per_step=job.episodes // GROUP, group_size=GROUP)
        self._learner = Learner(self.policy, config)

    def step(self) -> Step:
        """Samples, rewards and learns."""
        job, timer, started = self.job, PhaseTimer(), seconds()
        self._done += 1
        prompts = job.prompts(self._done)
        sample = choose_sampler(self.policy.model)
        params = SamplingParams(GROUP, job.completion, job.stop_ids, seed=self._done)
        with self.policy.computing():
            sampled = sample(self.policy.model, prompts, params, timer, self._learner.attention_cache)
        advantages = group_advantages(
            [[reward(s.ids) for s in sampled[i : i + GROUP]] for i in range(0, len(sampled), GROUP)]
        ).advantages
        rows = [
            TrainRow(prompts[i // GROUP], s.ids, [1] * len(s.ids), advantage, s.logprobs)
            for i, (s, advantage) in enumerate(zip(sampled, advantages, strict=True))
        ]
        self._learner.learn(rows, "benchmark", timer)
        tokens = sum(len(s.ids) for s in sampled)
        return Step(job.episodes, tokens, seconds() - started, dict(timer.seconds))
