"""What all figures share: colours, lines with their seeds, panels and labels in inches, and saving.

A figure is drawn in fixed light colours; ``Picture.inline`` exchanges them for CSS variables and the fonts for the
page's, so that one drawing serves the file, the light page and the dark page.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox, ScaledTranslation

from crypsis.analysis.figures import svg
from crypsis.analysis.figures.sheet import Sheet
from crypsis.store import child, file_stem, write_atomic
from crypsis.types import visible

PAGE, INK, MUTED, RULE = "#ffffff", "#1c2024", "#646b73", "#dfe2e6"
ARMS = ("#5b6067", "#0a57a4", "#c98200", "#640a49", "#8f55d8", "#0798b8", "#a5825a")
"""Colours of arms, grey for the first (the baseline): no two alike to the colour-blind, none of them green or red."""
MONITORS = ("#12807a", "#8c7f1a", "#3f46c8", "#b24fb0", "#26303a")
"""Colours of monitors, which are drawn hollow besides."""
GOOD, BAD, WARN = "#00714f", "#b3400a", "#8a5a00"
"""Success, failure, and what is between them; the page's tones of verdicts."""
PALETTES = {"arm": ARMS, "monitor": MONITORS}
PAGE_COLOURS = {PAGE: "page", INK: "ink", MUTED: "muted", RULE: "rule", GOOD: "good", BAD: "bad", WARN: "warn"} | {
    colour: f"{kind}-{i}" for kind, colours in PALETTES.items() for i, colour in enumerate(colours)
}
"""The page's CSS variable for each colour of a figure."""
TINT = LinearSegmentedColormap.from_list("tint", [PAGE, "#9fc3dc"])
"""Colours of maps; figures on them stay readable."""
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "h")
"""One more than there are colours: arms that share a colour differ in their marker."""
WIDE, NARROW = 9.6, 3.1
"""Inches: a figure for a page, and for a phone."""
PANEL_HEIGHT, LABEL_WIDTH, LEFT = 2.15, 1.12, 0.30
"""Inches: a panel with its titles, room for labels at its right, and for ticks at its left."""
DPI, WIDER, HIGHER = 176, 0.1, 0.05
"""Of PNG files: pixels per inch, and inches of margin at the sides and at top and bottom."""

Dashes = Literal["-"] | tuple[float, tuple[float, float]]
SOLID: Dashes = "-"
DASHED: Dashes = (0, (3, 1.6))
Points = Sequence[tuple[int, float]]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a panel.

    Attributes:
        name: As the label at its end calls it.
        points: Its (step, value) points: the mean over seeds.
        place: Its place in the order of colours and markers of its kind.
        seeds: The points of each seed.
        band: The ends of the interval at each point; empty for none.
        style: Solid or dashed.
        hollow: Whether its markers are, as those of monitors always are.
        kind: What it stands for; arms and monitors have palettes of their own.
        links: Where the page goes from each point, and the words shown over it; empty for none.
    """

    name: str
    points: Points
    place: int
    seeds: Sequence[Points] = ()
    band: Sequence[tuple[float, float]] = ()
    style: Dashes = "-"
    hollow: bool = False
    kind: Literal["arm", "monitor"] = "arm"
    links: Sequence[tuple[str, str]] = ()

    @property
    def colour(self) -> str:
        """Its colour."""
        palette = PALETTES[self.kind]
        return palette[self.place % len(palette)]

    @property
    def marker(self) -> str:
        """Its marker."""
        return MARKERS[self.place % len(MARKERS)]

    @property
    def face(self) -> str:
        """The colour inside of its markers."""
        return PAGE if self.hollow or self.kind == "monitor" else self.colour

    @property
    def edge(self) -> str:
        """The colour of its markers' outline."""
        return self.colour if self.face == PAGE else PAGE


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes.

    Attributes:
        unit: Shown under the title.
        scale: ``share`` from 0 to 100 %, ``gap`` also below 0, ``tokens`` from 0, or ``free``.
        labelled: Whether the lines are named at their right ends.
        fill: Whether the area between the first two lines is filled.
        area: Points of an area in the background.
        across: Name of the horizontal axis.
        ticks: Labels of the horizontal axis by place, in place of the steps.
        limit: A value with a dashed line across.
        dots: Whether seeds are dots, not lines.
    """

    title: str
    unit: str
    lines: Sequence[Line]
    scale: str = "share"
    labelled: bool = False
    fill: bool = False
    area: Points = field(default_factory=tuple)
    across: str = "RL step"
    ticks: Mapping[int, str] = field(default_factory=dict)
    limit: float | None = None
    dots: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """One drawn figure.

    Attributes:
        name: File name without its ending.
        svg: The standalone drawing.
        inline: The drawing as an element for the report.
        alt: What it shows, in words and numbers.
    """

    name: str
    svg: str
    inline: str
    alt: str


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


def saved(name: str, figure: Figure | Sheet, alt: str, folder: Path | None) -> Picture:
    """Writes a figure as SVG and PNG, the same bytes each time.

    Args:
        name: Name of the file, without its ending; what cannot name a file is replaced.
        figure: Drawn; characters of its texts that act instead of showing are replaced by their code points.
        alt: What it shows, in words and numbers.
        folder: Gets the files; None writes none, for figures of the page alone.
    """
    name = file_stem(name)
    if isinstance(figure, Sheet):
        tree, plain = figure.tree(links=True), figure.tree() if folder else None
    else:
        drawn = _svg(figure, name)
        tree, plain = ElementTree.fromstring(drawn), ElementTree.fromstring(drawn)
    drawing = svg.clean(plain, alt) if folder and plain is not None else ""
    if folder:
        write_atomic(child(folder, f"{name}.svg"), drawing)
        pixels = figure.png(DPI, (72 * WIDER, 72 * HIGHER)) if isinstance(figure, Sheet) else _png(figure)
        write_atomic(child(folder, f"{name}.png"), pixels)
    return Picture(name, drawing, svg.inline(tree, name, alt, PAGE_COLOURS), alt)


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
