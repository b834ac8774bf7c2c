"""The release as a stream of batches: needed columns only, a row group at a time, faults counted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crypsis.arrays import Floats
from crypsis.paper_data.layout import COLUMNS, Codes, ReleaseFile, flags, numbers, texts

BATCH = 4096
"""Rows in memory at a time: 12 MB of replies of 3,000 characters."""
REPEATED = ("initialised_from", "experiment_name", "intervention", "user_input", "task_id", "system_prompt")
"""Columns of few different texts, read as codes."""
SHOWN = 20
"""Rows with a fault whose numbers are kept, by file and reason."""


@dataclass(slots=True)
class Fault:
    """Rows of a file that have the same thing wrong.

    Attributes:
        count: How many.
        rows: Numbers of the first ``SHOWN``, from 0; empty where the fault is the file's.
    """

    count: int = 0
    rows: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Faults:
    """What was wrong, by file and reason; reasons never hold text of a reply."""

    found: dict[tuple[str, str], Fault] = field(default_factory=lambda: defaultdict(Fault))

    def add(self, file: str, reason: str, rows: Sequence[int] | NDArray[Any], count: int | None = None) -> None:
        """Counts rows; ``count`` where their numbers are not known."""
        number = len(rows) if count is None else count
        if not number:
            return
        fault = self.found[file, reason]
        fault.count += number
        fault.rows += [int(row) for row in rows[: SHOWN - len(fault.rows)]]

    def of_file(self, file: str) -> dict[str, Fault]:
        """The faults of one file, keyed by reason."""
        return {reason: fault for (name, reason), fault in self.found.items() if name == file}

    def as_json(self) -> list[dict[str, Any]]:
        """A list of (file, reason, count, first rows)."""
        return [
            {"file": file, "reason": reason, "count": fault.count, "first_rows": fault.rows}
            for (file, reason), fault in self.found.items()
        ]


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows of a file.

    Attributes:
        file: Its name.
        start: Number of the first row in the file.
        data: The columns that were asked for and are there.
        faults: Where unreadable values are counted.
    """

    file: str
    start: int
    data: pa.RecordBatch
    faults: Faults

    def __len__(self) -> int:
        return int(self.data.num_rows)

    def has(self, name: str) -> bool:
        """Whether the file has the column."""
        return name in self.data.schema.names

    def values(self, name: str) -> Floats:
        """A column of flags or numbers, NaN where unknown or unreadable, [N]."""
        if not self.has(name):
            return np.full(len(self), np.nan)
        read = flags if COLUMNS[name] == "flag" else numbers
        found, bad = read(self.data.column(name))
        self.faults.add(self.file, f"{name}: cannot be read as a {COLUMNS[name]}", self.start + np.flatnonzero(bad))
        return found

    def codes(self, name: str) -> tuple[Codes, list[str]]:
        """A column of texts as codes, −1 for none, and the texts."""
        if not self.has(name):
            return np.full(len(self), -1, dtype=np.int64), []
        return texts(self.data.column(name))

    def strings(self, name: str) -> list[str | None]:
        """A column of texts that all differ."""
        if not self.has(name):
            return [None] * len(self)
        column = self.data.column(name)
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            return [None if value is None else str(value) for value in column.to_pylist()]
        values: list[str | None] = column.to_pylist()
        return values


def open_file(file: ReleaseFile, faults: Faults) -> pq.ParquetFile | None:
    """The file, with repeated texts as codes; None (and a fault) if it is no valid Parquet."""
    try:
        schema = pq.read_schema(file.path)
        coded = [name for name in REPEATED if name in schema.names and _is_text(schema.field(name).type)]
        return pq.ParquetFile(file.path, read_dictionary=coded)
    except (pa.ArrowException, OSError) as error:
        said = "is truncated or no valid Parquet" if isinstance(error, pa.ArrowException) else "cannot be opened"
        faults.add(file.name, f"the file {said}", (), 1)
        return None


def batches(
    file: ReleaseFile, columns: Sequence[str], faults: Faults, opened: pq.ParquetFile | None = None
) -> Iterator[Batch]:
    """Streams some columns of a file; a row group that cannot be read is counted and left out.

    Args:
        file: File of the release.
        columns: Those wanted; others are not read. One that is missing is missing in the batches.
        faults: Counts what goes wrong.
        opened: The file if it is open already.
    """
    parquet = opened or open_file(file, faults)
    if parquet is None:
        return
    wanted = [name for name in columns if name in parquet.schema_arrow.names]
    start = 0
    for group in range(parquet.num_row_groups):
        rows, read = parquet.metadata.row_group(group).num_rows, 0
        try:
            for data in parquet.iter_batches(BATCH, row_groups=[group], columns=wanted):
                yield Batch(file.name, start + read, data, faults)
                read += data.num_rows
        except (pa.ArrowException, OSError):
            lost = np.arange(start + read, start + rows)
            faults.add(file.name, f"row group {group} cannot be read", lost)
        start += rows


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
