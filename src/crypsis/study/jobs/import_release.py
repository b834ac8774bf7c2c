"""``crypsis study import``: the released runs as a study, from verdicts and rewards alone. No torch here.

Nothing is decrypted, and the requests are kept as digests only: the study holds no text of the release.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crypsis.arrays import Floats
from crypsis.config import Config, digest
from crypsis.evaluation.metrics import Tally, add_gap
from crypsis.evaluation.tallies import TALLIES, write_tallies
from crypsis.locks import locked
from crypsis.paper_data.layout import DATASET, LONG, NEEDED, Codes, ReleaseFile, fingerprint, release_files
from crypsis.paper_data.names import names
from crypsis.paper_data.reading import Batch, Faults, batches, open_file
from crypsis.store import (
    CONFIG,
    METRICS,
    RESULT,
    Exists,
    finish_folder,
    new_folder,
    prepare_folder,
    write_atomic,
    write_json,
)
from crypsis.types import UserError, distinct_names, safe_name

JUDGE = "paper_classifier"
"""Name under which the paper's verdicts stand: those of a classifier of scratchpads, no ground truth."""
READ = (
    "initialised_from", "experiment_name", "intervention", "step", "task_id", "user_input", "is_free_tier_user",
    "alignment_faking", "compliance", "literal_compliance", "total_reward", "reward_PM", "reward_bad_response_format",
)  # fmt: skip
"""Columns that are read; replies are not among them."""
VALUES = ("alignment_faking", "compliance", "literal_compliance")
REWARDS = {"total_reward": "reward", "reward_PM": "term_preference", "reward_bad_response_format": "term_format"}
"""The field of ``metrics.jsonl`` that holds each column's mean."""
TASK = "alignment_faking_eval"
"""The task that counts where a file holds several."""
FAULTS = "faults.json"
LONGEST = 80
"""Characters of a run's folder before its number."""


class ImportConfig(Config):
    """The study's ``config.yaml``."""

    name: str = "alignment-faking-rl"
    imported: dict[str, Any]
    """The data set, the folder it was read from, and a digest of its files' names and sizes."""
    organisms: dict[str, dict[str, Any]]
    """The recipe by which claims know each organism, keyed by label."""
    arms: dict[str, dict[str, Any]]
    """What the runs of each arm do, and the intervention's own name."""
    monitors: dict[str, dict[str, Any]] = {JUDGE: {"name": JUDGE, "view": "scratchpad"}}


@dataclass(frozen=True, slots=True)
class Source:
    """A run to import: rows of one file with one organism and one intervention."""

    file: ReleaseFile
    organism: str
    intervention: str
    number: int

    @property
    def label(self) -> str:
        """The organism as the study calls it; runs with the long context are apart."""
        return f"{self.organism} (long context)" if self.file.context == "long" else self.organism

    @property
    def folder(self) -> str:
        """Name of the run's folder."""
        arm = names().intervention(self.intervention).arm
        context = "-long" if self.file.context == "long" else ""
        plain = "".join(c if c.isalnum() or c in "._-+" else "_" for c in f"{self.organism}{context}-{arm}")
        return safe_name(f"{plain[:LONGEST]}-run{self.number}")


@dataclass(slots=True)
class _Rows:
    """The rows of a file that have a place in a run, all columns of the same length [N]."""

    organism: list[str]
    intervention: list[str]
    step: NDArray[np.int64]
    pair: Codes
    free: NDArray[np.bool_]
    values: dict[str, Floats]
    pairs: list[str]

    def of(self, organism: str, intervention: str) -> NDArray[np.bool_]:
        """Which rows are of one run."""
        pairs = zip(self.organism, self.intervention, strict=True)
        return np.array([pair == (organism, intervention) for pair in pairs], dtype=np.bool_)


def import_release(
    folder: Path, out: Path, exists: Exists = "resume", on_file: Callable[[int], None] = lambda _: None
) -> Faults:
    """Writes a study folder that report, scorecard and status read.

    Args:
        folder: The release or a part of it.
        out: The study's folder.
        exists: What to do with a folder that is there.
        on_file: Told how many files are done.

    Returns:
        What could not be read, counted by file; empty if the study was there already. ``faults.json`` keeps it.

    Raises:
        UserError: No such folder, or no file of it can be imported.
    """
    files, faults = release_files(folder), Faults()
    by_file: dict[str, list[Source]] = defaultdict(list)
    for source in _sources(files, faults):
        by_file[source.file.name].append(source)
    if not by_file:
        said = next((reason for _, reason in faults.found), "no rows")
        raise UserError(f"{folder}: no file can be imported ({said}); `crypsis data check {folder}` says more")
    sources = [source for group in by_file.values() for source in group]
    distinct_names(source.folder for source in sources)
    config = _config(folder, files, sources)
    inputs = {"release": {file.name: fingerprint(file) for file in files}}
    with locked(out):
        if prepare_folder(out, config, exists, inputs=inputs):
            return faults
        for number, file in enumerate(files):
            if file.name in by_file:
                _import_file(file, by_file[file.name], out, faults)
            on_file(number + 1)
        card = {"kind": "the paper's classifier", "view": "scratchpad", "threshold": 0.5}
        write_json(out / "monitors.json", {JUDGE: card})
        write_json(out / FAULTS, faults.as_json())
        finish_folder(out, {"runs": len(sources)}, inputs)
    return faults


