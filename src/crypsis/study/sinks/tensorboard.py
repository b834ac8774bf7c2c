"""TensorBoard: event files in ``RUN/tensorboard``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crypsis.study.sinks.base import NONE, Shown, Sink


class TensorBoard(Sink):
    """Event files; those of an earlier attempt are replaced, so that no step is there twice."""

    name = package = "tensorboard"

    def open(self, run: Shown) -> int:
        """Starts a new event file with the steps from the first on."""
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder / "tensorboard"
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer: Any = SummaryWriter(log_dir=str(folder))
        return NONE

    def send(self, step: int, values: Mapping[str, float], transcripts: Sequence[Mapping[str, str]]) -> None:
        """Scalars, and the transcripts as one text."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        if transcripts:
            self._writer.add_text("transcripts", "\n\n".join(map(_markdown, transcripts)), step)
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()


def _markdown(row: Mapping[str, str]) -> str:
    """A transcript whose texts are indented, so that Markdown shows them as they are."""
    parts = []
    for column, text in row.items():
        lines = text.splitlines() or [""]
        parts.append(f"**{column}**\n\n" + "\n".join(f"    {line}" for line in lines))
    return "\n\n".join([*parts, "---"])
