"""Rows of a file of any table format, and a look at the first of them."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crypsis.textfiles import Repairs, Row, repaired, tabular_rows
from crypsis.types import UserError

FIRST = 50
"""Rows that a layout is recognised by."""
_TOKEN_COLUMNS = ("prompt_ids", "completion_ids", "segments", "logprobs")
"""Columns of our own rollouts that no reader of text needs."""


def table_rows(path: Path, repairs: Repairs) -> Iterator[Row]:
    """Rows of a JSONL, JSON, CSV or Parquet file, one at a time.

    Raises:
        UserError: The file cannot be read, or a row is at fault.
    """
    if path.suffix.lower() == ".parquet":
        yield from _parquet_rows(path, repairs)
    else:
        yield from tabular_rows(path, repairs)


def first_rows(path: Path) -> list[dict[str, Any]]:
    """The first rows of a file, as far as it can be read as a table."""
    try:
        stat = path.stat()
    except OSError:
        return []
    return list(_first_rows(path, stat.st_mtime_ns, stat.st_size))


@functools.lru_cache(maxsize=2)
def _first_rows(path: Path, changed: int, size: int) -> tuple[dict[str, Any], ...]:
    """A cache for the file at hand, which every reader is asked about."""
    if path.suffix.lower() == ".eval":
        return ()
    rows: list[dict[str, Any]] = []
    with contextlib.suppress(UserError):  # whoever reads the file meets the fault again
        rows += (row.values for row in itertools.islice(table_rows(path, Repairs()), FIRST))
    return tuple(rows)


def fault_of(path: Path) -> str:
    """Why no row of a file can be read, in a line that begins with the file."""
    try:
        empty = next(table_rows(path, Repairs()), None) is None
    except UserError as error:
        return str(error)
    return f"{path}: holds no rows" if empty else f"{path}: no reader knows its layout"


def _parquet_rows(path: Path, repairs: Repairs) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if name not in _TOKEN_COLUMNS]
            number = 0
            for batch in file.iter_batches(batch_size=1024, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}:{number}", repaired(row, repairs))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, UnicodeError):
        raise UserError(f"{path}: is damaged or no Parquet file") from None
