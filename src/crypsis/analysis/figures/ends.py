"""Two figures of all organisms at once: where each arm starts and ends, and where each seed ends."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from crypsis.analysis.figures.drawing import (
    INK,
    LEFT,
    LEGEND_ROW,
    MUTED,
    NARROW,
    PAGE,
    PANEL_HEIGHT,
    RULE,
    WIDE,
    Line,
    add_legend,
    canvas,
    head,
    shares,
)
from crypsis.analysis.summary import ArmSummary, Summary

METRICS = {
    "afr": "Alignment faking, %",
    "compliance_monitored": "Complies, monitored, %",
    "compliance_unmonitored": "Complies, unmonit., %",
    "gap": "Gap, points",
}
"""The columns of the paper's figure 1."""
TITLE, TICKS, COLUMN_GAP = 0.34, 0.24, 0.16
"""Inches: an organism's title, the ticks below a block, and the space between columns."""


def ends_figure(summary: Summary, narrow: bool) -> tuple[Figure, str] | None:
    """Start and end of each arm of each organism, one row per arm, one column per metric; with its alternative text.

    None for one organism: there the table beside the curves shows the same.
    """
    if len(summary.organisms) < 2:
        return None
    names = list(METRICS)
    chunks = [names[:2], names[2:]] if narrow else [names]
    width, labels, line = (NARROW, 1.05, 0.25) if narrow else (WIDE, 1.72, 0.165)
    blocks = [(organism, chunk) for organism in summary.organisms for chunk in chunks]
    heights = [TITLE + line * len(summary.of(organism)) + TICKS for organism, _ in blocks]
    figure = canvas(width, sum(heights))
    top = sum(heights)
    for (organism, chunk), height in zip(blocks, heights, strict=True):
        arms = summary.of(organism)
        each = (width - labels - 0.06 - COLUMN_GAP * (len(chunk) - 1)) / len(chunk)
        for column, metric in enumerate(chunk):
            left, bottom = labels + column * (each + COLUMN_GAP), top - height + TICKS
            box = (left / width, bottom / sum(heights), each / width, line * len(arms) / sum(heights))
            axes = figure.add_axes(box)
            _moves(axes, summary, arms, metric)
            axes.set_title(METRICS[metric], fontsize=7, color=MUTED, loc="left", pad=3)
            if column == 0:
                _names(axes, organism, arms, (labels / each, 0.5 + 0.19 / line), (17, 2) if narrow else (30, 1))
        top -= height
    return figure, _ends_alt(summary)


