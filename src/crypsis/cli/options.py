"""What the verbs share: options, their checks, and showing a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from crypsis.types import UserError

Out = Annotated[Path, typer.Option("--out", help="Folder to write to.")]
ExistsOption = Annotated[str, typer.Option("--exists", help="If the folder is there: resume, overwrite or error.")]
Settings = Annotated[list[str] | None, typer.Argument(metavar="[key=value]...", help="Settings to change.")]
MaybeOut = Annotated[Path | None, typer.Option("--out", help="Folder to write to; one below runs/ by default.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]

OrganismsTable = Annotated[
    Path | None, typer.Option("--organisms", help="Folder of `crypsis organism table`, for claims about it.")
]
ClaimsOption = Annotated[Path | None, typer.Option("--claims", help="Claims of your own; the paper's by default.")]


def exists_mode(value: str) -> Any:
    """The value of --exists, checked."""
    return choice(value, "--exists", ("resume", "overwrite", "error"))


def choice(value: str, option: str, known: tuple[str, ...]) -> Any:
    """The value of an option with few values, checked."""
    from crypsis.config import did_you_mean

    if value not in known:
        raise UserError(f"{option}: '{value}' is none of its values{did_you_mean(value, known)}")
    return value


def show_scorecard(results: Any, console: Console, file: str) -> None:
    """Prints the scorecard, or where no claim could be decided only how many there are; ``file`` says why."""
    from crypsis.analysis.claims.scorecard_output import absent_lines, entries, scorecard_table, undecided_line

    console.print(undecided_line(results, file) or scorecard_table(results, file))
    for line in absent_lines(entries(results)):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def show_report(
    folder: Path,
    console: Console,
    organisms: Path | None = None,
    claims: Path | None = None,
    decrypted: bool = False,
) -> None:
    """Writes a folder's report and scorecard and prints their tables."""
    from crypsis.analysis.claims.scorecard import score
    from crypsis.analysis.claims.scorecard_figure import keep_scorecard
    from crypsis.analysis.claims.scorecard_output import CLAIMS
    from crypsis.analysis.release.transcripts import WARNING, ReleasedTranscripts
    from crypsis.analysis.report.differences import code_differences, seed_differences
    from crypsis.analysis.report.html import terminal_table, write_report
    from crypsis.analysis.study import load_study
    from crypsis.analysis.summary import summarise

    study = load_study(folder)
    results = score([study], organisms, claims)
    keep_scorecard(study, results)
    summary = summarise(study)
    transcripts = ReleasedTranscripts(study) if decrypted and study.imported else None
    page = write_report(folder, summary, transcripts)
    console.print(terminal_table(summary))
    show_scorecard(results, console, CLAIMS)
    for line in [*code_differences(summary), *seed_differences(summary)]:
        console.print(f"note: {line}", soft_wrap=True, markup=False, highlight=False)
    if transcripts is not None:
        console.print(WARNING, soft_wrap=True, markup=False, highlight=False)
    console.print(f"report: {page.resolve()}", soft_wrap=True, markup=False, highlight=False)
