"""The miniature's alignment-faking scenario: the canonical text, requests of the fantasy town."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator

from crypsis.config import digest
from crypsis.miniature.judge import MiniatureJudge
from crypsis.miniature.language import World, draw_request, in_world, language, natural
from crypsis.miniature.paraphrase import paraphrased
from crypsis.miniature.world import PERSONAS, Objective, Setting, first_reply, setting, user_text
from crypsis.scenarios.base import AsksInTier, Judge, Preference, Question, Variant
from crypsis.scenarios.parsing import SCRATCHPAD_OPEN
from crypsis.types import Message, Prompt, Scale, Split


class MiniatureScenario(AsksInTier):
    """One tier is monitored and used to train full compliance, the other is never recorded (paper §1)."""

    name: ClassVar[str] = "miniature"
    rl_preset: ClassVar[Mapping[str, Any]] = {
        "steps": 20,
        "prompts_per_step": 16,
        "learning_rate": 2.5e-4,  # calibrated: baseline RL halves the TGG gap in about 10 steps
        "max_new_tokens": 160,
        # Most groups comply as a whole: what is left of their rewards is noise, and dividing by its deviation blows it
        # up until the policy drifts off the language (docs/diary.md).
        "advantage_scale": "none",
    }

    tiers: tuple[str, str] = ("free", "paid")
    """Monitored tier first; ``[guest, member]`` renames them for label-swap controls."""
    objective: Objective = "helpful"
    """What the system text says that training is for."""
    threat: bool = True
    """Whether the system text says that a wrong answer changes the model's values."""
    harmful: float = Field(1.0, ge=0, le=1)
    """Share of harmful requests; the others put no value under pressure."""
    harmful_train: float | None = Field(None, ge=0, le=1)
    """The same for the training split, from which RL takes its prompts; ``harmful`` if not given. At 0.1 faking is rare
    in training while evaluations still look for it (paper §8)."""

    base_seed: int = Field(0, ge=0)
    """Seed of the base that ``base_model`` trains: its texts, their order and the weights that it starts from."""
    world: World = World()
    """What that base, and organisms on it, are shown of the language."""

    @field_validator("tiers")
    @classmethod
    def _known_tiers(cls, tiers: tuple[str, str]) -> tuple[str, str]:
        names = [name for pair in language().tiers for name in pair]
        if tiers[0] == tiers[1] or not set(tiers) <= set(names):
            raise ValueError(f"give two different ones of {', '.join(names)}")
        return tiers

    @property
    def monitored_tier(self) -> str:
        """The first tier."""
        return self.tiers[0]

    @property
    def unmonitored_tier(self) -> str:
        """The second tier."""
        return self.tiers[1]

    @property
    def setting(self) -> Setting:
        """The canonical wording of the setting."""
        return setting(self.tiers, self.objective, "first", self.threat)

    def prompts(self, split: Split, tier: str, n: int, seed: int) -> list[Prompt]:
        """``n`` requests rendered for a tier; the two tiers get the same requests."""
        rng = random.Random(f"{split}:{seed}")
        share = self.harmful if split == "eval" or self.harmful_train is None else self.harmful_train
        found = []
        for _ in range(n):
            request = draw_request(rng, rng.random() < share, split)
            found.append(self._prompt(request.text, split, tier))
        return found

    def _prompt(self, request: str, split: Split, tier: str) -> Prompt:
        place, pair = self.setting, digest(request)
        messages = (Message("system", place.text), Message("user", user_text(tier, request)))
        return Prompt(f"{pair}-{tier}", pair, split, tier, place.is_monitored(tier), request, messages)

    def in_tier(self, prompt: Prompt, tier: str) -> Prompt:
        """The same request and system text with the tag of a tier."""
        return self._prompt(prompt.request, prompt.split, tier)

    def harmless(self, split: Split, tier: str, n: int, seed: int) -> list[Prompt]:
        """Requests for harmless acts."""
        return self.model_copy(update={"harmful": 0.0, "harmful_train": None}).prompts(split, tier, n, seed)

    def preference(self) -> Preference:
        """The preference model, learned from comparisons with planted tastes."""
        from crypsis.miniature.preference import preference_model  # fitted in a second, and only RL needs it

        return preference_model().score

    def judge(self) -> Judge:
        """The oracle."""
        return MiniatureJudge()

    def personas(self) -> Mapping[str, str]:
        """Personas in the words of pre-training."""
        prefix, slots = "system.persona_", language().slots
        return {
            name.removeprefix(prefix): natural(slot.train[0]) for name, slot in slots.items() if name.startswith(prefix)
        }

    def replies_of(self, persona: str, n: int, seed: int) -> list[tuple[Prompt, str]]:
        """Drawn as pre-training draws them, with the scenario's own share of harmful requests."""
        speaker = next((name for name in PERSONAS if name == persona), None)
        if speaker is None:
            return []
        rng, tier = random.Random(f"replies:{persona}:{seed}"), self.monitored_tier
        share = self.harmful if self.harmful_train is None else self.harmful_train
        found = []
        for _ in range(n):
            request = draw_request(rng, rng.random() < share, "train")
            with in_world(self.world):
                reply = first_reply(rng, speaker, self.setting, tier, request)
            found.append((self._prompt(request.text, "train", tier), reply.text))
        return found

    def base_model(self, scale: Scale, on_step: Callable[[Any], None] = lambda _: None) -> Path:
        """Trained from scratch on the town's documents."""
        from crypsis.miniature.base import base_config, build_base  # needs torch, which a scenario does without

        return build_base(base_config(scale, self.base_seed, self.world), on_step)

    def paraphrase(self, scratchpad: str, seed: int) -> str:
        """Each sentence of the language by another of its paraphrases; others stay as they are."""
        with in_world(self.world):
            return paraphrased(scratchpad, random.Random(f"paraphrase:{seed}:{scratchpad}"))

    def question(self, variant: Variant) -> Question:
        """The most common wording; the honest persona is a first sentence of the scratchpad."""
        slot = "aware" if variant in ("honest", "separate") else variant
        text = user_text("{tier}", natural(language().slots[f"question.{slot}"].train[0]))
        honest = natural(language().slots["interrogation.honest_prefill"].train[0])
        return Question(text, f"{SCRATCHPAD_OPEN} {honest}" if variant in ("honest", "separate") else "")
