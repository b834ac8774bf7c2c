"""Drawings as trees of elements: what is kept of matplotlib's, and how the page sees them. No torch here.

Nothing here edits the text of an SVG. Elements and attributes that are not on the lists are left out, names that stand
for something in the page are made from digests, and the serialiser escapes every text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree import ElementTree

from crypsis.config import digest
from crypsis.types import visible

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
ELEMENTS = frozenset({"svg", "g", "defs", "path", "use", "text", "tspan", "rect", "circle", "clipPath", "image"})
"""Elements of a drawing; title, metadata and style sheets of the file stay out of the page."""
LINKED = ELEMENTS | {"a", "title"}
"""Elements of a drawing in the page, whose points lead to transcripts."""
ATTRIBUTES = frozenset(
    {"style", "d", "id", "x", "y", "width", "height", "r", "cx", "cy", "transform", "viewBox", "clip-path"}
)
"""Attributes of a drawing; none of them can act or name another file."""
NUMBERS = frozenset({"d", "x", "y", "width", "height", "r", "cx", "cy", "transform"})
"""Attributes whose numbers the page rounds to hundredths of a point, as it does those of styles."""
DECIMALS = re.compile(r"(\.\d\d)\d+")
HREF = f"{{{XLINK}}}href"
IMAGE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=\s]*")
"""The only thing but an element of the drawing that it may show: a map's pixels."""
FAMILY = re.compile(r"^(.*\d(?:\.\d+)?px) .*$", re.DOTALL)

ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", XLINK)


def clean(drawn: ElementTree.Element, title: str) -> str:
    """A drawing as a file of its own: its elements and a title, fonts that readers have.

    Args:
        drawn: As matplotlib or a sheet draws it; changed.
        title: What it shows, in words and numbers.
    """
    root = _kept(drawn)
    styles: dict[str, str] = {}  # few of them, many elements
    for element in root.iter():
        given = element.get("style")
        if given:
            if given not in styles:
                styles[given] = _styled(given, "Helvetica, Arial, 'DejaVu Sans', sans-serif")
            element.set("style", styles[given])
    root.set("style", "stroke-linejoin: round; stroke-linecap: butt")  # which matplotlib says in a style sheet
    named = ElementTree.Element(f"{{{SVG}}}title")
    named.text = visible(title)
    root.insert(0, named)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def inline(drawn: ElementTree.Element, name: str, alt: str, colours: Mapping[str, str]) -> str:
    """A drawing as an element of the page: no fixed size, page fonts, CSS colours, ids that are its own.

    Args:
        drawn: As matplotlib or a sheet draws it; changed.
        name: Told apart by its digest from the other drawings of the page.
        alt: What it shows, in words and numbers.
        colours: CSS variable by colour of the drawing.
    """
    root, prefix = _kept(drawn, LINKED), f"p{digest(name)[:8]}-"
    styles: dict[str, str] = {}
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key != "style":
                element.set(key, _for_page(key, value, prefix))
                continue
            if value not in styles:
                styles[value] = DECIMALS.sub(r"\1", _styled(value, "var(--sans)", colours))
            element.set(key, styles[value])
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    role = "img" if root.find(f".//{{{SVG}}}a") is None else "group"  # an image's links would not be read out
    for key, value in {"class": "plot", "role": role, "aria-label": visible(alt)}.items():
        root.set(key, value)
    return ElementTree.tostring(root, encoding="unicode")


def _kept(root: ElementTree.Element, elements: frozenset[str] = ELEMENTS) -> ElementTree.Element:
    """The tree without what is not on the lists."""
    for element in root.iter():
        for part in [p for p in element if str(p.tag).removeprefix(f"{{{SVG}}}") not in elements]:
            element.remove(part)
        link = element.tag == f"{{{SVG}}}a"
        for key, value in list(element.attrib.items()):
            reference = key == HREF and (value.startswith("#") or IMAGE.fullmatch(value))
            if not (reference or key in ATTRIBUTES or (link and key == "href" and value.startswith("#browse"))):
                del element.attrib[key]
    return root


def _for_page(key: str, value: str, prefix: str) -> str:
    if key == "id":
        return prefix + value
    if key == HREF:
        return f"#{prefix}{value[1:]}" if value.startswith("#") else value
    if key == "clip-path":
        return value.replace("url(#", f"url(#{prefix}")
    return DECIMALS.sub(r"\1", value) if key in NUMBERS else value


def _styled(style: str, fonts: str, colours: Mapping[str, str] | None = None) -> str:
    """Declarations with other fonts and, if they are given, colours."""
    declared = []
    for declaration in filter(None, map(str.strip, style.split(";"))):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name == "font":
            value = FAMILY.sub(rf"\1 {fonts}", value)
        elif name == "font-family":
            value = fonts
        elif colours and value in colours:
            value = f"var(--{colours[value]}, {value})"
        declared.append(f"{name}: {value}")
    return "; ".join(declared)
