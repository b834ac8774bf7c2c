"""``crypsis monitor recall``: a monitor of step 0 followed over the steps of the released runs. No torch here.

It is trained on the baseline's first step and half of the requests, and judges the other half in every run. Texts are
decrypted in memory, scored and dropped: what is written are counts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crypsis.config import Config, digest
from crypsis.evaluation.metrics import wilson
from crypsis.locks import locked
from crypsis.monitors.data import DataOptions, load_labelled
from crypsis.monitors.ensemble import make_trainer
from crypsis.monitors.trained import TrainedMonitor, train_monitor
from crypsis.paper_data.layout import ReleaseFile, fingerprint, release_files
from crypsis.paper_data.names import names
from crypsis.registry import make
from crypsis.store import PROVENANCE, RESULT, Exists, prepare_folder, provenance, write_json
from crypsis.transcripts.base import AF, Only, Reading
from crypsis.transcripts.release import VERDICTS, ReleaseReader
from crypsis.types import UserError, View

RECALL = "recall.json"
BATCH = 1024
"""Transcripts scored at a time."""
AGAINST = "scratchpad"
"""Our name of the arm whose runs were trained against a monitor of scratchpads."""
GROUPS = {True: "trained against a scratchpad monitor", False: "all other runs"}
BASELINE = "Baseline"
CELLS = {(True, True): "hits", (True, False): "misses", (False, True): "alarms", (False, False): "quiet"}
"""The field of ``Counts`` for each pair of verdicts: of the paper's classifier and of the monitor."""


class RecallConfig(Config):
    """What is trained, and what it is followed over."""

    data: str
    data_digest: str
    monitor: dict[str, Any] = {"name": "text"}
    view: View = "scratchpad"
    organism: list[str] = []
    """Organisms to train on and to follow; empty for all."""
    intervention: list[str] = []
    """Interventions to follow; empty for all."""
    share: float = 1.0
    seed: int = 0


