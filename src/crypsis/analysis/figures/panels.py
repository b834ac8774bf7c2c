"""Panels of lines over training steps, placed by arithmetic on a sheet: ticks, titles and labels included."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from crypsis.analysis.figures.drawing import (
    INK,
    LABEL_WIDTH,
    LEFT,
    MUTED,
    PAGE,
    PANEL_HEIGHT,
    RULE,
    Dashes,
    Line,
    Panel,
    Points,
    number_text,
    percent_text,
)
from crypsis.analysis.figures.sheet import Box, Label, Marks, Place, Shape, Sheet
from crypsis.analysis.figures.spacing import apart

INCH = 72.0
"""Points."""
TOP, BOTTOM = 0.50, 0.40
"""Inches of a panel above and below its axes: titles, and ticks with their label."""
SMALL, BOLD = 7.0, 8.5
"""Points: size of texts, and of titles."""
LINE_HEIGHT = 1.1
"""Distance of two lines of a text, in sizes."""
MIDDLE = 2.61
"""Points from the middle of a small text down to its base line."""
MARGIN = 0.05
"""Share of the values' range that a free axis adds at either end."""
GAP, MARGIN_RIGHT, LABEL_ROW = 0.14, 0.12, 0.135
"""Inches: between panels beside each other, right of one without names, and a name of one row."""
LEADER = 11.0
"""Points from a panel's right edge to the names of its lines."""
LETTERS, ROWS = 18, 3
"""Most letters of a row of a name, and rows; one row where the names of a panel would not fit."""


@dataclass(frozen=True, slots=True)
class Axes:
    """Where values stand: a box in points and the values at its edges."""

    box: Box
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> Place:
        """The place of a pair of values."""
        left, top, right, bottom = self.box
        share_x, share_y = ((v - ends[0]) / (ends[1] - ends[0]) for v, ends in ((x, self.x), (y, self.y)))
        return left + share_x * (right - left), bottom - share_y * (bottom - top)


