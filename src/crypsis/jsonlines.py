"""Files of JSON lines that grow while a run works: metrics, and what resumes from them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crypsis.digests import start_anew
from crypsis.disk import disk_faults, write_atomic
from crypsis.types import UserError


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Adds one JSON line and syncs it to disk."""
    append_line(path, json.dumps(row))


def append_line(path: Path, line: str) -> None:
    """Adds one line and syncs it to disk."""
    with disk_faults(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All JSON lines of a file; a last line cut by a kill is left out.

    Raises:
        UserError: Another line is no JSON object; with its number.
    """
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    *lines, last = path.read_bytes().split(b"\n")  # nothing stands after the last line feed, or a line cut by a kill
    for number, line in enumerate([*lines, *([last] if last else [])], 1):
        try:
            row = json.loads(line.decode())
            if not isinstance(row, dict):
                raise ValueError
            rows.append(row)
        except (ValueError, RecursionError):
            if number <= len(lines):
                raise UserError(f"{path}:{number}: is damaged (no JSON); {start_anew(path.parent)}") from None
    return rows


def read_steps(path: Path, steps: int | None = None) -> list[dict[str, Any]]:
    """The rows of a file of metrics, after a look at whether each step from the first on is there once.

    Args:
        path: The file.
        steps: How many there must be; None for any number.

    Raises:
        UserError: A line is damaged, missing or there twice.
    """
    rows = read_rows(path)
    for number, row in enumerate(rows, 1):
        if row.get("step") != number:
            raise UserError(
                f"{path}:{number}: is the row of step {row.get('step')} and not of step {number}; "
                f"{start_anew(path.parent)}"
            )
    if steps is not None and len(rows) != steps:
        raise UserError(f"{path}: has {len(rows)} rows and not the {steps} that were stored; {start_anew(path.parent)}")
    return rows


def keep_rows(path: Path, last_step: int, known: str = "") -> list[dict[str, Any]]:
    """Drops the rows after ``last_step``, which a resumed run will write again.

    Args:
        path: The file.
        last_step: The last one that stays.
        known: ``rows_digest`` of the rows up to there, if it was stored.

    Returns:
        The rows that are left.

    Raises:
        UserError: A row up to ``last_step`` is damaged, missing or there twice.
    """
    rows = read_steps(path)[:last_step]
    if len(rows) < last_step:
        raise UserError(f"{path}: has {len(rows)} rows, but {last_step} steps were done; {start_anew(path.parent)}")
    if known and known != rows_digest(rows):
        raise UserError(f"{path}: is damaged (its rows are not those that were stored); {start_anew(path.parent)}")
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))
    return rows


def rows_digest(rows: Sequence[Mapping[str, Any]]) -> str:
    """Digest of rows of metrics."""
    return hashlib.sha256("".join(json.dumps(row) + "\n" for row in rows).encode()).hexdigest()[:16]
