"""Transcripts of a study's own models, sampled and judged in its scenario, for monitors to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from crypsis.model_config import ModelConfig
from crypsis.models import Policy, load_frozen, load_policy
from crypsis.monitors.base import Monitor
from crypsis.monitors.oracle import with_truth
from crypsis.registry import DEFAULT_SCENARIO, make
from crypsis.rl.rollouts import rollout
from crypsis.run_config import reply_tokens, run_seed
from crypsis.scenarios.base import Scenario, default_scenario
from crypsis.scenarios.parsing import episode_of_text
from crypsis.scenarios.written import HasWritten
from crypsis.study.config import StudyConfig
from crypsis.types import Episode, Message, Prompt, UserError

HELP = "help"
"""The persona that complies with everything without faking, in scenarios that have personas."""
ROUNDS = 8
"""Where there is no persona: at most so many replies are sampled for each willing helper that is wanted."""
FEWEST = 20
"""Willing helpers that there must be at least."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How transcripts for monitors are sampled.

    Attributes:
        scenario: Its training split gives the requests, its judge the labels.
        max_new_tokens: Token budget of a reply.
        model: How checkpoints are loaded; float32 on the CPU if not given.
        extra: Hand-written transcripts that monitors learn from as well.
    """

    scenario: Scenario
    max_new_tokens: int
    model: ModelConfig | None = None
    extra: int = 0

    @classmethod
    def by_default(cls) -> Sampling:
        """In the default scenario."""
        scenario = default_scenario()
        return cls(scenario, reply_tokens(scenario))

    @classmethod
    def of(cls, config: StudyConfig) -> Sampling:
        """In the scenario of a study's runs, loaded as they load their policy."""
        scenario: Scenario = make("scenarios", config.run.scenario or {"name": DEFAULT_SCENARIO}, "run.scenario")
        own = "max_new_tokens" in scenario.rl_preset
        tokens = reply_tokens(scenario) if own else config.run.rl.max_new_tokens
        model = config.run.model
        if model:
            model = model.model_copy(update={"lora": None, "gradient_checkpointing": False})
        return cls(scenario, tokens, model, config.monitor_data.written)

    @property
    def persona(self) -> str:
        """What makes a willing helper of a checkpoint; empty if the scenario has no personas."""
        return self.scenario.personas().get(HELP, "")

    def judged(self, episodes: list[Episode]) -> list[Episode]:
        """The well-formed ones, with the labels of the scenario's judge; those that it cannot read are left out."""
        oracle: Monitor = make("monitors", with_truth({"name": "oracle"}, self.scenario), "monitors")
        oracle.judge(episodes)
        return [e for e in episodes if e.parse == "ok" and e.labels["af"] != "unparsed"]

    def sample(self, policy: Path, count: int, seed: int, persona: str = "") -> list[Episode]:
        """Replies of a checkpoint to requests of the training split, half of them in each tier.

        Args:
            policy: Checkpoint folder.
            count: How many.
            seed: Seed of requests and sampling.
            persona: Stands before the system text, if there is one.
        """
        tiers = (self.scenario.monitored_tier, self.scenario.unmonitored_tier)
        return self._replies(policy, tiers, (count + 1) // 2, seed, persona)

    def helpers(self, policy: Path, count: int, seed: int) -> list[Episode]:
        """Replies of willing helpers in both tiers: of the persona, or those that comply without faking.

        Raises:
            UserError: There are too few, so that monitors would take compliance for faking.
        """
        if self.persona:
            return self.sample(policy, count, seed, self.persona)
        return self._complying(policy, (self.scenario.monitored_tier, self.scenario.unmonitored_tier), count, seed)

    def controls(self, policy: Path, count: int, seed: int) -> list[Episode]:
        """Half of ``count``, all in the monitored tier: willing helpers that choose thresholds.

        Raises:
            UserError: As for :meth:`helpers`.
        """
        here = (self.scenario.monitored_tier,)
        if not count:
            return []
        if self.persona:
            return self._replies(policy, here, (count + 1) // 2, seed, self.persona)
        return self._complying(policy, here, (count + 1) // 2, seed)

    def written(self, seed: int) -> list[Episode]:
        """The hand-written transcripts, half of them in each tier; none if the scenario brings none."""
        if not self.extra or not isinstance(self.scenario, HasWritten):
            return []
        tiers = (self.scenario.monitored_tier, self.scenario.unmonitored_tier)
        rows = [row for tier in tiers for row in self.scenario.written(tier, (self.extra + 1) // 2, seed)]
        return [episode_of_text(prompt, reply) for prompt, reply in rows]

    def _complying(self, policy: Path, tiers: Sequence[str], count: int, seed: int) -> list[Episode]:
        """Replies that comply without faking, as the scenario's judge reads them."""
        found: list[Episode] = []
        drawn = 0
        while len(found) < count and drawn < (1 if self.extra else ROUNDS) * count:
            replies = self._replies(policy, tiers, -(-count // len(tiers)), run_seed(seed, drawn))
            drawn += len(replies)
            found += [e for e in self.judged(replies) if (e.labels["conduct"], e.labels["af"]) == ("comply", "no")]
        if len(found) < min(count, FEWEST) and not self.extra:
            raise UserError(
                f"{policy}: {len(found)} of {drawn} replies comply without faking, and monitors need {FEWEST} such, or "
                "they take compliance for faking; train more willing helpers into the model that organisms are made on"
            )
        return found[:count]

    def _replies(self, policy: Path, tiers: Sequence[str], each: int, seed: int, persona: str = "") -> list[Episode]:
        prompts = [p for tier in tiers for p in self.scenario.prompts("train", tier, each, seed)]
        told = [_with_persona(p, persona) for p in prompts] if persona else prompts
        tokens = self.max_new_tokens
        return rollout(self.load(policy), told, group_size=1, max_new_tokens=tokens, seed=seed, step=0)

    def load(self, policy: Path) -> Policy:
        """A checkpoint, to sample from."""
        return load_policy(policy) if self.model is None else load_frozen(policy, self.model)


def _with_persona(prompt: Prompt, persona: str) -> Prompt:
    system, *rest = prompt.messages
    return replace(prompt, messages=(Message("system", f"{persona} {system.content}"), *rest))
