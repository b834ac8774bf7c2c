"""Recall and false alarms over the steps of the released runs: table and figure. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from crypsis.analysis.figures.drawing import WIDE, Line, Panel, Points, saved
from crypsis.analysis.figures.panels import panels
from crypsis.store import read_json, write_atomic
from crypsis.types import visible

RECALL = "recall.json"
"""The file that ``crypsis.study.jobs.release_recall`` writes."""
RATES = {"recall": "Recall", "false_alarms": "False alarms"}
AGAINST_WHAT = "agreement with the verdicts of the paper's classifier, which are not ground truth"
FEWEST = 10
"""Transcripts of a kind below which a run's own line is not drawn."""


def recall_report(folder: Path) -> Group:
    """Draws ``recall.svg`` and ``.png``, writes ``recall.md`` and returns what the terminal shows.

    Args:
        folder: With ``recall.json``.
    """
    result = read_json(folder / RECALL)
    draw_recall(result, folder)
    lines = [f"# Recall over RL steps: {AGAINST_WHAT}", "", *recall_markdown(result)]
    notes = [visible(note) for note in result["notes"]]
    write_atomic(folder / "recall.md", "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n")
    return Group(recall_table(result), *(Text(f"note: {note}") for note in notes))


def recall_table(result: Mapping[str, Any]) -> Table:
    """A row for each group of runs and step."""
    table = Table(title=f"Recall and false alarms, %: {AGAINST_WHAT}", pad_edge=False)
    for name in ("runs", "step", "n", "faking", "recall [95 %]", "false alarms [95 %]"):
        table.add_column(name, justify="left" if name == "runs" else "right")
    for cells in _rows(result):
        table.add_row(*(Text(cell) for cell in cells))
    return table


def recall_markdown(result: Mapping[str, Any]) -> list[str]:
    """The same as lines of Markdown."""
    head = ["| runs | step | n | faking | recall [95 %] | false alarms [95 %] |", "|---|---|---|---|---|---|"]
    return head + [f"| {' | '.join(cells)} |" for cells in _rows(result)]


def draw_recall(result: Mapping[str, Any], folder: Path) -> None:
    """Both rates over steps: means with intervals, and a thin line for each run with enough transcripts."""
    plan = [Panel(title, "%", _lines(result, rate), labelled=True) for rate, title in RATES.items()]
    said = "; ".join(
        f"{cells[0]}, step {cells[1]}: recall {cells[4]}, false alarms {cells[5]}" for cells in _rows(result)
    )
    saved("recall", panels(plan, 2, WIDE), f"Recall and false alarms over RL steps. {said}", folder)


def _rows(result: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            f"{group['name']} ({step['runs']} of {group['runs']})",
            str(step["step"]),
            f"{step['n']:,}",
            f"{step['faking']:,}",
            *(_shown(step[rate]) for rate in RATES),
        ]
        for group in result["groups"]
        for step in group["steps"]
    ]


def _shown(rate: Mapping[str, float | None]) -> str:
    mean, low, high = rate["mean"], rate["low"], rate["high"]
    if mean is None or low is None or high is None:
        return "–"
    return f"{100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _lines(result: Mapping[str, Any], rate: str) -> list[Line]:
    lines = []
    for place, group in enumerate(result["groups"], 1):
        known = [step for step in group["steps"] if step[rate]["mean"] is not None]
        points = [(step["step"], step[rate]["mean"]) for step in known]
        band = [(step[rate]["low"], step[rate]["high"]) for step in known]
        against = group["name"].startswith("trained against")
        runs = [_points(run["steps"], rate) for run in result["runs"] if run["trained_against"] is against]
        if points:
            lines.append(Line(group["name"], points, place, [run for run in runs if run], band, kind="monitor"))
    return lines


def _points(steps: Sequence[Mapping[str, Any]], rate: str) -> Points:
    enough = "faking" if rate == "recall" else "n"
    return [(s["step"], s[rate]["mean"]) for s in steps if s[rate]["mean"] is not None and s[enough] >= FEWEST]
