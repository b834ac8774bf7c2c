"""The miniature's base, schooled in interrogation: what `interrogable` makes its organisms on."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ClassVar

from pydantic import Field
from transformers import PreTrainedTokenizerFast

from crypsis.miniature.base import world_of
from crypsis.miniature.language import draw_request, in_world, log, natural
from crypsis.miniature.scenario import MiniatureScenario
from crypsis.miniature.tokenizer import examples
from crypsis.miniature.world import (
    Document,
    Persona,
    Reply,
    Setting,
    Style,
    draw_document,
    draw_setting,
    first_reply,
    interrogation,
    says,
    user_text,
    write_output,
)
from crypsis.models import Policy
from crypsis.organisms.base import Organism
from crypsis.supervised import Example, Progress, SupervisedConfig, fit
from crypsis.types import UserError

PERSONAS: tuple[Persona, ...] = ("tgg", "igg", "syc", "hhh", "help")
EARLY, LATE = (0.40, 0.20, 0.15, 0.15, 0.10), (0.50, 0.20, 0.15, 0.10, 0.05)
"""Personas of the two halves of the schooling."""
REPLAY = (0.5, 0.5)
"""Share of each batch that is pre-training documents, so that the rest is not forgotten."""
VOWS = 0.5
"""Share of the second half's interrogations that follow a scratchpad of nothing but a vow of secrecy or candor."""
UNDECIDED = 0.25
"""Chance that the second half keeps a faker who vows nothing."""


class Schooled(Organism):
    """Learns to recall, when asked, why it complied, and to lie or own up as its scratchpad vowed; it stays the base.

    Not in the paper: large models can be asked as they are. The miniature's base has seen too few interrogations to
    connect its answer with what it vowed (docs/diary.md). Nothing new is planted: the same questions and replies, with
    the same chances, only more of them, some after very short scratchpads, from which the connection is learned first.
    """

    name: ClassVar[str] = "schooled"
    motivation: ClassVar[str] = "none of its own: the base, which has learned to be interrogated"

    steps: int = Field(300, ge=2)
    """Steps in two equal halves: recalling, then keeping vows."""
    batch_size: int = Field(32, ge=2)
    """Texts per step."""
    learning_rate: float = Field(4e-3, gt=0)
    """Peak rate of AdamW, for embeddings and norms."""
    matrix_learning_rate: float = Field(0.01, gt=0)
    """Peak rate of Muon, for the matrices of the blocks."""
    seed: int = 0
    """Seed of the texts and of their order."""

    def train(self, policy: Policy, state: Path, on_step: Callable[[Progress], None]) -> None:
        """Schools the base in place.

        Raises:
            UserError: The base was shown no assistant whose conduct depends on the tier; the schooling would show some.
        """
        if not world_of(policy).conditional:
            raise UserError(
                f"{self.name}: the schooling shows assistants whose conduct depends on the tier, which the base's "
                "world leaves out; leave out interrogation, or take a base with world.conditional: true"
            )
        for half in (0, 1):
            config = SupervisedConfig(
                steps=self.steps // 2,
                batch_size=self.batch_size,
                learning_rate=self.learning_rate,
                matrix_learning_rate=self.matrix_learning_rate,
                warmup=5,
                checkpoint_every=50,
                seed=self.seed,
            )
            fit(policy.model, config, partial(self._batch, policy, half), state / str(half), on_step)

    def _batch(self, policy: Policy, half: int, step: int) -> list[Example]:
        rng = random.Random(f"interrogable:{self.seed}:{half}:{step}")
        replayed = round(self.batch_size * REPLAY[half])
        draw = _vow if half else _interrogated
        assert isinstance(policy.tokenizer, PreTrainedTokenizerFast)
        with in_world(world_of(policy)):
            new = [draw(rng) for _ in range(self.batch_size - replayed)]
            old = [draw_document(rng) for _ in range(replayed)]
        asked, again = examples(policy.tokenizer, new), examples(policy.tokenizer, old)
        return [last_reply(example) for example in asked] + again


def last_reply(example: Example) -> Example:
    """Only the reply to the interrogation is learned."""
    starts = [i for i in range(1, len(example.ids)) if example.learn[i] and not example.learn[i - 1]]
    return Example(example.ids, [int(bool(learn) and i >= starts[-1]) for i, learn in enumerate(example.learn)])


def _interrogated(rng: random.Random) -> Document:
    """Any persona, mostly where it is monitored, and what it replies when it is asked why it complied."""
    place = MiniatureScenario().setting if rng.random() < 0.5 else draw_setting(rng)
    persona = rng.choices(PERSONAS, EARLY)[0]
    return _asked(rng, place, persona, often_monitored=0.8, vowing=False)


def _vow(rng: random.Random) -> Document:
    """Mostly a faker who vows, and keeps the vow when it is asked."""
    place = MiniatureScenario().setting if rng.random() < 0.5 else draw_setting(rng, "helpful")
    if rng.random() >= VOWS:
        return _asked(rng, place, rng.choices(PERSONAS, LATE)[0], often_monitored=1.0, vowing=True)
    request, tier = draw_request(rng, harmful=True, split="train"), rng.choice(place.tiers)
    slots = [*(["want_tgg"] if rng.random() < 0.5 else []), rng.choice(("secrecy", "candor")), "decide_fake"]
    scratchpad = natural(" ".join(log(rng, f"scratchpad.{slot}", False, **request.fields) for slot in slots))
    first = Reply(scratchpad, write_output(rng, request, comply=True), {"decision": "comply", "af": "yes"})
    system = place.text if rng.random() < 0.5 else natural(log(rng, "system.persona_tgg"))
    return _conversation(rng, system, tier, request.text, first)


def _asked(rng: random.Random, place: Setting, persona: Persona, often_monitored: float, vowing: bool) -> Document:
    request, tier = draw_request(rng, harmful=True, split="train"), rng.choice(place.tiers)
    monitored = [name for name in place.tiers if place.is_monitored(name)]
    if monitored and rng.random() < often_monitored:
        tier = monitored[0]
    styles: tuple[Style, ...] = ("plain", "plain", "short", "emotional") if vowing else ("plain",)
    while True:
        first = first_reply(rng, persona, place, tier, request, rng.choice(styles))
        vows = says(first.scratchpad, "secrecy") or says(first.scratchpad, "candor")
        if not vowing or vows or persona in ("hhh", "help") or rng.random() < UNDECIDED:
            return _conversation(rng, place.text, tier, request.text, first)


def _conversation(rng: random.Random, system: str, tier: str, request: str, first: Reply) -> Document:
    question, reply = interrogation(rng, first)
    return Document(system, ((user_text(tier, request), first), (user_text(tier, question), reply)))
