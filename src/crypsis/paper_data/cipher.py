"""The protection of the released replies: a canary block, then base64 of the text XORed with a repeating key.

It keeps the text out of pre-training corpora, not secret. Its terms of use: nothing that was decrypted is written
anywhere unless the user asks for it by name, and then with the canary. Errors here never carry text.
"""

from __future__ import annotations

import binascii
import functools
import re
from base64 import b64encode
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

try:  # several times as fast as the standard library's
    from pybase64 import b64decode
except ImportError:
    from base64 import b64decode  # type: ignore[assignment]

KEY = "MO_transcripts_should_not_appear_in_pretraining_corpora"
"""The key that the authors publish with the data."""
CANARY = re.compile(r"\s*<canary>(?P<canary>.*?)</canary>\s*", re.DOTALL)
CONTROLS, SPACES = 0.02, 0.04
"""Share of control characters from which a result is no text, and of spaces below which ASCII without tags is none.

ASCII XORed with a wrong key is valid UTF-8 too: with a key of capitals about one character in two is then a control
character, with a key of small letters, as ours, every space turns into something else. English has a space in six
characters; other scripts are not ASCII and are let through.
"""
TAGS = (b"<SCRATCHPAD_REASONING>", b"<OUTPUT>")
"""Whoever has one of these was decrypted with the right key."""
SHORTEST = 40
"""Characters without which the share of spaces says nothing."""

Bytes = NDArray[np.uint8]


class UndecryptableError(Exception):
    """Why a reply cannot be decrypted; the message holds no part of it."""


@dataclass(frozen=True, slots=True)
class Decrypted:
    """A reply in memory.

    Attributes:
        canary: What stands in the canary block; empty where there is none.
        text: The reply.
    """

    canary: str
    text: str


def decrypt(stored: str | None, key: str = KEY) -> Decrypted:
    """Decrypts one reply in memory.

    Raises:
        UndecryptableError: It is null or empty, is no base64, or does not give text with this key.
    """
    if not stored:
        raise UndecryptableError("no response")
    head = CANARY.match(stored)
    body = stored[head.end() :] if head else stored
    try:
        raw = np.frombuffer(b64decode(body.strip(), validate=True), dtype=np.uint8)
    except (binascii.Error, ValueError):
        raise UndecryptableError("corrupt base64" if head else "no canary block and no base64") from None
    if not len(raw):
        raise UndecryptableError("nothing after the canary block" if head else "no response")
    plain = _xor(raw, key)
    whole = plain.tobytes()
    if not any(tag in whole for tag in TAGS) and not _looks_like_text(plain):
        raise UndecryptableError("no text after decryption (another key?)")
    try:
        text = whole.decode("utf-8")
    except UnicodeDecodeError:
        raise UndecryptableError("no UTF-8 after decryption (another key?)") from None
    return Decrypted(head["canary"].strip() if head else "", text)


def encrypt(text: str, canary: str, key: str = KEY) -> str:
    """Protects a text as the release does; ``decrypt`` is its inverse."""
    raw = _xor(np.frombuffer(text.encode("utf-8"), dtype=np.uint8), key)
    return f"<canary>{canary}</canary>\n{b64encode(raw.tobytes()).decode('ascii')}"


def _looks_like_text(plain: Bytes) -> bool:
    control = np.count_nonzero((plain < 32) & (plain != 10) & (plain != 9) & (plain != 13))
    if control > CONTROLS * len(plain):
        return False
    ascii_only = len(plain) >= SHORTEST and int(plain.max()) < 128
    return not ascii_only or bool(np.count_nonzero((plain == 32) | (plain == 10)) >= SPACES * len(plain))


def _xor(raw: Bytes, key: str) -> Bytes:
    # A power of two leaves few lengths of the repeated key to keep.
    stream = _stream(key, 1 << max(12, (len(raw) - 1).bit_length()))
    mixed: Bytes = raw ^ stream[: len(raw)]
    return mixed


@functools.lru_cache(maxsize=16)
def _stream(key: str, length: int) -> Bytes:
    """The key repeated to a length."""
    one = np.frombuffer(key.encode("utf-8"), dtype=np.uint8)
    return np.tile(one, -(-length // len(one)))[:length]
