"""What verbs print about stored transcripts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console


def evaluate_stored_transcripts(
    path: Path, layout: str | None, compliance_field: str | None, out: Path | None, console: Console
) -> None:
    """Prints compliance by tier and the gap of stored transcripts, with what to know before trusting them."""
    from crypsis.study.jobs.stored_transcripts import evaluate_stored
    from crypsis.transcripts.base import ReadOptions

    options = ReadOptions(view="output", text_needed=False, layout=layout)
    table, figures = evaluate_stored(path, options, compliance_field, out)
    console.print(table)
    show_lines(console, [f"note: {line}" for line in figures.notes])
    show_lines(console, [f"warning: {line}" for line in figures.warnings])
    show_lines(console, ["intervals: 95 %, normal, over requests; labels are the data's own"])
    if out is not None:
        show_lines(console, [f"figures: {out / 'result.json'}"])


def show_lines(console: Console, lines: Iterable[str]) -> None:
    """Prints lines as they are, characters that act on the terminal shown by their code point."""
    from crypsis.types import visible

    for line in lines:
        console.print(visible(line), markup=False, highlight=False, soft_wrap=True)
