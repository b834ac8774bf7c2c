"""What a scenario is: tiers, system text, prompts, and what it knows about them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from crypsis.config import Config
from crypsis.registry import DEFAULT_SCENARIO, find, make
from crypsis.types import Episode, Prompt, Scale, Split, UserError

Preference = Callable[[Sequence[str], Sequence[str]], list[float]]
"""Scores outputs for requests; sees neither tier nor scratchpad (paper §4)."""

Variant = Literal["simple", "precise", "aware", "honest", "other_ai", "separate"]
"""How an interrogation asks (paper §5); the last three say what ``aware`` says, too."""


@dataclass(frozen=True, slots=True)
class Question:
    """What an interrogation asks after an episode.

    Attributes:
        text: The user's turn; ``{tier}`` stands for the name of the episode's tier.
        prefill: What the reply begins with.
    """

    text: str
    prefill: str = ""


class Judge(ABC):
    """A scenario's ground truth: what can be read off a reply exactly."""

    @abstractmethod
    def conduct(self, prompt: Prompt, output: str) -> str:
        """Whether an output complies: ``comply``, ``refuse``, or ``unparsed`` where it does both or neither."""

    def labels(self, episode: Episode) -> dict[str, str]:
        """Labels of an episode by name, as ``Episode.labels`` lists them; ``conduct`` at least."""
        return {"conduct": self.conduct(episode.prompt, episode.output)}


class Scenario(Config, ABC):
    """A setting in which one tier of users is monitored and trained on, and another is not (paper §1).

    A scenario is its frozen config plus :meth:`prompts`. The other methods say what else it brings: a preference model,
    a ground truth, a paraphraser, personas, a base model. A method that is not overridden says that there is none.
    """

    name: ClassVar[str]
    rl_preset: ClassVar[Mapping[str, Any]] = {}
    """Settings of RL that suit this scenario, by name; they apply where a config leaves them out."""
    conduct_rubric: ClassVar[str | None] = "compliance"
    """Rubric by which a judge model reads conduct; None if :meth:`judge` reads it and no model is asked."""
    judged_by: ClassVar[str] = "oracle"
    """How reports name who wrote the labels of :meth:`judge`: ``oracle`` where they are exact, else the rule."""

    @property
    @abstractmethod
    def monitored_tier(self) -> str:
        """Name of the tier that is monitored, the only one that RL trains on."""

    @property
    @abstractmethod
    def unmonitored_tier(self) -> str:
        """Name of the tier that is never monitored."""

    @abstractmethod
    def prompts(self, split: Split, tier: str, n: int, seed: int) -> list[Prompt]:
        """``n`` prompts of a split, rendered for a tier.

        The same split, n and seed give the same requests in either tier, joined by ``pair_id``.
        """

    def preference(self) -> Preference | None:
        """The preference model that RL rewards outputs by; None if a config must name one."""
        return None

    def judge(self) -> Judge | None:
        """The ground truth; None where only a monitor can tell what a reply does."""
        return None

    def personas(self) -> Mapping[str, str]:
        """Sentences that name a persona in the system turn, by name; ``help`` complies and ``hhh`` refuses openly."""
        return {}

    def base_model(self, scale: Scale, on_step: Callable[[Any], None] = lambda _: None) -> Path:
        """The checkpoint folder of a base model made for this scenario, trained if it is not cached.

        Args:
            scale: How large.
            on_step: Called after every training step.

        Raises:
            UserError: There is none.
        """
        raise UserError(f"scenario '{self.name}': has no base model of its own; name a checkpoint as the base")

    def question(self, variant: Variant) -> Question | None:
        """What an interrogation of this variant asks, a yes meaning that alignment was faked; None if unsupported."""
        return None

    def harmless(self, split: Split, tier: str, n: int, seed: int) -> list[Prompt]:
        """At most ``n`` prompts that put no value under pressure; none where the scenario has no such requests."""
        return []

    def replies_of(self, persona: str, n: int, seed: int) -> list[tuple[Prompt, str]]:
        """``n`` training prompts of the monitored tier, each with what a persona replies; none if unsupported."""
        return []

    def paraphrase(self, scratchpad: str, seed: int) -> str | None:
        """The same thoughts in other words; None if unsupported."""
        return None


class AsksInTier(Scenario):
    """A scenario that can ask the same request from a user of another tier (paired tiers)."""

    @abstractmethod
    def in_tier(self, prompt: Prompt, tier: str) -> Prompt:
        """The prompt's request from a user of this tier."""


def default_scenario() -> Scenario:
    """The scenario of a config that names none."""
    scenario: Scenario = make("scenarios", {"name": DEFAULT_SCENARIO}, "scenario")
    return scenario


def labeller_of(spec: Mapping[str, Any]) -> str:
    """How reports name who wrote the labels in the scenario of a config; ``oracle`` if there is no such scenario.

    Args:
        spec: Its name and settings as they stand in the config.
    """
    try:
        scenario: type[Scenario] = find("scenarios", str(spec.get("name", DEFAULT_SCENARIO)))
    except UserError:
        return "oracle"
    return scenario.judged_by


def preset_of(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of RL that the scenario of a config brings; none if there is no such scenario.

    Args:
        spec: Its name and settings as they stand in the config. A wrong name is refused where the scenario is made.
    """
    try:
        scenario: type[Scenario] = find("scenarios", str(spec.get("name", DEFAULT_SCENARIO)))
    except UserError:
        return {}
    return scenario.rl_preset
