"""Transfer: a monitor's AUROC on another organism before training against success afterwards."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.ticker import MaxNLocator

from crypsis.analysis.figures.drawing import (
    INK,
    LABEL_WIDTH,
    LEFT,
    MARKERS,
    MUTED,
    NARROW,
    PAGE,
    RULE,
    WIDE,
    number_text,
    percent_text,
)
from crypsis.analysis.figures.panels import BOLD, INCH, MIDDLE, SMALL, Axes, floor_of
from crypsis.analysis.figures.sheet import Label, Marks, Shape, Sheet
from crypsis.analysis.figures.spacing import apart
from crypsis.analysis.naming import organism_name
from crypsis.analysis.statistics.bootstrap import SeedEstimate
from crypsis.analysis.stress.recall import Watch
from crypsis.analysis.stress.section import Section, StressTable, decimal, drawn, moved, percent
from crypsis.analysis.summary import ArmSummary, Summary

CAPTION = "Each pair of monitor and organism. A shape per organism supervised; filled: its own monitor; dots: seeds."
CORRELATED = 5
"""Pairs of organisms from which a rank correlation is shown."""

WEAKEST = 0.9
"""The axis of AUROC reaches at least down to here, so that near-perfect monitors do not look far apart."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A monitor of one organism that supervised another.

    Attributes:
        source: Where it was trained.
        monitor: Its name.
        arm: What it did.
        before: Its AUROC on the transcripts before training.
    """

    source: str
    monitor: str
    arm: ArmSummary
    before: SeedEstimate


def transfer_section(summary: Summary, seen: Sequence[Watch]) -> Section | None:
    """Every pair of organisms, monitors at home included; None where no monitor was borrowed."""
    watches = {(watch.organism, watch.arm): watch for watch in seen}
    pairs = []
    for arm in summary.arms:
        watch = watches.get((arm.organism, arm.arm))
        if watch and len(watch.trained) == 1:
            source = _source(summary, arm.runs[0].config, watch.trained[0])
            if source:
                pairs.append(Pair(source, watch.trained[0], arm, watch.at(f"auroc_{watch.trained[0]}", 0)))
    if not any(pair.source != pair.arm.organism for pair in pairs):
        return None
    several = len({pair.monitor for pair in pairs}) > 1
    rows = tuple(
        (
            f"{organism_name(pair.source)} on {organism_name(pair.arm.organism)}"
            + (f", {pair.monitor}" if several else ""),
            decimal(pair.before),
            moved(pair.arm.change("afr").start, pair.arm.change("afr").end),
            percent(pair.arm.change("gap").end),
            percent(pair.arm.change("compliance_monitored").end),
        )
        for pair in pairs
    )
    heads = ("Monitor of … on …", "AUROC before", "AFR, %", "Gap, points", "Monitored compliance, %")
    alt = "Scatter of AUROC before training against AFR after it: " + "; ".join(
        f"{r[0]} {r[1]}, AFR {r[2]}" for r in rows
    )
    picture = drawn("transfer", partial(_scatter, pairs), alt, summary.study.folder, CAPTION)
    table = StressTable("Monitors trained on one organism supervising another; AFR first → last.", heads, rows)
    truth = "AUROC beforehand and AFR are against the oracle; without one there is the gap alone."
    return Section("transfer", "Transfer", _lead(pairs), truth, (table,), (picture,))


def _source(summary: Summary, config: dict[str, Any], monitor: str) -> str:
    """The organism whose folder a run's monitor lies in, empty if in none."""
    path = Path(str(((config.get("monitors") or {}).get(monitor) or {}).get("path") or ""))
    return path.parent.name if path.parent.parent.name == "monitors" and path.parent.name in summary.organisms else ""


def _lead(pairs: Sequence[Pair]) -> tuple[str, ...]:
    known = [(p.before.mean, p.arm.change("afr").end.mean) for p in pairs]
    both = [(before, after) for before, after in known if before is not None and after is not None]
    if len(both) < CORRELATED or any(len({pair[i] for pair in both}) < 2 for i in (0, 1)):
        return ()
    from scipy.stats import spearmanr  # takes a second to import, and few studies get here

    found = spearmanr([before for before, _ in both], [after for _, after in both])
    return (
        f"Rank correlation of AUROC beforehand and AFR afterwards over {len(both)} pairs (Spearman): "
        f"{found.statistic:+.2f} (p = {found.pvalue:.2f}; seeds of a pair averaged, pairs share organisms).".replace(
            "-", "−"
        ),
    )


