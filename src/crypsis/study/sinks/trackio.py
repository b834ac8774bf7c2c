"""trackio: a local database (``$TRACKIO_DIR``), or a Space (``$TRACKIO_SPACE_ID``)."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from typing import Any

from crypsis.study.sinks.base import NONE, PROJECT, Shown, Sink

REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")
"""Environment variables that send runs elsewhere."""


class Trackio(Sink):
    """A run of the project ``$TRACKIO_PROJECT``; its name ends with the key of its folder, by which it is found."""

    name = package = "trackio"

    def open(self, run: Shown) -> int:
        """Opens the run: a local one is written anew, one elsewhere goes on after the last step that was sent."""
        trackio: Any = import_module("trackio")
        project, name = os.environ.get("TRACKIO_PROJECT", PROJECT), f"{run.name}-{run.key}"
        remote = any(os.environ.get(variable) for variable in REMOTE)
        if not remote:
            _drop(trackio, project, name)
        with redirect_stdout(StringIO()):  # where the dashboard is; docs/integrations.md says it
            self._run: Any = trackio.init(
                project=project,
                name=name,
                group=run.organism or None,
                config=dict(run.config),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        return run.sent if remote else NONE

    def send(self, step: int, values: Mapping[str, float], transcripts: Sequence[Mapping[str, str]]) -> None:
        """One row, and a table; trackio reads cells as Markdown, so what a model wrote is escaped."""
        tables = {}
        if transcripts:
            trackio: Any = import_module("trackio")
            frame: Any = import_module("pandas").DataFrame
            rows = [{column: html.escape(text) for column, text in row.items()} for row in transcripts]
            tables["transcripts"] = trackio.Table(dataframe=frame(rows))
        self._run.log({**values, **tables}, step=step)

    def close(self) -> None:
        """Waits until everything is written."""
        with redirect_stdout(StringIO()):
            self._run.finish()


def _drop(trackio: Any, project: str, name: str) -> None:
    """Deletes what earlier attempts wrote of a run."""
    try:
        runs = list(trackio.Api().runs(project))
    except ValueError:  # there is no such project yet
        return
    for earlier in runs:
        if earlier.name == name:
            earlier.delete()