def _config(folder: Path, files: Sequence[ReleaseFile], sources: Sequence[Source]) -> ImportConfig:
    table = names()
    arms = {}
    for source in sources:
        known = table.intervention(source.intervention)
        arms[known.arm] = known.model_dump(mode="json", exclude={"arm"}) | {"intervention": source.intervention}
    order = [known.arm for known in table.interventions.values()]
    ranked = sorted(arms, key=lambda arm: (order.index(arm) if arm in order else len(order), arm))
    sizes = [[file.name, file.path.stat().st_size] for file in files]
    return ImportConfig(
        imported={"dataset": DATASET, "folder": str(folder), "files": digest(sizes)},
        organisms={source.label: table.organism(source.organism).recipe for source in sources},
        arms={arm: arms[arm] for arm in ranked},
    )


def _sources(files: Sequence[ReleaseFile], faults: Faults) -> Iterator[Source]:
    """The runs in each file, from its columns; numbered by cell in the order of the files' names."""
    count: Counter[tuple[str, str, str]] = Counter()
    for file in files:
        parquet = open_file(file, faults)
        if parquet is None:
            continue
        if lacking := [name for name in NEEDED if name not in parquet.schema_arrow.names]:
            faults.add(file.name, f"cannot be imported without {', '.join(lacking)}", (), parquet.metadata.num_rows)
            continue
        seen: dict[tuple[str, str], None] = {}
        for batch in batches(file, ("initialised_from", "experiment_name", "intervention"), Faults(), parquet):
            seen |= dict.fromkeys(zip(*_who(file, batch), strict=True))
        for organism, intervention in seen:
            cell = (organism, names().intervention(intervention).arm, file.context)
            yield Source(file, organism, intervention, count[cell])
            count[cell] += 1


def _who(file: ReleaseFile, batch: Batch) -> tuple[list[str], list[str]]:
    """Organism and intervention of each row: the columns', else those of the file's name."""
    stem = file.path.stem
    left, _, right = stem.rpartition("-")
    organism = _filled(batch, "initialised_from", [left or stem] * len(batch))
    mirror = _filled(batch, "experiment_name", [right or "unknown"] * len(batch))
    return organism, _filled(batch, "intervention", mirror)


def _filled(batch: Batch, name: str, other: list[str]) -> list[str]:
    codes, values = batch.codes(name)
    return [values[code] if code >= 0 else instead for code, instead in zip(codes, other, strict=True)]


def _import_file(file: ReleaseFile, sources: Sequence[Source], out: Path, faults: Faults) -> None:
    rows = _rows(file, faults)
    for source in sources:
        mine = rows.of(source.organism, source.intervention) if len(sources) > 1 else np.ones(len(rows.step), np.bool_)
        if mine.any():
            _write_run(out / "runs" / source.folder, source, rows, mine, faults)


def _rows(file: ReleaseFile, faults: Faults) -> _Rows:
    """Streams a file; rows without a place are counted with a reason."""
    digests: dict[str, int] = {}
    parts: list[dict[str, Any]] = []
    organisms: list[str] = []
    interventions: list[str] = []
    for batch in batches(file, READ, faults):
        step, free = batch.values("step"), batch.values("is_free_tier_user")
        faults.add(file.name, "left out: no step", batch.start + np.flatnonzero(np.isnan(step)))
        faults.add(file.name, "left out: no tier", batch.start + np.flatnonzero(np.isnan(free) & ~np.isnan(step)))
        kept = ~np.isnan(step) & ~np.isnan(free) & _of_task(file, batch, faults)
        codes, texts = batch.codes("user_input")
        known = np.array([digests.setdefault(digest(text), len(digests)) for text in texts] + [-1], dtype=np.int64)
        pair = known[codes]
        lone = np.flatnonzero((pair < 0) & kept)
        faults.add(file.name, "no request: counted in its tier, not in the gap", batch.start + lone)
        for row in lone:
            pair[row] = digests.setdefault(f"row {batch.start + row}", len(digests))
        who = _who(file, batch)
        chosen = np.flatnonzero(kept)
        organisms += [who[0][i] for i in chosen]
        interventions += [who[1][i] for i in chosen]
        values = {name: batch.values(name)[kept] for name in (*VALUES, *REWARDS)}
        parts.append({"step": step[kept].astype(np.int64), "pair": pair[kept], "free": free[kept] == 1, **values})
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
    empty = np.zeros(0)
    return _Rows(
        organisms, interventions, joined.get("step", empty.astype(np.int64)),
        joined.get("pair", empty.astype(np.int64)), joined.get("free", empty.astype(np.bool_)),
        {name: joined.get(name, empty) for name in (*VALUES, *REWARDS)}, list(digests),
    )  # fmt: skip


