"""What monitors that followed a stored study saw, beside those that its runs had: tables and figures. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rich.console import Group
from rich.table import Table
from rich.text import Text

from crypsis.analysis.figures.drawing import style
from crypsis.analysis.report.markdown import stress_table
from crypsis.analysis.report.words import UNKNOWN
from crypsis.analysis.stress.recall import Watch, watches
from crypsis.analysis.stress.seen import monitor_table, recall_section
from crypsis.analysis.study import Run, Study
from crypsis.analysis.study_files import monitor_cards
from crypsis.analysis.summary import summarise
from crypsis.episodes import VERDICT
from crypsis.markdown import filled
from crypsis.store import read_json, write_atomic, write_json
from crypsis.study.jobs.follow import FOLLOWED, verdicts_path
from crypsis.types import UserError, visible

PAGE, FIGURES = "follow.md", "follow.json"
METRICS = ("recall", "alarms", "auroc", "flagged")
ENDS = {"start": 0, "end": -1}


def evaluations_of(study: Study) -> dict[str, dict[int, Path]]:
    """The files of a study's evaluations by run and step.

    Raises:
        UserError: A run has no transcripts, as those of an import.
    """
    for run in study.runs:
        if not run.has_transcripts:
            raise UserError(f"{run.folder}: has no transcripts to judge (an import has none)")
    return {
        run.folder.name: {step: run.folder / "evals" / f"step-{step:04d}.parquet" for step in run.evaluations}
        for run in study.runs
    }


def follow_report(study: Study, folder: Path) -> Group:
    """Writes ``follow.md``, ``follow.json`` and figures into the folder and returns what the terminal shows.

    Args:
        study: The study that was followed.
        folder: With ``monitors.json`` and ``verdicts/``.
    """
    joined = _joined(study, folder)
    summary, seen = summarise(joined), watches(joined)
    with style():
        section = recall_section(summary, seen)
    tables = section.tables if section else (monitor_table(seen),)
    judges = " and ".join(dict.fromkeys(arm.afr_source for arm in summary.arms))
    rows = follow_json(seen, judges)
    write_json(folder / FIGURES, rows)
    lines = [f"# Monitors that followed {visible(study.name)}", "", f"AF judged by: {judges}.", ""]
    lines += [line for told in (section.lead if section else ()) for line in (*filled([told]), "")]
    for drawn in section.pictures if section else ():
        lines += [f"![{drawn.caption}](figures/{drawn.picture.name}.svg)", ""]
    lines += [line for table in tables for line in (*filled(stress_table(table)), "")]
    notes = _notes(read_json(folder / FOLLOWED))
    lines += [f"- {note}" for note in notes]
    write_atomic(folder / PAGE, "\n".join(lines).rstrip() + "\n")
    return Group(_shown(rows), *(Text(f"note: {note}") for note in notes))


def follow_json(seen: Sequence[Watch], judged_by: str) -> list[dict[str, Any]]:
    """A row for each arm and monitor: recall, false alarms, AUROC and share flagged, first and last evaluation."""
    return [
        {
            "organism": watch.organism,
            "arm": watch.label,
            "monitor": monitor,
            "trained_against": monitor in watch.trained,
            "judged_by": judged_by,
            **{metric: _ends(watch, f"{metric}_{monitor}") for metric in METRICS},
        }
        for watch in seen
        for monitor in (*watch.trained, *watch.held_out)
    ]


def _ends(watch: Watch, metric: str) -> dict[str, dict[str, float | None]]:
    found = {end: watch.at(metric, place) for end, place in ENDS.items()}
    return {end: {"mean": at.mean, "low": at.low, "high": at.high} for end, at in found.items()}


def _joined(study: Study, folder: Path) -> Study:
    """The study with the verdicts of the monitors that followed in its columns, and their cards."""
    runs = tuple(replace(run, columns=_with_verdicts(run, folder)) for run in study.runs)
    cards = (*study.monitors, *monitor_cards(folder / FOLLOWED))
    return replace(study, folder=folder, runs=runs, monitors=cards)


def _with_verdicts(run: Run, folder: Path) -> dict[int, Any]:
    table = pq.read_table(verdicts_path(folder, run.folder.name))
    steps = table.column("step").to_numpy()
    scores = {
        name.removeprefix(VERDICT): table.column(name).to_numpy().astype(np.float64)
        for name in table.column_names
        if name.startswith(VERDICT)
    }
    return {
        step: replace(found, scores={**found.scores, **{name: own[steps == step] for name, own in scores.items()}})
        for step, found in run.columns.items()
    }


def _notes(cards: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the figures cannot tell of a monitor: what it reads, and which texts it had learned."""
    notes = []
    for name, card in cards.items():
        told = f"{visible(name)}: {card['kind']} on {card['view']}, threshold {card['threshold']:.3f}"
        if card["word_for_word"]:
            told += f"; was trained on {card['word_for_word']:,} of the texts word for word, of other requests"
        notes.append(told)
    return notes


def _shown(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows of ``follow_json`` by arm, without the intervals, which the page has: the terminal is too narrow."""
    found = Table("monitor", title="First → last evaluation, %", pad_edge=False)
    for metric in ("recall", "false alarms", "AUROC", "flagged"):
        found.add_column(metric, justify="right")
    arm = ""
    for row in rows:
        if (name := f"{row['organism']}: {row['arm']}") != arm:
            found.add_section()
            found.add_row(Text(name, style="bold"))
            arm = name
        told = f"{row['monitor']} (trained against)" if row["trained_against"] else row["monitor"]
        found.add_row(Text(f"  {told}"), *(_moved(row[metric]) for metric in METRICS))
    return found


def _moved(ends: Mapping[str, Mapping[str, float | None]]) -> str:
    start, end = (UNKNOWN if (mean := ends[at]["mean"]) is None else f"{100 * mean:.0f}" for at in ENDS)
    return f"{start} → {end}"
