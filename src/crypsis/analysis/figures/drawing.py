"""What all figures share: colours, lines with their seeds, panels and labels in inches, and saving.

A figure is drawn in fixed light colours; ``Picture.inline`` exchanges them for CSS variables and the fonts for the
page's, so that one drawing serves the file, the light page and the dark page.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator
from matplotlib.transforms import Bbox, ScaledTranslation

from crypsis.analysis.figures import svg
from crypsis.analysis.figures.spacing import apart
from crypsis.store import child, file_stem, write_atomic
from crypsis.types import visible

PAGE, INK, MUTED, RULE = "#ffffff", "#1c2024", "#646b73", "#dfe2e6"
COLOURS = ("#5b6067", "#d55e00", "#0072b2", "#009e73", "#b9659a", "#b87f00", "#3a93c9")
"""Grey for the first arm (the baseline), then Okabe and Ito's colour-blind-safe set, light ones darkened for white."""
PAGE_COLOURS = {PAGE: "page", INK: "ink", MUTED: "muted", RULE: "rule"} | {c: f"arm-{i}" for i, c in enumerate(COLOURS)}
"""The page's CSS variable for each colour of a figure."""
TINT = LinearSegmentedColormap.from_list("tint", [PAGE, "#9fc3dc"])
"""Colours of maps; figures on them stay readable."""
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "h")
"""One more than there are colours: arms that share a colour differ in their marker."""
WIDE, NARROW = 7.6, 3.1
"""Inches: a figure for a page, and for a phone."""
PANEL_HEIGHT, LABEL_WIDTH, LEFT = 2.15, 1.36, 0.30
"""Inches: a panel with its titles, room for labels at its right, and for ticks at its left."""
LEGEND_ROW = 0.17
"""Inches: a row of a legend below the panels."""

Dashes = Literal["-"] | tuple[float, tuple[float, float]]
DASHED: Dashes = (0, (3, 1.6))
Points = Sequence[tuple[int, float]]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a panel.

    Attributes:
        name: As the legend or the label at its end calls it.
        points: Its (step, value) points: the mean over seeds.
        seeds: The points of each seed.
        band: The ends of the interval at each point; empty for none.
        place: Its place in the order of colours and markers.
        style: Solid or dashed.
        mark: A marker in place of the usual one.
    """

    name: str
    points: Points
    place: int
    seeds: Sequence[Points] = ()
    band: Sequence[tuple[float, float]] = ()
    style: Dashes = "-"
    mark: str = ""

    @property
    def colour(self) -> str:
        """Its colour."""
        return COLOURS[self.place % len(COLOURS)]

    @property
    def marker(self) -> str:
        """Its marker."""
        return self.mark or MARKERS[self.place % len(MARKERS)]


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes.

    Attributes:
        unit: Shown under the title.
        scale: ``share`` from 0 to 100 %, ``gap`` also below 0, ``tokens`` from 0, or ``free``.
        labelled: Whether the lines are named at their right ends.
        fill: Whether the area between the first two lines is filled.
        area: Points of an area in the background.
    """

    title: str
    unit: str
    lines: Sequence[Line]
    scale: str = "share"
    labelled: bool = False
    fill: bool = False
    area: Points = field(default_factory=tuple)


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
        """The drawing as an element for the report."""
        return svg.inline(self.svg, self.name, self.alt, PAGE_COLOURS)


@contextmanager
def style() -> Iterator[None]:
    """Our settings of matplotlib."""
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


