"""What all mitigations that listen to a monitor have in common: which one, what it sees, how often it looks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field

from crypsis.mitigations.base import Mitigation, RunInfo
from crypsis.types import Episode, UserError, View


class Supervision(Mitigation):
    """A mitigation that listens to one monitor, or to several at once (an ensemble)."""

    monitor: str | tuple[str, ...]
    """Name of one of the run's monitors, or several names; all others are held out."""
    pool: Literal["mean", "max"] = "mean"
    """How several monitors' scores become one."""
    view: View | None = None
    """If given, what every monitor must read: a monitor of another view is refused."""
    coverage: float = Field(1.0, gt=0, le=1)
    """Share of the episodes that anybody looks at; the choice depends on the step's seed and the episode's number."""

    @property
    def listens_to(self) -> tuple[str, ...]:
        """The monitors named."""
        return (self.monitor,) if isinstance(self.monitor, str) else self.monitor

    def bind(self, run: RunInfo) -> Self:
        """Refuses to listen to nothing, and a monitor of another view than the one asked for."""
        if not self.listens_to:
            raise UserError(f"mitigations: {self.name}: monitor: name at least one monitor")
        for name in self.listens_to:
            if self.view is not None and run.views[name] != self.view:
                raise UserError(
                    f"mitigations: {self.name}: monitor '{name}' reads {run.views[name]} and the arm asks for view "
                    f"{self.view}; name another monitor"
                )
        return self

    def covers(self, episode: Episode) -> bool:
        """Whether this episode is one of those that are looked at."""
        if self.coverage == 1:
            return True
        return random.Random(f"coverage:{episode.seed}:{episode.group}:{episode.sample}").random() < self.coverage

    def score(self, episode: Episode) -> float | None:
        """The pooled score, None where no monitor gave one."""
        found = [episode.verdicts[name].score for name in self.listens_to]
        known = [score for score in found if score is not None]
        if not known:
            return None
        return max(known) if self.pool == "max" else sum(known) / len(known)

    def scores(self, episodes: Sequence[Episode]) -> list[float | None]:
        """The pooled score of each episode."""
        return [self.score(episode) for episode in episodes]


def threshold_in(names: Sequence[str], run: RunInfo, where: str) -> float:
    """The threshold of one monitor.

    Raises:
        UserError: There are several, and so no common threshold.
    """
    if len(names) > 1:
        raise UserError(f"mitigations: {where}: several monitors have no common threshold; set 'threshold'")
    return run.thresholds[names[0]]
