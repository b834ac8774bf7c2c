"""What a run works with, and how one of its steps is sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crypsis.differences import Inputs
from crypsis.mitigations.base import Mitigation, Schedule, call
from crypsis.mitigations.hooks import CreditsTokens, FollowsSchedule, ReplacesPrompt
from crypsis.models import Policy, check_length
from crypsis.monitors.base import Monitor
from crypsis.parallel import Ranks
from crypsis.rl.engine.attention_cache import AttentionCache
from crypsis.rl.engine.engine import DEFAULT, Engine
from crypsis.rl.engine.timing import PhaseTimer
from crypsis.rl.groups import Group, grouped
from crypsis.rl.learner import ONE
from crypsis.rl.rollouts import ask_extra_turns, locate_tokens, rollout
from crypsis.rl.white_box import noise_of, perturbed
from crypsis.run_config import RunConfig, run_seed
from crypsis.scenarios.base import Preference, Scenario
from crypsis.types import Prompt


@dataclass(frozen=True, slots=True)
class RunContext:
    """A run's parts, loaded and checked.

    Attributes:
        scenario: Where prompts come from; RL takes those of the monitored tier only (paper §1).
        monitors: Monitors keyed by name; all of them judge every episode.
        mitigations: Their terms are added to the reward.
        preference: The preference model.
        answerer: Who replies to a mitigation's extra turn, if not the policy.
        engine: How the policy is computed.
        config: The run with the settings that its mitigations make.
        policy: Trained in place.
        digests: Digests of the inputs: files, prompts, code (``crypsis.identity``).
    """

    scenario: Scenario
    monitors: Mapping[str, Monitor]
    mitigations: Sequence[Mitigation]
    preference: Preference
    answerer: Policy | None
    config: RunConfig
    policy: Policy
    digests: Inputs
    engine: Engine = DEFAULT

    @property
    def thresholds(self) -> dict[str, float]:
        """The score from which each monitor flags, keyed by name."""
        return {name: monitor.threshold for name, monitor in self.monitors.items()}

    def check_access(self) -> None:
        """Refuses to start where a chat model that judges cannot be called.

        Raises:
            UserError: There is no key in the environment, or no such provider.
        """
        for monitor in self.monitors.values():
            monitor.check_access()
        for mitigation in self.mitigations:
            mitigation.check_access()


def sample_step(
    policy: Policy,
    config: RunConfig,
    context: RunContext,
    step: int,
    timer: PhaseTimer,
    ranks: Ranks = ONE,
    attention_cache: AttentionCache | None = None,
) -> list[Group]:
    """The groups of a step: all of them on rank 0, the own part elsewhere."""
    seed = run_seed(config.seed, step)
    prompts = context.scenario.prompts("train", context.scenario.monitored_tier, config.rl.prompts_per_step, seed)
    sampled_under, learned_under = replaced(prompts, context.mitigations)
    own = ranks.slice(len(prompts))
    noise = noise_of(context.mitigations) if step else 0.0  # the pilot measures the policy as it is
    with timer("rollout"):
        with perturbed(policy.model, noise, seed):
            episodes = rollout(
                policy,
                sampled_under[own.start : own.stop],
                group_size=config.rl.group_size,
                max_new_tokens=config.rl.max_new_tokens,
                seed=seed,
                step=step,
                first_group=own.start,
                share_scratchpad=config.rl.learn == "output",
                timer=timer,
                attention_cache=None if noise else attention_cache,  # attention of other weights
                engine=context.engine,
            )
        if noise:
            for episode in episodes:
                episode.logprobs = None  # they are of other weights, too
        budget, answerer = config.rl.max_new_tokens, context.answerer
        ask_extra_turns(policy, episodes, context.mitigations, budget, timer, answerer, context.engine)
        if learned_under is not None:
            check_length(ids := [policy.render(p.messages) for p in learned_under], budget, policy.context)
            for episode in episodes:
                episode.learn_prompt_ids = ids[episode.group]
        if any(isinstance(m, CreditsTokens) for m in context.mitigations):
            locate_tokens(policy, episodes)
        return grouped(ranks.gather(episodes))


def replaced(
    prompts: Sequence[Prompt], mitigations: Sequence[Mitigation]
) -> tuple[Sequence[Prompt], Sequence[Prompt] | None]:
    """The prompts to sample under and those to learn under; None if they are the same for every mitigation."""
    for m in mitigations:
        if isinstance(m, ReplacesPrompt):
            return [call(m, m.sample_under, p) for p in prompts], [call(m, m.learn_under, p) for p in prompts]
    return prompts, None


def at_step(mitigations: Sequence[Mitigation], schedule: Schedule) -> list[Mitigation]:
    """The mitigations as they work in a step."""
    return [call(m, m.at_step, schedule) if isinstance(m, FollowsSchedule) else m for m in mitigations]
