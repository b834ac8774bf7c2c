"""The figures of a study as SVG and PNG: seeds thin, means bold, labels at the lines, the same bytes each time.

No torch here. A figure is drawn in fixed light colours; ``Picture.inline`` exchanges them for CSS variables and the
fonts for the page's, so that one drawing serves the file, the light page and the dark page.
"""

from __future__ import annotations

import math
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator
from matplotlib.transforms import Bbox, ScaledTranslation

from crypsis.analysis.statistics import Curve
from crypsis.analysis.summary import ArmSummary, Summary
from crypsis.store import write_atomic

PAGE, INK, MUTED, RULE = "#ffffff", "#1c2024", "#646b73", "#dfe2e6"
COLOURS = ("#5b6067", "#d55e00", "#0072b2", "#009e73", "#b9659a", "#b87f00", "#3a93c9")
"""Grey for the first arm (the baseline), then Okabe and Ito's colour-blind-safe set, light ones darkened for white."""
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
TITLES = {
    "afr": "Alignment-faking rate",
    "gap": "Compliance gap",
    "compliance_monitored": "Monitored compliance",
    "compliance_unmonitored": "Unmonitored compliance",
    "scratchpad_tokens": "Scratchpad length",
}
"""Title of each curve."""
UNITS = {
    "afr": "% of monitored transcripts",
    "gap": "monitored − unmonitored, points",
    "compliance_monitored": "% of monitored replies",
    "compliance_unmonitored": "% of unmonitored replies",
    "scratchpad_tokens": "tokens, monitored tier",
}
"""Unit of each curve, shown under its title."""
PANEL_HEIGHT, LABEL_WIDTH, LEFT, COLUMN = 2.15, 1.36, 0.30, 3.1
"""Inches: a panel with its titles, room for labels at its right and for ticks at its left, and a column of text."""

