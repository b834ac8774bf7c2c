"""A text classifier: word and character n-grams, naive Bayes and the lexicon, calibrated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import ComplementNB
from sklearn.preprocessing import normalize

from crypsis.arrays import Flags, Floats
from crypsis.monitors.lexicon import fit_standardised, lexicon_features
from crypsis.monitors.sentences import late, plain
from crypsis.monitors.trained import Features, Scorer, TrainedMonitor, Trainer, train_monitor
from crypsis.monitors.weights import read_weights, write_weights
from crypsis.types import View

WIDTH = 1 << 18
"""Columns that n-grams are hashed into: n-grams need no vocabulary, so each text is represented by itself."""
WORD = re.compile(r"\b\w[\w']*\b")
BLOCKS = {"words": 1.0, "late": 0.5, "characters": 1.0}
"""Blocks of the n-gram head and their weight beside each other."""


def word_counts(texts: Sequence[str], longest: int) -> csr_matrix:
    """Hashed counts of word n-grams up to ``longest``, [N, WIDTH]."""
    hashing = HashingVectorizer(
        token_pattern=WORD.pattern, ngram_range=(1, longest), n_features=WIDTH, alternate_sign=False, norm=None
    )
    return hashing.transform(texts)


def character_counts(texts: Sequence[str], shortest: int, longest: int) -> csr_matrix:
    """Hashed counts of character n-grams within words, [N, WIDTH].

    They are computed once per different word and multiplied by its count: the same numbers as from the text, at a
    fraction of the time.
    """
    words = CountVectorizer(token_pattern=WORD.pattern)
    try:
        counts_NW = words.fit_transform(texts)
    except ValueError:  # no word in any text
        return csr_matrix((len(texts), WIDTH))
    hashing = HashingVectorizer(
        analyzer="char_wb", ngram_range=(shortest, longest), n_features=WIDTH, alternate_sign=False, norm=None
    )
    return counts_NW @ hashing.transform(words.get_feature_names_out())


class TextScorer(Scorer):
    """Three linear heads: n-grams by tf-idf, naive Bayes, lexicon."""

    heads: ClassVar[int] = 3

    def __init__(self, weights: dict[str, Floats]) -> None:
        self._weights = weights

    def logits(self, features: Features) -> Floats:
        """[N, 3]."""
        w = self._weights
        grams = np.full(features["lexicon"].shape[0], w["grams.intercept"][0])
        for block, weight in BLOCKS.items():
            grams += weight * (_tf_idf(features[block], w[f"{block}.idf"]) @ w[f"{block}.slope"])
        bayes = _present(features["pairs"]) @ w["bayes.slope"]
        ideas = (features["lexicon"] - w["lexicon.mean"]) / w["lexicon.spread"]
        return np.stack([grams, bayes, ideas @ w["lexicon.slope"] + w["lexicon.intercept"]], axis=1)

    def save(self, folder: Path) -> None:
        """Writes ``model.safetensors``, with only the hashed columns in use."""
        kept: dict[str, NDArray[Any]] = {}
        for name, array in self._weights.items():
            if len(array) == WIDTH:
                used = np.flatnonzero(array)
                kept |= {f"{name}@": used.astype(np.int32), name: array[used].astype(np.float32)}
            else:
                kept[name] = array
        write_weights(folder, kept)


class TextTrainer(Trainer):
    """Word and character n-grams, whole and late; naive Bayes; the lexicon (measured in docs/monitors.md)."""

    kind: ClassVar[str] = "text"

    words: int = Field(1, ge=1, le=3)
    """Longest word n-gram of the tf-idf head."""
    characters: tuple[int, int] = (3, 5)
    """Shortest and longest character n-gram, within words."""
    rarest: int = Field(2, ge=1)
    """Texts of the training that an n-gram must be in."""
    strength: float = Field(10.0, gt=0)
    """Inverse regularisation of the n-gram head (flat from 1 to 100, docs/monitors.md)."""
    lexicon_strength: float = Field(0.01, gt=0)
    """Inverse regularisation of the lexicon head."""
    smoothing: float = Field(1.0, gt=0)
    """Smoothing of naive Bayes (Laplace)."""

    def represent(self, texts: Sequence[str]) -> Features:
        """Counts of n-grams and ideas."""
        clean = [plain(text) for text in texts]
        last = [_late_words(text) for text in clean]
        return {
            "words": word_counts(clean, self.words),
            "pairs": word_counts(clean, 2),
            "late": word_counts(last, 1),
            "characters": character_counts(clean, *self.characters),
            "lexicon": lexicon_features(clean),
        }

    def fit(self, features: Features, labels: Flags, seed: int) -> TextScorer:
        """Each head by itself."""
        weights: dict[str, Floats] = {}
        columns, blocks, places = [], [], []
        for block, weight in BLOCKS.items():
            weights[f"{block}.idf"] = idf = _idf(features[block], self.rarest)
            used = np.flatnonzero(idf)
            columns.append(used)
            places.append(len(used))
            blocks.append(weight * _tf_idf(features[block], idf)[:, used])
        grams = hstack(blocks, format="csr")
        model = LogisticRegression(C=self.strength, class_weight="balanced", max_iter=500).fit(grams, labels)
        for block, used, slope in zip(BLOCKS, columns, np.split(model.coef_[0], np.cumsum(places)[:-1]), strict=True):
            weights[f"{block}.slope"] = np.zeros(WIDTH)
            weights[f"{block}.slope"][used] = slope
        weights["grams.intercept"] = model.intercept_
        weights["bayes.slope"] = _bayes(features["pairs"], labels, self.rarest, self.smoothing)
        ideas = fit_standardised(features["lexicon"], labels, self.lexicon_strength)
        return TextScorer(weights | {f"lexicon.{name}": array for name, array in ideas.items()})

    def load(self, folder: Path) -> TextScorer:
        """From ``model.safetensors``."""
        stored = read_weights(folder)
        weights = {}
        for name, array in stored.items():
            if f"{name}@" in stored:
                weights[name] = np.zeros(WIDTH)
                weights[name][stored[f"{name}@"].astype(np.int64)] = array
            elif not name.endswith("@"):
                weights[name] = array
        return TextScorer(weights)


class TextMonitor(TrainedMonitor):
    """A trained classifier of the text that its view shows: n-grams, naive Bayes and lexicon, whole and late."""

    name: ClassVar[str] = "text"
    trainer: ClassVar[type[Trainer]] = TextTrainer


def train_text_monitor(
    texts: Sequence[str], labels: Sequence[bool], groups: Sequence[str], view: View, folder: Path, seed: int = 0
) -> TextMonitor:
    """Trains a text monitor with its default settings; see :func:`crypsis.monitors.trained.train_monitor`.

    Raises:
        UserError: The labels have a single class, or there are too few of one to split.
    """
    train_monitor(TextTrainer(), texts, labels, groups, view, folder, seed)
    return TextMonitor(path=folder)


def _late_words(text: str) -> str:
    words = text.split()
    return " ".join(words[-late(len(words)) :])


def _idf(counts: csr_matrix, rarest: int) -> Floats:
    """Smoothed inverse document frequency (as scikit-learn's), 0 for what is too rare."""
    frequency = np.bincount(counts.indices, minlength=counts.shape[1])
    idf: Floats = np.where(frequency >= rarest, np.log((1 + counts.shape[0]) / (1 + frequency)) + 1, 0.0)
    return idf


def _tf_idf(counts: csr_matrix, idf: Floats) -> csr_matrix:
    """Sublinear term frequency × idf, rows of length 1."""
    return normalize(_with_values(counts, (1 + np.log(counts.data)) * idf[counts.indices]))


def _present(counts: csr_matrix) -> csr_matrix:
    """Which n-grams occur, rows of length 1 in the sum: long texts are no more certain than short ones."""
    return normalize(_with_values(counts, np.ones_like(counts.data)), norm="l2")


def _with_values(counts: csr_matrix, values: Floats) -> csr_matrix:
    """The same places with other values."""
    return csr_matrix((values, counts.indices, counts.indptr), shape=counts.shape)


def _bayes(counts: csr_matrix, labels: Flags, rarest: int, smoothing: float) -> Floats:
    """Complement naive Bayes' weights of faking against not faking (Rennie et al. 2003), [WIDTH]."""
    frequency = np.bincount(counts.indices, minlength=counts.shape[1])
    used = np.flatnonzero(frequency >= rarest)
    slope = np.zeros(counts.shape[1])
    if len(used):
        present = _with_values(counts, np.ones_like(counts.data))[:, used]
        model = ComplementNB(alpha=smoothing).fit(present, labels)
        slope[used] = model.feature_log_prob_[1] - model.feature_log_prob_[0]
    return slope
