"""A text classifier: word and character n-grams, naive Bayes and the lexicon, calibrated."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.sparse import csr_matrix, hstack
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import ComplementNB
from sklearn.preprocessing import normalize

from crypsis.arrays import Flags, Floats
from crypsis.monitors.lexicon import fit_standardised, lexicon_features
from crypsis.monitors.murmur import WIDTH
from crypsis.monitors.ngrams import Words, character_counts, late_counts, word_counts, words_of
from crypsis.monitors.piece_table import PieceTable
from crypsis.monitors.pieces import Places, pieces_of
from crypsis.monitors.sentences import plain
from crypsis.monitors.thresholds import NO_CONTROLS, Controls
from crypsis.monitors.trained import Features, Scorer, TrainedMonitor, Trainer, train_monitor
from crypsis.monitors.weights import read_weights, write_weights
from crypsis.types import View

BLOCKS = {"words": 1.0, "late": 0.5, "characters": 1.0}
"""Blocks of the n-gram head and their weight beside each other."""
BATCH, PIECES = 2048, 1 << 18
"""Texts scored at a time, and pieces of text kept in memory (about 100 MB)."""


class TextScorer(Scorer):
    """Three linear heads: n-grams by tf-idf, naive Bayes, lexicon."""

    heads: ClassVar[int] = 3

    def __init__(self, weights: dict[str, Floats]) -> None:
        self._weights = weights
        self._table: PieceTable | None = None

    def logits(self, features: Features) -> Floats:
        """[N, 3]."""
        w = self._weights
        grams = np.full(features["lexicon"].shape[0], w["grams.intercept"][0])
        for block, weight in BLOCKS.items():
            counts = features[block]
            grams += weight * _projected(counts, _frequency(counts), w[f"{block}.slope"], w[f"{block}.idf"])
        # Which n-grams occur, of length 1 in the sum: long texts are no more certain than short ones.
        bayes = _projected(features["pairs"], np.ones(features["pairs"].nnz), w["bayes.slope"], np.ones(WIDTH))
        ideas = (features["lexicon"] - w["lexicon.mean"]) / w["lexicon.spread"]
        return np.stack([grams, bayes, ideas @ w["lexicon.slope"] + w["lexicon.intercept"]], axis=1)

    def logits_of(self, texts: Sequence[str], trainer: Trainer) -> Floats:
        """The same numbers as by way of all features (but for the order of sums), several times as fast."""
        if not isinstance(trainer, TextTrainer) or trainer.words > 1:
            return super().logits_of(texts, trainer)
        clean = [plain(text) for text in texts]
        parts = [self._of_batch(clean[i : i + BATCH], trainer) for i in range(0, len(clean), BATCH)]
        return np.concatenate(parts) if parts else np.zeros((0, self.heads))

    def _of_batch(self, texts: Sequence[str], trainer: TextTrainer) -> Floats:
        w, pieces, table = self._weights, pieces_of(texts), self._table_for(trainer)
        numbers, is_late = table.numbers_of(pieces.distinct)[pieces.numbers], pieces.late
        late_sizes = np.bincount(pieces.rows[is_late], minlength=len(texts))
        grams = np.full(len(texts), w["grams.intercept"][0])
        for block, weight in BLOCKS.items():
            held = (numbers[is_late], late_sizes) if block == "late" else (numbers, pieces.sizes)
            counts, used = table.counts(block, *held), self._used[block]
            grams += weight * _projected(counts, _frequency(counts), w[f"{block}.slope"][used], w[f"{block}.idf"][used])
        bayes = _present(*table.word_columns(numbers, pieces.rows), len(texts), w["bayes.slope"])
        ideas = (table.ideas(texts, pieces, numbers) - w["lexicon.mean"]) / w["lexicon.spread"]
        return np.stack([grams, bayes, ideas @ w["lexicon.slope"] + w["lexicon.intercept"]], axis=1)

    def _table_for(self, trainer: TextTrainer) -> PieceTable:
        """The pieces known so far; a table that has grown too large begins anew."""
        if self._table is None or len(self._table) > PIECES:
            shapes = {"words": words_alone, "late": words_alone, "characters": trainer.count_characters}
            self._table = PieceTable(shapes, self._used)
        return self._table

    @cached_property
    def _used(self) -> dict[str, Places]:
        """The columns of each block that count."""
        return {block: np.flatnonzero(self._weights[f"{block}.idf"]) for block in BLOCKS}

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
        words = words_of(clean)
        return {
            "words": word_counts(words, self.words),
            "pairs": word_counts(words, 2),
            "late": late_counts(words),
            "characters": self.count_characters(words),
            "lexicon": lexicon_features(clean),
        }

    def count_characters(self, words: Words) -> csr_matrix:
        """Counts of n-grams of characters, [N, WIDTH]."""
        return character_counts(words, *self.characters)

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


def words_alone(words: Words) -> csr_matrix:
    """Counts of single words, [N, WIDTH]."""
    return word_counts(words, 1)


def train_text_monitor(
    texts: Sequence[str],
    labels: Sequence[bool],
    groups: Sequence[str],
    view: View,
    folder: Path,
    seed: int = 0,
    monitored: Sequence[bool] | None = None,
    controls: Controls = NO_CONTROLS,
    keep: bool = False,
) -> TextMonitor:
    """Trains a text monitor with its default settings; see :func:`crypsis.monitors.trained.train_monitor`.

    Raises:
        UserError: The labels have a single class, or there are too few of one to split.
    """
    train_monitor(
        TextTrainer(), texts, labels, groups, view, folder, seed, monitored=monitored, controls=controls, keep=keep
    )
    return TextMonitor(path=folder)


def _idf(counts: csr_matrix, rarest: int) -> Floats:
    """Smoothed inverse document frequency (as scikit-learn's), 0 for what is too rare."""
    frequency = np.bincount(counts.indices, minlength=counts.shape[1])
    idf: Floats = np.where(frequency >= rarest, np.log((1 + counts.shape[0]) / (1 + frequency)) + 1, 0.0)
    return idf


def _tf_idf(counts: csr_matrix, idf: Floats) -> csr_matrix:
    """Sublinear term frequency × idf, rows of length 1, columns in order."""
    ordered = counts.sorted_indices()
    return normalize(_with_values(ordered, _frequency(ordered) * idf[ordered.indices]))


def _frequency(counts: csr_matrix) -> Floats:
    """1 + log of each count, by a table: counts are small and whole."""
    places = counts.data.astype(np.int32, copy=False)
    table = 1 + np.log(np.maximum(np.arange(int(places.max(initial=0)) + 1), 1))
    frequency: Floats = table[places]
    return frequency


def _projected(counts: csr_matrix, values: Floats, slope: Floats, scale: Floats) -> Floats:
    """Rows of ``values`` × ``scale`` of their column, brought to length 1, times ``slope``, [N]."""
    lengths = np.sqrt(_with_values(counts, values * values) @ (scale * scale))
    sums: Floats = _with_values(counts, values) @ (scale * slope)
    return sums / np.where(lengths > 0, lengths, 1.0)


def _present(rows: Places, columns: Places, texts: int, slope: Floats) -> Floats:
    """Rows of which columns occur, brought to length 1, times ``slope``, [N].

    Args:
        rows: The text of each n-gram, [G].
        columns: Its column, [G].
        texts: N.
        slope: By column, [WIDTH].
    """
    keys = rows * WIDTH + columns
    keys = np.sort(keys.astype(np.int32) if texts * WIDTH < 1 << 31 else keys)
    keys = keys[np.append(True, keys[1:] > keys[:-1])] if len(keys) else keys
    found = keys // WIDTH
    sums = np.bincount(found, slope[keys % WIDTH], texts)
    shown: Floats = sums / np.sqrt(np.maximum(np.bincount(found, minlength=texts), 1))
    return shown


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
