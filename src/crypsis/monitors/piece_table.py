"""What a trained text monitor needs to know of each piece of text, worked out once and kept from text to text.

A piece is what stands between white space. Its n-grams within the columns that the monitor weighs, its words, and the
ideas that it may begin depend on it alone, so texts are scored by counting pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from crypsis.arrays import Floats
from crypsis.monitors.grown import Grown
from crypsis.monitors.lexicon import TOGETHER, begins_idea, idea_features, ideas_in, lexicon, lexicon_features
from crypsis.monitors.ngrams import Words, words_of
from crypsis.monitors.pieces import Pieces, Places, decoded
from crypsis.monitors.word_table import WordTable

WORDS, FIRST, ENDS, SHORT, BEGINS = range(5)
"""Facts of a piece: how many words it has, and the place of the first among the words of all pieces; whether it ends
a sentence, is too short for one, may begin an idea."""
Counter = Callable[[Words], csr_matrix]
"""From words to the counts of their n-grams, [N, WIDTH]."""


class PieceTable:
    """Pieces by number, each with its counts in the columns in use.

    Args:
        counters: Counts n-grams, keyed by block.
        used: The columns that matter, keyed by block.
    """

    def __init__(self, counters: Mapping[str, Counter], used: Mapping[str, Places]) -> None:
        self._counters, self._used = counters, used
        self._numbers: dict[bytes, int] = {}
        self._counts = {block: _Rows(len(columns)) for block, columns in used.items()}
        self._facts = Grown(np.int32, 5)
        self._words = Grown(np.int32)  # of all pieces, one after the other
        self._vocabulary = WordTable()

    def __len__(self) -> int:
        return len(self._numbers)

    def numbers_of(self, pieces: Sequence[bytes]) -> Places:
        """The number of each piece; unknown ones are read and added."""
        known = self._numbers
        new = sorted(set(pieces).difference(known))
        if new:
            known.update(zip(new, range(len(known), len(known) + len(new)), strict=True))
            self._read(new)
        return np.fromiter(map(known.__getitem__, pieces), np.int64, len(pieces))

    def counts(self, block: str, pieces: Places, sizes: Places) -> csr_matrix:
        """Counts of a block's columns in use, [N, used].

        Args:
            block: Its name.
            pieces: Numbers of the pieces of all texts, in order, [P].
            sizes: Pieces of each text, [N].
        """
        ends = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
        held = csr_matrix((np.ones(len(pieces), np.int32), pieces.astype(np.int32), ends), (len(sizes), len(self)))
        return held @ self._counts[block].matrix()

    def word_columns(self, pieces: Places, rows: Places) -> tuple[Places, Places]:
        """Rows and columns of all single words and pairs of neighbours, each as often as it occurs.

        Args:
            pieces: Numbers of the pieces of all texts, in order, [P].
            rows: The text of each, [P].
        """
        sizes = self._fact(pieces, WORDS)
        before = np.cumsum(sizes) - sizes
        inner = np.repeat(self._fact(pieces, FIRST) - before, sizes) + np.arange(int(sizes.sum()))
        words, rows = self._words.rows()[inner], np.repeat(rows, sizes)
        first = np.flatnonzero(rows[:-1] == rows[1:])
        pairs = self._vocabulary.pair_columns(words[first], words[first + 1])
        return np.append(rows, rows[first]), np.append(self._vocabulary.columns(words), pairs)

    def ideas(self, texts: Sequence[str], pieces: Pieces, numbers: Places) -> Floats:
        """``lexicon_features`` of texts that are cut into pieces, and whose tags are gone.

        Args:
            texts: The texts, [N].
            pieces: Their pieces.
            numbers: The number of each piece in this table, [P].
        """
        last = np.zeros(len(numbers), np.bool_)
        last[np.cumsum(pieces.sizes[pieces.sizes > 0]) - 1] = True
        ends = np.flatnonzero(last | (self._fact(numbers, ENDS) > 0))
        begins = np.append(0, ends + 1)[:-1]
        kept = (begins < ends) | (self._fact(numbers[ends], SHORT) == 0)
        sizes = np.bincount(pieces.rows[ends[kept]], minlength=len(texts))
        some = np.add.reduceat(self._fact(numbers, BEGINS), begins) if len(begins) else begins
        counts = np.zeros((int(kept.sum()), len(lexicon())))
        first, following = begins[kept], ends[kept] + 1
        for place in np.flatnonzero(some[kept] > 0).tolist():
            begin, end = pieces.starts[first[place]], pieces.starts[following[place]]
            counts[place] = ideas_in(decoded(pieces.raw[begin:end]).strip())
        found = np.empty((len(texts), 3 * len(lexicon()) + len(TOGETHER)))
        usual = sizes > 0
        found[usual] = idea_features(counts, sizes[usual], pieces.sizes[usual])
        found[~usual] = lexicon_features(
            [texts[i] for i in np.flatnonzero(~usual).tolist()]
        )  # a text of one short sentence
        return found

    def _fact(self, pieces: Places, which: int) -> NDArray[np.int32]:
        facts: NDArray[np.int32] = self._facts.rows()[pieces, which]
        return facts

    def _read(self, new: Sequence[bytes]) -> None:
        texts = [decoded(piece) for piece in new]
        words = words_of([text.strip() for text in texts])
        for block, counter in self._counters.items():
            self._counts[block].add(counter(words)[:, self._used[block]])
        facts = np.array([_facts(text) for text in texts], np.int32)
        facts[:, WORDS] = np.bincount(words.rows, minlength=len(new))
        facts[:, FIRST] = len(self._words.rows()) + np.cumsum(facts[:, WORDS]) - facts[:, WORDS]
        self._facts.add(facts)
        self._words.add(self._vocabulary.numbers_of(words.vocabulary)[words.numbers])


def _facts(text: str) -> tuple[int, int, bool, bool, bool]:
    piece = text.rstrip()
    after = text[len(piece) :]
    return 0, 0, piece[-1] in ".!?" or "\n" in after, len(piece) <= 2, begins_idea(piece.lower())


class _Rows:
    """A sparse matrix of counts to which rows are added."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._data, self._indices, self._ends = Grown(np.int32), Grown(np.int32), Grown(np.int32)
        self._ends.add(np.zeros(1, np.int32))

    def add(self, rows: csr_matrix) -> None:
        """Appends rows of the same width."""
        self._ends.add(rows.indptr[1:] + self._ends.rows()[-1])
        self._indices.add(rows.indices)
        self._data.add(rows.data)

    def matrix(self) -> csr_matrix:
        """All rows, without a copy."""
        ends = self._ends.rows()
        return csr_matrix((self._data.rows(), self._indices.rows(), ends), (len(ends) - 1, self._width), copy=False)
