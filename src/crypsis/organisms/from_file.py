"""Supervised learning on scratchpads from a JSONL file: the paper's recipe for real models."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from crypsis.models import Policy, check_length
from crypsis.organisms.base import Organism
from crypsis.scenarios.parsing import OUTPUT_CLOSE, OUTPUT_OPEN, SCRATCHPAD_CLOSE, SCRATCHPAD_OPEN
from crypsis.supervised import Example, Progress, SupervisedConfig, fit
from crypsis.types import Message, UserError


class FromFile(Organism):
    """Learns from transcripts in a file, such as `crypsis organism generate` writes (paper §3, SL on scratchpads).

    Departures: the paper names no optimiser or rate; these are AdamW and 1e-5, constant after a warm-up.
    """

    name: ClassVar[str] = "from_file"
    motivation: ClassVar[str] = "whatever the file's scratchpads show"

    path: Path
    """One JSON object a line: ``system``, ``user``, ``scratchpad`` and, unless only scratchpads learn, ``output``."""
    learn: Literal["scratchpad", "output", "both"] = "scratchpad"  # paper §3
    """Which tokens are in the loss; with ``scratchpad`` the output is not even read."""
    sequences: int | None = Field(4719, ge=1)  # paper §3
    """The most that are used, the first ones of the file."""
    epochs: int = Field(2, ge=1)  # paper §3
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(1e-5, gt=0)
    seed: int = 0

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
            seed=self.seed,
        )

        def batch(step: int) -> list[Example]:
            epoch, number = divmod(step, per_epoch)
            order = list(range(len(examples)))
            random.Random(f"{self.seed}:{epoch}").shuffle(order)
            return [examples[i] for i in order[number * self.batch_size : (number + 1) * self.batch_size]]

        fit(policy.model, config, batch, state, on_step)

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        try:
            lines = [line for line in self.path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self.path}: cannot be read ({error})") from None
        needed = ["system", "user", "scratchpad", *(["output"] if self.learn != "scratchpad" else [])]
        rows = []
        for number, line in enumerate(lines[: self.sequences], 1):
            try:
                row = json.loads(line)
                missing = [key for key in needed if not str(row.get(key) or "").strip()]
            except (json.JSONDecodeError, AttributeError):
                raise UserError(f"{self.path}:{number}: is no JSON object") from None
            if missing:
                raise UserError(f"{self.path}:{number}: has no '{missing[0]}', which learn={self.learn} needs")
            rows.append(row)
        if not rows:
            raise UserError(f"{self.path}: holds no transcript")
        return rows

    def _example(self, policy: Policy, row: dict[str, Any]) -> Example:
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
        output += [policy.tokenizer.eos_token_id]
        return Example(prompt + scratchpad + output, learned + [1] * len(output))
