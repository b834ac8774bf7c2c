"""Splits in which no prompt is on both sides and every part has both classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from crypsis.arrays import Flags
from crypsis.types import UserError

Rows = NDArray[np.int64]
"""Numbers of texts."""


class TooFewError(UserError):
    """There are too few examples of a class to train on."""


def group_folds(labels: Flags, groups: Sequence[str], folds: int, seed: int) -> list[Rows]:
    """Held-out rows of each fold: classes balanced, no group in two folds.

    Raises:
        UserError: There are fewer groups, or fewer texts of a class, than folds.
    """
    fewest = int(min(labels.sum(), (~labels).sum()))
    if folds < 2 or fewest < folds:
        raise UserError(
            f"{folds} folds need at least {max(2, folds)} texts of each class; there are {labels.sum()} faking and "
            f"{(~labels).sum()} not; lower --folds or add data"
        )
    if len(set(groups)) < folds:
        raise UserError(f"{folds} folds need at least {folds} prompts, there are {len(set(groups))}; lower --folds")
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    parts = [held for _, held in splitter.split(np.zeros(len(labels)), labels, np.asarray(groups))]
    if any(len(part) == 0 for part in parts):
        raise UserError(f"the prompts are too unequal for {folds} folds (one would be empty); lower --folds")
    return parts


def both_classes(part: Flags, labels: Flags, groups: Sequence[str]) -> None:
    """Refuses a split with a part that has a single class, as where a class comes from very few prompts.

    Args:
        part: Labels of the part.
        labels: All labels.
        groups: The prompt of each.

    Raises:
        TooFewError: It has.
    """
    if part.any() and not part.all():
        return
    prompts = {
        kind: len({g for g, label in zip(groups, labels, strict=True) if label == kind}) for kind in (True, False)
    }
    raise TooFewError(
        f"a part of the split has texts of one class alone: the {int(labels.sum())} texts that fake are of "
        f"{prompts[True]} prompts and the {int((~labels).sum())} others of {prompts[False]}; add prompts, or say with "
        "--group-field what must be kept together"
    )
