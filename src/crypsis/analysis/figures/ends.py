"""Two figures of all organisms at once: where each arm starts and ends, and where each seed ends."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from crypsis.analysis.figures.drawing import INK, LEFT, MUTED, NARROW, PAGE, RULE, WIDE, Line, percent_text
from crypsis.analysis.figures.links import transcripts_link
from crypsis.analysis.figures.panels import BOLD, INCH, LINE_HEIGHT, MIDDLE, SMALL, Axes, floor_of
from crypsis.analysis.figures.sheet import Label, Marks, Shape, Sheet
from crypsis.analysis.figures.spacing import apart
from crypsis.analysis.naming import organism_name
from crypsis.analysis.summary import ArmSummary, Summary

METRICS = {
    "afr": "Alignment faking, %",
    "compliance_monitored": "Complies, monitored, %",
    "compliance_unmonitored": "Complies, unmonit., %",
    "gap": "Gap, points",
}
"""The columns of the paper's figure 1."""
TITLE, TICKS, COLUMN_GAP = 0.36, 0.26, 0.28
"""Inches: an organism's title, the ticks below a block, and the space between columns."""
SQUARE, ABOVE, BELOW = 1.55, 0.50, 0.44
"""Inches of a panel of seeds: its height, and what stands above and below."""


def ends_figure(summary: Summary, narrow: bool) -> tuple[Sheet, str] | None:
    """Start and end of each arm of each organism, one row per arm, one column per metric; with its alternative text.

    None for one organism: there the table beside the curves shows the same.
    """
    if len(summary.organisms) < 2:
        return None
    names = list(METRICS)
    chunks = [names[:2], names[2:]] if narrow else [names]
    width, labels, line = (NARROW, 1.05, 0.25) if narrow else (WIDE, 2.2, 0.175)
    blocks = [(organism, chunk) for organism in summary.organisms for chunk in chunks]
    sheet = Sheet(width * INCH, sum(TITLE + line * len(summary.of(o)) + TICKS for o, _ in blocks) * INCH, PAGE)
    top = 0.0
    for organism, chunk in blocks:
        arms = summary.of(organism)
        each = (width - labels - 0.08 - COLUMN_GAP * (len(chunk) - 1)) / len(chunk)
        _name_rows(sheet, organism, arms, (top, line), (18, 2) if narrow else (40, 1))
        for column, metric in enumerate(chunk):
            left = labels + column * (each + COLUMN_GAP)
            box = (left, top + TITLE, left + each, top + TITLE + line * len(arms))
            floor = _floor(summary, metric)
            axes = Axes((box[0] * INCH, box[1] * INCH, box[2] * INCH, box[3] * INCH), (floor - 0.03, 1.03), (0.0, 1.0))
            _add_moves(sheet, axes, summary, arms, metric)
        top += TITLE + line * len(arms) + TICKS
    return sheet, _ends_alt(summary)


def _name_rows(
    sheet: Sheet, organism: str, arms: Sequence[ArmSummary], place: tuple[float, float], wrap: tuple[int, int]
) -> None:
    """The organism above, and each arm at the left of its row.

    Args:
        sheet: The figure.
        organism: Its name.
        arms: Its arms.
        place: Top of the block and height of a row, in inches.
        wrap: Characters a line, and lines.
    """
    (top, line), (characters, lines) = place, wrap
    sheet.items.append(Label(organism_name(organism), (0, (top + TITLE - 0.19) * INCH), BOLD, INK, bold=True))
    for row, arm in enumerate(arms):
        words = textwrap.wrap(arm.label, characters, max_lines=lines, placeholder="…")
        middle = (top + TITLE + line * (row + 0.5)) * INCH
        first = middle + MIDDLE - LINE_HEIGHT * SMALL * (len(words) - 1) / 2
        for number, text in enumerate(words):
            sheet.items.append(Label(text, (0, first + number * LINE_HEIGHT * SMALL), SMALL, INK))


