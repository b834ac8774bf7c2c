"""``crypsis study``."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from crypsis.cli.options import ExistsOption, Out, Settings, exists_mode, show_report

app = typer.Typer(help="Run grids of organisms, arms and seeds.", no_args_is_help=True)


@app.command("run")
def study_run(
    config: Path,
    settings: Settings = None,
    out: Out = Path("runs/study"),
    exists: ExistsOption = "resume",
) -> None:
    """Run a study config (organism × arms × seeds) and report."""
    from crypsis.config import load_config
    from crypsis.study.config import StudyConfig
    from crypsis.study.demo import run_study
    from crypsis.study.progress import Display

    console = Console()
    run_study(load_config(StudyConfig, config, settings or []), out, exists_mode(exists), Display(console))
    show_report(out, console)
