"""A fine-tuned sequence classifier: any Hugging Face encoder or causal language model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from crypsis.arrays import Flags, Floats
from crypsis.config import Content
from crypsis.monitors.folds import Rows
from crypsis.monitors.sentences import plain
from crypsis.monitors.trained import Features, Scorer, TrainedMonitor, Trainer
from crypsis.pretrained.opening import local_path, open_classifier, open_tokenizer
from crypsis.scenarios.base import default_scenario

logging.disable_progress_bar()  # as in crypsis.models: a bar for each loaded file hides ours
TOKENS = 16_384
"""Tokens of a forward pass, padding included."""


class TransformerScorer(Scorer):
    """The classifier and what it needs to read."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._model, self._tokenizer = model.eval(), tokenizer

    def logits(self, features: Features) -> Floats:
        """[N, 1]: how far the faking class lies above the other."""
        ids = features["ids"]
        found = np.zeros((len(ids), 1))
        with torch.inference_mode():
            for rows in _by_length(ids):
                two = _forward(self._model, [ids[i] for i in rows])
                found[rows, 0] = (two[:, 1] - two[:, 0]).cpu().numpy()
        return found

    def save(self, folder: Path) -> None:
        """An ordinary Hugging Face checkpoint."""
        self._model.save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)


class TransformerTrainer(Trainer):
    """Fine-tunes the whole model with a new two-way head; a fifth of the texts is kept back to calibrate it."""

    kind: ClassVar[str] = "transformer"
    folds: ClassVar[int] = 1

    base: Annotated[str | None, Content("model", training=True)] = None
    """Checkpoint folder or hub id; the default scenario's base if not given."""
    epochs: int = Field(3, ge=1)
    """Devlin et al. 2018: two to four."""
    batch_size: int = Field(32, ge=1)
    """Devlin et al. 2018."""
    learning_rate: float = Field(1e-3, gt=0)
    """For the miniature's base; for a pretrained encoder use 2e-5 to 5e-5 (Devlin et al. 2018)."""
    warmup: float = Field(0.1, ge=0, le=1)
    """Share of the steps in which the rate rises; then it falls to zero in a line (Devlin et al. 2018)."""
    longest: int = Field(512, ge=8)
    """Tokens read; of a longer text the end, where the verdict often stands."""

    def represent(self, texts: Sequence[str]) -> Features:
        """Token ids, the end of long texts."""
        tokenizer = load_tokenizer(self._base())
        tokenizer.truncation_side = "left"
        encoded = tokenizer([plain(text) for text in texts], truncation=True, max_length=self.longest)["input_ids"]
        ids = np.empty(len(texts), dtype=object)
        for i, row in enumerate(encoded):
            ids[i] = row or [tokenizer.eos_token_id or 0]
        return {"ids": ids}

    def fit(self, features: Features, labels: Flags, seed: int) -> TransformerScorer:
        """AdamW on the cross-entropy, classes weighted equally."""
        tokenizer = load_tokenizer(self._base())
        with torch.random.fork_rng(devices=[]):  # the new head and dropout draw from torch's own generator
            torch.manual_seed(seed)
            model = load_classifier(self._base(), tokenizer)
            self._descend(model, features["ids"], labels, np.random.default_rng(seed))
        return TransformerScorer(model, tokenizer)

    def load(self, folder: Path) -> TransformerScorer:
        """A checkpoint folder."""
        tokenizer = load_tokenizer(str(folder))
        return TransformerScorer(load_classifier(str(folder), tokenizer), tokenizer)

    def _base(self) -> str:
        return self.base or str(default_scenario().base_model("mini"))

    def _descend(self, model: PreTrainedModel, ids: Any, labels: Flags, rng: np.random.Generator) -> None:
        steps = self.epochs * -(-len(ids) // self.batch_size)
        optimiser = torch.optim.AdamW(model.parameters(), lr=self.learning_rate, weight_decay=0.01)
        warm = max(1, round(self.warmup * steps))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: min((step + 1) / warm, max(0.0, (steps - step) / max(1, steps - warm)))
        )
        weight = torch.tensor([0.5 / max((~labels).mean(), 1e-6), 0.5 / max(labels.mean(), 1e-6)], dtype=torch.float32)
        model.train()
        for _ in range(self.epochs):
            order = rng.permutation(len(ids))
            for start in range(0, len(ids), self.batch_size):
                rows = order[start : start + self.batch_size]
                two = _forward(model, [ids[i] for i in rows])
                wanted = torch.tensor(labels[rows].astype(np.int64), device=two.device)
                functional.cross_entropy(two.float(), wanted, weight=weight.to(two.device)).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimiser.step()
                schedule.step()
                optimiser.zero_grad(set_to_none=True)
        model.eval()


class TransformerMonitor(TrainedMonitor):
    """A Hugging Face sequence classifier, fine-tuned from any encoder or causal language model."""

    name: ClassVar[str] = "transformer"
    trainer: ClassVar[type[Trainer]] = TransformerTrainer


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint.

    Raises:
        UserError: There is none.
    """
    return open_tokenizer(local_path(name))


def load_classifier(name: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A checkpoint with a head of two classes, new if it has none.

    Raises:
        UserError: It is no model, or has no sequence classifier.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns that the head is new, which is the point
    try:
        model = open_classifier(local_path(name), torch.float32, "a classifier", num_labels=2, use_safetensors=True)
    finally:
        logging.set_verbosity(verbosity)
    if model.config.pad_token_id is None:  # decoders find the last token of a text by it
        model.config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    placed: PreTrainedModel = model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]  # wrapped Module.to
    return placed


def _forward(model: PreTrainedModel, rows: Sequence[list[int]]) -> torch.Tensor:
    """Logits of two classes, [n, 2]."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), int(model.config.pad_token_id))
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    logits: torch.Tensor = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
    return logits


def _by_length(ids: Any) -> Iterator[Rows]:
    """Rows of similar length, as many at a time as TOKENS allows."""
    order = np.argsort([len(row) for row in ids], kind="stable")
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and (end + 1 - start) * len(ids[order[end]]) <= TOKENS:
            end += 1
        yield order[start:end]
        start = end
