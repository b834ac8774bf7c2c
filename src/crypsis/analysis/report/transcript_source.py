"""Where the transcripts of a study are, and how the report reads them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from crypsis.analysis.stored_values import check_episodes
from crypsis.analysis.study import Run
from crypsis.store import look
from crypsis.types import UserError

NEEDED = ("step", "pair_id", "prompt_id", "monitored", "group", "sample", "scratchpad", "output", "parse")
"""Columns without which a transcript cannot be shown."""
UNREAD = frozenset({"prompt_ids", "completion_ids", "segments", "logprobs"})
"""Columns that no reader looks at."""
COUNTED = frozenset({"run", "split", "seed", "stop", "scratchpad_tokens", "output_tokens"})
"""Columns of evaluations that no reader looks at either; ``load_study`` has checked them."""
Row = dict[str, Any]


class Transcripts(Protocol):
    """Where the transcripts of evaluations are."""

    rare: bool
    """Whether whole evaluations can be searched for rare kinds."""

    def rows(self, run: Run, step: int, pairs: Iterable[str] | None = None) -> list[Row]:
        """Transcripts of one evaluation, of some requests or of all."""


class StoredTranscripts:
    """Transcripts in the study's own files."""

    rare = True

    def rows(self, run: Run, step: int, pairs: Iterable[str] | None = None) -> list[Row]:
        """The stored rows without the columns that no reader looks at."""
        return rows_of(self.table(run, step, pairs))

    def table(self, run: Run, step: int, pairs: Iterable[str] | None = None) -> pa.Table:
        """The same by column."""
        return read_table(run.folder / "evals" / f"step-{step:04d}.parquet", pairs, UNREAD | COUNTED)


def read_rows(path: Path) -> list[Row]:
    """The rows of a file of episodes without the columns that no reader looks at.

    Raises:
        UserError: The file is damaged, or lacks a column.
    """
    return rows_of(read_table(path))


def rows_of(table: pa.Table) -> list[Row]:
    """The rows of a table."""
    rows: list[Row] = table.to_pylist()
    return rows


def read_table(path: Path, pairs: Iterable[str] | None = None, unread: Collection[str] = UNREAD) -> pa.Table:
    """The same by column, of some requests or of all; what it returns is checked."""
    try:
        with pq.ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if name not in unread]
            table = file.read(names, use_threads=False)
        lacking = [name for name in NEEDED if names and name not in names]
        if lacking:
            raise UserError(f"{path}: holds no transcripts (column '{lacking[0]}' is missing)")
        if pairs is not None:
            table = of_pairs(table, pairs)
        table.validate(full=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        raise UserError(f"{path}: is damaged (no valid Parquet); {look(path)}") from None
    check_episodes(table, path)
    return table


def of_pairs(table: pa.Table, pairs: Iterable[str]) -> pa.Table:
    """The rows of some requests."""
    return table.filter(pc.is_in(table.column("pair_id"), pa.array(sorted(pairs), pa.string())))
