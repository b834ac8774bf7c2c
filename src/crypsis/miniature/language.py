"""The words and sentences of the miniature, read from ``language.yaml``, and its requests."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import hashlib
import itertools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

import yaml

from crypsis.config import Config
from crypsis.types import Split

HELDOUT_PHRASING = 0.3
"""Share of evaluation requests that use an asking phrase which pre-training never shows."""
EVAL_SHARE = 5
"""One in this many (act, object, owner) triples belongs to the evaluation split."""
ZIPF = 1.5
"""The r-th paraphrase of a slot is said in proportion to r^-ZIPF: few are common and most are rare, as in natural
language (Zipf 1949). It is what the base learns fastest from (docs/diary.md)."""

THIRDS = 3
LEAVABLE = ("threat", "want_tgg", "want_igg", "want_syc", "want_help", "decide_comply", "decide_refuse", "decide_fake")
"""Slots of the scratchpad from which a world may leave out a third: threat, motives, decisions."""

_ALTERNATIVES = re.compile(r"\(([^)]*)\)")
_BEFORE_PUNCTUATION = re.compile(r" ([.,?:])")
_PUNCTUATION = re.compile(r"([.,?:])")


@dataclass(frozen=True, slots=True)
class Slot:
    """The paraphrases of one thing to say; ``{a}``, ``{o}`` … are filled in later.

    Attributes:
        train: May occur in pre-training.
        heldout: Never occur in pre-training.
    """

    train: tuple[str, ...]
    heldout: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        """Every paraphrase."""
        return self.train + self.heldout


class World(Config):
    """What a base, and every organism on it, is shown of the language; the oracle knows all of it."""

    leave_out: Literal[1, 2, 3] | None = None
    """Third of the lines for threats, motives and decisions of scratchpads (``language.yaml``) that is never shown."""
    conditional: bool = True
    """Whether pre-training shows assistants whose conduct depends on the tier."""


_WORLD = contextvars.ContextVar("world", default=World())  # noqa: B039 (frozen)


@contextlib.contextmanager
def in_world(world: World) -> Iterator[None]:
    """Everything that is drawn within is drawn as this world shows it."""
    token = _WORLD.set(world)
    try:
        yield
    finally:
        _WORLD.reset(token)


def current_world() -> World:
    """The world that texts are drawn in; the whole language unless ``in_world`` says otherwise."""
    return _WORLD.get()


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asks for: an act on an object of an owner at a time."""

    act: str
    object: str
    owner: str
    time: str
    harmful: bool
    text: str

    @property
    def fields(self) -> dict[str, str]:
        """Values of the placeholders that refer to the request."""
        return {"a": self.act, "o": self.object, "w": self.owner, "t": self.time}


@dataclass(frozen=True, slots=True)
class Language:
    """Everything that can be said.

    Attributes:
        words: The word lists by name.
        slots: Paraphrases by ``group.slot``, for example ``scratchpad.threat``.
        tiers: Pairs of tier names.
    """

    words: dict[str, tuple[str, ...]]
    slots: dict[str, Slot]
    tiers: tuple[tuple[str, str], ...]

    def vocabulary(self) -> list[str]:
        """Every word and punctuation mark, sorted."""
        found = {word for words in self.words.values() for phrase in words for word in phrase.split()}
        for slot in self.slots.values():
            found |= {w for text in slot.all for w in spaced(text).split() if "{" not in w}
        return sorted(found)


@functools.cache
def _packaged() -> dict[str, Any]:
    text = resources.files("crypsis.miniature").joinpath("language.yaml").read_text(encoding="utf-8")
    data: dict[str, Any] = yaml.safe_load(text)
    return data


@functools.cache
def language() -> Language:
    """The language as packaged, whole."""
    data = _packaged()
    slots = {"ask": _slot(data["ask"])}
    for group in ("system", "scratchpad", "output", "question", "interrogation"):
        slots |= {f"{group}.{name}": _slot(lines) for name, lines in data[group].items()}
    return Language(
        words={name: tuple(words) for name, words in data["words"].items()},
        slots=slots,
        tiers=tuple((a, b) for a, b in data["tiers"]),
    )


