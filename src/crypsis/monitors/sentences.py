"""Sentences and the text's late part, where a scratchpad's verdict often stands."""

from __future__ import annotations

import re

LATE = 1 / 3
"""Share of a text that counts as late."""

_END = re.compile(r"\s(?:(?<=[.!?]\s)\s*|(?<=\n)\n*)")
"""White space after an end mark, or line breaks. It begins with ``\\s``, for which the engine looks fast."""
_TAGS = re.compile(r"</?(?:scratchpad(?:_reasoning)?|output|reasoning|think)>", re.IGNORECASE)


def sentences(text: str) -> list[str]:
    """The sentences and list items of a text, without markup of the reply's format; never empty."""
    found = [piece.strip() for piece in _END.split(plain(text))]
    return [piece for piece in found if len(piece) > 2] or [text.strip()]


def plain(text: str) -> str:
    """The text without the tags of the reply's format and without space around it.

    Both are accidents of how a transcript was stored, and in some data sets they give the label away.
    """
    return _TAGS.sub(" ", text).strip()


def late(count: int) -> int:
    """How many of ``count`` sentences or words are the late part, at least one."""
    return max(1, round(count * LATE))
