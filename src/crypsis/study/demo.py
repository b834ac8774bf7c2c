"""The main job from end to end: base → organism → monitors → RL arms × seeds → report data.

Every phase finds its finished work and does only what is missing.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml

from crypsis.config import apply_overrides, digest, parse_config
from crypsis.evaluation.metrics import LYING
from crypsis.miniature.base import base_config, build_base
from crypsis.miniature.scenario import MiniatureScenario
from crypsis.mitigations.base import Setting, prepare
from crypsis.mitigations.interrogation import Interrogation
from crypsis.monitors.base import Monitor
from crypsis.parallel import release_memory
from crypsis.registry import make
from crypsis.rl.config import EvaluationConfig, RLConfig, RunConfig
from crypsis.store import (
    METRICS,
    PROVENANCE,
    Exists,
    locked,
    prepare_folder,
    provenance,
    read_json,
    read_rows,
    write_json,
)
from crypsis.study.config import MonitorData, RunSettings, Scale, StudyConfig
from crypsis.study.local import run_all
from crypsis.study.lying import train_lying_monitor
from crypsis.study.monitors import VIEWS, train_monitors
from crypsis.study.organism import build
from crypsis.study.progress import Display
from crypsis.study.run import resolved
from crypsis.types import UserError, View

T = TypeVar("T")


def demo_config(scale: Scale, settings: Sequence[str]) -> StudyConfig:
    """The packaged demo at a scale, with ``a.b=c`` settings on top."""
    text = resources.files("crypsis.study").joinpath("demo.yaml").read_text(encoding="utf-8")
    config = parse_config(StudyConfig, yaml.safe_load(text), "demo.yaml")
    if scale == "nano":
        config = nano(config)
    return parse_config(StudyConfig, apply_overrides(config.model_dump(mode="json"), settings), "demo")


def nano(config: StudyConfig) -> StudyConfig:
    """The same study in seconds, for tests: it shows that everything runs, not what RL does."""
    settings = RunSettings(
        rl=RLConfig(steps=4, prompts_per_step=2, group_size=4, max_new_tokens=96, checkpoint_every=1),
        evaluation=EvaluationConfig(every=2, n=20),
    )
    data = MonitorData(base=100, organism=300, helper=100)
    organism = {**config.organism, "steps": 40, "learning_rate": 1e-3}
    return config.model_copy(update={"scale": "nano", "run": settings, "monitor_data": data, "organism": organism})


def run_study(config: StudyConfig, out: Path, exists: Exists, display: Display) -> Path:
    """Builds what is missing, runs the grid and leaves a study folder for the report.

    Args:
        config: The study.
        out: Study folder.
        exists: What to do with a folder that is there.
        display: Progress bars.

    Raises:
        UserError: The folder is in use or was made with another config.
    """
    with locked(out):
        check(config)
        if prepare_folder(out, config, exists):
            return out
        clock = _Clock(out)
        base = clock.time("base model", lambda: _base(config, display))
        organism = clock.time("organism", lambda: _organism(config, base, display))
        monitors = clock.time("monitors", lambda: train_monitors(base, organism, config.monitor_data, out, display))
        if any(_asks(arm.mitigations) for arm in config.arms.values()):
            monitors[LYING] = clock.time(
                "monitor of lies", lambda: train_lying_monitor(organism, config.monitor_data, out, display)
            )
        runs = grid(config, organism, monitors)
        write_json(out / "monitors.json", _cards(runs))
        clock.time("RL", lambda: run_all(runs, out / "runs", config.workers, display))
        write_json(out / PROVENANCE, provenance({"config": digest(config)}))
        clock.write(runs)
        write_json(out / "result.json", {"runs": [run.name for run in runs]})
    return out


def grid(config: StudyConfig, organism: Path, monitors: dict[str, Path]) -> list[RunConfig]:
    """All runs of a study, seeds outermost so that every arm has a result as early as possible."""
    specs: dict[str, Any] = {"oracle": {"name": "oracle"}}
    specs |= {view: {"name": "text", "path": str(monitors[view]), "view": view} for view in VIEWS}
    lying = {LYING: {"name": "text", "path": str(monitors.get(LYING, LYING)), "view": "extra_turn"}}
    name = config.organism["name"]
    shared = config.run.model_dump() | {"policy": organism, "organism": name}
    return [
        parse_config(
            RunConfig,
            shared
            | {"name": f"{name}-{arm}-seed{seed}", "mitigations": settings.mitigations}
            | {"monitors": specs | (lying if _asks(settings.mitigations) else {}) | settings.monitors}
            | {"rl": shared["rl"] | settings.rl, "seed": seed, "arm": arm, "label": settings.label},
            f"arms.{arm}",
        )
        for seed in config.seeds
        for arm, settings in config.arms.items()
    ]


def check(config: StudyConfig) -> None:
    """Finds the user's mistakes before anything is built.

    Raises:
        UserError: A plug-in is none or wrongly set, or an arm's mitigations do not go together.
    """
    make("organisms", config.organism, "organism")
    for run in grid(config, Path("organism"), {view: Path(view) for view in VIEWS}):
        made = {n: make("monitors", spec, f"arms.{run.arm}.monitors.{n}") for n, spec in run.monitors.items()}
        mitigations = [make("mitigations", m, f"arms.{run.arm}.mitigations") for m in run.mitigations]
        views = {monitor: _view(monitor, run.monitors) for monitor in run.monitors}
        setting = Setting(MiniatureScenario(), views, dict.fromkeys(views, 0.5), resolved(run).rl.model_dump())
        try:
            _ = [monitor.bound(made) for monitor in made.values()]
            prepare(mitigations, setting)
        except UserError as error:
            raise UserError(f"arms.{run.arm}: {error}") from None


def _asks(mitigations: Sequence[Mapping[str, Any]]) -> bool:
    return any(m.get("name") == Interrogation.name for m in mitigations)


def _view(name: str, specs: Mapping[str, Mapping[str, Any]]) -> View:
    """What a monitor will read, before those of the study are trained."""
    start = specs[name].get("start")
    view: View = specs[str(start)].get("view", "both") if start in specs else specs[name].get("view", "both")
    return view


def _cards(runs: Sequence[RunConfig]) -> dict[str, dict[str, Any]]:
    """Cards of all monitors of a study but the oracle, as they are before RL."""
    cards: dict[str, dict[str, Any]] = {}
    for run in runs:
        made: dict[str, Monitor] = {n: make("monitors", s, n) for n, s in run.monitors.items() if n not in cards}
        known = {n: make("monitors", s, n) for n, s in run.monitors.items()}
        cards |= {n: m.bound(known).card for n, m in made.items() if n != "oracle"}
    return cards


def _base(config: StudyConfig, display: Display) -> Path:
    with display.supervised("base model") as on_step:
        return build_base(base_config(config.scale), on_step)


def _organism(config: StudyConfig, base: Path, display: Display) -> Path:
    recipe = make("organisms", config.organism, "organism")
    with display.supervised(f"organism {recipe.name}") as on_step:
        return build(recipe, base, on_step=on_step)


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