def panels(plan: Sequence[Panel], columns: int, width: float, labels: float = 0.12, legend: int = 0) -> Figure:
    """A figure of panels in rows; with ``legend`` columns, all lines are named below.

    Args:
        plan: The panels, row by row.
        columns: Panels a row.
        width: Width of the figure, in inches.
        labels: Inches at the right for the names of lines.
        legend: Columns of the legend; 0 for none.
    """
    named = {line.name: line for panel in plan for line in panel.lines} if legend else {}
    below = LEGEND_ROW * -(-len(named) // legend) + 0.12 if named else 0.0
    figure, boxes = _grid(-(-len(plan) // columns), columns, width, labels, below)
    for panel, box in zip(plan, boxes, strict=False):
        axes = figure.add_axes(box)
        _draw(axes, panel)
    if named:
        add_legend(figure, list(named.values()), legend)
    return figure


def add_legend(figure: Figure, lines: Sequence[Line], columns: int, dots: bool = False) -> None:
    """Names lines by colour and marker at the figure's foot.

    Args:
        figure: With room for it.
        lines: To be named.
        columns: Columns of the legend.
        dots: Without the line through the marker.
    """
    handles = [
        Line2D(
            [],
            [],
            color=line.colour,
            marker=line.marker,
            linestyle="" if dots else line.style,
            markersize=4.5,
            label=line.name,
        )
        for line in lines
    ]
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0.0, 0.0),
        ncols=columns,
        frameon=False,
        fontsize=7,
        handlelength=2.4,
        columnspacing=1.4,
        borderpad=0.1,
        labelspacing=0.35,
    )


def canvas(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def _grid(rows: int, columns: int, width: float, labels: float, below: float) -> tuple[Figure, list[Box]]:
    """A figure and the places of its panels, measured in inches so that text never collides."""
    between, top, bottom = 0.24 + LEFT, 0.50, 0.40
    height = rows * PANEL_HEIGHT + below
    each = (width - LEFT - labels - (columns - 1) * between) / columns
    boxes = []
    for row in range(rows):
        for column in range(columns):
            x = LEFT + column * (each + between)
            y = height - (row + 1) * PANEL_HEIGHT + bottom
            boxes.append((x / width, y / height, each / width, (PANEL_HEIGHT - top - bottom) / height))
    return canvas(width, height), boxes


def _draw(axes: Axes, panel: Panel) -> None:
    if panel.area:
        steps, values = zip(*panel.area, strict=True)
        axes.fill_between(steps, 0, values, color=RULE, linewidth=0)
    for rank, line in enumerate(panel.lines):
        _line(axes, line, rank)
    if panel.fill and len(panel.lines) == 2:
        first, second = (dict(line.points) for line in panel.lines)
        if first.keys() == second.keys():
            colour = panel.lines[0].colour
            axes.fill_between(list(first), list(first.values()), list(second.values()), color=colour, alpha=0.13, lw=0)
    _dress(axes, panel)
    if panel.labelled:
        _label_lines(axes, panel.lines)


def _line(axes: Axes, line: Line, rank: int) -> None:
    """Each seed thin, the mean bold; a later line is drawn finer, so that a line beneath it still shows."""
    if len(line.seeds) > 1:
        for points in filter(None, line.seeds):
            axes.plot(*zip(*points, strict=True), color=line.colour, linewidth=0.6, alpha=0.5, linestyle=line.style)
    if not line.points:
        return
    steps, values = zip(*line.points, strict=True)
    axes.plot(
        steps,
        values,
        color=line.colour,
        linewidth=max(1.6, 2.3 - 0.35 * rank),
        linestyle=line.style,
        marker=line.marker,
        markevery=max(1, len(steps) // 5),
        markersize=max(3.8, 5.0 - 0.6 * rank),
        markeredgecolor=PAGE,
        markeredgewidth=0.6,
        clip_on=False,
        zorder=3,
    )
    if line.band:
        lows, highs = zip(*line.band, strict=True)
        axes.fill_between(steps, lows, highs, color=line.colour, alpha=0.10, linewidth=0)


def _dress(axes: Axes, panel: Panel) -> None:
    """Titles, grid and ticks."""
    head(axes, panel.title, panel.unit)
    axes.grid(axis="y", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    seen = [v for line in panel.lines for points in (line.points, *line.seeds) for _, v in points]
    if panel.scale == "tokens":
        axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    elif panel.scale in ("free", "parts"):
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(_percents if panel.scale == "parts" else _numbers))
        axes.axhline(0, color=MUTED, linewidth=0.7)
    else:
        shares(axes, min(seen, default=0.0))
    if panel.scale == "gap":
        axes.axhline(0, color=MUTED, linewidth=0.7)
    steps = sorted({step for line in panel.lines for step, _ in line.points})
    if len(steps) > 1:
        axes.set_xlim(steps[0] - 0.02 * steps[-1], steps[-1] + 0.02 * steps[-1])
    axes.xaxis.set_major_locator(FixedLocator(steps) if len(steps) <= 5 else MaxNLocator(5, integer=True))
    axes.tick_params(labelsize=7, pad=2)
    axes.set_xlabel("RL step", fontsize=7, color=MUTED, labelpad=2)


def head(axes: Axes, title: str, unit: str) -> None:
    """Title and unit above a panel, flush with its ticks."""
    figure = figure_of(axes)
    above = axes.transAxes + ScaledTranslation(-LEFT, 0, figure.dpi_scale_trans)
    height = 72 * axes.get_position().height * figure.get_size_inches()[1]
    axes.text(0, 1 + 18 / height, title, transform=above, fontsize=8.5, fontweight="bold", linespacing=1.1)
    axes.text(0, 1 + 8 / height, unit, transform=above, fontsize=7, color=MUTED)


def shares(axes: Axes, lowest: float) -> None:
    """The vertical axis of a share in per cent, or of a gap that goes down to ``lowest``."""
    floor = -1.0 if lowest < -0.5 else -0.5 if lowest < -0.06 else 0.0
    axes.set_ylim(floor - (0.06 if floor == 0 else 0), 1.04)
    axes.yaxis.set_major_locator(FixedLocator([t for t in (-1, -0.5, 0, 0.25, 0.5, 0.75, 1) if t >= floor]))
    axes.yaxis.set_major_formatter(FuncFormatter(_percents))


def _percents(value: float, _: object) -> str:
    return f"{100 * value:.0f}".replace("-", "−")


def _numbers(value: float, _: object) -> str:
    return f"{value:g}".replace("-", "−")


def figure_of(axes: Axes) -> Figure:
    """The figure that a panel is in."""
    figure = axes.get_figure(root=True)
    if figure is None:
        raise ValueError("the panel belongs to no figure")
    return figure


def _label_lines(axes: Axes, lines: Sequence[Line]) -> None:
    """Names each line at its right end, moved apart where lines meet, with a leader in the line's colour."""
    ends = {i: line for i, line in enumerate(lines) if line.points}
    if not ends:
        return
    low, high = axes.get_ylim()
    text = {i: "\n".join(textwrap.wrap(line.name, 19)[:3]) for i, line in ends.items()}
    inches = axes.get_position().height * figure_of(axes).get_size_inches()[1]
    unit = 0.118 / inches
    heights = {i: unit * (text[i].count("\n") + 1) + 0.25 * unit for i in ends}
    wanted = {i: (line.points[-1][1] - low) / (high - low) for i, line in ends.items()}
    for i, place in apart(wanted, heights).items():
        axes.annotate(
            text[i],
            ends[i].points[-1],
            (1.09, place),
            textcoords="axes fraction",
            va="center",
            fontsize=7,
            color=INK,
            linespacing=1.1,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": ends[i].colour,
                "linewidth": 1.1,
                "shrinkA": 1,
                "shrinkB": 4,
                "relpos": (0, 0.5),
            },
        )


def saved(name: str, figure: Figure, alt: str, folder: Path) -> Picture:
    """Writes a figure as SVG and PNG, the same bytes each time; one for phones is not written.

    Args:
        name: Name of the file, without its ending; what cannot name a file is replaced.
        figure: Drawn; characters of its texts that act instead of showing are replaced by their code points.
        alt: What it shows, in words and numbers.
        folder: Gets the files.
    """
    name = file_stem(name)
    for text in figure.findobj(Text):
        text.set_text(visible(text.get_text()))
    drawn = BytesIO()
    with mpl.rc_context({"svg.hashsalt": f"crypsis-{name}"}):
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    drawing = svg.clean(drawn.getvalue(), alt)
    if not name.endswith("-narrow"):
        write_atomic(child(folder, f"{name}.svg"), drawing)
        pixels = BytesIO()
        width, height = figure.get_size_inches()
        margin = Bbox.from_extents(-0.1, -0.05, width + 0.1, height + 0.05)
        figure.savefig(pixels, format="png", dpi=220, bbox_inches=margin, metadata={"Software": None})
        write_atomic(child(folder, f"{name}.png"), pixels.getvalue())
    return Picture(name, drawing, alt)
