"""MurmurHash3 of many spans of bytes at once: the columns of scikit-learn's ``HashingVectorizer``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crypsis.monitors.pieces import Places

WIDTH = 1 << 18
"""Columns that n-grams are hashed into: n-grams need no vocabulary, so each text is represented by itself."""

Words32 = NDArray[np.uint32]


def hashed_bytes(raw: bytes, starts: Places, ends: Places) -> Places:
    """Column of each span of bytes: MurmurHash3 (Appleby, x86, 32 bits, seed 0), its absolute value modulo ``WIDTH``.

    Args:
        raw: UTF-8.
        starts: First byte of each span, [S].
        ends: Byte after its last, [S].
    """
    blocks, sizes = blocks_of(raw), ends - starts
    states = np.zeros(len(starts), np.uint32)
    for done in range(4, int(sizes.max(initial=0)) + 1, 4):
        on = np.flatnonzero(sizes >= done)
        states[on] = stirred(states[on], blocks[starts[on] + done - 4])
    states ^= mixed(masked(blocks[ends - sizes % 4], sizes % 4))
    return column_of(states, sizes)


def blocks_of(raw: bytes) -> Words32:
    """The four bytes from each place on, as a little-endian number, [at least the bytes and one]."""
    whole = len(raw) // 4 + 1
    padded = raw + bytes(4 * whole + 8 - len(raw))
    blocks = np.empty((whole, 4), np.uint32)
    for shift in range(4):
        blocks[:, shift] = np.frombuffer(padded, "<u4", whole, shift)
    return blocks.ravel()


def stirred(states: Words32, blocks: Words32) -> Words32:
    """States after a whole block each."""
    return _rotated(states ^ mixed(blocks), 13) * np.uint32(5) + np.uint32(0xE6546B64)


def mixed(blocks: Words32) -> Words32:
    """Blocks as they enter the state."""
    return _rotated(blocks * np.uint32(0xCC9E2D51), 15) * np.uint32(0x1B873593)


def masked(blocks: Words32, sizes: NDArray[np.integer]) -> Words32:
    """The first bytes of each block, of which there are 0 to 3."""
    kept: Words32 = np.array([0, 0xFF, 0xFFFF, 0xFFFFFF], np.uint32)[sizes]
    return blocks & kept


def column_of(states: Words32, sizes: NDArray[np.integer]) -> Places:
    """The column of spans of so many bytes, from the state after all of them."""
    found = states ^ sizes.astype(np.uint32)
    found = (found ^ (found >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    found = (found ^ (found >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    found ^= found >> np.uint32(16)
    return np.abs(found.view(np.int32).astype(np.int64)) % WIDTH


def _rotated(values: Words32, bits: int) -> Words32:
    return (values << np.uint32(bits)) | (values >> np.uint32(32 - bits))
