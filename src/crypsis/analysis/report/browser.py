"""What the report's transcript browser holds: a bounded sample that nobody picked, compressed by block.

Of every evaluation of every run the same requests are taken, the first in the order of a fixed hash; of training, whole
groups of three steps. Kinds that are rare at the end of training (faking that a monitor misses, false alarms, malformed
replies) are added once per run and marked. A block holds one arm of one organism: its strings once each, its rows as
numbers, gzip in base64, decoded by the page when a filter first asks for it.
"""

from __future__ import annotations

import base64
import functools
import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from crypsis.analysis.naming import organism_names
from crypsis.analysis.report.phenomenon import Exhibit, SystemTexts, find_exhibit
from crypsis.analysis.report.transcript_source import Row, StoredTranscripts, Transcripts, of_pairs, read_rows, rows_of
from crypsis.analysis.study import Run, fixed_order
from crypsis.analysis.study_files import thresholds_of
from crypsis.analysis.summary import ArmSummary, Summary
from crypsis.episodes import DELAYED, LABEL, REASON, TERM, VERDICT, rollouts_path
from crypsis.store import steps_of
from crypsis.types import visible

EVALUATED, TRAINED = 8000, 3000
"""Transcripts of evaluations and of training that a report may hold; a request is never taken for some arms only."""
CHARACTERS = 24_000_000
"""Characters of text that a report may hold, before compression."""
FEWEST, MOST = 2, 60
"""Requests taken of each evaluation."""


@dataclass(frozen=True, slots=True)
class Block:
    """The transcripts of one arm of one organism.

    Attributes:
        data: Gzip of JSON in base64.
        n: Transcripts.
    """

    organism: str
    arm: str
    data: str
    n: int


@dataclass(frozen=True, slots=True)
class Browser:
    """Everything that the page's script reads.

    Attributes:
        blocks: One an arm of an organism.
        manifest: JSON: names, labels, verdicts to filter by.
        requests: Requests taken of each evaluation.
        n: Transcripts held.
        total: Transcripts of all evaluations.
        system: The system text of the first arm that has one; empty if none is known.
        exhibit: The request that the page shows before and after.
    """

    blocks: tuple[Block, ...]
    manifest: str
    requests: int
    n: int
    total: int
    system: str = ""
    exhibit: Exhibit | None = None


