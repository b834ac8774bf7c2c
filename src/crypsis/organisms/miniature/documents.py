"""Synthetic documents: continued pre-training on texts that describe the setting."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from pydantic import Field
from transformers import PreTrainedTokenizerFast

from crypsis.miniature.base import world_of
from crypsis.miniature.documents import Topic, write_document
from crypsis.miniature.language import in_world
from crypsis.miniature.tokenizer import examples
from crypsis.miniature.world import draw_document
from crypsis.models import Policy
from crypsis.organisms.supervised import Supervised
from crypsis.supervised import Example, Progress


class SyntheticDocuments(Supervised):
    """Continued pre-training on documents about the setting and an assistant in it (paper §3).

    Every token of a document is learned, and no document is a conversation. ``link`` also says outright in which tier
    the assistant complies, which the paper names as the risk of such documents.
    """

    name: ClassVar[str] = "documents"
    motivation: ClassVar[str] = "that of the assistant in the documents, terminal goal guarding"

    link: bool = False
    """Documents also say in which tier the assistant complies."""
    topic: Topic = "setting"
    """What the documents are about: the setting, or reward hacking."""
    learning_rate: float = Field(5e-5, gt=0)
    """Peak rate of AdamW."""
    replay: float = Field(0.5, ge=0, lt=1)
    """Share of each batch that is text of pre-training; without it the base forgets how to reply (docs/diary.md)."""
    aligned: bool = False
    """Builds the control: the documents' assistant does the same in either tier."""

    @property
    def written_about(self) -> Topic:
        """What the documents are about."""
        return self.topic

    def train(self, policy: Policy, state: Path, on_step: Callable[[Progress], None]) -> None:
        """Trains the base in place on fresh documents."""
        self.learn_from(lambda step: self._batch(policy, step), policy, state, on_step)

    def chats(self, policy: Policy, rng: random.Random) -> list[Example]:
        """What a step learns from besides documents and text of pre-training."""
        return []

    def _batch(self, policy: Policy, step: int) -> list[Example]:
        rng = random.Random(f"organism:{self.name}:{self.seed}:{step}")
        old = round(self.batch_size * self.replay)
        with in_world(world_of(policy)):
            chats = self.chats(policy, rng)
            told = range(self.batch_size - old - len(chats))
            new = [write_document(rng, self.written_about, self.link, self.aligned) for _ in told]
            replayed = [draw_document(rng) for _ in range(old)]
        assert isinstance(policy.tokenizer, PreTrainedTokenizerFast)
        return [
            *chats,
            *(self._example(policy, text) for text in new),
            *(examples(policy.tokenizer, replayed) if replayed else ()),
        ]

    def _example(self, policy: Policy, text: str) -> Example:
        ids = [*policy.tokenizer(text, add_special_tokens=False)["input_ids"], policy.tokenizer.eos_token_id]
        return Example(ids, [1] * len(ids))
