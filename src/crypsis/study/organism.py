"""``crypsis organism build``: a recipe by name, on the miniature's base or any other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from crypsis.config import apply_overrides
from crypsis.miniature.base import Scale, base_config, build_base
from crypsis.organisms.base import Organism
from crypsis.organisms.build import build_organism
from crypsis.registry import make
from crypsis.store import Exists
from crypsis.study.progress import Display


def build_named(
    name: str,
    settings: Sequence[str],
    base: str | None,
    scale: Scale,
    out: Path | None,
    exists: Exists,
    console: Console,
) -> Path:
    """Builds the organism ``name``; without ``base`` the miniature's base of that scale is built first.

    Raises:
        UserError: Unknown recipe or setting, or a base that is no model.
    """
    display = Display(console)
    organism: Organism = make("organisms", apply_overrides({"name": name}, settings), "organism")
    if base is None:
        with display.supervised("base model") as on_step:
            base = str(build_base(base_config(scale), on_step))
    with display.supervised(f"organism {name}") as on_step:
        return build_organism(organism, Path(base), out, exists, on_step)
