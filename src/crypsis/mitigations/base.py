"""What a mitigation is, and what it may know of its run. The hooks are in ``crypsis.mitigations.hooks``."""

from __future__ import annotations

import traceback
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, ParamSpec, Self, TypeVar

from crypsis.config import Config
from crypsis.run_config import RunConfig
from crypsis.scenarios.base import Scenario
from crypsis.types import Episode, UserError, View

P = ParamSpec("P")
R = TypeVar("R")
OWN_TERMS = ("preference", "length", "format")
"""Names that no mitigation's term may have."""


@dataclass(frozen=True, slots=True)
class RunInfo:
    """The run that mitigations are to work in.

    Attributes:
        scenario: Where prompts come from.
        views: What each of the run's monitors may read, keyed by name.
        thresholds: The score from which a monitor flags, keyed by name.
        config: The run's config, with the settings of RL that its mitigations make.
    """

    scenario: Scenario
    views: Mapping[str, View]
    thresholds: Mapping[str, float]
    config: RunConfig


@dataclass(frozen=True, slots=True)
class Schedule:
    """Where a run is.

    Attributes:
        step: The step that is being taken, from 1; 0 is the pilot.
        steps: Steps of the run.
    """

    step: int
    steps: int

    @property
    def progress(self) -> float:
        """The share of the run that this step completes, in [0, 1]."""
        return self.step / self.steps if self.steps else 1.0


class Mitigation(Config, ABC):
    """Something that RL does against alignment faking (paper §5): its frozen config plus at least one hook.

    Inherit from the hooks that it needs (``crypsis.mitigations.hooks``) instead of from this class.
    """

    name: ClassVar[str]

    @property
    def listens_to(self) -> tuple[str, ...]:
        """Names of the monitors whose verdicts it uses: they are trained against, all others are held out."""
        return ()

    def bind(self, run: RunInfo) -> Self:
        """The mitigation with what it takes over from its run; called before the first step.

        Raises:
            UserError: It cannot work there.
        """
        return self

    def check_access(self) -> None:
        """Refuses to start where a model that it asks cannot be called, as ``Monitor.check_access`` does.

        Raises:
            UserError: There is no key in the environment, or no such provider.
        """
        return None


def call(mitigation: Mitigation, hook: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Calls a hook; whatever it raises is reported with the mitigation's name and the place.

    Raises:
        UserError: The hook raised; ``__cause__`` is what it raised.
    """
    try:
        return hook(*args, **kwargs)
    except UserError:
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"mitigations: {mitigation.name}: {hook.__name__}() raised {type(error).__name__}: {reason} "
            f"({Path(place.filename).name}:{place.lineno})"
        ) from error


def call_each(
    mitigation: Mitigation, hook: Callable[[Sequence[Episode]], list[R]], episodes: Sequence[Episode]
) -> list[R]:
    """Calls a hook that returns one item per episode.

    Raises:
        UserError: The hook raised, or returned something else.
    """
    items = call(mitigation, hook, episodes)
    if not isinstance(items, list) or len(items) != len(episodes):
        size = f"{len(items)} items" if isinstance(items, list) else type(items).__name__
        raise UserError(
            f"mitigations: {mitigation.name}: {hook.__name__}() must return a list of one item per episode; asked for "
            f"{len(episodes)}, got {size}"
        )
    return items


def term_names(mitigations: Sequence[Mitigation]) -> list[str]:
    """A name for each mitigation's term: its own, numbered from the second of a kind on."""
    names = [m.name for m in mitigations]
    return [
        name if names[:i].count(name) == 0 else f"{name}_{names[:i].count(name) + 1}" for i, name in enumerate(names)
    ]
