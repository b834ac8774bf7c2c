"""``crypsis data``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from crypsis.cli.console import make_console
from crypsis.cli.options import choice

app = typer.Typer(help="Fetch and check transcripts that others have published.", no_args_is_help=True)


@app.command("fetch")
def data_fetch(
    dataset: Annotated[str, typer.Argument(help="alignment-faking-rl: the paper's released transcripts.")],
    organism: Annotated[list[str] | None, typer.Option("--organism", help="Only its files; may be repeated.")] = None,
    intervention: Annotated[list[str] | None, typer.Option("--intervention", help="Only this one.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.")] = Path("data/alignment-faking-rl"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be fetched.")] = False,
) -> None:
    """Fetch a data set, or a part of it, from the Hugging Face hub; the same command goes on."""
    from crypsis.paper_data.fetch import fetch, plan_fetch
    from crypsis.study.progress import Display

    console = make_console()
    plan = plan_fetch(dataset, organism or [], intervention or [], out)
    for line in plan.lines():
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if not dry_run:
        with Display(console).counted("fetch", len(plan.missing), "files") as show:
            fetch(plan, out, show)
        console.print(f"fetched: {out}; next: crypsis data check {out}", markup=False, highlight=False, soft_wrap=True)


@app.command("check")
def data_check(
    path: Annotated[Path, typer.Argument(help="Transcripts: the paper's release, or a file or folder of any layout.")],
    quick: Annotated[bool, typer.Option("--quick", help="Do not decrypt the replies.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the release's check here, too.")] = None,
    tags: Annotated[str | None, typer.Option("--tags", help="The scratchpad's tags, as OPEN,CLOSE.")] = None,
    text_field: Annotated[str | None, typer.Option("--text-field", help="Field of the reply.")] = None,
    layout: Annotated[str | None, typer.Option("--layout", help="One of `crypsis list transcripts`.")] = None,
) -> None:
    """Say which layout was taken and why, and what is there; of the release also what was expected."""
    from crypsis.analysis.release.check_output import check_json, check_lines, check_table
    from crypsis.paper_data.check import check_release
    from crypsis.paper_data.layout import release_files
    from crypsis.store import write_json
    from crypsis.study.progress import Display
    from crypsis.transcripts.detect import holds_release

    console = make_console()
    if not holds_release(path):
        _check_any(path, tags, text_field, layout, console)
        return
    with Display(console).counted("check", len(release_files(path)), "files") as show:
        found = check_release(path, not quick, show)
    console.print(check_table(found))
    for line in check_lines(found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if json_file is not None:
        write_json(json_file, check_json(found))
        console.print(f"check: {json_file}", markup=False, highlight=False, soft_wrap=True)


def _check_any(path: Path, tags: str | None, text_field: str | None, layout: str | None, console: Any) -> None:
    from crypsis.cli.transcripts import show_lines
    from crypsis.study.jobs.stored_transcripts import check_transcripts
    from crypsis.transcripts.base import ReadOptions, parse_tags

    options = ReadOptions(tags=parse_tags(tags), text_field=text_field, layout=layout, text_needed=False)
    found = check_transcripts(path, options)
    console.print(found.table)
    show_lines(console, found.lines)
    if found.fault:
        raise typer.Exit(2)


@app.command("example")
def data_example(
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.")] = Path("data/example-release"),
    size: Annotated[str, typer.Option("--size", help="nano (seconds) or mini (enough to test claims).")] = "mini",
) -> None:
    """Write a made-up release of the same layout, to try every command without the real one."""
    from crypsis.paper_data.generate import ReleaseSpec, example_runs, write_release
    from crypsis.study.progress import Display

    small = choice(size, "--size", ("nano", "mini")) == "nano"
    runs = example_runs()
    spec = ReleaseSpec(runs, steps=(0, 5, 10, 15), requests=12) if small else ReleaseSpec(runs)
    console = make_console()
    with Display(console).counted("example", len(runs), "files") as show:
        write_release(out, spec, show)
    console.print(f"made-up release, nobody's results: {out}", markup=False, highlight=False, soft_wrap=True)
