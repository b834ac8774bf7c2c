"""Words by number, with the columns that they and their pairs are hashed into."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crypsis.monitors.grown import Grown
from crypsis.monitors.murmur import blocks_of, column_of, hashed_bytes, masked, mixed, stirred
from crypsis.monitors.pieces import Places, encoded

SPACE = 0x20


class WordTable:
    """Words seen so far, each with a number.

    A pair of words is hashed without being written out: what MurmurHash3 has computed at the end of the first word's
    whole blocks is kept with the word.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._raw = Grown(np.uint8)
        self._starts, self._sizes, self._columns = Grown(np.int32), Grown(np.int32), Grown(np.int32)
        self._states, self._tails = Grown(np.uint32), Grown(np.uint32)
        self._blocks: NDArray[np.uint32] = np.zeros(1, np.uint32)

    def numbers_of(self, words: Sequence[str]) -> NDArray[np.int32]:
        """The number of each of some distinct words, [V]; unknown ones are added."""
        known = self._numbers
        new = [word for word in words if word not in known]
        if new:
            known.update(zip(new, range(len(known), len(known) + len(new)), strict=True))
            self._read([encoded(word) for word in new])
        return np.fromiter(map(known.__getitem__, words), np.int32, len(words))

    def columns(self, words: NDArray[np.int32]) -> Places:
        """The column of each word, [W]."""
        return self._columns.rows()[words].astype(np.int64)

    def pair_columns(self, first: NDArray[np.int32], second: NDArray[np.int32]) -> Places:
        """The column of each pair of words with a space between them.

        Args:
            first: Numbers of the first words, [pairs].
            second: Numbers of the second words, [pairs].
        """
        states, tails = self._states.rows()[first], self._tails.rows()[first]
        starts, sizes, before = self._starts.rows()[second], self._sizes.rows()[second], self._sizes.rows()[first]
        held = before % 4 + 1  # bytes of the first word and of the space in the block where the words meet
        meeting = tails | (self._blocks[starts].astype(np.uint64) << (8 * held).astype(np.uint64)).astype(np.uint32)
        left = sizes - (4 - held)  # bytes of the second word after that block
        whole = left >= 0
        states = np.where(whole, stirred(states, meeting), states)
        starts, rest = starts + (4 - held), np.maximum(left, 0)
        for done in range(0, int(rest.max(initial=0)) - 3, 4):
            on = np.flatnonzero(rest >= done + 4)
            states[on] = stirred(states[on], self._blocks[starts[on] + done])
        ends = np.where(whole, self._blocks[np.where(whole, starts + rest - rest % 4, 0)], meeting)
        states ^= mixed(masked(ends, np.where(whole, rest % 4, held + sizes)))
        return column_of(states, before + 1 + sizes)

    def _read(self, new: Sequence[bytes]) -> None:
        sizes = np.array([len(word) for word in new], np.int32)
        ends = np.cumsum(sizes, dtype=np.int64)
        raw = b"".join(new)
        begun = len(self._raw.rows())
        self._raw.add(np.frombuffer(raw, np.uint8))
        self._starts.add((begun + ends - sizes).astype(np.int32))
        self._sizes.add(sizes)
        self._columns.add(hashed_bytes(raw, ends - sizes, ends).astype(np.int32))
        self._blocks = blocks_of(self._raw.rows().tobytes())
        self._add_states(begun + ends - sizes, sizes)

    def _add_states(self, starts: Places, sizes: NDArray[np.int32]) -> None:
        """After the whole blocks of each word; and what is left of it, with the space."""
        states = np.zeros(len(starts), np.uint32)
        for done in range(4, int(sizes.max(initial=0)) + 1, 4):
            on = np.flatnonzero(sizes >= done)
            states[on] = stirred(states[on], self._blocks[starts[on] + done - 4])
        rest = sizes % 4
        space = np.uint32(SPACE) << (8 * rest).astype(np.uint32)
        self._states.add(states)
        self._tails.add(masked(self._blocks[starts + sizes - rest], rest) | space)