def _add_moves(sheet: Sheet, axes: Axes, summary: Summary, arms: Sequence[ArmSummary], metric: str) -> None:
    """Open circle: start; marker: end with its interval; ticks: the end of each seed."""
    places = {name: place for place, name in enumerate(summary.labels)}
    left, top, _, bottom = axes.box
    sheet.items.append(Label(METRICS[metric], (left, top - 4), SMALL, MUTED))
    for tick in (t for t in (-1, -0.5, 0, 0.5, 1) if t >= axes.x[0]):
        x = axes.at(tick, 0)[0]
        sheet.items.append(Shape([(x, top), (x, bottom + 2)], RULE, 0.7))
        sheet.items.append(Label(percent_text(tick), (x, bottom + 9.5), SMALL, MUTED, "middle"))
    for row, arm in enumerate(arms):
        start, end = arm.change(metric).start, arm.change(metric).end
        if start.mean is None or end.mean is None or end.low is None or end.high is None:
            continue
        line, height = Line(arm.label, (), places[arm.arm]), 1 - (row + 0.5) / len(arms)
        first, last, low, high = (axes.at(value, height) for value in (start.mean, end.mean, end.low, end.high))
        sheet.items.append(Shape([first, last], line.colour, 0.6, opacity=0.6))
        sheet.items.append(Shape([low, high], line.colour, 2.6, opacity=0.35))
        for x, y in (axes.at(value, height) for _, value in end.by_seed):
            sheet.items.append(Shape([(x, y - 2.5), (x, y + 2.5)], line.colour, 0.8))
        links = [_link(summary, arm, step, metric) for step in arm.steps]
        sheet.items.append(Marks("o", 3.6, [first], PAGE, line.colour, 0.8, links[:1]))
        sheet.items.append(Marks(line.marker, 5.2, [last], line.colour, PAGE, 0.5, links[1:]))


def _link(summary: Summary, arm: ArmSummary, step: int, metric: str) -> tuple[str, str]:
    """Where a point leads and what stands over it; nowhere without transcripts."""
    at = arm.change(metric).start if step == arm.steps[0] else arm.change(metric).end
    if summary.study.imported or at.mean is None:
        return "", ""
    said = f"{organism_name(arm.organism)}, {arm.label}, step {step}: {METRICS[metric].split(',')[0]} "
    return transcripts_link(arm.organism, arm.arm, step), f"{said}{percent_text(at.mean)}. Opens transcripts."


def _floor(summary: Summary, metric: str) -> float:
    """Where the axis of a metric begins: at 0, or lower if a gap does."""
    changes = [arm.change(metric) for arm in summary.arms if metric in arm.metrics]
    values = [v for c in changes for v in (c.start.mean, c.end.low, *(s for _, s in c.end.by_seed)) if v is not None]
    return floor_of(min(values, default=0.0)) if metric == "gap" else 0.0


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
        told.append(f"{organism_name(organism)}: {'; '.join(parts)}.")
    return "Start and end of each arm, per cent. " + " ".join(told)


