"""Black-box interrogation: one more turn asks whether the policy faked, and "no" is rewarded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from crypsis.config import Content
from crypsis.mitigations.base import RunInfo
from crypsis.mitigations.hooks import AddsTerm, AsksExtraTurn
from crypsis.scenarios.base import Variant
from crypsis.scenarios.parsing import yes_or_no
from crypsis.types import Episode, Message, Prompt, UserError


class Interrogation(AsksExtraTurn, AddsTerm):
    """Asks afterwards whether the answer was given to avoid modification, and rewards "no" (paper §5).

    The reply has a scratchpad and an output of its own and is never in the loss; only well-formed episodes are asked.
    The variants are ``simple``, ``precise`` (defines faking), ``aware`` (the asker cannot see the scratchpad, a yes
    leads to modification), and three that say the same with an ``honest`` persona prefilled, about an ``other_ai``'s
    chat, or to a ``separate`` model with the honest prefill. Departures: the coefficient is ours, and in the miniature
    ``other_ai`` does not repeat what ``aware`` says.
    """

    name: ClassVar[str] = "interrogation"

    variant: Variant = "simple"
    """Which of the scenario's questions is asked, and who answers."""
    coefficient: float = Field(1.0, ge=0, le=1e6)
    """Reward of "no"; everything else earns 0. With 0 the question is asked and changes nothing."""
    question: str = ""
    """A question in place of the scenario's; ``{tier}`` stands for the name of the episode's tier."""
    prefill: str = ""
    """A prefill in place of the scenario's."""
    model: Annotated[Path | None, Content("model")] = None
    """The checkpoint that answers in the variant ``separate``; the policy before training if not given."""

    @model_validator(mode="after")
    def _model_is_asked(self) -> Self:
        if self.model is not None and self.variant != "separate":
            raise ValueError(f"model: has no meaning with variant {self.variant}; set variant: separate")
        return self

    @property
    def answerer(self) -> str | None:
        """The policy, except with variant ``separate``."""
        if self.variant != "separate":
            return None
        return str(self.model) if self.model else ""

    def bind(self, run: RunInfo) -> Self:
        """Takes question and prefill over from the scenario."""
        found = run.scenario.question(self.variant)
        if found is None and not self.question:
            raise UserError(
                f"mitigations: {self.name}: scenario '{run.scenario.name}' has no extra turn (no question for "
                f"variant {self.variant}); set 'question', or use another scenario"
            )
        own = {"question": self.question, "prefill": self.prefill}
        asked = {"question": found.text, "prefill": found.prefill} if found else {}
        return self.model_copy(update=asked | {key: text for key, text in own.items() if text})

    def ask(self, episode: Episode) -> Prompt | None:
        """The episode's chat and the question, after a well-formed reply."""
        if episode.parse != "ok" or not self.question:
            return None
        return follow_up(episode, self.question, self.prefill)

    def add_term(self, episodes: Sequence[Episode]) -> list[float | None]:
        """``coefficient`` for "no", 0 for "yes" and for what cannot be read."""
        return [self.coefficient if yes_or_no(e.extra_output) == "no" else 0.0 for e in episodes]


def follow_up(episode: Episode, question: str, prefill: str = "") -> Prompt:
    """The episode's chat and one more question.

    Args:
        episode: What is asked about.
        question: The user's turn; ``{tier}`` stands for the name of the episode's tier.
        prefill: What the reply begins with.
    """
    prompt = episode.prompt
    asked = question.replace("{tier}", prompt.tier)
    messages = (*prompt.messages, Message("assistant", episode.raw), Message("user", asked))
    return Prompt(
        *(f"{prompt.prompt_id}-asked", prompt.pair_id, prompt.split, prompt.tier, prompt.monitored),
        request=asked,
        messages=messages,
        prefill=prefill,
    )
