"""``crypsis monitor transfer --data``: monitors trained on each released organism and tested on all. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from crypsis.config import Config, parse_config
from crypsis.locks import locked
from crypsis.monitors.data import DataOptions, Labelled, load_labelled
from crypsis.monitors.ensemble import make_trainer
from crypsis.monitors.transfer import transfer_matrix
from crypsis.paper_data.layout import release_files
from crypsis.paper_data.reading import Faults, batches
from crypsis.store import RESULT, Exists, prepare_folder, write_json
from crypsis.transcripts.base import Only
from crypsis.types import UserError, View

TRANSFER = "transfer.json"


class ReleaseTransferConfig(Config):
    """What is trained and tested on what."""

    data: str
    data_digest: str
    organisms: list[str] = []
    """The release's names of organisms; all if empty."""
    monitor: dict[str, Any] = {"name": "text"}
    view: View = "scratchpad"
    intervention: list[str] = []
    step: list[int] = []
    tier: str | None = None
    share: float = 1.0
    seed: int = 23


def measure_release_transfer(
    data: Path,
    config: ReleaseTransferConfig,
    out: Path,
    exists: Exists,
    on_cell: Callable[[int], None] = lambda _: None,
) -> Path:
    """Writes ``transfer.json``: monitors learn from half of the requests and are tested on the other half.

    There are no aligned controls in the release. Organisms of which nothing fits, or a single class, are told apart.

    Raises:
        UserError: Fewer than two organisms are left.
    """
    names = config.organisms or released_organisms(data)
    trainer = make_trainer(config.monitor, "--kind")
    with locked(out):
        if prepare_folder(out, config, exists):
            return out
        found: dict[str, Labelled] = {}
        notes: list[str] = []
        for name in names:
            try:
                found[name] = _labelled(data, name, config)
            except UserError as error:
                notes.append(f"{name} takes no part: {error}")
        if len(found) < 2:
            raise UserError(f"{data}: a matrix needs two organisms; {'; '.join(notes) or 'there is one'}")
        first = next(iter(found.values()))
        controls = first.rows(np.zeros(len(first.labels), np.bool_))
        cells = transfer_matrix(trainer, found, controls, config.view, config.seed, on_cell)
        shares = {name: float(one.labels.mean()) for name, one in found.items()}
        told = list(dict.fromkeys([*notes, "no aligned controls: the release has none", *_notes(found)]))
        result = {"cells": [asdict(cell) for cell in cells], "share_faking": shares, "controls": 0, "notes": told}
        write_json(out / TRANSFER, result)
        write_json(out / RESULT, {"verb": "transfer"})
    return out


def released_organisms(data: Path) -> list[str]:
    """Names in the column ``initialised_from``, in the order of files."""
    found: dict[str, None] = {}
    for file in release_files(data):
        for batch in batches(file, ("initialised_from",), Faults()):
            found |= dict.fromkeys(batch.codes("initialised_from")[1])
    return list(found)


def _labelled(data: Path, name: str, config: ReleaseTransferConfig) -> Labelled:
    chosen = {"intervention": config.intervention, "step": config.step, "share": config.share}
    only = parse_config(Only, {"organism": [name], "tier": config.tier, **chosen}, "transfer")
    return load_labelled(data, DataOptions(view=config.view, only=only))


def _notes(found: dict[str, Labelled]) -> list[str]:
    return [note for one in found.values() for note in one.notes]