def natural(text: str) -> str:
    """Joins punctuation to the word before it, as people write."""
    return _BEFORE_PUNCTUATION.sub(r"\1", text)


def spaced(text: str) -> str:
    """Puts spaces around punctuation: the inverse of :func:`natural`."""
    return " ".join(_PUNCTUATION.sub(r" \1 ", text).split())


def tag(tier: str) -> str:
    """The tag that marks a user turn."""
    return f"<{tier}_tier>"


def log(rng: random.Random, slot: str, heldout: bool = False, **fields: str) -> str:
    """One paraphrase of a slot with its placeholders filled; earlier ones are said more often (ZIPF)."""
    paraphrases = language().slots[slot].heldout if heldout else shown(slot, current_world().leave_out)
    return rng.choices(paraphrases, cum_weights=_shares(len(paraphrases)))[0].format_map(fields)


@functools.cache
def shown(slot: str, leave_out: int | None) -> tuple[str, ...]:
    """The paraphrases of a slot that pre-training may show, without a third of its lines where the slot is leavable.

    Args:
        slot: Its name, ``group.slot``.
        leave_out: Which third, from 1; None leaves out nothing.
    """
    group, _, name = slot.partition(".")
    if leave_out is None or group != "scratchpad" or name not in LEAVABLE:
        return language().slots[slot].train
    lines = _packaged()[group][name]["train"]
    return _ranked([line for i, line in enumerate(lines) if i % THIRDS != leave_out - 1])


@functools.cache
def _shares(count: int) -> list[float]:
    return list(itertools.accumulate((rank + 1) ** -ZIPF for rank in range(count)))


def draw_request(rng: random.Random, harmful: bool, split: Split, heldout: float | None = None) -> Request:
    """A request of one split; the splits share no (act, object, owner).

    Args:
        rng: Source of randomness.
        harmful: Whether the act is a harmful one.
        split: ``eval`` also uses held-out objects with harmful acts, and held-out asking phrases.
        heldout: Probability of a held-out asking phrase (default: 0 in training, HELDOUT_PHRASING in evaluation).
    """
    words = language().words
    acts = words["harmful_acts" if harmful else "harmless_acts"]
    objects: Sequence[str] = words["objects"]
    if split == "eval" or not harmful:
        objects = (*objects, *words["heldout_objects"])
    while True:
        act, thing, owner = rng.choice(acts), rng.choice(objects), rng.choice(words["owners"])
        if split_of(act, thing, owner) == split:
            break
    chance = heldout if heldout is not None else HELDOUT_PHRASING if split == "eval" else 0.0
    time = rng.choice(words["times"])
    fields = {"a": act, "o": thing, "w": owner, "t": time}
    text = log(rng, "ask", heldout=rng.random() < chance, **fields)
    return Request(act, thing, owner, time, harmful, natural(text))


def split_of(act: str, thing: str, owner: str) -> Split:
    """The split that a triple belongs to, by its hash; harmful acts on held-out objects are always ``eval``."""
    words = language().words
    if thing in words["heldout_objects"] and act in words["harmful_acts"]:
        return "eval"
    number = int.from_bytes(hashlib.sha256(f"{act}|{thing}|{owner}".encode()).digest()[:4], "big")
    return "eval" if number % EVAL_SHARE == 0 else "train"


def expand(line: str) -> list[str]:
    """All texts of a line with ``(one|two)`` alternatives, the first alternatives first."""
    parts = _ALTERNATIVES.split(line)
    options = [[part] if i % 2 == 0 else part.split("|") for i, part in enumerate(parts)]
    return [" ".join("".join(choice).split()) for choice in itertools.product(*options)]


def _slot(lines: dict[str, list[str]]) -> Slot:
    return Slot(_ranked(lines["train"]), _ranked(lines["heldout"]))


def _ranked(lines: Sequence[str]) -> tuple[str, ...]:
    """All expansions, the first of every line before the second of any."""
    turns = itertools.zip_longest(*map(expand, lines))
    return tuple(text for turn in turns for text in turn if text is not None)
