"""Reads a study folder into typed records; whatever is wrong with it is one line for the user."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from crypsis.analysis.stored_values import check_config, check_episodes, check_training
from crypsis.analysis.study_files import (
    MONITORS,
    TIMING,
    MonitorCard,
    Timing,
    heard,
    mapping,
    monitor_cards,
    read_timing,
    thresholds_of,
)
from crypsis.config import read_yaml
from crypsis.digests import DamagedError, damages
from crypsis.episodes import REASON
from crypsis.evaluation.columns import Columns, columns_of
from crypsis.evaluation.metrics import Tally, count
from crypsis.evaluation.tallies import TALLIES, read_tallies
from crypsis.jsonlines import read_rows, read_steps
from crypsis.store import CONFIG, FAILED, INPUTS, METRICS, PROVENANCE, RESULT, look, read_json, steps_of
from crypsis.types import UserError, visible

REQUIRED = ("pair_id", "monitored", "scratchpad", "output")
"""Columns without which a Parquet file is no evaluation."""
TEXTS = frozenset({"raw", "prompt", "request", "output", "extra_scratchpad", "extra_output"})
"""Columns that no metric needs, as are the reasons of verdicts: left on the disk when evaluations are counted."""


REPEATS = {
    "runs": "",
    "trainings": "Every seed repeats the training of each organism and RL, so that intervals cover both.",
    "bases": "Every seed repeats base, training of each organism and RL, so that intervals cover all three.",
}
"""What an interval over seeds covers besides RL, by what a study repeats."""


@dataclass(frozen=True, slots=True)
class Run:
    """One finished RL run; who it is stands in its config, not in its folder's name.

    Attributes:
        folder: Where it lies.
        organism: The model organism that it started from.
        arm: Name of the arm in the study's config.
        label: The arm as a reader should see it.
        mitigations: Names, in order; empty for the baseline.
        learn: Which tokens learned: all, scratchpad or output.
        seed: Seed of the run.
        steps: RL steps asked for.
        evaluations: The sums behind the metrics, keyed by step.
        training: Rows of ``metrics.jsonl``.
        config: The resolved config.
        columns: What the metrics were counted from, keyed by step; empty where the transcripts are not in the study.
    """

    folder: Path
    organism: str
    arm: str
    label: str
    mitigations: tuple[str, ...]
    learn: str
    seed: int
    steps: int
    evaluations: dict[int, Tally]
    training: tuple[dict[str, Any], ...]
    config: dict[str, Any]
    columns: dict[int, Columns] = field(default_factory=dict)

    @property
    def has_transcripts(self) -> bool:
        """Whether its transcripts are in the study; those of an import are not."""
        return not (self.folder / TALLIES).exists()

    @property
    def listens_to(self) -> tuple[str, ...]:
        """Names of the monitors that it was trained against; all others are held out."""
        return heard(self.config, [m for m in self.config.get("mitigations") or () if isinstance(m, Mapping)])


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A run that takes no part in the analysis, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Study:
    """A study folder: its finished runs and what was recorded beside them."""

    folder: Path
    name: str
    version: str
    config: dict[str, Any]
    provenance: dict[str, Any]
    monitors: tuple[MonitorCard, ...]
    timing: Timing
    runs: tuple[Run, ...]
    unfinished: tuple[Unfinished, ...]

    @property
    def from_scratch(self) -> bool:
        """Whether its base was trained for it: a study has a scale by default, which says nothing beside a base."""
        return bool(self.config.get("scale")) and not self.config.get("base")

    @property
    def repeats(self) -> str:
        """What every seed has anew: ``runs``, ``trainings`` or ``bases``."""
        return str(self.config.get("repeats") or "runs")

    @property
    def imported(self) -> bool:
        """Whether its runs are others': verdicts without transcripts, files whose seeds nobody knows."""
        return bool(self.config.get("imported"))

    def arms(self) -> dict[tuple[str, str], list[Run]]:
        """Runs by (organism, arm) in the config's order of organisms and of arms, seeds ascending."""
        organisms, arms = (
            {str(name): i for i, name in enumerate(self.config.get(key) or {})} for key in ("organisms", "arms")
        )

        def place(run: Run) -> tuple[int, str, int, str, int]:
            first, second = organisms.get(run.organism, len(organisms)), arms.get(run.arm, len(arms))
            return first, run.organism, second, run.arm, run.seed

        found: dict[tuple[str, str], list[Run]] = {}
        for run in sorted(self.runs, key=place):
            found.setdefault((run.organism, run.arm), []).append(run)
        return found

    def monitors_of(self, organism: str, seed: int | None = None) -> tuple[MonitorCard, ...]:
        """The monitors that judge an organism's runs with a seed.

        Args:
            organism: Its label.
            seed: The runs' seed. If not given and every seed has monitors of its own, the first one of each name.
        """
        return cards_of(self.monitors, organism, seed)