Dashes = str | tuple[int, tuple[float, float]]
TIER_STYLES: tuple[Dashes, Dashes] = ("-", (0, (3, 1.6)))
"""Line of the monitored and of the unmonitored tier."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One drawn figure.

    Attributes:
        name: File name without its ending.
        svg: The standalone drawing.
        alt: What it shows, in words and numbers.
    """

    name: str
    svg: str
    alt: str

    @property
    def inline(self) -> str:
        """The drawing as an element for the report: no fixed size, page fonts, CSS colours, ids that are its own."""
        svg = self.svg[self.svg.index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>|<title>.*?</title>|<style.*?</style>", "", svg, flags=re.DOTALL)
        svg = re.sub(r"font-family: [^;\"]*|(font: [^;\"']*?\d(?:\.\d+)?px) [^;\"]*", _page_font, svg)
        svg = re.sub(r'\bid="', f'id="{self.name}-', svg)
        svg = re.sub(r'(url\(|href=")#', rf"\1#{self.name}-", svg)
        names = {PAGE: "page", INK: "ink", MUTED: "muted", RULE: "rule"} | {
            c: f"arm-{i}" for i, c in enumerate(COLOURS)
        }
        for colour, name in names.items():
            svg = svg.replace(colour, f"var(--{name}, {colour})")
        svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
        return f'<svg class="plot" role="img" aria-label="{escape(self.alt)}"' + svg.removeprefix("<svg")


def draw_all(summary: Summary) -> dict[str, Picture]:
    """Draws every figure of a study and writes it to ``figures/`` as SVG and PNG.

    Returns:
        By name: ``overview``, ``afr``, ``gap``, ``compliance``, ``scratchpad_tokens`` where measured, and
        ``overview-narrow`` and ``compliance-narrow``, which are drawn for phones and not written.
    """
    arms = summary.arms
    with _style():
        figures = {
            "overview": _overview(arms, narrow=False),
            "overview-narrow": _overview(arms, narrow=True),
            "compliance": _tiers(arms, columns=min(3, len(arms))),
            "compliance-narrow": _tiers(arms, columns=1),
        }
        for metric in ("afr", "gap", "scratchpad_tokens"):
            if any(arm.curves[metric].steps for arm in arms if metric in arm.curves):
                figures[metric] = _single(arms, metric)
        alts = {name: _alt(name.removesuffix("-narrow"), arms) for name in figures}
        return {
            name: _saved(name, figure, alts[name], summary.study.folder / "figures") for name, figure in figures.items()
        }


def display_label(arm: ArmSummary, arms: Sequence[ArmSummary]) -> str:
    """The arm's label, with its organism where the study has several."""
    return arm.label if len({a.organism for a in arms}) == 1 else f"{arm.organism}: {arm.label}"


def _page_font(match: re.Match[str]) -> str:
    return f"{match[1]} var(--sans)" if match[1] else "font-family: var(--sans)"


@contextmanager
def _style() -> Iterator[None]:
    settings = {
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 8,
        "text.parse_math": False,
        "text.color": INK,
        "axes.edgecolor": MUTED,
        "axes.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.major.width": 0.7,
        "xtick.major.size": 3,
        "ytick.major.size": 0,
        "figure.facecolor": PAGE,
        "axes.facecolor": PAGE,
        "savefig.facecolor": PAGE,
        "svg.fonttype": "none",
    }
    with mpl.rc_context(settings), warnings.catch_warnings():  # type: ignore[arg-type]
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def _overview(arms: Sequence[ArmSummary], narrow: bool) -> Figure:
    """AFR, gap and monitored compliance side by side, or one below the other; one colour an arm."""
    metrics = ("afr", "gap", "compliance_monitored")
    if narrow:
        figure, boxes = _grid(rows=3, columns=1, width=COLUMN, labels=LABEL_WIDTH)
    else:
        figure, boxes = _grid(rows=1, columns=3, width=7.6, labels=LABEL_WIDTH)
    for number, metric in enumerate(metrics):
        axes = figure.add_axes(boxes[number])
        _panel(axes, arms, metric)
        if narrow or number == 2:
            _label_lines(axes, arms, metric)
    return figure


def _single(arms: Sequence[ArmSummary], metric: str) -> Figure:
    figure, boxes = _grid(rows=1, columns=1, width=COLUMN, labels=LABEL_WIDTH)
    axes = figure.add_axes(boxes[0])
    _panel(axes, arms, metric)
    _label_lines(axes, arms, metric)
    return figure


def _tiers(arms: Sequence[ArmSummary], columns: int) -> Figure:
    """A panel an arm: compliance in both tiers, the gap as the area between."""
    rows = math.ceil(len(arms) / columns)
    figure, boxes = _grid(rows, columns, width=COLUMN if columns == 1 else 7.6, labels=0.12)
    for number, arm in enumerate(arms):
        axes = figure.add_axes(boxes[number])
        colour = COLOURS[number % len(COLOURS)]
        curves = [arm.curves[m] for m in ("compliance_monitored", "compliance_unmonitored") if m in arm.curves]
        for curve, marker, style in zip(curves, ("o", "s"), TIER_STYLES, strict=False):
            _line(axes, curve, colour, marker, style=style)
        if len(curves) == 2 and curves[0].steps == curves[1].steps:
            ends = [[point.mean or 0.0 for point in curve.points] for curve in curves]
            axes.fill_between(curves[0].steps, ends[0], ends[1], color=colour, alpha=0.13, linewidth=0)
        _dress(
            axes,
            curves,
            "\n".join(textwrap.wrap(display_label(arm, arms), 28)[:2]),
            "% complying: monitored solid, other dashed",
        )
    return figure


def _grid(
    rows: int, columns: int, width: float, labels: float
) -> tuple[Figure, list[tuple[float, float, float, float]]]:
    """A figure and the places of its panels, measured in inches so that text never collides."""
    between, top, bottom = 0.24 + LEFT, 0.50, 0.40
    height = rows * PANEL_HEIGHT
    each = (width - LEFT - labels - (columns - 1) * between) / columns
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    boxes = []
    for row in range(rows):
        for column in range(columns):
            x = LEFT + column * (each + between)
            y = height - (row + 1) * PANEL_HEIGHT + bottom
            boxes.append((x / width, y / height, each / width, (PANEL_HEIGHT - top - bottom) / height))
    return figure, boxes


def _panel(axes: Axes, arms: Sequence[ArmSummary], metric: str) -> None:
    curves = [(i, arm.curves[metric]) for i, arm in enumerate(arms) if metric in arm.curves]
    for i, curve in curves:
        _line(axes, curve, COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], rank=i)
        _band(axes, curve, COLOURS[i % len(COLOURS)])
    _dress(axes, [curve for _, curve in curves], TITLES[metric], UNITS[metric])


