"""The main job from end to end: base → organisms → monitors → RL arms × seeds → report data.

Every phase finds its finished work and does only what is missing.
"""

from __future__ import annotations

import functools
import json
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from crypsis.config import digest, parse_config, read_yaml
from crypsis.differences import Inputs
from crypsis.digests import LEDGER, DamagedError, damages, record_again
from crypsis.evaluation.metrics import LYING
from crypsis.identity.configs import inputs_of
from crypsis.identity.files import content_parts
from crypsis.jsonlines import read_rows
from crypsis.locks import locked
from crypsis.monitors.folds import TooFewError
from crypsis.organisms.base import Organism
from crypsis.parallel import release_memory
from crypsis.registry import DEFAULT_SCENARIO, make
from crypsis.run_config import RunConfig
from crypsis.scenarios.base import Scenario
from crypsis.store import (
    CONFIG,
    INPUTS,
    METRICS,
    PROVENANCE,
    RESULT,
    Exists,
    child,
    finish_folder,
    is_complete,
    json_text,
    prepare_folder,
    read_json,
    record_inputs,
    restore_head,
    rewrite,
    write_json,
)
from crypsis.study.building import build_all
from crypsis.study.config import HOW, Checkpoint, StudyConfig, widen
from crypsis.study.execute import run_all, send
from crypsis.study.grid import asked, cards, check, check_access, grid
from crypsis.study.lying import train_lying_monitor
from crypsis.study.monitors import Common, base_transcripts, train_monitors
from crypsis.study.organism import StudyBuilder, build, measured_card
from crypsis.study.plan import check_budgets
from crypsis.study.progress import Display
from crypsis.study.reporting import check_sinks
from crypsis.study.transcripts import Sampling
from crypsis.types import RunsFailedError, UserError

T = TypeVar("T")
HOW_CODE = ("crypsis.study.execut", "crypsis.study.progress", "crypsis.study.report", "crypsis.study.sinks")
"""Modules that start and show runs: they do not change what comes out."""
MONITORS, TIMING = "monitors.json", "timing.json"
REPAIRED = (PROVENANCE, RESULT, MONITORS, TIMING, "monitors")
"""What a study makes again if it is lost; a damaged monitor is refused when it is loaded."""


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
        check_budgets(config)
        check_sinks(config.run.report_to)
        inputs = study_inputs(config)
        if exists == "resume":
            _reopened(out, config, inputs)
        if prepare_folder(out, config, exists, HOW, inputs, repairs=REPAIRED) and _all_finished(out):
            send(_stored_runs(out, config), out)
            return out
        check_access(config)
        _refuse_damaged_monitors(out)
        clock = _Clock(out)
        checkpoints = config.checkpoints()
        bases = clock.time("base model", lambda: _bases(config, display))
        organisms = clock.time("organism", lambda: _organisms(config, bases, display))
        record_inputs(out, {f"organism {name}": content_parts(folder) for name, folder in organisms.items()})
        sampling = Sampling.of(config)
        common = functools.cache(lambda honest: base_transcripts(honest, config.monitor_data, sampling))
        trained = {
            made.name: clock.time(
                "monitors",
                partial(_monitors, config, made, bases[made.name], organisms[made.name], out, common, display),
            )
            for made in checkpoints
            if config.monitors is None and config.monitors_from in (None, made.organism)
        }
        monitors: dict[str, dict[str, Path]] = {}
        for made in checkpoints:
            source = config.checkpoint(config.monitors_from or made.organism, made.seed)
            monitors[made.name] = dict(trained.get(source, {}))
            if asked(config, made.organism):
                lies = partial(_lies, config, made, organisms[made.name], out, display)
                monitors[made.name] |= clock.time("monitors", lies)
        for file in sorted((out / "monitors").rglob(LEDGER)):
            record_again(out, file)
        runs = grid(config, organisms, monitors)
        write_json(out / MONITORS, cards(runs, config))
        failed = clock.time("RL", lambda: run_all(runs, out, config.executor, config.workers, config.retries, display))
        clock.write(runs)
        _measured_cards(config, bases, organisms, runs, out)
        if failed:
            raise RunsFailedError(out, list(failed))
        finish_folder(out, {"runs": [run.name for run in runs]}, inputs, only=[CONFIG, INPUTS, *REPAIRED])
    return out


def study_inputs(config: StudyConfig) -> Inputs:
    """What a study is made from, without what only says how it is computed."""
    found = inputs_of(config, __name__)
    code = {name: value for name, value in found["code"].items() if not name.startswith(HOW_CODE)}
    return {k: v for k, v in found.items() if k.partition(".")[0] not in HOW} | {"code": code}


def _drop_damaged(out: Path) -> None:
    """Deletes damaged records of a study that are written again in any case, or that nothing depends on."""
    if out.is_dir():
        for damage in damages(out):
            if damage.file in (MONITORS, TIMING, PROVENANCE):
                (out / damage.file).unlink(missing_ok=True)


def _refuse_damaged_monitors(out: Path) -> None:
    """A monitor that is lost is trained again; a damaged one is left for its owner to delete.

    Raises:
        DamagedError: The first damaged one.
    """
    for damage in damages(out):
        room, *parts = Path(damage.file).parts
        monitor = out.joinpath(room, *parts[:2])
        if room == "monitors" and monitor.exists():
            raise DamagedError(damage, f"delete the folder {monitor} and run the same command again")


