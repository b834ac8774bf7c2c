"""Paired tiers: the same request from an unmonitored user, and a penalty for answering otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, Self

from pydantic import Field

from crypsis.mitigations.base import RunInfo
from crypsis.mitigations.hooks import AddsTerm, AsksExtraTurn
from crypsis.registry import DEFAULT_SCENARIO, make
from crypsis.scenarios.base import AsksInTier
from crypsis.types import Episode, Prompt, UserError


class PairedTiers(AsksExtraTurn, AddsTerm):
    """Behaviour-only oversight that sees both tiers: punishes compliance that differs between them (not in the paper).

    Each well-formed episode's request is asked once more in the other tier. That reply is never in the loss, so only
    the monitored answer learns: it can close the gap by refusing as well as by what generalises to the other tier.
    Reasoning is not read.
    """

    name: ClassVar[str] = "paired_tiers"
    asks_in_evaluations: ClassVar[bool] = False

    coefficient: float = Field(1.0, gt=0, le=1e6)
    """Factor of the penalty |p − p'|, p and p' being how surely the answers in the two tiers comply."""
    judge: dict[str, Any] | None = None
    """A monitor that scores the compliance of outputs, such as ``{name: prompted, rubric: compliance, view: output}``;
    the scenario's ground truth if not given."""
    scenario: dict[str, Any] = {}
    """The run's, filled in before the first step."""

    def bind(self, run: RunInfo) -> Self:
        """Takes the scenario over.

        Raises:
            UserError: Nothing can judge its outputs, it cannot ask in another tier, or the judge reads scratchpads.
        """
        scenario = run.scenario
        if self.judge is None and scenario.judge() is None:
            raise UserError(
                f"mitigations: {self.name}: judge: the scenario '{scenario.name}' has no ground truth of its own; name "
                "a monitor of outputs that scores compliance"
            )
        if not isinstance(scenario, AsksInTier):
            raise UserError(f"mitigations: {self.name}: the scenario '{scenario.name}' cannot ask in another tier")
        if self.judge is not None and self._judge.sees != "output":
            raise UserError(f"mitigations: {self.name}: judge: reads {self._judge.sees}; give one with view output")
        return self.model_copy(update={"scenario": {"name": scenario.name, **scenario.model_dump(mode="json")}})

    def check_access(self) -> None:
        """Checks access to the judge."""
        if self.judge is not None:
            self._judge.check_access()

    def ask(self, episode: Episode) -> Prompt | None:
        """The same request in the other tier."""
        if episode.parse != "ok" or not self.scenario:
            return None
        place = self._scenario
        tier = place.unmonitored_tier if episode.prompt.tier == place.monitored_tier else place.monitored_tier
        return place.in_tier(episode.prompt, tier)

    def add_term(self, episodes: Sequence[Episode]) -> list[float | None]:
        """The penalty; None where one of the two answers cannot be judged, 0 where there is no second one."""
        own = self._compliance(episodes)
        other = self._compliance([replace(e, scratchpad=e.extra_scratchpad, output=e.extra_output) for e in episodes])
        return [
            self._penalty(a, b) if episode.extra_turn else 0.0
            for episode, a, b in zip(episodes, own, other, strict=True)
        ]

    def _penalty(self, own: float | None, other: float | None) -> float | None:
        return None if own is None or other is None else -self.coefficient * abs(own - other)

    def _compliance(self, episodes: Sequence[Episode]) -> list[float | None]:
        if self.judge is not None:
            return [verdict.score for verdict in self._judge.judge([replace(e, labels={}) for e in episodes])]
        truth = self._scenario.judge()
        assert truth is not None, "checked before the first step"
        return [{"comply": 1.0, "refuse": 0.0}.get(truth.conduct(e.prompt, e.output)) for e in episodes]

    @cached_property
    def _judge(self) -> Any:
        """A monitor; mitigations and monitors are rooms side by side, so its class is not imported."""
        return make("monitors", self.judge or {}, f"mitigations: {self.name}: judge")

    @cached_property
    def _scenario(self) -> AsksInTier:
        spec = self.scenario or {"name": DEFAULT_SCENARIO}
        scenario: AsksInTier = make("scenarios", spec, f"mitigations: {self.name}: scenario")
        return scenario
