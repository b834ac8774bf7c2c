"""What all figures share: colours, lines with their seeds, panels and labels in inches, and saving.

A figure is drawn in fixed light colours; ``Picture.inline`` exchanges them for CSS variables and the fonts for the
page's, so that one drawing serves the file, the light page and the dark page.
"""

from __future__ import annotations

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
from matplotlib.ticker import FixedLocator, FuncFormatter
from matplotlib.transforms import Bbox, ScaledTranslation

from crypsis.analysis.figures import svg
from crypsis.analysis.figures.sheet import Sheet
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
DPI, WIDER, HIGHER = 220, 0.1, 0.05
"""Of PNG files: pixels per inch, and inches of margin at the sides and at top and bottom."""

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
    axes.yaxis.set_major_formatter(FuncFormatter(percent_text))


def percent_text(value: float, _: object = None) -> str:
    """A share in per cent, as an axis shows it."""
    return f"{100 * value:.0f}".replace("-", "−")


def number_text(value: float, _: object = None) -> str:
    """A number, as an axis shows it."""
    return f"{value:g}".replace("-", "−")


def figure_of(axes: Axes) -> Figure:
    """The figure that a panel is in."""
    figure = axes.get_figure(root=True)
    if figure is None:
        raise ValueError("the panel belongs to no figure")
    return figure


def saved(name: str, figure: Figure | Sheet, alt: str, folder: Path) -> Picture:
    """Writes a figure as SVG and PNG, the same bytes each time; one for phones is not written.

    Args:
        name: Name of the file, without its ending; what cannot name a file is replaced.
        figure: Drawn; characters of its texts that act instead of showing are replaced by their code points.
        alt: What it shows, in words and numbers.
        folder: Gets the files.
    """
    name = file_stem(name)
    drawing = svg.clean(figure.svg() if isinstance(figure, Sheet) else _svg(figure, name), alt)
    if not name.endswith("-narrow"):
        write_atomic(child(folder, f"{name}.svg"), drawing)
        pixels = figure.png(DPI, (72 * WIDER, 72 * HIGHER)) if isinstance(figure, Sheet) else _png(figure)
        write_atomic(child(folder, f"{name}.png"), pixels)
    return Picture(name, drawing, alt)


def _svg(figure: Figure, name: str) -> bytes:
    for text in figure.findobj(Text):
        text.set_text(visible(text.get_text()))
    drawn = BytesIO()
    with mpl.rc_context({"svg.hashsalt": f"crypsis-{name}"}):
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    return drawn.getvalue()


def _png(figure: Figure) -> bytes:
    pixels = BytesIO()
    width, height = figure.get_size_inches()
    box = Bbox.from_extents(-WIDER, -HIGHER, width + WIDER, height + HIGHER)
    figure.savefig(pixels, format="png", dpi=DPI, bbox_inches=box, metadata={"Software": None})
    return pixels.getvalue()
