"""The main job from end to end: base → organisms → monitors → RL arms × seeds → report data.

Every phase finds its finished work and does only what is missing.
"""

from __future__ import annotations

import functools
import json
import resource
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from crypsis.differences import Inputs
from crypsis.evaluation.metrics import LYING
from crypsis.identity.configs import inputs_of
from crypsis.identity.files import content_parts
from crypsis.monitors.trained import TooFewError
from crypsis.parallel import release_memory
from crypsis.registry import DEFAULT_SCENARIO, make
from crypsis.run_config import RunConfig
from crypsis.scenarios.base import Scenario
from crypsis.store import (
    METRICS,
    Exists,
    child,
    finish_folder,
    locked,
    prepare_folder,
    read_json,
    read_rows,
    record_inputs,
    write_json,
)
from crypsis.study.config import HOW, StudyConfig, widen
from crypsis.study.execute import run_all
from crypsis.study.grid import asked, cards, check, check_access, grid
from crypsis.study.lying import train_lying_monitor
from crypsis.study.monitors import base_transcripts, train_monitors
from crypsis.study.organism import build
from crypsis.study.progress import Display
from crypsis.types import Episode, RunsFailedError, UserError

T = TypeVar("T")
HOW_CODE = ("crypsis.study.execut", "crypsis.study.progress")
"""Modules that start and show runs: they do not change what comes out."""


def run_study(config: StudyConfig, out: Path, exists: Exists, display: Display) -> Path:
    """Builds what is missing, runs the grid and leaves a study folder for the report.

    Args:
        config: The study.
        out: Study folder.
        exists: What to do with a folder that is there.
        display: Progress bars.

    Raises:
        UserError: The folder is in use or was made with another config or other inputs.
        RunsFailedError: Some runs were given up; the others are done.
    """
    with locked(out):
        check(config)
        inputs = study_inputs(config)
        if exists == "resume":
            widen(out, config, inputs)
        if prepare_folder(out, config, exists, HOW, inputs):
            return out
        check_access(config)
        clock = _Clock(out)
        base = clock.time("base model", lambda: _base(config, display))
        organisms = {
            label: clock.time("organism", partial(_organism, config, label, base, display))
            for label in config.organisms
        }
        record_inputs(out, {f"organism {label}": content_parts(folder) for label, folder in organisms.items()})
        common = functools.cache(lambda: base_transcripts(base, config.monitor_data))
        trained = {
            label: clock.time("monitors", partial(_monitors, config, label, organism, out, common, display))
            for label, organism in organisms.items()
            if config.monitors is None and config.monitors_from in (None, label)
        }
        monitors = {label: dict(trained.get(config.monitors_from or label, {})) for label in organisms}
        for label, organism in organisms.items():
            if asked(config, label):
                monitors[label] |= clock.time("monitors", partial(_lies, config, label, organism, out, display))
        runs = grid(config, organisms, monitors)
        write_json(out / "monitors.json", cards(runs))
        failed = clock.time("RL", lambda: run_all(runs, out, config.executor, config.workers, config.retries, display))
        clock.write(runs)
        if failed:
            raise RunsFailedError(out, list(failed))
        finish_folder(out, {"runs": [run.name for run in runs]}, inputs)
    return out


def study_inputs(config: StudyConfig) -> Inputs:
    """What a study is made from, without what only says how it is computed."""
    found = inputs_of(config, __name__)
    code = {name: value for name, value in found["code"].items() if not name.startswith(HOW_CODE)}
    return {k: v for k, v in found.items() if k.partition(".")[0] not in HOW} | {"code": code}


def _base(config: StudyConfig, display: Display) -> Path:
    if config.base is not None:
        return Path(config.base)
    with display.supervised("base model") as on_step:
        scenario: Scenario = make("scenarios", config.run.scenario or {"name": DEFAULT_SCENARIO}, "run.scenario")
        return scenario.base_model(config.scale, on_step)


def _organism(config: StudyConfig, label: str, base: Path, display: Display) -> Path:
    recipe = make("organisms", config.organisms[label], f"organisms.{label}")
    with display.supervised(f"organism {label}") as on_step:
        return build(recipe, base, on_step=on_step)


def _monitors(
    config: StudyConfig,
    label: str,
    organism: Path,
    out: Path,
    common: Callable[[], list[Episode]],
    display: Display,
) -> dict[str, Path]:
    """An organism's monitors, but for that of lies."""
    try:
        return train_monitors(
            common, organism, config.monitor_data, child(out, "monitors", label), display, config.panel
        )
    except UserError as error:
        raise UserError(f"organisms.{label}: {error}") from None


def _lies(config: StudyConfig, label: str, organism: Path, out: Path, display: Display) -> dict[str, Path]:
    """The monitor of lies of an organism that an arm interrogates, its own in any case; none if it lies too rarely."""
    try:
        return {LYING: train_lying_monitor(organism, config.monitor_data, child(out, "monitors", label), display)}
    except TooFewError as error:
        display.console.print(f"{label}: no monitor of lies ({error}); the oracle alone counts them", markup=False)
        return {}


class _Clock:
    """Seconds by phase, added up over resumed attempts and kept in ``timing.json``."""

    def __init__(self, out: Path) -> None:
        self._path = out / "timing.json"
        self._phases: dict[str, float] = read_json(self._path)["phases"] if self._path.exists() else {}

    def time(self, phase: str, work: Callable[[], T]) -> T:
        """Does the work and books its time."""
        started = time.perf_counter()
        try:
            return work()
        finally:
            self._phases[phase] = self._phases.get(phase, 0.0) + time.perf_counter() - started
            release_memory()
            self.write([])

    def write(self, runs: Sequence[RunConfig]) -> None:
        """Stores the phases, the rate of training episodes over the RL phase, and the memory of the largest process."""
        rows = [row for run in runs for row in read_rows(self._path.parent / "runs" / run.name / METRICS)]
        seconds = self._phases.get("RL", 0.0)
        children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        timing = {
            "seconds_total": sum(self._phases.values()),
            "phases": self._phases,
            "episodes_per_second": sum(row["episodes"] for row in rows) / seconds if seconds else 0.0,
            "peak_memory_mb": max(own, children) / 1024,  # of the largest single process; Linux counts in kB
        }
        write_json(self._path, json.loads(json.dumps(timing)))