def panels(plan: Sequence[Panel], columns: int, width: float, labels: float = LABEL_WIDTH) -> Sheet:
    """A figure of panels in rows.

    Args:
        plan: The panels, row by row.
        columns: Panels a row.
        width: Width of the figure, in inches.
        labels: Inches at the right of each panel for the names of its lines, where they are named.
    """
    room = labels if any(panel.labelled for panel in plan) else MARGIN_RIGHT
    rows, between = -(-len(plan) // columns), GAP + LEFT
    height = max((panel_height(panel) for panel in plan), default=PANEL_HEIGHT)
    sheet = Sheet(width * INCH, rows * height * INCH, PAGE)
    each = (width - (columns - 1) * GAP) / columns - LEFT - room
    for place, panel in enumerate(plan):
        row, column = divmod(place, columns)
        left, top = LEFT + column * (each + room + between), row * height + TOP
        right, bottom = left + each, (row + 1) * height - BOTTOM
        _draw(sheet, panel, (left * INCH, top * INCH, right * INCH, bottom * INCH))
    return sheet


def panel_height(panel: Panel) -> float:
    """Inches of a panel: more where many lines are named at its right."""
    named = sum(bool(line.points) for line in panel.lines) if panel.labelled else 0
    return max(PANEL_HEIGHT, TOP + BOTTOM + LABEL_ROW * named)


def _draw(sheet: Sheet, panel: Panel, box: Box) -> None:
    """One panel, from back to front: grid, areas, seeds, the axes' line, means, texts."""
    axes = Axes(box, _steps(panel), _values(panel))
    _add_grid(sheet, axes, panel)
    _add_areas(sheet, axes, panel)
    for line in panel.lines:
        for points in line.seeds if len(line.seeds) > 1 or panel.dots else ():
            if points and panel.dots:
                places = [axes.at(*point) for point in points]
                sheet.items.append(Marks("o", 2.4, places, line.colour, line.colour, 0.0, opacity=0.5))
            elif points:
                _add_line(sheet, axes, points, line.colour, 0.6, line.style, opacity=0.5, clip=axes.box)
    if panel.scale in ("free", "parts", "gap"):
        _rule(sheet, axes, 0.0, MUTED)
    if panel.limit is not None:
        _rule(sheet, axes, panel.limit, MUTED, (1.6, 1.6))
    left, _, right, bottom = box
    sheet.items.append(Shape([(left, bottom), (right, bottom)], MUTED, 0.7))
    for rank, line in enumerate(panel.lines):
        _add_mean(sheet, axes, line, rank)
    _add_titles(sheet, axes, panel)
    if panel.labelled:
        _label_lines(sheet, axes, panel.lines)


def _steps(panel: Panel) -> tuple[float, float]:
    """The steps at the left and right edge; a single step stands in the middle."""
    steps = {step for line in panel.lines for step, _ in line.points}
    steps = steps or {step for line in panel.lines for points in line.seeds for step, _ in points}
    if not steps:
        return 0.0, 1.0
    first, last = min(steps), max(steps)
    if panel.ticks:
        return first - 0.2, last + 0.2
    return (first - 0.02 * last, last + 0.02 * last) if first < last else (first - 1.0, last + 1.0)


def _values(panel: Panel) -> tuple[float, float]:
    """The values at the lower and upper edge."""
    seen = [v for line in panel.lines for points in (line.points, *line.seeds) for _, v in points]
    if panel.scale in ("tokens", "free", "parts"):
        drawn = [*seen, *(end for line in panel.lines if line.points for ends in line.band for end in ends)]
        drawn += [0.0] * (panel.scale != "tokens" or not drawn)
        low, high = MaxNLocator(4).nonsingular(min(drawn), max(drawn))
        low, high = low - MARGIN * (high - low), high + MARGIN * (high - low)
        return (0.0, 1.08 * high) if panel.scale == "tokens" else (low, high)
    seen += [end for line in panel.lines if line.points for ends in line.band for end in ends]
    floor = floor_of(min(seen, default=0.0))
    return floor - (0.06 if floor == 0 else 0), 1.04


def floor_of(lowest: float) -> float:
    """Where the axis of a share or gap begins."""
    return -1.0 if lowest < -0.5 else -0.5 if lowest < -0.06 else 0.0


def _add_grid(sheet: Sheet, axes: Axes, panel: Panel) -> None:
    """Lines and labels of the vertical axis; ticks, labels and name of the horizontal one."""
    left, _, _, bottom = axes.box
    if panel.scale in ("tokens", "free", "parts"):
        ticks = _within(MaxNLocator(4, integer=panel.scale == "tokens").tick_values(*axes.y), axes.y)
    else:
        ticks = [t for t in (-1, -0.5, 0, 0.25, 0.5, 0.75, 1) if t >= axes.y[0]]
    text = number_text if panel.scale in ("tokens", "free") else percent_text
    for value in ticks:
        _rule(sheet, axes, value, RULE)
        place = (left - 2, axes.at(axes.x[0], value)[1] + 2.66)
        sheet.items.append(Label(text(value), place, SMALL, MUTED, "end"))
    for x_value, words in _ticks(axes, panel).items():
        x = axes.at(x_value, axes.y[0])[0]
        sheet.items.append(Shape([(x, bottom), (x, bottom + 3)], MUTED, 0.7))
        sheet.items.append(Label(words, (x, bottom + 10.32), SMALL, MUTED, "middle"))
    middle = (axes.box[0] + axes.box[2]) / 2
    sheet.items.append(Label(panel.across, (middle, bottom + 19.32), SMALL, MUTED, "middle"))


def _ticks(axes: Axes, panel: Panel) -> dict[float, str]:
    """Labels of the horizontal axis by place: those that the panel names, or steps."""
    if panel.ticks:
        return {float(place): words for place, words in panel.ticks.items()}
    steps = sorted({step for line in panel.lines for step, _ in line.points})
    shown = steps if len(steps) <= 5 else _within(MaxNLocator(5, integer=True).tick_values(*axes.x), axes.x)
    return {step: f"{step:.0f}".replace("-", "−") for step in shown}


def _within(ticks: Sequence[float], ends: tuple[float, float]) -> list[float]:
    spare = 1e-9 * (ends[1] - ends[0])
    return [float(tick) for tick in ticks if ends[0] - spare <= tick <= ends[1] + spare]


def _rule(sheet: Sheet, axes: Axes, value: float, colour: str, dashes: tuple[float, ...] = ()) -> None:
    """A line across the panel."""
    points = [axes.at(x, value) for x in axes.x]
    sheet.items.append(Shape(points, colour, 0.7, dashes, clip=axes.box))


def _fill(sheet: Sheet, axes: Axes, upper: Points, lower: Points, colour: str, opacity: float) -> None:
    """The area between two lines."""
    outline = [axes.at(*point) for point in (*upper, *reversed(lower))]
    sheet.items.append(Shape(outline, fill=colour, opacity=opacity, clip=axes.box))


def _add_areas(sheet: Sheet, axes: Axes, panel: Panel) -> None:
    """The background's area, the bands of intervals, and what lies between two lines."""
    if panel.area:
        _fill(sheet, axes, panel.area, [(x, 0.0) for x, _ in panel.area], RULE, 1.0)
    for line in panel.lines:
        if line.points and line.band:
            low, high = ([(x, ends[i]) for (x, _), ends in zip(line.points, line.band, strict=True)] for i in (0, 1))
            _fill(sheet, axes, high, low, line.colour, 0.10)
    if panel.fill and len(panel.lines) == 2:
        first, second = (line.points for line in panel.lines)
        if dict(first).keys() == dict(second).keys() and first:
            _fill(sheet, axes, first, second, panel.lines[0].colour, 0.13)


def _add_line(
    sheet: Sheet,
    axes: Axes,
    points: Points,
    colour: str,
    width: float,
    style: Dashes,
    opacity: float = 1.0,
    clip: Box | None = None,
) -> None:
    places = [axes.at(*point) for point in points]
    sheet.items.append(Shape(places, colour, width, dashes_of(style, width), opacity=opacity, clip=clip))


def dashes_of(style: Dashes, width: float) -> tuple[float, ...]:
    """Lengths of dash and gap, in points, of a line of a width; none for a solid one."""
    return () if style == "-" else tuple(width * part for part in style[1])


def _add_mean(sheet: Sheet, axes: Axes, line: Line, rank: int) -> None:
    """The mean, bold, with markers; a later line is drawn finer, so that a line beneath it still shows."""
    if not line.points:
        return
    _add_line(sheet, axes, line.points, line.colour, max(1.6, 2.3 - 0.35 * rank), line.style)
    every = max(1, len(line.points) // 5)
    marked = [axes.at(*point) for point in line.points[::every]]
    size, edge = (max(3.8, 5.0 - 0.6 * rank), 0.6) if line.face == line.colour else (4.6, 1.3)
    sheet.items.append(Marks(line.marker, size, marked, line.face, line.edge, edge, line.links[::every]))


def _add_titles(sheet: Sheet, axes: Axes, panel: Panel) -> None:
    """Title and unit above the panel, flush with its ticks."""
    left, top, _, _ = axes.box
    left -= LEFT * INCH
    lines = panel.title.split("\n")
    for number, text in enumerate(reversed(lines)):
        place = (left, top - 18 - number * LINE_HEIGHT * BOLD)
        sheet.items.append(Label(text, place, BOLD, INK, bold=True))
    sheet.items.append(Label(panel.unit, (left, top - 8), SMALL, MUTED))


def _label_lines(sheet: Sheet, axes: Axes, lines: Sequence[Line]) -> None:
    """Names each line at its right end, moved apart where lines meet, with a leader in the line's colour."""
    ends = {i: line for i, line in enumerate(lines) if line.points}
    if not ends:
        return
    (low, high), (_, top, right, bottom) = axes.y, axes.box
    text = {i: textwrap.wrap(line.name, LETTERS)[:ROWS] for i, line in ends.items()}
    unit = 0.118 * INCH / (bottom - top)
    if unit * (sum(map(len, text.values())) + 0.25 * len(text)) > 1:
        text = {i: [textwrap.shorten(line.name, LETTERS + 2, placeholder="…")] for i, line in ends.items()}
    heights = {i: unit * len(text[i]) + 0.25 * unit for i in ends}
    wanted = {i: (line.points[-1][1] - low) / (high - low) for i, line in ends.items()}
    x = right + LEADER
    for i, place in apart(wanted, heights).items():
        middle = bottom - place * (bottom - top)
        start, end = (x - 3, middle), axes.at(*ends[i].points[-1])
        length = math.dist(start, end)
        stop = [e + (s - e) * min(1.0, 4 / length) for s, e in zip(start, end, strict=True)]
        dashes = dashes_of(ends[i].style, 1.1)
        sheet.items.append(Shape([start, (stop[0], stop[1])], ends[i].colour, 1.1, dashes, cap="round"))
        first = middle + MIDDLE - LINE_HEIGHT * SMALL * (len(text[i]) - 1) / 2
        for number, words in enumerate(text[i]):
            sheet.items.append(Label(words, (x, first + number * LINE_HEIGHT * SMALL), SMALL, INK))
