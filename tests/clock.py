"""Limits on time that hold on slow and busy machines: in units of a fixed piece of work that is done beside them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

IDLE = 0.065
"""CPU seconds that the yardstick takes on an idle machine of the kind for which the limits were set."""


def yardstick() -> float:
    """CPU seconds of a fixed piece of work: loops, text and memory, as the code under test has them."""
    started = time.process_time()
    words = [f"word{i * 7919 % 4001}" for i in range(60_000)]
    counts: dict[str, int] = {}
    for word in words:
        counts[word] = counts.get(word, 0) + len(word)
    text = " ".join(words)
    assert len(re.findall(r"[a-z]+\d+", text)) == len(words) and sum(counts.values()) > 0
    sorted(words)
    return time.process_time() - started


def of_children() -> float:
    """CPU seconds of the child processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


@contextmanager
def cpu_limit(seconds: float, clock: Callable[[], float] = time.process_time) -> Iterator[None]:
    """Fails if the block spends more CPU seconds, as on an idle machine; slower ones are given more."""
    before = yardstick()
    started = clock()
    yield
    took = clock() - started
    slowness = max(1.0, before / IDLE, yardstick() / IDLE)
    assert took < seconds * slowness, f"took {took:.2f} CPU seconds, more than {seconds} × {slowness:.1f}"