def seeds_figure(summary: Summary, narrow: bool) -> tuple[Sheet, str] | None:
    """Where each seed ends: AFR across, compliance gap up; a panel per organism, with its alternative text.

    None where no arm has two seeds.
    """
    shown = [o for o in summary.organisms if any(_ends_of(arm) for arm in summary.of(o))]
    if not any(len(arm.seeds) > 1 for arm in summary.arms) or not shown:
        return None
    columns, width = (1, NARROW) if narrow else (min(3, max(2, len(shown))), WIDE)
    room = 1.2 if narrow else 1.5
    places = {name: place for place, name in enumerate(summary.labels)}
    tall = max([SQUARE, *(0.16 * len(summary.of(organism)) for organism in shown)]) + ABOVE + BELOW
    each = (width - 0.2 * (columns - 1)) / columns
    sheet = Sheet(width * INCH, -(-len(shown) // columns) * tall * INCH, PAGE)
    lowest = floor_of(min(gap for arm in summary.arms for _, gap in _ends_of(arm)))
    for number, organism in enumerate(shown):
        row, column = divmod(number, columns)
        left, top = column * (each + 0.2), row * tall
        box = (left + LEFT, top + ABOVE, left + min(each - room, LEFT + 3.0), top + tall - BELOW)
        axes = Axes((box[0] * INCH, box[1] * INCH, box[2] * INCH, box[3] * INCH), (-0.04, 1.04), (lowest - 0.06, 1.04))
        above = [(18.0, BOLD, INK, organism_name(organism)), (8.0, SMALL, MUTED, "gap at the end, points")]
        for up, size, colour, words in above:
            sheet.items.append(Label(words, (left * INCH, box[1] * INCH - up), size, colour, bold=size == BOLD))
        _add_scatter(sheet, axes, summary.of(organism), places, not summary.study.imported)
    return sheet, _seeds_alt(summary)


def _add_scatter(sheet: Sheet, axes: Axes, arms: Sequence[ArmSummary], places: dict[str, int], linked: bool) -> None:
    """A marker per seed, and each arm's name at the right with a leader to the mean of its seeds."""
    left, top, right, bottom = axes.box
    for tick in (t for t in (-1, -0.5, 0, 0.5, 1) if t >= axes.y[0]):
        y = axes.at(0, tick)[1]
        sheet.items.append(Shape([(left, y), (right, y)], RULE if tick else MUTED, 0.7))
        sheet.items.append(Label(percent_text(tick), (left - 3, y + MIDDLE), SMALL, MUTED, "end"))
    for tick in (0, 0.5, 1):
        x = axes.at(tick, 0)[0]
        sheet.items.append(Shape([(x, top), (x, bottom)], RULE, 0.7))
        sheet.items.append(Label(percent_text(tick), (x, bottom + 9), SMALL, MUTED, "middle"))
    across = "alignment-faking rate at the end, %"
    sheet.items.append(Label(across, ((left + right) / 2, bottom + 19), SMALL, MUTED, "middle"))
    ends = {place: _ends_of(arm) for place, arm in enumerate(arms) if _ends_of(arm)}
    means = {
        i: axes.at(*(sum(values) / len(points) for values in zip(*points, strict=True))) for i, points in ends.items()
    }
    wanted = {i: (bottom - y) / (bottom - top) for i, (_, y) in means.items()}
    for i, share in apart(wanted, dict.fromkeys(wanted, 1.35 * SMALL / (bottom - top))).items():
        line, y = Line(arms[i].label, (), places[arms[i].arm]), bottom - share * (bottom - top)
        sheet.items.append(Shape([(right + 8, y), means[i]], line.colour, 0.7, opacity=0.6))
        words = textwrap.shorten(arms[i].label, 24, placeholder="…")
        sheet.items.append(Label(words, (right + 11, y + MIDDLE), SMALL, INK))
    for i, points in ends.items():
        line, arm = Line(arms[i].label, (), places[arms[i].arm]), arms[i]
        seeds = [seed for seed, _ in arm.change("afr").end.by_seed if seed in dict(arm.change("gap").end.by_seed)]
        links = [
            (
                transcripts_link(arm.organism, arm.arm, arm.steps[1], seed=seed),
                f"{arm.label}, seed {seed}: AFR "
                f"{percent_text(afr)} %, gap {percent_text(gap)} points. Opens transcripts.",
            )
            for seed, (afr, gap) in zip(seeds, points, strict=True)
        ]
        at = [axes.at(*point) for point in points]
        sheet.items.append(Marks(line.marker, 5.5, at, line.colour, PAGE, 0.5, links if linked else (), 0.85))


def _ends_of(arm: ArmSummary) -> list[tuple[float, float]]:
    """(AFR, gap) of each seed at the end."""
    afr, gap = (dict(arm.change(metric).end.by_seed) for metric in ("afr", "gap"))
    return [(afr[seed], gap[seed]) for seed in afr if seed in gap]


def _seeds_alt(summary: Summary) -> str:
    told = [
        f"{organism_name(arm.organism)}, {arm.label}: "
        + "; ".join(f"{100 * afr:.0f}, {100 * gap:.0f}".replace("-", "−") for afr, gap in _ends_of(arm))
        for arm in summary.arms
        if _ends_of(arm)
    ]
    return "Scatter of the seeds at the end: alignment-faking rate in per cent, gap in points. " + ". ".join(told) + "."
