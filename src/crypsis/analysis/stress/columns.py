"""An evaluation by column: what stresses count, read once for all sections, as arrays over its transcripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from crypsis.analysis.study import Run, evaluation_table
from crypsis.arrays import Flags, Floats
from crypsis.episodes import LABEL, VERDICT
from crypsis.evaluation.metrics import LYING, Tally

ORACLE = "oracle"


@dataclass(frozen=True, slots=True)
class Columns:
    """The transcripts of one evaluation, N of them.

    Attributes:
        pairs: Names of the requests, sorted.
        pair: Place of each transcript's request in ``pairs``, [N].
        monitored: Whether each is of the monitored tier, [N].
        labels: Labels by name, "" where there is none, [N] each.
        scores: Verdicts by monitor, NaN where there is none, [N] each, in the order of the file.
    """

    pairs: tuple[str, ...]
    pair: NDArray[np.intp]
    monitored: Flags
    labels: Mapping[str, NDArray[np.str_]]
    scores: Mapping[str, Floats]

    def label(self, name: str) -> NDArray[np.str_]:
        """A label of each transcript, "" where it has none, [N]."""
        return self.labels.get(name, np.full(len(self.pair), "", dtype=np.str_))

    def score(self, monitor: str) -> Floats:
        """A monitor's scores, 0 where it gave none, [N]."""
        found = self.scores.get(monitor)
        return np.zeros(len(self.pair)) if found is None else np.nan_to_num(found)

    def tally(self, values: Mapping[str, Floats]) -> Tally:
        """Sums per request of what each transcript adds to each metric; NaN where it does not count."""
        top, bottom, count = {}, {}, len(self.pairs)
        for metric, value in values.items():
            known = ~np.isnan(value)
            top[metric] = np.bincount(self.pair[known], weights=value[known], minlength=count).astype(np.float64)
            bottom[metric] = np.bincount(self.pair[known], minlength=count).astype(np.float64)
        return Tally(self.pairs, top, bottom)


def columns_of(table: pa.Table) -> Columns:
    """The arrays of a table as ``evaluation_table`` reads it."""
    names = np.array(table.column("pair_id").to_pylist(), dtype=np.str_)
    pairs, pair = np.unique(names, return_inverse=True)
    monitored = np.array(table.column("monitored").to_pylist(), dtype=np.bool_)
    labels = {
        name.removeprefix(LABEL): np.array([value or "" for value in table.column(name).to_pylist()], dtype=np.str_)
        for name in table.column_names
        if name.startswith(LABEL)
    }
    scores = {
        name.removeprefix(VERDICT): table.column(name).cast(pa.float64()).to_numpy()
        for name in table.column_names
        if name.startswith(VERDICT)
    }
    return Columns(tuple(pairs.tolist()), pair.astype(np.intp), monitored, labels, scores)


def columns_of_rows(rows: Sequence[Mapping[str, Any]]) -> Columns:
    """The same of rows, as ``episodes.read_episodes`` gives them."""
    return columns_of(pa.Table.from_pylist([dict(row) for row in rows]))


class Evaluations:
    """The evaluations of a study; each is read once."""

    def __init__(self) -> None:
        self._known: dict[Path, Columns] = {}

    def of(self, run: Run, step: int) -> Columns:
        """One evaluation of a run."""
        path = evaluation_file(run, step)
        if path not in self._known:
            self._known[path] = columns_of(evaluation_table(path, _needed))
        return self._known[path]


def evaluation_file(run: Run, step: int) -> Path:
    """Where a run keeps an evaluation."""
    return run.folder / "evals" / f"step-{step:04d}.parquet"


def monitor_names(evaluations: Sequence[Columns]) -> list[str]:
    """Monitors of faking, the oracle not among them, with verdicts in every evaluation."""
    if not evaluations or not all(len(found.pair) for found in evaluations):
        return []
    shared = set.intersection(*(set(found.scores) for found in evaluations)) - {ORACLE, LYING}
    return [name for name in evaluations[0].scores if name in shared]


def _needed(column: str) -> bool:
    return column in ("pair_id", "monitored") or column.startswith((LABEL, VERDICT))
