"""Wall-clock seconds by phase."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class PhaseTimer:
    """Adds up wall-clock seconds by phase name.

    On a GPU the numbers are those of the launching thread: kernels run asynchronously, so a phase that reads a result
    back also pays for the work queued before it.

    Attributes:
        seconds: Accumulated wall-clock seconds of each phase, in the order in which phases were first entered.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Counts the body of a ``with`` statement towards ``phase``, also when it raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start
