"""Builds an organism: an ordinary Hugging Face checkpoint with a card, cached by recipe, base, data and code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from crypsis.config import Config, digest
from crypsis.differences import Inputs
from crypsis.identity.configs import identity, inputs_of
from crypsis.identity.files import content_parts
from crypsis.locks import locked
from crypsis.models import load_policy, save_policy
from crypsis.organisms.base import Builder, Organism
from crypsis.organisms.card import write_card
from crypsis.pretrained.adapters import has_adapter, merged
from crypsis.registry import make
from crypsis.store import Exists, cache_folder, child, finish_folder, is_finished, prepare_folder
from crypsis.supervised import Progress
from crypsis.types import UserError

BUILDER = "crypsis.study.organism"
"""Module of the builder that recipes get: it stands above this room and is found by name. Its code, and with it all of
RL's, counts for recipes that run RL; of organisms below a recipe their own identity counts."""


class OrganismFolder(Config):
    """What an organism folder was made from, besides the base and the files that the settings name."""

    organism: str
    settings: dict[str, object]


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
    key = identity(_made_from(organism), organism_inputs(organism, base))
    return child(cache_folder(), "organisms", f"{organism.name}-{key}")


def organism_inputs(organism: Organism, base: Path) -> Inputs:
    """What an organism is made from besides its settings: base, files, the organisms below, code.

    Raises:
        UserError: A file cannot be read.
    """
    code = [type(organism).__module__, __name__]
    if organism.reinforces and type(organism).prepare is not Organism.prepare:
        code.append(BUILDER)
    found = {p if p == "code" else f"settings.{p}": parts for p, parts in inputs_of(organism, *code).items()}
    below = [organism_folder(make("organisms", spec, organism.name), base).name for spec in organism.needs()]
    return {**found, "base": content_parts(base), **({"needs": dict.fromkeys(below, "")} if below else {})}


def _made_from(organism: Organism) -> OrganismFolder:
    return OrganismFolder(organism=organism.name, settings=organism.model_dump(mode="json"))


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
    if content_parts(base).get("revision") == "":
        load_policy(base)  # once it is in the local cache of the hub, its revision is known
    made_from, inputs = _made_from(organism), organism_inputs(organism, base)
    folder = out or organism_folder(organism, base)
    if exists == "resume" and is_finished(folder, made_from, inputs):
        return folder / "model"
    with locked(folder, wait=-1 if out is None else 0):
        policy = load_policy(base)
        if has_adapter(policy.model):  # an adapter is frozen when it is loaded
            policy = replace(policy, model=merged(policy.model).requires_grad_(True))
        if prepare_folder(folder, made_from, exists, inputs=inputs):
            return folder / "model"
        organism.prepare(folder / "state", builder or NoBuilder())
        organism.train(policy, folder / "state", on_step)
        save_policy(policy, folder / "model")
        write_card(folder, organism, str(base), digest(dict(inputs["base"])))
        finish_folder(folder, {"organism": organism.name}, inputs)
    return folder / "model"
