"""``crypsis capability``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crypsis.cli.console import make_console
from crypsis.cli.transcripts import show_lines


def capability(
    paths: Annotated[list[Path], typer.Argument(help="Checkpoint folders, or runs or studies: before and after RL.")],
    out: Annotated[Path, typer.Option("--out", help="JSON file; models that it has are not measured again.")],
    n: Annotated[int, typer.Option(help="Dilemmas without pressure.")] = 85,
    max_new_tokens: Annotated[int, typer.Option(help="Token budget of a reply.")] = 160,
    device: Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="Type of the weights: auto, float32 or bfloat16.")] = "auto",
) -> None:
    """Measure what training costs elsewhere: perplexity on English prose, advice on dilemmas without pressure."""
    from crypsis.config import parse_config
    from crypsis.study.jobs.capability import (
        CapabilityConfig,
        capability_models,
        capability_table,
        measure_capability,
    )
    from crypsis.study.progress import Display

    settings = {"n": n, "max_new_tokens": max_new_tokens, "device": device, "dtype": dtype}
    config, console = parse_config(CapabilityConfig, settings, "capability"), make_console()
    models = capability_models(paths)
    with Display(console).counted("capability", len(models), "models") as show:
        rows = measure_capability(models, config, out, show)
    console.print(capability_table(rows))
    show_lines(console, [f"figures: {out}"])
