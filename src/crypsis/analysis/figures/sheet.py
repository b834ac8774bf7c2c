"""A sheet of lines, areas, markers and texts in points, written as SVG and as PNG.

matplotlib takes a tenth of a second per panel to find out where ticks, labels and titles go, most of the time of a
report. Figures whose places are known beforehand are put on a sheet instead; its PNG is drawn by matplotlib's Agg, its
texts by Pillow.
"""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
from matplotlib.backend_bases import GraphicsContextBase
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import to_rgb
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path as Outline
from matplotlib.transforms import Affine2D, Bbox
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from crypsis.analysis.figures.svg import SVG, XLINK
from crypsis.types import visible

Place = tuple[float, float]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""
Anchor = Literal["start", "middle", "end"]
Renderer = Any
"""matplotlib's Agg, whose methods have no types."""
FAMILY = "DejaVu Sans"
ANCHORS: dict[Anchor, str] = {"start": "ls", "middle": "ms", "end": "rs"}
"""Pillow's names of the places on the base line."""
LETTERS = {Outline.MOVETO: "M", Outline.LINETO: "L", Outline.CURVE3: "Q", Outline.CURVE4: "C", Outline.CLOSEPOLY: "z"}


@dataclass(frozen=True, slots=True)
class Shape:
    """A line through points, or the area inside of them.

    Attributes:
        points: Places, in order.
        stroke: Colour of the line; empty for none.
        width: Its width.
        dashes: Lengths of dash and gap; none for a solid line.
        fill: Colour of the area; empty for none.
        opacity: Of line and area.
        clip: What is outside of this box is not drawn.
        cap: How a solid line ends.
    """

    points: Sequence[Place]
    stroke: str = ""
    width: float = 0.0
    dashes: tuple[float, ...] = ()
    fill: str = ""
    opacity: float = 1.0
    clip: Box | None = None
    cap: Literal["square", "round"] = "square"


@dataclass(frozen=True, slots=True)
class Marks:
    """The same marker at several places.

    Attributes:
        kind: As matplotlib names it.
        size: Its width.
        points: Places.
        fill: Its colour.
        edge: The colour of its outline.
        edge_width: Width of the outline.
        links: Where the page goes from each place, and the words shown over it; empty for none.
        opacity: Of the whole.
    """

    kind: str
    size: float
    points: Sequence[Place]
    fill: str
    edge: str
    edge_width: float
    links: Sequence[tuple[str, str]] = ()
    opacity: float = 1.0


@dataclass(frozen=True, slots=True)
class Label:
    """One line of text; its place is on the base line."""

    text: str
    place: Place
    size: float
    colour: str
    anchor: Anchor = "start"
    bold: bool = False


@dataclass(slots=True)
class Sheet:
    """What is drawn, from back to front, on a page of ``width`` × ``height`` points; y grows downward."""

    width: float
    height: float
    page: str
    items: list[Shape | Marks | Label] = field(default_factory=list)

    def tree(self, links: bool = False) -> ElementTree.Element:
        """The drawing as SVG.

        Args:
            links: Whether its points lead to places of the page.
        """
        size = {"width": f"{self.width:g}pt", "height": f"{self.height:g}pt"}
        root = ElementTree.Element(f"{{{SVG}}}svg", size | {"viewBox": f"0 0 {self.width:g} {self.height:g}"})
        defs = ElementTree.SubElement(root, f"{{{SVG}}}defs")
        names: dict[object, str] = {}
        for item in (self._background, *self.items):
            if isinstance(item, Label):
                _add_label(root, item)
            elif isinstance(item, Marks):
                _add_marks(root, defs, item, names, links)
            else:
                _add_shape(root, defs, item, names)
        return root

    def png(self, dpi: int, margin: Place) -> bytes:
        """The drawing as PNG.

        Args:
            dpi: Pixels per inch.
            margin: Points added at the left and right, and at top and bottom.
        """
        scale = dpi / 72
        width, height = (round(scale * (one + 2 * more)) for one, more in zip(self._size, margin, strict=True))
        renderer: Renderer = RendererAgg(width, height, dpi)  # type: ignore[no-untyped-call]
        renderer.clear()
        place = Affine2D().translate(margin[0], margin[1]).scale(scale, -scale).translate(0, height)
        edges = (-margin[0], -margin[1], self.width + margin[0], self.height + margin[1])
        labels = [item for item in self.items if isinstance(item, Label)]
        for item in (Shape(corners(edges), fill=self.page), *self.items):
            if isinstance(item, Marks):
                _render_marks(renderer, item, place, scale)
            elif isinstance(item, Shape):
                _render_shape(renderer, item, place)
        image = Image.fromarray(np.asarray(renderer.buffer_rgba())).convert("RGB")
        brush = ImageDraw.Draw(image)  # Agg draws texts letter by letter in Python, which took half of a figure's time
        for label in labels:
            where = (scale * (label.place[0] + margin[0]), scale * (label.place[1] + margin[1]))
            font = _face(label.bold, label.size * scale)
            brush.text(where, visible(label.text), label.colour, font, ANCHORS[label.anchor])
        return _png(np.asarray(image), dpi)

    @property
    def _size(self) -> Place:
        return self.width, self.height

    @property
    def _background(self) -> Shape:
        return Shape(corners((0, 0, self.width, self.height)), fill=self.page)


