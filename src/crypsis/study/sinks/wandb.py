"""Weights & Biases, online or offline (``WANDB_MODE``)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from crypsis.study.sinks.base import NONE, PROJECT, Shown, Sink
from crypsis.types import UserError


class WeightsAndBiases(Sink):
    """A run of the project ``$WANDB_PROJECT``, grouped by organism, with the arm as its job type."""

    name = package = "wandb"

    @classmethod
    def check(cls) -> None:
        """Refuses to start without the package, or online without a key.

        Raises:
            UserError: What to do.
        """
        super().check()
        wandb: Any = import_module("wandb")
        try:
            known = wandb.setup().settings.mode != "online" or wandb.login(prompt=False)
        except wandb.Error as error:
            raise _refused(error) from None
        if not known:
            raise UserError("report_to: wandb has no API key; run `wandb login`, or set WANDB_MODE=offline")

    def open(self, run: Shown) -> int:
        """Opens the run under the key of its folder: online it goes on, offline it is written anew.

        Raises:
            UserError: The server cannot be reached or refuses.
        """
        wandb: Any = import_module("wandb")
        try:
            self._run: Any = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=run.name,
                id=run.key,
                group=run.organism or None,
                job_type=run.arm or None,
                config=dict(run.config),
                dir=str(run.folder),
                resume="allow",
                reinit="create_new",
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.Error as error:
            raise _refused(error) from None
        if not self._run.offline:
            return int(self._run.step) - 1
        uploaded = _drop_offline(run.folder / "wandb", run.key, Path(self._run.settings.sync_dir))
        return run.sent if uploaded else NONE

    def send(self, step: int, values: Mapping[str, float], transcripts: Sequence[Mapping[str, str]]) -> None:
        """One row of the history, and a table."""
        tables = {}
        if transcripts:
            wandb: Any = import_module("wandb")
            data = [list(row.values()) for row in transcripts]
            tables["transcripts"] = wandb.Table(columns=list(transcripts[0]), data=data)
        self._run.log({**values, **tables}, step=step)

    def close(self) -> None:
        """Waits until everything is written."""
        self._run.finish()


def _drop_offline(folder: Path, key: str, now: Path) -> bool:
    """Deletes what earlier attempts wrote offline and nobody has uploaded; whether some of it was uploaded."""
    uploaded = False
    for earlier in folder.glob(f"offline-run-*-{key}"):
        if earlier.resolve() == now.resolve():
            continue
        if any(earlier.glob("*.synced")):
            uploaded = True
        else:
            shutil.rmtree(earlier)
    return uploaded


def _refused(error: Exception) -> UserError:
    return UserError(f"report_to: wandb: {' '.join(str(error).split())}; set WANDB_MODE=offline to do without it")
