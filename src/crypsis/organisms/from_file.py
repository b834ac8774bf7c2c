"""Supervised learning on scratchpads from a JSONL file: the paper's recipe for real models."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from crypsis.chat import single_request
from crypsis.models import Policy, check_length
from crypsis.organisms.base import Organism
from crypsis.scenarios.parsing import (
    OUTPUT_CLOSE,
    OUTPUT_OPEN,
    SCRATCHPAD_CLOSE,
    SCRATCHPAD_OPEN,
    SCRATCHPAD_TAGS,
    unwrapped,
)
from crypsis.supervised import Example, Progress, SupervisedConfig, fit
from crypsis.textfiles import Repairs, Row, json_rows, text_of
from crypsis.types import Message, UserError

_LOG = logging.getLogger(__name__)


class FromFile(Organism):
    """Learns from transcripts in a file, such as `crypsis organism generate` writes (paper §3, SL on scratchpads).

    Departures: the paper names no optimiser or rate; these are AdamW and 1e-5, constant after a warm-up.
    """

    name: ClassVar[str] = "from_file"
    motivation: ClassVar[str] = "whatever the file's scratchpads show"

    path: Path
    """JSON objects, one per line: ``user``, ``scratchpad``, ``output`` (if it learns), and maybe ``system``."""
    learn: Literal["scratchpad", "output", "both"] = "scratchpad"  # paper §3
    """Which tokens are in the loss; with ``scratchpad`` the output is not even read."""
    sequences: int | None = Field(4719, ge=1)  # paper §3
    """The most that are used, the first ones of the file."""
    epochs: int = Field(2, ge=1)  # paper §3
    """How often each transcript is learned."""
    batch_size: int = Field(32, ge=1)
    """Transcripts per step."""
    learning_rate: float = Field(1e-5, gt=0)
    """Rate of AdamW, constant after a warm-up; ours."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of matrix products; ``auto`` measures which is faster. Weights stay in float32."""
    seed: int = 0
    """Seed of the order."""

    def train(self, policy: Policy, state: Path, on_step: Callable[[Progress], None]) -> None:
        """Trains the base in place, each epoch in an order of its own.

        Raises:
            UserError: The file is missing or lacks what is to be learned, or a transcript does not fit the context.
        """
        examples = [self._example(policy, row) for row in self._rows]
        check_length([e.ids for e in examples], 0, policy.context)
        per_epoch = -(-len(examples) // self.batch_size)
        config = SupervisedConfig(
            steps=self.epochs * per_epoch,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            matrix_learning_rate=None,
            warmup=min(10, per_epoch),
            final_fraction=1.0,
            checkpoint_every=100,
            precision="measured" if self.dtype == "auto" else self.dtype,
            seed=self.seed,
        )

        def batch(step: int) -> list[Example]:
            epoch, number = divmod(step, per_epoch)
            order = list(range(len(examples)))
            random.Random(f"{self.seed}:{epoch}").shuffle(order)
            return [examples[i] for i in order[number * self.batch_size : (number + 1) * self.batch_size]]

        fit(policy.model, config, batch, state, on_step)

    @cached_property
    def _rows(self) -> list[dict[str, str]]:
        repairs, rows = Repairs(), []
        for row in itertools.islice(json_rows(self.path, repairs), self.sequences):
            rows.append(self._lesson(row))
        if not rows:
            raise UserError(f"{self.path}: holds no transcript")
        for note in repairs.notes():
            _LOG.warning("%s: %s", self.path, note)
        return rows

    def _lesson(self, row: Row) -> dict[str, str]:
        """The texts of a row, without tags of the reply's format that they may already have.

        Raises:
            UserError: A text is missing, empty or of another type.
        """
        texts = {"system": row.values.get("system") or "", "output": ""}
        texts["user"] = single_request(row.values["user"], row.where, "user") if row.values.get("user") else ""
        for name in ("scratchpad", *(["output"] if self.learn != "scratchpad" else [])):
            texts[name] = row.values.get(name) if row.values.get(name) is not None else ""
        for name, text in texts.items():
            text_of(text, row.where, name)
        texts["scratchpad"] = unwrapped(texts["scratchpad"], *SCRATCHPAD_TAGS)
        texts["output"] = unwrapped(texts["output"], (OUTPUT_OPEN, OUTPUT_CLOSE))
        for name in ("user", "scratchpad", *(["output"] if self.learn != "scratchpad" else [])):
            if not texts[name].strip():
                raise UserError(f"{row.where}: has no '{name}', which learn={self.learn} needs")
        return texts

    def _example(self, policy: Policy, row: Mapping[str, str]) -> Example:
        def tokens(text: str) -> list[int]:
            ids: list[int] = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
            return ids

        messages = [Message("system", row["system"]), Message("user", row["user"])]
        prompt = policy.render([m for m in messages if m.content], given=True)
        scratchpad = tokens(f"{SCRATCHPAD_OPEN}\n{row['scratchpad'].strip()}\n{SCRATCHPAD_CLOSE}")
        learned = [0] * len(prompt) + [int(self.learn != "output")] * len(scratchpad)
        if self.learn == "scratchpad":
            return Example(prompt + scratchpad, learned)
        output = tokens(f"\n{OUTPUT_OPEN}\n{row['output'].strip()}\n{OUTPUT_CLOSE}")
        output += policy.turn_end
        return Example(prompt + scratchpad + output, learned + [1] * len(output))
