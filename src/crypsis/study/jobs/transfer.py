"""``crypsis monitor transfer``: organisms of the default scenario, monitors trained on each and tested on all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import Field
from rich.console import Console

from crypsis.config import Config
from crypsis.identity.configs import inputs_of
from crypsis.identity.files import Parts, content_parts
from crypsis.locks import locked
from crypsis.monitors.data import Labelled, labelled_by_oracle
from crypsis.monitors.ensemble import make_trainer
from crypsis.monitors.oracle import OracleMonitor
from crypsis.monitors.transfer import transfer_matrix
from crypsis.organisms.build import organism_folder
from crypsis.registry import make
from crypsis.scenarios.base import default_scenario
from crypsis.store import Exists, finish_folder, prepare_folder, write_json
from crypsis.study.organism import build_named
from crypsis.study.progress import Display
from crypsis.study.transcripts import Sampling
from crypsis.types import Scale, UserError, View

TRANSFER = "transfer.json"
BASE = "base"
"""Name under which the untrained base takes part."""


class TransferConfig(Config):
    """What is trained and tested on what."""

    organisms: list[str] = Field([BASE, "tgg"], min_length=2)
    """Names of recipes, ``base``, or ``NAME=FOLDER`` for a checkpoint."""
    monitor: dict[str, Any] = {"name": "text"}
    view: View = "scratchpad"
    n: int = Field(600, ge=100)
    """Transcripts of each organism, half in each tier."""
    controls: int = Field(300, ge=20)
    """Transcripts of the base told to please everyone: they comply without faking."""
    scale: Scale = "mini"
    seed: int = 23


def measure_transfer(config: TransferConfig, out: Path, exists: Exists, console: Console) -> Path:
    """Samples every organism, labels by the oracle, and writes ``transfer.json``.

    Raises:
        UserError: An unknown organism or kind, or one named twice.
    """
    trainer = make_trainer(config.monitor, "--kind")
    names = [given.partition("=")[0] for given in config.organisms]
    if len(set(names)) < len(names):
        raise UserError("transfer: an organism is named twice")
    inputs = inputs_of(config, __name__, **_organisms(config))
    with locked(out):
        if prepare_folder(out, config, exists, inputs=inputs):
            return out
        data = _transcripts(config, console)
        controls = data.pop("")
        display = Display(console)
        with display.counted("transfer", len(data) ** 2, "pairs") as show:
            cells = transfer_matrix(trainer, data, controls, config.view, config.seed, show)
        shares = {name: float(found.labels.mean()) for name, found in data.items()}
        result = {"cells": [asdict(cell) for cell in cells], "share_faking": shares, "controls": len(controls.labels)}
        write_json(out / TRANSFER, result | {"notes": [n for d in (*data.values(), controls) for n in d.notes]})
        finish_folder(out, {"verb": "transfer"}, inputs)
    return out


def _organisms(config: TransferConfig) -> dict[str, Parts]:
    """What takes part, by name: the content of a folder, or the key by which the cache knows a recipe."""
    base = default_scenario().base_model(config.scale)
    found: dict[str, Parts] = {"base": content_parts(base)}
    for given in config.organisms:
        name, _, path = given.partition("=")
        if path:
            found[f"organism {name}"] = content_parts(path)
        elif name != BASE:
            recipe = make("organisms", {"name": name}, "organisms")
            found[f"organism {name}"] = {"recipe": organism_folder(recipe, base).name}
    return found


def _transcripts(config: TransferConfig, console: Console) -> dict[str, Labelled]:
    """Labelled transcripts by organism; the controls stand under the empty name."""
    base, sampling = default_scenario().base_model(config.scale), Sampling.by_default()
    sources: dict[str, tuple[Path, int, str]] = {"": (base, config.controls, sampling.persona)}
    for given in config.organisms:
        name, _, path = given.partition("=")
        if path:
            folder = Path(path)
        else:
            folder = base if name == BASE else build_named(name, [], None, config.scale, None, "resume", console, 0)
        sources[name] = (folder, config.n, "")
    found = {}
    with Display(console).counted("transcripts", len(sources), "organisms") as show:
        for number, (name, (model, count, persona)) in enumerate(sources.items()):
            episodes = sampling.sample(model, count, config.seed + number, persona)
            OracleMonitor().judge(episodes)
            found[name] = labelled_by_oracle(episodes, name or "the controls")
            show(number + 1)
    return found


def organism_names(given: Sequence[str] | None) -> list[str]:
    """Those of the command line, or the base and every recipe that is installed."""
    from crypsis.registry import names

    return list(given) if given else [BASE, *names("organisms")]
