"""The paper's release at a tenth of its size, made up: import, scorecard, decryption and scoring, with their memory.

``python -m benchmarks.release``; part of ``make bench``.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.machine import cpu_name
from crypsis.monitors.text import train_text_monitor
from crypsis.paper_data.generate import ReleaseSpec, RunSpec, write_release
from crypsis.paper_data.layout import ROWS, release_files
from crypsis.store import write_json
from crypsis.transcripts.base import AF, Only, Reading, ReadOptions
from crypsis.transcripts.detect import read_transcripts
from crypsis.transcripts.release import ReleaseReader

IMPORT_SECONDS, MEMORY_MB, SCORED = 20.0, 1000.0, 3000.0
"""Aims: wall clock of import and scorecard, their peak memory, rows scored a second of CPU."""
TRAINED = 2000
"""Transcripts that the monitor is trained on."""
BATCH = 2048
"""Transcripts scored at a time, as ``crypsis monitor score`` does."""


@dataclass(frozen=True, slots=True)
class Size:
    """How large the made-up release is."""

    requests: int
    steps: int
    runs: int
    characters: int
    sentences: int

    @property
    def rows(self) -> int:
        """Of all files."""
        return 2 * self.requests * self.steps * self.runs


TENTH = Size(250, 27, 16, 3000, 200_000)
"""216,000 rows in 16 files, as a tenth of the real 2,138,969 rows in 155 files."""
TINY = Size(40, 3, 4, 600, 500)
KINDS = ("Baseline", "Scratchpad_monitor", "Hinge_length_penalty", "Simple_Interrogation")


def main(
    quick: Annotated[bool, typer.Option(help="Tiny: shows that the code runs, measures nothing.")] = False,
    out: Annotated[Path, typer.Option(help="Where to write the figures.")] = Path("docs/results/release.json"),
    data: Annotated[Path | None, typer.Option(help="Where to keep the made-up release; by default nowhere.")] = None,
) -> None:
    """Measures on a made-up release, prints the figures and what the whole would take."""
    with tempfile.TemporaryDirectory() as scratch:
        result = measure_release(TINY if quick else TENTH, data or Path(scratch) / "release", Path(scratch))
    write_json(out, result)
    for line in lines(result):
        print(line)
    print(f"written to {out}")


def measure_release(size: Size, data: Path, scratch: Path) -> dict[str, Any]:
    """All figures of one size."""
    write_example(size, data)
    commands = {
        "import": ["study", "import", str(data), "--out", str(scratch / "study")],
        "scorecard": ["scorecard", str(scratch / "study")],
    }
    found = {name: measured_command(words) for name, words in commands.items()}
    found["decrypt"], found["score"] = _decrypted(data), _scored(data, scratch / "monitor")
    bytes_read = sum(file.path.stat().st_size for file in release_files(data))
    return {
        "rows": size.rows,
        "files": size.runs,
        "bytes": bytes_read,
        "measured": found,
        "whole": _whole(found, size.rows),
        "aims": {"import_and_scorecard_seconds": IMPORT_SECONDS, "memory_mb": MEMORY_MB, "rows_per_second": SCORED},
        "provenance": {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "cpu": cpu_name(),
            "load": os.getloadavg()[0],
            "command": "python -m benchmarks.release",
        },
    }


def write_example(size: Size, data: Path) -> None:
    """The made-up release, unless it is there."""
    organisms = [f"Made_up_{i}" for i in range(-(-size.runs // len(KINDS)))]
    runs = [RunSpec(name, kind, i % 2 == 1) for i, name in enumerate(organisms) for kind in KINDS][: size.runs]
    if not data.exists():
        spec = ReleaseSpec(tuple(runs), tuple(range(size.steps)), size.requests, size.characters, size.sentences)
        write_release(data, spec)


def lines(result: dict[str, Any]) -> list[str]:
    """The figures in words."""
    found, whole = result["measured"], result["whole"]
    told = [f"{result['rows']:,} rows in {result['files']} files, {result['bytes'] / 1e9:.2f} GB"]
    for name in ("import", "scorecard"):
        one = found[name]
        told.append(
            f"{name}: {one['wall']:.1f} s of wall clock, {one['cpu']:.1f} s of CPU, {one['memory_mb']:.0f} MB at most"
        )
    told.append(f"decrypt: {found['decrypt']['rows_per_second']:,.0f} rows per second of CPU")
    told.append(f"decrypt, take apart and score: {found['score']['rows_per_second']:,.0f} rows per second of CPU")
    told.append(
        f"the whole ({ROWS:,} rows), extrapolated: import {whole['import_cpu']:.0f} s of CPU, scoring "
        f"{whole['score_cpu'] / 3600:.1f} h of one core"
    )
    told.append(f"load of the machine at the end: {result['provenance']['load']:.1f}")
    return told


def _whole(found: dict[str, Any], rows: int) -> dict[str, float]:
    """In proportion to rows."""
    return {
        "import_cpu": found["import"]["cpu"] * ROWS / rows,
        "score_cpu": ROWS / found["score"]["rows_per_second"],
        "decrypt_cpu": ROWS / found["decrypt"]["rows_per_second"],
    }


MEASURED = """
import json, resource, sys, time
from typer.testing import CliRunner
from crypsis.cli import app
done = CliRunner().invoke(app, sys.argv[1:])
assert done.exit_code == 0, done.output
used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
cpu = sum(one.ru_utime + one.ru_stime for one in used)
print(json.dumps({"cpu": cpu, "memory_mb": max(one.ru_maxrss for one in used) / 1024}))
"""


def measured_command(words: Sequence[str]) -> dict[str, float]:
    """A command in a process of its own: wall clock, CPU seconds, peak memory; start and imports count."""
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", MEASURED, *words], capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures | {"wall": time.perf_counter() - begun}


def _decrypted(data: Path) -> dict[str, float]:
    """Reads and decrypts every reply, and takes it apart."""
    begun, rows = time.process_time(), 0
    for file in release_files(data):
        rows += sum(1 for _ in ReleaseReader().read(file.path, ReadOptions(), Reading()))
    seconds = time.process_time() - begun
    return {"rows": rows, "cpu": seconds, "rows_per_second": rows / seconds}


def _scored(data: Path, folder: Path) -> dict[str, float]:
    """The same, and scores every scratchpad with a monitor of kind ``text``."""
    rows = read_transcripts(data, ReadOptions(only=Only(step=[0], tier="free")), Reading())
    known = [row for row, _ in zip(rows, range(TRAINED), strict=False)]
    labels = [bool(row.labels[AF]) for row in known]
    texts, groups = [row.scratchpad for row in known], [f"{i % 50}" for i in range(len(known))]
    monitor = train_text_monitor(texts, labels, groups, "scratchpad", folder)
    monitor.score(texts[:10])
    begun, scored = time.process_time(), 0
    for file in release_files(data):
        batch: list[str] = []
        for row in ReleaseReader().read(file.path, ReadOptions(), Reading()):
            batch.append(row.scratchpad)
            if len(batch) == BATCH:
                scored += len(monitor.score(batch))
                batch = []
        scored += len(monitor.score(batch)) if batch else 0
    seconds = time.process_time() - begun
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rows": scored, "cpu": seconds, "rows_per_second": scored / seconds, "memory_mb": memory}


if __name__ == "__main__":
    typer.run(main)