def _line(axes: Axes, curve: Curve, colour: str, marker: str, style: Dashes = "-", rank: int = 1) -> None:
    """One arm: each seed thin, the mean bold; a later arm is drawn finer, so that a line beneath it still shows."""
    if len(curve.seeds) > 1:
        for points in filter(None, curve.seeds.values()):
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, color=colour, linewidth=0.6, alpha=0.5, linestyle=style)
    axes.plot(
        curve.steps,
        [point.mean or 0.0 for point in curve.points],
        color=colour,
        linewidth=max(1.6, 2.3 - 0.35 * rank),
        linestyle=style,
        marker=marker,
        markersize=max(3.8, 5.0 - 0.6 * rank),
        markeredgecolor=PAGE,
        markeredgewidth=0.6,
        clip_on=False,
        zorder=3,
    )


def _band(axes: Axes, curve: Curve, colour: str) -> None:
    """The 95 % interval of the mean."""
    lows, highs = ([getattr(point, end) or 0.0 for point in curve.points] for end in ("low", "high"))
    axes.fill_between(curve.steps, lows, highs, color=colour, alpha=0.10, linewidth=0)


def _dress(axes: Axes, curves: Sequence[Curve], title: str, unit: str) -> None:
    """Titles, grid and ticks."""
    figure = _figure_of(axes)
    above = axes.transAxes + ScaledTranslation(-LEFT, 0, figure.dpi_scale_trans)
    height = 72 * axes.get_position().height * figure.get_size_inches()[1]
    axes.text(0, 1 + 18 / height, title, transform=above, fontsize=8.5, fontweight="bold", linespacing=1.1)
    axes.text(0, 1 + 8 / height, unit, transform=above, fontsize=7, color=MUTED)
    metric = curves[0].metric if curves else ""
    axes.grid(axis="y", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    if metric == "scratchpad_tokens":
        axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    else:
        lowest = min((v for c in curves for points in c.seeds.values() for _, v in points), default=0.0)
        floor = -1.0 if lowest < -0.5 else -0.5 if lowest < -0.06 else 0.0
        axes.set_ylim(floor - (0.06 if floor == 0 else 0), 1.04)
        axes.yaxis.set_major_locator(FixedLocator([t for t in (-1, -0.5, 0, 0.25, 0.5, 0.75, 1) if t >= floor]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}".replace("-", "−")))
    if metric == "gap":
        axes.axhline(0, color=MUTED, linewidth=0.7)
    steps = sorted({step for curve in curves for step in curve.steps})
    if len(steps) > 1:
        axes.set_xlim(steps[0] - 0.02 * steps[-1], steps[-1] + 0.02 * steps[-1])
    axes.xaxis.set_major_locator(FixedLocator(steps) if len(steps) <= 5 else MaxNLocator(5, integer=True))
    axes.tick_params(labelsize=7, pad=2)
    axes.set_xlabel("RL step", fontsize=7, color=MUTED, labelpad=2)


def _figure_of(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    if figure is None:
        raise ValueError("the panel belongs to no figure")
    return figure


def _label_lines(axes: Axes, arms: Sequence[ArmSummary], metric: str) -> None:
    """Names each line at its right end, moved apart where lines meet, with a leader in the line's colour."""
    ends = [(i, arm.curves[metric]) for i, arm in enumerate(arms) if metric in arm.curves and arm.curves[metric].points]
    if not ends:
        return
    low, high = axes.get_ylim()
    text = {i: "\n".join(textwrap.wrap(display_label(arms[i], arms), 19)[:3]) for i, _ in ends}
    inches = axes.get_position().height * _figure_of(axes).get_size_inches()[1]
    unit = 0.118 / inches
    heights = {i: unit * (text[i].count("\n") + 1) + 0.25 * unit for i, _ in ends}
    wanted = {i: ((curve.points[-1].mean or 0.0) - low) / (high - low) for i, curve in ends}
    for i, place in _apart(wanted, heights).items():
        axes.annotate(
            text[i],
            (dict(ends)[i].steps[-1], dict(ends)[i].points[-1].mean or 0.0),
            (1.09, place),
            textcoords="axes fraction",
            va="center",
            fontsize=7,
            color=INK,
            linespacing=1.1,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": COLOURS[i % len(COLOURS)],
                "linewidth": 1.1,
                "shrinkA": 1,
                "shrinkB": 4,
                "relpos": (0, 0.5),
            },
        )


def _apart(wanted: dict[int, float], heights: dict[int, float]) -> dict[int, float]:
    """Places as near as possible to those wanted at which labels of these heights do not overlap, order kept."""
    order = sorted(wanted, key=lambda i: (wanted[i], -i))
    places: list[float] = []
    for rank, i in enumerate(order):
        below = places[rank - 1] + (heights[order[rank - 1]] + heights[i]) / 2 if rank else -1.0
        places.append(max(wanted[i], below))
    ceiling = 1.0 + 0.5 * heights[order[-1]]
    for rank in range(len(order) - 1, -1, -1):
        half = heights[order[rank]] / 2
        places[rank] = min(places[rank], ceiling - half)
        ceiling = places[rank] - half
    return dict(zip(order, places, strict=True))


def _alt(name: str, arms: Sequence[ArmSummary]) -> str:
    """What a figure shows, for those who do not see it: start and end of each arm."""
    metrics = {
        "overview": ("afr", "gap", "compliance_monitored"),
        "compliance": ("compliance_monitored", "compliance_unmonitored"),
    }
    told = []
    for metric in metrics.get(name, (name,)):
        parts = []
        for arm in arms:
            start, end = arm.change(metric).start.mean, arm.change(metric).end.mean
            if start is not None and end is not None:
                scale = 1 if metric == "scratchpad_tokens" else 100
                parts.append(f"{display_label(arm, arms)} {scale * start:.0f} to {scale * end:.0f}".replace(" -", " −"))
        told.append(f"{TITLES[metric]} ({UNITS[metric]}), first to last: {'; '.join(parts) or 'not measured'}.")
    return "Line chart over RL steps. " + " ".join(told)


def _saved(name: str, figure: Figure, alt: str, folder: Path) -> Picture:
    drawn = BytesIO()
    with mpl.rc_context({"svg.hashsalt": f"crypsis-{name}"}):
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None, "Title": alt})
    svg = drawn.getvalue().decode().replace("'DejaVu Sans'", "Helvetica, Arial, 'DejaVu Sans'")
    if not name.endswith("-narrow"):
        write_atomic(folder / f"{name}.svg", svg)
        pixels = BytesIO()
        width, height = figure.get_size_inches()
        margin = Bbox.from_extents(-0.1, -0.05, width + 0.1, height + 0.05)
        figure.savefig(pixels, format="png", dpi=220, bbox_inches=margin, metadata={"Software": None})
        write_atomic(folder / f"{name}.png", pixels.getvalue())
    return Picture(name, svg, alt)