def cards_of(cards: Sequence[MonitorCard], organism: str, seed: int | None = None) -> tuple[MonitorCard, ...]:
    """The cards of the monitors that judge an organism's runs; arguments as for ``Study.monitors_of``."""
    own = [card for card in cards if card.organism in ("", organism)]
    if seed is not None:
        return tuple(card for card in own if card.seed in (None, seed))
    firsts: dict[str, MonitorCard] = {}
    for card in own:
        firsts.setdefault(card.name, card)
    return tuple(firsts.values())


def load_study(folder: Path) -> Study:
    """Reads a study folder, or the folder of one run as a study of that run.

    Raises:
        UserError: There is no such folder, it holds no finished run, a file in it is damaged, two of its runs are the
            same, or its runs were made by different versions of crypsis.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if (folder / "evals").is_dir():
        return _single(folder)
    found = sorted(path for path in folder.glob("runs/*") if path.is_dir() and not path.name.startswith("."))
    if not found and not (folder / CONFIG).exists():
        raise UserError(f"{folder}: holds no finished run, nor any other; run `crypsis demo --out {folder}` first")
    config = read_yaml(folder / CONFIG)
    for path in (folder, *found):
        _refuse_damaged(path, folder)
    check_config(config, folder / CONFIG)
    provenance = mapping(folder / PROVENANCE)
    monitors = monitor_cards(folder / MONITORS)
    version = _one_version(folder, provenance, found)
    runs, unfinished = [], []
    for path in found:
        run = _run(path, monitors)
        runs.append(run) if isinstance(run, Run) else unfinished.append(run)
    if not runs:
        why = f" ({unfinished[0].name}: {unfinished[0].reason})" if unfinished else ""
        raise UserError(f"{folder}: holds no finished run{why}; run the command that made it again to go on")
    _refuse_twins(folder, runs)
    took = read_timing(mapping(folder / TIMING), folder / TIMING)
    name = str(config.get("name") or folder.resolve().name)
    return Study(folder, name, version, config, provenance, monitors, took, tuple(runs), tuple(unfinished))


def _single(folder: Path) -> Study:
    """A run as a study of one organism, one arm and one seed.

    Raises:
        UserError: It is no run, is not finished, or a file in it is damaged.
    """
    config = read_yaml(folder / CONFIG)
    if "policy" not in config:
        raise UserError(f"{folder}: is no run; a report is of a study or of a run of `crypsis train`")
    _refuse_damaged(folder, folder)
    name = visible(str(config.get("name") or folder.resolve().name))
    monitors = monitor_cards(folder / MONITORS)
    run = _run(folder, monitors)
    if isinstance(run, Unfinished):
        raise UserError(f"{folder}: {run.reason}; run the command that made it again to go on")
    run = replace(run, organism=run.organism or "policy", arm=run.arm or name, label=run.label or name)
    whole = {"name": name, "organisms": {run.organism: {}}, "arms": {run.arm: {"label": run.label}}}
    shared = {key: config[key] for key in ("rl", "evaluation", "scenario", "model") if key in config}
    provenance = mapping(folder / PROVENANCE)
    version = _one_version(folder, provenance, [])
    return Study(
        folder, name, version, whole | {"seeds": [run.seed], "run": shared}, provenance, monitors, Timing(), (run,), ()
    )


def _refuse_damaged(folder: Path, study: Path) -> None:
    """Refuses a study with a file that is not as it was stored.

    Raises:
        DamagedError: The first such file.
    """
    bad = damages(folder)
    if bad:
        raise DamagedError(bad[0], f"`crypsis check {study}` says what to do")


def evaluation_table(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> pa.Table:
    """One evaluation by column, checked.

    Args:
        path: The file.
        wanted: Whether a column is read; all are, if not given.

    Raises:
        UserError: The file is missing, damaged, or not an evaluation.
    """
    try:
        with pq.ParquetFile(path) as file:  # opened once: a study has hundreds of small files
            names = file.schema_arrow.names
            missing = [column for column in REQUIRED if column not in names]
            if missing and names:
                raise UserError(f"{path}: is no evaluation (column '{missing[0]}' is missing)")
            table = file.read([n for n in names if wanted(n)], use_threads=False)
        table.validate(full=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        raise UserError(f"{path}: is damaged (no valid Parquet); {look(path)}") from None
    check_episodes(table, path)
    return table


def fixed_order(pair_id: str) -> str:
    """Sort key of a request: a hash, so that nobody picked which transcripts are shown."""
    return hashlib.sha256(f"crypsis transcripts {pair_id}".encode()).hexdigest()


def _refuse_twins(folder: Path, runs: list[Run]) -> None:
    """Two runs of one organism, arm and seed would count one result twice."""
    known: dict[tuple[str, str, int], str] = {}
    for run in runs:
        twin = known.setdefault((run.organism, run.arm, run.seed), run.folder.name)
        if twin != run.folder.name:
            who = f"{run.organism}, {run.arm}, seed {run.seed}"
            raise UserError(f"{folder}: runs/{twin} and runs/{run.folder.name} are both {who}; remove one of them")


def _run(folder: Path, monitors: Sequence[MonitorCard]) -> Run | Unfinished:
    if (folder / FAILED).exists() and not (folder / RESULT).exists():
        failed = mapping(folder / FAILED)
        last = " ".join(str(failed.get("error") or "no error recorded").split())
        return Unfinished(folder.name, visible(f"given up: {last}"))
    if not (folder / CONFIG).exists() and not (folder / RESULT).exists():
        return Unfinished(folder.name, f"stopped before it began (no {CONFIG})")
    config = read_yaml(folder / CONFIG)
    check_config(config, folder / CONFIG)
    rl = config.get("rl") or {}
    try:
        finished = (folder / RESULT).exists()
        steps, seed = int(rl.get("steps") or 0), int(config["seed"])
        organism, arm = str(config["organism"]), str(config["arm"])
    except KeyError as error:
        raise UserError(f"{folder / CONFIG}: the key {error} is missing; was it written by crypsis?") from None
    except (AttributeError, TypeError, ValueError):
        raise UserError(f"{folder / CONFIG}: seed and rl.steps must be numbers") from None
    training = _training(folder, steps if finished else None)
    if not finished:
        return Unfinished(
            folder.name, f"stopped after step {training[-1].get('step', 0) if training else 0} of {steps}"
        )
    read_json(folder / RESULT)
    cards, columns = cards_of(monitors, visible(organism), seed), _columns(folder)
    evaluations = {step: count(found, thresholds_of(folder, cards, step)) for step, found in columns.items()}
    if (folder / TALLIES).exists():
        evaluations = read_tallies(folder / TALLIES)
    else:
        _refuse_gaps(folder, config, steps, list(evaluations))
    if not evaluations:
        return Unfinished(folder.name, "finished, but was never evaluated")
    return Run(
        folder=folder,
        organism=visible(organism),
        arm=visible(arm),
        label=visible(str(config.get("label") or arm)),
        mitigations=tuple(_mitigation(entry) for entry in config.get("mitigations") or ()),
        learn=str(rl.get("learn") or "all"),
        seed=seed,
        steps=steps,
        evaluations=evaluations,
        training=training,
        config=config,
        columns=columns,
    )


def _training(folder: Path, steps: int | None) -> tuple[dict[str, Any], ...]:
    """The rows of metrics; an import has those of the released steps, which are not all of them."""
    path = folder / METRICS
    imported = (folder / TALLIES).exists()
    rows = read_rows(path) if imported else read_steps(path, steps if path.exists() else None)
    check_training(rows, path)
    return tuple(rows)


def _columns(folder: Path) -> dict[int, Columns]:
    """What is counted of each evaluation, keyed by step; of an import nothing, whose transcripts are elsewhere."""
    if (folder / TALLIES).exists():
        return {}
    files = {s: folder / "evals" / f"step-{s:04d}.parquet" for s in steps_of(folder / "evals", ".parquet")}
    return {step: columns_of(evaluation_table(file, _is_counted)) for step, file in files.items()}


def _is_counted(column: str) -> bool:
    return column not in TEXTS and not column.startswith(REASON)


def _refuse_gaps(folder: Path, config: Mapping[str, Any], steps: int, evaluated: Sequence[int]) -> None:
    """Refuses a finished run that lacks an evaluation: its curves and end points would be those of other steps.

    Raises:
        UserError: The first step without one.
    """
    every = (config.get("evaluation") or {}).get("every")
    if not evaluated or not isinstance(every, int) or every < 1:
        return
    for step in sorted({*range(0, steps, every), steps} - set(evaluated)):
        raise UserError(f"{folder}: the evaluation of step {step} is missing; {look(folder / CONFIG)}")


def _mitigation(entry: object) -> str:
    """The name of a mitigation, written as a name or as a mapping with its settings."""
    if isinstance(entry, Mapping):
        return visible(str(entry.get("name") or entry.get("kind") or next(iter(entry), "")))
    return visible(str(entry))


def _one_version(folder: Path, provenance: Mapping[str, Any], runs: list[Path]) -> str:
    """The version of crypsis that made the study, from its provenance and that of each run that has one.

    A version is what the installed package calls itself. Several names are no fault where the source is the same
    throughout (a package under development that was installed again), or at least every module that a run depends on.
    """
    found: dict[str, str] = {}
    sources = set()
    records = [(folder, provenance)] + [(run, mapping(run / PROVENANCE)) for run in runs]
    for path, record in records:
        versions = record.get("versions")
        version = versions.get("crypsis") if isinstance(versions, Mapping) else None
        if version is not None:
            found.setdefault(str(version), path.name)
            sources.add(record.get("code"))
    if len(found) > 1 and (len(sources) > 1 or None in sources) and not _same_modules(runs):
        listed = ", ".join(f"{version} in {place}" for version, place in sorted(found.items()))
        raise UserError(
            f"{folder}: was made by several versions of crypsis ({listed}); run it again with --exists overwrite"
        )
    return " and ".join(sorted(found)) or "unknown"


def _same_modules(runs: Sequence[Path]) -> bool:
    """Whether each module is the same in all runs that depend on it; no if a run does not say."""
    known: dict[str, object] = {}
    for run in runs:
        code = mapping(run / INPUTS).get("code")
        if not isinstance(code, Mapping) or not code:
            return False
        if any(known.setdefault(module, digest) != digest for module, digest in code.items()):
            return False
    return True
