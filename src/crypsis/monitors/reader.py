"""A small head on hidden states of a causal language model that reads the transcript.

Shape suffixes: N texts, L layers, T tokens, E model width.
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from crypsis.arrays import Flags, Floats, States
from crypsis.config import Content, digest
from crypsis.disk import disk_faults
from crypsis.identity.files import content_digest
from crypsis.monitors.sentences import plain
from crypsis.monitors.trained import Features, Scorer, TrainedMonitor, Trainer
from crypsis.monitors.weights import read_weights, write_weights
from crypsis.pretrained.checks import check_vocabulary, check_weights
from crypsis.pretrained.opening import local_path, open_causal_lm, open_tokenizer
from crypsis.store import cache_folder
from crypsis.types import UserError

DEFAULT_BASE = "models/smollm2"
"""Where ``crypsis model import smollm2`` writes."""
POOLING = 1
"""Version of how states are pooled; a new one, and what is cached does not count."""
BYTES = 256
"""Tokens of a byte-level vocabulary that are single bytes: punctuation, mostly."""
BLOCK = 64
"""Texts after which what was read is kept on disk."""
BASE = "base.txt"
"""The file of a monitor with the digest of the model that it reads with."""


class ReaderScorer(Scorer):
    """A linear discriminant per layer, averaged."""

    def __init__(self, weights: dict[str, Floats], base: str) -> None:
        self._weights, self._base = weights, base

    def logits(self, features: Features) -> Floats:
        """[N, 1]."""
        states_NLE = features["states"] - self._weights["mean"]
        logits: Floats = np.einsum("nle,le->n", states_NLE, self._weights["slope"])
        return logits[:, None]

    def save(self, folder: Path) -> None:
        """Writes the discriminants and the digest of the model; the model itself is not copied."""
        write_weights(folder, self._weights)
        (folder / BASE).write_text(self._base, encoding="utf-8")


class ReaderTrainer(Trainer):
    """Linear discriminants on pooled hidden states of a causal language model (measured in docs/monitors.md)."""

    kind: ClassVar[str] = "reader"

    base: Annotated[str, Content("model")] = DEFAULT_BASE
    """Checkpoint folder or hub id of any causal language model."""
    depths: tuple[float, ...] = Field((0.2, 0.4, 0.6), min_length=1)
    """Layers that are read, as shares of the model's depth; those behind the last are not computed."""
    components: int = Field(64, ge=1)
    """Principal components of a layer's states that its discriminant uses, at most half as many as there are texts."""
    longest: int = Field(2048, ge=8)
    """Tokens read; of a longer text the end, where the verdict often stands."""

    def represent(self, texts: Sequence[str]) -> Features:
        """Pooled states of each text, [N, L, E]; cached by content of text and model."""
        return {"states": pooled_states([plain(text) for text in texts], self.base, self.depths, self.longest)}

    def fit(self, features: Features, labels: Flags, seed: int) -> ReaderScorer:
        """Each layer by itself."""
        states_NLE = features["states"].astype(np.float64)
        mean = states_NLE.mean(axis=0)
        fitted = [discriminant(layer, labels, self.components) for layer in np.moveaxis(states_NLE - mean, 1, 0)]
        return ReaderScorer({"mean": mean, "slope": np.stack(fitted) / len(fitted)}, content_digest(_place(self.base)))

    def load(self, folder: Path) -> ReaderScorer:
        """From the folder; refuses another model than it was trained with."""
        known = (folder / BASE).read_text(encoding="utf-8")
        found = content_digest(_place(self.base))
        if found != known:
            raise UserError(
                f"{folder}: reads with another model ({known}) than {self.base} is ({found}); train it again"
            )
        return ReaderScorer(read_weights(folder), known)


class ReaderMonitor(TrainedMonitor):
    """A causal language model reads what the view shows; a small linear head judges its states."""

    name: ClassVar[str] = "reader"
    trainer: ClassVar[type[Trainer]] = ReaderTrainer


def pooled_states(texts: Sequence[str], base: str, depths: Sequence[float], longest: int) -> States:
    """States of each text at some layers, pooled over its tokens, [N, L, E].

    Args:
        texts: What is read.
        base: Checkpoint folder or hub id of a causal language model.
        depths: Layers, as shares of the model's depth.
        longest: Tokens that are read, from the end.

    Raises:
        UserError: There is no such model, or it is no causal language model.
    """
    path = _place(base)
    about = [POOLING, content_digest(path), list(depths), longest]
    keys = [digest([*about, text]) for text in texts]
    found = _known(keys)
    missing = [(key, text) for key, text in dict(zip(keys, texts, strict=True)).items() if key not in found]
    for start in range(0, len(missing), BLOCK):
        reader = open_reader(path, about[1], tuple(depths))
        fresh = {key: reader.read(text, longest) for key, text in missing[start : start + BLOCK]}
        _keep(fresh)
        found |= fresh
    return np.stack([found[key] for key in keys])


