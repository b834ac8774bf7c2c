"""Terms that reach the policy later than their episodes: off-policy rows from the stored rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crypsis.episodes import DELAYED, read_episodes
from crypsis.mitigations.base import Mitigation
from crypsis.rl.advantages import group_advantages
from crypsis.rl.rewards import term_names


def rollouts_path(folder: Path, step: int) -> Path:
    """Where a run folder keeps the episodes of a step (from 1)."""
    return folder / "rollouts" / f"step-{step:04d}.parquet"


def delayed_rows(
    folder: Path, step: int, mitigations: Sequence[Mitigation], group_size: int
) -> list[tuple[dict[str, Any], float]]:
    """Stored episodes whose delayed terms arrive in a step, each with the advantage that these terms give it.

    Episodes of a group are compared with each other in the delayed terms alone. Without division by the group's
    deviation, which delayed terms exclude, the advantage of a sum of terms is the sum of their advantages: with a
    delay of 0 this would be the ordinary update.

    Args:
        folder: The run folder, whose rollouts hold token ids.
        step: The step that is being taken.
        mitigations: Those of the run.
        group_size: Episodes a group.
    """
    found: list[tuple[dict[str, Any], float]] = []
    names = list(zip(term_names(mitigations), mitigations, strict=True))
    for delay in sorted({m.lag for m in mitigations if m.lag}):
        if step <= delay:
            continue
        arriving = [DELAYED + name for name, m in names if m.lag == delay]
        rows = read_episodes(rollouts_path(folder, step - delay))
        totals = [_total(row, arriving) for row in rows]
        advantages = group_advantages(totals, group_size, "none").advantages
        found += [(row, advantage) for row, advantage in zip(rows, advantages, strict=True) if advantage]
    return found


def _total(row: dict[str, Any], columns: Sequence[str]) -> float | None:
    values = [row.get(column) for column in columns]
    if row["dropped"] or all(value is None for value in values):
        return None
    return float(sum(value for value in values if value is not None))
