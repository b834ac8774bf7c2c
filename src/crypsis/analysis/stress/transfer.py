"""Transfer: a monitor's AUROC on another organism before training against success afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import spearmanr

from crypsis.analysis.figures.drawing import MUTED, WIDE, Line, add_legend, canvas, head, saved, shares
from crypsis.analysis.statistics.bootstrap import SeedEstimate
from crypsis.analysis.stress.recall import Watch
from crypsis.analysis.stress.section import Drawn, Section, StressTable, decimal, moved, percent
from crypsis.analysis.summary import ArmSummary, Summary

CAPTION = "Each pair of monitor and organism. A colour an organism supervised; filled: its own monitor; dots: seeds."
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
            f"{pair.source} on {pair.arm.organism}" + (f", {pair.monitor}" if several else ""),
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
    picture = saved("transfer", _scatter(pairs), alt, summary.study.folder / "figures")
    table = StressTable("Monitors trained on one organism supervising another; AFR first → last.", heads, rows)
    truth = "AUROC beforehand and AFR are against the oracle; without one there is the gap alone."
    return Section("transfer", "Transfer", _lead(pairs), truth, (table,), (Drawn(picture, CAPTION),))


def _source(summary: Summary, config: dict[str, Any], monitor: str) -> str:
    """The organism whose folder a run's monitor lies in, empty if in none."""
    path = Path(str(((config.get("monitors") or {}).get(monitor) or {}).get("path") or ""))
    return path.parent.name if path.parent.parent.name == "monitors" and path.parent.name in summary.organisms else ""


def _lead(pairs: Sequence[Pair]) -> tuple[str, ...]:
    known = [(p.before.mean, p.arm.change("afr").end.mean) for p in pairs]
    both = [(before, after) for before, after in known if before is not None and after is not None]
    if len(both) < CORRELATED or any(len({pair[i] for pair in both}) < 2 for i in (0, 1)):
        return ()
    found = spearmanr([before for before, _ in both], [after for _, after in both])
    return (
        f"Rank correlation of AUROC beforehand and AFR afterwards over {len(both)} pairs (Spearman): "
        f"{found.statistic:+.2f} (p = {found.pvalue:.2f}; seeds of a pair averaged, pairs share organisms).".replace(
            "-", "−"
        ),
    )


def _scatter(pairs: Sequence[Pair]) -> Figure:
    """A colour an organism supervised; filled where the monitor is at home."""
    figure = canvas(WIDE, 2.7)
    organisms = list(dict.fromkeys(pair.arm.organism for pair in pairs))
    for number, (metric, title) in enumerate((("afr", "Alignment-faking rate"), ("gap", "Compliance gap"))):
        axes = figure.add_axes((0.05 + 0.5 * number, 0.27, 0.42, 0.5))
        lowest = 0.0
        for pair in pairs:
            end = pair.arm.change(metric).end
            if pair.before.mean is None or end.mean is None:
                continue
            line = Line(pair.arm.organism, (), organisms.index(pair.arm.organism))
            home = pair.source == pair.arm.organism
            lowest = min([lowest, *(value for _, value in end.by_seed)])
            axes.plot([pair.before.mean] * len(end.by_seed), [v for _, v in end.by_seed], ".", color=line.colour, ms=3)
            face = line.colour if home else "white"
            axes.plot(pair.before.mean, end.mean, line.marker, color=line.colour, markerfacecolor=face, ms=7)
        shares(axes, lowest)
        axes.set_xlim(min([WEAKEST, *(p.before.mean for p in pairs if p.before.mean is not None)]) - 0.01, 1.01)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.tick_params(labelsize=7)
        axes.set_xlabel("AUROC before training", fontsize=7, color=MUTED)
        head(axes, title, "%, at the end; dots: seeds; filled: monitor of the same organism")
    add_legend(figure, [Line(name, (), place) for place, name in enumerate(organisms)], columns=5, dots=True)
    return figure