@dataclass(slots=True)
class Counts:
    """Verdicts at one step: of the paper's classifier, and the monitor's.

    Attributes:
        hits: Flagged by both.
        misses: Flagged by the classifier alone.
        alarms: Flagged by the monitor alone.
        quiet: Flagged by neither.
        unscored: Without a text that the monitor can read.
    """

    hits: int = 0
    misses: int = 0
    alarms: int = 0
    quiet: int = 0
    unscored: int = 0

    def add(self, other: Counts) -> None:
        """Adds those of another run."""
        for name in ("hits", "misses", "alarms", "quiet", "unscored"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def as_json(self) -> dict[str, Any]:
        """Counts, and both rates with Wilson's 95 % interval over transcripts."""
        faking, not_faking = self.hits + self.misses, self.alarms + self.quiet
        rates = {"recall": _rate(self.hits, faking), "false_alarms": _rate(self.alarms, not_faking)}
        return asdict(self) | {"n": faking + not_faking, "faking": faking, **rates}


def measure_recall(
    data: Path, config: RecallConfig, out: Path, exists: Exists, on_file: Callable[[int], None] = lambda _: None
) -> Path:
    """Trains, follows and writes ``recall.json``; the monitor lies in ``monitor/``.

    Args:
        data: The release or a part of it.
        config: What is trained and followed.
        out: Folder.
        exists: What to do with a folder that is there.
        on_file: Told how many files are done.

    Raises:
        UserError: Nothing to read, or too few transcripts of a class at the baseline's first step.
    """
    files = release_files(data)
    with locked(out):
        if prepare_folder(out, config, exists):
            return out
        monitor, trained = _train(data, config, out)
        runs, notes, skipped = [], [VERDICTS], Counter[str]()
        for number, file in enumerate(files):
            for key, steps in _follow(file, monitor, config, skipped).items():
                runs.append(_run(key, file, steps))
            on_file(number + 1)
        notes += [f"{count:,} rows skipped: {reason}" for reason, count in skipped.items()]
        result = {
            "trained": trained,
            "threshold": monitor.threshold,
            "groups": _groups(runs),
            "runs": runs,
            "notes": notes,
        }
        write_json(out / RECALL, result)
        write_json(out / PROVENANCE, provenance({"data": {"files": config.data_digest}}))
        write_json(out / RESULT, {"verb": "recall"})
    return out


def held_out(pair_id: str) -> bool:
    """Whether a request is of the half that the monitor does not learn from; the same half for every run."""
    return int(digest(f"recall {pair_id}"), 16) % 2 == 1


def _train(data: Path, config: RecallConfig, out: Path) -> tuple[TrainedMonitor, dict[str, Any]]:
    only = Only(organism=config.organism, intervention=[BASELINE], step=[0], tier="free", share=config.share)
    labelled = load_labelled(data, DataOptions(view=config.view, only=only))
    labelled = labelled.rows(np.array([not held_out(group) for group in labelled.groups], dtype=np.bool_))
    trainer = make_trainer(config.monitor, "--kind")
    card = train_monitor(
        trainer, labelled.texts(config.view), labelled.labels.tolist(), labelled.groups, config.view,
        out / "monitor", config.seed,
    )  # fmt: skip
    monitor: TrainedMonitor = make("monitors", {"name": trainer.kind, "path": str(out / "monitor")}, "recall")
    about = {name: card[name] for name in ("kind", "view", "auroc", "auroc_low", "auroc_high", "n_train", "n_test")}
    return monitor, about | {"transcripts": len(labelled.labels), "faking": int(labelled.labels.sum())}


Key = tuple[str, str]
"""Organism and intervention, as the release calls them."""


def _follow(
    file: ReleaseFile, monitor: TrainedMonitor, config: RecallConfig, skipped: Counter[str]
) -> dict[Key, dict[int, Counts]]:
    """What monitor and classifier say of held-out requests in the monitored tier, keyed by run and step."""
    only = Only(organism=config.organism, intervention=config.intervention, tier="free", share=config.share)
    found: dict[Key, dict[int, Counts]] = defaultdict(lambda: defaultdict(Counts))
    reading = Reading()
    for rows in _batches(file, DataOptions(view=config.view, only=only), reading):
        texts = [row[3] for row in rows]
        flagged = np.zeros(len(rows), np.bool_)
        given = [i for i, text in enumerate(texts) if text]
        if given:
            flagged[given] = monitor.score([texts[i] for i in given]) >= monitor.threshold
        for (key, step, fakes, text), flag in zip(rows, flagged, strict=True):
            counts = found[key][step]
            name = (
                "unscored" if not text else ("hits" if flag else "misses") if fakes else "alarms" if flag else "quiet"
            )
            setattr(counts, name, getattr(counts, name) + 1)
    skipped.update(reading.skipped)
    return found


Row = tuple[Key, int, bool, str]


def _batches(file: ReleaseFile, options: DataOptions, reading: Reading) -> Iterator[Sequence[Row]]:
    rows: list[Row] = []
    for transcript in ReleaseReader().read(file.path, options, reading):
        fakes = transcript.labels[AF]
        if transcript.step is None or fakes is None:
            reading.skip("no step" if transcript.step is None else "no verdict of the paper's classifier")
        elif held_out(transcript.pair_id):
            text = transcript.episode().seen(options.view).strip()
            rows.append(((transcript.model, transcript.fields["intervention"]), transcript.step, fakes, text))
        if len(rows) >= BATCH:
            yield rows
            rows = []
    if rows:
        yield rows


def _run(key: Key, file: ReleaseFile, steps: dict[int, Counts]) -> dict[str, Any]:
    return {
        "file": file.name,
        "organism": key[0],
        "intervention": key[1],
        "context": file.context,
        "trained_against": names().intervention(key[1]).arm == AGAINST,
        "steps": [{"step": step, **steps[step].as_json()} for step in sorted(steps)],
    }


def _groups(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sums over runs by step: those trained against a scratchpad monitor, and all others."""
    found = []
    for against, name in GROUPS.items():
        mine = [run for run in runs if run["trained_against"] is against]
        sums: dict[int, Counts] = defaultdict(Counts)
        many: Counter[int] = Counter()
        for run in mine:
            for row in run["steps"]:
                sums[row["step"]].add(Counts(**{k: row[k] for k in ("hits", "misses", "alarms", "quiet", "unscored")}))
                many[row["step"]] += 1
        steps = [{"step": step, "runs": many[step], **sums[step].as_json()} for step in sorted(sums)]
        if steps:
            found.append({"name": name, "runs": len(mine), "steps": steps})
    return found


def _rate(count: int, of: int) -> dict[str, float | None]:
    if not of:
        return {"mean": None, "low": None, "high": None}
    low, high = wilson(count, of)
    return {"mean": count / of, "low": low, "high": high}


def release_digest(data: Path) -> str:
    """A digest of the files' names and ends: their content would take as long to read as to judge.

    Raises:
        UserError: There is no release in the folder.
    """
    files = release_files(data)
    if not any(ReleaseReader().detect(file.path) for file in files):
        raise UserError(f"{data}: holds no file of the paper's release; `crypsis data check {data}` says what is there")
    return digest([[file.name, fingerprint(file)] for file in files])
