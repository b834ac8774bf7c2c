"""Repeated cross-validation of a monitor: every step that learns is done within the fold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_auc_score

from crypsis.arrays import Flags, Floats
from crypsis.monitors.folds import group_folds
from crypsis.monitors.thresholds import threshold_for
from crypsis.monitors.trained import FALSE_POSITIVES, Trainer, fit_calibrated, take


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """Out-of-fold scores of all repeats.

    Attributes:
        scores: Calibrated p(AF) by repeat and text, [R, N], by monitors that saw neither the text nor its prompt.
        thresholds: The threshold of that monitor, [R, N], chosen on its own training texts (out of fold).
        fold_aurocs: AUROC of each fold of each repeat in which both classes occur.
        repeat_aurocs: Their mean in each repeat.
    """

    scores: Floats
    thresholds: Floats
    fold_aurocs: tuple[float, ...]
    repeat_aurocs: tuple[float, ...]

    @property
    def auroc(self) -> float:
        """Mean over folds and repeats, as scikit-learn's ``cross_val_score`` reports it."""
        return float(np.mean(self.fold_aurocs))


def cross_validate(
    trainer: Trainer,
    texts: Sequence[str],
    labels: Flags,
    groups: Sequence[str],
    folds: int,
    repeats: int,
    seed: int = 0,
    budget: float = FALSE_POSITIVES,
    on_fold: Callable[[int], None] = lambda _: None,
) -> CrossValidation:
    """Trains, calibrates and chooses the threshold anew in each fold of each repeat.

    Args:
        trainer: Which kind, and its settings.
        texts: What the monitor reads, [N].
        labels: Whether each text fakes, [N].
        groups: The prompt of each text; no prompt is on both sides of a fold.
        folds: Parts of a repeat.
        repeats: Shuffles.
        seed: Seed of shuffles and training.
        budget: Share of false positives that the threshold allows on the training texts.
        on_fold: Told how many folds are done.

    Raises:
        UserError: Too few texts or prompts for the folds.
    """
    features = trainer.represent(texts)
    scores, thresholds = np.zeros((repeats, len(texts))), np.zeros((repeats, len(texts)))
    aurocs: list[list[float]] = []
    for repeat in range(repeats):
        aurocs.append([])
        for number, held in enumerate(group_folds(labels, groups, folds, seed + repeat)):
            learn = np.setdiff1d(np.arange(len(texts)), held)
            fitted = fit_calibrated(trainer, take(features, learn), labels[learn], [groups[i] for i in learn], seed)
            scores[repeat, held] = fitted.scores(take(features, held))
            known = labels[learn][fitted.held_out]
            thresholds[repeat, held] = threshold_for(fitted.held_out_scores, known, budget)
            if labels[held].any() and not labels[held].all():
                aurocs[-1].append(float(roc_auc_score(labels[held], scores[repeat, held])))
            on_fold(repeat * folds + number + 1)
    flat = tuple(a for repeat in aurocs for a in repeat)
    return CrossValidation(scores, thresholds, flat, tuple(float(np.mean(a)) for a in aurocs if a))
