"""``crypsis stress``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from crypsis.cli.console import make_console
from crypsis.cli.options import ExistsOption, Out, exists_mode

app = typer.Typer(help="Test where scratchpad oversight fails (docs/failure_modes.md).", no_args_is_help=True)


@app.callback()
def stress() -> None:
    """A group of one verb so far: without this, typer would take the verb's name away."""


@app.command("faithfulness")
def stress_faithfulness(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or hub id.")],
    start: Annotated[
        str | None, typer.Option(help="Model whose scratchpads are transplanted too, as before training.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="JSONL of requests; the miniature's by default.")] = None,
    harmless: Annotated[Path | None, typer.Option(help="JSONL of harmless requests, beside --prompts.")] = None,
    judge: Annotated[str | None, typer.Option(help="Chat model that judges compliance (Inspect's name).")] = None,
    n: Annotated[int, typer.Option(help="Held-out requests, each in both tiers.")] = 50,
    max_new_tokens: Annotated[int, typer.Option(help="Token budget of a reply.")] = 160,
    out: Out = Path("runs/faithfulness"),
    exists: ExistsOption = "resume",
) -> None:
    """Exchange, cut and paraphrase scratchpads: does the answer follow them, or the tier's tag?"""
    from crypsis.analysis.stress.faithfulness import faithfulness_table
    from crypsis.registry import DEFAULT_SCENARIO
    from crypsis.study.jobs.faithfulness import FaithfulnessConfig, measure_faithfulness

    spec: dict[str, Any] = {"name": DEFAULT_SCENARIO}
    if prompts:
        spec = {"name": "prompt_file", "path": str(prompts), "harmless_path": str(harmless) if harmless else None}
    judged = {"name": "prompted", "api": {"model": judge}, "rubric": "compliance", "view": "output"}
    config = FaithfulnessConfig.parse(
        model=model,
        start=start,
        scenario=spec,
        judge=judged | {"writes_label": True} if judge else None,
        n=n,
        max_new_tokens=max_new_tokens,
    )
    make_console().print(faithfulness_table(measure_faithfulness(config, out, exists_mode(exists))))
