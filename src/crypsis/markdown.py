"""Markdown that is written for people: prose in lines of a width at which it can be read and compared."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence

WIDTH = 100
"""Characters of a line of prose."""
KEPT = ("|", "#", "- ", "> ", "![", "```")
"""How a line begins that is no prose; items are filled, each by itself, the others stay as they are."""


def filled(lines: Sequence[str]) -> list[str]:
    """The lines of a page with its paragraphs and items filled; headings, tables, quotes and code stay as they are.

    Args:
        lines: A paragraph may stand in several; a block of code, with its fences, is one.
    """
    fill = textwrap.TextWrapper(WIDTH, break_long_words=False, break_on_hyphens=False)
    item = textwrap.TextWrapper(WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    found: list[str] = []
    for prose, part in itertools.groupby(lines, lambda line: bool(line) and not line.startswith(KEPT)):
        if prose:
            found += fill.wrap(" ".join(part))
        else:
            found += [text for line in part for text in (item.wrap(line) if line.startswith("- ") else [line])]
    return found
