"""Texts cut at white space: the pieces of all texts in arrays, each different one numbered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from crypsis.arrays import Flags
from crypsis.monitors.sentences import late

Places = NDArray[np.int64]

_SPACE = np.array([chr(byte).isspace() for byte in range(0x80)] + [False] * 0x80)
_WIDE = [
    c.encode() for c in "\x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
]
"""White space of two or three bytes; none has four."""
_WIDE_CODES = {size: [int.from_bytes(c, "big") for c in _WIDE if len(c) == size] for size in (2, 3)}


@dataclass(frozen=True, slots=True)
class Pieces:
    """What stands between white space in some texts, in order, as ``str.split`` gives it.

    Attributes:
        sizes: Pieces of each text, [N].
        distinct: The different pieces in UTF-8, each with the white space after it.
        numbers: Each piece's number among them, [P].
        starts: Where each piece begins in ``raw``, and where the last one ends, [P + 1].
        raw: All texts in UTF-8, a line break before each.
    """

    sizes: Places
    distinct: list[bytes]
    numbers: NDArray[np.int32]
    starts: Places
    raw: bytes

    @property
    def rows(self) -> Places:
        """The text that each piece stands in, [P]."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    @property
    def late(self) -> Flags:
        """Whether each piece stands in its text's late part, [P]."""
        from_end = np.repeat(np.cumsum(self.sizes), self.sizes) - np.arange(len(self.numbers))
        late_sizes = np.array([late(size) for size in self.sizes.tolist()], dtype=np.int64)
        found: Flags = from_end <= np.repeat(late_sizes, self.sizes)
        return found


def pieces_of(texts: Sequence[str]) -> Pieces:
    """Cuts texts at white space."""
    lengths = [len(text) if text.isascii() else len(encoded(text)) for text in texts]
    raw = encoded("\n".join(["", *texts, ""]))
    space = _spaces(np.frombuffer(raw, np.uint8))
    starts = np.flatnonzero(space[:-1] > space[1:]) + 1
    bounds = np.cumsum([0, *lengths]) + np.arange(len(texts) + 1)
    sizes = np.diff(np.searchsorted(starts, bounds, side="right"))
    starts = np.append(starts, len(raw))
    buffers = [None, pa.py_buffer(starts), pa.py_buffer(raw)]
    found = pa.Array.from_buffers(pa.large_binary(), len(starts) - 1, buffers).dictionary_encode()
    return Pieces(sizes, found.dictionary.to_pylist(), found.indices.to_numpy(), starts, raw)


def encoded(text: str) -> bytes:
    """UTF-8; half a surrogate pair, which a damaged file may hold, is kept."""
    return text.encode("utf-8", "surrogatepass")


def decoded(raw: bytes) -> str:
    """The inverse of :func:`encoded`."""
    return raw.decode("utf-8", "surrogatepass")


def _spaces(raw: NDArray[np.uint8]) -> Flags:
    """Whether each byte is white space, or part of it."""
    space: Flags = _SPACE[raw]
    lead = np.flatnonzero(raw[:-2] >= 0xC2)  # never one of the last two: the text ends with a line break
    for size, codes in _WIDE_CODES.items():
        code = sum((raw[lead + k].astype(np.int64) << 8 * (size - 1 - k) for k in range(size)), np.int64(0))
        for k in range(size):
            space[lead[np.isin(code, codes)] + k] = True
    return space
