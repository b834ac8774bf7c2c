"""Builds an organism: an ordinary Hugging Face checkpoint with a card, cached by config and base."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from crypsis.config import Config, digest
from crypsis.models import load_policy, policy_digest, save_policy
from crypsis.organisms.base import Builder, Organism
from crypsis.organisms.card import write_card
from crypsis.registry import make
from crypsis.store import (
    Exists,
    cache_folder,
    child,
    code_digest,
    file_digest,
    locked,
    prepare_folder,
    provenance,
    write_json,
)
from crypsis.supervised import Progress
from crypsis.types import UserError


class OrganismFolder(Config):
    """What an organism folder was made from; the base counts by its weights, not by where they lie."""

    organism: str
    settings: dict[str, object]
    base_digest: str


class NoBuilder:
    """Stands where no builder was given: recipes that need none do not notice."""

    def organism(self, spec: Mapping[str, Any]) -> Path:
        """Refuses.

        Raises:
            UserError: Always.
        """
        raise UserError(f"this recipe needs the organism '{spec.get('name')}' first; build it with a Builder")

    def reinforce(self, policy: Path, settings: Mapping[str, Any], folder: Path) -> Path:
        """Refuses.

        Raises:
            UserError: Always.
        """
        raise UserError("this recipe needs RL; build it with a Builder, as crypsis.study.organism.build does")


def organism_folder(organism: Organism, base: Path) -> Path:
    """Where an organism on a base is cached."""
    classes = [cls for cls in type(organism).__mro__ if issubclass(cls, Organism) and cls is not Organism]
    files = dict.fromkeys(Path(inspect.getfile(cls)) for cls in classes)
    code = file_digest(files) + code_digest("supervised.py", *organism.made_by)
    below = [organism_folder(make("organisms", spec, organism.name), base).name for spec in organism.needs()]
    key = digest([organism.name, organism.model_dump(mode="json"), policy_digest(base), code, *below])
    return child(cache_folder(), "organisms", f"{organism.name}-{key}")


def build_organism(
    organism: Organism,
    base: Path,
    out: Path | None = None,
    exists: Exists = "resume",
    on_step: Callable[[Progress], None] = lambda _: None,
    builder: Builder | None = None,
) -> Path:
    """Trains the organism on the base, or finds it done.

    Args:
        organism: The recipe.
        base: A checkpoint folder or hub id.
        out: Where to put it; the cache by default.
        exists: What to do with a folder that is there.
        on_step: Called after every training step.
        builder: Builds other organisms and runs RL for recipes that need it.

    Returns:
        The checkpoint folder.

    Raises:
        UserError: The base is no model, the folder is in use or was made with another config, or the recipe needs a
            builder and there is none.
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
        organism.prepare(folder / "state", builder or NoBuilder())
        organism.train(policy, folder / "state", on_step)
        save_policy(policy, folder / "model")
        write_card(folder, organism, str(base), made_from.base_digest)
        write_json(folder / "provenance.json", provenance({"base": made_from.base_digest}))
        write_json(folder / "result.json", {"organism": organism.name})
    return folder / "model"
