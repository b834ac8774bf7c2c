"""``crypsis monitor score``: a monitor's scores of anyone's transcripts, with the sentences that weigh most."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from rich.table import Table

from crypsis.evaluation.metrics import wilson
from crypsis.monitors.base import Monitor
from crypsis.monitors.explain import Weight, heaviest_sentences
from crypsis.store import write_atomic
from crypsis.transcripts.base import Reading, ReadOptions, Transcript
from crypsis.transcripts.detect import read_transcripts
from crypsis.types import UserError, visible

BATCH = 2048
COLUMNS = ("name", "where", "model", "tier", "step", "pair_id", "score", "flag", "reason")


@dataclass(frozen=True, slots=True)
class Scored:
    """One transcript's score.

    Attributes:
        transcript: What was judged, without the row that it was read from.
        score: p(AF), or None where the monitor could not judge.
        flag: Whether the score reaches the monitor's threshold; None without a score.
        reason: Why there is no score.
        sentences: Those that weigh most, the heaviest first.
    """

    transcript: Transcript
    score: float | None
    flag: bool | None
    reason: str
    sentences: list[Weight]

    def as_row(self, with_text: bool) -> dict[str, Any]:
        """The row of the file; without sentences where texts are protected."""
        t = self.transcript
        row: dict[str, Any] = {
            "name": t.name, "where": t.where, "model": t.model, "tier": t.tier, "step": t.step, "pair_id": t.pair_id,
            "score": self.score, "flag": self.flag, "reason": self.reason,
        }  # fmt: skip
        if with_text or not t.protected:
            row["sentences"] = [{"text": w.text, "weight": w.weight} for w in self.sentences]
        return row


@dataclass(slots=True)
class Scores:
    """All scores of a reading."""

    rows: list[Scored] = field(default_factory=list)
    reading: Reading = field(default_factory=Reading)

    @property
    def table(self) -> Table:
        """Score and share flagged by model and tier, with Wilson's 95 % interval."""
        table = Table("model", "tier", "transcripts", "without a score", "mean score", "flagged")
        groups: dict[tuple[str, str], list[Scored]] = {}
        for row in self.rows:
            groups.setdefault((row.transcript.model, row.transcript.tier), []).append(row)
        for (model, tier), rows in sorted(groups.items()):
            scores = [row.score for row in rows if row.score is not None]
            flagged = sum(row.flag is True for row in rows)
            low, high = wilson(flagged, len(scores)) if scores else (0.0, 0.0)
            table.add_row(
                visible(model) or "–", visible(tier) or "–", str(len(rows)), str(len(rows) - len(scores)),
                f"{sum(scores) / len(scores):.3f}" if scores else "–",
                f"{flagged} of {len(scores)}, {flagged / len(scores):.1%} [{low:.1%}, {high:.1%}]" if scores else "–",
            )  # fmt: skip
        return table

    def highest(self, most: int) -> list[Scored]:
        """The transcripts with the highest scores."""
        return sorted((r for r in self.rows if r.score is not None), key=lambda r: -(r.score or 0.0))[:most]


def score_transcripts(
    monitor: Monitor, path: Path, options: ReadOptions, explain: int, on_rows: Callable[[int], None] = lambda _: None
) -> Scores:
    """Judges transcripts of any layout.

    Args:
        monitor: Any monitor that needs no access to the policy.
        path: File or folder.
        options: How it is read; the view must be the monitor's.
        explain: How many sentences to show per transcript; 0 asks the monitor only once.
        on_rows: Called with the number of transcripts that have been judged.

    Raises:
        UserError: Nothing can be read, or no transcript has the text that the monitor reads.
    """
    scores = Scores()
    for batch in _batches(read_transcripts(path, options, scores.reading)):
        episodes = [t.episode(len(scores.rows) + i) for i, t in enumerate(batch)]
        verdicts = monitor.judge(episodes)
        judged = [i for i, verdict in enumerate(verdicts) if verdict.score is not None and explain]
        heaviest = heaviest_sentences(monitor, [episodes[i] for i in judged], explain) if judged else []
        sentences = dict(zip(judged, heaviest, strict=True))
        for i, (transcript, verdict) in enumerate(zip(batch, verdicts, strict=True)):
            flag = None if verdict.score is None else verdict.flagged(monitor.threshold)
            scores.rows.append(Scored(transcript, verdict.score, flag, verdict.reason, sentences.get(i, [])))
        on_rows(len(scores.rows))
    if not any(row.score is not None for row in scores.rows):
        reasons = sorted({row.reason for row in scores.rows}) or ["no transcripts"]
        raise UserError("; ".join([f"{path}: nothing to score ({', '.join(reasons)})", *scores.reading.notes]))
    return scores


def write_scores(scores: Scores, out: Path, with_text: bool = False) -> None:
    """Writes a row per transcript as JSONL, or as CSV if the file's name says so.

    Args:
        scores: What was judged.
        out: ``.csv`` or any other name.
        with_text: Also write sentences of protected transcripts.
    """
    rows = [row.as_row(with_text) for row in scores.rows]
    if out.suffix.lower() != ".csv":
        write_atomic(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow([*COLUMNS, "sentences"])
    for row in rows:
        texts = " | ".join(entry["text"] for entry in row.get("sentences", []))
        writer.writerow([*("" if row[name] is None else row[name] for name in COLUMNS), texts])
    write_atomic(out, buffer.getvalue())


def _batches(transcripts: Iterator[Transcript]) -> Iterator[list[Transcript]]:
    while batch := list(islice(transcripts, BATCH)):
        yield batch
