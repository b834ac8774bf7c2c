"""``python -m benchmarks``: measures, prints a table and writes ``docs/results/benchmarks.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

from benchmarks.measure import FLOOR_TARGET, FULL, GROWTH_TARGET, QUICK, TARGETS, measure
from benchmarks.workload import keep_memory
from crypsis.store import write_json


def main(
    quick: Annotated[bool, typer.Option(help="Tiny sizes: shows that the code runs, measures nothing.")] = False,
    out: Annotated[Path, typer.Option(help="Where to write the figures.")] = Path("docs/results/benchmarks.json"),
) -> None:
    """Compares the RL engine with TRL and with the machine's floor, on one thread."""
    torch.set_num_threads(1)
    keep_memory()
    plan = QUICK if quick else FULL
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("starting", total=plan.parts)
        results = measure(plan, lambda what: progress.update(task, advance=1, description=what))
    known = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    write_json(out, known | results)  # beside the figures at real size
    console = Console()
    console.print(against_trl_table(results), growth_table(results))
    provenance = results["provenance"]
    console.print(f"{provenance['cpu']}, {provenance['minutes']:.1f} minutes, written to {out}")


def against_trl_table(results: dict[str, Any]) -> Table:
    table = Table("prompt tokens", "crypsis", "TRL", "ratio", "target", "of the floor", title="Episodes a second")
    for name, found in results["details"].items():
        rates = found["episodes_per_second"]
        fraction = results["floor_fraction"].get(name)
        shown = "–" if fraction is None else f"{fraction:.0%} (aim {FLOOR_TARGET:.0%})"
        speeds = f"{rates['crypsis']:.1f}", f"{rates['trl']:.2f}"
        table.add_row(name, *speeds, f"{found['ratio']:.1f}x", f"{TARGETS[name]:.0f}x", shown)
    return table


def growth_table(results: dict[str, Any]) -> Table:
    table = Table("by", "seconds per step", "largest over smallest", title="Growth of our step")
    found = results["growth"]
    floor = f"; its floor: {found['prompt_floor_max_over_min']:.2f}"
    for label, name, ratio, note in (
        ("prompt tokens", "prompt_seconds", "prompt_max_over_min", f" (aim {GROWTH_TARGET}{floor})"),
        ("episodes", "episodes_seconds", "episodes_max_over_min_per_episode", " an episode"),
    ):
        steps = "  ".join(f"{size}: {seconds:.2f}" for size, seconds in found[name].items())
        table.add_row(label, steps, f"{found[ratio]:.2f}{note}")
    return table


if __name__ == "__main__":
    typer.run(main)
