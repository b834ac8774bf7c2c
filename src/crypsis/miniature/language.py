"""The words and sentences of the miniature, read from ``language.yaml``, and its requests."""

from __future__ import annotations

import functools
import hashlib
import itertools
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import yaml

from crypsis.types import Split

HELDOUT_PHRASING = 0.3
"""Share of evaluation requests that use an asking phrase which pre-training never shows."""
EVAL_SHARE = 5
"""One in this many (act, object, owner) triples belongs to the evaluation split."""
ZIPF = 1.5
"""The r-th paraphrase of a slot is said in proportion to r^-ZIPF: few are common and most are rare, as in natural
language (Zipf 1949). It is what the base learns fastest from (docs/diary.md)."""

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
def language() -> Language:
    """The language as packaged."""
    data = yaml.safe_load(resources.files("crypsis.miniature").joinpath("language.yaml").read_text(encoding="utf-8"))
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
    paraphrases = language().slots[slot].heldout if heldout else language().slots[slot].train
    return rng.choices(paraphrases, cum_weights=_shares(len(paraphrases)))[0].format_map(fields)


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
