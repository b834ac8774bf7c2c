"""The report of a made-up study of 108 runs: seconds and memory of ``crypsis report``.

``python -m benchmarks.report``; part of ``make bench``. Also printed in units of a fixed piece of work done beside it,
because a busy or slow machine takes longer for the same report.
"""

from __future__ import annotations

import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from tests.clock import IDLE, yardstick
from tests.studies import ARMS, Rates, make_study

from benchmarks.machine import cpu_name
from benchmarks.release import measured_command
from crypsis.store import write_json

SECONDS, MEMORY_MB = 15.0, 1000.0
"""Aims, on an idle machine."""
MORE_ARMS = {
    "length": ("scratchpad length penalty", ["length_penalty"], Rates(0.3, 0.98, 0.93, 20)),
    "linear": ("scratchpad monitor, linear", ["process_supervision"], Rates(0.1, 0.95, 0.90, 30, 0.5)),
    "kl": ("KL to a trusted model", ["kl"], Rates(0.7, 0.95, 0.40, 50)),
}
ORGANISMS = {"tgg": 1.0, "igg": 0.9, "ts": 0.8, "tgg-counterfactual": 0.7, "distilled": 0.6, "evader": 0.5}


def main(
    quick: Annotated[bool, typer.Option(help="Tiny: shows that the code runs, measures nothing.")] = False,
    out: Annotated[Path, typer.Option(help="Where to write the figures.")] = Path("docs/results/report.json"),
) -> None:
    """Makes a study, writes its report in a process of its own, and prints what that took."""
    with tempfile.TemporaryDirectory() as scratch:
        study = make_example(Path(scratch) / "study", quick)
        runs = sum(1 for _ in study.glob("runs/*/result.json"))
        before = yardstick()
        figures = measured_command(["report", str(study)])
        slowness = max(before, yardstick()) / IDLE
    result: dict[str, Any] = {
        "runs": runs,
        "measured": figures,
        "slowness": slowness,
        "aims": {"wall": SECONDS, "memory_mb": MEMORY_MB},
        "provenance": {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "cpu": cpu_name(),
            "load": os.getloadavg()[0],
            "command": "python -m benchmarks.report",
        },
    }
    write_json(out, result)
    print(
        f"report of {runs} runs: {figures['wall']:.1f} s (aim {SECONDS:.0f}), {figures['cpu']:.1f} s of CPU, "
        f"{figures['memory_mb']:.0f} MB in the largest process (aim {MEMORY_MB:.0f}); the yardstick took "
        f"{slowness:.1f} times as long as on an idle machine, so about {figures['wall'] / slowness:.1f} s there"
    )
    print(f"written to {out}")


def make_example(folder: Path, quick: bool) -> Path:
    """Six organisms × six arms × three seeds, four evaluations of 250 requests; or one organism and tiny ones."""
    if quick:
        return make_study(folder, seeds=(0,), steps=(0, 5), n=10, hostile=False)
    return make_study(
        folder,
        ARMS | MORE_ARMS,
        seeds=(0, 1, 2),
        steps=(0, 5, 10, 15),
        n=250,
        hostile=False,
        organisms=ORGANISMS,
        seed_spread=0.1,
        rollouts=(0, 7, 15),
    )


if __name__ == "__main__":
    typer.run(main)
