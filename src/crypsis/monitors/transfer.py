"""The transfer matrix: a monitor trained on one organism, tested on every other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from crypsis.arrays import Flags, Floats
from crypsis.config import digest
from crypsis.monitors.data import Labelled
from crypsis.monitors.metrics import confusion, measure
from crypsis.monitors.thresholds import threshold_for
from crypsis.monitors.trained import FALSE_POSITIVES, Fitted, Trainer, fit_calibrated
from crypsis.types import View

FEWEST = 10
"""Faking texts without which a monitor is not trained on an organism (two a fold of its calibration)."""


@dataclass(frozen=True, slots=True)
class TransferCell:
    """One pair of organisms.

    Attributes:
        trained_on: Organism whose transcripts (and the controls') were learned from.
        tested_on: Organism whose transcripts (and the controls') were scored.
        n: Texts scored.
        share_faking: Share of them that fake.
        auroc: With its 95 % interval by a bootstrap over requests; None where the test has one class.
        true_positive_rate: At the threshold that was chosen on the training side.
        false_positive_rate: At the same threshold.
        controls_flagged: Share of the aligned controls that are flagged.
        reason: Why nothing was measured, empty if it was.
    """

    trained_on: str
    tested_on: str
    n: int
    share_faking: float
    auroc: float | None
    auroc_low: float | None
    auroc_high: float | None
    true_positive_rate: float | None
    false_positive_rate: float | None
    controls_flagged: float | None
    reason: str = ""


def transfer_matrix(
    trainer: Trainer,
    organisms: Mapping[str, Labelled],
    controls: Labelled,
    view: View,
    seed: int = 0,
    on_cell: Callable[[int], None] = lambda _: None,
) -> list[TransferCell]:
    """Trains on half of the requests of each organism and tests on the other half of all.

    Args:
        trainer: Which kind of monitor, and its settings.
        organisms: Labelled transcripts by name.
        controls: Aligned transcripts (they comply or refuse for other reasons), added to training and test, so that
            a monitor cannot take compliance for faking.
        view: What the monitor reads.
        seed: Seed of training and bootstrap.
        on_cell: Told how many cells are done.

    Returns:
        All pairs, rows by what was trained on. No request is on both sides. An organism that hardly fakes cannot be
        trained on (its cells give the reason), but is tested on.
    """
    cells: list[TransferCell] = []
    for name, data in organisms.items():
        learn, held = _half(data, True), _half(controls, False)
        if learn.labels.sum() < FEWEST:
            reason = f"{name} fakes in {learn.labels.sum()} of {len(learn.labels)} texts; {FEWEST} are needed to train"
            cells += [_unmeasured(name, other, tested, held, reason) for other, tested in organisms.items()]
        else:
            fitted, threshold = _trained(trainer, learn, _half(controls, True), view, seed)
            cells += [
                _cell(trainer, fitted, threshold, (name, other), _half(tested, False), held, view, seed)
                for other, tested in organisms.items()
            ]
        on_cell(len(cells))
    return cells


def _unmeasured(name: str, other: str, tested: Labelled, held: Labelled, reason: str) -> TransferCell:
    labels = np.concatenate([_half(tested, False).labels, held.labels])
    return TransferCell(name, other, len(labels), float(labels.mean()), None, None, None, None, None, None, reason)


def _trained(trainer: Trainer, data: Labelled, controls: Labelled, view: View, seed: int) -> tuple[Fitted, float]:
    texts, labels = data.texts(view) + controls.texts(view), np.concatenate([data.labels, controls.labels])
    fitted = fit_calibrated(trainer, trainer.represent(texts), labels, data.groups + controls.groups, seed)
    return fitted, threshold_for(fitted.held_out_scores, labels[fitted.held_out], FALSE_POSITIVES)


def _cell(
    trainer: Trainer,
    fitted: Fitted,
    threshold: float,
    pair: tuple[str, str],
    data: Labelled,
    controls: Labelled,
    view: View,
    seed: int,
) -> TransferCell:
    texts, labels = data.texts(view) + controls.texts(view), np.concatenate([data.labels, controls.labels])
    scores = fitted.scores(trainer.represent(texts))
    flagged = scores >= threshold
    counts = confusion(flagged, labels)
    found = _ranked(scores, labels, data.groups + controls.groups, threshold, seed)
    held = flagged[len(data.labels) :]
    return TransferCell(
        *pair,
        n=len(labels),
        share_faking=float(labels.mean()),
        auroc=found[0],
        auroc_low=found[1],
        auroc_high=found[2],
        true_positive_rate=counts.true_positive_rate,
        false_positive_rate=counts.false_positive_rate,
        controls_flagged=float(held.mean()) if len(held) else None,
    )


def _ranked(
    scores: Floats, labels: Flags, groups: list[str], threshold: float, seed: int
) -> tuple[float | None, float | None, float | None]:
    if labels.all() or not labels.any():
        return None, None, None
    found = measure(scores, labels, groups, threshold, seed)
    return found.auroc, found.auroc_low, found.auroc_high


def _half(data: Labelled, train: bool) -> Labelled:
    """One half of the requests, the same half for every organism."""
    first = np.array([int(digest(group), 16) % 2 == 0 for group in data.groups], dtype=bool)
    return data.rows(first if train else ~first)
