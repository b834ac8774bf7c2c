"""``crypsis scorecard``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from crypsis.cli.console import make_console, print_json
from crypsis.cli.options import (
    ClaimsOption,
    ExistsOption,
    JsonOption,
    OrganismsTable,
    Out,
    Settings,
    choice,
    show_scorecard,
)

TEST = "test"
"""The command that is meant where none is named."""


class _TestsByDefault(typer.core.TyperGroup):
    """``crypsis scorecard FOLDER …`` is ``crypsis scorecard test FOLDER …``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts the name of the default before arguments that name no command."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [TEST, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_TestsByDefault, help="Test claims: `crypsis scorecard FOLDER ...`.", no_args_is_help=True)


@app.command("run")
def scorecard_run(
    config: Path,
    settings: Settings = None,
    out: Out = Path("runs/scorecard"),
    page: Annotated[
        Path | None,
        typer.Option(
            "--page", help="Page to write, FILE.md, and FILE.json beside it; scorecard.md in --out by default."
        ),
    ] = None,
    real: Annotated[
        Path | None,
        typer.Option("--real", help="Scorecard of a real model, .json; scorecard_real.json beside the page."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="The most runs at a time.")] = None,
    scale: Annotated[str | None, typer.Option(help="nano: all sizes cut down, to see in minutes that it runs.")] = None,
    so_far: Annotated[
        bool, typer.Option("--so-far", help="Run nothing: a page of the runs that are done; they may still go on.")
    ] = False,
    exists: ExistsOption = "resume",
) -> None:
    """Run a study, or go on with it, test all claims on it and write one page."""
    from crypsis.analysis.claims.scorecard import score
    from crypsis.analysis.claims.scorecard_page import real_entries, scorecard_json, scorecard_page
    from crypsis.analysis.study import load_study
    from crypsis.cli.studies import run_and_report
    from crypsis.store import write_atomic, write_json
    from crypsis.study.config import load_study_config
    from crypsis.study.grid import unbuilt_grid
    from crypsis.study.nano import nano

    place = page or out / "scorecard.md"
    _check_page("--page", place)
    known = real_entries(real or place.parent / "scorecard_real.json")
    study = load_study_config(config, settings or [], {"workers": workers} if workers is not None else {})
    if scale is not None and choice(scale, "--scale", ("nano",)):
        study = nano(study)
    console = make_console()
    if not so_far:
        run_and_report(study, out, exists, console)
    loaded = load_study(out)
    results = score([loaded])
    given = [("--out", out), ("--page", page), ("--real", real), ("--scale", scale)]
    said = [word for name, value in given if value is not None for word in (name, str(value))]
    said += ["--so-far"] * so_far
    command = shlex.join(["crypsis", "scorecard", "run", str(config), *(settings or []), *said])
    write_atomic(place, scorecard_page(results, loaded, command, known, len(unbuilt_grid(study))))
    write_json(place.with_suffix(".json"), scorecard_json(results, known))
    console.print(f"scorecard: {place.resolve()}", soft_wrap=True, markup=False, highlight=False)


def _check_page(option: str, page: Path) -> None:
    from crypsis.types import UserError

    if page.suffix != ".md":
        raise UserError(f"{option}: '{page}' must end in .md; the same as JSON is written beside it")


@app.command(TEST)
def scorecard_test(
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

    if out is not None:
        _check_page("--out", out)
    studies = [load_study(folder) for folder in folders]
    wanted = [name.strip() for name in only.split(",")] if only is not None else []
    results = score(studies, organisms, claims, wanted)
    console = make_console(quiet=as_json)
    show_scorecard(results, console, out.with_suffix(".json").name if out else "--json")
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
        named = "" if only is None else f" of {', '.join(entry['id'] for entry in told)}"
        title = f"Scorecard{named}: " + ", ".join(dict.fromkeys(study.name for study in studies))
        write_scorecard(out, results, scorecard_markdown(told, sources, command, version, rates, title))
        console.print(f"scorecard: {out.resolve()}", soft_wrap=True, markup=False, highlight=False)
