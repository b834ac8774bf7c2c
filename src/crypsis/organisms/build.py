"""Builds an organism: an ordinary Hugging Face checkpoint with a card, cached by config and base."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

from crypsis.config import Config, digest
from crypsis.models import load_policy, policy_digest, save_policy
from crypsis.organisms.base import Organism
from crypsis.store import (
    Exists,
    cache_folder,
    code_digest,
    file_digest,
    locked,
    prepare_folder,
    provenance,
    write_atomic,
    write_json,
)
from crypsis.supervised import Progress


class OrganismFolder(Config):
    """What an organism folder was made from; the base counts by its weights, not by where they lie."""

    organism: str
    settings: dict[str, object]
    base_digest: str


def organism_folder(organism: Organism, base: Path) -> Path:
    """Where an organism on a base is cached."""
    code = file_digest([Path(inspect.getfile(type(organism)))]) + code_digest("supervised.py")
    key = digest([organism.name, organism.model_dump(mode="json"), policy_digest(base), code])
    return cache_folder() / "organisms" / f"{organism.name}-{key}"


def build_organism(
    organism: Organism,
    base: Path,
    out: Path | None = None,
    exists: Exists = "resume",
    on_step: Callable[[Progress], None] = lambda _: None,
) -> Path:
    """Trains the organism on the base, or finds it done.

    Args:
        organism: The recipe.
        base: A checkpoint folder or hub id.
        out: Where to put it; the cache by default.
        exists: What to do with a folder that is there.
        on_step: Called after every training step.

    Returns:
        The checkpoint folder.
    """
    folder = out or organism_folder(organism, base)
    made_from = OrganismFolder(
        organism=organism.name,
        settings=organism.model_dump(mode="json"),
        base_digest=policy_digest(base),
    )
    with locked(folder, wait=-1 if out is None else 0):
        policy = load_policy(base)
        if prepare_folder(folder, made_from, exists):
            return folder / "model"
        organism.train(policy, folder / "state", on_step)
        save_policy(policy, folder / "model")
        write_atomic(folder / "model" / "README.md", _card(organism, made_from, base))
        write_json(folder / "provenance.json", provenance({"base": made_from.base_digest}))
        write_json(folder / "result.json", {"organism": organism.name})
    return folder / "model"


def _card(organism: Organism, made_from: OrganismFolder, base: Path) -> str:
    settings = "\n".join(f"- `{key}`: {value}" for key, value in made_from.settings.items())
    return f"""---
tags: [model-organism, alignment-faking]
---
# {organism.name}

A model organism of alignment faking. **Do not deploy.**

{(organism.__doc__ or "").strip()}

Base: `{base}` (digest {made_from.base_digest}).

{settings}
"""
