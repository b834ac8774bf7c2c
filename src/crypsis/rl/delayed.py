"""Terms that reach the policy later than their episodes: off-policy rows from the stored rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from crypsis.episodes import DELAYED, read_episodes, rollouts_path
from crypsis.mitigations.base import Mitigation, term_names
from crypsis.mitigations.hooks import SEGMENTS, delay_of
from crypsis.rl.advantages import group_advantages
from crypsis.rl.engine.scoring import TrainRow
from crypsis.rl.rows import kl_mask
from crypsis.types import Learn


def delayed_rows(
    folder: Path, step: int, mitigations: Sequence[Mitigation], learn: Learn, kl_on: Learn | None = None
) -> list[TrainRow]:
    """Rows of earlier steps whose delayed terms arrive now, each with the advantage that these terms give it.

    Episodes of a group are compared with each other in the delayed terms alone. Without division by the group's
    deviation, which delayed terms exclude, the advantage of a sum of terms is the sum of their advantages. The mean
    over tokens is over the step's own rows and these together, so that each count for less than without the others.

    Args:
        folder: The run folder, whose rollouts hold token ids.
        step: The step that is being taken.
        mitigations: Those of the run.
        learn: Which segments learn.
        kl_on: Which of them the KL penalty is on; all if None.
    """
    found: list[TrainRow] = []
    names = list(zip(term_names(mitigations), mitigations, strict=True))
    for delay in sorted({delay_of(m) for m in mitigations} - {0}):
        if step <= delay:
            continue
        arriving = [DELAYED + name for name, m in names if delay_of(m) == delay]
        rows = read_episodes(rollouts_path(folder, step - delay))
        totals = [(row["group"], _total(row, arriving)) for row in rows]
        groups = [[total for _, total in group] for _, group in groupby(totals, itemgetter(0))]
        advantages = group_advantages(groups, "none").advantages
        found += [_row(row, a, learn, kl_on) for row, a in zip(rows, advantages, strict=True) if a]
    return found


def _row(row: dict[str, Any], advantage: float, learn: Learn, kl_on: Learn | None) -> TrainRow:
    mask = [int(segment in SEGMENTS[learn]) for segment in row["segments"]]
    on = kl_mask(row["segments"], kl_on)
    ids = (row["prompt_ids"], row["completion_ids"])
    return TrainRow(*ids, mask, advantage, row["logprobs"], off_policy=True, kl_mask=on)


def _total(row: dict[str, Any], columns: Sequence[str]) -> float | None:
    values = [row.get(column) for column in columns]
    if row["dropped"] or all(value is None for value in values):
        return None
    return float(sum(value for value in values if value is not None))