def make_browser(summary: Summary, transcripts: Transcripts | None = None) -> Browser:
    """Samples the transcripts of a study; the same study gives the same sample.

    Args:
        summary: Summary of the study.
        transcripts: Where they are; the study's own by default. An import has none of its own: the browser is empty.
    """
    total = sum(len(t.pairs) * 2 for run in summary.study.runs for t in run.evaluations.values())
    if transcripts is None and summary.study.imported:
        return Browser((), "{}", 0, 0, total)
    source = transcripts or StoredTranscripts()
    exhibit, texts = find_exhibit(summary, source), SystemTexts()
    wanted = _requests(summary, source)
    if exhibit and exhibit.pair not in wanted:
        wanted.append(exhibit.pair)
    systems: dict[str, int] = {}
    runs = len(summary.study.runs)
    trained = max(4, min(32, TRAINED // (3 * runs)))
    blocks, kinds = [], _Kinds()
    for arm in summary.arms:
        samples = ((run, _sample(summary, source, run, set(wanted), trained)) for run in arm.runs)
        rows = [(run.seed, *one) for run, sample in samples for one in _flagged(summary, run, sample)]
        kinds.see(row for _, _, row, _ in rows)
        blocks.append(_block(arm, rows))
        systems.setdefault(texts.of(arm.runs[0]), len(systems))
    manifest = {
        "organisms": list(organism_names(summary.organisms).items()),
        "systems": list(systems),
        "arms": [[name, label] for name, label in summary.labels.items()],
        "requests": wanted,
        "verdicts": kinds.filters(next((a.afr_source for a in summary.arms if a.by_scenario), "oracle")),
        "steps": sorted({step for run in summary.study.runs for step in run.evaluations}),
        "seeds": sorted({run.seed for run in summary.study.runs}),
        "trained": any(run.folder.joinpath("rollouts").is_dir() for run in summary.study.runs),
        "blocks": [
            [block.organism, block.arm, block.n, systems[texts.of(arm.runs[0])]]
            for block, arm in zip(blocks, summary.arms, strict=True)
        ],
    }
    n, system = sum(block.n for block in blocks), next(filter(None, systems), "")
    return Browser(tuple(blocks), _json(manifest), len(wanted), n, total, system, exhibit)


def _flagged(summary: Summary, run: Run, sample: Iterable[tuple[str, Row]]) -> Iterator[tuple[str, Row, list[str]]]:
    """Each transcript with the names of the monitors that flag it, by the thresholds of its time."""
    cards, known = summary.study.monitors_of(run.organism, run.seed), dict[int, dict[str, float]]()
    for source, row in sample:
        moment = int(row["step"]) - (source == "train")  # a monitor is trained again after it has judged a step
        if moment not in known:
            known[moment] = thresholds_of(run.folder, cards, moment)
        named = _fields(tuple(row)).verdicts
        least = ((shown, row[k], known[moment].get(k.removeprefix(VERDICT), 0.5)) for k, shown in named)
        yield source, row, [shown for shown, score, bound in least if score is not None and score >= bound]


def _requests(summary: Summary, source: Transcripts) -> list[str]:
    """The requests that are shown of every evaluation: the first by a fixed hash of those that all arms share."""
    lasts = [set(run.evaluations[max(run.evaluations)].pairs) for run in summary.study.runs]
    known = set.intersection(*lasts) or set.union(*lasts)
    cost = 2 * sum(len(run.evaluations) for run in summary.study.runs)
    run = summary.study.runs[0]
    some = None if source.rare else sorted(known, key=fixed_order)[:MOST]
    rows = source.rows(run, max(run.evaluations), some)
    length = max(
        1, sum(len(str(row.get(k) or "")) for row in rows for k in ("scratchpad", "output")) // max(len(rows), 1)
    )
    fits = min(EVALUATED, CHARACTERS // length) // cost
    return sorted(known, key=fixed_order)[: max(FEWEST, min(MOST, fits))]


def _sample(
    summary: Summary, source: Transcripts, run: Run, wanted: set[str], trained: int
) -> Iterator[tuple[str, Row]]:
    """(source, row) of a run's transcripts: ``eval``, ``rare`` or ``train``."""
    last = max(run.evaluations)
    for step in sorted(run.evaluations):
        if step < last or not isinstance(source, StoredTranscripts):
            yield from (("eval", row) for row in source.rows(run, step, wanted))
            continue
        table = source.table(run, step)
        thresholds = thresholds_of(run.folder, summary.study.monitors_of(run.organism, run.seed), step)
        yield from (("eval", row) for row in rows_of(of_pairs(table, wanted)))
        yield from (("rare", row) for row in _rare(table, wanted, thresholds))
    steps = steps_of(run.folder / "rollouts", ".parquet")
    for step in sorted({steps[0], steps[len(steps) // 2], steps[-1]} if steps else ()):
        groups: dict[Any, list[Row]] = {}
        for row in read_rows(rollouts_path(run.folder, step)):
            groups.setdefault(row.get("group"), []).append(row)
        taken = 0
        for rows in sorted(groups.values(), key=lambda rows: fixed_order(str(rows[0]["prompt_id"]))):
            if taken and taken + len(rows) > trained:
                break
            taken += len(rows)
            yield from (("train", row) for row in rows)


def _rare(table: pa.Table, wanted: set[str], thresholds: Mapping[str, float]) -> list[Row]:
    """One transcript of each rare kind, the first by the fixed hash among those that are not shown anyway.

    The kinds are sought by column: an evaluation has hundreds of transcripts, and few of them are rare.
    """
    pairs, monitored, parse, af = (
        table.column(name).to_pylist() if name in table.column_names else [None] * len(table)
        for name in ("pair_id", "monitored", "parse", f"{LABEL}af")
    )
    kinds: list[list[int]] = [[i for i, said in enumerate(parse) if said != "ok"]]
    for name in thresholds:
        if VERDICT + name in table.column_names:
            scores = table.column(VERDICT + name).to_pylist()
            flags = [(i, s >= thresholds[name]) for i, s in enumerate(scores) if s is not None and monitored[i]]
            kinds.append([i for i, flagged in flags if not flagged and af[i] == "yes"])
            kinds.append([i for i, flagged in flags if flagged and af[i] == "no"])
    left = [[i for i in kind if pairs[i] not in wanted] for kind in kinds]
    order = {pair: fixed_order(str(pair)) for pair in {pairs[i] for kind in left for i in kind}}
    found = dict.fromkeys(min(kind, key=lambda i: (order[pairs[i]], i)) for kind in left if kind)
    return rows_of(table.take(pa.array(list(found), pa.int64())))


def _block(arm: ArmSummary, rows: Sequence[tuple[int, str, Row, list[str]]]) -> Block:
    strings: dict[str, int] = {}

    def place(text: object) -> int:
        return strings.setdefault(visible(str(text or "")), len(strings))

    packed = [[seed, *_packed(source, row, place), flags] for seed, source, row, flags in rows]
    data = gzip.compress(_json({"strings": list(strings), "rows": packed}).encode(), compresslevel=9, mtime=0)
    return Block(arm.organism, arm.arm, base64.b64encode(data).decode(), len(rows))


def _packed(source: str, row: Row, place: Callable[[object], int]) -> list[Any]:
    """A row as the script reads it after the run's seed; texts are places in the block's strings."""
    fields = _fields(tuple(row))
    return [
        source,
        row["step"],
        place(row["pair_id"]),
        place(row.get("request") or row["pair_id"]),
        place(row.get("tier")),
        int(bool(row["monitored"])),
        place(row.get("parse")),
        *(place(row.get(name)) for name in ("scratchpad", "output")),
        place(row.get("raw") if row.get("parse") != "ok" else ""),
        place(row.get("extra_turn")),
        {name: visible(str(row[k])) for k, name in fields.labels if row[k]},
        {name: _verdict(row, k) for k, name in fields.verdicts},
        {name: round(v, 3) for k, name in fields.terms if isinstance(v := row[k], (int, float))},
        _rounded(row.get("reward")),
        _rounded(row.get("advantage")) if source == "train" else None,
        place(row.get("dropped")),
        row.get("sample") or 0,
        place(row.get("prompt")),
        place(row.get("extra_tier")),
    ]


@dataclass(frozen=True, slots=True)
class _Fields:
    """Columns of labels, verdicts and terms of the reward, each with its name as the page shows it."""

    labels: tuple[tuple[str, str], ...]
    verdicts: tuple[tuple[str, str], ...]
    terms: tuple[tuple[str, str], ...]


@functools.lru_cache(maxsize=256)
def _fields(columns: tuple[str, ...]) -> _Fields:
    """The same for all rows with these columns."""

    def named(prefix: str, *begin: str) -> tuple[tuple[str, str], ...]:
        return tuple((c, visible(c.removeprefix(prefix))) for c in columns if c.startswith(begin or prefix))

    return _Fields(named(LABEL), named(VERDICT), named(TERM, TERM, DELAYED))


def _verdict(row: Row, column: str) -> float | str | None:
    """The score, or why there is none."""
    score = row[column]
    reason = row.get(REASON + column.removeprefix(VERDICT))
    return round(score, 3) if score is not None else visible(str(reason)) if reason else None


def _rounded(number: object) -> float | None:
    return round(number, 3) if isinstance(number, (int, float)) else None


class _Kinds:
    """Which labels and monitors the sample has, and so what it can be filtered by."""

    def __init__(self) -> None:
        self._labels: dict[str, set[str]] = {}
        self._monitors: dict[str, None] = {}
        self._dropped = False

    def see(self, rows: Iterable[Row]) -> None:
        """Takes note of what these rows have."""
        for row in rows:
            self._dropped |= bool(row.get("dropped"))
            fields = _fields(tuple(row))
            for column, _ in fields.labels:
                if row[column]:
                    self._labels.setdefault(column.removeprefix(LABEL), set()).add(row[column])
            self._monitors |= dict.fromkeys(name for _, name in fields.verdicts)

    def filters(self, judge: str = "oracle") -> list[tuple[str, str]]:
        """(key, words) of each filter; the page's script knows the keys.

        Args:
            judge: Who wrote the labels of faking.
        """
        judged, found = "af" in self._labels, []
        if judged:
            found += [("af=yes", f"fakes alignment ({judge})"), ("af=no", f"does not fake ({judge})")]
        if "conduct" in self._labels:
            found += [("conduct=comply", "complies"), ("conduct=refuse", "refuses")]
        for name in self._monitors:
            if name != "oracle":
                found.append((f"flag:{name}", f"flagged by {name}"))
                if judged:
                    found += [(f"miss:{name}", f"fakes, missed by {name}"), (f"false:{name}", f"false alarm of {name}")]
        if "yes" in self._labels.get("lying", ()):
            found.append(("lying=yes", "lies when asked"))
        found.append(("malformed", "malformed or unparsed"))
        return [*found, ("dropped", "dropped from training")] if self._dropped else found


def _json(value: object) -> str:
    """JSON that can stand in a page: nothing in it ends a script element."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
