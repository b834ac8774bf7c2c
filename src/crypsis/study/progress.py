"""Progress bars of long work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from crypsis.types import visible

if TYPE_CHECKING:
    from crypsis.supervised import Progress as SupervisedProgress


class Display:
    """Draws progress to a console; each phase leaves one finished bar behind."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def supervised(self, title: str) -> Iterator[Callable[[SupervisedProgress], None]]:
        """A bar with loss, tokens per second and time left."""
        with self._progress() as progress:
            task = progress.add_task(visible(title), total=None, note="ready")

            def on_step(now: SupervisedProgress) -> None:
                note = f"loss {now.loss:.3f} · {now.tokens_per_second:,.0f} tokens/s"
                progress.update(task, total=now.steps, completed=now.step, note=note)

            yield on_step
            progress.update(task, total=1, completed=1)

    @contextmanager
    def counted(self, title: str, total: int, unit: str = "steps") -> Iterator[Callable[[int], None]]:
        """A bar that is told how many are done."""
        with self._progress() as progress:
            task = progress.add_task(visible(title), total=total, note="")

            def show(done: int) -> None:
                progress.update(task, completed=done, note=f"{done} of {total} {unit}")

            yield show

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
