"""Progress bars of long work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from crypsis.types import visible

if TYPE_CHECKING:
    from crypsis.supervised import Progress as SupervisedProgress


LOG_SECONDS = 60.0
"""How often a line is written where no bar can be drawn: a log file, a pipe, a batch job."""


class Display:
    """Draws progress to a console; each phase leaves one finished bar behind.

    A console that is no terminal gets one line per minute instead, because rich shows only finished bars there.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def supervised(self, title: str) -> Iterator[Callable[[SupervisedProgress], None]]:
        """A bar with loss, tokens per second and time left."""
        with self._progress() as progress:
            task = progress.add_task(visible(title), total=None, note="ready")
            log = self._log(title)

            def on_step(now: SupervisedProgress) -> None:
                note = f"loss {now.loss:.3f} · {now.tokens_per_second:,.0f} tokens/s"
                progress.update(task, total=now.steps, completed=now.step, note=note)
                log(f"step {now.step} of {now.steps} · {note}")

            yield on_step
            progress.update(task, total=1, completed=1)

    @contextmanager
    def counted(self, title: str, total: int, unit: str = "steps") -> Iterator[Callable[[int], None]]:
        """A bar that is told how many are done."""
        with self._progress() as progress:
            task = progress.add_task(visible(title), total=total, note="")
            log = self._log(title)

            def show(done: int) -> None:
                note = f"{done} of {total} {unit}"
                progress.update(task, completed=done, note=note)
                log(note)

            yield show

    def _log(self, title: str) -> Callable[[str], None]:
        """Writes a line with the time that has passed, at most one in ``LOG_SECONDS``; nothing on a terminal."""
        started = last_line = time.monotonic()

        def log(note: str) -> None:
            """Writes the note if the last line is old enough."""
            nonlocal last_line
            now = time.monotonic()
            if not self.console.is_terminal and now - last_line >= LOG_SECONDS:
                last_line = now
                passed = timedelta(seconds=int(now - started))
                self.console.print(f"{visible(title)}: {note}, {passed}", markup=False, highlight=False)

        return log

    def _progress(self) -> Progress:
        return Progress(
            TextColumn("{task.description:<18}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
        )
