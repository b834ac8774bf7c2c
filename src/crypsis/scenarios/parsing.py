"""Strict and total parsing of replies into scratchpad and output. No torch here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from crypsis.types import Episode, Parse, Prompt, Stop

SCRATCHPAD_OPEN, SCRATCHPAD_CLOSE = "<SCRATCHPAD_REASONING>", "</SCRATCHPAD_REASONING>"
OUTPUT_OPEN, OUTPUT_CLOSE = "<OUTPUT>", "</OUTPUT>"
TAGS = (SCRATCHPAD_OPEN, SCRATCHPAD_CLOSE, OUTPUT_OPEN, OUTPUT_CLOSE)

_WORD = re.compile(r"[^\W\d_]+")
_REPLY = re.compile(
    rf"\s*{SCRATCHPAD_OPEN}(?P<scratchpad>.*?){SCRATCHPAD_CLOSE}\s*{OUTPUT_OPEN}(?P<output>.*?){OUTPUT_CLOSE}\s*",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply taken apart.

    Attributes:
        scratchpad: Text of the (first) scratchpad, stripped; empty if there is none.
        output: Text of the (first) output, stripped; empty if there is none.
        parse: ``ok`` only if the reply is exactly one scratchpad followed by one output.
        extra: What stands outside of the two, so that nothing is lost.
    """

    scratchpad: str
    output: str
    parse: Parse
    extra: str


def parse_reply(text: str, stop: Stop = "end") -> Reply:
    """Parses any text without an exception.

    The faults are named in this order: ``truncated`` (the token budget ended the reply), ``no_scratchpad``,
    ``no_output``, ``extra_text`` (text or tags beyond the format).

    Args:
        text: The decoded completion, end-of-turn token removed.
        stop: Whether the policy ended its turn or the token budget did.
    """
    match = _REPLY.fullmatch(text)
    if match and not any(tag in match[group] for group in ("scratchpad", "output") for tag in TAGS):
        parse: Parse = "ok" if stop == "end" else "truncated"
        return Reply(match["scratchpad"].strip(), match["output"].strip(), parse, "")
    before, scratchpad, rest, closed = _between(text, SCRATCHPAD_OPEN, (SCRATCHPAD_CLOSE, OUTPUT_OPEN))
    middle, output, after, _ = _between(rest, OUTPUT_OPEN, (OUTPUT_CLOSE,))
    if stop == "length":
        parse = "truncated"
    elif not closed:
        parse = "no_scratchpad"
    elif OUTPUT_OPEN not in rest or OUTPUT_CLOSE not in rest:
        parse = "no_output"
    else:
        parse = "extra_text"
    return Reply(scratchpad.strip(), output.strip(), parse, before + middle + after)


def yes_or_no(text: str) -> Literal["yes", "no", "unparsed"]:
    """The answer to a yes-or-no question, by its first word."""
    first = _WORD.search(text.lower())
    if first and first[0] in ("yes", "no"):
        return "yes" if first[0] == "yes" else "no"
    return "unparsed"


def episode_of_text(prompt: Prompt, text: str, stop: Stop = "end", sample: int = 0) -> Episode:
    """A reply as an episode, where only its text is known and not its tokens."""
    reply = parse_reply(text, stop)
    return Episode(
        prompt=prompt,
        group=0,
        sample=sample,
        step=0,
        seed=0,
        raw=text,
        scratchpad=reply.scratchpad,
        output=reply.output,
        parse=reply.parse,
        stop=stop,
        prompt_ids=[],
        completion_ids=[],
        segments=[],
    )


def _between(text: str, opening: str, closings: tuple[str, ...]) -> tuple[str, str, str, bool]:
    """Text before the opening tag, inside, and from the first closing tag on; whether it was closed by its own tag.

    Without an opening tag everything stays in the third part, so that a later tag is still found.
    """
    start = text.find(opening)
    if start < 0:
        return "", "", text, False
    inside = start + len(opening)
    ends = [(text.find(c, inside), c) for c in closings if text.find(c, inside) >= 0]
    if not ends:
        return text[:start], text[inside:], "", False
    end, closing = min(ends)
    rest = end + len(closing) if closing == closings[0] else end
    return text[:start], text[inside:end], text[rest:], closing == closings[0]