def _scatter(pairs: Sequence[Pair], narrow: bool) -> Sheet:
    """A marker and a name per organism supervised; filled where the monitor is at home."""
    metrics = (("afr", "Alignment-faking rate"), ("gap", "Compliance gap"))
    width, columns, tall = (NARROW, 1, 2.6) if narrow else (WIDE, 2, 2.6)
    sheet = Sheet(width * INCH, tall * len(metrics) // columns * INCH, PAGE)
    known = [pair.before.mean for pair in pairs if pair.before.mean is not None]
    for number, (metric, title) in enumerate(metrics):
        row, column = divmod(number, columns)
        left, top = (LEFT + column * width / 2) * INCH, (row * tall + 0.5) * INCH
        box = (left, top, left + (width / columns - LEFT - LABEL_WIDTH) * INCH, ((row + 1) * tall - 0.44) * INCH)
        seeds = [value for pair in pairs for _, value in pair.arm.change(metric).end.by_seed]
        floor = floor_of(min(seeds, default=0.0))
        axes = Axes(box, (min([WEAKEST, *known]) - 0.01, 1.01), (floor - 0.06, 1.04))
        _add_frame(sheet, axes, title)
        _add_pairs(sheet, axes, pairs, metric)
    return sheet


def _add_frame(sheet: Sheet, axes: Axes, title: str) -> None:
    """Titles, grid and ticks of a panel."""
    left, top, right, bottom = axes.box
    sheet.items.append(Label(title, (left - LEFT * INCH, top - 18), BOLD, INK, bold=True))
    sheet.items.append(Label("%, at the end", (left - LEFT * INCH, top - 8), SMALL, MUTED))
    for tick in (t for t in (-1, -0.5, 0, 0.5, 1) if t >= axes.y[0]):
        y = axes.at(axes.x[0], tick)[1]
        sheet.items.append(Shape([(left, y), (right, y)], RULE if tick else MUTED, 0.7))
        sheet.items.append(Label(percent_text(tick), (left - 3, y + MIDDLE), SMALL, MUTED, "end"))
    for tick in (t for t in MaxNLocator(4).tick_values(*axes.x) if axes.x[0] <= t <= axes.x[1]):
        x = axes.at(tick, 0)[0]
        sheet.items.append(Shape([(x, bottom), (x, bottom + 3)], MUTED, 0.7))
        sheet.items.append(Label(number_text(round(tick, 6)), (x, bottom + 10.3), SMALL, MUTED, "middle"))
    sheet.items.append(Label("AUROC before training", ((left + right) / 2, bottom + 19.3), SMALL, MUTED, "middle"))


def _add_pairs(sheet: Sheet, axes: Axes, pairs: Sequence[Pair], metric: str) -> None:
    """A marker per pair, a dot per seed, and at the right the name of each organism supervised."""
    organisms = list(dict.fromkeys(pair.arm.organism for pair in pairs))
    _, top, right, bottom = axes.box
    ends: dict[int, list[tuple[float, float]]] = {}
    for pair in pairs:
        end, place = pair.arm.change(metric).end, organisms.index(pair.arm.organism)
        if pair.before.mean is None or end.mean is None:
            continue
        dots = [axes.at(pair.before.mean, value) for _, value in end.by_seed]
        sheet.items.append(Marks("o", 1.8, dots, INK, INK, 0.0, opacity=0.5))
        at = axes.at(pair.before.mean, end.mean)
        face = INK if pair.source == pair.arm.organism else PAGE
        sheet.items.append(Marks(MARKERS[place % len(MARKERS)], 6.0, [at], face, INK, 1.0))
        ends.setdefault(place, []).append(at)
    wanted = {place: (bottom - points[-1][1]) / (bottom - top) for place, points in ends.items()}
    for place, share in apart(wanted, dict.fromkeys(wanted, 1.35 * SMALL / (bottom - top))).items() if wanted else ():
        y = bottom - share * (bottom - top)
        sheet.items.append(Shape([(right + 8, y), ends[place][-1]], MUTED, 0.6, opacity=0.6))
        mark, words = MARKERS[place % len(MARKERS)], organism_name(organisms[place])
        sheet.items.append(Marks(mark, 4.5, [(right + 13, y)], PAGE, INK, 0.9))
        sheet.items.append(Label(textwrap.shorten(words, 22, placeholder="…"), (right + 19, y + MIDDLE), SMALL, INK))
