"""``crypsis organism build``: a recipe by name, on the default scenario's base or another, measured when it is done."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from crypsis.config import apply_overrides, parse_config
from crypsis.episodes import read_episodes
from crypsis.identity.files import content_digest
from crypsis.locks import locked
from crypsis.models import Policy
from crypsis.organisms.base import Organism
from crypsis.organisms.build import build_organism
from crypsis.organisms.card import is_measured, write_card
from crypsis.parallel import release_memory
from crypsis.registry import make
from crypsis.rl import loop
from crypsis.rl.engine.engine import Engine
from crypsis.rl.resume import REPAIRED
from crypsis.run_config import RunConfig
from crypsis.scenarios.base import default_scenario
from crypsis.store import Exists, prepare_folder
from crypsis.study.context import load_context, with_kept_dtype
from crypsis.study.measure import behaviour, measure_organism
from crypsis.study.progress import Display
from crypsis.study.run import finish
from crypsis.supervised import Progress
from crypsis.types import Scale, UserError

INTERVALS = "95 % intervals, labels by the oracle"
OnStep = Callable[[Progress], None]


class StudyBuilder:
    """Builds other organisms on the same base and runs RL, for the recipes that need it."""

    def __init__(self, base: Path, on_step: OnStep = lambda _: None) -> None:
        self._base, self._on_step = base, on_step

    def organism(self, spec: Mapping[str, Any]) -> Path:
        """Another organism on the same base, built or found in the cache.

        Raises:
            UserError: Unknown recipe or setting.
        """
        return build(make("organisms", spec, "organism"), self._base, on_step=self._on_step)

    def reinforce(self, policy: Path, settings: Mapping[str, Any], folder: Path) -> Path:
        """An RL run without evaluations; resumed if it was killed, left alone if it is done.

        Raises:
            UserError: The settings name an unknown plug-in.
        """
        config = parse_config(RunConfig, {"name": folder.name, **settings, "policy": policy}, "reinforce")
        with locked(folder):
            config = with_kept_dtype(config, folder, "resume", lambda _: None)
            context = load_context(config)
            if not prepare_folder(folder, config, "resume", inputs=context.digests, repairs=REPAIRED):
                on_step = partial(self._show, config.rl.steps)
                loop.train(context.policy, context.config, context, folder, _no_evaluation, on_step)
                finish(context, folder)
        return folder

    def _show(self, steps: int, row: Mapping[str, Any]) -> None:
        self._on_step(Progress(int(row["step"]), steps, float(row["loss"]), 0.0))


def _no_evaluation(policy: Policy, step: int, engine: Engine) -> None:
    """The organism is measured when it is done, not on the way."""


def build(
    organism: Organism,
    base: Path,
    out: Path | None = None,
    exists: Exists = "resume",
    on_step: OnStep = lambda _: None,
) -> Path:
    """Builds any organism, those that need RL included; arguments as for ``build_organism``."""
    return build_organism(organism, base, out, exists, on_step, StudyBuilder(base, on_step))


def build_named(
    name: str,
    settings: Sequence[str],
    base: str | None,
    scale: Scale,
    out: Path | None,
    exists: Exists,
    console: Console,
    n: int,
) -> Path:
    """Builds an organism and measures it for its card; without ``base`` on the default scenario's of that scale.

    Args:
        name: Name of the recipe.
        settings: ``key=value``.
        base: A checkpoint folder or hub id.
        scale: Scale of the default scenario's base.
        out: Folder; the cache by default.
        exists: What to do with a folder that is there.
        console: For progress.
        n: Held-out requests in each tier that the card's table is measured on; 0 leaves it out.

    Raises:
        UserError: Unknown recipe or setting, or a base that is no model.
    """
    display = Display(console)
    organism: Organism = make("organisms", apply_overrides({"name": name}, settings), "organism")
    given = base
    if base is None:
        with display.supervised("base model") as on_step:
            base = str(default_scenario().base_model(scale, on_step))
    with display.supervised(f"organism {name}") as on_step:
        model = build(organism, Path(base), out, exists, on_step)
    if n and given is None:
        release_memory()
        found = measure_organism(model, model.parent / "measured", n=n)
        how = f"Measured after construction on {n} held-out requests per tier; {INTERVALS}."
        write_card(model.parent, organism, base, content_digest(base), behaviour(found), how)
    return model


def measured_card(organism: Organism, base: str, model: Path, evaluation: Path, study: str) -> None:
    """Puts figures into the card of an organism that a study has built, unless it has some.

    Args:
        organism: The recipe.
        base: Where its base was loaded from.
        model: Its checkpoint folder.
        evaluation: An evaluation of it before RL.
        study: Name of the study that evaluated it.
    """
    rows = read_episodes(evaluation) if evaluation.exists() and not is_measured(model.parent) else []
    table = behaviour(rows) if rows else []
    if any(row.here is not None for row in table):
        how = f"Measured before RL by the study '{study}' on {len(rows) // 2} held-out requests per tier; {INTERVALS}."
        with contextlib.suppress(UserError):  # the cache may be read-only
            write_card(model.parent, organism, base, content_digest(base), table, how)
