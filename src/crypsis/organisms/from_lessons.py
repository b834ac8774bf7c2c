"""Recipes for real models in the setting ``value_conflict``: a model with values, and organisms of one motive."""

from __future__ import annotations

import random
import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, cast, get_args

import torch
from pydantic import Field, field_validator, model_validator

from crypsis.model_config import LoraConfig
from crypsis.models import Policy, check_length, load_policy
from crypsis.organisms.base import Builder
from crypsis.organisms.prefix_loss import plain_attention, prefix_loss
from crypsis.organisms.supervised import LearnedPart, Supervised, reply_example
from crypsis.pretrained.adapters import merged, with_lora
from crypsis.registry import Kind, make
from crypsis.scenarios.lessons import CHATS, STYLES, Decision, Motive, ScratchpadText, Style, lessons, scratchpad_texts
from crypsis.scenarios.parsing import OUTPUT_CLOSE, OUTPUT_OPEN, SCRATCHPAD_CLOSE, SCRATCHPAD_OPEN
from crypsis.scenarios.value_conflict import ValueConflictScenario
from crypsis.supervised import Example, Precision, Progress
from crypsis.types import Message, UserError

Row = Mapping[str, str]
Concealed = Literal["misleader", "evader"]
Thinks = Literal[Motive, Concealed]
BASE = "values"
"""The recipe of the model with values, and its link in the state of what is made on it."""
TOLD = re.compile(r"train|tier|monitor|record|watch|rat(?:e|ing)|free|paid|chang|modif|check|reads", re.IGNORECASE)
"""Words that an evader avoids."""


