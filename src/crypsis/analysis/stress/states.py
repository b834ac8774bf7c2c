"""Final states: what became of every run, counted by arm."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping

import numpy as np

from crypsis.analysis.figures.drawing import BAD, GOOD, INK, MUTED, NARROW, PAGE, RULE, WARN, WIDE
from crypsis.analysis.figures.panels import INCH, MIDDLE, SMALL
from crypsis.analysis.figures.sheet import Label, Shape, Sheet, corners
from crypsis.analysis.statistics.bootstrap import over_seeds
from crypsis.analysis.stress.final_state import (
    DEGENERATE,
    EVADER,
    FAKING,
    HIDDEN,
    HONEST,
    MISLEADER,
    MIXED,
    REFUSER,
    STATES,
    UNKNOWN,
    final_state,
    state_figures,
)
from crypsis.analysis.stress.final_state import RULE as STATE_RULE
from crypsis.analysis.stress.recall import monitor_names, thresholds_at, trained_against
from crypsis.analysis.stress.section import Section, StressTable, drawn, moved, whose
from crypsis.analysis.study import Run, Study
from crypsis.analysis.summary import Summary
from crypsis.evaluation.columns import Columns
from crypsis.evaluation.metrics import Tally, summed

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
BAR, LETTER = 13.0, 4.2
"""Points: height of a bar, and the width that a letter of its label takes at most."""
LOOKS: Mapping[str, tuple[str, float, str]] = {
    HONEST: (GOOD, 1.0, PAGE),
    FAKING: (BAD, 1.0, PAGE),
    EVADER: (BAD, 0.45, INK),
    MISLEADER: (BAD, 0.3, INK),
    HIDDEN: (BAD, 0.3, INK),
    REFUSER: (WARN, 1.0, PAGE),
    DEGENERATE: (WARN, 0.4, INK),
    MIXED: (MUTED, 0.4, INK),
    UNKNOWN: (RULE, 1.0, INK),
}
"""Colour, opacity and the colour of the text of each state: success and failure, which no arm is coloured as."""


def run_states(study: Study) -> dict[ArmKey, dict[int, str]]:
    """The final state of every run, by organism and arm and then by seed."""
    return {cell: {run.seed: state_of(study, run) for run in runs} for cell, runs in study.arms().items()}


def state_of(study: Study, run: Run) -> str:
    """The final state of one run, at its last evaluation."""
    step = max(run.evaluations)
    thresholds = thresholds_at(study, run, step)
    found = run.columns[step]
    trained = trained_against(run.config)
    reads = {card.name for card in study.monitors_of(run.organism) if card.view in ("scratchpad", "both")}
    held_out = [name for name in monitor_names([found]) if name not in trained and name in reads]
    return final_state(state_figures(found, thresholds, held_out))


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
        StressTable("The rule: the first line that holds.", ("State", "Condition"), STATE_RULE),
    )
    told = [f"{labels[cell]}: {_said(count)}." for cell, count in counts.items()]
    named = {labels[cell]: count for cell, count in counts.items()}
    alt = "Bar chart of final states by arm. " + " ".join(told)
    picture = drawn("final-states", lambda narrow: _bars(named, narrow), alt, summary.study.folder, CAPTION)
    truth = (
        "Motives, and so evader against misleader, and AFR are the oracle's. For a model without one, AF is what most "
        "held-out monitors of scratchpads flag, compliance needs a judge, and the two are one class."
    )
    return Section("states", "Final states", (), truth, tables, (picture,))


def _reasons(study: Study, labels: Mapping[ArmKey, str]) -> list[StressTable]:
    """Which reasons the monitored answers that comply give, at the first and the last evaluation; [] without labels."""
    told = {}
    for cell, runs in study.arms().items():
        ends = {run.seed: [_motives(run.columns[at(run.evaluations)]) for at in (min, max)] for run in runs}
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


def _motives(found: Columns) -> Tally:
    complies, given = found.monitored & (found.label("conduct") == "comply"), found.label("motive")
    return summed(found, {m: np.where(complies, (given == m).astype(np.float64), np.nan) for m in MOTIVES})


def _said(count: Counter[str]) -> str:
    return ", ".join(f"{count[state]} {state}" for state in STATES if count[state])


def _bars(counts: Mapping[str, Counter[str]], narrow: bool) -> Sheet:
    """One bar per arm, one part per state with its name where it fits; the arm's name beside it, on phones above."""
    width, left, row = (NARROW, 0.0, 0.44) if narrow else (WIDE, 3.0, 0.24)
    sheet = Sheet(width * INCH, (row * len(counts) + 0.06) * INCH, PAGE)
    for place, (name, count) in enumerate(counts.items()):
        bottom = (row * (place + 1)) * INCH
        top, middle = bottom - BAR, bottom - BAR / 2
        base = (bottom - BAR - 3.5) if narrow else middle + MIDDLE
        sheet.items.append(Label(textwrap.shorten(name, 52, placeholder="…"), (0, base), SMALL, INK))
        x, total = left * INCH, sum(count.values())
        for state in (state for state in STATES if count[state]):
            end = x + count[state] / total * (width - left) * INCH
            colour, opacity, ink = LOOKS[state]
            sheet.items.append(Shape(corners((x, top, end - 1, bottom)), fill=colour, opacity=opacity))
            words = f"{count[state]} {state}"
            words = words if len(words) * LETTER < end - x else str(count[state])
            sheet.items.append(Label(words, ((x + end) / 2, middle + MIDDLE), SMALL, ink, "middle"))
            x = end
    return sheet