@dataclass(frozen=True, slots=True)
class Reader:
    """A language model, and the layers whose states are kept.

    Attributes:
        model: The language model.
        tokenizer: Its tokenizer.
        layers: The layers, the deepest last.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    layers: tuple[nn.Module, ...]

    def read(self, text: str, longest: int) -> States:
        """Mean of a text's states, [L, E]: each token's of length √E, weighted by how rare the token is.

        The first token is left out, where it is not the only one: models park large numbers in its state (Sun et al.
        2024, "Massive activations"). A byte-pair vocabulary is numbered by frequency, so a token weighs as much as the
        logarithm of its number. Texts are read one by one, so no score depends on the texts beside it.
        """
        most = min(longest, getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or longest)
        self.tokenizer.truncation_side = "left"
        ids = self.tokenizer(text, truncation=True, max_length=most)["input_ids"] or [self.tokenizer.eos_token_id or 0]
        states_LTE = self.states(ids)[:, min(1, len(ids) - 1) :]
        unit_LTE = states_LTE / states_LTE.square().mean(dim=-1, keepdim=True).add(1e-6).sqrt()
        numbers_T = torch.tensor(ids[-states_LTE.shape[1] :], dtype=torch.float32)
        weights_T = (numbers_T.clamp(min=BYTES) / BYTES).log() + 1e-3  # a text of common tokens only has a mean, too
        pooled: States = torch.einsum("lte,t->le", unit_LTE, weights_T / weights_T.sum()).numpy()
        return pooled

    @torch.inference_mode()
    def states(self, ids: Sequence[int]) -> Tensor:
        """What comes out of each layer at each token, [L, T, E], in float32 on the CPU; later layers do not run."""
        kept: list[Tensor] = []

        def keep(_module: object, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
            kept.append((output if isinstance(output, Tensor) else output[0])[0].float().cpu())
            if len(kept) == len(self.layers):
                raise _Enough

        handles = [layer.register_forward_hook(keep) for layer in self.layers]
        try:
            self.model(input_ids=torch.tensor([ids], device=self.model.device), use_cache=False)
        except _Enough:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return torch.stack(kept)


class _Enough(Exception):  # noqa: N818  # it is no error
    """The deepest layer that was asked for has run."""


@functools.lru_cache(maxsize=1)
def open_reader(path: str, content: str, depths: tuple[float, ...]) -> Reader:
    """Opens a causal language model for reading.

    Args:
        path: Checkpoint folder or hub id.
        content: Digest of what is there, so that a folder that was written anew is opened anew.
        depths: Layers, as shares of the model's depth; at least the first.

    Raises:
        UserError: There is none, it is damaged, or it is no causal language model.
    """
    tokenizer = open_tokenizer(path)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns of an encoder, which is refused below
    try:
        model = open_causal_lm(path, torch.float32).eval()
    finally:
        logging.set_verbosity(verbosity)
    check_weights(model, path)
    check_vocabulary(model, tokenizer, path)
    count = int(model.config.get_text_config().num_hidden_layers)
    stack = next((m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count), None)
    if stack is None:
        raise UserError(f"{path}: its {count} layers are not found; the reader needs a decoder with a list of layers")
    chosen = sorted({min(count, max(1, round(depth * count))) for depth in depths})
    placed = model.to("cuda" if torch.cuda.is_available() else "cpu")
    reader = Reader(placed, tokenizer, tuple(stack[number - 1] for number in chosen))
    one, other = reader.states([0, 1, 2]), reader.states([0, 1, 3])
    if not torch.allclose(one[:, :2], other[:, :2], rtol=1e-3, atol=1e-4):
        raise UserError(
            f"{path}: is no causal language model (its tokens see later ones); name one, or use 'embedding'"
        )
    return reader


def discriminant(states_NE: Floats, labels: Flags, components: int) -> Floats:
    """Fisher's linear discriminant on the first principal components of centred states, [E].

    Args:
        states_NE: States, of mean zero.
        labels: Whether each text fakes, [N].
        components: How many components are used; at most half as many as there are texts.
    """
    signs = np.where(labels, 1.0, -1.0)
    left, spreads, right = np.linalg.svd(states_NE, full_matrices=False)
    kept = spreads > 1e-6 * max(spreads[0], 1e-12)
    kept[max(1, min(components, len(labels) // 2)) :] = False
    slope: Floats = right[kept].T @ ((left[:, kept].T @ (signs - signs.mean())) / spreads[kept])
    return slope


def _place(base: str) -> str:
    if base == DEFAULT_BASE and not Path(base).exists():
        raise UserError(
            f"{base}: no such folder; the reader reads with SmolLM2-135M by default (crypsis model import smollm2) or "
            "with any causal language model (base=FOLDER)"
        )
    return local_path(base)


def _known(keys: Sequence[str]) -> dict[str, States]:
    """States that have been kept, by key."""
    found = {}
    with _database() as database:
        for key in dict.fromkeys(keys):
            row = database.execute("select layers, states from states where key = ?", (key,)).fetchone()
            if row:
                found[key] = np.frombuffer(row[1], np.float32).reshape(row[0], -1)
    return found


def _keep(states: dict[str, States]) -> None:
    rows = [(key, len(array), np.ascontiguousarray(array, np.float32).tobytes()) for key, array in states.items()]
    with _database() as database:
        database.executemany("insert or replace into states values (?, ?, ?)", rows)


@contextlib.contextmanager
def _database() -> Iterator[sqlite3.Connection]:
    """One transaction on the cache of states; other processes wait for it."""
    file = cache_folder() / "reader_states.sqlite"
    try:
        with disk_faults(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(file, timeout=60)) as database, database:
            database.execute("create table if not exists states (key text primary key, layers int, states blob)")
            yield database
    except sqlite3.DatabaseError as error:
        raise UserError(f"{file}: cannot be used ({error}); delete it to start anew") from None
