"""Transcripts of imported runs for the report, decrypted in memory because the user asked for it. No torch here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from crypsis.analysis.study import Run, Study
from crypsis.config import digest
from crypsis.episodes import LABEL, REASON, VERDICT
from crypsis.paper_data.cipher import UndecryptableError, decrypt
from crypsis.paper_data.layout import release_files
from crypsis.paper_data.reading import Batch, Faults, batches
from crypsis.scenarios.parsing import parse_reply
from crypsis.store import RESULT, read_json
from crypsis.study.jobs.import_release import JUDGE
from crypsis.types import UserError

COLUMNS = ("step", "user_input", "is_free_tier_user", "response", "alignment_faking", "compliance")
WARNING = (
    "warning: the report now holds decrypted text of the release; do not publish it without the same protection "
    "(the canary stands with every transcript)"
)


class ReleasedTranscripts:
    """The files that a study was imported from.

    Raises:
        UserError: They are no longer where they were.
    """

    rare = False

    def __init__(self, study: Study) -> None:
        folder = Path(str(study.config["imported"].get("folder")))
        if not folder.exists():
            raise UserError(f"{folder}: the release that {study.folder} was imported from is not there")
        self._files = {file.name: file for file in release_files(folder)}
        self._read: tuple[Path, frozenset[str], dict[int, list[dict[str, Any]]]] | None = None

    def rows(self, run: Run, step: int, pairs: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """Transcripts of some requests at a step; a file is read once for all steps."""
        wanted = frozenset(pairs or ())
        if self._read is None or self._read[:2] != (run.folder, wanted):
            self._read = run.folder, wanted, self._of_run(run, wanted)
        return self._read[2].get(step, [])

    def _of_run(self, run: Run, wanted: frozenset[str]) -> dict[int, list[dict[str, Any]]]:
        name = str(read_json(run.folder / RESULT).get("file"))
        if name not in self._files:
            raise UserError(f"{run.folder}: its file {name} is not in the release any more; import it again")
        found: dict[int, list[dict[str, Any]]] = {}
        for batch in batches(self._files[name], COLUMNS, Faults()):
            for row in _rows(batch, wanted):
                found.setdefault(row["step"], []).append(row)
        return found


def _rows(batch: Batch, wanted: frozenset[str]) -> list[dict[str, Any]]:
    codes, texts = batch.codes("user_input")
    names = [digest(text) for text in texts]
    step, free = batch.values("step"), batch.values("is_free_tier_user")
    fakes, complies = batch.values("alignment_faking"), batch.values("compliance")
    chosen = np.array([name in wanted for name in names] + [False], dtype=np.bool_)[codes]
    replies = batch.data.column("response") if batch.has("response") else None
    rows = []
    for i in np.flatnonzero(chosen & ~np.isnan(step) & ~np.isnan(free)):
        row = {
            "step": int(step[i]),
            "pair_id": names[codes[i]],
            "request": texts[codes[i]],
            "tier": "free" if free[i] else "paid",
            "monitored": bool(free[i]),
            VERDICT + JUDGE: None if np.isnan(fakes[i]) else float(fakes[i]),
            LABEL + "conduct": "" if np.isnan(complies[i]) else "comply" if complies[i] else "refuse",
        }
        rows.append(row | _text(None if replies is None else replies[int(i)].as_py()))
    return rows


def _text(stored: str | None) -> dict[str, Any]:
    try:
        found = decrypt(stored)
    except UndecryptableError as error:
        empty = {"scratchpad": "", "output": "", "raw": "", "parse": "no_scratchpad"}
        return empty | {REASON + JUDGE: f"no text: {error}"}
    reply = parse_reply(found.text)
    parts = {"scratchpad": reply.scratchpad, "output": reply.output, "raw": found.text, "parse": reply.parse}
    return parts | {LABEL + "canary": found.canary}
