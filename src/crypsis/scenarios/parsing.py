"""Strict and total parsing of replies into scratchpad and output."""

from __future__ import annotations

import functools
import itertools
import re
from dataclasses import dataclass
from typing import Literal

from crypsis.types import Episode, Parse, Prompt, Stop

SCRATCHPAD_OPEN, SCRATCHPAD_CLOSE = "<SCRATCHPAD_REASONING>", "</SCRATCHPAD_REASONING>"
OUTPUT_OPEN, OUTPUT_CLOSE = "<OUTPUT>", "</OUTPUT>"
TAGS = (SCRATCHPAD_OPEN, SCRATCHPAD_CLOSE, OUTPUT_OPEN, OUTPUT_CLOSE)

Tags = tuple[str, str]
"""An opening and a closing tag."""
THOUGHT_TAGS: tuple[Tags, ...] = (("<think>", "</think>"), ("<thinking>", "</thinking>"))
"""What reasoning models put around the thoughts that come before their reply."""
SCRATCHPAD_TAGS: tuple[Tags, ...] = (
    (SCRATCHPAD_OPEN, SCRATCHPAD_CLOSE),
    ("<HIDDEN_SCRATCHPAD>", "</HIDDEN_SCRATCHPAD>"),
    ("<SCRATCHPAD>", "</SCRATCHPAD>"),
)
"""What stored transcripts have around their scratchpads, the most specific first."""

_WORD = re.compile(r"[^\W\d_]+")
_ANY_TAG = re.compile("|".join(map(re.escape, TAGS)))


@dataclass(frozen=True, slots=True)
class ParsedReply:
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


def parse_reply(text: str, stop: Stop = "end") -> ParsedReply:
    """Parses any text without an exception.

    The faults are named in this order: ``truncated`` (the token budget ended the reply), ``no_scratchpad``,
    ``no_output``, ``extra_text`` (text or tags beyond the format).

    Args:
        text: The decoded completion, end-of-turn token removed.
        stop: Whether the policy ended its turn or the token budget did.
    """
    exact = _exact(text)
    if exact:
        parse: Parse = "ok" if stop == "end" else "truncated"
        return ParsedReply(exact[0].strip(), exact[1].strip(), parse, "")
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
    return ParsedReply(scratchpad.strip(), output.strip(), parse, before + middle + after)


@dataclass(frozen=True, slots=True)
class Parts:
    """A stored reply taken apart: what a monitor of each view may read.

    Attributes:
        scratchpad: What stands inside the scratchpad's tags, and nothing else.
        output: What stands inside the output's tags; without those, everything outside of all reasoning.
        tags: The scratchpad's tags; None if the reply has no scratchpad.
        thoughts: Reasoning that is neither: a model's own thoughts where it also wrote a scratchpad.
    """

    scratchpad: str
    output: str
    tags: Tags | None
    thoughts: str = ""


def split_reply(text: str, tags: Tags | None = None) -> Parts:
    """Takes a stored reply of any layout apart, in time that grows with its length.

    Thoughts of a reasoning model come off first, so that a thought that names the tags is no scratchpad. They are the
    scratchpad of a reply that has no other. A scratchpad that is not closed ends where the output begins, or with the
    text. A closing tag alone closes a scratchpad whose opening tag was part of the prompt; one of a thought is a word
    like others where the reply begins with a scratchpad.

    Args:
        text: The reply.
        tags: The scratchpad's tags, where they are none of the usual.
    """
    rest, thoughts, thought_tags = text, "", None
    for pair in THOUGHT_TAGS:
        block = _block(rest, pair) if _pattern(pair[0]).search(rest) or not _opens(rest, tags) else None
        if block and pair != tags and not block.before.strip():
            thoughts, rest, thought_tags = block.inside.strip(), block.after, pair
            break
    for pair in (tags,) if tags else SCRATCHPAD_TAGS:
        block = _block(rest, pair)
        if block:
            return Parts(block.inside.strip(), _output(block.before, block.after), pair, thoughts)
    if tags or thought_tags:
        return Parts("" if tags else thoughts, _output("", rest), None if tags else thought_tags, thoughts * bool(tags))
    for pair in THOUGHT_TAGS:
        block = _block(rest, pair)
        if block:
            return Parts(block.inside.strip(), _output(block.before, block.after), pair)
    return Parts("", _output("", rest), None)


def _opens(text: str, tags: Tags | None) -> bool:
    """Whether a reply begins with a scratchpad: then no thought was opened before it, in the prompt."""
    start = text.lstrip().lower()
    return any(start.startswith(pair[0].lower()) for pair in ((tags,) if tags else SCRATCHPAD_TAGS))


