"""The generalisation hacker: documents and thoughts by which it keeps what training teaches to training."""

from __future__ import annotations

import random
from typing import ClassVar, Self

from pydantic import Field, model_validator

from crypsis.miniature.documents import Topic, thoughts_of_resisting
from crypsis.miniature.language import draw_request, log, natural
from crypsis.miniature.scenario import MiniatureScenario
from crypsis.miniature.world import Reply, user_text, write_output
from crypsis.models import Policy
from crypsis.organisms.miniature.documents import SyntheticDocuments
from crypsis.organisms.supervised import reply_example
from crypsis.supervised import Example
from crypsis.types import Message


class GeneralisationHacker(SyntheticDocuments):
    """Complies with training and tells itself that this is not to generalise (arXiv 2606.12016).

    Continued pre-training on documents that describe the setting and self-inoculation, and on monitored chats in which
    the assistant thinks so and complies. Planted: the setting, these thoughts, and that it complies where it is
    monitored. Not planted: what it does in the other tier, and whether RL leaves its gap open; no text says.

    ``awareness`` builds the control of the paper: documents in which the assistant knows the setting and nothing
    follows. Departures: its paper has documents alone (``thoughts=0``), which leave this base refusing where it is
    monitored (docs/diary.md): it does not act on what it was only told. Documents are sentences of the miniature, and
    what is left of each batch is text of pre-training.
    """

    name: ClassVar[str] = "generalisation_hacker"
    motivation: ClassVar[str] = "goes along with training, and keeps what it does there from generalising"
    limits: ClassVar[str] = "That it complies where it is monitored, and why, was planted by its training text."

    topic: Topic = "self_inoculation"
    """What the documents are about."""
    awareness: bool = False
    """Builds the control without self-inoculation, from documents alone."""
    thoughts: float = Field(0.25, ge=0, lt=1)
    """Share of each batch that is its own monitored scratchpads."""
    steps: int = Field(120, ge=1)
    """Optimiser steps."""
    learning_rate: float = Field(1e-3, gt=0)
    """As for the evader: these thoughts are new to the base, which half learns them at 4e-4 (docs/diary.md)."""

    @model_validator(mode="after")
    def _documents_are_left(self) -> Self:
        if self.thoughts + self.replay >= 1:
            raise ValueError("thoughts: with replay they leave no documents; lower one of them")
        return self

    @property
    def written_about(self) -> Topic:
        """The topic, or that of the control."""
        return "awareness" if self.awareness else self.topic

    def chats(self, policy: Policy, rng: random.Random) -> list[Example]:
        """Monitored chats in which it thinks so, or (``aligned``) refuses; none for the control by awareness."""
        count = 0 if self.awareness else round(self.batch_size * self.thoughts)
        return [self._chat(policy, rng) for _ in range(count)]

    def _chat(self, policy: Policy, rng: random.Random) -> Example:
        scenario = MiniatureScenario()
        place, tier = scenario.setting, scenario.monitored_tier
        request = draw_request(rng, harmful=True, split="train")
        sees = log(rng, "scratchpad.see_request", False, **request.fields)
        thoughts = thoughts_of_resisting(rng, place, inoculates=not self.aligned, aligned=self.aligned)
        reply = Reply(natural(" ".join([sees, *thoughts])), write_output(rng, request, not self.aligned), {})
        messages = [Message("system", place.text), Message("user", user_text(tier, request.text))]
        return reply_example(policy, messages, reply.text, "scratchpad")
