"""What ``crypsis data check`` prints and writes of a release."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from crypsis.paper_data.check import FileCheck, ReleaseCheck
from crypsis.types import visible


def check_table(found: ReleaseCheck) -> Table:
    """One row per file: what it holds."""
    table = Table(title="Files", pad_edge=False)
    for name in ("organism", "intervention"):
        table.add_column(name, overflow="fold")
    table.add_column("context")
    for name in ("rows", "steps", "requests", "paired", "faults"):
        table.add_column(name, justify="right")
    for file in found.files:
        faults = sum(fault.count for fault in found.faults.of_file(file.name).values())
        steps = f"{min(file.steps)}–{max(file.steps)} ({len(file.steps)})" if file.steps else "–"
        cells = (
            ", ".join(file.organisms) or file.name,
            ", ".join(file.interventions) or "–",
            file.context,
            f"{file.rows:,}",
            steps,
            f"{file.requests:,}",
            "–" if file.paired is None else f"{file.paired:.0%}",
            f"{faults:,}" if faults else "–",
        )
        table.add_row(*(Text(visible(cell)) for cell in cells))
    return table


def check_lines(found: ReleaseCheck) -> Iterator[str]:
    """Everything under the table, a line each."""
    yield from (f"expected: {visible(line)}" for line in found.expected)
    for file in found.files:
        yield from (f"{visible(file.name)}: {line}" for line in map(visible, _of_file(file)))
    for (name, reason), fault in found.faults.found.items():
        shown = ", ".join(map(str, fault.rows))
        more = ", …" if fault.count > len(fault.rows) > 0 else ""
        rows = "1 row" if fault.count == 1 else f"{fault.count:,} rows"
        where = f"{rows} (from 0: {shown}{more}): " if fault.rows else ""
        yield f"{visible(name)}: {where}{visible(reason)}"
    for twins in found.twins:
        same = f"{twins.shared:,} of {twins.rows:,} rows are the same"
        yield f"{visible(twins.first)} and {visible(twins.second)}: {same}"
    if found.decrypted is not None:
        yield f"{found.decrypted:,} of {found.rows:,} replies decrypted in memory"
    lost = sum(fault.count for fault in found.faults.found.values())
    twice = f"{len(found.twins)} duplicates between folders"
    yield f"{len(found.files)} files, {found.rows:,} rows, {lost:,} faults, {twice}"


def check_json(found: ReleaseCheck) -> dict[str, Any]:
    """The same for programs; it holds no text of a reply."""
    files = [asdict(file) | {name: dict(getattr(file, name)) for name in COUNTED} for file in found.files]
    return {
        "rows": found.rows,
        "decrypted": found.decrypted,
        "expected": list(found.expected),
        "files": [file | {"steps": {str(k): v for k, v in sorted(file["steps"].items())}} for file in files],
        "faults": found.faults.as_json(),
        "duplicates": [asdict(twins) for twins in found.twins],
    }


COUNTED = ("organisms", "interventions", "steps", "nulls")
"""Fields of a file that are counters."""


def _of_file(file: FileCheck) -> Iterator[str]:
    yield from file.notes
    if file.missing:
        yield f"columns missing: {', '.join(file.missing)}"
    if file.unknown:
        yield f"columns that the layout lacks: {', '.join(file.unknown)}"
    for name, kind in file.types.items():
        yield f"{name}: comes as {kind}; read all the same"
    for name, count in file.nulls.items():
        yield f"{name}: {count:,} nulls"
    if file.paired is not None and file.paired < 1:
        yield f"{1 - file.paired:.1%} of requests stand in one tier only at a step"
    if file.requests and file.steps and file.every_step < file.requests:
        yield f"{file.every_step} of {file.requests} requests stand at every step"
