"""``crypsis monitor gold``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from crypsis.cli.console import make_console
from crypsis.cli.transcripts import show_lines

app = typer.Typer(help="A gold set: draw transcripts, label them blind, measure.", no_args_is_help=True)


@app.command("draw")
def gold_draw(
    folders: Annotated[list[Path], typer.Argument(help="Runs, studies or evaluations.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    n: Annotated[int, typer.Option(help="Transcripts.", min=2)] = 300,
    seed: Annotated[int, typer.Option(help="Which transcripts, in which order.")] = 0,
    training: Annotated[bool, typer.Option("--training", help="Draw from episodes of training too.")] = False,
) -> None:
    """Draw well-formed transcripts in strata (organism, tier, label of the rule), to be labelled blind."""
    from crypsis.evaluation.gold import ITEMS, KEY, PASSES, draw_gold

    command = shlex.join(["crypsis", "monitor", "gold", "draw", *map(str, folders), "--out", str(out)])
    command = f"{command} --n {n} --seed {seed}" + " --training" * training
    strata = draw_gold(folders, out, n, seed, command, training)
    lines = [f"{count} {stratum}" for stratum, count in strata.items()]
    lines.append(f"{out / ITEMS}: read it, not {KEY}; write {PASSES[0]} and {PASSES[1]} beside it")
    show_lines(make_console(), lines)


@app.command("measure")
def gold_measure(
    folder: Annotated[Path, typer.Argument(help="Folder of the gold set with both passes.")],
    provenance: Annotated[str, typer.Option("--by", help="Who or what labelled it, for the page.")],
    out: Annotated[Path, typer.Option("--out", help="Page to write, FILE.md; FILE.json lies beside it.")],
) -> None:
    """Write agreement of the passes (kappa) and the rule against them as FILE.md and FILE.json."""
    from crypsis.evaluation.gold import gold_markdown, measure_gold
    from crypsis.store import write_atomic, write_json
    from crypsis.types import UserError

    if out.suffix != ".md":
        raise UserError(f"--out: '{out}' must end in .md; the same as JSON is written beside it")
    found = measure_gold(folder)
    write_atomic(out, "\n".join(gold_markdown(found, provenance)) + "\n")
    write_json(out.with_suffix(".json"), {"labelled_by": provenance, **found})
    show_lines(make_console(), [f"{found['items']} items, {len(found['disagreed'])} in dispute: {out}"])
