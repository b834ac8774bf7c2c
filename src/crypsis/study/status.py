"""``crypsis study status``: what of a study is done, running, given up and waiting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from crypsis.config import parse_config, read_yaml
from crypsis.jsonlines import read_rows
from crypsis.locks import is_locked
from crypsis.store import CONFIG, FAILED, METRICS, PROVENANCE, RESULT, child, read_json
from crypsis.study.config import StudyConfig
from crypsis.types import UserError

State = Literal["done", "running", "stopped", "failed", "waiting"]
STATES: tuple[State, ...] = ("done", "running", "stopped", "failed", "waiting")


@dataclass(frozen=True, slots=True)
class RunStatus:
    """Where a run stands.

    Attributes:
        organism: Its organism.
        arm: Its arm.
        seed: Its seed.
        state: ``running`` while a process holds its folder; ``stopped`` if it was begun and nobody is at it.
        step: Steps done.
        steps: Steps asked for.
        seconds: Wall clock of the attempt that finished it, None if it is not done.
        error: The last error, if it was given up.
    """

    organism: str
    arm: str
    seed: int
    state: State
    step: int
    steps: int
    seconds: float | None = None
    error: str = ""
    folder: str = ""
    """Name of its folder where that is not the usual one."""

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.folder or f"{self.organism}-{self.arm}-seed{self.seed}"


@dataclass(frozen=True, slots=True)
class Status:
    """Where a study stands.

    Attributes:
        folder: Folder of the study.
        name: Its name.
        runs: All runs of the grid, in its order.
        workers: Runs at a time.
        at_work: Whether a process holds the study's folder.
    """

    folder: Path
    name: str
    runs: tuple[RunStatus, ...]
    workers: int
    at_work: bool
    imported: str = ""
    """Folder that others' runs were imported from; empty for a study of one's own."""

    @property
    def seconds_left(self) -> float | None:
        """Seconds of wall clock, from the median of the finished runs of each arm; None as long as none is finished."""
        known = [run for run in self.runs if run.seconds is not None]
        if not known:
            return None
        overall = median(run.seconds or 0.0 for run in known)
        left = [0.0]
        for run in self.runs:
            if run.state not in ("done", "failed"):
                alike = [other.seconds or 0.0 for other in known if other.arm == run.arm]
                left.append((median(alike) if alike else overall) * (1 - run.step / max(run.steps, 1)))
        return max(sum(left) / self.workers, *left)

    @property
    def as_json(self) -> dict[str, Any]:
        """Everything that is known, for ``crypsis study status --json``."""
        total = Counter(run.state for run in self.runs)
        return {
            "folder": str(self.folder),
            "name": self.name,
            "at_work": self.at_work,
            "workers": self.workers,
            "imported": self.imported,
            "seconds_left": self.seconds_left,
            "totals": {state: total[state] for state in STATES},
            "runs": [asdict(run) | {"folder": run.name} for run in self.runs],
        }

    def lines(self) -> list[str]:
        """What a reader is told under the table: totals, time left, and the error of each run that was given up."""
        total = Counter(run.state for run in self.runs)
        told = [f"{self.name}: " + " · ".join(f"{total[state]} {state}" for state in STATES if total[state])]
        unfinished = len(self.runs) - total["done"] - total["failed"]
        left = self.seconds_left
        if unfinished and left is not None:
            told.append(f"about {duration(left)} left with {self.workers} runs at a time")
        elif unfinished:
            told.append("time left: unknown until a run is finished")
        told += [f"failed: {run.name}: {run.error}" for run in self.runs if run.state == "failed"]
        if not self.at_work and total["done"] < len(self.runs):
            again = f"crypsis study run {self.folder / CONFIG} --out {self.folder}"
            if self.imported:
                again = f"crypsis study import {self.imported} --out {self.folder} --exists overwrite"
            told.append(f"no process is at work here; `{again}` goes on")
        return told


def read_status(folder: Path) -> Status:
    """Reads where a study stands, whether or not it is being run.

    Raises:
        UserError: There is no study in the folder.
    """
    if not (folder / CONFIG).exists():
        raise UserError(f"{folder}: holds no study; `crypsis study run CONFIG.yaml --out {folder}` starts one")
    data = read_yaml(folder / CONFIG)
    if isinstance(data.get("imported"), Mapping):
        return _imported(folder, data)
    if "arms" not in data:
        raise UserError(f"{folder}: is no study's folder (its {CONFIG} has no arms); give the one that holds runs/")
    config = parse_config(StudyConfig, data, str(folder / CONFIG))
    runs = [
        _run(config, folder, organism, arm, seed)
        for seed in config.seeds
        for organism in config.organisms
        for arm in config.arms_of(organism)
    ]
    return Status(folder, config.name, tuple(runs), config.workers, is_locked(folder))


def status_table(status: Status) -> Table:
    """One row for each organism and arm: how many seeds are in which state, and how far the open ones are.

    An organism of which no run has begun has a single row, and a state that no run is in no column.
    """
    there = {run.state for run in status.runs}
    states = [state for state in STATES if state in there]
    table = Table(title=Text(str(status.folder)), pad_edge=False)
    table.add_column("organism", overflow="fold")
    table.add_column("arm", overflow="fold")
    for state in states:
        table.add_column(state, justify="right", no_wrap=True)
    table.add_column("seeds at work or stopped (step)")
    cells: dict[str, dict[str, list[RunStatus]]] = {}
    for run in status.runs:
        cells.setdefault(run.organism, {}).setdefault(run.arm, []).append(run)
    for organism, arms in cells.items():
        every = [run for runs in arms.values() for run in runs]
        if len(arms) > 1 and all(run.state == "waiting" for run in every):
            arms = {f"{len(arms)} arms": every}
        for arm, runs in arms.items():
            total = Counter(run.state for run in runs)
            begun = [f"{run.seed} ({run.step}/{run.steps})" for run in runs if run.state in ("running", "stopped")]
            counts = [Text(str(total[state]) if total[state] else "–", style=STYLES[state]) for state in states]
            table.add_row(Text(organism), Text(arm), *counts, Text(", ".join(begun)))
    return table


STYLES: dict[State, str] = {"done": "green", "running": "cyan", "stopped": "yellow", "failed": "red", "waiting": ""}


def duration(seconds: float) -> str:
    """Seconds in words that a reader can use: ``2 h 05 min``, ``14 min``, ``40 s``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def _imported(folder: Path, data: Mapping[str, Any]) -> Status:
    """Others' runs: each that was imported is done, as far as its file goes."""
    runs = []
    for path in sorted(folder.glob(f"runs/*/{CONFIG}")):
        run = read_yaml(path)
        rl = run.get("rl")
        steps = int(rl.get("steps") or 0) if isinstance(rl, Mapping) else 0
        state: State = "done" if (path.parent / RESULT).exists() else "stopped"
        who = (str(run.get("organism")), str(run.get("arm")), int(run.get("seed") or 0))
        runs.append(RunStatus(*who, state, steps, steps, folder=path.parent.name))
    source = str(data["imported"].get("folder"))
    return Status(folder, str(data.get("name")), tuple(runs), 1, is_locked(folder), source)


def _run(config: StudyConfig, study: Path, organism: str, arm: str, seed: int) -> RunStatus:
    folder = child(study, "runs", f"{organism}-{arm}-seed{seed}")
    steps = int(config.arms[arm].rl.get("steps", config.run.rl.steps))
    if (folder / RESULT).exists():
        return RunStatus(organism, arm, seed, "done", steps, steps, _seconds(folder))
    rows = read_rows(folder / METRICS)
    step = int(rows[-1].get("step", 0)) if rows else 0
    if is_locked(folder):
        return RunStatus(organism, arm, seed, "running", step, steps)
    if (folder / FAILED).exists():
        error = str(read_json(folder / FAILED).get("error", ""))
        return RunStatus(organism, arm, seed, "failed", step, steps, error=" ".join(error.split()))
    return RunStatus(organism, arm, seed, "stopped" if (folder / CONFIG).exists() else "waiting", step, steps)


def _seconds(folder: Path) -> float | None:
    """Wall clock of a finished run's last attempt, None if its provenance does not tell."""
    seconds = read_json(folder / PROVENANCE).get("seconds") if (folder / PROVENANCE).exists() else None
    return float(seconds) if seconds is not None else None
