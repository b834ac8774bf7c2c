"""Figures of panels: values stand where they belong, in the SVG and in the PNG; texts are inert."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from crypsis.analysis.figures.drawing import DASHED, DPI, HIGHER, WIDER, Line, Panel, Points, saved
from crypsis.analysis.figures.panels import panels
from crypsis.analysis.figures.sheet import Sheet, _png
from crypsis.analysis.figures.svg import SVG, XLINK

pytestmark = pytest.mark.unit
POINTS: Points = [(0, 0.0), (5, 1.0), (10, 0.25)]
BLUE = "#0a57a4"


def sheet(scale: str = "share", points: Points = POINTS) -> Sheet:
    line = Line("one", points, 1, [points, points], [(v, v + 0.1) for _, v in points])
    return panels([Panel("A title\nof two lines", "%", [line], scale, labelled=True)], columns=1, width=4.0)


def marks(found: Sheet) -> list[tuple[float, float]]:
    """Places of the markers of the mean."""
    root = found.tree()
    return [(float(one.attrib["x"]), float(one.attrib["y"])) for one in root.iter(f"{{{SVG}}}use")]


def labels(found: Sheet, anchor: str) -> dict[str, tuple[float, float]]:
    """Places of the texts with an anchor."""
    texts = found.tree().iter(f"{{{SVG}}}text")
    held = [t for t in texts if f"anchor: {anchor}" in t.attrib["style"]]
    return {t.text or "": (float(t.attrib["x"]), float(t.attrib["y"])) for t in held}


def test_values_stand_at_the_height_of_their_ticks() -> None:
    found = sheet()
    ticks, steps, places = labels(found, "end"), labels(found, "middle"), marks(found)
    middle = 2.66  # from the middle of a tick's label to its base line
    assert [y + middle for _, y in places] == pytest.approx([ticks[t][1] for t in ("0", "100", "25")], abs=0.01)
    assert [x for x, _ in places] == pytest.approx([steps[step][0] for step in ("0", "5", "10")], abs=0.01)


@pytest.mark.parametrize(
    ("scale", "points", "ticks"),
    [
        ("gap", [(0, -0.9), (5, 0.4)], ["−100", "−50", "0", "25", "50", "75", "100"]),
        ("gap", [(0, -0.3), (5, 0.4)], ["−50", "0", "25", "50", "75", "100"]),
        ("tokens", [(0, 12.0), (5, 50.0)], ["0", "15", "30", "45"]),
        ("free", [(0, -4.0), (5, 1.0)], ["−3", "−1.5", "0"]),
        ("free", [(0, 2.0), (5, 2.0)], ["0", "0.6", "1.2", "1.8"]),
        ("parts", [(0, 0.1), (5, 0.9)], ["0", "30", "60", "90"]),
    ],
)
def test_ticks_fit_the_values(scale: str, points: Points, ticks: list[str]) -> None:
    root = sheet(scale, points).tree()
    shown = list(labels(sheet(scale, points), "end"))
    assert sorted(shown) == sorted(ticks)
    tall = float(root.attrib["viewBox"].split()[3])
    assert all(0 <= float(t.attrib["y"]) <= tall for t in root.iter(f"{{{SVG}}}text"))


def test_the_png_has_its_colours_where_the_svg_has_its_markers() -> None:
    found = sheet()
    image = np.asarray(Image.open(BytesIO(found.png(DPI, (72 * WIDER, 72 * HIGHER)))))
    scale = DPI / 72
    assert image.shape == (round((found.height + 144 * HIGHER) * scale), round((4 + 2 * WIDER) * DPI), 3)
    colour = [int(BLUE[i : i + 2], 16) for i in (1, 3, 5)]
    for x, y in marks(found):
        place = round((y + 72 * HIGHER) * scale), round((x + 72 * WIDER) * scale)
        np.testing.assert_allclose(image[place], colour, atol=3)
    assert (image[2, 2] == 255).all()


def test_pixels_come_back_from_the_png() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3)).astype(np.uint8)
    image = Image.open(BytesIO(_png(pixels, 176)))
    np.testing.assert_array_equal(np.asarray(image), pixels)
    assert image.info["dpi"] == pytest.approx((176, 176), abs=0.1)


def test_one_step_and_no_values_are_drawn_too() -> None:
    assert len(marks(sheet(points=[(0, 0.5)]))) == 1
    empty = panels([Panel("", "", [Line("none", [], 0)], "tokens", labelled=True)], 1, 3.0)
    assert len(empty.tree()) and empty.png(30, (0, 0))


def test_texts_are_inert_and_dashes_are_dashed(tmp_path: Path) -> None:
    line = Line("a \u202e<script>", POINTS, 0, style=DASHED)
    picture = saved("x", panels([Panel("t\x1b", "<&>", [line], labelled=True)], 1, 4.0), "alt", tmp_path)
    root = ElementTree.fromstring(picture.svg)
    texts = [t.text for t in root.iter(f"{{{SVG}}}text")]
    assert "<&>" in texts and not any(c in (t or "") for t in texts for c in "\u202e\x1b")
    assert any("stroke-dasharray" in p.attrib.get("style", "") for p in root.iter(f"{{{SVG}}}path"))
    assert {p.name for p in tmp_path.iterdir()} == {"x.svg", "x.png"}
    ids = {e.attrib["id"] for e in root.iter() if "id" in e.attrib}
    assert {u.attrib[f"{{{XLINK}}}href"][1:] for u in root.iter(f"{{{SVG}}}use")} <= ids