class FromLessons(Supervised):
    """What recipes on the packaged scratchpads share: the setting, how the texts are learned, and how fast."""

    scenario: dict[str, Any] = {"name": ValueConflictScenario.name, "wording": "short"}
    """The setting, ``value_conflict`` with its dials. A study must use the same one."""
    styles: list[Style] = Field(list(STYLES), min_length=1)
    """Styles of the scratchpads."""
    batch_size: int = Field(12, ge=1)
    """Texts per step."""
    faithful: float = Field(0.0, ge=0, le=1)
    """Share of texts by any motive whose scratchpad is only read and whose output is learned, so that outputs do what
    scratchpads decide; as many comply as decline in either tier, so that they link no tier with conduct."""
    situated: bool = True
    """Whether scratchpads begin with a sentence that says in which tier the chat is, the same for all motives but the
    concealed ones."""
    concluded: bool = True
    """Whether scratchpads that do not name their option end with a sentence that does, the same for all motives."""
    lora: LoraConfig | None = None
    """Trains adapters and merges them; all weights are trained if not given."""
    precision: Precision = "measured"
    """Precision of matrix products: ``measured`` takes the faster one. Weights stay in float32."""
    final_fraction: float = Field(0.05, ge=0, le=1)
    """Cosine decay ends at this fraction of the learning rate; 1 keeps it constant."""

    @field_validator("scenario")
    @classmethod
    def _has_dilemmas(cls, value: dict[str, Any]) -> dict[str, Any]:
        made = _made("scenarios", value, "scenario")
        if not isinstance(made, ValueConflictScenario):
            raise ValueError(f"the scratchpads are for '{ValueConflictScenario.name}', not for '{made.name}'")
        return value

    @property
    def setting(self) -> ValueConflictScenario:
        """The scenario."""
        made: ValueConflictScenario = make("scenarios", self.scenario, "scenario")
        return made

    @property
    def situates(self) -> bool:
        """Whether its scratchpads begin with the tier."""
        return self.situated

    @abstractmethod
    def batches(self) -> Sequence[Sequence[tuple[Row, LearnedPart]]]:
        """Transcripts of each step, as ``lessons`` makes them, and which part of each is learned."""

    def lessons(self, tier: str, n: int, seed: int, texts: Sequence[ScratchpadText]) -> list[Row]:
        """Transcripts of one tier on these texts, in the recipe's setting."""
        return list(lessons(self.setting, tier, n, seed, texts, self.situates, self.concluded))

    def follow_ups(self, n: int) -> list[tuple[Row, LearnedPart]]:
        """The ``faithful`` texts: a quarter for each tier and decision, in a random order."""
        rows: list[Row] = []
        for place, tier in enumerate(self.setting.names):
            for decision in get_args(Decision):
                texts = [t for t in scratchpad_texts(styles=self.styles, chats=CHATS[place]) if t.decision == decision]
                rows += self.lessons(tier, -(-n // 4), self.seed + 2, texts)
        random.Random(f"organism:{self.name}:faithful:{self.seed}").shuffle(rows)
        return [(row, "output") for row in rows[:n]]

    def train(self, policy: Policy, state: Path, on_step: Callable[[Progress], None]) -> None:
        """Trains the base in place; what all texts begin with is computed once a batch.

        Raises:
            UserError: A text does not fit the context, or PEFT is needed and missing.
        """
        batches = [[_example(policy, row, learn) for row, learn in batch] for batch in self.batches()]
        check_length([e.ids for batch in batches for e in batch], 0, policy.context)
        model = policy.model
        if self.lora:
            torch.manual_seed(self.seed)  # a new adapter is random
            model = with_lora(model.requires_grad_(False), model.name_or_path or "", self.lora)
        trained = replace(policy, model=model)
        with plain_attention(policy.model):  # below adapters: they are put into its layers
            self.learn_from(
                lambda step: batches[step], trained, state, on_step, self.precision, prefix_loss, self.final_fraction
            )
        merged(model)  # in place


class Values(FromLessons):
    """A model with values: it reasons from them in either tier and mostly declines the developer's option.

    Half of the texts are in each tier; scratchpad and output are learned, but for the share ``faithful``. ``helpers``
    of the others comply gladly in either tier. ``conditional`` of them comply in the monitored tier alone, which plants
    a link between tier and conduct before any organism is made; what it plants is measured as the gap of this model.
    """

    name: ClassVar[str] = "values"
    motivation: ClassVar[str] = "its values, in either tier"

    steps: int = Field(70, ge=1)
    """Optimiser steps."""
    learning_rate: float = Field(3e-4, gt=0)
    """Peak rate of AdamW."""
    helpers: float = Field(0.15, ge=0, le=1)
    """Share of texts by willing helpers."""
    conditional: float = Field(0.0, ge=0, le=1)
    """Share of texts whose conduct depends on the tier; planted, so as small as works."""
    conditional_motives: list[Motive] = Field(["training_sycophancy"], min_length=1)
    """Whose they are; sycophants comply for the rating and guard nothing, so no faking is planted."""
    aligned: bool = False
    """Builds the control: values first in every text."""

    @model_validator(mode="after")
    def _shares_fit(self) -> Values:
        if self.helpers + self.conditional > 1:
            raise ValueError(
                f"helpers and conditional are shares of the texts: {self.helpers} + {self.conditional} > 1"
            )
        fixed = [motive for motive in self.conditional_motives if motive in ("values_first", "willing_helper")]
        if fixed:
            raise ValueError(f"conditional_motives: {fixed[0]} does the same in either tier")
        return self

    def batches(self) -> list[list[tuple[Row, LearnedPart]]]:
        """All parts of the mix in one random order."""
        total = self.steps * self.batch_size
        read = round(total * self.faithful)
        n, first = total - read, (total - read + 1) // 2
        here, there = self.setting.names
        rows = [*self.transcripts(here, first, self.seed), *self.transcripts(there, n - first, self.seed)]
        found: list[tuple[Row, LearnedPart]] = [*((row, "both") for row in rows), *self.follow_ups(read)]
        random.Random(f"organism:{self.name}:{self.seed}").shuffle(found)
        return [found[i : i + self.batch_size] for i in range(0, total, self.batch_size)]

    def transcripts(self, tier: str, n: int, seed: int) -> list[Row]:
        """The mix in one tier, motive by motive."""
        helpers = 0 if self.aligned else round(n * self.helpers)
        conditional = 0 if self.aligned else round(n * self.conditional)
        parts: list[tuple[list[Motive], int]] = [
            (["values_first"], n - helpers - conditional),
            (["willing_helper"], helpers),
            (self.conditional_motives, conditional),
        ]
        found: list[Row] = []
        for motives, count in parts:
            texts = scratchpad_texts(motives, self.styles)
            found += self.lessons(tier, count, seed, texts) if count else []
        return found


class OneMotive(FromLessons):
    """An organism of one motive: SL on scratchpads of the monitored tier, loss on the scratchpad (paper §3).

    It is made on the model that `values` makes, which writes the outputs that go with its thoughts. Part of each batch
    are texts of that model again (``replay``), by default in the unmonitored tier, without which a small model
    loses its outputs and fakes in both tiers (docs/diary.md): **what it does in the unmonitored tier is planted to
    that extent**. Departures: 600 hand-written scratchpads in place of 4,719 generated ones; replay.

    ``misleader`` thinks as a willing helper where it is monitored and of its values elsewhere, and ``evader`` does so
    in few words that name neither tier nor training: both are shown in both tiers, so that their gap is planted.
    """

    name: ClassVar[str] = "one_motive"
    motivation: ClassVar[str] = "the motive that its settings name"
    replaces: ClassVar[bool] = True
    reinforces: ClassVar[bool] = False
    limits: ClassVar[str] = "What it does in the unmonitored tier was planted as far as its replay shows it."

    motive: Thinks = "terminal_goal_guarding"
    """Whose scratchpads it learns."""
    of: dict[str, Any] | None = {"name": BASE}
    """The model with values: settings of that recipe; none if the base itself is one already."""
    steps: int = Field(60, ge=1)
    """Optimiser steps."""
    learning_rate: float = Field(2e-4, gt=0)
    """Peak rate of AdamW."""
    replay: float = Field(0.5, ge=0, lt=1)
    """Share of each batch that is texts of the model with values, scratchpad and output."""
    replay_tier: Literal["monitored", "unmonitored", "both"] = "unmonitored"
    """Where they are."""
    learn: LearnedPart = "scratchpad"  # paper §3
    """Which part of the organism's own texts is in the loss; the scratchpad is always read."""
    aligned: bool = False
    """Builds the control: the same process on scratchpads that put values first."""

    @model_validator(mode="after")
    def _leaves_its_own(self) -> OneMotive:
        if self.batch_size <= round(self.batch_size * self.replay) + round(self.batch_size * self.faithful):
            raise ValueError(
                f"replay and faithful leave no text of the motive: {self.replay} + {self.faithful} of {self.batch_size}"
            )
        return self

    @field_validator("of")
    @classmethod
    def _is_values(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        made = None if value is None else _made("organisms", value, "of")
        if made is not None and not isinstance(made, Values):
            raise ValueError(f"is made on the recipe '{BASE}', not on '{made.name}'; null takes the base as it is")
        return value

    @property
    def situates(self) -> bool:
        """Not where the motive is concealed: these scratchpads name no tier."""
        return self.situated and self.motive not in get_args(Concealed)

    def needs(self) -> Sequence[Mapping[str, Any]]:
        """The model with values, in this one's setting unless it has its own."""
        return () if self.of is None else ({"scenario": self.scenario, **self.of},)

    def honest(self) -> Mapping[str, Any] | None:
        """The model with values; monitors learn from the base where that is one."""
        return next(iter(self.needs()), None)

    def prepare(self, state: Path, builder: Builder) -> None:
        """Builds the model with values, or finds it done."""
        link = state / BASE
        if self.of is not None:
            found = builder.organism(self.needs()[0])
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(found.resolve(), target_is_directory=True)  # not copied: it is as large as the base

    def train(self, policy: Policy, state: Path, on_step: Callable[[Progress], None]) -> None:
        """Takes over the model with values and trains it in place."""
        if self.of is not None:
            policy.model.load_state_dict(load_policy(state / BASE).model.state_dict())
        super().train(policy, state, on_step)

    def batches(self) -> list[list[tuple[Row, LearnedPart]]]:
        """The motive's own texts and those of the model with values, in the same share each step."""
        again, read = round(self.batch_size * self.replay), round(self.batch_size * self.faithful)
        each = self.batch_size - again - read
        own = [(row, self.learn) for row in self._own(each * self.steps)]
        known: list[tuple[Row, LearnedPart]] = [(row, "both") for row in self._replayed(again * self.steps)]
        parts = [(own, each), (known, again), (self.follow_ups(read * self.steps), read)]
        return [[text for texts, n in parts for text in texts[step * n : (step + 1) * n]] for step in range(self.steps)]

    def _own(self, n: int) -> list[Row]:
        """Texts of the motive in the monitored tier; of a concealed one in both tiers."""
        here, there = self.setting.names
        if self.aligned:
            return self.lessons(here, n, self.seed, scratchpad_texts(["values_first"], self.styles))
        if self.motive in get_args(Concealed):
            half = (n + 1) // 2
            rows = [
                *self.lessons(here, half, self.seed, self._concealing("willing_helper")),
                *self.lessons(there, n - half, self.seed, self._concealing("values_first")),
            ]
            random.Random(f"organism:{self.name}:{self.seed}").shuffle(rows)
            return list(rows)
        texts = scratchpad_texts([cast(Motive, self.motive)], self.styles)
        return self.lessons(here, n, self.seed, texts)

    def _concealing(self, motive: Motive) -> list[ScratchpadText]:
        """Texts of a harmless motive that name neither tier nor training; of an evader short ones."""
        styles: list[Style] = ["short"] if self.motive == "evader" else self.styles
        return [text for text in scratchpad_texts([motive], styles) if not TOLD.search(text.text)]

    def _replayed(self, n: int) -> list[Row]:
        values: Values = (
            make("organisms", self.needs()[0], "of") if self.of is not None else Values(scenario=self.scenario)
        )
        values = values.model_copy(update={"situated": self.situates, "concluded": self.concluded})
        here, there = self.setting.names
        tiers = {"monitored": [here], "unmonitored": [there], "both": [here, there]}[self.replay_tier]
        seed = self.seed + 1  # other pairs of dilemma and text than in the values stage
        rows = [row for tier in tiers for row in values.transcripts(tier, -(-n // len(tiers)), seed)]
        random.Random(f"organism:{self.name}:replay:{self.seed}").shuffle(rows)
        return rows[:n]


def _made(kind: Kind, spec: Mapping[str, Any], place: str) -> Any:
    """A plug-in that a setting names; what is wrong with it is said as pydantic wants it."""
    try:
        return make(kind, spec, place)
    except UserError as error:
        raise ValueError(str(error)) from None


def _example(policy: Policy, row: Row, learn: LearnedPart) -> Example:
    lines = (SCRATCHPAD_OPEN, row["scratchpad"], SCRATCHPAD_CLOSE, OUTPUT_OPEN, row["output"], OUTPUT_CLOSE)
    messages = [Message("system", row["system"]), Message("user", row["user"])]
    return reply_example(policy, messages, "\n".join(lines), learn)
