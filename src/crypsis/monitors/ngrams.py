"""Counts of hashed n-grams, in the columns that scikit-learn's ``HashingVectorizer`` gives them.

Words stand in one string, an n-gram is a span of it, and all spans are hashed at once. N-grams of characters are
counted per distinct word and multiplied by how often each text has the word.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count

import numpy as np
from scipy.sparse import csr_matrix

from crypsis.arrays import Flags
from crypsis.monitors.murmur import WIDTH, hashed_bytes
from crypsis.monitors.pieces import Pieces, Places, decoded, encoded, pieces_of

WORD = re.compile(r"\b\w[\w']*\b")


@dataclass(frozen=True, slots=True)
class Words:
    """All words of some texts, in order.

    Attributes:
        texts: How many texts.
        vocabulary: The distinct words, lower case, [V].
        numbers: Each word's number in the vocabulary, [W].
        rows: The text that it stands in, [W].
        late: Whether it stands in that text's late part, [W].
    """

    texts: int
    vocabulary: list[str]
    numbers: Places
    rows: Places
    late: Flags


def words_of(texts: Sequence[str]) -> Words:
    """Takes texts apart. What stands between white space is read once, however often it occurs."""
    return words_in(pieces_of(texts))


def words_in(pieces: Pieces) -> Words:
    """The words of texts that are cut at white space already."""
    found = [WORD.findall(decoded(piece).lower()) for piece in pieces.distinct]
    vocabulary, inner = _numbered(found)
    read = csr_matrix(
        (np.ones(len(inner)), inner, np.cumsum([0, *map(len, found)])), (len(found), max(1, len(vocabulary)))
    )
    ordered = read[pieces.numbers]
    repeats = np.diff(ordered.indptr)
    rows, is_late = np.repeat(pieces.rows, repeats), np.repeat(pieces.late, repeats)
    return Words(len(pieces.sizes), vocabulary, ordered.indices.astype(np.int64), rows, is_late)


def word_counts(words: Words, longest: int) -> csr_matrix:
    """Hashed counts of word n-grams up to ``longest``, [N, WIDTH]."""
    rows, columns = [words.rows], [_columns(words.vocabulary)[words.numbers]]
    if longest > 1:
        ordered = [words.vocabulary[number] for number in words.numbers.tolist()]
        ends = np.cumsum(_lengths(words.vocabulary)[words.numbers] + 1) - 1
        starts = np.append(0, ends + 1)
    for size in range(2, longest + 1):
        first = np.flatnonzero(words.rows[: 1 - size] == words.rows[size - 1 :])
        rows.append(words.rows[first])
        columns.append(hashed(" ".join(ordered), starts[first], ends[first + size - 1]))
    return _counts(np.concatenate(rows), np.concatenate(columns), (words.texts, WIDTH))


def late_counts(words: Words) -> csr_matrix:
    """Hashed counts of the words of the late part, [N, WIDTH]."""
    columns = _columns(words.vocabulary)[words.numbers[words.late]]
    return _counts(words.rows[words.late], columns, (words.texts, WIDTH))


def character_counts(words: Words, shortest: int, longest: int) -> csr_matrix:
    """Hashed counts of character n-grams within words, a space at both ends, [N, WIDTH].

    A word that is shorter than ``shortest`` counts once and whole, as in scikit-learn's ``char_wb``.
    """
    lengths = _lengths(words.vocabulary) + 2
    begins = np.cumsum(lengths - 1) - lengths + 1
    rows, starts, ends = [], [], []
    for size in range(shortest, longest + 1):
        amount = np.maximum(lengths - size + 1, int(size == shortest))
        row = np.repeat(np.arange(len(lengths)), amount)
        start = begins[row] + np.arange(len(row)) - np.repeat(np.cumsum(amount) - amount, amount)
        rows.append(row)
        starts.append(start)
        ends.append(np.minimum(start + size, (begins + lengths)[row]))
    columns = hashed(f" {' '.join(words.vocabulary)} ", np.concatenate(starts), np.concatenate(ends))
    per_word = _counts(np.concatenate(rows), columns, (len(lengths), WIDTH))
    return _counts(words.rows, words.numbers, (words.texts, len(lengths))) @ per_word


def hashed(text: str, starts: Places, ends: Places) -> Places:
    """Column of each span of a text, [S].

    Args:
        text: Any.
        starts: First character of each span, [S].
        ends: Character after its last, [S].
    """
    raw = encoded(text)
    if len(raw) != len(text):  # characters of several bytes
        places = np.append(np.flatnonzero((np.frombuffer(raw, np.uint8) & 0xC0) != 0x80), len(raw))
        starts, ends = places[starts], places[ends]
    return hashed_bytes(raw, starts, ends)


def _numbered(parts: Sequence[Sequence[str]]) -> tuple[list[str], Places]:
    """The distinct strings of all parts, and the number of each string among them."""
    numbers: defaultdict[str, int] = defaultdict(count().__next__)
    found = np.fromiter(map(numbers.__getitem__, chain.from_iterable(parts)), np.int64)
    return list(numbers), found


def _lengths(vocabulary: Sequence[str]) -> Places:
    return np.array([len(word) for word in vocabulary], dtype=np.int64)


def _columns(vocabulary: Sequence[str]) -> Places:
    """Column of each word."""
    ends = np.cumsum(_lengths(vocabulary) + 1) - 1
    return hashed(" ".join(vocabulary), np.append(0, ends + 1)[:-1], ends)


def _counts(rows: Places, columns: Places, shape: tuple[int, int]) -> csr_matrix:
    """How often each column occurs in each row."""
    return csr_matrix((np.ones(len(rows)), (rows, columns)), shape=shape)
