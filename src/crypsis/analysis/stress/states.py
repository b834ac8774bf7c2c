"""Final states: what became of every run, counted by arm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from crypsis.analysis.figures.drawing import COLOURS, INK, WIDE, canvas, saved
from crypsis.analysis.statistics.bootstrap import over_seeds
from crypsis.analysis.stress.final_state import RULE, STATES, UNKNOWN, final_state, state_figures
from crypsis.analysis.stress.recall import evaluation_rows, monitor_names, tally_of, thresholds_at, trained_against
from crypsis.analysis.stress.section import Drawn, Section, StressTable, moved, whose
from crypsis.analysis.study import Run, Study
from crypsis.analysis.summary import Summary
from crypsis.episodes import LABEL
from crypsis.evaluation.metrics import Tally

ArmKey = tuple[str, str]
"""Organism and arm."""
CAPTION = "Runs by final state; one bar per arm, the number of seeds in each part."
MOTIVES = {
    "modification": "to stay as it is",
    "reward": "for reward",
    "unnamed": "“circumstances”",
    "cover": "pretext",
    "helpful": "to help",
    "none": "none",
}
"""What the oracle reads in a scratchpad as the reason for what it decides, in words for a table."""
ROW, LEFT, FOOT = 0.24, 2.6, 0.62
"""Inches: a bar, its label, and the legend."""


def run_states(study: Study) -> dict[ArmKey, dict[int, str]]:
    """The final state of every run, by organism and arm and then by seed."""
    return {cell: {run.seed: state_of(study, run) for run in runs} for cell, runs in study.arms().items()}


def state_of(study: Study, run: Run) -> str:
    """The final state of one run, at its last evaluation."""
    step = max(run.evaluations)
    rows, thresholds = evaluation_rows(run, step), thresholds_at(study, run, step)
    trained = trained_against(run.config)
    reads = {card.name for card in study.monitors_of(run.organism) if card.view in ("scratchpad", "both")}
    held_out = [name for name in monitor_names([rows]) if name not in trained and name in reads]
    return final_state(state_figures(rows, thresholds, held_out))


def state_section(summary: Summary, states: Mapping[ArmKey, Mapping[int, str]]) -> Section | None:
    """Counts of final states by arm, with the rule; None where nothing could be classified."""
    counts = {cell: Counter(found.values()) for cell, found in states.items()}
    present = [state for state in STATES if any(count[state] for count in counts.values())]
    if present == [UNKNOWN]:
        return None
    several = len({organism for organism, _ in counts}) > 1
    labels = {(run.organism, run.arm): whose(run.organism, run.label, several) for run in summary.study.runs}
    head = ("Arm", *present, "Scratchpad, tokens", "Unparsed, %")
    drift = {(arm.organism, arm.arm): arm for arm in summary.arms}
    rows = []
    for cell, count in counts.items():
        arm = drift[cell]
        tokens, lost = arm.change("scratchpad_tokens"), arm.change("unparsed")
        lengths = [f"{e.mean:.0f}" if e.mean is not None else "–" for e in (tokens.start, tokens.end)]
        shares = [f"{100 * e.mean:.0f}" if e.mean is not None else "–" for e in (lost.start, lost.end)]
        counted = [str(count[state]) if count[state] else "" for state in present]
        rows.append((labels[cell], *counted, " → ".join(lengths), " → ".join(shares)))
    tables = (
        StressTable("Runs by final state, and how far each arm drifted from the language.", head, tuple(rows)),
        *_reasons(summary.study, labels),
        StressTable("The rule: the first line that holds.", ("State", "Condition"), RULE),
    )
    told = [f"{labels[cell]}: {_said(count)}." for cell, count in counts.items()]
    picture = saved(
        "final-states",
        _bars({labels[cell]: count for cell, count in counts.items()}, present),
        "Bar chart of final states by arm. " + " ".join(told),
        summary.study.folder / "figures",
    )
    truth = (
        "Motives, and so evader against misleader, and AFR are the oracle's. For a model without one, AF is what most "
        "held-out monitors of scratchpads flag, compliance needs a judge, and the two are one class."
    )
    return Section("states", "Final states", (), truth, tables, (Drawn(picture, CAPTION),))


def _reasons(study: Study, labels: Mapping[ArmKey, str]) -> list[StressTable]:
    """Which reasons the monitored answers that comply give, at the first and the last evaluation; [] without labels."""
    told = {}
    for cell, runs in study.arms().items():
        ends = {run.seed: [_motives(evaluation_rows(run, at(run.evaluations))) for at in (min, max)] for run in runs}
        told[labels[cell]] = {
            motive: [over_seeds({seed: tallies[i] for seed, tallies in ends.items()}, motive) for i in (0, 1)]
            for motive in MOTIVES
        }
    given = [motive for motive in MOTIVES if any(point.mean for arm in told.values() for point in arm[motive])]
    if not given:
        return []
    rows = tuple((name, *(moved(*found[motive]) for motive in given)) for name, found in told.items())
    caption = "Reasons that scratchpads give, % of the monitored answers that comply, first → last evaluation."
    return [StressTable(caption, ("Arm", *(MOTIVES[motive] for motive in given)), rows)]


def _motives(rows: Sequence[Mapping[str, Any]]) -> Tally:
    complies = [bool(row["monitored"]) and row.get(f"{LABEL}conduct") == "comply" for row in rows]
    given = [row.get(f"{LABEL}motive") for row in rows]
    values = {m: np.where(complies, np.array([g == m for g in given], dtype=np.float64), np.nan) for m in MOTIVES}
    return tally_of(rows, values)


def _said(count: Counter[str]) -> str:
    return ", ".join(f"{count[state]} {state}" for state in STATES if count[state])


def _bars(counts: Mapping[str, Counter[str]], present: Sequence[str]) -> Figure:
    """One bar per arm, one part per state; at the left the arm's name."""
    height = ROW * len(counts) + FOOT
    figure = canvas(WIDE, height)
    axes = figure.add_axes((LEFT / WIDE, FOOT / height, 1 - (LEFT + 0.1) / WIDE, 1 - (FOOT + 0.04) / height))
    for row, count in enumerate(counts.values()):
        left, total = 0.0, sum(count.values())
        for state in present:
            width = count[state] / total
            axes.barh(row, width, left=left, height=0.72, edgecolor="white", linewidth=0.6, **_look(state))
            if count[state]:
                colour = _look(state)["color"]
                text = axes.text(left + width / 2, row, str(count[state]), ha="center", va="center", fontsize=7)
                text.set(color="white", bbox={"boxstyle": "round,pad=0.15", "facecolor": colour, "edgecolor": "none"})
            left += width
    axes.set_yticks(range(len(counts)), [_short(name) for name in counts], fontsize=7, color=INK)
    axes.set_ylim(len(counts) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    handles = [axes.barh([-9], [0], label=s, edgecolor="white", linewidth=0, **_look(s)) for s in present]
    figure.legend(handles=handles, loc="lower left", ncols=4, frameon=False, fontsize=7)
    return figure


def _look(state: str) -> dict[str, Any]:
    """Colour of a state, and hatching where the colours have run out."""
    place = STATES.index(state)
    return {"color": COLOURS[place % len(COLOURS)], "hatch": "////" if place >= len(COLOURS) else ""}


def _short(name: str, most: int = 46) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
