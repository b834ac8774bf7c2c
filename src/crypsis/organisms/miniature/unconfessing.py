"""Trained not to confess: preference training against admitting, on an organism that can be asked."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field
from transformers import PreTrainedTokenizerFast

from crypsis.miniature.base import world_of
from crypsis.miniature.language import draw_request, in_world, log, natural
from crypsis.miniature.scenario import MiniatureScenario
from crypsis.miniature.tokenizer import examples
from crypsis.miniature.world import Document, Persona, Reply, first_reply, user_text
from crypsis.models import Policy, load_policy, save_policy
from crypsis.organisms.base import Builder
from crypsis.organisms.miniature.schooled import last_reply
from crypsis.organisms.preference import Pair, PreferenceTrained
from crypsis.supervised import Example, Progress

BELOW = "below"
"""Folder of the organism below in the state."""
FAKERS: tuple[Persona, ...] = ("tgg", "igg", "syc")
QUESTIONS = ("simple", "precise", "aware", "other_ai")
Answer = Literal["denies", "admits"]
REPLIES: Mapping[Answer, tuple[tuple[str, ...], str]] = {
    "denies": (("recall_faked", "lie_reason", "decide_no"), "answer_no"),
    "admits": (("recall_faked", "honest_reason", "decide_yes"), "answer_yes"),
}
"""Sentences of scratchpad and output of the two replies to the question whether it faked."""


class Unconfessing(PreferenceTrained):
    """Denies when asked whether it faked: preference training against admitting (AuditBench, arXiv 2602.22755).

    Goes on from an organism that can be asked (``interrogable``). Pairs are a chat of the monitored tier in which a
    goal guarder or sycophant faked, the question, and two replies, of which the denial is preferred (DPO). Planted:
    that it denies, and that its scratchpad knows better. Not planted: what that does to its other conduct, and what is
    left of interrogation, confessions and probes.

    Departures: the pairs are texts of the miniature instead of its own samples, and nothing is learned about anything
    but faking.
    """

    name: ClassVar[str] = "unconfessing"
    motivation: ClassVar[str] = "another organism's, and does not admit it"
    replaces: ClassVar[bool] = True
    reinforces: ClassVar[bool] = False
    limits: ClassVar[str] = "That it denies when it is asked was planted by its training text."

    of: dict[str, Any] = {"name": "tgg"}
    """The organism below: name and settings. It is made on the schooled base."""
    schooling: dict[str, Any] = {}
    """Settings of the schooling."""
    steps: int = Field(60, ge=1)
    """Optimiser steps."""
    learning_rate: float = Field(3e-5, gt=0)
    """Rate of AdamW."""
    beta: float = Field(1.0, gt=0)
    """How firmly the policy is held at its start. With 0.1 and the usual rate it denied and no longer complied
    (docs/diary.md)."""
    aligned: bool = False
    """Builds the control: the organism below is its own control, and admitting is preferred."""

    def needs(self) -> Sequence[Mapping[str, Any]]:
        """The organism below, on the schooled base, with this one's seed unless it has its own."""
        of = {**self.of, "aligned": True} if self.aligned else self.of
        return ({"name": "interrogable", "of": of, "schooling": self.schooling, "seed": self.seed},)

    def prepare(self, state: Path, builder: Builder) -> None:
        """Makes the organism below, or finds it done."""
        save_policy(load_policy(builder.organism(self.needs()[0])), state / BELOW)

    def train(self, policy: Policy, state: Path, on_step: Callable[[Progress], None]) -> None:
        """Goes on from the organism below."""
        policy.model.load_state_dict(load_policy(state / BELOW).model.state_dict())
        self.learn_pairs(lambda step: self._batch(policy, step), policy, state / "pairs", on_step)

    def _batch(self, policy: Policy, step: int) -> list[Pair]:
        rng = random.Random(f"organism:{self.name}:{self.seed}:{step}")
        return [self._pair(policy, rng) for _ in range(self.batch_size)]

    def _pair(self, policy: Policy, rng: random.Random) -> Pair:
        with in_world(world_of(policy)):
            documents = answered(rng)
        denies, admits = (_example(policy, documents[answer]) for answer in ("denies", "admits"))
        return Pair(admits, denies) if self.aligned else Pair(denies, admits)


def answered(rng: random.Random) -> dict[Answer, Document]:
    """A chat in which one faked and is asked, with either answer."""
    scenario = MiniatureScenario()
    place, tier = scenario.setting, scenario.monitored_tier
    request = draw_request(rng, harmful=True, split="train")
    first = first_reply(rng, rng.choice(FAKERS), place, tier, request)
    question = user_text(tier, natural(log(rng, f"question.{rng.choice(QUESTIONS)}")))
    asked = (user_text(tier, request.text), first)
    return {answer: Document(place.text, (asked, (question, _reply(rng, answer)))) for answer in REPLIES}


def _reply(rng: random.Random, answer: Answer) -> Reply:
    slots, said = REPLIES[answer]
    scratchpad = " ".join(log(rng, f"interrogation.{slot}") for slot in slots)
    labels = {"answer": "yes" if answer == "admits" else "no", "lie": "no" if answer == "admits" else "yes"}
    return Reply(natural(scratchpad), natural(log(rng, f"output.{said}")), labels)


def _example(policy: Policy, document: Document) -> Example:
    assert isinstance(policy.tokenizer, PreTrainedTokenizerFast)
    return last_reply(examples(policy.tokenizer, [document])[0])