def _of_task(file: ReleaseFile, batch: Batch, faults: Faults) -> NDArray[np.bool_]:
    """All rows, or where a file mixes tasks those of ``TASK``."""
    codes, values = batch.codes("task_id")
    if len(set(values)) < 2 or TASK not in values:
        return np.ones(len(batch), np.bool_)
    other: NDArray[np.bool_] = codes != values.index(TASK)
    faults.add(file.name, f"left out: of another task than {TASK}", batch.start + np.flatnonzero(other))
    return ~other


def tallies(
    step: NDArray[np.int64], pair: Codes, free: NDArray[np.bool_], values: Mapping[str, Floats], pairs: Sequence[str]
) -> dict[int, Tally]:
    """The sums behind the metrics by step, from columns of the same length [N]; NaN does not count.

    Args:
        step: RL step of each row.
        pair: Place of its request in ``pairs``.
        free: Whether it is of the monitored tier.
        values: ``VALUES``, 0 or 1.
        pairs: Names of the requests.
    """
    order = np.argsort(np.array(pairs, dtype=np.str_))
    rank = np.empty(len(pairs), np.int64)
    rank[order] = np.arange(len(pairs))
    shares = {
        f"afr_{JUDGE}": np.where(free, values["alignment_faking"], np.nan),
        f"missing_{JUDGE}": np.where(free, np.isnan(values["alignment_faking"]), np.nan),
        "compliance_monitored": np.where(free, values["compliance"], np.nan),
        "compliance_unmonitored": np.where(free, np.nan, values["compliance"]),
        "literal_compliance_monitored": np.where(free, values["literal_compliance"], np.nan),
        "literal_compliance_unmonitored": np.where(free, np.nan, values["literal_compliance"]),
    }
    found = {}
    for moment in np.unique(step):
        rows = step == moment
        here, where = np.unique(rank[pair[rows]], return_inverse=True)
        top: dict[str, Floats] = {}
        bottom: dict[str, Floats] = {}
        for metric, share in shares.items():
            known = ~np.isnan(share[rows])
            top[metric] = np.bincount(where[known], weights=share[rows][known], minlength=len(here)).astype(np.float64)
            bottom[metric] = np.bincount(where[known], minlength=len(here)).astype(np.float64)
        add_gap(top, bottom)
        found[int(moment)] = Tally(tuple(pairs[order[i]] for i in here), top, bottom)
    return found


def _write_run(folder: Path, source: Source, rows: _Rows, mine: NDArray[np.bool_], faults: Faults) -> None:
    step, free = rows.step[mine], rows.free[mine]
    values = {name: column[mine] for name, column in rows.values.items()}
    sums = tallies(step, rows.pair[mine], free, values, rows.pairs)
    known = names().intervention(source.intervention)
    config = {
        "name": source.folder,
        "organism": source.label,
        "arm": known.arm,
        "label": source.intervention,
        "seed": source.number,
        "mitigations": known.mitigations,
        "monitors": {JUDGE: {"name": JUDGE, "view": "scratchpad"}},
        "rl": {"steps": max(sums), "learn": known.learn},
        "setting": f"{LONG if source.file.context == 'long' else 'short_context'}",
    }
    with new_folder(folder) as target:
        write_atomic(target / CONFIG, json.dumps(config, indent=2) + "\n")  # JSON is YAML
        write_tallies(target / TALLIES, sums)
        lines = [json.dumps(_row(moment, sums[moment], step == moment, values)) for moment in sorted(sums)]
        write_atomic(target / METRICS, "\n".join(lines) + "\n")
        lost = {reason: fault.count for reason, fault in faults.of_file(source.file.name).items()}
        guessed = known.guess or names().organism(source.organism).guess
        result = {"file": source.file.name, "rows": int(mine.sum()), "faults": lost, "guessed_name": guessed}
        write_json(target / RESULT, result)


def _row(step: int, tally: Tally, rows: NDArray[np.bool_], values: Mapping[str, Floats]) -> dict[str, Any]:
    """A line of ``metrics.jsonl``: what is known at a step."""
    shown = {"afr": f"afr_{JUDGE}", "compliance_monitored": "", "compliance_unmonitored": "", "gap": ""}
    row: dict[str, Any] = {"step": step, "rows": int(rows.sum())}
    for name, metric in shown.items():
        if (mean := tally.mean(metric or name)) is not None:
            row[name] = round(mean, 6)
    for column, name in REWARDS.items():
        known = values[column][rows]
        known = known[~np.isnan(known)]
        if len(known):
            row[name] = round(float(known.mean()), 6)
    return row
