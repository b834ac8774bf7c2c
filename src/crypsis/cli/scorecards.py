"""``crypsis scorecard``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from crypsis.cli.console import make_console, print_json
from crypsis.cli.options import ClaimsOption, JsonOption, OrganismsTable, show_scorecard


def scorecard(
    folders: Annotated[list[Path], typer.Argument(help="Study folders.")],
    organisms: OrganismsTable = None,
    claims: ClaimsOption = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="C04,C08", help="Ids of the claims to test; all by default.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Page to write, FILE.md; FILE.json lies beside it.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Test claims on one or several studies together."""
    from crypsis.analysis.claims.corrected_rates import corrected_rates
    from crypsis.analysis.claims.scorecard import score
    from crypsis.analysis.claims.scorecard_output import entries, scorecard_markdown, write_scorecard
    from crypsis.analysis.study import load_study
    from crypsis.types import UserError

    if out is not None and out.suffix != ".md":
        raise UserError(f"--out: '{out}' must end in .md; the same as JSON is written beside it")
    studies = [load_study(folder) for folder in folders]
    wanted = [name.strip() for name in only.split(",")] if only is not None else []
    results = score(studies, organisms, claims, wanted)
    console = make_console(quiet=as_json)
    show_scorecard(results, console)
    if as_json:
        print_json("scorecard", studies=[str(folder) for folder in folders], claims=entries(results))
    if out is not None:
        given = [*map(str, folders)]
        options = [("--organisms", organisms), ("--claims", claims), ("--only", only), ("--out", out)]
        said = [word for name, value in options if value is not None for word in (name, str(value))]
        command = shlex.join(["crypsis", "scorecard", *given, *said])
        rates = [rate for study in studies for rate in corrected_rates(study)]
        version = ", ".join(sorted({study.version for study in studies}))
        sources = [*given, *([str(organisms)] if organisms else [])]
        told = entries(results)
        title = "Scorecard" if only is None else f"Scorecard of {', '.join(entry['id'] for entry in told)}"
        write_scorecard(out, results, scorecard_markdown(told, sources, command, version, rates, title))
        console.print(f"scorecard: {out.resolve()}", soft_wrap=True, markup=False, highlight=False)