def corners(box: Box) -> list[Place]:
    """The corners of a box, in order."""
    left, top, right, bottom = box
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _png(pixels_HW3: NDArray[np.uint8], dpi: int) -> bytes:
    """Pixels as a PNG: each row as its difference from the row above, which is nearly always 0.

    Pillow tries five ways for each row, which takes longer than drawing the figure.
    """
    height, width, _ = pixels_HW3.shape
    rows = pixels_HW3.reshape(height, -1)
    up = np.full((height, 1 + rows.shape[1]), 2, np.uint8)  # the filter of each row, 2 for the row above
    up[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=up[1:, 1:])
    metre = round(dpi / 0.0254)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"pHYs", struct.pack(">IIB", metre, metre, 1)),
        (b"IDAT", zlib.compress(up.tobytes(), 1)),
        (b"IEND", b""),
    )
    parts = (struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@functools.lru_cache(maxsize=32)
def _font(size: float, bold: bool) -> FontProperties:
    return FontProperties(family=FAMILY, size=size, weight="bold" if bold else "normal")


@functools.lru_cache(maxsize=32)
def _face(bold: bool, pixels: float) -> ImageFont.FreeTypeFont:
    """The font of a text, from the file that matplotlib brings."""
    return ImageFont.truetype(findfont(_font(8.0, bold)), pixels, layout_engine=ImageFont.Layout.BASIC)


@functools.lru_cache(maxsize=64)
def _outline(kind: str, size: float) -> Outline:
    """A marker around the origin, y downward."""
    style = MarkerStyle(kind)
    return (style.get_transform() + Affine2D().scale(size, -size)).transform_path(style.get_path())


def outline_path(kind: str, size: float) -> str:
    """A marker around the origin as the path of an SVG."""
    steps = _outline(kind, size).iter_segments(simplify=False, curves=True)
    return " ".join(
        f"{LETTERS[code]} {' '.join(map(_short, xy)) if code != Outline.CLOSEPOLY else ''}" for xy, code in steps
    )


def _add_shape(root: ElementTree.Element, defs: ElementTree.Element, shape: Shape, names: dict[object, str]) -> None:
    steps = " L ".join(f"{_short(x)} {_short(y)}" for x, y in shape.points)
    style = f"fill: {shape.fill or 'none'}"
    if shape.fill and shape.opacity < 1:
        style += f"; fill-opacity: {shape.opacity:g}"
    if shape.stroke:
        style += f"; stroke: {shape.stroke}; stroke-width: {shape.width:g}"
        style += f"; stroke-opacity: {shape.opacity:g}" if shape.opacity < 1 else ""
        dashed = ",".join(f"{dash:g}" for dash in shape.dashes)
        style += f"; stroke-dasharray: {dashed}" if dashed else f"; stroke-linecap: {shape.cap}"
    path = {"d": f"M {steps}{' z' if shape.fill else ''}", "style": style}
    if shape.clip:
        if shape.clip not in names:
            names[shape.clip] = f"c{len(names)}"
            left, top, right, bottom = shape.clip
            size = {"x": left, "y": top, "width": right - left, "height": bottom - top}
            clip = ElementTree.SubElement(defs, f"{{{SVG}}}clipPath", {"id": names[shape.clip]})
            ElementTree.SubElement(clip, f"{{{SVG}}}rect", {key: _short(value) for key, value in size.items()})
        path["clip-path"] = f"url(#{names[shape.clip]})"
    ElementTree.SubElement(root, f"{{{SVG}}}path", path)


def _add_marks(
    root: ElementTree.Element, defs: ElementTree.Element, marks: Marks, names: dict[object, str], links: bool
) -> None:
    which = (marks.kind, marks.size)
    if which not in names:
        names[which] = f"m{len(names)}"
        ElementTree.SubElement(defs, f"{{{SVG}}}path", {"id": names[which], "d": outline_path(*which)})
    style = f"fill: {marks.fill}; stroke: {marks.edge}; stroke-width: {marks.edge_width:g}; stroke-linejoin: miter"
    style += f"; opacity: {marks.opacity:g}" if marks.opacity < 1 else ""
    for place, (x, y) in enumerate(marks.points):
        parent = root
        if links and marks.links and marks.links[place][0]:
            address, words = marks.links[place]
            parent = ElementTree.SubElement(root, f"{{{SVG}}}a", {"href": address, "tabindex": "-1"})
            ElementTree.SubElement(parent, f"{{{SVG}}}title").text = visible(words)
        used = {f"{{{XLINK}}}href": f"#{names[which]}", "x": _short(x), "y": _short(y), "style": style}
        ElementTree.SubElement(parent, f"{{{SVG}}}use", used)


def _add_label(root: ElementTree.Element, label: Label) -> None:
    style = f"{'font-weight: 700; ' if label.bold else ''}font-size: {label.size:g}px; font-family: '{FAMILY}'"
    style += f"; text-anchor: {label.anchor}; fill: {label.colour}"
    place = {"x": _short(label.place[0]), "y": _short(label.place[1]), "style": style}
    ElementTree.SubElement(root, f"{{{SVG}}}text", place).text = visible(label.text)


def _short(number: float) -> str:
    return f"{number:.3f}".rstrip("0").rstrip(".")


def _pen(renderer: Renderer, colour: str, width: float, opacity: float = 1.0) -> GraphicsContextBase:
    pen: GraphicsContextBase = renderer.new_gc()
    pen.set_foreground(colour or "white")
    pen.set_linewidth(width if colour else 0.0)
    pen.set_alpha(opacity)
    return pen


def _render_shape(renderer: Renderer, shape: Shape, place: Affine2D) -> None:
    pen = _pen(renderer, shape.stroke, shape.width, shape.opacity)
    pen.set_joinstyle("round")
    pen.set_capstyle("butt" if shape.dashes else "projecting" if shape.cap == "square" else "round")
    if shape.dashes:
        pen.set_dashes(0, list(shape.dashes))
    if shape.clip:
        left, top, right, bottom = shape.clip
        (x0, y0), (x1, y1) = place.transform([(left, bottom), (right, top)])
        pen.set_clip_rectangle(Bbox.from_extents(x0, y0, x1, y1))
    face = to_rgb(shape.fill) if shape.fill else None
    renderer.draw_path(pen, Outline(shape.points, closed=False), place, face)


def _render_marks(renderer: Renderer, marks: Marks, place: Affine2D, scale: float) -> None:
    pen = _pen(renderer, marks.edge, marks.edge_width, marks.opacity)
    pen.set_joinstyle("miter")
    outline, size = _outline(marks.kind, marks.size), Affine2D().scale(scale, -scale)
    renderer.draw_markers(pen, outline, size, Outline(marks.points), place, to_rgb(marks.fill))