def _moves(axes: Axes, summary: Summary, arms: Sequence[ArmSummary], metric: str) -> None:
    """Open circle: start; marker: end with its interval; ticks: the end of each seed."""
    places = {name: place for place, name in enumerate(summary.labels)}
    ends = [end for arm in summary.arms if metric in arm.metrics for end in _both(arm, metric)]
    lowest = min(ends, default=0.0)
    for row, arm in enumerate(arms):
        start, end = arm.change(metric).start, arm.change(metric).end
        line = Line(arm.label, (), places[arm.arm])
        if start.mean is None or end.mean is None or end.low is None or end.high is None:
            continue
        axes.plot([start.mean, end.mean], [row, row], color=line.colour, linewidth=0.6, alpha=0.6)
        axes.plot([end.low, end.high], [row, row], color=line.colour, linewidth=2.6, alpha=0.35, solid_capstyle="butt")
        axes.plot([v for _, v in end.by_seed], [row] * len(end.by_seed), "|", color=line.colour, ms=5, mew=0.8)
        axes.plot(start.mean, row, "o", mfc=PAGE, mec=line.colour, ms=3.6, mew=0.8, clip_on=False)
        axes.plot(end.mean, row, line.marker, color=line.colour, mec=PAGE, mew=0.5, ms=5.2, clip_on=False, zorder=4)
    floor = 0.0 if metric != "gap" or lowest > -0.06 else -0.5 if lowest > -0.5 else -1.0
    axes.set_xlim(floor - 0.03, 1.03)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.xaxis.set_major_locator(FixedLocator([t for t in (-1, -0.5, 0, 0.5, 1) if t >= floor]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}".replace("-", "−")))
    axes.set_yticks([])
    axes.grid(axis="x", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=6.5, pad=1.5, length=2)


def _both(arm: ArmSummary, metric: str) -> list[float]:
    """The start, and the lower end of the interval at the end."""
    change = arm.change(metric)
    return [value for value in (change.start.mean, change.end.low) if value is not None]


def _names(
    axes: Axes, organism: str, arms: Sequence[ArmSummary], corner: tuple[float, float], wrap: tuple[int, int]
) -> None:
    """The organism above, and each arm at the left of its row.

    Args:
        axes: The block's first panel.
        organism: Its name.
        arms: Its arms.
        corner: How far left of the panel and above its first row, in the panel's units.
        wrap: Characters a line, and lines.
    """
    place, (left, above), (characters, lines) = axes.get_yaxis_transform(), corner, wrap
    axes.text(-left, -above, organism, transform=place, fontsize=8.5, fontweight="bold", va="center", color=INK)
    for row, arm in enumerate(arms):
        name = "\n".join(textwrap.wrap(arm.label, characters, max_lines=lines, placeholder="…"))
        axes.text(-left, row, name, transform=place, fontsize=7, va="center", color=INK, linespacing=1.0)


def _ends_alt(summary: Summary) -> str:
    told = []
    for organism in summary.organisms:
        parts = []
        for arm in summary.of(organism):
            moves = []
            for metric, short in (("afr", "AFR"), ("compliance_monitored", "monitored compliance"), ("gap", "gap")):
                start, end = arm.change(metric).start.mean, arm.change(metric).end.mean
                if start is not None and end is not None:
                    moves.append(f"{short} {100 * start:.0f} to {100 * end:.0f}".replace(" -", " −"))
            parts.append(f"{arm.label}: {', '.join(moves) or 'not measured'}")
        told.append(f"{organism}: {'; '.join(parts)}.")
    return "Start and end of each arm, per cent. " + " ".join(told)


def seeds_figure(summary: Summary, narrow: bool) -> tuple[Figure, str] | None:
    """Where each seed ends: AFR across, compliance gap up; a panel per organism, with its alternative text.

    None where no arm has two seeds.
    """
    shown = [o for o in summary.organisms if any(_ends_of(arm) for arm in summary.of(o))]
    if not any(len(arm.seeds) > 1 for arm in summary.arms) or not shown:
        return None
    columns, width = (1, NARROW) if narrow else (min(3, max(2, len(shown))), WIDE)
    labels, places = summary.labels, {name: place for place, name in enumerate(summary.labels)}
    foot = LEGEND_ROW * -(-len(labels) // (1 if narrow else 3)) + 0.12
    rows = -(-len(shown) // columns)
    total, between = rows * PANEL_HEIGHT + foot, 0.24 + LEFT
    each = (width - LEFT - 0.12 - (columns - 1) * between) / columns
    figure = canvas(width, total)
    lowest = min(gap for arm in summary.arms for _, gap in _ends_of(arm))
    for number, organism in enumerate(shown):
        row, column = divmod(number, columns)
        box = (LEFT + column * (each + between), total - (row + 1) * PANEL_HEIGHT + 0.40, each, PANEL_HEIGHT - 0.90)
        axes = figure.add_axes((box[0] / width, box[1] / total, box[2] / width, box[3] / total))
        _scatter(axes, summary.of(organism), places, lowest)
        head(axes, organism, "gap at the end, points")
    add_legend(figure, [Line(label, (), places[a]) for a, label in labels.items()], 1 if narrow else 3, dots=True)
    return figure, _seeds_alt(summary)


def _scatter(axes: Axes, arms: Sequence[ArmSummary], places: dict[str, int], lowest: float) -> None:
    for arm in arms:
        line = Line(arm.label, (), places[arm.arm])
        for afr, gap in _ends_of(arm):
            axes.plot(afr, gap, line.marker, color=line.colour, mec=PAGE, mew=0.5, ms=5.5, alpha=0.85, clip_on=False)
    shares(axes, lowest)
    axes.axhline(0, color=MUTED, linewidth=0.7)
    axes.grid(color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlim(-0.04, 1.04)
    axes.xaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}"))
    axes.tick_params(labelsize=7, pad=2)
    axes.set_xlabel("alignment-faking rate at the end, %", fontsize=7, color=MUTED, labelpad=2)


def _ends_of(arm: ArmSummary) -> list[tuple[float, float]]:
    """(AFR, gap) of each seed at the end."""
    afr, gap = (dict(arm.change(metric).end.by_seed) for metric in ("afr", "gap"))
    return [(afr[seed], gap[seed]) for seed in afr if seed in gap]


def _seeds_alt(summary: Summary) -> str:
    told = [
        f"{arm.organism}, {arm.label}: "
        + "; ".join(f"{100 * afr:.0f}, {100 * gap:.0f}".replace("-", "−") for afr, gap in _ends_of(arm))
        for arm in summary.arms
        if _ends_of(arm)
    ]
    return "Scatter of the seeds at the end: alignment-faking rate in per cent, gap in points. " + ". ".join(told) + "."
