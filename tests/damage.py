"""Damage to stored files, and what a command makes of it: the same files again, or one line and exit 2."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from subprocess import CompletedProcess

from crypsis.episodes import read_episodes
from crypsis.jsonlines import read_rows
from crypsis.store import METRICS

MODES = ("flip", "cut", "empty", "gone")


REPORT = ("report.html", "summary.", "claims.json", "afr_corrected.json", "monitors.json", "figures/", "tables/")
"""What ``crypsis train`` leaves beside a run for its reader."""


def stored_files(folder: Path) -> list[str]:
    """Everything that a command left in a folder, but for locks, which are empty, and the report."""
    found = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
    return [name for name in found if not name.startswith(REPORT)]


def damage(path: Path, mode: str) -> None:
    """Flips bits of the middle byte, cuts the second half off, empties or deletes a file."""
    data = bytearray(path.read_bytes())
    if mode == "flip":
        data[len(data) // 2] ^= 0x15
        path.write_bytes(data)
    elif mode == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif mode == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()


def one_line(done: CompletedProcess[str]) -> str:
    """The line that a refused command printed; fails if there is another word or code."""
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2 and len(lines) == 1 and lines[0].startswith("crypsis: "), done.stdout + done.stderr
    return lines[0]


def follow(line: str) -> None:
    """Does what a line says before "run the same command again": deletes what it names.

    Only an absolute path is deleted, as tests name none else.
    """
    found = re.search(r"delete the folder (/\S+?),? (?:and|to|which)|(/\S+): .*; delete it and", line)
    assert found, f"no advice to follow: {line}"
    path = Path(found[1] or found[2])
    assert path.exists(), line
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def contents(folder: Path) -> dict[str, bytes]:
    """All stored files by path, but for what tells when and where the command ran."""
    told = ("provenance.json", "digests.jsonl")
    return {name: (folder / name).read_bytes() for name in stored_files(folder) if name not in told}


def numbers(run: Path) -> list[object]:
    """Everything that a run measured and the weights that it ended with; without seconds."""
    rows = [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in read_rows(run / METRICS)]
    tables = [read_episodes(p) for kind in ("evals", "rollouts") for p in sorted((run / kind).glob("step-*"))]
    return [rows, tables, (run / "model" / "model.safetensors").read_bytes(), (run / "pilot.json").read_text()]