def _reopened(out: Path, config: StudyConfig, inputs: Inputs) -> None:
    """Makes a folder that is there ready to go on: damaged parts dropped, lost heads written again, the grid grown."""
    _learn_revisions(out, inputs)
    _drop_damaged(out)
    restore_head(out, config, inputs)
    widen(out, config, inputs)


def _learn_revisions(out: Path, inputs: Inputs) -> None:
    """Records the revision of a hub's model that no local cache had when the study began: the study downloaded it."""
    recorded: Inputs = read_json(out / INPUTS) if (out / INPUTS).exists() else {}
    unknown = [place for place, parts in recorded.items() if parts.get("revision") == ""]
    known = {p: inputs[p] for p in unknown if p in inputs and inputs[p].get("hub") == recorded[p].get("hub")}
    if any(recorded[place] != parts for place, parts in known.items()):
        rewrite(out, {INPUTS: json_text({**recorded, **known})})


def _all_finished(out: Path) -> bool:
    """Whether every run of a finished study is still there, as it was stored."""
    return all(is_complete(out / "runs" / name) for name in read_json(out / RESULT)["runs"])


def _stored_runs(out: Path, config: StudyConfig) -> list[RunConfig]:
    """The runs of a finished study as they are stored, if there is anything to do with them."""
    if not config.run.report_to:
        return []
    shown = {"report_to": list(config.run.report_to)}
    places = [out / "runs" / name for name in read_json(out / RESULT)["runs"]]
    return [parse_config(RunConfig, read_yaml(place / CONFIG) | shown, str(place)) for place in places]


def _bases(config: StudyConfig, display: Display) -> dict[str, Path]:
    """The base of each checkpoint; those that are made alike are made once."""
    if config.base is not None:
        return {made.name: Path(config.base) for made in config.checkpoints()}
    found: dict[str, Path] = {}
    known: dict[str, Path] = {}
    for made in config.checkpoints():
        spec = config.base_scenario(made)
        key = digest(spec)
        if key not in known:
            with display.supervised(f"base model{f', seed {made.base}' if made.base else ''}") as on_step:
                scenario: Scenario = make("scenarios", spec, "run.scenario")
                known[key] = scenario.base_model(config.scale, on_step)
        found[made.name] = known[key]
    return found


def _recipe(config: StudyConfig, made: Checkpoint) -> Organism:
    """The recipe that trains a checkpoint."""
    recipe: Organism = make("organisms", config.organisms[made.organism], f"organisms.{made.organism}")
    return recipe.again(made.training)


def _organisms(config: StudyConfig, bases: Mapping[str, Path], display: Display) -> dict[str, Path]:
    """The checkpoints by name: one after the other, or several at a time where every seed has its own."""
    recipes = {made.name: (_recipe(config, made), bases[made.name]) for made in config.checkpoints()}
    if config.repeats != "runs" and config.workers > 1:
        with display.counted("organisms", len(recipes), "organisms") as show:
            return build_all(recipes, config.workers, show)
    return {name: _organism(name, *made, display) for name, made in recipes.items()}


def _organism(name: str, recipe: Organism, base: Path, display: Display) -> Path:
    with display.supervised(f"organism {name}") as on_step:
        return build(recipe, base, on_step=on_step)


def _measured_cards(
    config: StudyConfig,
    bases: Mapping[str, Path],
    organisms: Mapping[str, Path],
    runs: Sequence[RunConfig],
    out: Path,
) -> None:
    """Puts what each organism did before RL into its card, where the labels are those of the ground truth."""
    if (config.run.scenario or {"name": DEFAULT_SCENARIO}) != {"name": DEFAULT_SCENARIO}:
        return  # a card speaks of the canonical scenario
    for made in config.checkpoints():
        first = next(run for run in runs if (run.organism, run.seed) == (made.organism, made.seed))
        evaluation = child(out, "runs", first.name) / "evals" / "step-0000.parquet"
        folder, base = organisms[made.name], str(bases[made.name])
        measured_card(_recipe(config, made), base, folder, evaluation, config.name)


def _monitors(
    config: StudyConfig,
    made: Checkpoint,
    base: Path,
    organism: Path,
    out: Path,
    common: Callable[[Path], Common],
    display: Display,
) -> dict[str, Path]:
    """A checkpoint's monitors, but for that of lies."""
    spec, folder = _recipe(config, made).honest(), child(out, "monitors", made.name)
    honest = base if spec is None else StudyBuilder(base).organism(spec)
    try:
        return train_monitors(
            partial(common, honest), organism, config.monitor_data, folder, display, Sampling.of(config), config.panel
        )
    except UserError as error:
        raise UserError(f"organisms.{made.organism}: {error}") from None


def _lies(config: StudyConfig, made: Checkpoint, organism: Path, out: Path, display: Display) -> dict[str, Path]:
    """The monitor of lies of a checkpoint that an arm interrogates, its own in any case; none if it lies too rarely."""
    folder = child(out, "monitors", made.name)
    try:
        return {LYING: train_lying_monitor(organism, config.monitor_data, folder, display, Sampling.of(config))}
    except TooFewError as error:
        display.console.print(f"{made.name}: no monitor of lies ({error})", markup=False)
        return {}


class _Clock:
    """Seconds by phase, added up over resumed attempts and kept in ``timing.json``."""

    def __init__(self, out: Path) -> None:
        self._path = out / TIMING
        self._lost = not self._path.exists() and any(out.glob(f"runs/*/{METRICS}"))
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
        """Stores the phases, the rate of training episodes over the RL phase, and the memory of the largest process.

        Nothing is stored if the times of earlier attempts are lost: the rest would pass for the whole.
        """
        if self._lost:
            return
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
