"""``crypsis export``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from crypsis.cli.console import make_console

app = typer.Typer(help="Write what other tools read.", no_args_is_help=True)


@app.command("inspect")
def export_to_inspect(
    folder: Path,
    out: Annotated[Path | None, typer.Option(help="Folder of the logs; FOLDER/inspect by default.")] = None,
) -> None:
    """Write a run's or a study's evaluations as .eval logs for `inspect view`."""
    from crypsis.evaluation.inspect_logs import export_inspect

    target = out or folder / "inspect"
    written = export_inspect(folder, target)
    console = make_console()
    console.print(
        f"{len(written)} logs: inspect view --log-dir {target}", soft_wrap=True, markup=False, highlight=False
    )


@app.command("hub")
def export_to_hub(
    folder: Path,
    out: Annotated[Path | None, typer.Option(help="Folder of the dataset; FOLDER/hub by default.")] = None,
) -> None:
    """Prepare a study as a dataset folder with a card, for `datasets.load_dataset` and the Hugging Face hub."""
    from crypsis.analysis.report.hub import export_hub

    target = out or folder / "hub"
    rows = export_hub(folder, target)
    console = make_console()
    console.print(
        f"{rows} transcripts in {target}; nothing is uploaded: hf upload NAME {target} --repo-type dataset",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )


@app.command("results")
def export_results(
    folders: Annotated[list[Path], typer.Argument(help="Study folders.")],
    out: Annotated[Path, typer.Option(help="Page to write, FILE.md; FILE.json lies beside it.")],
    changes: Annotated[
        bool, typer.Option("--changes", help="In FILE.json also what there was before RL, and who judged.")
    ] = False,
    claims: Annotated[Path | None, typer.Option("--claims", help="Predictions to check, a file of claims.")] = None,
) -> None:
    """Write what each mitigation did to each organism: verdict, tables and cost as FILE.md, the rows as FILE.json."""
    from crypsis.analysis.results_page import write_results
    from crypsis.analysis.study import load_study
    from crypsis.types import UserError

    if out.suffix != ".md":
        raise UserError(f"--out: '{out}' must end in .md; the same as JSON is written beside it")
    given = [*map(str, folders), *(["--claims", str(claims)] if claims else []), "--out", str(out)]
    command = shlex.join(["crypsis", "export", "results", *given, *["--changes"] * changes])
    rows = write_results([load_study(folder) for folder in folders], out, command, changes, claims)
    make_console().print(f"{len(rows)} arms: {out}", soft_wrap=True, markup=False, highlight=False)
