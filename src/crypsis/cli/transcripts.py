"""What verbs print about stored transcripts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from crypsis.cli.console import print_json
from crypsis.cli.options import exists_mode


def evaluate_stored_transcripts(
    path: Path,
    reading: dict[str, str | None],
    compliance_field: str | None,
    out: Path | None,
    console: Console,
    as_json: bool,
    exists: str = "resume",
) -> None:
    """Prints compliance by tier and the gap of stored transcripts, with what to know before trusting them.

    Args:
        path: File or folder.
        reading: ``layout``, ``text_field`` and ``tags`` as the command was given them.
        compliance_field: Field of the label of compliance, where it has no usual name.
        out: Folder for ``result.json``.
        console: Where it is printed.
        as_json: Print one document in place of table and lines.
        exists: What to do with a folder that is there.

    Raises:
        UserError: Nothing can be read or measured, or the tags are no pair.
    """
    from crypsis.study.jobs.stored_transcripts import evaluate_stored
    from crypsis.transcripts.base import ReadOptions, parse_tags

    options = ReadOptions(
        view="output", text_needed=False, layout=reading["layout"], text_field=reading["text_field"],
        tags=parse_tags(reading["tags"]),
    )  # fmt: skip
    table, figures = evaluate_stored(path, options, compliance_field, out, exists_mode(exists))
    if as_json:
        print_json("evaluate_transcripts", **figures.as_json)
        return
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
