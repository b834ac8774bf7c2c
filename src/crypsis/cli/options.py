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


def exists_mode(value: str) -> Any:
    """The value of --exists, checked."""
    return choice(value, "--exists", ("resume", "overwrite", "error"))


def choice(value: str, option: str, known: tuple[str, ...]) -> Any:
    """The value of an option with few values, checked."""
    from crypsis.config import did_you_mean

    if value not in known:
        raise UserError(f"{option}: '{value}' is none of its values{did_you_mean(value, known)}")
    return value


def show_report(folder: Path, console: Console) -> None:
    """Writes a folder's report and prints its table."""
    from crypsis.analysis.differences import code_differences, seed_differences
    from crypsis.analysis.report import terminal_table, write_report
    from crypsis.analysis.study import load_study
    from crypsis.analysis.summary import summarise

    summary = summarise(load_study(folder))
    page = write_report(folder, summary)
    console.print(terminal_table(summary))
    for line in [*code_differences(summary), *seed_differences(summary)]:
        console.print(f"note: {line}", soft_wrap=True, markup=False, highlight=False)
    console.print(f"report: {page.resolve()}", soft_wrap=True, markup=False, highlight=False)
