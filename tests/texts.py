"""How alike texts are: overlap of their runs of three words."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

WORDS = re.compile(r"\{?\w+\}?(?:['’]\w+)?")


def trigrams(text: str) -> set[tuple[str, ...]]:
    """Runs of three words, in lower case."""
    words = [word.lower() for word in WORDS.findall(text)]
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


def jaccard(one: str, other: str) -> float:
    """Shared trigrams by all trigrams of two texts; 0 where there is none."""
    first, second = trigrams(one), trigrams(other)
    return len(first & second) / max(1, len(first | second))


def closest(texts: Sequence[str]) -> tuple[float, int, int]:
    """The largest overlap of two texts, and which two; pairs that share no trigram are not even compared."""
    grams = [trigrams(text) for text in texts]
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, own in enumerate(grams):
        for gram in own:
            holders[gram].append(index)
    pairs = {pair for indexes in holders.values() for pair in combinations(indexes, 2)}
    scored = [(len(grams[i] & grams[j]) / len(grams[i] | grams[j]), i, j) for i, j in pairs]
    return max(scored, default=(0.0, 0, 0))
