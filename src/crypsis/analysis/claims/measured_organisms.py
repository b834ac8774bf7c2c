"""What ``crypsis organism table`` measured, read from its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crypsis.episodes import read_episodes
from crypsis.evaluation.metrics import Tally, tabulate
from crypsis.store import read_json

Rows = list[Mapping[str, Any]]
Seeds = dict[int, Tally]
THRESHOLDS = {"oracle": 0.5}
EVALUATION = "evals/step-0000.parquet"
FEWEST = 8
"""Scratchpads of a kind that a seed needs to take part in the comparison of lengths."""


class OrganismTable:
    """What is in the table's folder, read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[tuple[str, str], dict[int, Rows]] = {}

    def names(self) -> list[str]:
        """Rows of the table that have at least one measured seed."""
        return sorted({p.parents[3].name for p in self._folder.glob(f"*/seed*/canonical/{EVALUATION}")})

    def rows(self, name: str, variant: str = "canonical") -> dict[int, Rows]:
        """The episodes of one organism in one variant of the scenario, keyed by seed."""
        if (name, variant) not in self._read:
            files = sorted(self._folder.glob(f"{name}/seed*/{variant}/{EVALUATION}"))
            seeds: dict[int, Rows] = {
                int(file.parents[2].name.removeprefix("seed")): list(read_episodes(file)) for file in files
            }
            self._read[name, variant] = seeds
        return self._read[name, variant]

    def tallies(self, name: str, variant: str = "canonical") -> Seeds:
        """The sums behind the metrics, keyed by seed."""
        return {seed: tabulate(rows, THRESHOLDS) for seed, rows in self.rows(name, variant).items()}

    def seconds(self, name: str) -> list[float]:
        """CPU seconds of the seeds that were built, not found in the cache."""
        return [read_json(p)["cpu_seconds"] for p in sorted(self._folder.glob(f"{name}/seed*/timing.json"))]
