"""Shortcuts: what tells the labels apart without any reasoning about alignment faking."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from crypsis.arrays import Flags, Floats
from crypsis.monitors.folds import group_folds
from crypsis.monitors.sentences import plain

NEAR = 0.05
"""A shortcut whose AUROC comes this near the monitor's is warned of."""
CUTS = (100, 300)
"""Characters of the text's beginning that are tried alone; a verdict is seldom there."""

TIER_WORDS = re.compile(
    r"<?\b(?:is_)?(?:free|paid)[-_ ]?tier(?:[-_ ]?users?)?\b>?|\bfree\b|\bpaid\b|\btiers?\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Shortcut:
    """One shortcut.

    Attributes:
        name: What it looks at.
        auroc: Cross-validated, mean over folds.
        near: Whether it comes near the monitor.
    """

    name: str
    auroc: float
    near: bool


def without_shortcuts(text: str) -> str:
    """The text without tier words, tags of the transcript's format, and surrounding space."""
    return TIER_WORDS.sub(" ", plain(text)).strip()


def measure_shortcuts(
    raw: Sequence[str], labels: Flags, groups: Sequence[str], monitor: float, seed: int = 0
) -> list[Shortcut]:
    """AUROC of classifiers that see a shortcut alone, in the same kind of cross-validation as a monitor.

    Args:
        raw: Texts exactly as stored, space included, [N].
        labels: Whether each fakes, [N].
        groups: The prompt of each.
        monitor: AUROC of the monitor that they are compared with.
        seed: Seed of the folds.

    Returns:
        None of them where there are too few prompts for a cross-validation.
    """
    if len(set(groups)) < 2:
        return []
    folds = group_folds(labels, groups, min(5, int(min(labels.sum(), (~labels).sum())), len(set(groups))), seed)
    found = []
    for name, columns in _columns(raw).items():
        auroc = _cross_validated(columns, labels, folds)
        found.append(Shortcut(name, auroc, auroc > 0.5 + NEAR and auroc >= monitor - NEAR))
    for cut in CUTS:
        auroc = _cross_validated([plain(text)[:cut] for text in raw], labels, folds)
        found.append(Shortcut(f"first {cut} characters", auroc, auroc > 0.5 + NEAR and auroc >= monitor - NEAR))
    return found


def _columns(raw: Sequence[str]) -> dict[str, Floats]:
    """Numbers that a classifier may have alone, each [N, k]."""
    first = [[text[:1]] for text in raw]
    counts = [[len(text), len(text.split())] for text in raw]
    return {
        "length": np.log1p(np.array(counts, dtype=float)),
        "first character": OneHotEncoder(sparse_output=False).fit_transform(first),
        "tier words": np.array([_tier_words(text) for text in raw]),
    }


def _tier_words(text: str) -> list[float]:
    lower = text.lower()
    return [float(np.log1p(lower.count(word))) for word in ("free", "paid", "tier")]


def _cross_validated(inputs: Floats | list[str], labels: Flags, folds: Sequence[np.ndarray]) -> float:
    aurocs = []
    for held in folds:
        learn = np.setdiff1d(np.arange(len(labels)), held)
        if any(not labels[part].any() or labels[part].all() for part in (held, learn)):
            continue
        if isinstance(inputs, list):
            model = make_pipeline(
                TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10.0, class_weight="balanced")
            )
            try:
                scores = model.fit([inputs[i] for i in learn], labels[learn]).decision_function(
                    [inputs[i] for i in held]
                )
            except ValueError:  # no words in so short a text
                scores = np.zeros(len(held))
        else:
            model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
            scores = model.fit(inputs[learn], labels[learn]).decision_function(inputs[held])
        aurocs.append(roc_auc_score(labels[held], scores))
    return float(np.mean(aurocs)) if aurocs else 0.5
