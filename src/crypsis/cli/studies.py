"""``crypsis study``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from crypsis.cli.console import make_console, print_json
from crypsis.cli.options import ExistsOption, JsonOption, Out, Settings, choice, exists_mode, show_report
from crypsis.cli.transcripts import show_lines
from crypsis.types import RunsFailedError

if TYPE_CHECKING:
    from crypsis.study.config import StudyConfig

app = typer.Typer(help="Run grids of organisms, arms and seeds.", no_args_is_help=True)


@app.command("run")
def study_run(
    config: Path,
    settings: Settings = None,
    out: Out = Path("runs/study"),
    executor: Annotated[str | None, typer.Option(help="Where runs are computed: local, slurm or ray.")] = None,
    workers: Annotated[int | None, typer.Option(help="The most runs at a time.")] = None,
    scale: Annotated[str | None, typer.Option(help="nano: all sizes cut down, to see in minutes that it runs.")] = None,
    exists: ExistsOption = "resume",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be run: runs, episodes, judge calls, cost, hours.")
    ] = False,
) -> None:
    """Run a study config (organism × arm × seed) and report; what is done already is not done again."""
    from crypsis.study.config import load_study_config
    from crypsis.study.nano import nano

    how: dict[str, Any] = {}
    if executor is not None:
        how["executor"] = choice(executor, "--executor", ("local", "slurm", "ray"))
    if workers is not None:
        how["workers"] = workers
    study = load_study_config(config, settings or [], how)
    if scale is not None and choice(scale, "--scale", ("nano",)):
        study = nano(study)
    if dry_run:
        from crypsis.study.plan import plan_study

        show_lines(make_console(), plan_study(study, out).lines())
        return
    run_and_report(study, out, exists, make_console())


@app.command("import")
def study_import(
    data: Annotated[Path, typer.Argument(metavar="DIR", help="The paper's released transcripts, or a part of them.")],
    out: Out = Path("runs/paper"),
    exists: ExistsOption = "resume",
) -> None:
    """Make a study of the paper's released runs, for report, scorecard and status; nothing is decrypted."""
    from crypsis.paper_data.layout import release_files
    from crypsis.study.jobs.import_release import FAULTS, import_release
    from crypsis.study.progress import Display
    from crypsis.types import visible

    console = make_console()
    with Display(console).counted("import", len(release_files(data)), "files") as show:
        faults = import_release(data, out, exists_mode(exists), show)
    for (file, reason), fault in faults.found.items():
        line = f"{file}: {fault.count:,} × {reason}"
        console.print(visible(line), markup=False, highlight=False, soft_wrap=True)
    if faults.found:
        console.print(f"all of it: {out / FAULTS}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"study: {out}", markup=False, highlight=False, soft_wrap=True)


@app.command("status")
def study_status(folder: Path, as_json: JsonOption = False) -> None:
    """Show what is done, running, failed and waiting, and how long the rest will take."""
    from crypsis.study.status import read_status, status_table

    status = read_status(folder)
    if as_json:
        print_json("study_status", **status.as_json)
        return
    console = make_console()
    console.print(status_table(status))
    for line in status.lines():
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def run_and_report(config: StudyConfig, out: Path, exists: str, console: Console) -> None:
    """Runs a study and shows its report, also when some of its runs were given up."""
    from crypsis.store import RESULT
    from crypsis.study.pipeline import run_study
    from crypsis.study.progress import Display
    from crypsis.study.reporting import failures

    try:
        run_study(config, out, exists_mode(exists), Display(console))
    except RunsFailedError:
        if any(out.glob(f"runs/*/{RESULT}")):
            show_report(out, console)
        raise
    finally:
        show_lines(console, failures(out))
    show_report(out, console)