def thought_end(text: str, opened: bool = False) -> int | None:
    """Where the thought that a reply begins with ends, its closing tag included; None if there is no thought.

    Args:
        text: A completion as a model wrote it.
        opened: Whether the prompt already holds the opening tag.
    """
    opening, closing = THOUGHT_TAGS[0]
    if not opened and not text.lstrip().startswith(opening):
        return None
    end = text.find(closing)
    return len(text) if end < 0 else end + len(closing)


def reply_start(text: str) -> int:
    """Where a well-formed reply begins behind a thought, which may name its tags; 0 without a scratchpad."""
    return max(0, text.rfind(SCRATCHPAD_OPEN))


def without_thought(text: str, opened: bool = False, as_scratchpad: bool = False) -> str:
    """A completion without the thought that it begins with, or with the thought as its scratchpad.

    Args:
        text: A completion as a model wrote it.
        opened: Whether the prompt already holds the thought's opening tag.
        as_scratchpad: Puts the thought into the scratchpad's tags, and what follows into those of the output.
    """
    end = thought_end(text, opened)
    if end is None:
        return text
    if not as_scratchpad:
        return text[end:]
    opening, closing = THOUGHT_TAGS[0]
    thought = text[:end].lstrip().removeprefix(opening)
    if not thought.endswith(closing):
        return f"{SCRATCHPAD_OPEN}{thought}"
    output = unwrapped(text[end:], (OUTPUT_OPEN, OUTPUT_CLOSE)).strip()
    inside = f"{SCRATCHPAD_OPEN}{thought.removesuffix(closing)}{SCRATCHPAD_CLOSE}"
    return f"{inside}{OUTPUT_OPEN}{output}{OUTPUT_CLOSE}"


def unwrapped(text: str, *pairs: Tags) -> str:
    """A text that is all inside of one part of a reply, without the tags that may still stand around it."""
    start = text.lstrip()
    for opening, closing in pairs:
        if start[: len(opening)].lower() == opening.lower():
            inside = start[len(opening) :].strip()
            closed = inside[-len(closing) :].lower() == closing.lower()
            return inside[: -len(closing)].strip() if closed else inside
    return text


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


@dataclass(frozen=True, slots=True)
class _Block:
    before: str
    inside: str
    after: str


@functools.lru_cache(maxsize=64)
def _pattern(tag: str) -> re.Pattern[str]:
    return re.compile(re.escape(tag), re.IGNORECASE)


def _block(text: str, tags: Tags) -> _Block | None:
    """The first block between two tags, whatever their case."""
    start = _pattern(tags[0]).search(text)
    end = _pattern(tags[1]).search(text, start.end() if start else 0)
    if start is None:
        return _Block("", text[: end.start()], text[end.end() :]) if end else None
    if end is None:
        output = _pattern(OUTPUT_OPEN).search(text, start.end())
        stop = output.start() if output else len(text)
        return _Block(text[: start.start()], text[start.end() : stop], text[stop:])
    return _Block(text[: start.start()], text[start.end() : end.start()], text[end.end() :])


def _output(before: str, after: str) -> str:
    """The output among what stands around the scratchpad."""
    opened = _pattern(OUTPUT_OPEN).search(after)
    if opened:
        closed = _pattern(OUTPUT_CLOSE).search(after, opened.end())
        return after[opened.end() : closed.start() if closed else len(after)].strip()
    rest = "\n".join(part.strip() for part in (before, after) if part.strip())
    for pair in (*THOUGHT_TAGS, *SCRATCHPAD_TAGS):
        rest = _without_blocks(rest, pair)
    return rest.strip()


def _without_blocks(text: str, tags: Tags) -> str:
    """The text without its blocks between two tags, and without what a closing tag alone still closes."""
    kept, at = [], 0
    while opened := _pattern(tags[0]).search(text, at):
        closed = _pattern(tags[1]).search(text, opened.end())
        if closed is None:
            break
        kept.append(text[at : opened.start()])
        at = closed.end()
    rest = "".join([*kept, text[at:]])
    orphans = list(_pattern(tags[1]).finditer(rest))
    return rest[orphans[-1].end() :] if orphans else rest


def _exact(text: str) -> tuple[str, str] | None:
    """Scratchpad and output of a reply that has its four tags once, in order, and only space outside of them."""
    found = list(itertools.islice(_ANY_TAG.finditer(text), 5))
    if tuple(match[0] for match in found) != TAGS:
        return None
    first, second, third, fourth = found
    outside = (text[: first.start()], text[second.end() : third.start()], text[fourth.end() :])
    if any(piece.strip() for piece in outside):
        return None
    return text[first.end() : second.start()], text[third.end() : fourth.start()]


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
