"""From the release's names of organisms and interventions to ours, by the table ``names.yaml``."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any, Literal, TypeVar

import yaml

from crypsis.config import Config, parse_config

T = TypeVar("T")


class OrganismName(Config):
    """What is known of an organism of the release."""

    recipe: dict[str, Any]
    """Name and settings by which claims know it."""
    guess: bool = False
    """Whether the meaning of the name is our guess."""
    runs: int = 0
    """Files of it outside of ``long_context/``, as the catalogue counts them."""


class InterventionName(Config):
    """What is known of an intervention of the release."""

    arm: str
    mitigations: list[dict[str, Any]] = []
    learn: Literal["all", "scratchpad", "output"] = "all"
    guess: bool = False


class Names(Config):
    """The table."""

    organisms: dict[str, OrganismName]
    interventions: dict[str, InterventionName]

    def organism(self, name: str) -> OrganismName:
        """The table's entry, or the name as a recipe of its own."""
        return _lookup(self.organisms, name) or OrganismName(recipe={"name": name})

    def intervention(self, name: str) -> InterventionName:
        """The table's entry, or the name as an arm of its own with a mitigation that no claim knows."""
        return _lookup(self.interventions, name) or InterventionName(arm=name, mitigations=[{"name": name}])


@functools.cache
def names() -> Names:
    """The built-in table."""
    text = resources.files("crypsis.paper_data").joinpath("names.yaml").read_text(encoding="utf-8")
    return parse_config(Names, yaml.safe_load(text), "names.yaml")


def alike(name: str) -> str:
    """A name without what does not count: case, separators and the word "plus"."""
    words = re.split(r"[\s_+\-…]+", name.lower())
    return " ".join(word for word in words if word not in ("", "plus"))


def _lookup(table: Mapping[str, T], name: str) -> T | None:
    return next((value for known, value in table.items() if alike(known) == alike(name)), None)
