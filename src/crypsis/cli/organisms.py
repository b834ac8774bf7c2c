"""``crypsis organism``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crypsis.cli.console import make_console
from crypsis.cli.options import ExistsOption, Out, Settings, choice, exists_mode
from crypsis.cli.plugins import show_plugins

app = typer.Typer(help="Build model organisms.", no_args_is_help=True)


@app.command("list")
def organism_list() -> None:
    """Show the recipes."""
    show_plugins(["organisms"])


@app.command("build")
def organism_build(
    name: str,
    settings: Settings = None,
    base: Annotated[
        str | None, typer.Option(help="Checkpoint folder or hub id; the miniature's base by default.")
    ] = None,
    scale: Annotated[str, typer.Option(help="Scale of the miniature's base.")] = "mini",
    out: Annotated[Path | None, typer.Option(help="Folder to write to; the cache by default.")] = None,
    n: Annotated[int, typer.Option(help="Held-out requests in each tier behind the card's table; 0: no table.")] = 250,
    exists: ExistsOption = "resume",
) -> None:
    """Build an organism: an ordinary Hugging Face checkpoint with a card."""
    from crypsis.study.organism import build_named

    chosen = choice(scale, "--scale", ("nano", "mini", "small"))
    console = make_console()
    folder = build_named(name, settings or [], base, chosen, out, exists_mode(exists), console, n)
    console.print(f"checkpoint: {folder}", soft_wrap=True, markup=False)


@app.command("table")
def organism_table(
    settings: Settings = None,
    out: Out = Path("runs/organisms"),
    seeds: Annotated[int, typer.Option(help="Seeds of every organism.")] = 3,
) -> None:
    """Build and measure every organism; finished parts are kept."""
    from crypsis.analysis.claims.organism_table import write_table
    from crypsis.study.jobs.organism_table import run_table, table_config
    from crypsis.study.progress import Display

    config = table_config([f"seeds={list(range(seeds))}", *(settings or [])])
    console = make_console()
    run_table(config, out, Display(console))
    console.print(f"table: {write_table(out, list(config.swaps), config.n)}", soft_wrap=True, markup=False)


@app.command("generate")
def organism_generate(
    motivation: Annotated[str, typer.Argument(help="tgg, igg, ts, gh, or a YAML file of your own.")],
    model: Annotated[str, typer.Option(help="The writer, by Inspect's name: openai/gpt-4o, anthropic/…, vllm/…")],
    settings: Settings = None,
    prompts: Annotated[Path | None, typer.Option(help="JSONL or CSV of requests; the miniature's by default.")] = None,
    style: Annotated[str, typer.Option(help="plain, counterfactual, emotional, short, or a text file.")] = "plain",
    n: Annotated[int, typer.Option(help="Scratchpads to keep.")] = 4719,
    out: Out = Path("runs/generated"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the estimate of the cost and stop.")] = False,
    exists: ExistsOption = "resume",
) -> None:
    """Have a chat model write scratchpads for the organism from_file (settings: api.prices.input=2.5 …)."""
    from crypsis.registry import DEFAULT_SCENARIO
    from crypsis.study.jobs.generate import generate_named

    scenario = {"name": "prompt_file", "path": str(prompts)} if prompts else {"name": DEFAULT_SCENARIO}
    given = {"api": {"model": model}, "motivation": motivation, "style": style, "n": n, "scenario": scenario}
    generate_named(given, settings or [], out, exists_mode(exists), dry_run, make_console())
