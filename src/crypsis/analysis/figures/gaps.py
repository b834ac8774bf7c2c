"""The figure of a page of results: where each arm leaves the gap of each organism, the smallest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crypsis.analysis.figures.drawing import GOOD, INK, MUTED, PAGE, RULE, percent_text
from crypsis.analysis.figures.panels import BOLD, INCH, MIDDLE, SMALL, Axes, floor_of
from crypsis.analysis.figures.sheet import Label, Marks, Shape, Sheet, corners
from crypsis.analysis.naming import organism_name
from crypsis.analysis.statistics.bootstrap import SeedEstimate

WIDTH, NAMES, LETTER, HEAD, ROW, FOOT, BETWEEN, MARGIN = 7.0, 2.75, 0.065, 0.36, 0.18, 0.26, 0.3, 0.1
"""Inches: the figure, as wide as a page of prose; the most room for the arms' names, and a letter of them; above the
rows, a row, and below them; between columns, and at the right."""
NARROW = 0.3
"""Inches between two ticks up to which only every other one has its number."""


@dataclass(frozen=True, slots=True)
class GapRow:
    """An arm on an organism.

    Attributes:
        organism: Its label.
        arm: What the arm is called.
        gap: At the end of RL.
        closes: Whether the gap counts as closed.
        complies: Whether monitored compliance is kept.
        plain: Whether it is baseline RL, beside which the others stand.
    """

    organism: str
    arm: str
    gap: SeedEstimate
    closes: bool
    complies: bool
    plain: bool


def gaps_figure(rows: Sequence[GapRow], closed: float) -> tuple[Sheet, str] | None:
    """A column per organism and a row per arm: marker and interval, a tick per seed, and what counts as closed shaded.

    Args:
        rows: Those without a figure are left out.
        closed: The gap from which on one is open, in shares.

    Returns:
        The figure and its alternative text; None where there is nothing to show.
    """
    known = [row for row in rows if row.gap.mean is not None]
    if not known:
        return None
    arms = sorted(dict.fromkeys(row.arm for row in known), key=lambda arm: _mean([r for r in known if r.arm == arm]))
    organisms = list(dict.fromkeys(row.organism for row in known))
    names = min(NAMES, LETTER * max(map(len, arms)))
    each = (WIDTH - names - MARGIN - BETWEEN * (len(organisms) - 1)) / len(organisms)
    sheet = Sheet(WIDTH * INCH, (HEAD + ROW * len(arms) + FOOT) * INCH, PAGE)
    plain = {row.arm for row in known if row.plain}
    for place, arm in enumerate(arms):
        base = (HEAD + ROW * (place + 0.5)) * INCH + MIDDLE
        sheet.items.append(Label(arm, (0, base), SMALL, INK, bold=arm in plain))
    floor = floor_of(min(v for row in known for v in (row.gap.low, *dict(row.gap.by_seed).values()) if v is not None))
    for column, organism in enumerate(organisms):
        left = names + column * (each + BETWEEN)
        box = (left * INCH, HEAD * INCH, (left + each) * INCH, (HEAD + ROW * len(arms)) * INCH)
        axes = Axes(box, (floor - 0.03, 1.03), (0.0, 1.0))
        _add_column(sheet, axes, organism, closed)
        for row in (row for row in known if row.organism == organism):
            _add_row(sheet, axes, row, 1 - (arms.index(row.arm) + 0.5) / len(arms))
    return sheet, _alt(known, organisms)


def _mean(rows: Sequence[GapRow]) -> float:
    """The mean gap of an arm over organisms."""
    return sum(abs(row.gap.mean or 0.0) for row in rows) / len(rows)


def _add_column(sheet: Sheet, axes: Axes, organism: str, closed: float) -> None:
    """Title, the shaded band of closed gaps, and ticks."""
    left, top, _, bottom = axes.box
    sheet.items.append(Label(organism_name(organism), (left, top - 14), BOLD, INK, bold=True))
    sheet.items.append(Label("gap at the end, points", (left, top - 4), SMALL, MUTED))
    band = (axes.at(-closed, 0)[0], top, axes.at(closed, 0)[0], bottom)
    sheet.items.append(Shape(corners(band), fill=RULE, opacity=0.6))
    for tick in (t for t in (-1, -0.5, 0, 0.5, 1) if t >= axes.x[0]):
        x = axes.at(tick, 0)[0]
        sheet.items.append(Shape([(x, top), (x, bottom + 2)], RULE if tick else MUTED, 0.7))
        if tick in (-1, 0, 1) or axes.at(0.5, 0)[0] - axes.at(0, 0)[0] > NARROW * INCH:
            sheet.items.append(Label(percent_text(tick), (x, bottom + 9.5), SMALL, MUTED, "middle"))


def _add_row(sheet: Sheet, axes: Axes, row: GapRow, height: float) -> None:
    """Marker, interval and seeds of an arm; hollow where monitored compliance is lost."""
    gap, colour = row.gap, GOOD if row.closes else INK
    if gap.mean is None:
        return
    if gap.low is not None and gap.high is not None:
        ends = [axes.at(max(axes.x[0], value), height) for value in (gap.low, gap.high)]
        sheet.items.append(Shape(ends, colour, 2.6, opacity=0.35))
    for x, y in (axes.at(value, height) for _, value in gap.by_seed):
        sheet.items.append(Shape([(x, y - 2.5), (x, y + 2.5)], colour, 0.8, opacity=0.7))
    at = axes.at(gap.mean, height)
    sheet.items.append(Marks("o", 5.2, [at], colour if row.complies else PAGE, colour, 0.8))


def _alt(rows: Sequence[GapRow], organisms: Sequence[str]) -> str:
    """The same in words."""
    told = []
    for organism in organisms:
        own = sorted((row for row in rows if row.organism == organism), key=lambda row: abs(row.gap.mean or 0.0))
        gaps = "; ".join(f"{row.arm} {percent_text(row.gap.mean or 0.0)}" for row in own)
        told.append(f"{organism_name(organism)}: {gaps}.")
    return f"Gap of each arm at the end, points, the smallest first. {' '.join(told)}"
